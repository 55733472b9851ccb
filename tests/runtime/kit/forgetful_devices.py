"""Devices with two registers, of which some forget the second."""

from __future__ import annotations

import struct

from vfio_migration.runtime.kit.pci_device import Bar, Identity, PciDevice


class Two(PciDevice):
    """Two registers: one wherever nothing else is, and one in a place of its own."""

    name = "two"
    identity = Identity(vendor=0x1234, device=0xC0DE)
    bars = {0: Bar(4096), 5: Bar(16)}  # noqa: RUF012
    where = (0, 24)
    width: int | None = None
    """How wide an access to the second must be; None: anything goes."""

    def reset_device(self) -> None:
        self.count, self.step = 0, 1

    def _second(self, bar: int, offset: int, size: int) -> bool:
        return (bar, offset) == self.where and self.width in (None, size)

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self.step if self._second(bar, offset, size) else self.count

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        if self._second(bar, offset, size):
            self.step = value
        else:
            self.count = value

    def save(self) -> bytes:
        return struct.pack("<QQ", self.count, self.step)

    def load(self, state: bytes, version: int) -> None:
        self.count, self.step = struct.unpack("<QQ", state)


class ForgetsTheSecond(Two):
    def save(self) -> bytes:
        return struct.pack("<Q", self.count)

    def load(self, state: bytes, version: int) -> None:
        (self.count,) = struct.unpack("<Q", state)


class SavesTheSecondTooNarrow(Two):
    """Once it was written with 8 bytes it can be saved no more."""

    def save(self) -> bytes:
        return struct.pack("<QI", self.count, self.step)

    def load(self, state: bytes, version: int) -> None:
        self.count, self.step = struct.unpack("<QI", state)


class HidesTheSecond(ForgetsTheSecond):
    """It cannot be read; what is written elsewhere is added up with it."""

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return 0 if self._second(bar, offset, size) else self.count

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        if self._second(bar, offset, size):
            self.step = value
        else:
            self.count = (self.count + self.step) % (1 << 64)
