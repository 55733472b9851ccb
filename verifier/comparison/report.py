"""Two tables compared, as a whole, and what is stated of it: data, text, Markdown, mail."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vfio_migration.model import Spec
from vfio_migration.verifier.comparison import changes
from vfio_migration.verifier.comparison.behaviour import Action, Behaviour, Outcome, Position
from vfio_migration.verifier.comparison.changes import Change
from vfio_migration.verifier.comparison.compatibility import (
    Decision,
    Pairing,
    Step,
    decide,
    pairings,
)
from vfio_migration.verifier.comparison.confirm import confirm
from vfio_migration.verifier.comparison.definitions import DEFINITIONS, Definition
from vfio_migration.verifier.report import letter as letters
from vfio_migration.verifier.report.letter import Letter

Verdict = Literal["holds", "fails", "unknown"]
"""Unknown: the live engines do not do what the search reports they do."""


@dataclass(frozen=True)
class Judgement:
    """What became of one definition.

    Attributes:
        definition: The definition.
        decides: Whether it decides if the tables are compatible.
        decisions: One for each pairing it speaks of.
        unconfirmed: What the live engines did otherwise, or None.
    """

    definition: Definition
    decides: bool
    decisions: tuple[Decision, ...]
    unconfirmed: str | None

    @property
    def verdict(self) -> Verdict:
        """Fails if it fails for any pairing, and the live engines show it."""
        if self.unconfirmed is not None:
            return "unknown"
        return "holds" if all(decision.holds for decision in self.decisions) else "fails"

    @property
    def shortest(self) -> Decision | None:
        """The failing pairing with the shortest sequence, the smallest flags word first."""
        failing = [decision for decision in self.decisions if decision.distinguishing is not None]
        return min(failing, key=_length, default=None)


@dataclass(frozen=True)
class Comparison:
    """OLD and NEW compared.

    Attributes:
        old: OLD.
        new: NEW.
        names: What they are called in messages.
        changes: What differs.
        judgements: One for each definition.
        letter: What became of the obligations, or None if they were not decided.
    """

    old: Spec
    new: Spec
    names: tuple[str, str]
    changes: tuple[Change, ...]
    judgements: tuple[Judgement, ...]
    letter: Letter | None = None

    @property
    def compatible(self) -> bool | None:
        """All definitions that decide hold; None if one of them is unknown and none fails."""
        verdicts = {judged.verdict for judged in self.judgements if judged.decides}
        if "fails" in verdicts:
            return False
        return None if "unknown" in verdicts else True


def compare(
    old: Spec,
    new: Spec,
    names: tuple[str, str] = ("OLD", "NEW"),
    require: Sequence[str] = (),
    letter: Letter | None = None,
) -> Comparison:
    """Compare two tables.

    Args:
        old: OLD.
        new: NEW.
        names: What they are called in messages.
        require: The definitions that decide, by name; by default those that state it.
        letter: What became of the obligations, if they were decided.

    Raises:
        SpecError: The tables have no capability set in common, or do not hold together for one.
    """
    paired = pairings(old, new)
    found = (*changes.rows(old, new), *changes.drivers_arcs(paired), *changes.requests(paired))
    judged = tuple(
        _judge(row, paired, decides=row.id in require if require else row.decides)
        for row in DEFINITIONS
    )
    return Comparison(old, new, names, found, judged, letter)


def _judge(definition: Definition, paired: Sequence[Pairing], *, decides: bool) -> Judgement:
    decisions = tuple(
        decision for pairing in paired if (decision := decide(definition, pairing)) is not None
    )
    unconfirmed = (confirm(decision) for decision in decisions)
    first = next((problem for problem in unconfirmed if problem is not None), None)
    return Judgement(definition, decides, decisions, first)


def _length(decision: Decision) -> int:
    return 0 if decision.distinguishing is None else len(decision.distinguishing.steps)


# --- as data --------------------------------------------------------------------------------------


def to_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as `diff --json` prints it."""
    failing = [judged for judged in comparison.judgements if judged.shortest is not None]
    deciding = [judged for judged in failing if judged.decides]
    first = next((judged.shortest for judged in deciding), None)
    return {
        "old": comparison.names[0],
        "new": comparison.names[1],
        "compatible": comparison.compatible,
        "changes": [
            {
                "what": change.what,
                "kind": change.kind,
                "name": change.name,
                "old": change.old,
                "new": change.new,
                "flags": [list(names) for names in change.flags],
            }
            for change in comparison.changes
        ],
        "definitions": [_judgement_data(judged) for judged in comparison.judgements],
        "distinguishing": None if first is None else _steps_data(first),
        "obligations": _obligations_data(comparison.letter),
    }


def _obligations_data(letter: Letter | None) -> list[dict[str, Any]] | None:
    if letter is None:
        return None
    return [
        {
            "id": change.verdict.id,
            "change": change.kind,
            "old": change.old,
            "new": change.verdict.outcome,
            "violation": change.verdict.example.text if change.verdict.example else None,
        }
        for change in letter.changes
    ]


