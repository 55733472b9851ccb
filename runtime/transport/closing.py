"""What is closed at the end of a `with` statement."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """A context at the end of which `close` is called, whatever happened in it."""

    def close(self) -> None:
        """Give back what it holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
