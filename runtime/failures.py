"""What a device raised, for the log: its class, its message and the line, once and not each time.

A guest may have a device fail as often as it likes, and a device that fails in what it does by
itself fails again a moment later. So the same failure is logged once in `INTERVAL_S` seconds, and
how often it was left out since is said with the next line of its kind. The traceback is there at
the debug level.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, Final

from vfio_migration.runtime.errors import words
from vfio_migration.runtime.journal import LOGGER, say

INTERVAL_S: Final = 10.0
"""For how many seconds after a failure is logged the same one is only counted."""
MAX_KINDS: Final = 64
"""How many kinds of failure are told apart at a time."""


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
        self._clock = clock
        # When a kind was logged last, and how often it came since.
        self._kinds: dict[tuple[str, type[BaseException]], tuple[float, int]] = {}

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
        kind = where, type(error)
        now = self._clock()
        logged, left_out = self._kinds.pop(kind, (None, 0))
        if logged is not None and now < logged + INTERVAL_S:
            self._kinds[kind] = logged, left_out + 1
            return
        if len(self._kinds) >= MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self._kinds[kind] = now, 0
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
        for kind, (logged, left_out) in self._kinds.items():
            if left_out:
                where, error = kind
                self._kinds[kind] = logged, 0
                say(
                    "device_failed",
                    level=logging.ERROR,
                    where=where,
                    error=error.__name__,
                    left_out=left_out,
                )
