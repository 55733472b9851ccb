"""G7: what is proved of handovers, against a second model that is searched."""

from __future__ import annotations

import functools
import itertools

import pytest
import z3

from support import explicit_group, explicit_handover
from support.samples import sample, sample_where
from vfio_migration.model import Spec
from vfio_migration.model.plan import loads_plans
from vfio_migration.verifier import Encoding, Solving
from vfio_migration.verifier.obligations.handover import HandoverProof, Part
from vfio_migration.verifier.systems.handover import Journey, followed
from vfio_migration.verifier.systems.handover_runs import deciding_runs, shortest

DATA = explicit_group.plan_data()
FILES = sorted(explicit_group.BROKEN.glob("g7-*.toml"))
ONE = [(1,), (3,), (5,), (7,)]
TWO = [(1, 3)]


@pytest.fixture(scope="module")
def journey(spec: Spec) -> Journey:
    return Journey.of(Encoding(spec).widest())


@functools.cache
def explored(
    words: tuple[int, ...],
) -> tuple[explicit_handover.HandoverModel, set[explicit_handover.World]]:
    model = explicit_handover.HandoverModel(DATA, words)
    return model, model.explore()


@pytest.mark.parametrize("words", sample_where(ONE + TWO, lambda words: words in ONE), ids=str)
def test_one_side_runs_on_no_matter_who_is_killed(words: tuple[int, ...]):
    """Every situation is visited; from each, a recovery that nobody disturbs ends well."""
    model, situations = explored(words)
    assert not model.wrong
    assert len(situations) > (1_000, 50_000)[len(words) - 1]
    recorded = set()
    for world in explicit_handover.left(situations):
        wrong = explicit_handover.unfinished(model, world)
        assert wrong is None, (wrong, world)
        assert not explicit_handover.given_up(model, world), world
        recorded.add(model.recover(world)[0])
    assert recorded == {"source", "destination", None}


@pytest.mark.parametrize("path", sample(FILES, 3), ids=lambda path: path.stem)
def test_what_the_proof_refutes_goes_wrong_in_the_second_model(path):
    _, data = explicit_group.broken(path)
    for words in [(7,), (1, 3)]:
        model = explicit_handover.HandoverModel(data, words)
        situations = model.explore(to_the_end=False)
        if model.wrong or not all(map(model.arrives, model.starts())):
            return
        for world in explicit_handover.left(situations):
            if explicit_handover.unfinished(model, world) or explicit_handover.given_up(
                model, world
            ):
                return
    pytest.fail("nothing goes wrong")


@pytest.mark.exhaustive  # of one device a side, not all that the proof takes for possible arises
@pytest.mark.parametrize("words", TWO, ids=str)
def test_what_the_proof_takes_for_possible_is_what_is_visited(journey: Journey, words):
    """Where devices may be when somebody comes to recover; handovers of failed ones aside."""
    found: dict[tuple[str, str, int], set] = {}
    for world in explored(words)[1]:
        if world.program is None and not world.spoilt:
            for side, index in itertools.product(explicit_handover.SIDES, range(len(words))):
                device = world.side(side)[index]
                found.setdefault((world.journal, side, words[index]), set()).add(device)
    assert found == {
        (spot.holder, side, word): {None, *reachable[side][word]}
        for spot, reachable in journey.reachable.items()
        for side, word in itertools.product(explicit_handover.SIDES, words)
        if spot.place is None and not spot.degraded
    }


def test_every_handover_decides_in_some_run(journey: Journey):
    runs = deciding_runs(journey)
    assert set(runs) == set(range(len(journey.plans.handovers)))
    for index, run in runs.items():
        assert f"handover {index} decides" in run.text
        assert run.trace is not None
        assert len(run.trace.start) == 2


def test_every_place_is_reached_and_its_invariant_can_hold(journey: Journey):
    """No query is proved because nothing can be there."""
    proof = HandoverProof(journey)
    assert {spot.place for spot in journey.reachable} >= set(range(len(journey.places)))
    for spot in journey.reachable:
        solver = z3.Solver()
        solver.add(proof.facts, proof.invariant(spot, proof.now))
        crowds = proof.now.crowds.values()
        solver.add(*(crowd.every(crowd.there("one")) for crowd in crowds))
        assert solver.check() == z3.sat, spot


def test_a_migration_followed_is_the_phases_of_its_steps(spec: Spec):
    plans = loads_plans(spec, explicit_group.to_toml(DATA))
    found = {plan.name: [phase.name for phase in plan.phases] for plan in followed(plans)}
    assert found["migration-offline-source"] == [
        *(f"save-{name}" for name in ("quiesce", "stop-the-one", "stop")),
        *(f"retire-{name}" for name in ("quiesce", "stop-the-one", "stop")),
    ]
    assert len(found) == 4


def test_a_run_that_breaks_it_is_reported_as_a_trace(spec: Spec):
    _, data = explicit_group.broken(explicit_group.BROKEN / "g7-nobody-goes-back.toml")
    plans = loads_plans(spec, explicit_group.to_toml(data))
    run = shortest(Journey(Encoding(spec).widest(), plans))
    assert run is not None
    assert run.trace is not None
    assert run.trace.start == ("RUNNING", "STOP")
    assert run.trace.names == ("source device 0", "destination device 0")
    notes = [step.note for step in run.trace.steps if step.kind == "note"]
    assert "the journal has: destination" in notes
    assert notes[-1] == "the source holds the whole state, which is given up"
    where = dict(enumerate(run.trace.start))
    for step in run.trace.steps:
        if step.kind == "arc":
            assert step.from_ == where[step.device]
            where[step.device] = step.state


EXACTLY: dict[Part, str] = {
    "both-run": "g7-both-run-for-a-while",
    "made-of-two": "g7-saved-twice",
    "given-up": "g7-nobody-goes-back",
}
"""Per part of what G7 states a plan that violates this part and no other."""


@pytest.mark.parametrize("part", sample_where(EXACTLY, lambda part: part == "given-up"))
def test_no_part_of_the_statement_can_be_left_out(spec: Spec, part: Part):
    _, data = explicit_group.broken(explicit_group.BROKEN / f"{EXACTLY[part]}.toml")
    plans = loads_plans(spec, explicit_group.to_toml(data))
    journey = Journey.of(Encoding(spec, plans=plans).widest())

    def holds(without: tuple[Part, ...]) -> bool:
        solving = Solving()
        queries = HandoverProof(journey, without).queries()
        return all(solving.ask(query).answer == query.expect for query in queries)

    assert not holds(())
    assert holds((part,))
