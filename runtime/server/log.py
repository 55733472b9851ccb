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
from typing import Any, Final

LOGGER: Final = logging.getLogger("vfio_migration.serve")

_MAX_CACHED_CHARS: Final = 100
"""Up to how many characters the quoted form of a text is kept for the next time."""
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
        record = log_record(event, level, fields, time.time())
        if traceback_of is not None:
            record.exc_info = type(traceback_of), traceback_of, traceback_of.__traceback__
        LOGGER.handle(record)


def log_record(event: str, level: int, fields: dict[str, Any], now: float) -> logging.LogRecord:
    """Return the record of an event that happened at `now`, as `time.time` counts."""
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
