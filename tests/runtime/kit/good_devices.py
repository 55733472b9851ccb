"""Devices that may do what they do, and that together use every feature of the kit."""

from __future__ import annotations

import random
import struct
from typing import Any

from sample_device import COUNT, Sample

from vfio_migration.runtime import ArcError
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.pci_device import Area, Bar, DmaFaultError, Identity, PciDevice
from vfio_migration.runtime.testing.suite import (
    GUEST_AT,
    GUEST_SIZE,
    PEER_AT,
    PEER_SIZE,
    Guest,
    fuzz,
)

FEATURES: list[type[PciDevice]] = []
"""Devices that each show some features."""
LEGAL: list[type[PciDevice]] = []
"""Devices that fail now and then, as they may."""


def feature(device: type[PciDevice]) -> type[PciDevice]:
    FEATURES.append(device)
    return device


def legal(device: type[PciDevice]) -> type[PciDevice]:
    LEGAL.append(device)
    return device


class Numbers(PciDevice):
    """Eight registers of 8 bytes, and nothing else."""

    name = "numbers"
    identity = Identity(vendor=0x1234, device=0xC0E0)
    bars = {0: Bar(4096)}  # noqa: RUF012

    def reset_device(self) -> None:
        self.numbers = [0] * 8

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self.numbers[offset >> 3 & 7]

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.numbers[offset >> 3 & 7] = value

    def save(self) -> bytes:
        return struct.pack("<8Q", *self.numbers)

    def load(self, state: bytes, version: int) -> None:
        self.numbers = list(struct.unpack("<8Q", state))


# --- features ---


@feature
class NothingAtAll(PciDevice):
    """No BAR, no interrupt, no state: what is not declared need not be."""

    name = "nothing at all"
    intx = False


@feature
class AllKindsOfBars(Numbers):
    """Registers, plain memory that can and cannot be mapped, areas of it, 64 bits, private."""

    name = "all kinds of BARs"
    bars = {  # noqa: RUF012
        0: Bar(16384, areas=(Area(4096, 4096), Area(12288, 4096))),
        1: Bar(4096, areas=(Area(64, 32),), mappable=False),
        2: Bar(8192, memory=True, is64=True, prefetchable=True),
        4: Bar(4096, memory=True, mappable=False),
        5: Bar(16),
    }
    private = {"queue": 5000, "table": 4096}  # noqa: RUF012

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        self.block("queue").write(offset * 4 % 4992, struct.pack("<Q", value))


@feature
class Line(Numbers):
    """The interrupt line alone, which is taken down again by a write to the last register."""

    name = "line"

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        if offset >> 3 & 7 == 7:
            self.interrupts.lower_line()
        else:
            self.interrupt()


@feature
class ManyMsi(Numbers):
    name = "many MSI"
    msi = 32

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        self.interrupt(value % 32)


@feature
class Msix(Numbers):
    """MSI-X with more vectors than one word of pending bits, in the BAR the kit chooses."""

    name = "msix"
    msix = 70

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        self.interrupt(value % 70)


@feature
class AllInterruptsExpress(Numbers):
    """MSI-X in a BAR of its choice, beside MSI and the line, on PCI Express."""

    name = "all interrupts"
    msi = 4
    msix = 8
    msix_bar = 2
    express = True

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        self.interrupt(value % 8)


@feature
class NewVersion(Numbers):
    """A second version of the state, which loads the first as well."""

    name = "new version"
    version = 2
    loads = (1,)

    def load(self, state: bytes, version: int) -> None:
        super().load(state if version == self.version else state.ljust(64, b"\0"), version)


@feature
class NotesItsConfiguration(Numbers):
    """It counts how often configuration space was written."""

    name = "configuration"

    def reset_device(self) -> None:
        super().reset_device()
        self.numbers[7] = 0

    def config_written(self, offset: int, size: int) -> None:
        if self.may("change_state"):
            self.numbers[7] = (self.numbers[7] + size) % (1 << 64)


