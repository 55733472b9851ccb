"""Requests, failures, resets and disconnects in any order: hypothesis looks for a bad one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_support import WAYS, Oracle, Way, paired, rig
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from support.examples import examples
from vfio_migration.model import load
from vfio_migration.runtime import (
    DeviceFailedError,
    RequestFailedError,
    RequestRefusedError,
    Situation,
)

SPEC = load()
TARGETS = st.sampled_from([row.name for row in SPEC.states]) | st.integers(0, 9)
FAILING = [row.to for row in SPEC.events if row.name == "arc_failed_for_good"]


class LifeCycles(RuleBasedStateMachine):
    """One engine beside what the oracle states of it."""

    spec = SPEC

    @initialize(flags=st.sampled_from(SPEC.capability_sets()), observed=st.booleans())
    def make(self, flags, observed):
        self.rig = rig(self.spec, flags, observed=observed)
        self.oracle = Oracle(self.spec, self.spec.names(flags))
        self.now = Situation(SPEC.initial)
        self.opened = 0
        self.numbers: list[int] = []

    def move(self, then: Situation, *, by_reset: bool = False) -> None:
        if self.now.state in FAILING:
            assert then == self.now or by_reset, "only a reset leaves a failed device"
        if then.session is not None and then.session != self.now.session:
            assert then.session not in self.numbers, "a number is used once"
            self.numbers.append(then.session)
        self.now = then
        self.rig.sync()
        self.rig.device.calls.clear()

    @rule(to=TARGETS)
    def request(self, to):
        expected = self.oracle.outcome(self.now, self.opened, to)
        before = self.rig.equal()
        if expected.refused:
            with pytest.raises(RequestRefusedError):
                self.rig.engine.set_state(to)
            assert self.rig.equal() == before
        else:
            assert self.rig.engine.set_state(to) == expected.situation
        assert tuple(self.rig.device.calls) == expected.calls
        self.opened = expected.opened
        self.move(expected.situation)

    @rule(to=TARGETS, step=st.integers(0, 3), way=st.sampled_from(WAYS))
    def failing_request(self, to, step, way: Way):
        expected = self.oracle.outcome(self.now, self.opened, to, step, way)
        if not expected.failed:
            return
        self.rig.device.script = [None] * step + [way.make()]
        with pytest.raises(KeyboardInterrupt if way.interrupt else RequestFailedError):
            self.rig.engine.set_state(to)
        assert tuple(self.rig.device.calls) == expected.calls
        self.opened = expected.opened
        self.move(expected.situation)

    @rule()
    def reset(self):
        then, _ = self.oracle.event("reset", self.now)
        assert self.rig.engine.reset() == then
        self.move(then, by_reset=True)

    @rule()
    def disconnect(self):
        then, _ = self.oracle.event("disconnect", self.now)
        assert self.rig.engine.disconnect() == then
        self.move(then)

    @rule(name=st.sampled_from(["reset", "disconnect"]), way=st.sampled_from(WAYS))
    def failing_event(self, name, way: Way):
        then, _ = self.oracle.event("arc_failed_for_good", self.now)
        self.rig.device.script = [way.make()]
        with pytest.raises(KeyboardInterrupt if way.interrupt else DeviceFailedError):
            getattr(self.rig.engine, name)()
        self.move(then)

    @precondition(lambda self: hasattr(self, "rig"))
    @invariant()
    def it_is_where_the_oracle_has_it(self):
        assert self.rig.engine.situation == self.now
        assert self.rig.engine._opened == self.opened == len(self.numbers)

    @precondition(lambda self: hasattr(self, "rig"))
    @invariant()
    def a_session_is_open_exactly_where_one_transfers(self):
        now = self.rig.engine.situation
        assert (now.session is not None) == self.oracle.session_open(now.state)

    def teardown(self):
        if hasattr(self, "rig"):
            records = self.rig.records
            paired([record for record in records if record.kind != "attached"])


# The same examples each time: a test that fails now and then is no test.
SETTINGS = examples(150, stateful_step_count=40, derandomize=True, database=None)
LifeCycles.TestCase.settings = SETTINGS
TestLifeCycles = LifeCycles.TestCase


@pytest.mark.exhaustive
def test_the_invariants_can_fail() -> None:
    # On a table whose closing arcs close nothing the engine does as given, and is found out.
    rows = [
        replace(row, effect="keeps") if row.effect == "closes" else row
        for row in SPEC.session_effects
    ]

    class Leaking(LifeCycles):
        spec = replace(SPEC, session_effects=tuple(rows))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Leaking, settings=SETTINGS)
