"""What a report states of a table, before it is a page: tables, traces and sentences.

Whoever proves makes a `ReportView`; `write_page` makes the page of it. No solver is needed for
either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfio_migration.model import Spec, Trace

Outcome = Literal["proved", "violated", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """What breaks an obligation.

    Attributes:
        text: What it is, in words; empty if its steps state all.
        trace: Its steps, or None if it has none.
        row: The row of the table it points at, with its source, or None.
        rerun: What the live engine does when it is run again, or None.
        command: The command that shows it again, or None.
    """

    text: str = ""
    trace: Trace | None = None
    row: str | None = None
    rerun: str | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one obligation.

    Attributes:
        id: The obligation.
        title: It in a few words.
        statement: Its sentence.
        outcome: What was found.
        method: How it was decided.
        why: Why it matters.
        witness: That its premise happens, in words; None unless proved.
        reason: Why it is unknown, or None.
        counterexample: What breaks it, or None.
        change: What became of it since the other table, as "newly violated", or None.
        not_shown: What a proof of it does not show; empty if that is not known.
    """

    id: str
    title: str
    statement: str
    outcome: Outcome
    method: str
    why: str
    witness: str | None = None
    reason: str | None = None
    counterexample: Counterexample | None = None
    change: str | None = None
    not_shown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFact:
    """One thing that another table has otherwise.

    Attributes:
        what: What kind of thing it is: "arc", "request".
        kind: "added", "removed", "changed" or "moved".
        name: Which one.
        old: How it was, or None.
        new: How it is, or None.
        flags: The capability sets for which it is so, each in words; empty for a row of the table.
    """

    what: str
    kind: str
    name: str
    old: str | None = None
    new: str | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The table that the other one is compared with.

    Attributes:
        name: What it is called.
        spec: The table.
        facts: What differs.
        compatible: Whether old clients and drivers work on, in one sentence; None if not decided.
        sequences: For each definition of compatibility that fails: it, and a run that shows it.
    """

    name: str
    spec: Spec
    facts: tuple[ChangedFact, ...] = ()
    compatible: str | None = None
    sequences: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """A whole report.

    Attributes:
        name: What the table is called.
        spec: The table.
        summary: The outcome in one line.
        findings: The verdicts, in the order of the catalogue.
        absent: Why there are no verdicts, and the way to get them; None if there are.
        notes: What else is to be stated of the table: what its source changes, for instance.
        against: The table that it is compared with, or None.
        flags: The only capability set to draw besides those of counterexamples; None for all.
    """

    name: str
    spec: Spec
    summary: str
    findings: tuple[Finding, ...] = ()
    absent: str | None = None
    notes: tuple[str, ...] = ()
    against: Against | None = None
    flags: str | int | None = None


__all__ = ["Against", "ChangedFact", "Counterexample", "Finding", "Outcome", "ReportView"]
