"""Memory that knows what of it has changed: what is streamed in pre-copy passes.

A pass over all of it comes first, in order; after that only pages that were marked since they were
last taken. Marking is by whole pages and never forgets: a page is clean only from the moment its
bytes are taken.
"""

from __future__ import annotations

import operator
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
        renewed: They were announced as new initial data.
    """

    offset: int
    size: int
    initial: bool
    renewed: bool = False


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
        # The pages of `_dirty` that are new initial data; None as long as none was announced.
        self._renewed: bytearray | None = None
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
        self._dirty, self._renewed = bytearray(self._pages), None
        self._cursor = 0

    def again(self) -> None:
        """Start over within the session, because nobody knows what has changed."""
        self._cursor = 0

    def end(self) -> None:
        """End the session: changes need not be tracked any more."""
        self._dirty = self._renewed = None

    def renew(self) -> None:
        """Call new initial data what is to be streamed: it comes before what changes from now on.

        What was not streamed even once is initial as it is.
        """
        if self._dirty is not None:
            self._renewed = bytearray(self._dirty)

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
            pages = self._dirty
            if self._renewed is not None and (first := self._renewed.find(1)) >= 0:
                pages = self._renewed
            else:
                self._renewed = None
                first = pages.find(1)
            if first < 0:
                return None
            stop = pages.find(0, first, first + most)
            if stop < 0:
                stop = min(self._pages, first + most)
        renewed = not initial and self._renewed is not None
        self._dirty[first:stop] = bytes(stop - first)
        if self._renewed is not None:
            self._renewed[first:stop] = bytes(stop - first)
        offset = first * self._page
        size = min(self.size, stop * self._page) - offset
        if initial and self._prefault is not None:
            self._prefault(offset, size)
        return Run(offset, size, initial, renewed)

    def run_size(self, limit: int) -> int:
        """Return how many bytes `take(limit)` returns at most."""
        return max(1, limit // self._page) * self._page

    def untake(self, run: Run) -> None:
        """Have what `take` returned last be streamed after all, as if it had not been taken."""
        if run.initial:
            self._cursor = run.offset // self._page
        else:
            self.mark(run.offset, run.size)
            if run.renewed and self._dirty is not None:
                first, stop = run.offset // self._page, -(-(run.offset + run.size) // self._page)
                self._renewed = self._renewed or bytearray(self._pages)
                self._renewed[first:stop] = b"\1" * (stop - first)

    def left(self, limit: int) -> tuple[Left, Left, Left]:
        """Return what is to be streamed if `take(limit)` is called from now on.

        Returns:
            What is streamed for the first time, what is new initial data, and what else is streamed
            again.
        """
        if self._dirty is None:
            return Left(0, 0), Left(0, 0), Left(0, 0)
        most = self.run_size(limit) // self._page
        pages = max(0, self._pages - self._cursor)
        initial = Left(max(0, self.size - self._cursor * self._page), -(-pages // most))
        if self._renewed is None:
            return initial, Left(0, 0), self._marked(self._dirty, most)
        # What is renewed is dirty too; numbers, for these arrays may have millions of pages.
        both = (int.from_bytes(marks, "little") for marks in (self._dirty, self._renewed))
        others = bytearray(operator.xor(*both).to_bytes(self._pages, "little"))
        return initial, self._marked(self._renewed, most), self._marked(others, most)

    def _marked(self, marks: bytearray, most: int) -> Left:
        """Return what is to be streamed of the pages that are marked and were streamed before."""
        runs, pages = 0, 0
        # A mark is 0 or 1; `take` cuts a run of pages after `most` of them.
        for match in re.finditer(rb"\x01{1,%d}" % most, marks[: self._cursor]):
            runs += 1
            pages += match.end() - match.start()
        size = pages * self._page
        if self._cursor == self._pages and self._pages and marks[-1]:
            size -= self._pages * self._page - self.size  # the last page may be a short one
        return Left(size, runs)

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
