"""A vfio-user client for tests: packs and unpacks by itself, with nothing of ours in it.

It is honest and strict: a reply must have the id and the command of its command, exactly the size
its header states, and no flags but those of a reply.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct

HEADER = struct.Struct("=HHIII")
CAPABILITIES = {
    "max_msg_fds": 16,
    "max_data_xfer_size": 1048576,
    "max_dma_maps": 65535,
    "pgsizes": 4096,
    "write_multiple": True,
}

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
WRITE_MULTI, FEATURE, MIG_READ, MIG_WRITE, PRECOPY_INFO = range(15, 20)
PROPOSED = {**CAPABILITIES, "precopy_info": True}
"""As `CAPABILITIES`, with what docs/precopy-info.md proposes."""
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18


class RefusedError(Exception):
    """An error reply; `errno` is its number."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class Client:
    """One connection. `memory` answers the server's DMA_READ and DMA_WRITE."""

    def __init__(self, path=None, *, sock=None, version=True, capabilities=CAPABILITIES) -> None:
        self.sock = sock or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        if path is not None:
            self.sock.connect(str(path))
        self.next_id = 0
        self.fds: list[int] = []
        self.memory = bytearray()
        self.dma_commands: list[tuple[int, int, int]] = []
        self.during_dma = None
        self.replies: dict[int, tuple[int, int, int, bytes]] = {}
        if version:
            self.agreed = self.handshake(capabilities)

    def __enter__(self):
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()
        self.close_fds()

    def close_fds(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    # --- messages ---

    def send(self, command: int, payload: bytes = b"", *, fds=(), flags: int = 0) -> int:
        ident = self.next_id
        self.next_id = (ident + 1) & 0xFFFF
        message = HEADER.pack(ident, command, 16 + len(payload), flags, 0) + payload
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            sent = self.sock.sendmsg([message], rights)
            message = message[sent:]
        if message:  # else the server may have hung up already
            self.sock.sendall(message)
        return ident

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more, fds, _, _ = socket.recv_fds(self.sock, size - len(data), 32)
            self.fds += fds
            if not more:
                raise EOFError("the server closed the connection")
            data += more
        return data

    def message(self) -> tuple[int, int, int, int, bytes]:
        ident, command, size, flags, errno = HEADER.unpack(self.exactly(16))
        return ident, command, flags, errno, self.exactly(size - 16)

    def reply(self, ident: int) -> bytes:
        """The payload of the reply to a command; commands of the server are answered meanwhile."""
        while ident not in self.replies:
            got, command, flags, errno, payload = self.message()
            if flags & 0xF == 0:
                self.answer(got, command, payload)
            else:
                assert flags in (0x1, 0x21), hex(flags)
                self.replies[got] = (command, flags, errno, payload)
        command, flags, errno, payload = self.replies.pop(ident)
        if flags & 0x20:
            assert errno, "an error reply without an errno"
            assert payload == b""
            raise RefusedError(errno)
        return payload

    def answer(self, ident: int, command: int, payload: bytes) -> None:
        address, count = struct.unpack_from("=QQ", payload)
        self.dma_commands.append((command, address, count))
        if self.during_dma is not None:
            during, self.during_dma = self.during_dma, None
            during()
        if address + count > len(self.memory):
            self.sock.sendall(HEADER.pack(ident, command, 16, 0x21, 14))
            return
        if command == DMA_READ:
            body = payload[:16] + bytes(self.memory[address : address + count])
        else:
            self.memory[address : address + count] = payload[16:]
            body = payload[:16]
        self.sock.sendall(HEADER.pack(ident, command, 16 + len(body), 1, 0) + body)

    def ask(self, command: int, payload: bytes = b"", *, fds=()) -> bytes:
        return self.reply(self.send(command, payload, fds=fds))

    # --- commands ---

    def handshake(self, capabilities) -> dict:
        reported = json.dumps({"capabilities": capabilities}).encode() + b"\0"
        reply = self.ask(VERSION, struct.pack("=HH", 0, 0) + reported)
        if capabilities is CAPABILITIES:
            assert len(reply) <= 4 + len(reported), "QEMU has no room for more"
        assert reply[-1:] == b"\0"
        assert struct.unpack_from("=HH", reply) == (0, 0)
        return json.loads(reply[4:-1])["capabilities"]

    def feature(self, flags: int, data: bytes = b"", room: int = 4096) -> bytes:
        reply = self.ask(FEATURE, struct.pack("=II", 8 + room, flags) + data)
        _, got = struct.unpack_from("=II", reply)
        assert got == flags
        return reply[8:]

    @property
    def state(self) -> int:
        state, fd = struct.unpack("=Ii", self.feature(GET | 2, room=8))
        assert fd == -1
        return state

    def set_state(self, value: int) -> None:
        data = struct.pack("=Ii", value, -1)
        assert self.feature(SET | 2, data, room=8) == data

    def reset(self) -> None:
        assert self.ask(RESET) == b""

    def mig_read(self, size: int) -> bytes:
        reply = self.ask(MIG_READ, struct.pack("=II", 8 + size, size))
        argsz, got = struct.unpack_from("=II", reply)
        assert argsz == len(reply)
        assert got == len(reply) - 8 <= size
        return reply[8:]

    def mig_write(self, data: bytes) -> None:
        assert self.ask(MIG_WRITE, struct.pack("=II", 8 + len(data), len(data)) + data) == b""

    def read(self, region: int, offset: int, size: int) -> bytes:
        reply = self.ask(REGION_READ, struct.pack("=QII", offset, region, size))
        assert struct.unpack_from("=QII", reply) == (offset, region, size)
        assert len(reply) == 16 + size
        return reply[16:]

    def write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        payload = struct.pack("=QII", offset, region, len(data)) + data
        if posted:
            self.send(REGION_WRITE, payload, flags=0x10)
        else:
            assert self.ask(REGION_WRITE, payload) == payload[:16]

    def dma_map(self, address: int, size: int, *, fd=None, offset=0, flags=3) -> None:
        fds = () if fd is None else (fd,)
        payload = struct.pack("=IIQQQ", 32, flags, offset, address, size)
        assert self.ask(DMA_MAP, payload, fds=fds) == b""

    def dma_unmap(self, address: int, size: int, flags: int = 0) -> None:
        payload = struct.pack("=IIQQ", 24, flags, address, size)
        assert self.ask(DMA_UNMAP, payload) == payload

    def set_irqs(self, flags: int, index: int, start: int, count: int, fds=()) -> None:
        payload = struct.pack("=IIIII", 20, flags, index, start, count)
        assert self.ask(SET_IRQS, payload, fds=fds) == b""
