"""The log of a server: each thing that happens is an event with fields, as text or as JSON.

Events are ordinary records of `logging`, on the logger `vfio_migration.serve`, with the fields in
`record.fields`; `JsonLines` writes one object a line, `Text` a line for people. What other loggers
say gets the event "message".
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections import deque
from typing import Any, Final

from vfio_migration.runtime.counters import what
from vfio_migration.runtime.errors import words
from vfio_migration.runtime.observe import Record

LOGGER: Final = logging.getLogger("vfio_migration.serve")

_SHORT: Final = 100
"""Up to how many characters a text is worth to be kept with its quotes: the name of an arc, say."""
_MOST: Final = 256
"""How many records a journal keeps: more than there are between two replies."""


def say(
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
        "fields": fields,
        "created": now,
        "msecs": now % 1 * 1000,
        "relativeCreated": always["relativeCreated"] + (now - always["created"]) * 1000,
    }
    return record


@functools.lru_cache(maxsize=16)
def _always(level: int, _thread: int) -> dict[str, Any]:
    return vars(logging.LogRecord(LOGGER.name, level, __file__, 0, "", None, None))


os.register_at_fork(after_in_child=_always.cache_clear)


class Journal:
    """An observer of an engine that logs what happens to the device, once there is time.

    A client is not kept waiting for lines of a log: what is to be said is kept until `write`, which
    a server calls when the reply is out. The times are those at which it happened. What failed is
    said at once, and so is all once `_MOST` wait. Records may come from any thread.
    """

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}
        self._kept: deque[tuple[Record, int | None]] = deque()

    def __call__(self, record: Record) -> None:
        """Keep a record to be logged, once it is known what came of it."""
        kind, phase = record.kind, record.phase
        if phase == "started":
            self._begun[kind] = record.at
            return
        begun = self._begun.pop(kind, None)
        if kind == "request" and phase == "completed" and record.before.state != record.after.state:
            return  # its arcs say so
        self._kept.append((record, begun))
        if phase == "failed" or len(self._kept) > _MOST:
            self.write()

    def write(self) -> None:
        """Log what was kept."""
        while self._kept:
            try:
                record, begun = self._kept.popleft()
            except IndexError:  # another thread logs it
                return
            level = logging.WARNING if record.phase == "failed" else logging.INFO
            if LOGGER.isEnabledFor(level):
                now = time.time() - (time.perf_counter_ns() - record.at) / 1e9
                name = "transition" if record.kind == "arc" else record.kind
                row = _record(name, level, _fields(record, begun), now)
                error = record.error
                if _is_raised(record) and error is not None and LOGGER.isEnabledFor(logging.DEBUG):
                    row.exc_info = type(error), error, error.__traceback__
                LOGGER.handle(row)


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
            from vfio_migration.runtime.failures import described  # which logs by this module

            fields |= described(record.error, record.engine.device)
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
        said: dict[str, Any] = {"time": _when(record), "level": record.levelname.lower()}
        event = getattr(record, "event", None)
        if event is None:
            said |= {"event": "message", "message": record.getMessage(), "logger": record.name}
        else:
            said |= {"event": event, **getattr(record, "fields", {})}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


class Text(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        event = getattr(record, "event", None)
        line = record.getMessage() if event is None else event
        words = [_when(record), record.levelname, line]
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields:
            words += map(_field, fields.items())
        if record.exc_info:
            words.append("\n" + self.formatException(record.exc_info))
        return " ".join(words)


def _field(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, str):
        # What a stranger may have had a part in stays on its line.
        return f"{name}={value}" if value.isidentifier() else f"{name}={_quoted(value)}"
    return f"{name}={value}" if isinstance(value, int) else f"{name}={json.dumps(value)}"


def _quoted(value: str) -> str:
    return _quoted_before(value) if len(value) <= _SHORT else json.dumps(value)


@functools.lru_cache(maxsize=256)
def _quoted_before(value: str) -> str:
    return json.dumps(value)
