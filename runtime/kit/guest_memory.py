"""The memory of the guest, as a device reaches it.

`GuestMemory` holds what the client has mapped (DMA_MAP) and is the only way for a device to reach
any of it. Two things therefore cannot be forgotten: each write is logged while DMA logging is on,
and each access is first asked of the table, by way of the gate the device's kit puts in. What is
not permitted in the present state raises `NotPermittedError` and does nothing; `permitted` asks
beforehand, and work that waits until then is `PciDevice.later`.

*Peers.* DMA to a map that shows another device's memory is peer-to-peer DMA, which the table speaks
of by itself. A map is a peer's if its descriptor is that of a device region (ours are known by
their name, those of real devices by not being plain memory), or if it touches an address window
declared with `add_peer_window`, which is the only way to know one that came without a descriptor.

*Access.* Memory that came with a descriptor is reached through it (`guest_map` states how); memory
that came without one by messages, through `reach`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from vfio_migration.model.spec import Role
from vfio_migration.runtime.kit.dirty_log import DirtyLog
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.guest_map import GuardedCopy, GuestMap, as_peer, with_file
from vfio_migration.runtime.protocol.layout import WIRE

MAX_MAPS: Final = WIRE.bound("dma_maps")
"""How many maps a client may have, by default."""

MAX_MAPPED_FILES: Final = WIRE.bound("mapped_files")
"""How many of the maps may have come with a descriptor."""
MAX_MAPPED_BYTES: Final = WIRE.bound("mapped_mib") << 20
"""How many bytes these may be, all together."""

_MAX_ADDRESS: Final = 1 << 64


class DmaFaultError(Exception):
    """An access to memory of the guest that failed, as one on real hardware can.

    Attributes:
        iova: Where it went.
        size: How many bytes it was about.
        why: What was wrong with it.
    """

    def __init__(self, iova: int, size: int, why: str) -> None:
        super().__init__(iova, size, why)
        self.iova = iova
        self.size = size
        self.why = why

    def __str__(self) -> str:
        return f"DMA of {self.size} bytes at {self.iova:#x}: {self.why}"


class NotPermittedError(Exception):
    """The device tried something that the table does not permit in its present state.

    Nothing has been done. That it was tried is a mistake in the device.

    Attributes:
        role: The role of the activity it tried.
    """

    def __init__(self, role: Role) -> None:
        super().__init__(role)
        self.role = role

    def __str__(self) -> str:
        return f"the present state does not permit {self.role}"


class Reach(Protocol):
    """Reaches memory that came without a descriptor: a server, by messages to its client."""

    def read(self, iova: int, size: int, /) -> Part:
        """Return `size` bytes at `iova`; raise `OSError` if the client does not give them."""
        ...

    def write(self, iova: int, data: Part, /) -> None:
        """Write `data` at `iova`; raise `OSError` if the client does not take it."""
        ...


def _always(_role: Role) -> bool:
    return True


class GuestMemory:
    """What of the guest's memory is mapped, and all access to it.

    Args:
        max_maps: How many maps a client may have.
        gate: Says whether the device may do the activity with a role.

    Attributes:
        log: DMA logging.
        reach: How memory without a descriptor is reached; None while there is no way.
        abandoned: The client went away, and the next one has not yet mapped its memory and gone on
            to use the device. Until then only what is mapped is `permitted`, so that work for the
            guest waits for its memory instead of getting lost.
        device_memory: Descriptors of real devices are mapped too, which an operator permits. An
            access to what such a device takes away ends this process (SIGBUS).
    """

    def __init__(self, *, max_maps: int = MAX_MAPS, gate: Callable[[Role], bool] = _always) -> None:
        self.log = DirtyLog()
        self.reach: Reach | None = None
        self.abandoned = False
        self.device_memory = False
        self._copy: GuardedCopy | None = None
        self._max_maps = max_maps
        self._gate = gate
        self._maps: list[GuestMap] = []
        self._mapped_files = self._mapped_bytes = 0
        self._starts: list[int] = []
        self._windows: list[tuple[int, int]] = []

    # --- for the server ---

    @property
    def maps(self) -> tuple[GuestMap, ...]:
        """What is mapped, by address."""
        return tuple(self._maps)

    def map(
        self,
        iova: int,
        size: int,
        *,
        readable: bool = True,
        writable: bool = True,
        fd: int | None = None,
        offset: int = 0,
        file_io: bool = False,
    ) -> None:
        """Let the device reach a range; `fd` is duplicated if it is kept.

        Args:
            iova: Where it begins.
            size: How long it is.
            readable: The device may read it.
            writable: The device may write it.
            fd: The file behind it, or None if it is reached by messages.
            offset: Where in the file it begins.
            file_io: No access is direct: the system copies.

        Raises:
            CommandError: The range makes no sense, overlaps another, is one too many, or the
                descriptor cannot be used for it.
        """
        if size <= 0 or iova < 0 or iova + size > _MAX_ADDRESS or offset < 0:
            raise CommandError(f"no range: {iova:#x}+{size:#x}", occasion="argument_invalid")
        if fd is not None and offset + size > (1 << 63) - 1:
            raise CommandError(f"no offset: {offset:#x}", occasion="argument_invalid")
        place = bisect.bisect_right(self._starts, iova)
        before = self._maps[place - 1] if place else None
        after = self._maps[place] if place < len(self._maps) else None
        if (before and before.end > iova) or (after and iova + size > after.iova):
            message = f"{iova:#x}+{size:#x} overlaps what is mapped"
            raise CommandError(message, occasion="map_exists")
        if len(self._maps) >= self._max_maps:
            raise CommandError(f"{len(self._maps)} maps are all", occasion="holding_full")
        peer = any(iova < end and start < iova + size for start, end in self._windows)
        made = GuestMap(iova, size, readable, writable, peer)
        if fd is not None:
            self._check_room(size)
            made = with_file(made, fd, offset, file_io=file_io, devices=self.device_memory)
            self._mapped_files += 1
            self._mapped_bytes += size
        self._maps.insert(place, made)
        self._starts.insert(place, iova)

    def _check_room(self, size: int) -> None:
        """See whether one more range of `size` bytes that comes with a descriptor can be kept."""
        if self._mapped_files >= MAX_MAPPED_FILES:
            message = f"{self._mapped_files} maps with a descriptor are all"
            raise CommandError(message, occasion="holding_full")
        if size > MAX_MAPPED_BYTES - self._mapped_bytes:
            message = f"{MAX_MAPPED_BYTES} bytes are mapped at most, {self._mapped_bytes} are"
            raise CommandError(message, occasion="holding_full")

    def unmap(self, iova: int, size: int) -> None:
        """Take back a range that was mapped exactly so.

        Raises:
            CommandError: There is none.
        """
        place = bisect.bisect_left(self._starts, iova)
        if place == len(self._maps) or (self._maps[place].iova, self._maps[place].size) != (
            iova,
            size,
        ):
            message = f"{iova:#x}+{size:#x} is not mapped so"
            raise CommandError(message, occasion="map_unknown")
        del self._starts[place]
        removed = self._maps.pop(place)
        if removed.view is not None:
            self._mapped_files -= 1
            self._mapped_bytes -= removed.size
        removed.close()

    def unmap_all(self) -> None:
        """Take back all ranges."""
        maps, self._maps, self._starts = self._maps, [], []
        self._mapped_files = self._mapped_bytes = 0
        for removed in maps:
            removed.close()
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def drop(self) -> None:
        """Forget all that the client had mapped, and what it had logged: it went away."""
        self.unmap_all()
        self.log.stop()
        self.reach = None
        self.abandoned = True

    def used(self) -> None:
        """Take note that the client uses the device: it has mapped what it wants to, if anything.

        From here on an access to what is not mapped fails, as on hardware.
        """
        if self._maps:
            self.abandoned = False

    def add_peer_window(self, iova: int, size: int) -> None:
        """Declare that behind these addresses there is another device, whatever is mapped there."""
        self._windows.append((iova, iova + size))
        self._maps = [
            as_peer(row) if iova < row.end and row.iova < iova + size else row for row in self._maps
        ]

    # --- for the device ---

    def role(self, iova: int, size: int) -> Role:
        """Return the role of the activity that an access to this range is."""
        peer = any(row.peer for row in self._overlapping(iova, size))
        return "peer_dma" if peer else "guest_dma"

    def permitted(self, iova: int, size: int) -> bool:
        """Return whether the device may access this range now.

        A range that is not mapped is permitted while DMA is: the access fails, as on hardware. But
        not while memory is `abandoned`.
        """
        if self.abandoned and not self._is_mapped(iova, size):
            return False
        return self._gate(self.role(iova, size))

    def read(self, iova: int, size: int) -> bytes:
        """Read memory of the guest.

        Raises:
            NotPermittedError: The table does not permit it in the present state.
            DmaFaultError: Some of it is not mapped, not readable or cannot be reached.
        """
        self._enter(iova, size)
        parts = [self._read(row, at, n) for row, at, n in self._pieces(iova, size, write=False)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, iova: int, data: Part) -> None:
        """Write memory of the guest; it is logged.

        Either all of the range is mapped and writable, or nothing is written.

        Raises:
            NotPermittedError: The table does not permit it in the present state.
            DmaFaultError: Some of it is not mapped, not writable or cannot be reached.
        """
        view = memoryview(data).cast("B")
        self._enter(iova, len(view))
        pieces = list(self._pieces(iova, len(view), write=True))
        # Before the bytes move: a write that fails half-way has still written something.
        self.log.wrote(iova, len(view))
        for row, at, size in pieces:
            self._write(row, at, view[at - iova : at - iova + size])

    def views(self, iova: int, size: int) -> list[memoryview]:
        """Return memory of the guest to read, without a copy where that is possible.

        It can only be read: a write through it would not be logged.

        Raises:
            NotPermittedError: The table does not permit it in the present state.
            DmaFaultError: As `read`.
        """
        self._enter(iova, size)
        return [
            memoryview(self._read(row, at, n))
            if row.view is None or row.guarded
            else row.view[at - row.iova : at - row.iova + n].toreadonly()
            for row, at, n in self._pieces(iova, size, write=False)
        ]

    # --- inside ---

    def _enter(self, iova: int, size: int) -> None:
        role = self.role(iova, size)
        if not self._gate(role):
            raise NotPermittedError(role)

    def _overlapping(self, iova: int, size: int) -> Iterator[GuestMap]:
        place = max(0, bisect.bisect_right(self._starts, iova) - 1)
        while place < len(self._maps) and self._maps[place].iova < iova + size:
            if self._maps[place].end > iova:
                yield self._maps[place]
            place += 1

    def _is_mapped(self, iova: int, size: int) -> bool:
        at = iova
        for row in self._overlapping(iova, size):
            if row.iova > at:
                return False
            at = row.end
        return at >= iova + size

    def _pieces(self, iova: int, size: int, *, write: bool) -> Iterator[tuple[GuestMap, int, int]]:
        """Cut a range at the borders of maps: (map, address, size)."""
        at, end = iova, iova + size
        for row in self._overlapping(iova, size):
            if row.iova > at:
                break
            if not (row.writable if write else row.readable):
                done = "writable" if write else "readable"
                raise DmaFaultError(iova, size, f"{at:#x} is not {done}")
            piece = min(end, row.end) - at
            yield row, at, piece
            at += piece
        if at < end:
            raise DmaFaultError(iova, size, f"{at:#x} is not mapped")

    def _read(self, row: GuestMap, at: int, size: int) -> bytes:
        inside = at - row.iova
        if row.view is not None and not row.guarded:
            return bytes(row.view[inside : inside + size])
        try:
            if row.view is not None:
                data: Part = self._guarded().read(row.view[inside : inside + size])
            elif self.reach is not None:
                data = self.reach.read(at, size)
            else:
                raise DmaFaultError(at, size, "there is no way to reach it")
        except OSError as error:
            raise DmaFaultError(at, size, str(error)) from error
        if len(data) != size:
            raise DmaFaultError(at, size, f"only {len(data)} bytes are there")
        return bytes(data)

    def _write(self, row: GuestMap, at: int, data: memoryview) -> None:
        inside = at - row.iova
        if row.view is not None and not row.guarded:
            row.view[inside : inside + len(data)] = data
            return
        try:
            if row.view is not None:
                self._guarded().write(row.view[inside : inside + len(data)], data)
            elif self.reach is not None:
                self.reach.write(at, data)
            else:
                raise DmaFaultError(at, len(data), "there is no way to reach it")
        except OSError as error:
            raise DmaFaultError(at, len(data), str(error)) from error

    def _guarded(self) -> GuardedCopy:
        if self._copy is None:
            self._copy = GuardedCopy()
        return self._copy
