"""The configuration space of a PCI device: header, BARs, capabilities, and what can be written.

`ConfigSpace` is 256 bytes, or 4096 with the PCI Express capability. Each bit is read-only, writable
or cleared by writing one; that is data (`mask`, `clear`), laid down when the space is built.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from vfio_migration.runtime.kit.errors import Part
from vfio_migration.runtime.kit.region import Memory, MemoryRegion, Region

COMMAND: Final = 0x04
STATUS: Final = 0x06
BARS: Final = 0x10
INTERRUPT_PIN: Final = 0x3D

CAP_PM: Final = 0x01
CAP_MSI: Final = 0x05
CAP_PCIE: Final = 0x10
CAP_MSIX: Final = 0x11

STATUS_MASTER_ABORT: Final = 1 << 13
"""Set by a device whose DMA found nobody at its address."""

_STATUS_INTERRUPT: Final = 1 << 3

_FIRST_CAP: Final = 0x40
_PM_CONTROL: Final = 4
_NO_POWER_STATES: Final = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which device it is, by its own account.

    Attributes:
        vendor: Vendor ID.
        device: Device ID.
        revision: Revision ID.
        class_code: Class, subclass and interface: 24 bits.
        subsystem_vendor: Subsystem vendor ID.
        subsystem: Subsystem ID.
    """

    vendor: int
    device: int
    revision: int = 0
    class_code: int = 0xFF0000
    subsystem_vendor: int = 0
    subsystem: int = 0


