"""The targets of `make fuzz` on inputs made without a guide, and on those that are kept."""

from __future__ import annotations

import inspect
import logging
import random
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, FakePort, seeds

from support.samples import sampled
from vfio_migration.runtime.server.session import Port

KEPT = Path(__file__).parents[1] / "data" / "fuzz"


@pytest.fixture(autouse=True, scope="module")
def loud():
    """The targets keep the log quiet, for speed; the tests after these read it."""
    root, ours = logging.getLogger(), logging.getLogger("vfio_migration")
    handlers, level = root.handlers[:], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


@sampled(3)
@pytest.mark.parametrize("target", TARGETS)
def test_any_input(target: str) -> None:
    chance = random.Random(f"1 {target}")
    for seed in seeds():
        TARGETS[target](seed)
    for _ in range(1500):
        TARGETS[target](chance.randbytes(chance.randrange(400)))


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_that_are_kept(target: str) -> None:
    """Those that led somewhere new, and those that failed once."""
    kept = sorted((KEPT / target).glob("*"))
    assert kept
    for path in kept:
        TARGETS[target](path.read_bytes())


def test_the_port_of_the_session_target_is_one() -> None:
    """It was not, for a while, and the target reached nothing that waits."""
    for name, member in vars(Port).items():
        if callable(member) and not name.startswith("_"):
            ours = inspect.signature(getattr(FakePort, name)).parameters
            assert list(ours) == list(inspect.signature(member).parameters), name
    assert isinstance(FakePort.has_twin, property)
