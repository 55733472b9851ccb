"""What pip installs: the wheel, built and installed here with the core dependencies and no others.

No network is used. The wheel is built by the setuptools of this environment from a copy of the
sources (in place, setuptools would pack what an earlier build left behind), and the core
dependencies are those of this environment, linked into the new one by name.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from repository import FACE, ROOT, pyproject, rooms, run

# Imported by nothing that the core installs.
EXTRAS_ONLY = ("z3", "cvc5", "graphviz", "pygraphviz", "networkx", "hypothesis", "zstandard")


def packages() -> dict[str, Path]:
    """The rooms and what is above them."""
    return {"vfio_migration": FACE, **rooms()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for folder in rooms().values():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(folder, sources / folder.name, ignore=ignored)
    shutil.copytree(FACE, sources / FACE.relative_to(ROOT), ignore=ignored)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    result = run(sys.executable, "-c", build, built, cwd=sources)
    assert result.returncode == 0, result.stdout
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment in which the wheel is installed, without extras."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    made = run(sys.executable, "-m", "venv", "--without-pip", place)
    assert made.returncode == 0, made.stdout
    python = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "-qq", "--python", python)
    added = run(*pip, "install", "--no-deps", "--no-index", wheel)
    assert added.returncode == 0, added.stdout
    where = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout
    for dependency in core_dependencies(wheel):
        link(dependency, Path(where.strip()))
    return python.parent


def core_dependencies(wheel: Path) -> list[Distribution]:
    """Return what the wheel requires without any extra, and what that requires, and so on."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        wanted = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    found: dict[str, Distribution] = {}
    while wanted:
        requirement = Requirement(wanted.pop())
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            wanted += found[requirement.name].requires or []
    return list(found.values())


def link(dependency: Distribution, site_packages: Path) -> None:
    """Link the files of an installed distribution into another environment."""
    # What lies outside site-packages (scripts) begins with "..".
    tops = {file.parts[0] for file in dependency.files or () if file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        (site_packages / top).symlink_to(str(dependency.locate_file(top)))


def test_it_holds_every_file_of_every_room(contents: set[str]) -> None:
    expected = {
        f"{name.replace('.', '/')}/{path.relative_to(folder)}"
        for name, folder in packages().items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    assert expected - contents == set(), (
        "list a new folder in [tool.setuptools] packages, a new kind of file in package-data"
    )
    assert "vfio_migration/model/vfio_v2.toml" in contents
    assert {f"{name.replace('.', '/')}/py.typed" for name in packages()} <= contents


def test_it_puts_one_name_into_site_packages(contents: set[str]) -> None:
    tops = {name.partition("/")[0] for name in contents}
    version = pyproject()["project"]["version"]
    assert tops == {"vfio_migration", f"vfio_migration-{version}.dist-info"}


def test_it_has_the_licence_and_the_command(wheel: Path, contents: set[str]) -> None:
    assert any(re.search(r"dist-info/licenses/LICENSE$", name) for name in contents)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in contents if n.endswith("entry_points.txt"))
        text = archive.read(name).decode()
    assert "vfio-migration = vfio_migration.cli.__main__:main" in text


def test_the_core_works_without_extras(installed: Path) -> None:
    check = f"""
import importlib.util, sys
present = [name for name in {EXTRAS_ONLY} if importlib.util.find_spec(name)]
assert not present, present
import vfio_migration, vfio_migration.model, vfio_migration.runtime
from vfio_migration.model import load
from vfio_migration.runtime import Engine, NullDevice
spec = load()
engine = Engine(spec, spec.machine().capabilities, NullDevice())
target = next(route.to for route in engine.options() if route.arcs)
assert engine.set_state(target).state == target
print(vfio_migration.model.__file__)
"""
    result = run(installed / "python", "-c", check, cwd=installed)
    assert result.returncode == 0, result.stdout
    assert str(installed.parent) in result.stdout


def test_importing_the_runtime_needs_no_dependency_at_all(installed: Path) -> None:
    check = """
import sys
before = set(sys.modules)
import vfio_migration.runtime
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - sys.stdlib_module_names - {"vfio_migration"}))
"""
    assert run(installed / "python", "-c", check, cwd=installed).stdout.strip() == "[]"


def test_the_command_works_without_extras(installed: Path) -> None:
    command = installed / "vfio-migration"
    version = pyproject()["project"]["version"]
    assert run(command, "--version", cwd=installed).stdout == f"vfio-migration {version}\n"
    assert run(command, "--help", cwd=installed).returncode == 0
    route = run(command, "route", "RUNNING", "STOP", cwd=installed)
    assert (route.returncode, route.stdout.splitlines()[0][:15]) == (0, "RUNNING -> RUNN")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [(("verify",), "verify"), (("diagram", "-o", "x.svg"), "diagrams")],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_command_names_the_extra_it_lacks(
    arguments: tuple[str, ...], extra: str, installed: Path
) -> None:
    result = run(installed / "vfio-migration", *arguments, cwd=installed)
    assert result.returncode == 2
    assert f"{installed}/python -m pip install 'vfio-migration[{extra}] @ file://" in result.stdout
    assert "Traceback" not in result.stdout


def test_starting_the_command_imports_no_extra() -> None:
    check = """
import sys
import vfio_migration.cli.main as main
main.parser()
print(sorted(set(sys.modules) & set(sys.argv[1:])))
"""
    shown = run(sys.executable, "-c", check, *EXTRAS_ONLY).stdout
    assert shown.strip() == "[]"


def test_the_packages_are_listed_once_each() -> None:
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(rooms()) <= set(listed)
    folders = {
        ".".join((name, *path.parent.relative_to(folder).parts))
        for name, folder in packages().items()
        for path in folder.rglob("*.py")
    }
    assert set(listed) == folders