class ConfigSpace:
    """Configuration space as it is built up, read, written, saved and loaded.

    Attributes:
        size: 256 or 4096.
        data: Its bytes.
        mask: Which bits can be written.
        clear: Which bits are cleared by writing one.
    """

    def __init__(self, identity: Identity, *, express: bool = False) -> None:
        self.size = 4096 if express else 256
        self.data = bytearray(self.size)
        self.mask = bytearray(self.size)
        self.clear = bytearray(self.size)
        self._reset_to = bytes(self.data)
        self._last_cap = 0
        self._next_cap = _FIRST_CAP
        self._caps: dict[int, int] = {}
        self._bars: set[int] = set()
        self._put(0x00, "<HH", identity.vendor, identity.device)
        self._put(0x08, "<I", identity.class_code << 8 | identity.revision)
        self._put(0x2C, "<HH", identity.subsystem_vendor, identity.subsystem)
        # I/O, memory, bus master, parity error, SERR#, interrupt disable.
        self._writable(COMMAND, "<H", 0x0547)
        self.clear[STATUS : STATUS + 2] = struct.pack("<H", 0xF900)
        self._writable(0x0C, "<B", 0xFF)  # cache line size
        self._writable(0x3C, "<B", 0xFF)  # interrupt line
        self.seal()

    # --- building ---

    def add_bar(
        self, number: int, size: int, *, is64: bool = False, prefetchable: bool = False
    ) -> None:
        """Add a BAR of memory; one of 64 bits takes the next number too.

        Raises:
            ValueError: Its size is not a power of two of at least 16, it does not fit, or is
                taken.
        """
        if size < 16 or size & (size - 1):
            raise ValueError(f"BAR {number}: size {size:#x} is not a power of two of at least 16")
        if not 0 <= number < (5 if is64 else 6) or (not is64 and size > 1 << 31):
            raise ValueError(f"BAR {number}: does not fit")
        taken = {number, number + 1} if is64 else {number}
        if taken & self._bars:
            raise ValueError(f"BAR {number}: there is one already")
        self._bars |= taken
        at = BARS + 4 * number
        flags = (4 if is64 else 0) | (8 if prefetchable else 0)
        decoded = ~(size - 1) & (0xFFFFFFFFFFFFFFFF if is64 else 0xFFFFFFFF)
        self._put(at, "<I", flags)
        self._writable(at, "<Q" if is64 else "<I", decoded & ~0xF)
        self.seal()

    def add_capability(self, number: int, content: bytes, writable: bytes) -> int:
        """Append a capability; `content` begins after its number and link. Return its offset.

        Raises:
            ValueError: There is no room for it.
        """
        at = self._next_cap
        if at + 2 + len(content) > 256 or len(writable) != len(content):
            raise ValueError(f"capability {number:#x}: there is no room for it")
        self.data[at] = number
        self.data[at + 2 : at + 2 + len(content)] = content
        self.mask[at + 2 : at + 2 + len(content)] = writable
        self.data[self._last_cap + 1 if self._last_cap else 0x34] = at
        self.data[STATUS] |= 0x10
        self._last_cap = at
        self._next_cap = (at + 2 + len(content) + 3) & ~3
        self._caps[number] = at
        self.seal()
        return at

    def add_pm(self) -> None:
        """Add power management: D0 and D3hot, nothing lost between them."""
        self.add_capability(CAP_PM, struct.pack("<HHBB", 3, 8, 0, 0), b"\0\0\3\0\0\0")

    def add_msi(self, vectors: int) -> None:
        """Add MSI with 64-bit addresses; 1, 2, 4, 8, 16 or 32 vectors."""
        if vectors not in (1, 2, 4, 8, 16, 32):
            raise ValueError(f"MSI: {vectors} vectors; it can be 1, 2, 4, 8, 16 or 32")
        control = 0x80 | (vectors.bit_length() - 1) << 1
        content = struct.pack("<HIIH", control, 0, 0, 0)
        self.add_capability(
            CAP_MSI, content, struct.pack("<HIIH", 0x71, ~3 & 0xFFFFFFFF, -1 & 0xFFFFFFFF, 0xFFFF)
        )

    def add_msix(self, vectors: int, bar: int, table: int, pending: int) -> None:
        """Add MSI-X with its table and its pending bits in a BAR, at these offsets."""
        if not 1 <= vectors <= 2048:
            raise ValueError(f"MSI-X: {vectors} vectors; it can be 1 to 2048")
        content = struct.pack("<HII", vectors - 1, table | bar, pending | bar)
        self.add_capability(CAP_MSIX, content, struct.pack("<HII", 0xC000, 0, 0))

    def add_express(self) -> None:
        """Add PCI Express: an endpoint on one lane of 2.5 GT/s."""
        content = bytearray(58)
        writable = bytearray(58)
        struct.pack_into("<HI", content, 0, 0x0002, 0x8000)
        struct.pack_into("<IH", content, 10, 0x11, 0)
        struct.pack_into("<H", content, 16, 0x11)
        struct.pack_into("<H", writable, 6, 0x7FFF)
        struct.pack_into("<H", writable, 14, 0x00C3)
        self.add_capability(CAP_PCIE, bytes(content), bytes(writable))

    def set_interrupt_pin(self, pin: int) -> None:
        """Return which of INTA# (1) to INTD# (4) the device has, 0 for none."""
        self.data[INTERRUPT_PIN] = pin
        self.seal()

    def seal(self) -> None:
        """Take what is there now for what a reset brings back."""
        self._reset_to = bytes(self.data)

    # --- in use ---

    def read(self, offset: int, size: int) -> bytes:
        """Return some of it."""
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: Part) -> None:
        """Write some of it, as far as it can be written."""
        power = self._caps.get(CAP_PM, 0) + _PM_CONTROL
        for at, byte in enumerate(data, offset):
            mask = self.mask[at]
            if at == power and byte & 3 in _NO_POWER_STATES:
                mask &= ~3  # a state it does not have: the write is discarded
            self.data[at] = (self.data[at] & ~mask | byte & mask) & ~(byte & self.clear[at])

    def reset(self) -> None:
        """Bring it back to what it was when the device was made."""
        self.data[:] = self._reset_to

    def load(self, data: bytes) -> None:
        """Take over the configuration space of another device of the same kind.

        Raises:
            ValueError: It is not of the same kind: some of it differs that nobody can write.
        """
        if len(data) != self.size:
            raise ValueError(f"configuration space of {len(data)} bytes; this has {self.size}")
        for at in range(self.size):
            fixed = ~(self.mask[at] | self.clear[at]) & 0xFF
            if (data[at] ^ self._reset_to[at]) & fixed:
                raise ValueError(f"configuration space differs at {at:#x}")
        self.data[:] = data

    def capability(self, number: int) -> int | None:
        """Return the offset of a capability, or None."""
        return self._caps.get(number)

    def set_status(self, bits: int) -> None:
        """Set bits of the status register."""
        (status,) = struct.unpack_from("<H", self.data, STATUS)
        struct.pack_into("<H", self.data, STATUS, status | bits)

    @property
    def command(self) -> int:
        """The command register."""
        return int.from_bytes(self.data[COMMAND : COMMAND + 2], "little")

    @property
    def msi_enabled(self) -> bool:
        """Whether the guest has turned MSI on."""
        at = self._caps.get(CAP_MSI)
        return at is not None and bool(self.data[at + 2] & 1)

    @property
    def msi_vectors(self) -> int:
        """How many MSI vectors the guest has allocated, which may be fewer than there are."""
        at = self._caps.get(CAP_MSI)
        if at is None:
            return 0
        control = self.data[at + 2]
        return 1 << min(control >> 4 & 7, control >> 1 & 7)

    @property
    def msix_enabled(self) -> bool:
        """Whether the guest has turned MSI-X on."""
        at = self._caps.get(CAP_MSIX)
        return at is not None and bool(self.data[at + 3] & 0x80)

    def _put(self, at: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, self.data, at, *values)

    def _writable(self, at: int, layout: str, bits: int) -> None:
        struct.pack_into(layout, self.mask, at, bits)


