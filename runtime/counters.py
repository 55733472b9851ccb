"""What a server has done, in numbers."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Final, TypeAlias

from vfio_migration.runtime.observe import Record
from vfio_migration.runtime.protocol.events import ProtocolFault
from vfio_migration.runtime.protocol.layout import WIRE

Times: TypeAlias = list[int]
"""Of one thing: how many, nanoseconds in all, the longest."""

_NAMES: Final = {row.number: row.name for row in WIRE.commands}


class Counters:
    """Counts; also an observer of the engine. `snapshot` gives all of it at once.

    Attributes:
        connections: Clients that were served.
        bytes_in: Bytes read.
        bytes_out: Bytes sent.
        state: The state the device is in.
    """

    def __init__(self) -> None:
        self.connections = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.state = ""
        self._commands: dict[int, Times] = {}
        self._errors: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._records: Counter[tuple[str, str, str]] = Counter()
        self._times: dict[str, Times] = {}
        self._started: dict[str, int] = {}

    def served(self, number: int, nanoseconds: int, errno: str | None) -> None:
        """Count a command that was served, or refused with an errno."""
        _add(self.times(number), nanoseconds)
        if errno is not None:
            self.refused(errno)

    def times(self, number: int) -> Times:
        """Return where a command is counted, for who does that by himself."""
        row = self._commands.get(number)
        if row is None:
            row = self._commands[number] = [0, 0, 0]
        return row

    def refused(self, errno: str) -> None:
        """Count an errno that was answered."""
        self._errors[errno] += 1

    def fault(self, fault: ProtocolFault) -> None:
        """Count a message that broke the protocol."""
        self._faults[fault.occasion] += 1

    def __call__(self, record: Record) -> None:
        """Count what happens to the device."""
        self.state = record.after.state
        if record.phase == "started":
            self._started[record.kind] = time.perf_counter_ns()
            return
        self._records[record.kind, what(record), record.phase] += 1
        begun = self._started.pop(record.kind, None)
        if begun is not None:
            _add(self._times.setdefault(record.kind, [0, 0, 0]), time.perf_counter_ns() - begun)

    def transitions(self) -> dict[str, dict[str, int]]:
        """Return how often each arc was taken, by what came of it."""
        return self._of("arc")

    def snapshot(self) -> dict[str, Any]:
        """Return everything, as what JSON can hold."""
        return {
            "state": self.state,
            "connections": self.connections,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "commands": {
                _NAMES.get(number, str(number)): _times(row)
                for number, row in sorted(self._commands.items())
            },
            "errors": dict(sorted(self._errors.items())),
            "faults": dict(sorted(self._faults.items())),
            "transitions": self._of("arc"),
            "requests": self._of("request"),
            "resets": self._of("reset"),
            "disconnects": self._of("disconnect"),
            "latencies": {kind: _times(row) for kind, row in sorted(self._times.items())},
        }

    def _of(self, kind: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for (this, about, phase), count in sorted(self._records.items()):
            if this == kind:
                found.setdefault(about, {})[phase] = count
        return found


def what(record: Record) -> str:
    """Return in words what a record is about: an arc, a request, or the state an event met."""
    if record.arc is not None:
        return f"{record.arc.from_} -> {record.arc.to}"
    if record.kind == "request":
        # A number that no state has is a stranger's: all of them count as one.
        target = record.target if isinstance(record.target, str) else "?"
        return f"{record.before.state} -> {target}"
    return record.before.state


def _add(row: list[int], nanoseconds: int) -> None:
    row[0] += 1
    row[1] += nanoseconds
    row[2] = max(row[2], nanoseconds)


def _times(row: list[int]) -> dict[str, float]:
    count, total, longest = row
    return {
        "count": count,
        "mean_us": round(total / count / 1000, 1),
        "max_us": round(longest / 1000, 1),
    }
