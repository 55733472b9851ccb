"""Memory that knows what of it has changed: what is streamed in pre-copy passes.

A pass over all of it comes first, in order; after that only pages that were marked since they were
last taken. Marking is by whole pages and never forgets: a page is clean only from the moment its
bytes are taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from vfio_migration.runtime.kit.errors import Part

PAGE_SIZE: Final = 4096


class Run(NamedTuple):
    """Bytes to be streamed.

    Attributes:
        offset: Where they begin.
        size: How many.
        initial: They are streamed for the first time in this session.
    """

    offset: int
    size: int
    initial: bool


class Left(NamedTuple):
    """What of a memory is still to be streamed.

    Attributes:
        size: How many bytes.
        runs: In how many runs `take` returns them.
    """

    size: int
    runs: int


class TrackedMemory:
    """A part of the state of a device that is plain memory.

    Args:
        name: What it is called in a stream.
        view: Its bytes.
        tracked: All changes go through `write` or are reported by `mark`. If not (a client may have
            mapped it), it can be streamed only once the device is stopped.
        page_size: The unit of tracking.
        prefault: Called with offset and size of what is about to be accessed in a row.
        fill: Called with an offset and what is to be there, if that is better than to change
            `view`.

    Attributes:
        name: What it is called in a stream.
        view: Its bytes. Anybody who changes them through it calls `mark`.
        size: How many.
        tracked: Whether all changes are known.
    """

    def __init__(
        self,
        name: str,
        view: memoryview,
        *,
        tracked: bool = True,
        page_size: int = PAGE_SIZE,
        prefault: Callable[[int, int], object] | None = None,
        fill: Callable[[int, Part], object] | None = None,
    ) -> None:
        self.name = name
        self.view = view
        self.size = len(view)
        self.tracked = tracked
        self._page = page_size
        self._pages = -(-self.size // page_size)
        self._dirty: bytearray | None = None
        self._cursor = 0
        self._filled: bytearray | None = None
        self._prefault = prefault
        self._fill = fill

    # --- for the device ---

    def write(self, offset: int, data: Part) -> None:
        """Change some of it."""
        if offset < 0 or offset + len(data) > self.size:
            raise IndexError(f"bytes {offset} to {offset + len(data)} of {self.size}")
        self.view[offset : offset + len(data)] = data
        self.mark(offset, len(data))

    def mark(self, offset: int, size: int) -> None:
        """Report that some of it has been changed."""
        if self._dirty is not None and size > 0:
            first, last = offset // self._page, (offset + size - 1) // self._page
            if first == last:
                self._dirty[first] = 1
            else:
                self._dirty[first : last + 1] = b"\1" * (last - first + 1)

    # --- for the stream that saves it ---

    def begin(self) -> None:
        """Start a session: all of it is to be streamed."""
        self._dirty = bytearray(self._pages)
        self._cursor = 0

    def again(self) -> None:
        """Start over within the session, because nobody knows what has changed."""
        self._cursor = 0

    def end(self) -> None:
        """End the session: changes need not be tracked any more."""
        self._dirty = None

    def take(self, limit: int) -> Run | None:
        """Return what is to be streamed next, at most about `limit` bytes, and call it clean."""
        if self._dirty is None:
            return None
        most = self.run_size(limit) // self._page
        initial = self._cursor < self._pages
        if initial:
            first = self._cursor
            stop = self._cursor = min(self._pages, first + most)
        else:
            first = self._dirty.find(1)
            if first < 0:
                return None
            stop = self._dirty.find(0, first, first + most)
            if stop < 0:
                stop = min(self._pages, first + most)
        self._dirty[first:stop] = bytes(stop - first)
        offset = first * self._page
        size = min(self.size, stop * self._page) - offset
        if initial and self._prefault is not None:
            self._prefault(offset, size)
        return Run(offset, size, initial)

    def run_size(self, limit: int) -> int:
        """Return how many bytes `take(limit)` returns at most."""
        return max(1, limit // self._page) * self._page

    def untake(self, run: Run) -> None:
        """Have what `take` returned last be streamed after all, as if it had not been taken."""
        if run.initial:
            self._cursor = run.offset // self._page
        else:
            self.mark(run.offset, run.size)

    def left(self, limit: int) -> tuple[Left, Left]:
        """Return what is to be streamed if `take(limit)` is called from now on.

        Returns:
            What is streamed for the first time, and what is streamed again.
        """
        if self._dirty is None:
            return Left(0, 0), Left(0, 0)
        most = self.run_size(limit) // self._page
        pages = max(0, self._pages - self._cursor)
        initial = Left(max(0, self.size - self._cursor * self._page), -(-pages // most))
        runs, dirty = 0, 0
        # The bytes of `_dirty` are 0 or 1; `take` cuts a run of pages after `most` of them.
        for match in re.finditer(rb"\x01{1,%d}" % most, self._dirty[: self._cursor]):
            runs += 1
            dirty += match.end() - match.start()
        again = dirty * self._page
        if self._cursor == self._pages and self._pages and self._dirty[-1]:
            again -= self._pages * self._page - self.size  # the last page may be a short one
        return initial, Left(again, runs)

    # --- for the stream that loads it ---

    def receive(self) -> None:
        """Start to take in another content: none of it has arrived."""
        self._filled = bytearray(self._pages)

    def put(self, offset: int, data: Part) -> None:
        """Take in some of it."""
        if self._fill is not None:
            self._fill(offset, data)
        else:
            self.view[offset : offset + len(data)] = data

    def arrived(self, offset: int, size: int) -> None:
        """Take note that a whole run has arrived, undamaged."""
        if self._filled is not None:
            first, stop = offset // self._page, -(-(offset + size) // self._page)
            self._filled[first:stop] = b"\1" * (stop - first)

    def missing(self) -> int:
        """Return how many bytes have not arrived even once."""
        if self._filled is None:
            return self.size
        return min(self.size, self._filled.count(0) * self._page)
