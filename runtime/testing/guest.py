"""What is on the other side of a device on trial: a guest, its driver, and time."""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias

from vfio_migration.runtime.kit.config_space import BARS, CAP_MSI, CAP_MSIX, COMMAND
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.interrupts import (
    ACTION_TRIGGER,
    ACTION_UNMASK,
    DATA_EVENTFD,
    DATA_NONE,
    INDEXES,
    INTX,
    MSI,
    MSIX,
)
from vfio_migration.runtime.kit.region import CONFIG_INDEX, PEER_NAME, Memory, Region
from vfio_migration.runtime.testing.observe import LOOK, SIZES, accesses

GUEST_AT: Final = 0x0
GUEST_SIZE: Final = 1 << 18
PEER_AT: Final = 0x100000
PEER_SIZE: Final = 1 << 14
"""Where the guest's memory and a peer's are mapped, and how long they are."""
_KINDS: Final = ("INTx", "MSI", "MSI-X", "error interrupt", "request interrupt")
_PAGE: Final = 4096
_FEW: Final = 4
"""How many accesses a driver makes to each BAR that is not thorough."""


Listens: TypeAlias = Literal["all", "line", "nothing"]
"""Which interrupts a guest listens to: all kinds, INTx alone, or none yet."""


class Clock:
    """A clock that is stopped until it is moved.

    Args:
        now: What it shows to begin with.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Guest:
    """What is on the other side of a device: memory, a peer's memory, and event descriptors.

    Args:
        listens_to: Which interrupts it listens to.

    Attributes:
        thorough: Whether its driver is to write to every register there is: set where all of them
            are compared afterwards. `fuzz` follows it; a better driver need not.
    """

    def __init__(self, listens_to: Listens = "all") -> None:
        self.listens_to: Listens = listens_to
        self.memory = Memory(GUEST_SIZE, "guest")
        self.peer = Memory(PEER_SIZE, f"{PEER_NAME}-of-a-peer")
        self.memory.view[:] = random.Random(0).randbytes(GUEST_SIZE)
        self.events: list[int] = []
        self._indexes: list[int] = []
        self.thorough = False

    def connect(self, device: DeviceContract) -> None:
        """Map all memory and give the event descriptors."""
        device.memory.map(GUEST_AT, GUEST_SIZE, fd=self.memory.fd)
        device.memory.map(PEER_AT, PEER_SIZE, fd=self.peer.fd)
        device.memory.used()  # that is all: what goes elsewhere finds nobody
        self._listen(device)

    def set_up(self, device: DeviceContract) -> None:
        """Write configuration space as a system that starts: places for BARs, memory, DMA, MSI.

        A message-signalled interrupt is then raised, and pending, if nobody listens to it.
        """
        space = device.regions[CONFIG_INDEX]
        if space.size < BARS:
            return
        space.write(BARS, struct.pack("<I", 0xFEB00000))
        space.write(COMMAND, struct.pack("<H", 6))
        at, seen = bytes(space.read(0x34, 1))[0] & ~3, set[int]()
        while self.listens_to != "line" and at and at not in seen:
            seen.add(at)
            number, follows, control = struct.unpack("<BBH", space.read(at, 4))
            if number in (CAP_MSI, CAP_MSIX):
                on = 1 if number == CAP_MSI else 0x8000
                space.write(at + 2, struct.pack("<H", control | on))
            at = follows & ~3

    def listen(self, device: DeviceContract) -> None:
        """Listen to all interrupts from now on."""
        self.listens_to = "all"
        self.hang_up()
        self._listen(device)

    def _listen(self, device: DeviceContract) -> None:
        self._indexes = []
        for index in range(INDEXES):
            messages = index in (MSI, MSIX)
            count = device.interrupts.count(index)
            if count and (self.listens_to == "all" or (self.listens_to == "line" and not messages)):
                fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
                self.events += fds
                self._indexes.append(index)
                device.interrupts.set(DATA_EVENTFD | ACTION_TRIGGER, index, 0, count, fds=fds)

    def serve_line(self, device: DeviceContract) -> None:
        """Listen to the line again, as a guest does once it has served its interrupt."""
        if device.interrupts.count(INTX):
            device.interrupts.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)

    def interrupts(self) -> int:
        """Return how many interrupts have come since this was last asked."""
        return sum(self.raised())

    def raised(self) -> list[int]:
        """Return how many have come since then of each there is, by kind and vector."""
        counts = []
        for fd in self.events:
            try:
                counts.append(os.eventfd_read(fd))
            except BlockingIOError:
                counts.append(0)
        return counts

    @contextlib.contextmanager
    def watching(self, device: DeviceContract) -> Iterator[set[tuple[str, int]]]:
        """Note what the device writes while a driver accesses it, apart from what the driver does.

        A driver may write to memory of the guest itself: it sets up what the device is to read. So
        memory is looked at before and after each access to a region of the device.

        Returns:
            Which pages the device has changed so far: ("memory", 3) or ("peer", 0).
        """
        changed: set[tuple[str, int]] = set()
        watched: list[tuple[Region, str]] = []

        def between(call: Callable[..., Any]) -> Callable[..., Any]:
            def access(*about: Any) -> Any:
                before = self.contents()
                try:
                    return call(*about)
                finally:
                    changed.update(self.changed_since(before))

            return access

        try:
            for region in device.regions:
                for name in ("read", "write"):
                    if name not in vars(region):
                        setattr(region, name, between(getattr(region, name)))
                        watched.append((region, name))
            yield changed
        finally:
            for region, name in watched:
                delattr(region, name)

    def contents(self) -> dict[str, bytes]:
        """Return what is in memory of the guest, and of the peer."""
        return {"memory": bytes(self.memory.view), "peer": bytes(self.peer.view)}

    def take_over_memory(self, other: Guest) -> None:
        """Have what another guest has in its memory, as after a migration of the guest itself."""
        self.memory.view[:] = other.memory.view
        self.peer.view[:] = other.peer.view

    def changed_since(self, before: dict[str, bytes]) -> set[tuple[str, int]]:
        """Return which pages hold something else than they did."""
        now = self.contents()
        return {
            (name, at // _PAGE)
            for name, old in before.items()
            if old != now[name]
            for at in range(0, len(old), _PAGE)
            if old[at : at + _PAGE] != now[name][at : at + _PAGE]
        }

    def listened(self, device: DeviceContract) -> list[tuple[str, int]]:
        """Return the kind and the vector of each count that `raised` returns."""
        return [
            (_KINDS[index], vector)
            for index in self._indexes
            for vector in range(device.interrupts.count(index))
        ]

    def hang_up(self) -> None:
        """Forget the event descriptors."""
        for fd in self.events:
            os.close(fd)
        self.events.clear()
        self._indexes.clear()

    def close(self) -> None:
        """Give all back."""
        self.hang_up()
        self.memory.close()
        self.peer.close()


Drive = Callable[[DeviceContract, Guest, random.Random], object]
"""Does to a device what a driver in a guest would: writes some registers, starts some work."""


def fuzz(device: DeviceContract, guest: Guest, rng: random.Random) -> None:
    """Write anything to registers at the beginning of each BAR, and to memory in them.

    A few accesses of 1, 2, 4 and 8 bytes; where the guest is `thorough` every one there is to what
    is compared afterwards (`LOOK`), in any order, so that none is always overwritten by the same
    other.
    """
    for region in device.regions[:CONFIG_INDEX]:
        if not region.writable or not region.size:
            continue
        for offset, size in _all(region, rng) if guest.thorough else _some(region, rng):
            with contextlib.suppress(CommandError):
                region.write(offset, _value(size, rng))
        for area in region.areas:
            offset = area.offset + rng.randrange(max(1, area.size // 16)) * 16
            with contextlib.suppress(CommandError):
                region.write(offset, rng.randbytes(min(16, area.size)))


def _some(region: Region, rng: random.Random) -> list[tuple[int, int]]:
    """Return offset and size of a few accesses, more of them near the beginning."""
    chosen = []
    for _ in range(_FEW):
        size = rng.choice([one for one in SIZES if one <= region.size])
        end = min(region.size, rng.choice((LOOK >> 4, LOOK >> 2, LOOK)))
        chosen.append((rng.randrange(end // size) * size, size))
    return chosen


def _all(region: Region, rng: random.Random) -> list[tuple[int, int]]:
    """Return offset and size of all accesses to registers that are looked at, in any order."""
    plain = [range(area.offset, area.offset + area.size) for area in region.areas]
    chosen = [
        (offset, size)
        for size in SIZES
        for offset in accesses(region, size)
        if not any(offset in area for area in plain)
    ]
    rng.shuffle(chosen)
    if rng.random() < 0.5:
        # The widest last, or what they leave behind is mostly overwritten by narrower ones.
        chosen.sort(key=lambda access: access[1])
    return chosen


def _value(size: int, rng: random.Random) -> bytes:
    """Return any number of `size` bytes; some are small, as commands are, or places in memory."""
    bits = rng.choice((64, 64, 64, 64, 18, 3))
    return rng.getrandbits(min(8 * size, bits)).to_bytes(size, "little")
