"""What a device raised, for the log: its class, its message and the line, once and not each time.

A guest may have a device fail as often as it likes, and a device that fails in what it does by
itself fails again a moment later. So the same failure is logged once and then counted
(`vfio_migration.runtime.server.repeats`). The traceback is there at the debug level.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from vfio_migration.runtime.engine.errors import words
from vfio_migration.runtime.server.log import LOGGER, say
from vfio_migration.runtime.server.repeats import Repeats


def described(error: BaseException, device: object = None) -> dict[str, str]:
    """Return the fields of the log that say what a device raised.

    Args:
        error: The exception.
        device: The device: the line that is named is the innermost one in a method of it.
    """
    fields = {"error": type(error).__name__, "why": words(error)}
    where = _where(error, device)
    if where is not None:
        fields["at"] = where
    cause = error.__cause__
    if cause is not None:
        fields["cause"] = f"{type(cause).__name__}: {words(cause)}"
    return fields


def _where(error: BaseException, device: object) -> str | None:
    found = None
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if device is None or found is None or frame.f_locals.get("self") is device:
            code = frame.f_code
            found = f"{code.co_qualname} ({PurePath(code.co_filename).name} line {trace.tb_lineno})"
        trace = trace.tb_next
    return found


class Failures:
    """Logs what a device raises.

    Args:
        clock: Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._repeats: Repeats[tuple[str, type[BaseException]]] = Repeats(_left_out, clock)

    def report(
        self, where: str, error: BaseException, device: object = None, **fields: Any
    ) -> None:
        """Log that a device raised, unless the same was logged just now.

        Args:
            where: In which command or hook.
            error: What it raised.
            device: As for `described`.
            fields: What else is to be said.
        """
        left_out = self._repeats.admit((where, type(error)))
        if left_out is None:
            return
        if left_out:
            fields["left_out"] = left_out
        say(
            "device_failed",
            level=logging.ERROR,
            traceback_of=error if LOGGER.isEnabledFor(logging.DEBUG) else None,
            where=where,
            **described(error, device),
            **fields,
        )

    def flush(self) -> None:
        """Log how often each kind was left out, which nothing that follows might say."""
        self._repeats.flush()


def _left_out(kind: tuple[str, type[BaseException]], count: int) -> None:
    where, error = kind
    say(
        "device_failed",
        level=logging.ERROR,
        where=where,
        error=error.__name__,
        left_out=count,
    )
