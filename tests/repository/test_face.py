"""What `import vfio_migration` gives: the first names, lazily, typed, and nothing heavy."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT, pyproject

import vfio_migration
from support.samples import sampled

FACE = ROOT / "src" / "vfio_migration" / "__init__.py"


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ended.stdout.split())


def _names(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def test_importing_it_loads_nothing_else() -> None:
    loaded = {name for name in modules_after("import vfio_migration") if "vfio" in name}
    assert {name for name in loaded if not name.startswith("__editable__")} == {"vfio_migration"}


@sampled(3)
@pytest.mark.parametrize("heavy", ["z3", "graphviz", "pygraphviz", "networkx"])
def test_the_first_names_need_no_extra(heavy: str) -> None:
    assert heavy not in modules_after("from vfio_migration import *")


def test_the_engine_needs_no_pydantic_until_a_table_is_read() -> None:
    assert "pydantic" not in modules_after("from vfio_migration import Engine, load")
    assert "pydantic" in modules_after("from vfio_migration import load; load()")


def test_the_version_is_that_of_the_package() -> None:
    assert vfio_migration.__version__ == pyproject()["project"]["version"]


def test_every_name_is_there_and_listed_by_dir() -> None:
    assert vfio_migration.__all__ == sorted(vfio_migration.__all__)
    assert set(vfio_migration.__all__) <= set(dir(vfio_migration))
    for name in vfio_migration.__all__:
        assert getattr(vfio_migration, name) is not None


def test_a_type_checker_sees_the_names_that_are_there() -> None:
    tree = ast.parse(FACE.read_text("utf-8"))
    (typed,) = (node for node in tree.body if isinstance(node, ast.If) and _names(node.test))
    imported = {
        (alias.name, str(node.module))
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    places = vfio_migration._PLACES
    assert imported == {
        (name, f"vfio_migration.{place}") for place, names in places.items() for name in names
    }
    assert {name for name, _ in imported} | {"__version__"} == set(vfio_migration.__all__)


@pytest.mark.exhaustive
def test_a_type_checker_names_a_misspelt_name(tmp_path: Path) -> None:
    program = tmp_path / "misspelt.py"
    program.write_text("import vfio_migration\nvfio_migration.Engin\nvfio_migration.Engine\n")
    words = [sys.executable, "-m", "mypy", "--config-file=", "--no-incremental", str(program)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.stdout.count('Module has no attribute "Engin"') == 1, ended.stdout
    assert "Found 1 error" in ended.stdout


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Engin'") as caught:
        _ = vfio_migration.Engin
    assert caught.value.name == "Engin"


def test_the_docstring_names_each_package_of_the_runtime_and_each_room() -> None:
    packages = pyproject()["tool"]["setuptools"]["packages"]
    wanted = [name for name in packages if name.count(".") == 1 or ".runtime." in name]
    insides = ("protocol", "transport", "files", "devices", "vfio_migration.runtime")
    for name in wanted:
        if name.rpartition(".")[2] in insides or name.endswith((".messages", *insides)):
            continue
        assert f"`{name}`" in str(vfio_migration.__doc__)


def test_the_example_of_its_docstring_is_true() -> None:
    result = doctest.testmod(vfio_migration)
    assert result.attempted == 4
    assert result.failed == 0


def test_the_package_runs_as_the_command() -> None:
    words = [sys.executable, "-m", "vfio_migration", "--version"]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert ended.stdout == f"vfio-migration {vfio_migration.__version__}\n"
