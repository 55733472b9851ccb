"""Every capability set x state x request x failing step x way of failing, against raw rows."""

from __future__ import annotations

from typing import Any

import pytest
from engine_support import WAYS, Oracle, at, bring, paired, rig, sweep

from support.samples import sampled
from vfio_migration.model import Spec, load
from vfio_migration.runtime import (
    DisconnectFailedError,
    RequestRefusedError,
    ResetFailedError,
    Situation,
)

SPEC = load()
FLAGS = [int(flags.value) for flags in SPEC.capability_sets()]
NAMES = [row.name for row in SPEC.states]
VALUES = [*range(256), 0xABCD, 0xFFFF, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]
PLACES = [
    (flags, row.name)
    for flags in FLAGS
    for row in SPEC.states
    if all(flags & SPEC.capability(name).value for name in row.requires)
]


def oracle_of(flags: int) -> Oracle:
    return Oracle(SPEC, tuple(row.name for row in SPEC.capabilities if row.value & flags))


@pytest.fixture(scope="module")
def oracles() -> dict[int, Oracle]:
    return {flags: oracle_of(flags) for flags in FLAGS}


@pytest.mark.parametrize("flags", FLAGS)
def test_the_second_opinion_agrees_with_linux(flags: int, linux_paths: dict[str, Any]) -> None:
    oracle = oracle_of(flags)
    cells = linux_paths[str(flags)]
    assert len(cells) == 8
    for from_, row in cells.items():
        for to, path in row.items():
            if from_ in oracle.states:
                decided = oracle.decide(from_, to)
                assert (None if isinstance(decided, tuple) else decided) == path, (from_, to)


def test_there_are_as_many_places_as_states_in_each_set() -> None:
    assert [sum(flags == other for other, _ in PLACES) for flags in FLAGS] == [5, 6, 6, 8]


@sampled(3)
@pytest.mark.parametrize("observed", [False, True], ids=["unobserved", "observed"])
@pytest.mark.parametrize(("flags", "state"), PLACES)
def test_every_request_and_every_failing_step(
    flags: int, state: str, observed: bool, oracles: dict[int, Oracle]
) -> None:
    sweep(oracles[flags], flags, state, [*NAMES, *VALUES], observed=observed)


@pytest.mark.parametrize("observed", [False, True], ids=["unobserved", "observed"])
@pytest.mark.parametrize("name", ["reset", "disconnect"])
@pytest.mark.parametrize(("flags", "state"), PLACES)
def test_reset_and_disconnect_from_everywhere(
    flags: int, state: str, name: str, observed: bool, oracles: dict[int, Oracle]
) -> None:
    oracle = oracles[flags]
    for way in (None, *WAYS):
        made = at(SPEC, flags, state, observed=observed)
        start, opened = made.engine.situation, made.engine._opened
        then, _ = oracle.event(name, start)
        [row] = [row for row in SPEC.events if row.name == name]
        call = (name, then) if name == "reset" else (name, then, row.drops)
        if way is None:
            assert getattr(made.engine, name)() == then
        else:
            fault = way.make()
            made.device.script = [fault]
            then, errno = oracle.event("arc_failed_for_good", start)
            if way.interrupt:
                with pytest.raises(KeyboardInterrupt):
                    getattr(made.engine, name)()
            else:
                kind = ResetFailedError if name == "reset" else DisconnectFailedError
                with pytest.raises(kind) as failure:
                    getattr(made.engine, name)()
                assert failure.value.__cause__ is fault
                assert failure.value.errno == (way.errno or errno)
                assert failure.value.situation == then
        assert made.engine.situation == then
        assert made.device.calls == [call]
        paired(made.records)
        assert made.engine._opened == opened
        made.sync()
        assert made.engine.reset() == oracle.event("reset", then)[0]


@pytest.mark.parametrize("flags", FLAGS)
def test_the_arcs_it_can_take_are_the_arcs_of_the_machine(
    flags: int, oracles: dict[int, Oracle]
) -> None:
    taken: set[tuple[object, object]] = set()
    reached: set[str] = set()
    ahead = [SPEC.initial]
    while ahead:
        state = ahead.pop()
        if state in reached:
            continue
        reached.add(state)
        for target in VALUES:
            made = rig(SPEC, flags)
            if state != SPEC.initial:
                bring(made, state)
            try:
                ahead.append(made.engine.set_state(target).state)
            except RequestRefusedError:
                continue
            taken |= {call[1:3] for call in made.device.calls}
            ahead += [str(call[2]) for call in made.device.calls]
    machine = SPEC.machine(flags)
    assert taken == {(arc.from_, arc.to) for arc in machine.arcs} == oracles[flags].arcs
    assert reached == {row.name for row in machine.states if row.settable}


def test_a_spec_and_a_machine_are_not_changed_by_running(spec: Spec) -> None:
    made = rig(spec, None)
    before = spec
    bring(made, "STOP_COPY")
    made.engine.reset()
    assert made.engine.machine.spec is before
    assert before == load()
    assert made.engine.situation == Situation(spec.initial)
