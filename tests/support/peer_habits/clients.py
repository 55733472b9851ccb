"""The message sequences of clients that we did not write, spoken to a server over a real socket.

Each client has the habits that its docstring names, with the file and the function they are in.
A step returns what the server answered; an error raises `raw_client.RefusedError`.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from support import raw_client as raw

ALL = 1 << 1
"""VFIO_DMA_UNMAP_FLAG_ALL."""


class RegionReply(NamedTuple):
    """What DEVICE_GET_REGION_INFO says, `struct vfio_region_info` and what follows it."""

    argsz: int
    flags: int
    index: int
    cap_offset: int
    size: int
    offset: int
    length: int
    """How many bytes came."""
    fds: int
    """How many descriptors came."""


class ForeignClient(raw.Client):
    """A client that names its version itself.

    Args:
        path: The socket of the server.
        minor: The minor version it proposes.
        data: The version data, as they go out; None for none at all.
    """

    def __init__(self, path: Path | str, minor: int, data: bytes | None) -> None:
        super().__init__(path, version=False)
        self.version_reply = self.ask(raw.VERSION, struct.pack("=HH", 0, minor) + (data or b""))

    def region(self, index: int, argsz: int, payload: int) -> RegionReply:
        """DEVICE_GET_REGION_INFO with an argsz and a payload of a length."""
        self.close_fds()
        asked = struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0).ljust(payload, b"\0")
        reply = self.ask(raw.REGION_INFO, asked)
        return RegionReply(*struct.unpack_from("=IIIIQQ", reply), len(reply), len(self.fds))

    def info(self, argsz: int, payload: int) -> tuple[int, ...]:
        """DEVICE_GET_INFO; return argsz, flags, regions, interrupts."""
        reply = self.ask(raw.GET_INFO, struct.pack("=I", argsz).ljust(payload, b"\0"))
        return struct.unpack_from("=IIII", reply)

    def irq(self, index: int, argsz: int = 16, payload: int = 16) -> tuple[int, ...]:
        """DEVICE_GET_IRQ_INFO; return argsz, flags, index, count."""
        asked = struct.pack("=IIII", argsz, 0, index, 0).ljust(payload, b"\0")
        return struct.unpack_from("=IIII", self.ask(raw.IRQ_INFO, asked))


def shared_file(size: int) -> int:
    """Return the descriptor of guest memory of a client."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


# --- nutanix/libvfio-user, samples/client.c, before 850ded8 and at efd091b ---


class CLibraryClient(ForeignClient):
    """The sample client of the C library.

    VERSION 0.2 with two capabilities and a small max_data_xfer_size (send_version); no room for
    descriptors in the first DEVICE_GET_REGION_INFO, then again with the argsz it was notified
    (get_device_region_info, lib/tran_sock.c get_msg: a descriptor is EFAULT to it); DMA maps of one
    page each with one file (map_dma_regions); logging of everything (num_ranges 0).
    """

    PAGE = 4096

    def __init__(self, path: Path | str, data: bytes | None = None) -> None:
        if data is None:
            wanted = {"max_msg_fds": 32, "max_data_xfer_size": 1024}
            data = json.dumps({"capabilities": wanted}).encode() + b"\0"
        self.no_room = False
        super().__init__(path, 2, data)

    def exactly(self, size: int) -> bytes:
        if not self.no_room:
            return super().exactly(size)
        data = b""
        while len(data) < size:
            more, _, flags, _ = self.sock.recvmsg(size - len(data))
            assert not flags & socket.MSG_CTRUNC, "a descriptor it has no room for: EFAULT"
            assert more, "the server closed the connection"
            data += more
        return data

    def region_in_two_steps(self, index: int) -> tuple[RegionReply, RegionReply | None]:
        """Ask for the fixed part without room for descriptors, then for all if there is more."""
        self.no_room = True
        try:
            short = self.region(index, 32, 32)
        finally:
            self.no_room = False
        if short.argsz <= 32:
            return short, None
        return short, self.region(index, short.argsz, short.argsz)

    def map_pages(self, count: int, fd: int) -> None:
        """Map pages of a file one after the other."""
        for page in range(count):
            address = page * self.PAGE
            self.dma_map(address, self.PAGE, fd=fd, offset=address)

    def log(self, on: bool) -> None:
        """DMA_LOGGING_START for all, or DMA_LOGGING_STOP with the same payload."""
        data = struct.pack("=QII", self.PAGE, 0, 0)
        self.feature(raw.SET | (6 if on else 7), data, room=len(data))

    def dirty(self, address: int) -> bool:
        """DMA_LOGGING_REPORT of a page, with just enough room for its bitmap."""
        asked = struct.pack("=QQQ", address, self.PAGE, self.PAGE)
        return self.feature(raw.GET | 8, asked, room=len(asked) + 8)[24] != 0

    def read_padded(self, size: int) -> bytes:
        """MIG_DATA_READ, and what its `size` says is data; any reply up to the asked length."""
        reply = self.ask(raw.MIG_READ, struct.pack("=II", 8 + size, size))
        got = struct.unpack_from("=II", reply)[1]
        return reply[8 : 8 + got]

    def unmap_all(self) -> None:
        """DMA_UNMAP of everything, as the sample ends."""
        self.dma_unmap(0, 0, ALL)


