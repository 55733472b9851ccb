"""The log of a server process: lines to a descriptor that never keep the server waiting.

    logging.getLogger().addHandler(log := ServerLog(2, JsonLines()))

What a client does makes lines, so lines have a rate: `LINES_PER_S` and `BYTES_PER_S`, with bursts
of `BURST_LINES` and `BURST_BYTES`, of which the last quarter is kept for errors. What is left out,
and what there is no room for because nobody reads, is counted by event, and written as a line
`left_out` before the next line, and at the end.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from vfio_migration.runtime.server.background_writer import BackgroundWriter
from vfio_migration.runtime.server.log import LOGGER

LINES_PER_S: Final = 100
"""How many lines a second are written in the long run."""
BURST_LINES: Final = 1000
"""How many lines are written at once after a time of silence."""
BYTES_PER_S: Final = 1 << 16
"""How many bytes a second are written in the long run."""
BURST_BYTES: Final = 1 << 20
"""How many bytes are written at once after a time of silence."""
CLOSE_TIMEOUT_S: Final = 1.0
"""For how many seconds the end of the process waits for the reader of the log."""
_FOR_ERRORS: Final = 0.25
"""Which part of a burst only errors may use."""


class TokenBucket:
    """A rate: so many a second, and a burst after a time in which there were fewer.

    Args:
        per_s: How many a second.
        burst: How many at once.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, per_s: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._level, self._at = burst, clock()

    def holds(self, count: float, *, reserved: float = 0.0) -> bool:
        """Return whether so many may be taken now, and this part of the burst is left then."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s)
        self._at = now
        return self._level - count >= reserved * self._burst

    def take(self, count: float) -> None:
        """Take so many."""
        self._level -= count


class LogWriter(logging.Handler):
    """Writes records of `logging` to a descriptor, in a thread of its own.

    Args:
        fd: The descriptor. It stays the caller's.
        formatter: Makes the lines: `vfio_migration.runtime.server.log.JsonLines` or `Text`.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        fd: int,
        formatter: logging.Formatter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._left_out: Counter[str] = Counter()
        self._lines = TokenBucket(LINES_PER_S, BURST_LINES, clock)
        self._bytes = TokenBucket(BYTES_PER_S, BURST_BYTES, clock)
        self._writer: BackgroundWriter[bytes] = BackgroundWriter(
            fd, bytes, render_lost=self._unwritten_line, name="server log"
        )
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written, or count it. Called with the lock of the handler held."""
        if not self._write(record):
            self._left_out[getattr(record, "event", "message")] += 1

    def _write(self, record: logging.LogRecord) -> bool:
        try:
            line = self._line(record)
        except Exception:  # noqa: BLE001 - one that cannot be put into words is counted
            return False
        if not self._fits(len(line), is_error=record.levelno >= logging.ERROR):
            return False
        # Before the line: who reads the log is to know that some are missing here.
        return self._log_left_out() and self._put(line)

    def _fits(self, size: int, *, is_error: bool) -> bool:
        """Return whether the rate has room for a line.

        Once it had none, it has none again before there is room for those of a whole second, so
        that what is left out is stated once a second at most. Errors do not wait for this.
        """
        if is_error:
            return self._lines.holds(1) and self._bytes.holds(size)
        lines, bytes_ = (LINES_PER_S, BYTES_PER_S) if self._left_out else (1, 0)
        fits = self._lines.holds(lines, reserved=_FOR_ERRORS)
        return self._bytes.holds(max(size, bytes_), reserved=_FOR_ERRORS) and fits

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _put(self, line: bytes) -> bool:
        if not self._writer.put(line, len(line)):
            return False
        self._lines.take(1)
        self._bytes.take(len(line))
        return True

    def _log_left_out(self) -> bool:
        """Write what was left out since the last such line; False if there is no room for it."""
        if self._left_out and not self._put(self._left_out_line(self._left_out)):
            return False
        self._left_out.clear()
        return True

    def _unwritten_line(self, count: int) -> bytes:
        return self._left_out_line({"unwritten": count})

    def _left_out_line(self, counts: Mapping[str, int]) -> bytes:
        record = logging.LogRecord(
            LOGGER.name, logging.WARNING, __file__, 0, "left_out", None, None
        )
        vars(record).update(event="left_out", fields=dict(sorted(counts.items())))
        return self._line(record)

    def end(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what was left out and what waits, as far as it is taken within a time."""
        self.acquire()
        try:
            self._log_left_out()
        finally:
            self.release()
        self._writer.close(timeout_s)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Count a record that cannot be written; nothing is printed, which might wait."""
