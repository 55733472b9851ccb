"""Equal lines of a log: one is logged, and those after it are counted for a while.

A client, or a guest, that can cause a line can cause it as often as it likes. So a line of one kind
is logged once in `INTERVAL_S` seconds, and how many were left out since is logged with the next
one, or by itself once its client has disconnected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

INTERVAL_S: Final = 10.0
"""For how many seconds after a line is logged others of its kind are only counted."""
MAX_KINDS: Final = 64
"""How many kinds are counted at a time."""

_Kind = TypeVar("_Kind", bound=Hashable)


class Repeats(Generic[_Kind]):
    """Counts lines by kind. May be used by any thread.

    Args:
        report: Logs that lines of a kind were left out, and how many, where no line of this kind
            comes that could hold it.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        report: Callable[[_Kind, int], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        # When a kind was logged last, and how often it came since.
        self._kinds: dict[_Kind, tuple[float, int]] = {}

    def __len__(self) -> int:
        """How many kinds are counted just now."""
        return len(self._kinds)

    def admit(self, kind: _Kind) -> int | None:
        """Return whether a line is to be logged.

        Returns:
            How many of its kind were left out before it; None if it is only to be counted.
        """
        now = self._clock()
        pushed_out: tuple[_Kind, int] | None = None
        with self._lock:
            logged, left_out = self._kinds.pop(kind, (None, 0))
            if logged is not None and now < logged + INTERVAL_S:
                self._kinds[kind] = logged, left_out + 1
                return None
            if len(self._kinds) >= MAX_KINDS:
                oldest = next(iter(self._kinds))
                pushed_out = oldest, self._kinds.pop(oldest)[1]
            self._kinds[kind] = now, 0
        if pushed_out is not None and pushed_out[1]:
            self._report(*pushed_out)
        return left_out

    def flush(self) -> None:
        """Report all that was left out and not reported yet."""
        with self._lock:
            pending = {kind: count for kind, (_, count) in self._kinds.items() if count}
            for kind in pending:
                self._kinds[kind] = self._kinds[kind][0], 0
        for kind, count in pending.items():
            self._report(kind, count)
