"""A verdict that can be sent: plain text with the summary first, and Markdown.

It states what is violated, what the source changes, the shortest counterexample, where it is on the
grid, and what else was decided. Compared with another table it states only what changed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vfio_migration.verifier.obligations.listings import LISTED, unlisted
from vfio_migration.verifier.prove import Report
from vfio_migration.verifier.report import blamed_rows as rows
from vfio_migration.verifier.report.replay import second_opinion
from vfio_migration.verifier.report.text import steps
from vfio_migration.verifier.report.verdict_changes import VerdictChange, verdict_changes
from vfio_migration.verifier.solver.obligation import Example, Obligation, Outcome, Verdict

WIDTH = 72
"""How wide a line of a mail is, at most."""


@dataclass(frozen=True)
class Letter:
    """What is to be stated.

    Attributes:
        name: What the table is called.
        report: Its verdicts.
        obligations: The obligations that were decided.
        against: What the other table is called, with its verdicts; or None.
        changed: What a source changes, a sentence each.
        findings: Sentences of a source that contradict its table.
        command: The command that states this.
        picture: The table as a picture in text. It is shown if something changed or is violated.
        of_source: The table was made of a source, whose lines are named and not its own rows.
    """

    name: str
    report: Report
    obligations: Sequence[Obligation]
    against: tuple[str, Report] | None = None
    changed: Sequence[str] = ()
    findings: Sequence[str] = ()
    command: str = ""
    picture: Sequence[str] = ()
    of_source: bool = False
    changes: tuple[VerdictChange, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Hold the two reports against each other."""
        found: tuple[VerdictChange, ...] = ()
        if self.against is not None:
            found = verdict_changes(self.against[1], self.report)
        object.__setattr__(self, "changes", found)

    @property
    def violated(self) -> list[Verdict]:
        """What is violated; compared with another table, what was not before."""
        if self.against is None:
            return [verdict for verdict in self.report.verdicts if verdict.outcome == "violated"]
        return [one.verdict for one in self.changes if one.kind == "newly violated"]

    @property
    def outcome(self) -> Outcome:
        """The outcome of the table; compared with another one, of what is otherwise."""
        if self.against is None:
            return self.report.outcome
        is_unknown = any(change.kind == "newly unknown" for change in self.changes)
        return "violated" if self.violated else "unknown" if is_unknown else "proved"


def summary(letter: Letter) -> str:
    """Say the outcome in one line."""
    total = len(letter.report.verdicts)
    if letter.against is not None:
        kinds = [change.kind for change in letter.changes]
        counted = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
        listed = ", ".join(counted) or "no verdict changes"
        return f"{letter.name} against {letter.against[0]}: {listed} (of {total} obligations)"
    outcomes = [verdict.outcome for verdict in letter.report.verdicts]
    listed = ", ".join(
        f"{outcomes.count(outcome)} {outcome}"
        for outcome in ("violated", "unknown", "proved")
        if outcome in outcomes
    )
    return f"{letter.name}: {listed} (of {total} obligations)"


def shortest(letter: Letter) -> Verdict | None:
    """Return the violation whose counterexample has the fewest steps.

    One without steps, and one that compares lists (T8), is taken only if there is no other.
    """

    def length(verdict: Verdict) -> tuple[bool, bool, int]:
        trace = verdict.example.trace if verdict.example else None
        compared = verdict.id == LISTED
        return compared, trace is None or not trace.steps, len(trace.steps) if trace else 0

    return min(letter.violated, key=length, default=None)


def text(letter: Letter, width: int = WIDTH) -> list[str]:
    """Return plain text: fit for a cover letter or a reply."""
    lines = [summary(letter)]
    if listed := list(_listed(letter)):
        lines.append("")
    lines += [f"  {verdict.id:<4} {mark}: {verdict.statement}" for mark, verdict in listed]
    for title, sentences in (
        ("What the source changes:", letter.changed),
        ("Sentences of the source that contradict its table:", letter.findings),
    ):
        if sentences:
            lines += ["", title, *(f"  {sentence}" for sentence in sentences)]
    found = shortest(letter)
    if found is not None and found.example is not None:
        lines += ["", f"The shortest counterexample, to {found.id}:", ""]
        lines += [f"  {line}" for line in _counterexample(letter, found, found.example)]
    if shown := list(_shown(letter)):
        lines += ["", *shown]
    if others := list(_others(letter)):
        lines += ["", *others]
    if letter.command:
        lines += ["", f"Made by: {letter.command}"]
    return [part for line in lines for part in folded(line, width)]


