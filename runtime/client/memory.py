"""Memory that a client shares with a device.

`SharedMemory` is plain memory with a descriptor, sealed so that the server can map it without
fear. `AddressSpace` is what the devices of a guest see: which memory is at which address. It
maps itself for a client, by descriptor or by messages, and answers the messages; one address space
serves the source and the destination of a migration alike.
"""

from __future__ import annotations

import bisect
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.files.sealed_memory import SealedMemory
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.transport.closing import Closing

if TYPE_CHECKING:
    from vfio_migration.runtime.client.asynchronous import AsyncClient
    from vfio_migration.runtime.client.blocking import Client

_LAST: Final = 1 << 64


class SharedMemory(SealedMemory, Closing):
    """Memory with a descriptor; see `SealedMemory`."""

    def __init__(self, size: int, name: str = "guest") -> None:
        super().__init__(size, name)


@dataclass(frozen=True, slots=True)
class Window:
    """A range of addresses.

    Attributes:
        address: Where it begins.
        size: How many bytes.
        memory: What is there.
        offset: Where in it.
        readable: Devices may read it.
        writable: Devices may write it.
        by_descriptor: Servers get the descriptor; else they ask by messages.
    """

    address: int
    size: int
    memory: SharedMemory
    offset: int = 0
    readable: bool = True
    writable: bool = True
    by_descriptor: bool = True


class AddressSpace:
    """Which memory is at which address: a `Reachable`. Any number of clients may use it."""

    def __init__(self) -> None:
        # Exchanged as a whole, so that a thread that looks something up meets one or the other.
        self._table: tuple[tuple[int, ...], tuple[Window, ...]] = (), ()

    @property
    def windows(self) -> tuple[Window, ...]:
        """What is where, by address."""
        return self._table[1]

    def add(self, window: Window) -> None:
        """Put memory at an address.

        Raises:
            ValueError: Something is there, the memory is too short, or there is no such range.
        """
        where = f"{window.address:#x}+{window.size:#x}"
        end = window.address + window.size
        if window.size <= 0 or window.address < 0 or end > _LAST:
            raise ValueError(f"{where}: no range")
        if window.offset < 0 or window.offset + window.size > window.memory.size:
            raise ValueError(f"{where}: the memory is too short")
        starts, windows = self._table
        place = bisect.bisect_right(starts, window.address)
        before, after = windows[:place], windows[place:]
        if (before and before[-1].address + before[-1].size > window.address) or (
            after and end > after[0].address
        ):
            raise ValueError(f"{where}: something is mapped there already")
        starts = (*starts[:place], window.address, *starts[place:])
        self._table = starts, (*before, window, *after)

    def mapping(self, *, descriptors: bool = True) -> list[Call[None]]:
        """Return what lets a device reach all of it; without `descriptors`, by messages."""
        return [
            calls.dma_map(
                one.address,
                one.size,
                fd=one.memory.fd if one.by_descriptor and descriptors else None,
                offset=one.offset if one.by_descriptor and descriptors else 0,
                readable=one.readable,
                writable=one.writable,
            )
            for one in self.windows
        ]

    def attach(self, client: Client) -> None:
        """Let the device of a client reach all of it: by messages, if it takes no descriptors.

        Raises:
            ClientError: As `Client.dma_map`. What came before what was refused stays mapped.
        """
        client.memory = self
        for call in self.mapping(descriptors=client.max_fds > 0):
            client.do(call)

    async def attach_async(self, client: AsyncClient) -> None:
        """Do what `attach` does."""
        client.memory = self
        for call in self.mapping(descriptors=client.max_fds > 0):
            await client.do(call)

    def read(self, address: int, count: int, /) -> Data:
        """Return what is at an address; raise `OSError` where nothing readable does."""
        views = []
        for window, view in self._pieces(address, count):
            if not window.readable:
                raise _fault(f"{window.address:#x} is not readable")
            views.append(view)
        return bytes(views[0]) if len(views) == 1 else b"".join(views)

    def write(self, address: int, data: Data, /) -> None:
        """Write to an address; raise `OSError`, and write nothing, where that cannot be done."""
        pieces = list(self._pieces(address, len(data)))
        for window, _ in pieces:
            if not window.writable:
                raise _fault(f"{window.address:#x} is not writable")
        at = 0
        source = memoryview(data)
        for _, view in pieces:
            view[:] = source[at : at + len(view)]
            at += len(view)

    def _pieces(self, address: int, count: int) -> Iterator[tuple[Window, memoryview]]:
        """Cut a range at the borders of windows, which may touch."""
        starts, windows = self._table
        place = bisect.bisect_right(starts, address) - 1
        at, end = address, address + count
        while True:
            window = windows[place] if 0 <= place < len(windows) else None
            if window is None or not window.address <= at < window.address + window.size:
                raise _fault(f"{at:#x} is not mapped")
            size = min(end, window.address + window.size) - at
            begin = window.offset + at - window.address
            yield window, window.memory.view[begin : begin + size]
            at += size
            if at >= end:
                return
            place += 1


def _fault(why: str) -> OSError:
    return OSError(errno.EFAULT, why)
