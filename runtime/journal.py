"""The log of a server: each thing that happens is an event with fields, as text or as JSON.

Events are ordinary records of `logging`, on the logger `vfio_migration.serve`, with the fields in
`record.fields`; `JsonLines` writes one object a line, `Text` a line for people. What other loggers
say gets the event "message".
"""

from __future__ import annotations

import functools
import json
import logging
import time
from typing import Any, Final

from vfio_migration.runtime.counters import what
from vfio_migration.runtime.observe import Record

LOGGER: Final = logging.getLogger("vfio_migration.serve")


def say(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event."""
    if LOGGER.isEnabledFor(level):
        # Made by hand: to look up who called would take longer than all the rest.
        record = logging.LogRecord(LOGGER.name, level, __file__, 0, event, None, None)
        record.event, record.fields = event, fields
        LOGGER.handle(record)


class Journal:
    """An observer of an engine that logs what happens to the device."""

    def __init__(self) -> None:
        self._begun: dict[str, int] = {}

    def __call__(self, record: Record) -> None:
        """Log a record, once it is known what came of it."""
        if record.phase == "started":
            self._begun[record.kind] = time.perf_counter_ns()
            return
        if (
            record.kind == "request"
            and record.phase == "completed"
            and record.before.state != (record.after.state)
        ):
            return  # its arcs say so
        fields: dict[str, Any] = {"what": what(record), "outcome": record.phase}
        fields |= {"state": record.after.state, "session": record.after.session}
        begun = self._begun.pop(record.kind, None)
        if begun is not None:
            fields["us"] = (time.perf_counter_ns() - begun) // 1000
        if record.errno is not None:
            fields["errno"] = record.errno
        if record.kind == "request":
            fields["target"] = record.target
        if record.error is not None:
            fields["why"] = str(record.error) or type(record.error).__name__
        name = "transition" if record.kind == "arc" else record.kind
        level = logging.WARNING if record.phase == "failed" else logging.INFO
        say(name, level=level, **{key: value for key, value in fields.items() if value is not None})


def _when(record: logging.LogRecord) -> str:
    second, part = divmod(record.created, 1)
    return f"{_second(int(second))}.{int(part * 1e6):06d}Z"


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
        fields: dict[str, Any] = getattr(record, "fields", {})
        words = [_when(record), record.levelname, line, *map(_field, fields.items())]
        if record.exc_info:
            words.append("\n" + self.formatException(record.exc_info))
        return " ".join(words)


def _field(item: tuple[str, Any]) -> str:
    name, value = item
    if isinstance(value, str):
        # What a stranger may have had a part in stays on its line.
        return f"{name}={value}" if value.isidentifier() else f"{name}={json.dumps(value)}"
    return f"{name}={value}" if isinstance(value, int) else f"{name}={json.dumps(value)}"
