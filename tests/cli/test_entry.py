"""How the command begins, before it knows what it is asked."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

_BEGIN = """
import builtins, sys
import vfio_migration.cli.__main__ as entry
late = sorted(name for name in sys.modules if name in ("argparse", "json", "pydantic", "re"))
plain = builtins.__import__
def interrupted(name, *rest, **named):
    if name == {name!r}:
        raise KeyboardInterrupt
    return plain(name, *rest, **named)
builtins.__import__ = interrupted
sys.argv = ["vfio-migration", "route", "RUNNING", "STOP"]
print(late)
sys.exit(entry.main())
"""


def test_the_command_begins_there():
    (command,) = entry_points(group="console_scripts", name="vfio-migration")
    assert command.value == "vfio_migration.cli.__main__:main"


@pytest.mark.parametrize("name", ["argparse", "vfio_migration.cli.main", "tomllib"])
def test_ctrl_c_while_python_still_imports_ends_quietly(name: str):
    """And nothing slow is imported before that can be."""
    done = subprocess.run(
        [sys.executable, "-c", _BEGIN.format(name=name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "[]\n")
    assert done.stderr == "vfio-migration: interrupted\n"


def test_it_can_be_run_as_a_module():
    command = [sys.executable, "-m", "vfio_migration.cli", "route", "RUNNING", "STOP", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"to": "STOP"' in done.stdout