def markdown(letter: Letter) -> list[str]:
    """Return Markdown, the summary first."""
    lines = [f"**{summary(letter)}**"]
    if listed := list(_listed(letter)):
        lines += ["", "| | outcome | obligation |", "|---|---|---|"]
        lines += [f"| {one.id} | **{mark}** | {one.statement} |" for mark, one in listed]
    for title, sentences in (
        ("What the source changes", letter.changed),
        ("Sentences of the source that contradict its table", letter.findings),
    ):
        if sentences:
            lines += ["", f"{title}:", "", *(f"- `{sentence}`" for sentence in sentences)]
    found = shortest(letter)
    if found is not None and found.example is not None:
        lines += ["", f"The shortest counterexample, to {found.id}:", "", "```text"]
        lines += [*_counterexample(letter, found, found.example), "```"]
    if shown := list(_shown(letter)):
        lines += ["", "```text", *shown, "```"]
    lines += ["", *_others(letter)]
    if letter.command:
        lines += ["", f"Made by: `{letter.command}`"]
    return lines


def _listed(letter: Letter) -> Iterator[tuple[str, Verdict]]:
    if letter.against is not None:
        yield from ((change.kind, change.verdict) for change in letter.changes)
    else:
        yield from (("violated", verdict) for verdict in letter.violated)


def _shown(letter: Letter) -> Iterator[str]:
    if letter.against is not None or letter.of_source or letter.violated:
        yield from letter.picture
        yield from (f"  ! the request {row}" for row in letter.report.spec.next_steps)


def _counterexample(letter: Letter, verdict: Verdict, example: Example) -> Iterator[str]:
    spec = letter.report.spec
    has_steps = example.trace is not None and bool(example.trace.steps)
    if not (has_steps and rows.repeats(example)):
        yield rows.with_sources(spec, example.text) if letter.of_source else example.text
    if example.trace is not None and has_steps:
        yield ""
        yield from steps(example.trace)
    yield ""
    obligation = next(one for one in letter.obligations if one.id == verdict.id)
    yield f"Why it matters: {obligation.why}"
    blamed = rows.blamed(spec, example)
    if blamed is not None:
        row = rows.described(spec, blamed[1], of_source=letter.of_source)
        yield f"{blamed[0].capitalize()}: {row}"
    if opinion := second_opinion(example, spec):
        yield f"Run again: {opinion}."


def _others(letter: Letter) -> Iterator[str]:
    """Return what else was decided: the identifiers of what is proved, and why something is not."""
    if letter.against is None:
        proved = [verdict.id for verdict in letter.report.verdicts if verdict.outcome == "proved"]
        if proved:
            yield f"Proved: {' '.join(proved)}"
        unknown = [one for one in letter.report.verdicts if one.outcome == "unknown"]
    else:
        same = len(letter.report.verdicts) - len(letter.changes)
        yield f"As before: {same} obligations."
        unknown = [one.verdict for one in letter.changes if one.kind == "newly unknown"]
    for verdict in unknown:
        yield f"Unknown: {verdict.id}, {verdict.reason}"
    if any(verdict.id == LISTED for verdict in letter.report.verdicts):
        for name in unlisted(letter.report.spec):
            yield f"No listing knows the {name}: {LISTED} is silent about it."


def folded(line: str, width: int) -> list[str]:
    """Break a line so that it fits, what follows indented by two more."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    if len(line) <= width:
        return [line.rstrip()]
    return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)


__all__ = ["WIDTH", "Letter", "folded", "markdown", "shortest", "summary", "text"]
