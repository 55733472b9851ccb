"""Devices whose pre-copy is more than one pass over a memory."""

from __future__ import annotations

from typing import Any

from vfio_migration.runtime.kit.devices import MemoryDevice
from vfio_migration.runtime.kit.errors import Part


class CountingDevice(MemoryDevice):
    """Counts what is read of it.

    Attributes:
        running: How many bytes were read while it ran.
        stopped: How many once it was stopped.
        pauses: How many reads brought nothing while it ran.
    """

    def __init__(self, **options: Any) -> None:
        self.running = self.stopped = self.pauses = 0
        super().__init__(**options)

    def stream_read(self, size: int, /) -> list[Part]:
        """Return the next bytes of the stream."""
        parts = super().stream_read(size)
        read = sum(map(len, parts))
        if self.permits("state_change"):
            self.running += read
            self.pauses += not read
            if not read:
                self.paused()
        else:
            self.stopped += read
        return parts

    def paused(self) -> None:
        """Nothing is left to read for now."""


class PiecesDevice(CountingDevice):
    """While it runs a read brings no more than a piece: that is what the device has ready.

    Args:
        piece: How many bytes.
        options: Those of `MemoryDevice`.
    """

    def __init__(self, *, piece: int = 1 << 12, **options: Any) -> None:
        self.piece = piece
        super().__init__(**options)

    def stream_read(self, size: int, /) -> list[Part]:
        """Return a piece of the stream."""
        return super().stream_read(min(size, self.piece) if self.permits("state_change") else size)


class RenewedDevice(CountingDevice):
    """Is configured anew when all of it has been read: some of its memory is new initial data.

    Args:
        renewed: How many bytes.
        times: How often.
        options: Those of `MemoryDevice`.
    """

    def __init__(self, *, renewed: int = 1 << 14, times: int = 1, **options: Any) -> None:
        self.renewed, self.times = renewed, times
        super().__init__(**options)

    def paused(self) -> None:
        """Announce new initial data."""
        if self.times:
            self.times -= 1
            self.announce_initial(self.block("bar2"), 0, self.renewed)
