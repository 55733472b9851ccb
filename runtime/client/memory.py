"""Memory that a client shares with a device.

`SharedMemory` is plain memory with a descriptor, sealed so that the server can map it without
fear. `AddressSpace` is what the devices of a guest see: which memory stands at which address. It
maps itself for a client, by descriptor or by messages, and answers the messages; one address space
serves the source and the destination of a migration alike.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from vfio_migration.runtime.protocol.layout import Data

if TYPE_CHECKING:
    from vfio_migration.runtime.client.client import Client

_EFAULT: Final = 14


class SharedMemory:
    """Memory with a descriptor.

    Args:
        size: How many bytes.
        name: What it is called in /proc.

    Attributes:
        size: How many bytes.
        fd: Its descriptor.
        view: Its bytes.
    """

    def __init__(self, size: int, name: str = "guest") -> None:
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        # A server that maps memory which can shrink could be killed by whoever shrinks it.
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._map = mmap.mmap(self.fd, size)
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give it back."""
        self.view.release()
        self._map.close()
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Window:
    """A range of addresses.

    Attributes:
        address: Where it begins.
        size: How many bytes.
        memory: What stands there.
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
    """Which memory stands at which address: a `Reachable`."""

    def __init__(self) -> None:
        self._windows: list[Window] = []
        self._starts: list[int] = []

    @property
    def windows(self) -> tuple[Window, ...]:
        """What stands where, by address."""
        return tuple(self._windows)

    def add(self, window: Window) -> None:
        """Put memory at an address.

        Raises:
            ValueError: Something stands there, or the memory is too short.
        """
        end = window.address + window.size
        place = bisect.bisect_right(self._starts, window.address)
        before = self._windows[place - 1] if place else None
        after = self._windows[place] if place < len(self._windows) else None
        if (before and before.address + before.size > window.address) or (
            after and end > after.address
        ):
            raise ValueError(
                f"{window.address:#x}+{window.size:#x}: something stands there already"
            )
        if window.size <= 0 or window.offset + window.size > window.memory.size:
            raise ValueError(f"{window.address:#x}+{window.size:#x}: the memory is too short")
        self._windows.insert(place, window)
        self._starts.insert(place, window.address)

    def attach(self, client: Client) -> None:
        """Let the device of a client reach all of it.

        Raises:
            ClientError: As `Client.dma_map`.
        """
        client.memory = self
        for window in self._windows:
            client.dma_map(
                window.address,
                window.size,
                fd=window.memory.fd if window.by_descriptor else None,
                offset=window.offset if window.by_descriptor else 0,
                readable=window.readable,
                writable=window.writable,
            )

    def read(self, address: int, count: int, /) -> Data:
        """Return what stands at an address; raise `OSError` where nothing readable does."""
        window = self._window(address, count)
        if not window.readable:
            raise OSError(_EFAULT, f"{address:#x} is not readable")
        at = window.offset + address - window.address
        return bytes(window.memory.view[at : at + count])

    def write(self, address: int, data: Data, /) -> None:
        """Write to an address; raise `OSError` where nothing writable stands."""
        window = self._window(address, len(data))
        if not window.writable:
            raise OSError(_EFAULT, f"{address:#x} is not writable")
        at = window.offset + address - window.address
        window.memory.view[at : at + len(data)] = data

    def _window(self, address: int, count: int) -> Window:
        place = bisect.bisect_right(self._starts, address) - 1
        if place >= 0:
            window = self._windows[place]
            if address + count <= window.address + window.size:
                return window
        raise OSError(_EFAULT, f"{address:#x}+{count:#x} is not mapped")