@feature
class Hooks(Numbers):
    """All hooks, of which it remembers whether it runs, and interrupts put off as they are."""

    name = "hooks"
    msi = 1
    running = peers = False

    def quiesce(self) -> None:
        self.peers = False

    def resume(self) -> None:
        self.peers = True

    def stop(self) -> None:
        self.running = False

    def start(self) -> None:
        self.running = True

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        assert self.running
        super().bar_write(bar, offset, value, size)
        self.cancel(self.interrupt)
        self.later(0.003, self.interrupt, 0)


@feature
class Copies(Numbers):
    """DMA both ways, to the guest and to a peer, put off with arguments and with what it needs."""

    name = "copies"
    msi = 2
    deferrable = ("copy", "can_copy")

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        super().bar_write(bar, offset, value, size)
        place = value % GUEST_SIZE if value % 3 else PEER_AT + value % (PEER_SIZE - 8)
        if size == 8:
            self.later(0.002 * (1 + value % 8), self.copy, place, b"tag", needs=self.can_copy)

    def can_copy(self, place: int, tag: bytes) -> bool:
        return self.dma.permitted(place, 8)

    def copy(self, place: int, tag: bytes) -> None:
        try:
            (was,) = struct.unpack("<Q", self.dma.read(place, 8))
            self.dma.write(place, struct.pack("<Q", was ^ 0xFF))
        except DmaFaultError:
            was = len(tag)
        self.numbers[6] = was
        self.interrupt(1)


# --- what may fail ---


@legal
class StopFailsOnce(Sample):
    """Its first `stop` fails and it runs on; the next one does not."""

    failed = False

    def stop(self) -> None:
        if not self.failed:
            self.failed = True
            raise ArcError("a transfer is still under way", errno="EBUSY")


@legal
class StopFailsEachFirstTime(Sample):
    """Each `stop` has to be asked for twice."""

    tries = 0

    def stop(self) -> None:
        self.tries += 1
        if self.tries % 2:
            raise ArcError("a transfer is still under way", errno="EBUSY")


@legal
class StartFailsOnce(Sample):
    failed = True

    def start(self) -> None:
        if not self.failed:
            self.failed = True
            raise ArcError("it warms up")

    def load(self, state: bytes, version: int) -> None:
        super().load(state, version)
        self.failed = False


@legal
class ReadsFailInPreCopy(Sample):
    """Nothing can be read while it runs."""

    def stream_read(self, size: int, /) -> list[Part]:
        parts = super().stream_read(0)
        if self.may("change_state"):
            raise CommandError("it is too busy to be read", errno="EAGAIN")
        return parts + super().stream_read(size)


@legal
class EachFirstReadFails(Sample):
    """Each read has to be asked for twice."""

    reads = 0

    def stream_read(self, size: int, /) -> list[Part]:
        super().stream_read(0)
        self.reads += 1
        if self.reads % 2:
            raise CommandError("once more", errno="EAGAIN")
        return super().stream_read(size)


@legal
class StopTriesTwiceItself(Sample):
    """It answers a hook of its own that failed by calling it again."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        notify = self._kit_notify

        def waits_long(row: tuple[str, str, str]) -> None:
            try:
                notify(row)
            except ArcError as error:
                if error.for_good:
                    raise
                notify(row)

        self._kit_notify = waits_long  # type: ignore[method-assign]


@legal
class DropsWhatIsPutOffByLoad(Sample):
    """Its `load` puts nothing off: what was under way comes with the stream."""

    def load(self, state: bytes, version: int) -> None:
        super().load(state, version)
        self.cancel(self.finish)


def drive_that_writes_to_the_guest(
    device: DeviceContract, guest: Guest, rng: random.Random
) -> None:
    """Set up memory for the device, as drivers do, in any state and on any page."""
    for _ in range(3):
        place = GUEST_AT + rng.randrange(GUEST_SIZE - 8)
        guest.memory.view[place : place + 8] = rng.randbytes(8)
    guest.peer.view[rng.randrange(PEER_SIZE)] ^= 0xFF
    fuzz(device, guest, rng)


__all__ = ["COUNT", "FEATURES", "LEGAL", "drive_that_writes_to_the_guest"]
