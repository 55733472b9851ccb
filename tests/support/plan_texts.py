"""A small good file of plans, from which bad ones are made, and what is wrong with those."""

from __future__ import annotations

import pytest

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.plan import loads_plans

STEPS = """
[[migrations]]
name = "over"
summary = "Over."
source = "made up"
steps = [{ side = "source", plan = "there", phases = ["go"] }, { transfer = "rest" }]

[[handovers]]
winner = "source"
holders = ["delivered"]
summary = "Go on."
steps = [{ side = "source", plan = "there", holder = "source" }]

[[plans]]
name = "astray"
sound = false
before = [{ to = "RUNNING" }]
summary = "Astray."
source = "made up"

[[plans.phases]]
name = "go"
moves = [{ to = "STOP" }]
summary = "Go."

[[plans.phases]]
name = "on"
moves = [{ to = "STOP" }]
summary = "On."
"""

GOOD = """
[[plans]]
name = "there"
sound = true
before = [{ to = "RUNNING" }]
summary = "There."
source = "made up"

[[plans.phases]]
name = "go"
moves = [{ to = "STOP" }]
summary = "Go."
"""


def mistakes(spec: Spec, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads_plans(spec, text, "plans.toml")
    assert caught.value.origin == "plans.toml"
    return [str(mistake) for mistake in caught.value.mistakes]
