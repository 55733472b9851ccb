"""An edu device with a guest that drives it register by register."""

from __future__ import annotations

import os
import random
from typing import Any

from vfio_migration.model import Spec
from vfio_migration.runtime import Engine
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.kit.devices.edu import (
    BUFFER,
    DMA_FROM_DEVICE,
    DMA_IRQ,
    DMA_RUN,
    REG_DMA_COMMAND,
    REG_DMA_COUNT,
    REG_DMA_DESTINATION,
    REG_DMA_SOURCE,
    REG_FACTORIAL,
    REG_IRQ_ACK,
    REG_IRQ_RAISE,
    REG_STATUS,
    STATUS_IRQ,
)
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.interrupts import ACTION_TRIGGER, DATA_EVENTFD, MSI
from vfio_migration.runtime.kit.region import Memory
from vfio_migration.runtime.testing.suite import GUEST_SIZE, PEER_AT, PEER_SIZE, Clock, Guest

RAM = 1 << 16


class EduRig:
    """A device, its engine, RAM at 0, a descriptor for MSI."""

    def __init__(
        self, clock: Clock | None = None, spec: Spec | None = None, **options: Any
    ) -> None:
        self.clock = clock or Clock()
        self.edu = Edu(clock=self.clock, spec=spec, **options)
        self.engine = Engine(self.edu.spec, self.edu.capabilities, self.edu)
        self.ram = Memory(RAM)
        self.edu.memory.map(0, RAM, fd=self.ram.fd)
        self.event = os.eventfd(0, os.EFD_NONBLOCK)
        self.edu.interrupts.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, fds=[self.event])

    def close(self) -> None:
        os.close(self.event)
        self.edu.close()
        self.ram.close()

    def get(self, offset: int, size: int = 4) -> int:
        return int.from_bytes(self.edu.regions[0].read(offset, size), "little")

    def put(self, offset: int, value: int, size: int = 4) -> None:
        self.edu.regions[0].write(offset, value.to_bytes(size, "little"))

    def wait(self, seconds: float = 1.0) -> None:
        self.clock.now += seconds
        self.edu.tick()

    def came(self) -> int:
        try:
            return os.eventfd_read(self.event)
        except BlockingIOError:
            return 0

    def dma(self, source: int, destination: int, count: int, command: int = 0) -> None:
        for register, value in (
            (REG_DMA_SOURCE, source),
            (REG_DMA_DESTINATION, destination),
            (REG_DMA_COUNT, count),
            (REG_DMA_COMMAND, command | DMA_RUN),
        ):
            self.put(register, value, 8)

    def to_device(self, iova: int, place: int, count: int, command: int = 0) -> None:
        self.dma(iova, BUFFER + place, count, command)

    def from_device(self, place: int, iova: int, count: int, command: int = 0) -> None:
        self.dma(BUFFER + place, iova, count, command | DMA_FROM_DEVICE)


def carry(source: EduRig, target: EduRig, *, precopy: bool = False) -> None:
    """Move the state of one to the other, and start it there."""
    stream = b""
    if precopy:
        source.engine.set_state("PRE_COPY")
        stream += b"".join(bytes(part) for part in source.edu.stream_read(100))
    source.engine.set_state("STOP_COPY")
    target.engine.set_state("RESUMING")
    while parts := source.edu.stream_read(1000):
        stream += b"".join(bytes(part) for part in parts)
    target.edu.stream_write(stream)
    target.engine.set_state("RUNNING")


def drive_edu(device: DeviceContract, guest: Guest, rng: random.Random) -> None:
    """What a driver does: some work at once, some that takes time, to RAM, to a peer, to nobody."""
    writes: list[tuple[int, int, int]] = [
        (REG_IRQ_ACK, 0xFFFFFFFF, 4),
        (0x04, rng.getrandbits(32), 4),
        (REG_STATUS, rng.choice([0, STATUS_IRQ]), 4),
    ]
    if rng.random() < 0.5:
        writes.append((REG_FACTORIAL, rng.randrange(40), 4))
    if rng.random() < 0.2:
        writes.append((REG_IRQ_RAISE, rng.getrandbits(32), 4))
    if rng.random() < 0.7:
        count, place = rng.randrange(1, 600), rng.randrange(3000)
        outside = rng.choice(
            [rng.randrange(GUEST_SIZE - 600), PEER_AT + rng.randrange(PEER_SIZE - 600), 0x0F000000]
        )
        command = DMA_RUN | rng.choice([0, DMA_IRQ])
        ends = [outside, BUFFER + place]
        if rng.random() < 0.6:
            ends.reverse()
            command |= DMA_FROM_DEVICE
        values = (*ends, count, command)
        writes += [(0x80 + 8 * number, value, 8) for number, value in enumerate(values)]
    writes.append((BUFFER + 8 * rng.randrange(500), rng.getrandbits(64), 8))
    for offset, value, size in writes:
        try:
            device.regions[0].write(offset, value.to_bytes(size, "little"))
        except CommandError:
            return


__all__ = ["RAM", "EduRig", "carry", "drive_edu"]
