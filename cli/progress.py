"""One line on the terminal that shows what a long command is doing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

_ERASE = "\r\x1b[K"


class Progress:
    """A line like "T5 ... 3 of 33" on standard error, rewritten as items are done.

    There is none if it is not to be shown, or if standard error is no terminal.

    Use it as a context: the line is gone when it ends, however it ends.
    """

    def __init__(self, items: Sequence[str], shown: bool) -> None:
        self._items = items
        self._shown = shown and sys.stderr.isatty()
        self._done = 0

    def __enter__(self) -> Progress:
        self.show()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._shown:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self.show()

    def count(self, item: str, done: int, of: int) -> None:
        """Show how much of one long item is done."""
        if self._shown:
            sys.stderr.write(f"{_ERASE}{item} ... {done} of {of}")
            sys.stderr.flush()

    def show(self) -> None:
        """Show which item is waited for."""
        if self._shown and self._done < len(self._items):
            item = self._items[self._done]
            sys.stderr.write(f"{_ERASE}{item} ... {self._done + 1} of {len(self._items)}")
            sys.stderr.flush()
