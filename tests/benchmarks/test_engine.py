"""One arc on a device that does nothing: the engine against the `transitions` library.

Run with `pytest tests/benchmarks/test_engine.py --benchmark-only`. The comparison makes both take
the same two states to and fro in turns, in one process, and shows the ratio of the best times; the
target is that the engine is at least 20 times faster, and with a recorder at least twice as fast.
Nothing here asserts a time: a busy machine is no bug.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from typing import Any

import pytest
from transitions import Machine

from vfio_migration.model import load
from vfio_migration.runtime import Engine, NullDevice, Observer, Recorder

TARGET = 20
TARGET_RECORDED = 2
ROUNDS = 250
TURNS = 400


class Model:
    """What `transitions` hangs its states and triggers on."""

    stop: Callable[[], bool]
    run: Callable[[], bool]
    state: str


def transitions_model() -> Model:
    model = Model()
    Machine(
        model,
        states=["RUNNING", "STOP"],
        transitions=[["stop", "RUNNING", "STOP"], ["run", "STOP", "RUNNING"]],
        initial="RUNNING",
        auto_transitions=False,
    )
    return model


def engine_turn(engine: Engine) -> Callable[[], None]:
    def turn() -> None:
        engine.set_state("STOP")
        engine.set_state("RUNNING")

    return turn


def transitions_turn(model: Model) -> Callable[[], None]:
    def turn() -> None:
        model.stop()
        model.run()

    return turn


def best(turn: Callable[[], None], count: int) -> float:
    """Nanoseconds of one event, of the two in a turn."""
    return timeit.timeit(turn, number=count) / count / 2 * 1e9


@pytest.mark.parametrize(
    ("observers", "target"),
    [([], TARGET), ([Recorder(maxlen=1000)], TARGET_RECORDED)],
    ids=["unobserved", "recorded"],
)
def test_one_arc_against_transitions(
    benchmark: Any, capsys: pytest.CaptureFixture[str], observers: list[Observer], target: int
) -> None:
    engine = Engine(load(), "STOP_COPY", NullDevice(), observers=observers)
    model = transitions_model()
    ours, theirs = engine_turn(engine), transitions_turn(model)
    # In turns, so that whatever else the machine does falls on both alike.
    pairs = [(best(ours, TURNS), best(theirs, TURNS // 10)) for _ in range(ROUNDS)]
    mine, other = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
    benchmark.extra_info.update(
        engine_ns=round(mine, 1),
        transitions_ns=round(other, 1),
        ratio=round(other / mine, 1),
        target=target,
    )
    observed = f" with {len(observers)} recorder" if observers else ""
    with capsys.disabled():
        print(
            f"\nset_state of one arc: engine{observed} {mine:.0f} ns, transitions {other:.0f} ns: "
            f"{other / mine:.1f} times faster (target: {target})"
        )
    benchmark(ours)
    assert (engine.state, model.state) == ("RUNNING", "RUNNING")


@pytest.mark.parametrize(
    ("name", "there"), [("one arc", "STOP"), ("a session", "STOP_COPY"), ("nothing", "RUNNING")]
)
def test_there_and_back(benchmark: Any, name: str, there: str) -> None:
    engine = Engine(load(), "STOP_COPY", NullDevice())
    benchmark.extra_info["what"] = name

    def turn() -> None:
        engine.set_state(there)
        engine.set_state("RUNNING")

    benchmark(turn)
    assert engine.state == "RUNNING"


def test_transitions(benchmark: Any) -> None:
    model = transitions_model()
    benchmark(transitions_turn(model))
    assert model.state == "RUNNING"