class ConfigRegion(Region):
    """Configuration space as a region.

    It can be written in every state: a client restores it while the device is stopped.

    Args:
        space: What it shows.
        wrote: Called with offset and size after each write.
        line: Says whether INTx is up, as the status register does.
    """

    readable = writable = writable_stopped = True

    def __init__(
        self, space: ConfigSpace, wrote: Callable[[int, int], object], line: Callable[[], bool]
    ) -> None:
        self.size = space.size
        self._space = space
        self._wrote = wrote
        self._line = line

    def _read(self, offset: int, size: int) -> Part:
        data = bytearray(self._space.read(offset, size))
        # Not in the space itself: it follows from another part of the state.
        if offset <= STATUS < offset + size and self._line():
            data[STATUS - offset] |= _STATUS_INTERRUPT
        return data

    def _write(self, offset: int, data: Part) -> None:
        self._space.write(offset, data)
        self._wrote(offset, len(data))


class MsixRegion(MemoryRegion):
    """The BAR of MSI-X: a table, which is plain memory, and the pending bits, which only report.

    A client restores the table while the device is stopped: it can be written in every state.

    Args:
        memory: The memory; it belongs to the region.
        bits_at: Where the pending bits begin.
        bits_size: How many bytes of them there are.
        pending: Returns which vectors are pending.
    """

    writable_stopped = True

    def __init__(
        self, memory: Memory, bits_at: int, bits_size: int, pending: Callable[[], Iterable[int]]
    ) -> None:
        super().__init__(memory, mappable=False)
        self._bits = range(bits_at, bits_at + bits_size)
        self._pending = pending

    def _read(self, offset: int, size: int) -> Part:
        data = bytearray(super()._read(offset, size))
        for vector in self._pending():
            at = self._bits.start + vector // 8 - offset
            if 0 <= at < size:
                data[at] |= 1 << vector % 8
        return data

    def _write(self, offset: int, data: Part) -> None:
        # What is written to a pending bit is dropped, as by QEMU: hardware alone changes it.
        end, bits = offset + len(data), self._bits
        for start, stop in ((offset, min(end, bits.start)), (max(offset, bits.stop), end)):
            if start < stop:
                super()._write(start, data[start - offset : stop - offset])
