"""Writes lines in a thread of its own, so that printing and logging never wait.

A terminal that was stopped (Ctrl-S), a pipe that nobody reads, a full disk and a reader that has
ended cost lines, and no time: what there is no room for is refused at once, and the caller counts
it.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

MAX_LINES: Final = 1000
"""How many lines wait to be written; more are refused."""
MAX_WAITING_BYTES: Final = 2 << 20
"""How many bytes wait, where the size of a line is given; more are refused."""

_Item = TypeVar("_Item")


def _nothing(_count: int) -> bytes:
    return b""


class BackgroundWriter(Generic[_Item]):
    """Writes to a descriptor what `put` is given, in order.

    Args:
        fd: The descriptor. It stays the caller's.
        render: Makes what is written of an item; called in the thread that writes.
        render_lost: Makes what is written before the next item where so many could not be written,
            for a full disk or a reader that has ended; called as `render`.
        name: What the thread is called.

    Attributes:
        lost: How many items could not be written since `render_lost` was last called.
    """

    def __init__(
        self,
        fd: int,
        render: Callable[[_Item], bytes],
        *,
        render_lost: Callable[[int], bytes] = _nothing,
        name: str = "background writer",
    ) -> None:
        self.lost = 0
        self._fd = fd
        self._render, self._render_lost = render, render_lost
        self._queue: queue.SimpleQueue[tuple[_Item, int] | None] = queue.SimpleQueue()
        # Each of the two is changed by one thread only.
        self._given_bytes = self._taken_bytes = 0
        self._torn = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to write. What was put before is written first."""
        self._thread.start()

    def put(self, item: _Item, size: int = 0) -> bool:
        """Have an item written. Never waits; one thread at a time.

        Args:
            item: The item.
            size: How many bytes it takes until it is written, if that is to be bounded.

        Returns:
            Whether there is room for it.
        """
        waiting = self._given_bytes - self._taken_bytes + size
        if self._queue.qsize() >= MAX_LINES or (size and waiting > MAX_WAITING_BYTES):
            return False
        self._given_bytes += size
        self._queue.put((item, size))
        return True

    def close(self, timeout_s: float) -> bool:
        """Write what waits; return whether all of it was taken within a time.

        The thread is left behind if it still waits for the reader then. It ends with the process.
        """
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        # Signals are for the main thread: one that came here would not end its waiting.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (given := self._queue.get()) is not None:
            item, size = given
            self._write(self._render(item))
            self._taken_bytes += size

    def _write(self, data: bytes) -> None:
        if self.lost:
            data = (b"\n" if self._torn else b"") + self._render_lost(self.lost) + data
        begun = False
        while data:
            try:
                data = data[os.write(self._fd, data) :]
                begun = True
            except BlockingIOError:  # others who hold this terminal have made it so
                waits = select.poll()
                waits.register(self._fd, select.POLLOUT)
                waits.poll()
            except OSError:
                self.lost += 1
                self._torn = self._torn or begun
                return
        self.lost, self._torn = 0, False
