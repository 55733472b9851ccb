"""What a coordinator reports of a migration while it goes on: to people, programs and tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vfio_migration.model.plan import Plans


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened.

    Attributes:
        name: What: "plan", "phase", "moved", "pass", "progress", "stopped", "running", "failed",
            "refuses", "recovering", "won", "retired", "asserted", "falls_back", "summary".
        fields: The rest; what JSON can hold. Bytes are counted in bytes, times in seconds.
        time: When, as `time.monotonic` counts.
    """

    name: str
    fields: dict[str, Any]
    time: float = field(default_factory=time.monotonic)

    def to_data(self, begun: float) -> dict[str, Any]:
        """Return plain data for JSON, its time counted from `begun`."""
        return {"event": self.name, "time": round(self.time - begun, 6), **self.fields}


Report: TypeAlias = Callable[[Event], object]
"""Called with each event, by the thread that coordinates; it is to be quick and not to raise."""


def report_asserted(asserted: Iterable[str], plans: Plans, report: Report) -> None:
    """Report what the operator answers for, in the words of its rows of [[assertions]]."""
    rows = {row.name: row for row in plans.assertions}
    for name in asserted:
        # A journal may have been written by another version.
        row = rows.get(name)
        fields = {"name": name, "option": row.option if row else None}
        report(Event("asserted", {**fields, "summary": row.summary if row else name}))


def ignore(_event: Event) -> None:
    """Ignore the event."""
