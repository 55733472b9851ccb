"""`memory`: a device whose state is a large memory that changes at a set rate.

For benchmarks and demonstrations of live migration. The memory is BAR 2; it is changed page by
page, in an order that looks random, and what it holds follows from how many changes were made:
`contents(seed, size, changes)` computes it anew, so that a destination can be checked byte for
byte.

Registers of BAR 0, little-endian:

| offset | access | what it holds                                             |
|--------|--------|-----------------------------------------------------------|
| 0x00   | R      | identification, 0x010000ee                                |
| 0x08   | R/W, 8 | bytes to be changed per second; 0 is stopped            |
| 0x10   | R, 8   | how many pages have been changed                          |
| 0x18   | R, 8   | the size of the memory                                    |
| 0x20   | R, 8   | the seed of the order in which pages are changed          |
| 0x28   | R/W, 8 | where a peer is stamped; 0 is nowhere                      |
| 0x30   | R, 8   | the last stamp                                            |

Such devices do peer-to-peer DMA to each other: after each change the number of pages changed so far
is written to the address in 0x28, where a client has mapped another device, say its BAR 4, which is
a page of memory for stamps. While the table does not permit that, no stamp is written and none is
counted. So what a peer was stamped with and what the register says agree, or a write was lost.
"""

from __future__ import annotations

import mmap
import struct
from typing import Any, Final

from vfio_migration.runtime.kit.config_space import STATUS_MASTER_ABORT
from vfio_migration.runtime.kit.guest_memory import DmaFaultError
from vfio_migration.runtime.kit.pci_device import Bar, Identity, PciDevice

IDENTIFICATION: Final = 0x010000EE

REG_IDENTIFICATION: Final = 0x00
REG_RATE: Final = 0x08
REG_CHANGES: Final = 0x10
REG_SIZE: Final = 0x18
REG_SEED: Final = 0x20
REG_PEER: Final = 0x28
REG_STAMP: Final = 0x30

PAGE: Final = 4096

MAILBOX: Final = 4
"""The BAR in which others leave stamps."""

_STATE: Final = struct.Struct("<QQQQQQQd")
_U64: Final = struct.Struct("<Q")
_STAMP: Final = struct.Struct("<QQ")
_WORD: Final = (1 << 64) - 1
MAX_TICK_S: Final = 0.01
"""The longest time, in seconds, of which the changes are made at once."""
MAX_TICKED_PAGES: Final = 1 << 13
"""How many pages are changed at once at most, so that a client does not wait for milliseconds. What
is more is not made up for."""


