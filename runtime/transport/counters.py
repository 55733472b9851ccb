"""What a server has done, in numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from vfio_migration.runtime.engine.records import Record
from vfio_migration.runtime.protocol.events import ProtocolFault
from vfio_migration.runtime.protocol.layout import WIRE


class Times:
    """How often one thing was done, and how long it took.

    Attributes:
        count: How often.
        total: Nanoseconds in all.
        longest: Nanoseconds at most.
    """

    __slots__ = ("count", "longest", "total")

    def __init__(self) -> None:
        self.count = self.total = self.longest = 0

    def add(self, nanoseconds: int) -> None:
        """Count one more."""
        self.count += 1
        self.total += nanoseconds
        if nanoseconds > self.longest:  # `max` takes longer than all the rest
            self.longest = nanoseconds

    def snapshot(self) -> dict[str, float]:
        """Return it as what JSON can hold."""
        return {
            "count": self.count,
            "mean_us": round(self.total / self.count / 1000, 1) if self.count else 0.0,
            "max_us": round(self.longest / 1000, 1),
        }


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
        # By kind, the two ends of what it is about, and phase.
        self._records: dict[tuple[str, str, str | None, str], int] = {}
        self._times: dict[str, Times] = {}
        self._started: dict[str, int] = {}

    def served(self, number: int, nanoseconds: int, errno: str | None) -> None:
        """Count a command that was served, or refused with an errno."""
        times = self._commands.get(number)
        if times is None:
            times = self._commands[number] = Times()
        times.add(nanoseconds)
        if errno is not None:
            self._errors[errno] += 1

    def fault(self, fault: ProtocolFault) -> None:
        """Count a message that broke the protocol."""
        self._faults[fault.occasion] += 1

    def __call__(self, record: Record) -> None:
        """Count what happens to the device."""
        self.state = record.after.state
        kind, phase, arc = record.kind, record.phase, record.arc
        if phase == "started":
            self._started[kind] = record.at
            return
        from_, to = _ends(record) if arc is None else (arc.from_, arc.to)
        key = (kind, from_, to, phase)
        self._records[key] = self._records.get(key, 0) + 1
        begun = self._started.pop(kind, None)
        if begun is not None:
            times = self._times.get(kind)
            if times is None:
                times = self._times[kind] = Times()
            times.add(record.at - begun)

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
                _NAMES.get(number, str(number)): row.snapshot()
                for number, row in sorted(self._commands.items())
            },
            "errors": dict(sorted(self._errors.items())),
            "faults": dict(sorted(self._faults.items())),
            "transitions": self._of("arc"),
            "requests": self._of("request"),
            "resets": self._of("reset"),
            "disconnects": self._of("disconnect"),
            "latencies": {kind: row.snapshot() for kind, row in sorted(self._times.items())},
        }

    def _of(self, kind: str) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        counts = {
            (_words(from_, to), phase): count
            for (this, from_, to, phase), count in self._records.copy().items()
            if this == kind
        }
        for (about, phase), count in sorted(counts.items()):
            found.setdefault(about, {})[phase] = count
        return found


def what(record: Record) -> str:
    """Return in words what a record is about: an arc, a request, or the state an event met."""
    return _words(*_ends(record))


def _ends(record: Record) -> tuple[str, str | None]:
    if record.arc is not None:
        return record.arc.from_, record.arc.to
    if record.kind == "request":
        # A number that no state has is a stranger's: all of them count as one.
        return record.before.state, record.target if isinstance(record.target, str) else "?"
    return record.before.state, None


def _words(from_: str, to: str | None) -> str:
    return from_ if to is None else f"{from_} -> {to}"
