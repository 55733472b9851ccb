"""How fast bytes may go: a bucket that fills at a set rate and is emptied by what was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_BURST: Final = 0.05
"""How many seconds' worth may be saved up: more would not be noticed as a limit."""
_PIECE: Final = 0.1
"""How many seconds' worth goes over at a time, at most."""
_LEAST_PIECE: Final = 1 << 12
"""How many bytes go over at a time at any rate: fewer would cost more than they save."""


class Bandwidth:
    """A limit on bytes a second, shared by any number of threads.

    Args:
        rate: Bytes a second, or None for no limit.
        clock: Returns the time in seconds.

    Attributes:
        rate: As given.
    """

    def __init__(self, rate: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"{rate} bytes a second: must be more than 0")
        self.rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        # When all that was sent would have been sent at the rate.
        self._paid_until = clock()

    def spend(self, size: int) -> float:
        """Take note that so many bytes were sent; return for how many seconds to send nothing."""
        if self.rate is None:
            return 0.0
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - _BURST) + size / self.rate
            return max(0.0, self._paid_until - now)

    def piece(self, most: int, sharers: int = 1) -> int:
        """Return how many bytes should go over at a time.

        Args:
            most: As many would, without a limit.
            sharers: How many send at once.
        """
        if self.rate is None:
            return most
        return min(most, max(_LEAST_PIECE, int(self.rate * _PIECE) // sharers))