class MemoryDevice(PciDevice):
    """A large memory, dirtied at a set rate, that stamps its peers.

    Args:
        size: The size of the memory: a power of two, at least a page.
        rate: How many bytes are changed per second, to begin with.
        seed: What the order of changes begins with.
        mappable: A client may map the memory. Then nobody knows what it changes, and all of the
            memory is streamed again once the device is stopped.
        tick_seconds: How often changes are made.
        options: Those of `PciDevice`.
    """

    name = "memory"
    identity = Identity(vendor=0x1234, device=0x11E9, revision=1, class_code=0x050000)
    msi = 1
    deferrable = ("_change",)

    def __init__(
        self,
        *,
        size: int = 64 << 20,
        rate: int = 0,
        seed: int = 1,
        mappable: bool = False,
        tick_seconds: float = 0.001,
        **options: Any,
    ) -> None:
        if size < PAGE or size & (size - 1):
            raise ValueError(f"size {size}: must be a power of two of at least {PAGE}")
        self.size = size
        self.tick_seconds = tick_seconds
        self._rate, self._seed = rate, seed & _WORD
        self.bars = {
            0: Bar(4096),
            2: Bar(size, memory=True, mappable=mappable, is64=True, prefetchable=True),
            MAILBOX: Bar(PAGE, memory=True),
        }
        super().__init__(**options)

    def reset_device(self) -> None:
        """Come up with all of the memory zero, changing at the rate the device was made with."""
        self.rate, self.seed = self._rate, self._seed
        self.order = self.seed
        self.changes = self.peer = self.stamp = 0
        self._debt = 0.0
        self._since = self.clock()
        self._arm()

    def _arm(self) -> None:
        if self.rate:
            self.later(self.tick_seconds, self._change)

    def start(self) -> None:
        """Begin to count anew: nothing was to be changed meanwhile."""
        self._since = self.clock()

    # --- registers ---

    def bar_read(self, bar: int, offset: int, size: int) -> int:  # noqa: ARG002
        """Read a register, or half of one."""
        registers = {
            REG_IDENTIFICATION: IDENTIFICATION,
            REG_RATE: self.rate,
            REG_CHANGES: self.changes,
            REG_SIZE: self.size,
            REG_SEED: self.seed,
            REG_PEER: self.peer,
            REG_STAMP: self.stamp,
        }
        return registers.get(offset & ~7, 0) >> 8 * (offset & 7)

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:  # noqa: ARG002
        """Set the rate or the peer, or half of one."""
        shift = 8 * (offset & 7)
        mask = ((1 << 8 * size) - 1) << shift
        if offset & ~7 == REG_PEER:
            self.peer = (self.peer & ~mask | value << shift & mask) & _WORD
        elif offset & ~7 == REG_RATE:
            idle = not self.rate
            self.rate = (self.rate & ~mask | value << shift & mask) & _WORD
            if idle and self.rate:
                self._since, self._debt = self.clock(), 0.0
                self._arm()

    # --- changes ---

    def _change(self) -> None:
        now = self.clock()
        self._debt += min(now - self._since, MAX_TICK_S) * self.rate / PAGE
        self._since = now
        count = int(self._debt)
        self._debt -= count
        self.change(min(count, MAX_TICKED_PAGES))
        if self.peer:
            self._stamp()
        self._arm()

    def _stamp(self) -> None:
        if not self.dma.permitted(self.peer, _U64.size):
            return
        try:
            self.dma.write(self.peer, _U64.pack(self.changes))
        except DmaFaultError:
            self.config.set_status(STATUS_MASTER_ABORT)
        else:
            self.stamp = self.changes

    def change(self, count: int) -> None:
        """Change `count` pages at once."""
        memory = self.block("bar2")
        view, mark, pages = memory.view, memory.mark, self.size // PAGE
        order, changes = self.order, self.changes
        for _ in range(count):
            order = _next(order)
            changes += 1
            at = (order >> 33) % pages * PAGE
            _STAMP.pack_into(view, at, changes, order)
            mark(at, _STAMP.size)
        self.order, self.changes = order, changes

    # --- migration ---

    def save(self) -> bytes:
        """Give out what is not in the memory."""
        return _STATE.pack(
            self.size,
            self.rate,
            self.seed,
            self.order,
            self.changes,
            self.peer,
            self.stamp,
            self._debt,
        )

    def load(self, state: bytes, version: int) -> None:  # noqa: ARG002 - there is one version
        """Take over what is not in the memory, and go on changing it."""
        (
            size,
            self.rate,
            self.seed,
            self.order,
            self.changes,
            self.peer,
            self.stamp,
            self._debt,
        ) = _STATE.unpack(state)
        if size != self.size:
            raise ValueError(f"{size} bytes of memory; this device has {self.size}")
        if not 0 <= self._debt < 1:
            raise ValueError(f"{self._debt} pages are due, which should have been changed")
        self._arm()


def contents(seed: int, size: int, changes: int) -> mmap.mmap:
    """Return what the memory holds after so many changes."""
    made = mmap.mmap(-1, size)
    order = seed & _WORD
    for number in range(1, changes + 1):
        order = _next(order)
        _STAMP.pack_into(made, (order >> 33) % (size // PAGE) * PAGE, number, order)
    return made


def _next(order: int) -> int:
    """Return the number after this one (Knuth's MMIX generator)."""
    return (order * 6364136223846793005 + 1442695040888963407) & _WORD