def _judgement_data(judged: Judgement) -> dict[str, Any]:
    shortest = judged.shortest
    return {
        "id": judged.definition.id,
        "title": judged.definition.title,
        "statement": judged.definition.statement,
        "decides": judged.decides,
        "verdict": judged.verdict,
        "fails_for": [
            list(decision.pairing.new.machine.names)
            for decision in judged.decisions
            if not decision.holds
        ],
        "distinguishing": None if shortest is None else _steps_data(shortest),
        "live_engines": judged.unconfirmed or (None if shortest is None else "agree"),
    }


def _steps_data(decision: Decision) -> list[dict[str, Any]]:
    assert decision.distinguishing is not None
    old, new = decision.pairing.old, decision.pairing.new
    return [
        {
            "from": {"old": step.before[0].state, "new": step.before[1].state},
            "action": _action(new, step.action),
            "value": step.action.value,
            "fails": _fault(step.new),
            "new": _outcome_data(step.new),
            "old": [_outcome_data(outcome) for outcome in step.old],
            "flags": {"old": list(old.machine.names), "new": list(new.machine.names)},
        }
        for step in decision.distinguishing.steps
    ]


def _outcome_data(outcome: Outcome) -> dict[str, Any]:
    return {
        "kind": outcome.kind,
        "errno": outcome.errno,
        "state": outcome.position.state,
        "session": outcome.session,
        "arcs": [str(arc) for arc in outcome.arcs],
    }


def _fault(outcome: Outcome) -> str | None:
    if outcome.fault is None:
        return None
    return str(outcome.arcs[-1]) if outcome.arcs else "the event"


# --- as text --------------------------------------------------------------------------------------


def text(comparison: Comparison) -> list[str]:
    """Return the lines that `diff` prints for people: what changed, then who can still work."""
    return [
        *_change_lines(comparison),
        "",
        *_judgement_lines(comparison, 100),
        "",
        *([] if comparison.letter is None else [*letters.text(comparison.letter, 100), ""]),
        summary(comparison),
    ]


def mail(comparison: Comparison) -> list[str]:
    """Return plain text in 72 columns, the summary first: fit for a reply or a cover letter."""
    letter = comparison.letter
    lines = [
        summary(comparison),
        *([] if letter is None else [*letters.text(letter, letters.WIDTH)]),
        "",
        *_judgement_lines(comparison, letters.WIDTH),
        "",
        *_change_lines(comparison),
    ]
    return [part for line in lines for part in letters.folded(line, letters.WIDTH)]


def markdown(comparison: Comparison) -> list[str]:
    """Return Markdown, the summary first."""
    lines = [
        f"**{summary(comparison)}**",
        "",
        "| | definition | verdict | fails for |",
        "|---|---|---|---|",
    ]
    for judged in comparison.judgements:
        sets = "; ".join(str(d.pairing) for d in judged.decisions if not d.holds)
        verdict = f"**{judged.verdict}**" if judged.decides else judged.verdict
        lines.append(
            f"| ({judged.definition.id}) | {judged.definition.title} | {verdict} | {sets} |"
        )
    for judged in comparison.judgements:
        if judged.shortest is not None:
            title = f"({judged.definition.id}) {judged.definition.title}"
            lines += ["", f"{title}:", "", "```text", *shown(judged, judged.shortest), "```"]
    lines += ["", "```text", *_change_lines(comparison), "```"]
    letter = comparison.letter
    return lines if letter is None else [*lines, "", *letters.markdown(letter)]


def summary(comparison: Comparison) -> str:
    """Return the outcome in one line."""
    names = " to ".join(comparison.names)
    deciding = [judged for judged in comparison.judgements if judged.decides]
    others = [judged for judged in comparison.judgements if not judged.decides]
    warnings = [judged for judged in others if judged.verdict != "holds"]
    more = f"; {_fail(warnings)}" if warnings else ""
    if comparison.compatible is False:
        against = [judged for judged in deciding if judged.verdict == "fails"]
        return f"{names}: not compatible, for {_fail(against)}{more}"
    by = " and ".join(f"({judged.definition.id})" for judged in deciding)
    what = "unknown" if comparison.compatible is None else "compatible"
    return f"{names}: {what} by {by}{more}"


def _fail(judged: Sequence[Judgement]) -> str:
    listed = ", ".join(f"({one.definition.id})" for one in judged)
    return f"{listed} fail{'s' if len(judged) == 1 else ''}"


def _change_lines(comparison: Comparison) -> Iterator[str]:
    if not comparison.changes:
        yield "no change of behaviour in any row"
        return
    of_rows = [change for change in comparison.changes if not change.flags]
    of_sets = [change for change in comparison.changes if change.flags]
    if of_rows:
        yield "rows of the table:"
        yield from (f"  {_change(change)}" for change in of_rows)
    for what, title in (("arc of drivers", "arcs of drivers:"), ("request", "requests:")):
        found = [change for change in of_sets if change.what == what]
        if found:
            yield title
            for change in found:
                yield f"  {_change(change)}"
                yield f"    with {'; '.join(','.join(names) for names in change.flags)}"


