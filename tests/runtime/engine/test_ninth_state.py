"""A ninth state, off to the side with its own arcs, is run with no change of code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_support import Oracle, rig, sweep

from vfio_migration.model import Spec, load
from vfio_migration.runtime import Recorder, RequestRefusedError, Situation

CHANGES = {
    "mandatory": ("STOP_COPY",),
    "optional": ("STOP_COPY", "P2P"),
}


def with_ninth_state(requires: tuple[str, ...]) -> Spec:
    spec = load()
    stopped = spec.operation("stopped")
    index = spec.operations.index(stopped) + 1
    deep = replace(stopped, name="deep_stopped", summary="As stopped, with its peers cut off.")
    state = replace(
        spec.state("STOP"), name="STOP_P2P", value=8, operation="deep_stopped", requires=requires
    )
    there = replace(spec.arcs[0], from_="STOP", to="STOP_P2P", summary="Cut the peers off.")
    back = replace(spec.arcs[0], from_="STOP_P2P", to="STOP", summary="Let the peers in again.")
    return replace(
        spec,
        name="vfio-nine",
        operations=(*spec.operations[:index], deep, *spec.operations[index:]),
        states=(*spec.states, state),
        arcs=(*spec.arcs, there, back),
    )


@pytest.mark.parametrize("requires", CHANGES.values(), ids=CHANGES)
def test_it_runs(requires: tuple[str, ...]) -> None:
    spec = with_ninth_state(requires)
    recorder = Recorder()
    made = rig(spec, None)
    made.engine.add_observer(recorder)
    assert made.engine.set_state(8) == Situation("STOP_P2P")
    assert [call[2] for call in made.device.calls] == ["RUNNING_P2P", "STOP", "STOP_P2P"]
    assert made.engine.set_state("STOP_COPY") == Situation("STOP_COPY", 1)
    assert made.engine.set_state("STOP_P2P").session is None
    assert made.engine.disconnect() == Situation("STOP_P2P")
    assert made.engine.reset() == Situation("RUNNING")
    assert "STOP_P2P" in {step.state for step in recorder.trace().steps}


def test_the_eight_states_refuse_it() -> None:
    with pytest.raises(RequestRefusedError, match="RUNNING -> 8: refused"):
        rig(load(), None).engine.set_state(8)


@pytest.mark.parametrize("requires", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_every_request_and_every_failing_step(requires: tuple[str, ...], flags: int) -> None:
    spec = with_ninth_state(requires)
    oracle = Oracle(spec, spec.names(spec.capability_set(flags)))
    assert ("STOP_P2P" in oracle.states) == (requires == ("STOP_COPY",) or bool(flags & 2))
    assert {(arc.from_, arc.to) for arc in spec.machine(flags).arcs} == oracle.arcs
    for state in oracle.states:
        sweep(
            oracle, flags, state, [*(row.name for row in spec.states), *range(16)], observed=False
        )
