"""Who embeds the engine gets the engine and nothing else."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import vfio_migration.runtime as runtime

HEAVY = {"z3", "cvc5", "graphviz", "pygraphviz", "networkx", "pydantic", "hypothesis", "shtab"}


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_it_pulls_in_nothing_heavy() -> None:
    loaded = modules_after("import vfio_migration.runtime")
    assert "vfio_migration.runtime.engine.engine" in loaded
    assert loaded & HEAVY == set()
    rooms = {name.split(".")[1] for name in loaded if name.startswith("vfio_migration.")}
    assert rooms == {"model", "runtime"}


def test_this_test_can_fail() -> None:
    assert "networkx" in modules_after("import networkx, vfio_migration.runtime")


def test_all_is_what_there_is() -> None:
    assert runtime.__all__ == sorted(runtime.__all__)
    assert len(set(runtime.__all__)) == len(runtime.__all__)
    public = {
        name
        for name, value in vars(runtime).items()
        if not name.startswith("_") and not hasattr(value, "__path__") and not is_module(value)
    }
    assert public == set(runtime.__all__)


def is_module(value: object) -> bool:
    return isinstance(value, type(sys))


@pytest.mark.parametrize("name", runtime.__all__)
def test_all_of_it_is_documented(name: str) -> None:
    value = getattr(runtime, name)
    if isinstance(value, type):
        assert value.__doc__


def test_the_example_in_its_docstring_is_true() -> None:
    assert doctest.testmod(runtime).attempted == 4
    assert doctest.testmod(runtime).failed == 0
