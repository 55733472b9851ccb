"""The engine is the model: over its whole finite behaviour, and both ways.

Under every capability set, in every situation a device can be in (with up to two sessions behind
it), everything is made to happen that can: each request by name, by value and by values no state
has, each arc of it failing in each way, a reset and a disconnect, also from within a callback. What
is seen of it must be exactly the runs z3's transition relation allows; these are enumerated until
the solver has no more. Each run is done twice, observed and not: the engine has a way for each.

Errnos are no part of the relation; `tests/runtime` holds them to the table.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import z3

from support.engine_comparison import OWN, Comparison, Relation, Seen, alike, compare
from support.samples import sample, sample_where, sampled
from support.table_edits import BROKEN, broken, spec_of
from vfio_migration.model import Spec
from vfio_migration.runtime import Engine, Situation
from vfio_migration.verifier import Encoding
from vfio_migration.verifier.systems.device import DeviceSystem

TRIED = {1: (566, 13), 3: (848, 16), 5: (742, 15), 7: (1340, 20)}
"""How much is tried in how many situations, by capability set: so that it cannot become nothing."""


def differences(found: Comparison) -> dict[tuple[str, str], tuple[set[Any], set[Any]]]:
    return {(title, now.state): runs for (title, now), runs in found.differences.items()}


@sampled(2)
@pytest.mark.parametrize("word", sample(TRIED, 2))
def test_the_engine_does_what_the_relation_allows_and_nothing_else(spec: Spec, word: int):
    found = compare(spec, word)
    assert differences(found) == {}
    assert (found.tried, found.points) == TRIED[word]


@pytest.mark.exhaustive
@pytest.mark.parametrize("word", sample([1, 7], 2))
def test_the_ninth_state_needs_no_change_of_code(ninth_state: Spec, word: int):
    assert "STOP_P2P" in {row.name for row in ninth_state.machine(word).states}
    assert differences(compare(ninth_state, word)) == {}


# --- what the comparison leans on ---


@pytest.fixture(scope="module")
def system(spec: Spec) -> DeviceSystem:
    return DeviceSystem.of(Encoding(spec))


def test_nothing_depends_on_what_a_request_left_behind(system: DeviceSystem):
    """So situations may be compared without target, origin and such; under every capability set."""
    one, other = system.situation(0), system.situation("other")
    one_then, other_then = system.situation(1), system.situation("other-then")
    solver = z3.Solver()
    solver.add(system.facts, alike(system, one, other))
    solver.push()
    solver.add(system.relation(one, one_then, 0), system.relation(other, other_then, 0))
    assert solver.check() == z3.sat
    solver.add(z3.Not(alike(system, one_then, other_then)))
    assert solver.check() == z3.unsat
    solver.pop()

    @functools.cache
    def choose(name: str, sort: z3.SortRef) -> z3.ExprRef:
        return z3.Const(name, sort)

    transitions = zip(
        system.transitions(one, choose), system.transitions(other, choose), strict=True
    )
    solver.add(z3.Or([a.guard != b.guard for a, b in transitions]))
    assert solver.check() == z3.unsat


def test_what_the_engine_takes_no_part_in_changes_nothing_it_could_see(system: DeviceSystem):
    now, then = system.situation(0), system.situation(1)
    solver = z3.Solver()
    solver.add(system.facts, system.step(0), system.is_event(system.event(0), *OWN))
    assert solver.check() == z3.sat
    solver.add(z3.Or([then[name] != now[name] for name in now if name != "changes"]))
    assert solver.check() == z3.unsat


def test_while_a_request_is_under_way_there_is_no_reset_and_no_disconnect(spec: Spec):
    """As in the engine, where the device asks for both from within each callback."""
    relation = Relation(spec, 7)
    (start,) = relation.begins()
    begun = [move.then for move in relation.moves(start) if move.event == "request"]
    assert len(begun) == 6
    for busy in begun:
        events = [move.event for move in relation.moves(busy)]
        assert sorted(events) == ["arc", "arc_failed", "arc_failed_for_good"]


# --- it can fail ---


class LosesTheSession(Engine):
    """As drivers did: an arc that closes a session closes it first, and then fails."""

    def _place(self, fault: Any, now: Situation, *, back: bool) -> Any:
        placed = super()._place(fault, now, back=back)
        self._now = Situation(self._now.state)
        return placed


class ReusesNumbers(Engine):
    """Every session is number 1."""

    @property
    def _opened(self) -> int:
        return 0

    @_opened.setter
    def _opened(self, number: int) -> None:
        pass


class TakesFailureForSuccess(Engine):
    """A device that failed for good is reported to be back where the arc began."""

    def _place(self, fault: Any, now: Situation, *, back: bool) -> Any:
        event, errno = super()._place(fault, now, back=back)
        self._now = now
        return event, errno


class ResetKeepsTheSession(Engine):
    """A reset forgets to end the session."""

    def _apply(self, name: Any, call: Any, failure: Any) -> Situation:
        session = self._now.session
        super()._apply(name, call, failure)
        self._now = Situation(self._now.state, session)
        return self._now


class RefusesNothing(Engine):
    """A refused request is taken for one that has nothing to do."""

    def _look_up(self, target: Any) -> Any:
        refused = self._machine.route(self._now.state, target).refused
        return () if refused is not None else super()._look_up(target)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("wrong", "title"),
    sample(
        [
            (LosesTheSession, "request STOP"),
            (ReusesNumbers, "request STOP_COPY"),
            (TakesFailureForSuccess, "request STOP"),
            (ResetKeepsTheSession, "the end of reset"),
            (RefusesNothing, "request PRE_COPY"),
        ],
        apart=4,
        spread=True,
    ),
)
def test_a_wrong_engine_is_noticed(spec: Spec, wrong: type[Engine], title: str):
    found = compare(spec, 5, make=wrong)
    assert title in {title for title, _ in differences(found)}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("name", "word"),
    sample_where(
        [
            ("d1-reset-keeps-the-session", 5),
            ("d2-leaving-closes-nothing", 5),
            ("d6-reconnecting-heals", 1),
            ("d7-failing-leads-astray", 3),
            ("d11-failing-ends-the-session", 5),
            ("t1-diagonal-arc", 5),
            ("t8-missing-arc", 7),
        ],
        lambda row: row[0] in ("d6-reconnecting-heals", "t1-diagonal-arc"),
        spread=True,
    ),
)
def test_another_table_is_noticed_and_its_own_engine_is_not(spec: Spec, name: str, word: int):
    """An engine that runs a broken table differs from the real one's relation, not from its own."""
    other = spec_of(broken(BROKEN / f"{name}.toml")[1])
    assert differences(compare(spec, word, engine=other)) != {}
    assert differences(compare(other, word)) == {}


@pytest.mark.exhaustive
def test_a_request_that_leads_nowhere_is_the_one_thing_reported_differently(spec: Spec):
    """A table on which T6 and D8 fail: the relation sets out, as Linux does; the engine refuses.

    Linux asks for the next step before each arc and finds out half-way; the engine looks at the
    whole path first (the row "no_path"). On a table that is proved there is no such request.
    """
    other = spec_of(broken(BROKEN / "d8-refused-half-way.toml")[1])
    found = differences(compare(other, 3))
    assert set(found) == {("request STOP_COPY", "RUNNING")}
    engine, relation = found["request STOP_COPY", "RUNNING"]
    assert {run[-1] for run in engine} == {Seen("refused", "RUNNING", None)}
    assert Seen("refused", "RUNNING_P2P", None) in {run[-1] for run in relation}


@pytest.mark.exhaustive
def test_a_row_of_requests_that_is_changed_changes_both(spec: Spec):
    """In the failed state every request does nothing, successfully: the engine does so."""
    rows = tuple(
        dataclasses.replace(row, outcome="nothing") if row.when == "no_way_out" else row
        for row in spec.requests
    )
    assert differences(compare(dataclasses.replace(spec, requests=rows), 1)) == {}
