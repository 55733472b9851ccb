"""Mutation of the table: every field is mutated, nothing passes for a kill that is none."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import z3
from made_page import differences
from mutants_page import PAGE, page

from vfio_migration.model import Spec, SpecError, from_data, load
from vfio_migration.model.spec import Arc, Row
from vfio_migration.runtime.engine.program import Program
from vfio_migration.verifier import OBLIGATIONS, Encoding, Example, Obligation, Query, verify
from vfio_migration.verifier.mutation import mutate as module
from vfio_migration.verifier.mutation import subjects
from vfio_migration.verifier.mutation.edits import KINDS, LABELS, mutants
from vfio_migration.verifier.mutation.equivalence import equivalent
from vfio_migration.verifier.mutation.mutants import Mutant
from vfio_migration.verifier.mutation.mutate import LOAD, Survey, mutate
from vfio_migration.verifier.mutation.subjects import as_data, can_be_loaded

ROOT = Path(__file__).resolve().parents[2]
SPEC = load()
ALL = mutants(SPEC)
MOVING = ("grid-order", "request-order")  # rows change places: every field of them seems to


def fields_of_the_table() -> set[str]:
    """Every field a table has: "arcs.to", "spec.initial"."""
    found = set()
    for field in dataclasses.fields(Spec):
        rows = getattr(SPEC, field.name)
        if isinstance(rows, str):
            found.add(f"spec.{field.name}")
        else:
            row = get_args(get_type_hints(Spec)[field.name])[0]
            assert issubclass(row, Row)
            found |= {f"{field.name}.{each.name}" for each in dataclasses.fields(row)}
    return found


def changed(one: Spec, other: Spec) -> set[str]:
    """The fields in which two tables differ; for rows that came or went, the whole section."""
    found = set()
    for field in dataclasses.fields(Spec):
        before, after = getattr(one, field.name), getattr(other, field.name)
        if before == after:
            continue
        if isinstance(before, str):
            found.add(f"spec.{field.name}")
        elif len(before) != len(after):
            found.add(field.name)
        else:
            found |= {
                f"{field.name}.{each.name}"
                for old, new in zip(before, after, strict=True)
                for each in dataclasses.fields(old)
                if getattr(old, each.name) != getattr(new, each.name)
            }
    return found


# --- the edits ---


def test_each_field_of_the_table_is_mutated_or_excused():
    mutated = frozenset().union(*(kind.fields for kind in KINDS))
    labels = frozenset().union(*LABELS.values())
    assert mutated | labels == fields_of_the_table()
    assert not mutated & labels


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_changes_the_fields_it_states_and_no_other(kind):
    made = [mutant for mutant in ALL if mutant.kind == kind.name]
    assert made
    touched = set().union(*(changed(SPEC, mutant.table) for mutant in made))
    if kind.name in MOVING:
        return
    sections = {name.partition(".")[0] for name in kind.fields}
    assert touched <= kind.fields | sections
    for name in kind.fields:
        assert name in touched or name.partition(".")[0] in touched, name


def test_no_two_mutants_are_the_same():
    for values in (
        [mutant.id for mutant in ALL],
        [mutant.sentence for mutant in ALL],
        [mutant.table for mutant in ALL],
    ):
        assert len(set(values)) == len(values)
    assert SPEC not in {mutant.table for mutant in ALL}


def test_the_edits_of_the_issue_are_complete():
    """Counted anew, from what an edit is."""
    count = collections.Counter(mutant.kind for mutant in ALL)
    states, arcs = len(SPEC.states), {(arc.from_, arc.to) for arc in SPEC.arcs}
    names = [row.name for row in SPEC.states]
    pairs = {(a, b) for a in names for b in names if a != b}
    refused = {(row.from_, row.to) for row in SPEC.refusals}
    assert count["arc-removed"] == len(arcs)
    assert count["arc-added"] == len(pairs - arcs)
    assert count["arc-redirected"] == sum(
        (a, end) in pairs - arcs for a, _ in arcs for end in names
    ) + sum((end, b) in pairs - arcs for _, b in arcs for end in names)
    assert count["refusal-dropped"] == len(refused)
    assert count["refusal-added"] == len(pairs - arcs - refused)
    assert count["coordinate"] == states * (len(SPEC.operations) - 1 + len(SPEC.sessions) - 1)
    assert count["requires"] == states * len(SPEC.capabilities)
    assert count["settable"] == count["initial"] + 1 == states
    assert count["session-effect"] == len(SPEC.session_effects) * 4  # three others, or none
    assert count["event-target"] == len(SPEC.events) * states
    assert count["permitted"] == len(SPEC.operations) * len(SPEC.activities)


def test_a_table_with_more_in_it_has_more_mutants(ninth_state: Spec):
    assert len(mutants(ninth_state)) > len(ALL)


def test_an_edit_is_found_by_its_place_and_what_was_there():
    recorded = {mutant.id: mutant.sentence for mutant in ALL}
    assert recorded["arc-removed:arcs[3]"] == "arcs[3] STOP -> RUNNING_P2P removed"
    assert recorded["arc-redirected:arcs[3].to=RUNNING"] == (
        "arcs[3] STOP -> RUNNING_P2P redirected: STOP -> RUNNING"
    )
    assert recorded["event-target:events[2].to=STOP"] == "events[2].to (reset) RUNNING => STOP"
    assert recorded["permitted:operations[2].may+start_dma"] == (
        "operations[2].may (stopped) gains start_dma"
    )


# --- equivalence ---


def test_words_change_no_behaviour():
    for name in LABELS["words for people"]:
        section, _, key = name.partition(".")
        if section == "spec":
            edited = dataclasses.replace(SPEC, **{key: "other words"})
        else:
            rows = tuple(
                dataclasses.replace(row, **{key: f"{getattr(row, key)} and more"})
                for row in getattr(SPEC, section)
            )
            edited = dataclasses.replace(SPEC, **{section: rows})
            if not rows:
                continue
        assert edited != SPEC, name
        assert equivalent(edited, SPEC), name


@pytest.mark.parametrize("name", sorted(frozenset().union(*(kind.fields for kind in KINDS))))
def test_no_field_is_overlooked(name: str):
    """Of the edits of each field, some change behaviour: it is part of what is compared."""
    kinds = {kind.name for kind in KINDS if name in kind.fields}
    for mutant in ALL:
        if mutant.kind in kinds and can_be_loaded(mutant.table):
            touched = changed(SPEC, mutant.table)
            whole = name.partition(".")[0] in touched
            if (name in touched or whole) and not equivalent(mutant.table, SPEC):
                return
    if name == "requests.when":  # only order and absence of rows can be edited, and files need all
        assert any(not equivalent(m.table, SPEC) for m in ALL if m.kind == "request-order")
        return
    if name in ("session_effects.from_", "session_effects.to", "stream_ends.kind"):
        return  # an edit of one of these makes a table that means nothing
    pytest.fail(f"every edit of {name} is equivalent")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Painted(Arc):
    colour: str = "black"


def test_a_field_that_is_new_is_compared_without_being_named_anywhere():
    def painted(colour: str) -> Spec:
        first = SPEC.arcs[0]
        values: Any = {f.name: getattr(first, f.name) for f in dataclasses.fields(first)}
        return dataclasses.replace(SPEC, arcs=(Painted(**values, colour=colour), *SPEC.arcs[1:]))

    assert equivalent(painted("red"), painted("red"))
    assert not equivalent(painted("red"), painted("blue"))


@pytest.mark.exhaustive
def test_mutants_that_are_equivalent_move_an_engine_alike(survey: Survey):
    """A second opinion: what the engine compiles from the two tables, by name and by value."""
    specs = {mutant.id: mutant.table for mutant in ALL}
    equal = [specs[fate.id] for fate in survey.of("equivalent")]
    assert len(equal) > (5 if survey.tried == FAMILY_T else 10)
    for spec in equal:
        for flags in SPEC.capability_sets():
            one, other = SPEC.machine(flags), spec.machine(flags)
            mine, theirs = Program.of(one), Program.of(other)
            assert mine.initial == theirs.initial
            assert mine.events == theirs.events
            assert _moves(mine) == _moves(theirs)
            for state in one.states:
                for target in range(12):
                    refused = [
                        machine.route(state.name, target).refused for machine in (one, other)
                    ]
                    assert len({row and row.errno for row in refused}) == 1


def _moves(program: Program) -> dict[Any, Any]:
    # Where no session is open, an arc that keeps it and one that does nothing are alike.
    return {
        (state, target): [(arc.from_, arc.to, situation) for arc, _, situation in moves]
        for state, targets in program.moves.items()
        for target, moves in targets.items()
    }


# --- judging ---


def test_a_table_goes_to_data_and_back(spec: Spec, ninth_state: Spec):
    for each in (spec, ninth_state):
        assert from_data(as_data(each)) == each


def test_a_weak_set_of_obligations_is_found_out():
    """T1 states that arcs are steps, and nothing of arcs that are missing."""
    survey = mutate(SPEC, kinds=["arc-removed", "arc-added"], against=["T1"], jobs=1)
    survivors = [fate.sentence for fate in survey.of("survived")]
    assert len(survivors) == 11
    assert survivors[3] == "arcs[4] STOP -> STOP_COPY removed"
    assert survey.caught is False
    # Loading still refuses a state without a way back, and an arc that contradicts a refusal.
    by_load = [fate.sentence for fate in survey.fates if fate.by == (LOAD,)]
    assert len(by_load) == 5
    assert by_load[-1] == "arc STOP_COPY -> PRE_COPY_P2P added"
    with_t2 = mutate(SPEC, kinds=["arc-removed"], against=["T1", "T2"], jobs=1)
    assert [fate.by for fate in with_t2.fates] == [("T2",)] * len(SPEC.arcs)
    assert with_t2.caught is True
    assert with_t2.kills == {"T1": 0, "T2": len(SPEC.arcs), LOAD: 0}


def test_a_full_survey_goes_on_after_the_first_kill():
    survey = mutate(SPEC, kinds=["initial"], against=["T3", "T7"], full=True, jobs=1)
    (fate,) = [fate for fate in survey.fates if fate.id == "initial:initial=RUNNING_P2P"]
    assert {"T3", "T7"} <= set(fate.by)
    assert survey.violations["T7"] > survey.kills["T7"]


@pytest.mark.exhaustive
def test_the_number_of_processes_makes_no_difference():
    kinds = ["arc-removed", "judged"]
    alone = mutate(SPEC, kinds=kinds, against=["T"], jobs=1)
    together = mutate(SPEC, kinds=kinds, against=["T"], jobs=3)
    assert len(alone.fates) > 2 * module.UNIT
    assert alone.fates == together.fates
    assert {fate.outcome for fate in alone.fates} == {"killed", "equivalent", "survived"}


def planted(monkeypatch: pytest.MonkeyPatch, queries) -> None:
    """Let there be one obligation only, which asks these queries."""
    only = Obligation("X1", "It holds.", "everything", "symbolic", "A test.", queries)
    monkeypatch.setattr(subjects, "select", lambda _names: (only,))


def test_an_exception_is_no_kill(monkeypatch: pytest.MonkeyPatch):
    def queries(encoding: Encoding) -> Iterator[Query]:
        if encoding.spec != SPEC:
            raise ZeroDivisionError("planted")
        yield from ()
        yield Query("w", "witness", (z3.BoolVal(True),), "sat", lambda _: Example("it does"))

    planted(monkeypatch, queries)
    survey = mutate(SPEC, kinds=["routing", "stream-end", "request-order"], jobs=1)
    assert not survey.kills["X1"]
    # Two stream ends of one kind cannot be loaded; that is seen without asking anything.
    assert {fate.outcome for fate in survey.fates if fate.by == (LOAD,)} == {"killed"}
    broken = survey.of("broken")
    assert len(broken) > 5
    assert {fate.reason for fate in broken} == {"ZeroDivisionError: planted"}
    assert survey.caught is False


def test_a_solver_that_gives_up_has_killed_nothing(monkeypatch: pytest.MonkeyPatch):
    x, y, z = z3.Ints("x y z")

    def queries(encoding: Encoding) -> Iterator[Query]:
        hard = x * x * x + y * y * y + z * z * z == 114  # nobody knows
        formula = z3.BoolVal(False) if encoding.spec == SPEC else hard
        yield Query("q", "claim", (formula,), "unsat", lambda _: Example("solved"))
        yield Query("w", "witness", (z3.BoolVal(True),), "sat", lambda _: Example("it does"))

    planted(monkeypatch, queries)
    survey = mutate(SPEC, kinds=["settable"], jobs=1, timeout=0.05)
    assert {fate.outcome for fate in survey.fates} == {"unknown"}
    assert survey.caught is None
    assert survey.fates[0].reason is not None
    assert "X1: q:" in survey.fates[0].reason


def test_a_table_that_is_not_proved_is_not_mutated():
    (wrong,) = [mutant for mutant in ALL if mutant.id == "arc-removed:arcs[3]"]
    with pytest.raises(SpecError, match="is not a table to mutate: T2 is violated of it"):
        mutate(wrong.table, jobs=1)


@pytest.mark.parametrize(
    ("options", "place"),
    [({"kinds": ["arc-remove"]}, "--only"), ({"against": ["T99"]}, "--only")],
)
def test_a_name_that_means_nothing_is_refused(options: dict[str, Any], place: str):
    with pytest.raises(SpecError) as refused:
        mutate(SPEC, **options)
    assert refused.value.mistakes[0].place == place


# --- all of them; of those that family T decides, a sample ---

FAMILY_T = tuple(obligation.id for obligation in OBLIGATIONS if obligation.id.startswith("T"))
DECIDED_BY_T = (
    *("arc-removed", "arc-added", "arc-redirected", "refusal-dropped", "routing"),
    *("request-order", "off-grid", "grid-order", "mandatory"),
)
"""Kinds none of whose mutants needs another family to be caught."""


@pytest.fixture(
    scope="module", params=["sample", pytest.param("all", marks=pytest.mark.exhaustive)]
)
def survey(request: pytest.FixtureRequest) -> Survey:
    """Every mutant of the table against every obligation; or a sample of both."""
    if request.param == "all":
        return mutate(SPEC)
    return mutate(SPEC, kinds=DECIDED_BY_T, against=["T"], jobs=1)


def mutants_in(survey: Survey) -> list[Mutant]:
    """The mutants that a survey is about."""
    return [one for one in ALL if survey.tried != FAMILY_T or one.kind in DECIDED_BY_T]


@pytest.mark.exhaustive
def test_every_mutant_has_its_fate(survey: Survey):
    assert [fate.id for fate in survey.fates] == [mutant.id for mutant in mutants_in(survey)]
    assert survey.tried in (FAMILY_T, tuple(obligation.id for obligation in OBLIGATIONS))
    assert sum(survey.kills.values()) == len(survey.of("killed"))
    assert not survey.of("unknown")
    assert not survey.of("broken")


def test_nothing_survives(survey: Survey):
    assert [fate.sentence for fate in survey.of("survived")] == []
    assert survey.caught is True


def test_what_only_loading_refuses_is_little_and_cannot_be_loaded(survey: Survey):
    by_load = {fate.id: fate.kind for fate in survey.of("killed") if fate.by == (LOAD,)}
    kinds = {mutant.kind for mutant in mutants_in(survey)}
    expected = {
        "session-effect": 1,  # a move that arcs make and no row speaks of
        "event-drops": 6,  # drops where nobody would read them
        "mandatory": 1,  # a profile would lack it
        "profile": 2,  # a profile without what is mandatory
    }
    found = collections.Counter(by_load.values())
    assert found == {kind: count for kind, count in expected.items() if kind in kinds}
    assert not any(can_be_loaded(mutant.table) for mutant in ALL if mutant.id in by_load)


def rows_of_kinds(text: str) -> list[str]:
    """The rows of the page that count the mutants of a kind."""
    return [row for row in text.splitlines() if re.match(r"\| [a-z-]+ \| .* \| \d+ \|$", row)]


def test_the_page_is_up_to_date(survey: Survey):
    """Made anew by `python tools/mutants_page.py`."""
    shown = (ROOT / "docs" / PAGE).read_text("utf-8")
    if survey.tried != FAMILY_T:
        assert "".join(differences(page(survey), ROOT / "docs" / PAGE)) == ""
        return
    # What can be reported without trying them all: how many there are, and the rows of those tried.
    assert f"\n**{len(ALL)}** mutants of {SPEC.title}: " in shown
    mine = rows_of_kinds(page(survey))
    assert len(mine) == len(DECIDED_BY_T)
    everyone = rows_of_kinds(shown)
    assert set(mine) <= set(everyone)
    counts = collections.Counter(mutant.kind for mutant in ALL)
    assert {row.split(" | ")[0][2:]: int(row.split(" | ")[2]) for row in everyone} == counts


def killed_by(survey: Survey) -> dict[str, Mutant]:
    """Per obligation the first mutant it kills that can be loaded."""
    specs = {mutant.id: mutant for mutant in ALL}
    found: dict[str, Mutant] = {}
    for fate in survey.of("killed"):
        if can_be_loaded(specs[fate.id].table):
            found.setdefault(fate.by[0], specs[fate.id])
    return found


@pytest.mark.exhaustive
def test_a_kill_is_a_violation_that_a_user_would_see(survey: Survey):
    """The survey asks without building examples; `verify` finds the same and shows one."""
    found = killed_by(survey)
    assert len(found) > (3 if survey.tried == FAMILY_T else 15)
    for name, mutant in found.items():
        (verdict,) = verify(mutant.table, only=[name], jobs=1).verdicts
        assert verdict.outcome == "violated", (name, mutant.sentence)
        assert verdict.example is not None
        assert verdict.example.text
