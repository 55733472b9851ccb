"""What a device raised, for the log: its class, its message and the line, once and not each time.

A guest may have a device fail as often as it likes, and a device that fails in what it does by
itself fails again a moment later. So the same failure is logged once and then counted
(`vfio_migration.runtime.server.repeats`). The traceback is there at the debug level.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from vfio_migration.runtime.server.error_fields import error_fields
from vfio_migration.runtime.server.log import LOGGER, log_event
from vfio_migration.runtime.server.repeats import Repeats


class Failures:
    """Logs what a device raises.

    Args:
        clock: Returns the time in seconds.
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
            device: As for `error_fields`.
            fields: What else is to be logged.
        """
        left_out = self._repeats.admit((where, type(error)))
        if left_out is None:
            return
        if left_out:
            fields["left_out"] = left_out
        log_event(
            "device_failed",
            level=logging.ERROR,
            traceback_of=error if LOGGER.isEnabledFor(logging.DEBUG) else None,
            where=where,
            **error_fields(error, device),
            **fields,
        )

    def flush(self) -> None:
        """Log how often each kind was left out, which might not be logged otherwise."""
        self._repeats.flush()


def _left_out(kind: tuple[str, type[BaseException]], count: int) -> None:
    where, error = kind
    log_event(
        "device_failed",
        level=logging.ERROR,
        where=where,
        error=error.__name__,
        left_out=count,
    )
