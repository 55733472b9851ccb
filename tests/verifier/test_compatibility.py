"""Definitions of compatibility: known answers, engines that agree, and a search by brute force."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from support.samples import sample, sampled
from support.table_edits import apply, spec_of, table_data
from vfio_migration.model import Spec, SpecError, load
from vfio_migration.model.history import forms, named
from vfio_migration.runtime import Engine, NullDevice
from vfio_migration.runtime.engine.errors import EngineError, RequestRefusedError
from vfio_migration.verifier.comparison import report
from vfio_migration.verifier.comparison.compatibility import Step
from vfio_migration.verifier.comparison.definitions import DEFINITIONS, definition
from vfio_migration.verifier.comparison.report import Comparison, compare
from vfio_migration.verifier.mutation.edits import Mutant, mutants

ALL = "STOP_COPY,P2P,PRE_COPY"


def edited(**edit: Any) -> Spec:
    return spec_of(apply(edit, table_data()))


def arc(from_: str, to: str) -> dict[str, str]:
    return {"from": from_, "to": to, "summary": "An arc of a test.", "source": "a test"}


def refusal(from_: str, to: str) -> dict[str, str]:
    return {"from": from_, "to": to, "errno": "EINVAL", "reason": "a test", "source": "a test"}


def form(name: str) -> Spec:
    spec = named(name)
    assert spec is not None
    return spec


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {judged.definition.id: judged.verdict for judged in comparison.judgements}


def failing(comparison: Comparison) -> set[str]:
    return {name for name, verdict in verdicts(comparison).items() if verdict == "fails"}


def shown(comparison: Comparison, name: str) -> tuple[Step, ...]:
    [judged] = [judged for judged in comparison.judgements if judged.definition.id == name]
    assert judged.shortest is not None
    assert judged.shortest.distinguishing is not None
    return judged.shortest.distinguishing.steps


@pytest.mark.parametrize("name", [row.name for row in forms()])
def test_a_table_is_compatible_with_itself_by_every_definition(name: str) -> None:
    comparison = compare(form(name), form(name))
    assert set(verdicts(comparison).values()) == {"holds"}
    assert comparison.changes == ()


def test_p2p_states_are_tolerated_after_a_failure_by_who_does_not_know_them() -> None:
    comparison = compare(form("linux-5.18-without-p2p"), load())
    assert failing(comparison) == {"1", "4"}
    assert comparison.compatible is True
    [step] = shown(comparison, "4")
    assert step.action.value == load().state("STOP").value
    assert (step.new.kind, step.new.position.state) == ("failed", "RUNNING_P2P")
    assert {outcome.position.state for outcome in step.old} == {"STOP", "RUNNING", "ERROR"}


def test_pre_copy_changes_nothing_for_who_reads_the_flags() -> None:
    assert failing(compare(form("linux-6.1"), form("linux-6.2"))) == {"1"}


def test_an_arc_back_to_pre_copying_is_seen_by_who_relies_on_the_refusal() -> None:
    new = edited(
        remove={"refusals": [["STOP_COPY", "PRE_COPY_P2P"]]},
        add={"arcs": [arc("STOP_COPY", "PRE_COPY_P2P")]},
    )
    comparison = compare(load(), new)
    assert failing(comparison) == {"1", "2", "4", "5", "6"}
    assert comparison.compatible is False
    for judged in comparison.judgements:
        sets = {str(decision.pairing) for decision in judged.decisions if not decision.holds}
        assert sets <= {ALL}
    last = shown(comparison, "5")[-1]
    assert [outcome.kind for outcome in last.old] == ["refused"]
    assert last.new.kind == "done"


def test_a_device_without_p2p_is_the_same_to_every_client() -> None:
    comparison = compare(load(), form("vfio-user"))
    assert failing(comparison) == set()
    assert [change.name for change in comparison.changes if change.what == "capability"] == ["P2P"]


def test_an_unknown_state_that_simulates_no_known_one_is_not_tolerated() -> None:
    # A device that is in RUNNING_P2P after a failure cannot be brought back to RUNNING there,
    # as one in RUNNING and one in STOP can.
    new = edited(
        remove={"arcs": [["RUNNING_P2P", "RUNNING"]]},
        add={
            "arcs": [arc("STOP", "RUNNING")],
            "refusals": [refusal("RUNNING_P2P", "RUNNING")],
        },
    )
    comparison = compare(form("linux-5.18-without-p2p"), new)
    assert failing(comparison) == {"1", "4", "5"}
    first, last = shown(comparison, "5")
    assert first.new.position.state == "RUNNING_P2P"
    assert first.matched is None
    assert last.before[0].state != last.before[1].state
    assert last.action.value == load().state("RUNNING").value


def test_a_client_that_is_polite_does_not_notice_that_more_is_accepted() -> None:
    new = edited(remove={"refusals": [["STOP_COPY", "PRE_COPY"]]})
    comparison = compare(new, load())
    assert {"2", "3"} <= failing(comparison)  # a device of OLD accepts what is refused here
    assert "3" not in failing(compare(load(), new))


def test_a_driver_is_asked_for_an_arc_it_does_not_have() -> None:
    comparison = compare(load(), edited(add={"arcs": [arc("RUNNING", "STOP")]}))
    [step] = shown(comparison, "6")
    assert [str(taken) for taken in step.new.arcs] == ["RUNNING -> STOP"]
    assert [c.name for c in comparison.changes if c.what == "arc of drivers"] == [
        "RUNNING -> STOP (no data session)"
    ]


def test_a_reset_that_leads_elsewhere_is_seen_without_any_request() -> None:
    new = edited(set=[{"section": "events", "row": "reset", "key": "to", "value": "STOP"}])
    [step] = shown(compare(load(), new), "3")
    assert step.action.event == "reset"


def test_a_failure_that_no_longer_happens_surprises_nobody() -> None:
    # Back to one arc: RUNNING_P2P is not entered any more on the way to STOP.
    new = edited(add={"arcs": [arc("RUNNING", "STOP"), arc("STOP", "RUNNING")]})
    assert {"4", "5"}.isdisjoint(failing(compare(load(), new)))


def test_an_errno_of_a_refusal_is_part_of_the_answer() -> None:
    place = {"section": "refusals", "row": ["STOP_COPY", "PRE_COPY"]}
    new = edited(set=[place | {"key": "errno", "value": "EBUSY"}])
    comparison = compare(load(), new)
    assert failing(comparison) == {"1", "2", "4", "5"}
    assert [change.name for change in comparison.changes if not change.flags] == [
        "STOP_COPY -> PRE_COPY.errno"
    ]


def test_what_a_device_does_in_a_state_is_part_of_what_a_client_can_observe() -> None:
    may = load().operation("running").may
    place = {"section": "operations", "row": "p2p_quiesced", "key": "may", "value": list(may)}
    comparison = compare(load(), edited(set=[place]))
    assert failing(comparison) == {"1", "2", "3", "4", "5"}


def test_paths_that_moved_are_listed_with_their_capability_sets() -> None:
    comparison = compare(form("linux-5.18-without-p2p"), load())
    [moved] = [c for c in comparison.changes if c.name == "RUNNING -> STOP" and c.flags]
    assert (moved.kind, moved.old, moved.new) == (
        "moved",
        "RUNNING -> STOP",
        "RUNNING -> RUNNING_P2P -> STOP",
    )
    assert moved.flags == (("STOP_COPY", "P2P"), ("STOP_COPY", "P2P", "PRE_COPY"))


def test_tables_without_a_common_capability_set_cannot_be_compared() -> None:
    data = table_data()
    for row in data["capabilities"]:
        row["value"] <<= 4
    with pytest.raises(SpecError, match="demands STOP_COPY"):
        compare(load(), spec_of(data))


@pytest.mark.parametrize("row", DEFINITIONS, ids=lambda row: row.id)
def test_a_definition_is_found_with_and_without_parentheses(row) -> None:
    assert definition(row.id) is definition(f"({row.id})") is row


def test_live_engines_that_disagree_make_a_verdict_unknown(monkeypatch) -> None:
    monkeypatch.setattr(report, "confirm", lambda _decision: "they do otherwise")
    comparison = compare(load(), load())
    assert set(verdicts(comparison).values()) == {"unknown"}
    assert comparison.compatible is None


MUTANTS = {mutant.id: mutant for mutant in mutants(load())}
# Stronger definitions, and what follows from each.
FOLLOWS = (("1", "2"), ("2", "3"), ("4", "2"), ("4", "5"), ("5", "2"))


@sampled(2)
@pytest.mark.parametrize("name", sample(MUTANTS, apart=40))
def test_live_engines_agree_about_every_single_edit(name: str) -> None:
    mutant = MUTANTS[name]
    try:
        comparison = compare(load(), mutant.table)
    except SpecError:
        return  # no engine runs such a table either
    found = verdicts(comparison)
    assert "unknown" not in found.values()
    for stronger, weaker in FOLLOWS:
        assert found[stronger] == "fails" or found[weaker] == "holds"
    assert comparison.changes or failing(comparison) == set()


# --- a second decision, by trying out ---

DEPTH = 2
SETS = (ALL, "STOP_COPY,PRE_COPY")


def answers(spec: Spec, flags: str, requests: Sequence[int | None]) -> list[object]:
    """Ask a live engine; None is a reset. Return what a client sees, first before any."""
    engine = Engine(spec, flags, NullDevice())

    def seen(kind: str, before: int | None) -> object:
        row = spec.state(engine.state)
        session = engine.session and (engine.session == before)
        may = frozenset(spec.operation(row.operation).may)
        transfer = spec.session(row.session).transfer
        return kind, row.value, session, transfer, spec.stream_end(row.name), may

    found = [seen("start", None)]
    for request in requests:
        before, kind = engine.session, "done"
        try:
            engine.reset() if request is None else engine.set_state(request)
        except RequestRefusedError as error:
            kind = error.errno
        except (EngineError, SpecError) as error:
            kind = type(error).__name__
        found.append(seen(kind, before))
    return found


def kinds() -> list[Mutant]:
    """One mutant of each kind, of those that engines run."""
    found: dict[str, Mutant] = {}
    for mutant in MUTANTS.values():
        found.setdefault(mutant.kind, mutant)
    return list(found.values())


@pytest.mark.parametrize("mutant", sample(kinds(), apart=6), ids=lambda mutant: mutant.kind)
def test_the_shortest_sequence_is_the_one_that_trying_out_finds(mutant: Mutant) -> None:
    old, new = load(), mutant.table
    try:
        [judged] = [j for j in compare(old, new).judgements if j.definition.id == "1"]
    except SpecError:
        return
    known = {row.value for row in (*old.states, *new.states)}
    values = [*known, max(known) + 1, None]
    for decision in judged.decisions:
        flags = ",".join(decision.pairing.new.machine.names)
        if flags not in SETS or not decision.pairing.common:
            continue
        expected = next(
            (
                depth
                for depth in range(DEPTH + 1)
                for requests in itertools.product(values, repeat=depth)
                if answers(old, flags, requests) != answers(new, flags, requests)
            ),
            None,
        )
        found = decision.distinguishing
        steps = None if found is None else len(found.steps)
        assert (steps if steps is not None and steps <= DEPTH else None) == expected
