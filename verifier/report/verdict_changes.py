"""Two reports held against each other: what a change made of the obligations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfio_migration.verifier.prove import Report
from vfio_migration.verifier.solver.obligation import Outcome, Verdict

Kind = Literal["newly violated", "still violated", "newly unknown", "newly proved"]


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """What became of one obligation.

    Attributes:
        kind: What.
        old: The outcome for OLD.
        verdict: The verdict for NEW.
    """

    kind: Kind
    old: Outcome
    verdict: Verdict


def verdict_changes(old: Report, new: Report) -> tuple[VerdictChange, ...]:
    """Return what differs, and what is violated by both, gravest first.

    An obligation that is unknown for both is no change; nor is one that is proved for both.
    """
    before = {verdict.id: verdict.outcome for verdict in old.verdicts}
    found = []
    for verdict in new.verdicts:
        was = before.get(verdict.id, "unknown")
        kind = _kind(was, verdict.outcome)
        if kind is not None:
            found.append(VerdictChange(kind, was, verdict))
    order = ("newly violated", "still violated", "newly unknown", "newly proved")
    return tuple(sorted(found, key=lambda change: order.index(change.kind)))


def _kind(old: Outcome, new: Outcome) -> Kind | None:
    if new == "violated":
        return "still violated" if old == "violated" else "newly violated"
    if new == old:
        return None
    return "newly proved" if new == "proved" else "newly unknown"


__all__ = ["Kind", "VerdictChange", "verdict_changes"]
