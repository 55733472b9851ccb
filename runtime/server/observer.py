"""What happens to the device of a server, logged and counted: the observer of its engine."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from vfio_migration.runtime.engine.errors import words
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.engine.records import Record
from vfio_migration.runtime.protocol.connection import ProtocolFault
from vfio_migration.runtime.protocol.layout import WIRE
from vfio_migration.runtime.server.error_fields import error_fields
from vfio_migration.runtime.server.log import LOGGER, log_event, log_record
from vfio_migration.runtime.server.repeats import Repeats
from vfio_migration.runtime.transport.channel import Traffic

MAX_KEPT_RECORDS: Final = 256
"""How many records wait to be logged: more than there are between two replies."""


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


class Counters(Traffic):
    """What a server has done, in numbers. `snapshot` gives all of it at once.

    Attributes:
        connections: Clients that were served.
        state: The state the device is in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connections = 0
        self.state = ""
        self._commands: dict[int, Times] = {}
        self._errors: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        # By kind, the two ends of what it is about, and phase.
        self._records: dict[tuple[str, str, str | None, str], int] = {}
        self._times: dict[str, Times] = {}

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

    def happened(self, record: Record, begun: int | None) -> None:
        """Count what has come to its end, and when it began if that is known."""
        self.state = record.after.state
        kind, arc = record.kind, record.arc
        from_, to = _ends(record) if arc is None else (arc.from_, arc.to)
        key = (kind, from_, to, record.phase)
        self._records[key] = self._records.get(key, 0) + 1
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


class ServerLog:
    """Counts what happens to a device, and logs it once there is time: an observer of its engine.

    A client is not kept waiting for lines of a log: records are kept until `write`, which
    a server calls when the reply is out. The times are those at which it happened. What failed is
    logged at once, and so is all once `MAX_KEPT_RECORDS` wait. Records may come from any thread.

    What changes nothing, as a request that is refused, is logged once and then counted
    (`vfio_migration.runtime.server.repeats`): a client may ask for it as often as it likes.

    Args:
        clock: Returns the time in seconds.

    Attributes:
        counters: What it counts.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counters = Counters()
        self._begun: dict[str, int] = {}
        self._kept: deque[tuple[Record, int | None, int]] = deque()
        self._repeats: Repeats[_Unchanged] = Repeats(_log_repeated, clock)
        self._asked_in: Situation | None = None
        self._failure_left_out = False

    def __call__(self, record: Record) -> None:
        """Count a record and keep it to be logged, once it is known what came of it."""
        kind, phase = record.kind, record.phase
        if phase == "started":
            self._begun[kind] = record.at
            if kind == "request":
                self._asked_in, self._failure_left_out = record.before, False
            return
        begun = self._begun.pop(kind, None)
        self.counters.happened(record, begun)
        if kind == "request" and phase == "completed" and record.before.state != record.after.state:
            return  # its arcs are logged
        left_out = self._admit(record)
        if left_out is None:
            return
        self._kept.append((record, begun, left_out))
        if phase == "failed" or len(self._kept) > MAX_KEPT_RECORDS:
            self.write()

    def _admit(self, record: Record) -> int | None:
        """Return how many like it were left out before, or None if it is left out, too."""
        kind, phase = record.kind, record.phase
        if kind == "arc":
            # What its request has changed before it failed is logged, and so are both failures.
            if phase != "failed" or record.after != self._asked_in:
                self._failure_left_out = False
                return 0
        elif kind != "request":
            return 0
        elif phase == "failed":
            return None if self._failure_left_out else 0  # as its arc
        elif record.before != record.after:
            return 0
        key = _Unchanged(_event(kind), _what(record), phase, record.errno, type(record.error))
        left_out = self._repeats.admit(key)
        self._failure_left_out = left_out is None
        return left_out

    def flush(self) -> None:
        """Log what was kept, and how often what changes nothing was left out."""
        self.write()
        self._repeats.flush()

    def write(self) -> None:
        """Log what was kept."""
        while self._kept:
            try:
                record, begun, left_out = self._kept.popleft()
            except IndexError:  # another thread logs it
                return
            level = logging.WARNING if record.phase == "failed" else logging.INFO
            if LOGGER.isEnabledFor(level):
                now = time.time() - (time.perf_counter_ns() - record.at) / 1e9
                fields = _fields(record, begun)
                if left_out:
                    fields["left_out"] = left_out
                row = log_record(_event(record.kind), level, fields, now)
                error = record.error
                if _is_raised(record) and error is not None and LOGGER.isEnabledFor(logging.DEBUG):
                    row.exc_info = type(error), error, error.__traceback__
                LOGGER.handle(row)


class _Unchanged(NamedTuple):
    """A kind of record that changes nothing; a reset is never one."""

    event: str
    what: str
    outcome: str
    errno: str | None
    error: type[object]


def _log_repeated(kind: _Unchanged, count: int) -> None:
    log_event(
        "repeated",
        of=kind.event,
        what=kind.what,
        outcome=kind.outcome,
        errno=kind.errno,
        left_out=count,
    )


def _event(kind: str) -> str:
    return "transition" if kind == "arc" else kind


def _fields(record: Record, begun: int | None) -> dict[str, Any]:
    after = record.after
    fields: dict[str, Any] = {
        "what": _what(record),
        "outcome": record.phase,
        "state": after.state,
    }
    if after.session is not None:
        fields["session"] = after.session
    if begun is not None:
        fields["us"] = (record.at - begun) // 1000
    if record.errno is not None:
        fields["errno"] = record.errno
    if record.kind == "request" and record.target is not None:
        fields["target"] = record.target
    if record.error is not None:
        if _is_raised(record):
            fields |= error_fields(record.error, record.engine.device)
        else:
            fields["why"] = words(record.error)
    return fields


def _is_raised(record: Record) -> bool:
    """Return whether a record has what the device itself raised."""
    return record.phase == "failed" and record.kind != "request"


def _what(record: Record) -> str:
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
