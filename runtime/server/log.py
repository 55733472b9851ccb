"""The log of a server: each thing that happens is an event with fields, as text or as JSON.

Events are ordinary records of `logging`, on the logger `vfio_migration.serve`, with the fields in
`record.fields`; `JsonLines` writes one object a line, `Text` a line for people. What other loggers
log gets the event "message".
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from vfio_migration.runtime.engine.errors import words
from vfio_migration.runtime.engine.program import Situation
from vfio_migration.runtime.engine.records import Record
from vfio_migration.runtime.server.error_fields import error_fields
from vfio_migration.runtime.server.repeats import Repeats
from vfio_migration.runtime.transport.counters import what

LOGGER: Final = logging.getLogger("vfio_migration.serve")

_MAX_CACHED_CHARS: Final = 100
"""Up to how many characters the quoted form of a text is kept for the next time."""
MAX_KEPT_RECORDS: Final = 256
"""How many records a journal keeps: more than there are between two replies."""
MAX_FIELD_CHARS: Final = 400
"""How many characters of a field are logged: a peer, a file or a device may have written it."""
MAX_TEXT_CHARS: Final = 4000
"""The same of a traceback, and of what other loggers log."""


def log_event(
    event: str,
    *,
    level: int = logging.INFO,
    traceback_of: BaseException | None = None,
    **fields: Any,
) -> None:
    """Log an event, with the traceback of an exception if one is given."""
    if LOGGER.isEnabledFor(level):
        record = _record(event, level, fields, time.time())
        if traceback_of is not None:
            record.exc_info = type(traceback_of), traceback_of, traceback_of.__traceback__
        LOGGER.handle(record)


def _record(event: str, level: int, fields: dict[str, Any], now: float) -> logging.LogRecord:
    # Made from an earlier one of this thread: to look up anew who called, the names of thread and
    # process and the rest of what is always the same would take longer than to write the line.
    always = _always(level, threading.get_ident())
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__ = {
        **always,
        "msg": event,
        "event": event,
        "fields": {name: _shortened_field(value) for name, value in fields.items()},
        "created": now,
        "msecs": now % 1 * 1000,
        "relativeCreated": always["relativeCreated"] + (now - always["created"]) * 1000,
    }
    return record


def _shortened_field(value: Any) -> Any:
    """Return a field as it is logged: no text in it is longer than `MAX_FIELD_CHARS`."""
    if isinstance(value, str):
        return value if len(value) <= MAX_FIELD_CHARS else shortened(value, MAX_FIELD_CHARS)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, dict):  # counters, of which there are as many as the tables have rows
        return {name: _shortened_field(one) for name, one in value.items()}
    return shortened(_text(value), MAX_FIELD_CHARS)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a device may have made it
        return type(value).__name__


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters: the beginning, what is left out, the end."""
    if len(text) <= most:
        return text
    note = f" ... {len(text)} characters ... "
    end = most // 4
    return text[: most - end - len(note)] + note + text[len(text) - end :]


@functools.lru_cache(maxsize=16)
def _always(level: int, _thread: int) -> dict[str, Any]:
    return vars(logging.LogRecord(LOGGER.name, level, __file__, 0, "", None, None))


os.register_at_fork(after_in_child=_always.cache_clear)


class ServerLog:
    """Logs what happens to a device, once there is time: an observer of its engine.

    A client is not kept waiting for lines of a log: records are kept until `write`, which
    a server calls when the reply is out. The times are those at which it happened. What failed is
    logged at once, and so is all once `MAX_KEPT_RECORDS` wait. Records may come from any thread.

    What changes nothing, as a request that is refused, is logged once and then counted
    (`vfio_migration.runtime.server.repeats`): a client may ask for it as often as it likes.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._begun: dict[str, int] = {}
        self._kept: deque[tuple[Record, int | None, int]] = deque()
        self._repeats: Repeats[_Unchanged] = Repeats(_log_repeated, clock)
        self._asked_in: Situation | None = None
        self._failure_left_out = False

    def __call__(self, record: Record) -> None:
        """Keep a record to be logged, once it is known what came of it."""
        kind, phase = record.kind, record.phase
        if phase == "started":
            self._begun[kind] = record.at
            if kind == "request":
                self._asked_in, self._failure_left_out = record.before, False
            return
        begun = self._begun.pop(kind, None)
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
        key = _Unchanged(_event(kind), what(record), phase, record.errno, type(record.error))
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
                row = _record(_event(record.kind), level, fields, now)
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
        "what": what(record),
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
    """Say whether a record has what the device itself raised."""
    return record.phase == "failed" and record.kind != "request"


def _when(record: logging.LogRecord) -> str:
    second = int(record.created)
    return f"{_second(second)}.{int((record.created - second) * 1e6):06d}Z"


@functools.lru_cache(maxsize=1)
def _second(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {"time": _when(record), "level": record.levelname.lower()}
        event = getattr(record, "event", None)
        if event is None:
            message = shortened(record.getMessage(), MAX_TEXT_CHARS)
            fields |= {"event": "message", "message": message, "logger": record.name}
        else:
            fields |= {"event": event, **getattr(record, "fields", {})}
        if record.exc_info:
            fields["traceback"] = shortened(self.formatException(record.exc_info), MAX_TEXT_CHARS)
        return json.dumps(fields, default=str)


class Text(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        event = getattr(record, "event", None)
        line = _shown(record.getMessage()) if event is None else event
        words = [_when(record), record.levelname, line]
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields:
            words += map(_field, fields.items())
        if record.exc_info:
            words.append("\n" + _shown(self.formatException(record.exc_info)))
        return " ".join(words)


def _shown(text: str) -> str:
    """Return lines that a terminal shows and does not obey."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
        for char in shortened(text, MAX_TEXT_CHARS)
    )


def _field(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, str):
        # What comes from a peer stays on its line.
        return f"{name}={value}" if value.isidentifier() else f"{name}={_quoted(value)}"
    return f"{name}={value}" if isinstance(value, int) else f"{name}={json.dumps(value)}"


def _quoted(value: str) -> str:
    return _quoted_before(value) if len(value) <= _MAX_CACHED_CHARS else json.dumps(value)


@functools.lru_cache(maxsize=256)
def _quoted_before(value: str) -> str:
    return json.dumps(value)
