"""The targets of `make fuzz` on inputs made without a guide, and on those that once failed."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest
from fuzz_targets import TARGETS, seeds

FAILED = Path(__file__).parents[1] / "data" / "fuzz"


@pytest.fixture(autouse=True, scope="module")
def loud():
    """The targets keep the log quiet, for speed; the tests after these read it."""
    root, ours = logging.getLogger(), logging.getLogger("vfio_migration")
    handlers, level = root.handlers[:], ours.level
    yield
    root.handlers[:] = handlers
    ours.setLevel(level)


@pytest.mark.parametrize("target", TARGETS)
def test_any_input(target: str) -> None:
    chance = random.Random(f"1 {target}")
    for seed in seeds():
        TARGETS[target](seed)
    for _ in range(1500):
        TARGETS[target](chance.randbytes(chance.randrange(400)))


def test_inputs_that_failed_once() -> None:
    for path in sorted(FAILED.glob("*/*")):
        TARGETS[path.parent.name](path.read_bytes())