# --- spdk/spdk, lib/vfio_user/host/vfio_user.c and vfio_user_pci.c ---


class SpdkClient(ForeignClient):
    """The host library of SPDK.

    VERSION 0.1 and no version data (vfio_user_check_version); DEVICE_GET_REGION_INFO of 4,064
    bytes, always (vfio_user_get_dev_region_info: a buffer of 4,096 without the structure);
    DMA_UNMAP carries the descriptor of the map again (vfio_user_dev_dma_map_unmap).
    """

    ROOM = 4096 - 32

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, 1, None)

    def device(self) -> tuple[int, ...]:
        """DEVICE_GET_INFO."""
        return self.info(16, 16)

    def whole_region(self, index: int) -> RegionReply:
        """DEVICE_GET_REGION_INFO."""
        reply = self.region(index, self.ROOM, self.ROOM)
        assert reply.length <= 4096, "SPDK: payload size error"
        return reply

    def unmap_with_descriptor(self, address: int, size: int, fd: int) -> None:
        """DMA_UNMAP with the descriptor that it was mapped with."""
        asked = struct.pack("=IIQQ", 24, 0, address, size)
        assert self.ask(raw.DMA_UNMAP, asked, fds=[fd])[:24] == asked


# --- rust-vmm/vfio, vfio-user/src/lib.rs, 0.1.3 ---


class RustVmmClient(ForeignClient):
    """The client of rust-vmm's vfio-user, which cloud-hypervisor uses.

    VERSION 0.1 with three capabilities (negotiate_version); DEVICE_GET_INFO with argsz 32, the
    header counted in (get_regions); each region with capabilities is asked twice, the payload 32
    bytes each time (get_region_info); a descriptor is taken with either reply; SET_IRQS with
    several descriptors.
    """

    def __init__(self, path: Path | str) -> None:
        wanted = {
            "max_msg_fds": 1,
            "max_data_xfer_size": 1048576,
            "migration": {"pgsize": mmap.PAGESIZE},
        }
        data = json.dumps({"capabilities": wanted}, separators=(",", ":")).encode() + b"\0"
        super().__init__(path, 1, data)

    def regions(self) -> Sequence[tuple[RegionReply, RegionReply | None]]:
        """DEVICE_GET_INFO, then each region."""
        count = self.info(32, 16)[2]
        found = []
        for index in range(count):
            short = self.region(index, 32, 32)
            again = short.argsz > 32
            found.append((short, self.region(index, short.argsz, 32) if again else None))
        return found

    def interrupts(self, index: int, fds: Sequence[int]) -> None:
        """SET_IRQS with an eventfd a vector."""
        self.set_irqs(0x24, index, 0, len(fds), fds)
