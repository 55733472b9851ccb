"""How the environment is made: which Python is taken, and what is done again when.

Makefile and find-python run for real, in a copy of the repository; the Pythons are stand-ins that
write down what they are asked to do.
"""

from __future__ import annotations

import re
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT, clean_environment, run

# Gives of itself what it is asked to be, makes an "environment" by copying itself, and writes
# down what it is asked to install. Everything else goes to the Python that runs the tests.
STAND_IN = """#!/bin/sh
version={version}
case "$*" in
    '- 3.11') case $version in
        3.[0-9] | 3.10) exit 4 ;;
        *) [ {venv} = yes ] || exit 5; echo "$0" ;;
        esac ;;
    *'"%d.%d"'*) echo $version ;;
    '-m venv --clear '*)
        echo "venv $version" >>log; rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
    *base_prefix*) echo $version ;;
    *'-m pip '*--requirement*) echo pins >>log ;;
    *'-m pip '*--editable*) echo editable >>log ;;
    *) exec {real} "$@" ;;
esac
"""


def stand_in(path: Path, version: str, venv: str = "yes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAND_IN.format(version=version, venv=venv, real=sys.executable), "utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Return a folder to be the whole PATH, with what a bare machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "make", "cat", "cp", "rm", "mv", "mkdir", "touch", "find", "sort", "cmp"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


@pytest.fixture
def environment(tools: Path, tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in clean_environment().items() if key != "PYTHON"}
    return kept | {"PATH": str(tools), "HOME": str(tmp_path), "PYENV_ROOT": str(tmp_path / "pyenv")}


def find_python(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    result = run(ROOT / "requirements" / "find-python", *arguments, env=environment)
    return result.returncode, result.stdout.strip()


def test_python3_is_taken_if_it_was_tested(tools: Path, environment: dict[str, str]) -> None:
    stand_in(tools / "python3.13", "3.13")
    chosen = stand_in(tools / "python3", "3.12")
    assert find_python(environment) == (0, str(chosen))


@pytest.mark.parametrize("version", ["3.10", "3.99"])
def test_a_tested_python_is_preferred(
    version: str, tools: Path, environment: dict[str, str]
) -> None:
    stand_in(tools / "python3", version)
    chosen = stand_in(tools / "python3.11", "3.11")
    assert find_python(environment) == (0, str(chosen))


def test_a_newer_python_will_do(tools: Path, environment: dict[str, str]) -> None:
    chosen = stand_in(tools / "python3", "3.99")
    assert find_python(environment) == (0, str(chosen))


def test_a_python_that_pyenv_hides_is_found(tmp_path: Path, environment: dict[str, str]) -> None:
    chosen = stand_in(tmp_path / "pyenv" / "versions" / "3.12.9" / "bin" / "python3", "3.12")
    assert find_python(environment) == (0, str(chosen))
    assert find_python(environment, "3.12") == (0, str(chosen))
    assert find_python(environment, "3.11")[0] == 1


def test_one_without_ensurepip_is_passed_over(tools: Path, environment: dict[str, str]) -> None:
    stand_in(tools / "python3", "3.12", venv="no")
    assert find_python(environment) == (
        1,
        "python3 is Python 3.12, but it cannot make virtual environments: ensurepip is missing.\n"
        "On Debian and Ubuntu it comes with the package python3.12-venv.",
    )
    chosen = stand_in(tools / "python3.11", "3.11")
    assert find_python(environment) == (0, str(chosen))


def test_without_any_python_it_states_what_is_needed(
    tools: Path, environment: dict[str, str]
) -> None:
    advice = "\nInstall one, or name it: make PYTHON=/path/to/python3.11 ..."
    nothing = "No Python 3.11 or newer found; python3 here: "
    assert find_python(environment) == (1, f"{nothing}none.{advice}")
    stand_in(tools / "python3", "3.9")
    assert find_python(environment) == (1, f"{nothing}3.9.{advice}")


def test_a_named_python_that_does_not_suit_is_refused(
    tools: Path, environment: dict[str, str]
) -> None:
    old = stand_in(tools / "old", "3.9")
    assert find_python(environment, str(old)) == (
        1,
        f"{old} is Python 3.9; this project needs 3.11 or newer.",
    )
    assert find_python(environment, "nonsense") == (
        1,
        "nonsense is no Python interpreter that runs.",
    )


class Copy:
    """A copy of what `make setup` reads, in a folder whose name has a space."""

    def __init__(self, place: Path, environment: dict[str, str]) -> None:
        self.place, self.environment = place, environment
        shutil.copytree(ROOT / "requirements", place / "requirements")
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, place)
        for room in ("src", "model", "runtime", "verifier", "diagrams", "generators", "cli"):
            (place / room).mkdir()

    def setup(self, *arguments: str) -> str:
        """Run `make setup` and return what was done, in order, in one line."""
        result = run("make", "setup", *arguments, cwd=self.place, env=self.environment)
        assert result.returncode == 0, result.stdout
        log = self.place / "log"
        done = " ".join(log.read_text("utf-8").split()) if log.exists() else ""
        log.unlink(missing_ok=True)
        if not done:
            assert result.stdout in ("", "make: Nothing to be done for 'setup'.\n")
        return done

    def change(self, name: str) -> None:
        """Make a file newer than everything that was done so far."""
        time.sleep(0.02)
        (self.place / name).parent.mkdir(exist_ok=True)
        (self.place / name).touch()


def test_only_what_has_changed_is_done_again(
    tools: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    stand_in(tools / "python3", "3.12")
    other = stand_in(tools / "other", "3.13")
    copy = Copy(tmp_path / "a clone", environment)
    assert copy.setup() == "venv 3.12 pins editable"
    assert copy.setup() == ""
    copy.change("model/new.py")
    assert copy.setup() == "editable"
    (copy.place / "model" / "new.py").unlink()
    assert copy.setup() == "editable"
    copy.change("model/__pycache__/new.pyc")
    assert copy.setup() == ""
    copy.change("pyproject.toml")
    assert copy.setup() == "editable"
    copy.change("requirements/dev.txt")
    assert copy.setup() == "pins editable"
    assert copy.setup(f"PYTHON={other}") == "venv 3.13 pins editable"
    assert copy.setup(f"PYTHON={other}") == ""
    assert copy.setup() == ""
    copy.place = copy.place.rename(tmp_path / "moved")
    assert copy.setup() == "venv 3.12 pins editable"
    (copy.place / ".venv" / "bin" / "python").unlink()
    assert copy.setup() == "venv 3.12 pins editable"
    assert copy.setup() == ""


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    phony = set(re.findall(r"^\.PHONY: ([a-z]+)$", makefile, re.MULTILINE))
    listed = re.findall(r"^  make (\w+) +\S", run("make", "--no-print-directory").stdout, re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == phony
