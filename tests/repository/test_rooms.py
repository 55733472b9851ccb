"""The rooms: what import-linter holds is able to fail, and what it cannot state is held here."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import FACE, ROOT, clean_environment, pyproject, rooms

from support.samples import sampled

# Per contract: an import that must break this contract, and all it breaks. It is planted in a file,
# or in the __init__ of a folder.
PLANTED = {
    "rooms": ("verifier", "import vfio_migration.cli", {"rooms"}),
    "diagrams-model-only": (
        "diagrams",
        "def later() -> None:\n    from vfio_migration.runtime import Engine",
        {"diagrams-model-only"},
    ),
    "model-core": ("model", "import networkx", {"model-core", "runtime-core"}),
    "runtime-core": ("runtime", "import hypothesis", {"runtime-core"}),
    "runtime-no-pydantic": ("runtime", "from pydantic import BaseModel", {"runtime-no-pydantic"}),
    "solvers-in-verifier": ("cli", "def later() -> None:\n    import z3", {"solvers-in-verifier"}),
    "graphviz-in-diagrams": ("verifier", "import pygraphviz", {"graphviz-in-diagrams"}),
    "cli-no-networkx": ("cli", "import networkx", {"cli-no-networkx"}),
    "runtime-wings": (
        "runtime/server",
        "import vfio_migration.runtime.client",
        {"runtime-wings"},
    ),
    "cli-commands": (
        "cli/commands/save.py",
        "def later() -> None:\n    from vfio_migration.cli.commands import migrate",
        {"cli-commands"},
    ),
    "diagrams-wings": (
        "diagrams/drawing",
        "import vfio_migration.diagrams.machine.graph",
        {"diagrams-wings"},
    ),
    "verifier-wings": (
        "verifier/solver",
        "import vfio_migration.verifier.systems.plan",
        {"verifier-wings"},
    ),
}

# The packages from outside that each room may import; everything else is the standard library.
OUTSIDE = {
    "model": {"pydantic", "pydantic_core", "networkx"},
    "runtime": set[str](),
    "verifier": {"z3", "cvc5"},
    "diagrams": {"graphviz", "pygraphviz"},
    "generators": set[str](),
    "cli": {"shtab"},
}
# Files that may import one more: each only when it is used, and never from another file.
OUTSIDE_FILES = {
    "runtime/files/compression.py": {"zstandard"},
    "runtime/files/checksum.py": {"zlib_ng"},
    "model/sources/c_source.py": {"tree_sitter", "tree_sitter_c"},
    "model/sources/vfio_user.py": {"docutils"},
    "diagrams/sphinx_directive.py": {"docutils", "sphinx"},
}

# Asks import-linter about each contract by itself: once as things are, and once with each planted
# import. In one interpreter of its own, since what is linted must be the copy and not what is
# installed.
LINT = """
import json, pathlib, sys
from importlinter.cli import lint_imports
room_folders, config, contracts, planted = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
def broken():
    lint = lambda ids: lint_imports(config, tuple(ids), no_cache=True, no_logo=True)
    return [contract for contract in contracts if lint([contract])] if lint(contracts) else []
answers = {"": broken()}
for contract, (room, statement) in planted.items():
    module = pathlib.Path(room_folders, room)
    module = module if module.is_file() else module / "__init__.py"
    text = module.read_text("utf-8")
    module.write_text(f"{text}\\n{statement}\\n", "utf-8")
    answers[contract] = broken()
    module.write_text(text, "utf-8")
print(json.dumps(answers))
"""


def contracts() -> list[str]:
    return [contract["id"] for contract in pyproject()["tool"]["importlinter"]["contracts"]]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Per planted import the contracts it breaks; under "" those broken without one."""
    place = tmp_path_factory.mktemp("rooms")
    for name, folder in rooms().items():
        copy = place / name.replace(".", "/")
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(FACE / "__init__.py", place / "vfio_migration")
    planted = {contract: (room, text) for contract, (room, text, _) in PLANTED.items()}
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            LINT,
            str(place / "vfio_migration"),
            str(ROOT / "pyproject.toml"),
            json.dumps(contracts()),
            json.dumps(planted),
        ],
        cwd=place,
        env=clean_environment() | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    answers: dict[str, list[str]] = json.loads(result.stdout.splitlines()[-1])
    return answers


def test_every_contract_has_an_import_that_breaks_it() -> None:
    assert sorted(PLANTED) == sorted(contracts())
    assert all(contract in breaks for contract, (_, _, breaks) in PLANTED.items())


# That all are kept is what `make rooms` shows, which `make test` runs too.
@pytest.mark.exhaustive
def test_the_rooms_keep_their_contracts(broken: dict[str, list[str]]) -> None:
    assert broken[""] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("contract", PLANTED)
def test_a_contract_can_fail(contract: str, broken: dict[str, list[str]]) -> None:
    assert set(broken[contract]) == PLANTED[contract][2]


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level name of every package a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: rooms use absolute imports"
            yield str(node.module).partition(".")[0]


@sampled(3)
@pytest.mark.parametrize("room", OUTSIDE)
def test_a_room_imports_no_other_package(room: str) -> None:
    allowed = OUTSIDE[room] | sys.stdlib_module_names | {"vfio_migration"}
    strangers = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in imports(path)
        if name not in allowed | OUTSIDE_FILES.get(str(path.relative_to(ROOT)), set())
    }
    assert strangers == set()


def test_the_list_of_rooms_is_complete() -> None:
    assert set(OUTSIDE) == {folder.name for folder in rooms().values()}
    assert pyproject()["tool"]["importlinter"]["root_packages"] == ["vfio_migration"]
    assert pyproject()["tool"]["mypy"]["packages"] == ["vfio_migration"]