def _change(change: Change) -> str:
    if change.kind == "added":
        more = f": {change.new}" if change.new else ""
        return f"+ {change.what} {change.name}{more}"
    if change.kind == "removed":
        return f"- {change.what} {change.name}"
    return f"~ {change.what} {change.name}: {change.old} => {change.new}"


def _judgement_lines(comparison: Comparison, width: int) -> Iterator[str]:
    yield "compatibility: a device of NEW, and a client or driver that knows OLD"
    for judged in comparison.judgements:
        mark = "decides" if judged.decides else "warning" if judged.verdict != "holds" else ""
        row = judged.definition
        yield f"  ({row.id}) {judged.verdict:<8}{row.title:<32}{mark}".rstrip()
    seen: dict[tuple[str, ...], str] = {}
    for judged in comparison.judgements:
        if judged.shortest is None:
            continue
        yield ""
        yield from textwrap.wrap(f"({judged.definition.id}) {judged.definition.statement}", width)
        lines = tuple(shown(judged, judged.shortest))
        first = seen.setdefault(lines, judged.definition.id)
        if first != judged.definition.id:
            yield f"  fails as ({first}) does, with the same sequence"
            continue
        yield from lines
        if judged.unconfirmed is not None:
            yield f"  unknown: {judged.unconfirmed}"
        else:
            of_both = judged.definition.client is not None
            by = "Live engines of both tables" if of_both else "A live engine of NEW"
            yield f"  {by} did this."


def shown(judged: Judgement, decision: Decision) -> Iterator[str]:
    """Yield the lines of a distinguishing sequence."""
    assert decision.distinguishing is not None
    old, new = decision.pairing.old, decision.pairing.new
    sets = [d.pairing for d in judged.decisions if not d.holds]
    yield f"  fails with {'; '.join(str(pairing) for pairing in sets)}"
    steps = decision.distinguishing.steps
    if not steps:
        yield f"  OLD starts in {_place(old.start)}, NEW in {_place(new.start)}"
    for number, step in enumerate(steps, 1):
        yield from _step_lines(number, step, decision)


def _step_lines(number: int, step: Step, decision: Decision) -> Iterator[str]:
    new = decision.pairing.new
    fails = _fault(step.new)
    yield f"  {number}. {_action(new, step.action)}" + (f"; {fails} fails" if fails else "")
    yield f"       NEW: {_outcome(step.new)}"
    if not step.old:
        path = "; ".join(str(arc) for arc in step.new.arcs)
        yield f"       arcs: {path or 'none'}"
    elif step.matched is not None:
        yield f"       OLD: {_outcome(step.matched)}"
    else:
        outcomes = dict.fromkeys(_outcome(outcome) for outcome in step.old)
        yield f"       OLD: {' | '.join(outcomes)}"
        if set(outcomes) == {_outcome(step.new)}:
            yield from _conduct(decision, step)
        following = _following(decision, step)
        if following is not None:
            yield f"       taken for a device of OLD in {_place(following)}:"


def _conduct(decision: Decision, step: Step) -> Iterator[str]:
    """Yield what a device does otherwise where it stands, if that is all that can be told apart."""
    mine = decision.pairing.new.seen(step.new.position).may
    theirs = decision.pairing.old.seen(step.old[0].position).may
    for words, activities in (("may not", theirs - mine), ("may besides", mine - theirs)):
        if activities:
            yield f"       there a device of NEW {words}: {', '.join(sorted(activities))}"


def _following(decision: Decision, step: Step) -> Position | None:
    assert decision.distinguishing is not None
    steps = decision.distinguishing.steps
    place = steps.index(step) + 1
    return steps[place].before[0] if place < len(steps) else None


def _action(behaviour: Behaviour, action: Action) -> str:
    if action.event is not None:
        return action.event
    names = {row.value: row.name for row in behaviour.spec.states}
    assert action.value is not None
    return f"SET_STATE {names.get(action.value, action.value)}"


_SESSION = {
    "none": "",
    "same": ", session kept",
    "new": ", session new",
    "ended": ", session ended",
}


def _outcome(outcome: Outcome) -> str:
    if outcome.kind == "undecided":
        return "no row of the table decides this"
    if outcome.kind == "refused":
        return f"refused ({outcome.errno})"
    session = {
        "none": "",
        "same": ", session kept",
        "new": ", session new",
        "ended": ", session ended",
    }
    verb = "fails; in" if outcome.kind == "failed" else "in"
    return f"{verb} {outcome.position.state}{session[outcome.session]}"


def _place(position: Position) -> str:
    return f"{position.state}{' with a data session' if position.open else ''}"


FORMATS: dict[str, Callable[[Comparison], list[str]]] = {
    "text": text,
    "mail": mail,
    "md": markdown,
}

__all__ = [
    "FORMATS",
    "Comparison",
    "Judgement",
    "compare",
    "mail",
    "markdown",
    "shown",
    "summary",
    "text",
    "to_data",
]
