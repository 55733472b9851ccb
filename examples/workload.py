"""A guest as small as can be: keeps `edu` and `memory` devices busy while they are moved.

It does what a virtual machine does for its devices. It lets them reach each other (the peer's
memory mapped as guest memory, by descriptor), drives them, is stopped while they are moved, and
goes on at whichever side then runs, through the connections that `Coordinator` was given as
`clients`.

What every device has written to its peer is counted where the write begins. A write that was lost
because its target was stopped already, or that was done twice, shows in `check`.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from vfio_migration.runtime.client import Client, ClientError
from vfio_migration.runtime.coordinator.settings import Hooks
from vfio_migration.runtime.kit.devices import edu, memory

_BASE: Final = 0x1000000
_APART: Final = 0x100000
_AREA: Final = 4096
_SLOT: Final = 0x100
"""Where in the area of a peer an edu writes; stamps of a memory are at its beginning."""
_IDENTIFICATION: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")


class Workload:
    """Keeps devices busy.

    Args:
        sources: A connection to each device.
        destinations: One to each device it is moved to, in the same order; none if it is not.
        rate: How many bytes a `memory` changes per second.

    Attributes:
        hooks: For `Coordinator`.
        transfers: How many transfers between peers the processors of this guest have begun.
    """

    def __init__(
        self,
        sources: Sequence[Client],
        destinations: Sequence[Client] = (),
        *,
        rate: int = 64 << 20,
    ) -> None:
        self._sides = {"source": tuple(sources), "destination": tuple(destinations)}
        self._rate = rate
        self._kinds = [_IDENTIFICATION.unpack(client.region_read(0, 0, 4))[0] for client in sources]
        self._side: Literal["source", "destination"] = "source"
        self._runs = threading.Event()
        self._held = threading.Event()
        self._over = threading.Event()
        self._counts = [0] * len(self._kinds)
        self.transfers = 0
        self.error: ClientError | None = None
        self.hooks = Hooks(pause=self.pause, resume=self.resume)
        for clients in self._sides.values():
            self._connect(clients)
        for index, kind in enumerate(self._kinds):
            if kind == memory.IDENTIFICATION:
                self._set(index, memory.REG_PEER, self._address(self._peer(index)))
                self._set(index, memory.REG_RATE, rate)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Keep the devices busy within."""
        thread = threading.Thread(target=self._drive, name="guest")
        self._runs.set()
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._runs.set()
            thread.join()

    def pause(self) -> None:
        """Let the processors of the guest are stopped. The devices go on."""
        self._held.clear()
        self._runs.clear()
        self._held.wait()

    def resume(self, side: Literal["source", "destination"]) -> None:
        """Let them go on, with the devices of this side."""
        self._side = side
        self._runs.set()

    def check(self, side: Literal["source", "destination"]) -> list[str]:
        """Return what of the peer-to-peer DMA went wrong. All devices of the side must be stopped.

        Returns:
            One sentence each; none if every write arrived, once.
        """
        clients, found = self._sides[side], []
        for index, kind in enumerate(self._kinds):
            peer = self._peer(index)
            if peer == index:
                continue
            region, offset = self._area(peer)
            if kind == memory.IDENTIFICATION:
                sent = _U64.unpack(clients[index].region_read(0, memory.REG_STAMP, 8))[0]
                got = _U64.unpack(clients[peer].region_read(region, offset, 8))[0]
                at_most = sent
            else:
                command = clients[index].region_read(0, edu.REG_DMA_COMMAND, 4)[0]
                at_most = self._counts[index]
                sent = at_most - (command & edu.DMA_RUN)
                where = offset + _SLOT
                got = _U64.unpack(clients[peer].region_read(region, where, 8))[0]
            if not sent <= got <= at_most:
                found.append(
                    f"device {index} wrote {sent} to device {peer}, where {got} has arrived"
                )
        return found

    # --- inside ---

    def _peer(self, index: int) -> int:
        return (index + 1) % len(self._kinds)

    def _address(self, index: int) -> int:
        return _BASE + _APART * index

    def _area(self, index: int) -> tuple[int, int]:
        """Return region and offset of the memory of a device that its peers reach."""
        if self._kinds[index] == memory.IDENTIFICATION:
            return memory.MAILBOX, 0
        return 0, edu.BUFFER

    def _connect(self, clients: Sequence[Client]) -> None:
        """Map the memory of each device for all others."""
        for index, client in enumerate(clients):
            region, offset = self._area(index)
            info = client.region_info(region)
            try:
                for other, peer in enumerate(clients):
                    if other != index:
                        peer.dma_map(
                            self._address(index), _AREA, fd=info.fd, offset=info.offset + offset
                        )
            finally:
                info.close()

    def _set(self, index: int, register: int, value: int) -> None:
        self._sides[self._side][index].region_write(0, register, _U64.pack(value))

    def _drive(self) -> None:
        """What the processors of the guest do: have each edu write a number to its peer."""
        edus = [index for index, kind in enumerate(self._kinds) if kind == edu.IDENTIFICATION]
        while not self._over.is_set():
            for index in edus:
                self._hold()
                try:
                    self._transfer(index)
                except ClientError as error:
                    # The connection was lost with its server; the coordinator reports it.
                    self.error = error
                    self._held.set()
                    return
            self._hold()
            if not edus:
                time.sleep(0.001)

    def _hold(self) -> None:
        if not self._runs.is_set():
            self._held.set()
            self._runs.wait()

    def _transfer(self, index: int) -> None:
        client = self._sides[self._side][index]
        if client.region_read(0, edu.REG_DMA_COMMAND, 4)[0] & edu.DMA_RUN:
            time.sleep(0.0005)
            return
        count = self._counts[index] + 1
        own = _SLOT * 2  # what is sent lies where no peer writes
        client.region_write(0, edu.BUFFER + own, _U64.pack(count))
        self._set(index, edu.REG_DMA_SOURCE, edu.BUFFER + own)
        self._set(index, edu.REG_DMA_DESTINATION, self._address(self._peer(index)) + _SLOT)
        self._set(index, edu.REG_DMA_COUNT, 8)
        self._counts[index] = count
        self._set(index, edu.REG_DMA_COMMAND, edu.DMA_RUN | edu.DMA_FROM_DEVICE)
        self.transfers += 1
