"""What is on the other side of a device on trial: a guest, its driver, and time."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable
from typing import Final

from vfio_migration.runtime.irq import (
    ACTION_TRIGGER,
    ACTION_UNMASK,
    DATA_EVENTFD,
    DATA_NONE,
    INDEXES,
    INTX,
)
from vfio_migration.runtime.region import CONFIG_INDEX, PEER_NAME, Memory
from vfio_migration.runtime.served import ServedDevice, ServedError

GUEST_AT: Final = 0x0
GUEST_SIZE: Final = 1 << 18
PEER_AT: Final = 0x100000
PEER_SIZE: Final = 1 << 14
"""Where the guest's memory and a peer's are mapped, and how long they are."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Guest:
    """What is on the other side of a device: memory, a peer's memory, and event descriptors."""

    def __init__(self) -> None:
        self.memory = Memory(GUEST_SIZE, "guest")
        self.peer = Memory(PEER_SIZE, f"{PEER_NAME}-of-a-peer")
        self.memory.view[:] = random.Random(0).randbytes(GUEST_SIZE)
        self.events: list[int] = []

    def connect(self, device: ServedDevice) -> None:
        """Map all memory and give all event descriptors."""
        device.memory.map(GUEST_AT, GUEST_SIZE, fd=self.memory.fd)
        device.memory.map(PEER_AT, PEER_SIZE, fd=self.peer.fd)
        for index in range(INDEXES):
            count = device.interrupts.count(index)
            if count:
                fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
                self.events += fds
                device.interrupts.set(DATA_EVENTFD | ACTION_TRIGGER, index, 0, count, fds=fds)

    def serve_line(self, device: ServedDevice) -> None:
        """Listen to the line again, as a guest does once it has served its interrupt."""
        if device.interrupts.count(INTX):
            device.interrupts.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)

    def interrupts(self) -> int:
        """Return how many interrupts have come since this was last asked."""
        count = 0
        for fd in self.events:
            with contextlib.suppress(BlockingIOError):
                count += os.eventfd_read(fd)
        return count

    def hang_up(self) -> None:
        """Forget the event descriptors."""
        for fd in self.events:
            os.close(fd)
        self.events.clear()

    def close(self) -> None:
        """Give all back."""
        self.hang_up()
        self.memory.close()
        self.peer.close()


Drive = Callable[[ServedDevice, Guest, random.Random], object]
"""Does to a device what a driver in a guest would: writes some registers, starts some work."""


def fuzz(device: ServedDevice, guest: Guest, rng: random.Random) -> None:
    """Write anything to registers at the beginning of each BAR, and to memory in them."""
    del guest
    for region in device.regions[:CONFIG_INDEX]:
        if not region.writable or not region.size:
            continue
        for _ in range(4):
            offset = rng.randrange(min(region.size, 256) // 4) * 4
            with contextlib.suppress(ServedError):
                region.write(offset, rng.randbytes(4))
        for area in region.areas:
            offset = area.offset + rng.randrange(area.size // 16) * 16
            with contextlib.suppress(ServedError):
                region.write(offset, rng.randbytes(16))
