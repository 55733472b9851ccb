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
from typing import Any, Final

from vfio_migration.runtime.counters import what
from vfio_migration.runtime.observe import Record

LOGGER: Final = logging.getLogger("vfio_migration.serve")

_SHORT: Final = 100
"""Up to how many characters a text is worth to be kept with its quotes: the name of an arc, say."""


def say(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event."""
    if LOGGER.isEnabledFor(level):
        LOGGER.handle(_record(event, level, fields))


def _record(event: str, level: int, fields: dict[str, Any]) -> logging.LogRecord:
    # Made from an earlier one of this thread: to look up anew who called, the names of thread and
    # process and the rest of what is always the same would take longer than to write the line.
    always = _always(level, threading.get_ident())
    record = logging.LogRecord.__new__(logging.LogRecord)
    now = time.time()
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
    """An observer of an engine that logs what happens to the device."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def __call__(self, record: Record) -> None:
        """Log a record, once it is known what came of it."""
        kind, phase, after = record.kind, record.phase, record.after
        if phase == "started":
            self._begun[kind] = record.at
            return
        if kind == "request" and phase == "completed" and record.before.state != after.state:
            return  # its arcs say so
        fields: dict[str, Any] = {"what": what(record), "outcome": phase, "state": after.state}
        if after.session is not None:
            fields["session"] = after.session
        begun = self._begun.pop(kind, None)
        if begun is not None:
            fields["us"] = (record.at - begun) // 1000
        if record.errno is not None:
            fields["errno"] = record.errno
        if kind == "request" and record.target is not None:
            fields["target"] = record.target
        if record.error is not None:
            fields["why"] = str(record.error) or type(record.error).__name__
        name = "transition" if kind == "arc" else kind
        say(name, level=logging.WARNING if phase == "failed" else logging.INFO, **fields)


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
