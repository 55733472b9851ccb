"""Family G: proved of the plans of the package; each obligation violated by an edit of the plans.

A second model checker in plain Python follows the same plans with two and with three devices of
every mixture of capabilities, and, for G3, every order of every arc without any plan.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import pytest
import z3

from support import explicit_group, table_edits
from support.samples import sample, sample_where, sampled
from vfio_migration.model import Spec, load
from vfio_migration.model.plan import Plans, loads_plans
from vfio_migration.verifier import OBLIGATIONS, Encoding, Report, Verdict, decide, verify
from vfio_migration.verifier.report.replay import replay
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.group import FiniteGroup, QuantifiedGroup
from vfio_migration.verifier.systems.plan import Discipline, shortest_meeting
from vfio_migration.verifier.systems.plan_runs import run_to, showing

FAMILY_G = [f"G{number}" for number in range(1, 9)]
METHODS = {
    "G1": "quantified",
    "G2": "bounded",
    "G3": "symbolic",
    "G4": "quantified",
    "G5": "quantified",
    "G6": "symbolic",
    "G7": "quantified",
    "G8": "symbolic",
}
FILES = sorted(explicit_group.BROKEN.glob("*.toml"))
DATA = explicit_group.plan_data()
SOUND = [plan["name"] for plan in DATA["plans"] if plan["sound"]]
UNSOUND = [plan["name"] for plan in DATA["plans"] if not plan["sound"]]
GOALS = {
    "save": "STOP_COPY",
    "resume": "RUNNING",
    "prepare": "RESUMING",
    "recover": "RUNNING",
    "retire": "STOP",
}
WITH_P2P = (3, 7)


@pytest.fixture(scope="module")
def report() -> Report:
    return verify(load(), only=["G"])


@functools.cache
def disciplines() -> dict[tuple[str, bool], Discipline]:
    encoding = Encoding(load()).widest()
    return {
        (plan.name, failing): Discipline(encoding, plan, failing=failing)
        for plan in Discipline.plans(encoding).plans
        for failing in (False, True)
    }


def verdict_on(obligation_id: str, plans: Plans) -> Verdict:
    """Decide an obligation of family G for other plans than those of the package."""
    encoding = Encoding(load(), plans=plans)
    return decide(next(o for o in OBLIGATIONS if o.id == obligation_id), encoding)


def test_the_family_is_complete():
    assert [o.id for o in OBLIGATIONS if o.id.startswith("G")] == FAMILY_G


@pytest.mark.parametrize("name", FAMILY_G)
def test_each_is_proved_with_a_witness(report: Report, name: str):
    verdict = next(verdict for verdict in report.verdicts if verdict.id == name)
    assert verdict.outcome == "proved", verdict
    assert verdict.method == METHODS[name]
    assert verdict.witness is not None
    assert verdict.witness.text


def test_the_plans_are_those_the_file_has(spec: Spec):
    text = explicit_group.to_toml(DATA)
    assert loads_plans(spec, text) == Discipline.plans(Encoding(spec))


# --- plans that break them ---


def test_every_obligation_about_plans_is_broken_by_some():
    """G3 is about no plan: see `test_two_that_cannot_be_quiesced_have_no_safe_route`."""
    assert {explicit_group.broken(path)[0]["breaks"] for path in FILES} == set(FAMILY_G) - {"G3"}


# Two or so for each obligation; those of G7 take seconds: each asks for each place of a migration.
SAMPLE = {
    *("g1-nobody-quiesced", "g1-two-without-p2p", "g2-harmless", "g4-nobody-held"),
    *("g5-asks-what-it-cannot", "g5-failed-devices-stay", "g5-changes-its-mind"),
    *("g6-woken-before-judged", "g6-runs-before-all-are-loaded"),
    *("g7-the-rest-is-not-transferred", "g7-read-while-running"),
    "g8-pre-copy-leads-to-running",
}


@sampled(6)
@pytest.mark.parametrize(
    "path", sample_where(FILES, lambda path: path.stem in SAMPLE), ids=lambda path: path.stem
)
def test_a_broken_plan_is_refuted_by_the_obligation_it_breaks(spec: Spec, path):
    edit, data = explicit_group.broken(path)
    verdict = verdict_on(edit["breaks"], loads_plans(spec, explicit_group.to_toml(data)))
    assert verdict.outcome == "violated", verdict
    assert verdict.witness is None
    assert verdict.example is not None
    assert edit["message"] in verdict.example.text
    if "events" not in edit:
        return
    failing = edit["breaks"] == "G4"
    assert explicit_group.shortest(data, edit["plan"], 2, failing=failing) == edit["events"]
    trace = verdict.example.trace
    assert trace is not None
    *steps, last = trace.steps
    assert len(steps) == edit["events"]
    assert "may start DMA to" in str(last.note)
    # The group is one that the plan is for, and the run one that it can make.
    words = tuple(sum(explicit_group.BITS[name] for name in names) for names in trace.capabilities)
    plan = explicit_group.find(data, edit["plan"])
    assert explicit_group.allowed(plan, words)
    assert trace.start in explicit_group.begins(data, plan, words)
    where = list(trace.start)
    for step in steps:
        if step.kind != "note":
            where[step.device] = step.state
    assert explicit_group.unsafe(tuple(where))


@pytest.mark.exhaustive
def test_of_a_table_whose_devices_never_fail_it_is_stated_why_some_handovers_never_decide():
    data = table_edits.table_data()
    data["states"] = [row for row in data["states"] if row["name"] != "ERROR"]
    data["operations"] = [row for row in data["operations"] if row["name"] != "failed"]
    data["refusals"] = [row for row in data["refusals"] if row.get("to") != "ERROR"]
    (row,) = [row for row in data["events"] if row["name"] == "arc_failed_for_good"]
    del row["to"]
    (verdict,) = verify(table_edits.spec_of(data), only=["G7"]).verdicts
    assert verdict.outcome == "unknown"
    why = "it is for failed devices, and arc_failed_for_good leads nowhere here"
    assert verdict.reason == (
        f"row-4-decides: handover 4 to the destination never decides: {why}; "
        f"row-5-decides: handover 5 to the source never decides: {why}"
    )


@pytest.mark.parametrize(
    "path",
    sample([path for path in FILES if path.stem[:2] in ("g5", "g6")], 4),
    ids=lambda path: path.stem,
)
def test_a_plan_that_does_not_arrive_is_shown_as_a_run_if_it_has_one(spec: Spec, path):
    edit, data = explicit_group.broken(path)
    verdict = verdict_on(edit["breaks"], loads_plans(spec, explicit_group.to_toml(data)))
    assert verdict.example is not None
    text, trace = verdict.example.text, verdict.example.trace
    if trace is None:
        assert text.startswith("no plan leads from ")
        assert text.endswith("no run shows that, for it is a plan that is missing")
        return
    assert len(trace.start) == (2 if edit["breaks"] == "G6" else 1)
    assert trace.title == text
    again = replay(trace, spec)
    assert again.agrees, again.difference
    where = list(trace.start)
    for step in trace.steps:
        if step.kind == "arc":
            assert step.from_ == where[step.device]
        assert step.kind == "note" or step.state != where[step.device]
        where[step.device] = step.state
    assert trace.steps[-1].kind == "note"
    if edit["breaks"] == "G6":
        one, other = where
        assert f"a device runs in {one} while another is still loaded in {other}" in text
    else:
        assert where[0] in text


def test_a_recovery_that_cannot_begin_again_is_shown_as_a_run(spec: Spec):
    """Arcs fail in it: a device is lost where the plan that was left never took one."""
    rows = {name: DATA[name] for name in ("assertions", "plans")}
    plans = loads_plans(spec, explicit_group.to_toml(rows))
    discipline = Discipline(Encoding(spec).widest(), plans.plan("save"), failing=True)
    trace = run_to(discipline, [7], lambda phase, where: (phase, where) == (2, ("ERROR",)))
    recorded = showing("lost", trace, "here", spec).trace
    assert recorded is not None
    assert [step.kind for step in recorded.steps] == [
        "arc_failed_for_good",
        "note",
        "note",
        "note",
    ]
    assert replay(recorded, spec).agrees
    assert run_to(discipline, [7], lambda _, where: where == ("RESUMING",)) is None
    assert showing("never", None, "here", spec).trace is None


@pytest.mark.parametrize("name", UNSOUND)
@pytest.mark.parametrize("size", [2, 3])
def test_every_plan_marked_unsound_comes_to_grief(name: str, size: int):
    """Even where each device can do all: it is the plan that is wrong, not the devices."""
    failing = "after" in explicit_group.find(DATA, name)
    discipline = disciplines()[name, failing]
    assert shortest_meeting(discipline, size) == explicit_group.shortest(
        DATA, name, size, failing=failing
    )
    plan = explicit_group.find(DATA, name)
    able = Discipline(discipline.encoding, discipline.plan, failing=failing, words=[7])
    found = explicit_group.explore(DATA, plan, (7,) * size, failing=failing).unsafe_after
    assert found is not None
    assert shortest_meeting(able, size) == found


def test_the_bad_plans_are_shown_with_devices_that_can_do_all(report: Report):
    for name, events in (("one-by-one", 2), ("pre-copy-to-stop-copy", 2), ("start-at-once", 2)):
        found = explicit_group.explore(DATA, explicit_group.find(DATA, name), (7, 7), failing=False)
        assert found.unsafe_after == events
    witness = next(v for v in report.verdicts if v.id == "G2").witness
    assert witness is not None
    assert witness.trace is not None
    assert set(witness.trace.capabilities) == {("STOP_COPY", "P2P", "PRE_COPY")}


# --- the proof against the search ---


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("size", sample_where([1, 2, 3], lambda size: size < 3))
def test_a_sound_plan_is_safe_and_arrives(name: str, failing: bool, size: int):
    plan = explicit_group.find(DATA, name)
    goal = GOALS[name]
    discipline = disciplines()[name, failing]
    seen = 0
    for words in explicit_group.groups(plan, size):
        found = explicit_group.explore(DATA, plan, words, failing=failing)
        assert found.unsafe_after is None
        assert not found.stuck
        assert found.ends
        for end in found.ends:
            assert set(end) <= ({goal, "ERROR"} if failing or name == "retire" else {goal})
        if name == "retire":  # what had failed before is left alone
            assert (goal,) * size in found.ends
        elif not failing:
            assert found.ends == {(goal,) * size}
        for phase, where in found.situations:
            reachable = discipline.reachable[phase]
            assert all(
                state in reachable[word] for state, word in zip(where, words, strict=True)
            ), (
                phase,
                where,
            )
        seen += len(found.situations)
    assert seen > 4**size


@pytest.mark.parametrize("name", ["save", "resume", "prepare"])
@pytest.mark.parametrize("failing", [False, True])
def test_what_the_proof_takes_for_reachable_is_exactly_that(name: str, failing: bool):
    plan, discipline = explicit_group.find(DATA, name), disciplines()[name, failing]
    for words in explicit_group.groups(plan, 2):
        found = explicit_group.explore(DATA, plan, words, failing=failing).situations
        assert found == {
            (phase, where)
            for phase, reachable in enumerate(discipline.reachable)
            for where in itertools.product(*(reachable[word] for word in words))
        }


def test_from_everywhere_recovery_leads_on_and_may_itself_be_left():
    """Left half-way, devices failed: recover, be left again, recover again, and save once more."""
    recover, save = explicit_group.find(DATA, "recover"), explicit_group.find(DATA, "save")
    for words in explicit_group.groups(recover, 2):
        left = {
            where
            for _, where in explicit_group.explore(DATA, recover, words, failing=True).situations
        }
        assert len(left) > 10
        again = explicit_group.explore(DATA, recover, words, failing=False, starts=left)
        assert again.unsafe_after is None
        assert again.ends == {("RUNNING", "RUNNING")}
        saved = explicit_group.explore(DATA, save, words, failing=False, starts=again.ends)
        assert saved.ends == {("STOP_COPY", "STOP_COPY")}


# --- the quantified encoding is about something ---


def _sat(*formulas: z3.BoolRef) -> bool:
    solver = z3.Solver()
    solver.add(*formulas)
    answer = solver.check()
    assert answer != z3.unknown
    return answer == z3.sat


@sampled(3)
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("failing", [False, True])
def test_in_every_phase_the_invariant_can_hold_and_somebody_can_move(name: str, failing: bool):
    """With at least three devices, of which one cannot be quiesced."""
    discipline = disciplines()[name, failing]
    group = QuantifiedGroup(discipline)
    now, then = group.where("0"), group.where("1")
    devices = z3.Consts("a b c", group.sort)
    mixture = [group.flags(device) == word for device, word in zip(devices, (1, 3, 7), strict=True)]
    many = z3.And(group.facts, z3.Distinct(devices), *mixture)
    for index, phase in enumerate(discipline.plan.phases):
        held = group.holds(now, index)
        assert _sat(many, held), phase.name
        assert _sat(many, held, group.moves(now, then, index)), phase.name
        assert _sat(many, held, group.over(now, index)), phase.name
        # Somebody really moves, and nobody else does.
        moved = [now(device) != then(device) for device in devices]
        two = z3.Or([z3.And(pair) for pair in itertools.combinations(moved, 2)])
        who = 0 if phase.name.endswith("-the-one") else 2
        assert _sat(many, held, group.moves(now, then, index), moved[who])
        assert not _sat(many, held, group.moves(now, then, index), two)


@pytest.mark.parametrize("name", SOUND)
def test_where_a_plan_begins_is_where_its_first_phase_is(name: str):
    """Asked of z3 here for every plan; of `recover` the proof has it by construction."""
    discipline = disciplines()[name, True]
    group = QuantifiedGroup(discipline)
    now = group.where("0")
    one, other = group.one, group.other
    safe = z3.ForAll([one, other], z3.Not(group.unsafe(now, one, other)))
    left = [
        z3.And(safe, z3.ForAll([one], group.in_states(now, one, begin)))
        for begin in discipline.begins
    ]
    assert len(left) == (1 if discipline.plan.before else 4 + 4 + 4)
    for begins in left:
        assert _sat(group.facts, begins)
        assert not _sat(group.facts, begins, group.broken(now, 0))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_limit_means_what_it_states(spec: Spec, count: int):
    data = DATA | {"plans": [plan | {} for plan in DATA["plans"]]}
    explicit_group.find(data, "save")["limits"] = [{"lacks": "P2P", "count": count}]
    plan = loads_plans(spec, explicit_group.to_toml(data)).plan("save")
    encoding = Encoding(spec).widest()
    group = QuantifiedGroup(Discipline(encoding, plan))
    for size, lacking in itertools.product(range(1, 5), range(5)):
        if lacking > size:
            continue
        devices = z3.Consts([f"d{index}" for index in range(size)], group.sort)
        words = [1 if index < lacking else 3 for index in range(size)]
        every = z3.ForAll([group.one], any_of([group.one == device for device in devices]))
        flags = [group.flags(device) == word for device, word in zip(devices, words, strict=True)]
        admitted = size == 1 or lacking <= count
        assert explicit_group.allowed(explicit_group.find(data, "save"), words) == admitted
        different = [z3.Distinct(devices)] if size > 1 else []
        assert _sat(group.facts, every, *flags, *different) == admitted, (size, lacking)
        finite = FiniteGroup(group.discipline, size)
        now = finite.situation(0)
        given = [now[f"flags{index}"] == word for index, word in enumerate(words)]
        assert _sat(finite.start(now), *given) == admitted, (size, lacking)


@sampled(3)
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("words", [(1, 7), (3, 5)], ids=str)
def test_the_quantified_moves_are_the_moves_of_the_plan(name: str, words: tuple[int, int]):
    """Of two devices and no others, z3 is asked for every step it allows in every phase."""
    discipline = disciplines()[name, True]
    group, encoding = QuantifiedGroup(discipline), discipline.encoding
    now, then = group.where("0"), group.where("1")
    a, b = z3.Consts("a b", group.sort)
    two = z3.And(
        a != b,
        z3.ForAll([group.one], z3.Or(group.one == a, group.one == b)),
        *(group.flags(device) == word for device, word in zip((a, b), words, strict=True)),
    )
    terms = [now(a), now(b), then(a), then(b)]
    for index, phase in enumerate(discipline.plan.phases):
        row = explicit_group.find(DATA, name)["phases"][index]
        expected = set()
        reachable = [discipline.reachable[index][word] for word in words]
        for where in itertools.product(*reachable):
            for device, state in enumerate(where):
                move = explicit_group.move(row, words[device], state)
                if move is not None and not explicit_group.unsafe(where):
                    for to in (
                        explicit_group.onward(move, words[device], state),
                        explicit_group.LOST,
                    ):
                        expected.add((*where, *where[:device], to, *where[device + 1 :]))
        solver = z3.Solver()
        solver.add(group.facts, two, group.holds(now, index), group.moves(now, then, index))
        found = set()
        while solver.check() == z3.sat:
            model = solver.model()
            states = tuple(encoding.read_state(model, term) for term in terms)
            found.add(states)
            solver.add(
                z3.Or(
                    [term != encoding.state(str(s)) for term, s in zip(terms, states, strict=True)]
                )
            )
        assert found == expected, phase.name


def test_every_phase_of_a_sound_plan_moves_somebody():
    """In some situation that some group can reach."""
    for name in SOUND:
        discipline = disciplines()[name, False]
        for index, phase in enumerate(discipline.plan.phases):
            assert any(
                discipline.steps(phase, machine).keys() & discipline.reachable[index][word]
                for word, machine in discipline.machines()
            ), (name, phase.name)


# --- G3, without any plan ---


def _all(state: str, size: int) -> tuple[str, ...]:
    return (state,) * size


WAYS = [("RUNNING", "STOP_COPY"), ("RUNNING", "STOP"), ("RESUMING", "RUNNING"), ("STOP", "RUNNING")]


@pytest.mark.parametrize(("from_", "to"), WAYS)
@pytest.mark.parametrize("mishaps", [False, True])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_two_that_cannot_be_quiesced_have_no_safe_route(from_, to, mishaps, others):
    """In no order of all arcs, failures and resets, who else is in the group.

    But for one: a loaded device that fails and is reset runs too. What it was loaded with is gone,
    so towards running only the others may fail and be reset.
    """
    for pair in itertools.combinations_with_replacement((1, 5), 2):
        for rest in itertools.combinations_with_replacement(WITH_P2P, others):
            words = pair + rest
            goal = _all(to, len(words))
            first = 0 if from_ == "RUNNING" else 2
            some = range(first, len(words)) if mishaps else ()
            route = explicit_group.safe_route(
                words, _all(from_, len(words)), goal.__eq__, mishaps=some
            )
            assert route is None, (words, route)


@pytest.mark.parametrize(("from_", "to"), WAYS)
@pytest.mark.parametrize("others", [0, 1, 2, 3])
def test_one_that_cannot_be_quiesced_has_a_safe_route(from_, to, others):
    for one in (1, 5):
        for rest in itertools.combinations_with_replacement(WITH_P2P, others):
            words = (one, *rest)
            goal = _all(to, len(words))
            route = explicit_group.safe_route(words, _all(from_, len(words)), goal.__eq__)
            assert route is not None, words
            # The plan's reason: while the one starts or stops, all others neither start nor stop.
            for here, there in itertools.pairwise(route):
                if (here[0] in explicit_group.STARTING) != (there[0] in explicit_group.STARTING):
                    assert not set(here[1:]) & (explicit_group.STARTING | explicit_group.STOPPED), (
                        route
                    )


def test_g3_is_violated_where_a_stopped_device_accepts_dma(spec: Spec):
    """Then two devices without P2P could be stopped one by one, and the limit is needless."""
    operations = tuple(
        dataclasses.replace(row, may=("accept_p2p_dma",)) if row.name == "stopped" else row
        for row in spec.operations
    )
    (verdict,) = verify(dataclasses.replace(spec, operations=operations), only=["G3"]).verdicts
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    assert "is safe" in verdict.example.text


# --- what the plans cannot do ---


def test_half_loaded_devices_that_refuse_have_no_safe_way_back():
    """A device that keeps refusing its stream stands in RESUMING, and only a reset leads out.

    With one such device a group has a way: the others are woken first. With two it has none: the
    first that is reset runs, and the other is stopped. See docs/groups.md.
    """
    for words in itertools.product(explicit_group.WORDS, repeat=2):
        where, running = _all("RESUMING", 2), _all("RUNNING", 2)
        assert explicit_group.safe_route(words, where, running.__eq__, refusing=(0, 1)) is None
        one = explicit_group.safe_route(words, where, running.__eq__, refusing=(0,))
        assert (one is not None) == (words[1] in WITH_P2P), words
    assert (
        explicit_group.safe_route((7,), ("RESUMING",), ("RUNNING",).__eq__, refusing=(0,))
        is not None
    )
