"""A small device that does a bit of everything, and keeps all guarantees."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import Any

from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.guest_memory import DmaFaultError
from vfio_migration.runtime.kit.pci_device import Area, Bar, Identity, PciDevice
from vfio_migration.runtime.testing.suite import GUEST_SIZE, PEER_AT, PEER_SIZE, Guest

COUNT, ADDRESS, JOB, ACK, NOTE = 0x00, 0x08, 0x10, 0x18, 0x20
STATE = struct.Struct("<QQQQ")
DELAY = 0.005


class Sample(PciDevice):
    """Counts, and for each job writes its count to the guest, notes it, and interrupts."""

    name = "sample"
    identity = Identity(vendor=0x1234, device=0x5A)
    bars = {  # noqa: RUF012
        0: Bar(8192, areas=(Area(4096, 4096),)),
        2: Bar(4096, memory=True, mappable=False),
    }
    private = {"notes": 1 << 14}  # noqa: RUF012
    msi = 2

    def reset_device(self) -> None:
        self.count = self.address = self.job = self.note = 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return {COUNT: self.count, ADDRESS: self.address, JOB: self.job, NOTE: self.note}.get(
            offset, 0
        )

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        if offset == COUNT:
            self.count = value
        elif offset == ADDRESS and not self.job:
            self.address = value
        elif offset == JOB and not self.job and value:
            self.job = value
            self.begin()
        elif offset == ACK:
            self.interrupts.lower_line()

    def begin(self) -> None:
        self.later(DELAY, self.finish, needs=self.can_finish)

    def can_finish(self) -> bool:
        return self.dma.permitted(self.address, 8)

    def finish(self) -> None:
        self.count = (self.count + self.job) % (1 << 64)
        self.job = 0
        record = struct.pack("<Q", self.count)
        try:
            self.dma.write(self.address, record)
        except DmaFaultError:
            self.note += 1
        self.take_note(self.count * 8 % ((1 << 14) - 8), record)
        self.interrupt(1)

    def take_note(self, at: int, record: bytes) -> None:
        self.block("notes").write(at, record)

    def save(self) -> bytes:
        return STATE.pack(self.count, self.address, self.job, self.note)

    def load(self, state: bytes, version: int) -> None:
        self.count, self.address, self.job, self.note = STATE.unpack(state)
        if self.job:
            self.begin()


def drive_sample(device: DeviceContract, guest: Guest, rng: random.Random) -> None:
    """Give it a job, mostly to the guest's memory, now and then to a peer's, or to nobody's."""
    registers, memory = device.regions[0], device.regions[2]
    place = rng.choice(
        [rng.randrange(GUEST_SIZE - 8), PEER_AT + rng.randrange(PEER_SIZE - 8), 1 << 40]
    )
    writes: list[tuple[Any, int, bytes]] = [
        (registers, ACK, b"\1\0\0\0"),
        (registers, ADDRESS, struct.pack("<Q", place)),
        (registers, JOB, struct.pack("<Q", rng.randrange(1, 1 << 20))),
        (registers, 4096 + rng.randrange(4000), rng.randbytes(16)),
        (memory, rng.randrange(4000), rng.randbytes(16)),
    ]
    for region, offset, data in writes:
        with contextlib.suppress(CommandError):
            region.write(offset, data)
