"""A server whose replies are well framed and hold values that no honest one has.

One field of one kind of reply is another number, or the reply is longer or shorter than it is. All
else is as the specification has it, so that the value gets as far as it can.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.peer_habits import base
from support.peer_habits.base import STOP_COPY, Peer
from support.raw_client import (
    FEATURE,
    GET,
    GET_INFO,
    IRQ_INFO,
    MIG_READ,
    MIG_WRITE,
    PROBE,
    REGION_INFO,
    REGION_READ,
    RESET,
    SET,
    VERSION,
)

DATA_SIZE = 9
CONFIG = 7
NUMBERS = (0, 1, 2, 3, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
LONG_NUMBERS = (1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

Key = tuple[int, int]
"""A kind of reply: its command and, of DEVICE_FEATURE, the flags word that was asked with."""

KINDS: dict[str, tuple[Key, int]] = {
    "GET_INFO": ((GET_INFO, 0), 16),
    "REGION_INFO": ((REGION_INFO, 0), 32),
    "IRQ_INFO": ((IRQ_INFO, 0), 16),
    "REGION_READ": ((REGION_READ, 0), 20),
    "GET MIGRATION": ((FEATURE, GET | base.MIGRATION), 16),
    "GET DEVICE_STATE": ((FEATURE, GET | base.DEVICE_STATE), 16),
    "SET DEVICE_STATE": ((FEATURE, SET | base.DEVICE_STATE), 16),
    "PROBE MIG_DATA_SIZE": ((FEATURE, PROBE | GET | DATA_SIZE), 8),
    "GET MIG_DATA_SIZE": ((FEATURE, GET | DATA_SIZE), 16),
    "MIG_DATA_READ": ((MIG_READ, 0), 8),
    "MIG_DATA_WRITE": ((MIG_WRITE, 0), 0),
    "DEVICE_RESET": ((RESET, 0), 0),
}
"""Kinds of replies, each with the length of its fixed part."""


@dataclass(frozen=True)
class Change:
    """What becomes of a kind of reply.

    Attributes:
        kind: Its name in `KINDS`, or VERSION.
        what: In words.
        apply: Makes the payload that is sent of the honest one; an error is a `base.RefusalError`.
    """

    kind: str
    what: str
    apply: Callable[[bytes], bytes]

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


def changes(kind: str) -> Iterator[Change]:
    """Yield everything that is tried with a kind of reply."""
    _key, size = KINDS[kind]
    for at in range(0, size, 4):
        for value in NUMBERS:
            yield Change(kind, f"{value:#x} at byte {at}", _put("=I", at, value))
    for at in range(0, size - 7, 8):
        for value in LONG_NUMBERS:
            yield Change(kind, f"{value:#x} at byte {at}", _put("=Q", at, value))
    for length in sorted({*range(0, size, 4), max(0, size - 1), 1, 3}):
        yield Change(kind, f"{length} bytes", lambda honest, length=length: honest[:length])
    for more in (1, 4, 8, 4096, 1 << 20):
        yield Change(kind, f"{more} bytes more", lambda honest, more=more: honest + bytes(more))
    for errno in (0, 1, 95, 1 << 12, (1 << 32) - 1):
        yield Change(kind, f"errno {errno}", _refuse(errno))


def versions() -> Iterator[Change]:
    """Yield everything that is tried with the reply to VERSION."""
    for at in (0, 2):
        for value in (1, 0xFFFF):
            yield Change("VERSION", f"{value} at byte {at}", _put("=H", at, value))
    for key in ("max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"):
        for value in (*NUMBERS, *LONG_NUMBERS, 1 << 64, -1, 10**400, 1.5, None, True, "1", []):
            yield _reported({key: value})
    for value in (None, 1, [], {"supported": 1}, {"supported": True, "fd_index": 1 << 64}):
        yield _reported({"twin_socket": value})
    for value in (None, 1, "yes"):
        yield _reported({"write_multiple": value})
    for text in ("[]", "{}", "null", "1e999", "[" * 2000, '{"capabilities": []}', '{"a":1,"a":2}'):
        yield Change("VERSION", text[:30], lambda h, text=text: h[:4] + text.encode() + b"\0")
    for tail in (b"", b"\0", b"\xff\xfe", b"x" * 5000, b"{}", b"{}\0{}"):
        yield Change("VERSION", repr(tail[:9]), lambda honest, tail=tail: honest[:4] + tail)


def _reported(capabilities: dict[str, Any]) -> Change:
    text = json.dumps({"capabilities": capabilities}).encode() + b"\0"
    return Change("VERSION", repr(capabilities)[:60], lambda honest: honest[:4] + text)


def _put(form: str, at: int, value: int) -> Callable[[bytes], bytes]:
    def put(honest: bytes) -> bytes:
        changed = bytearray(honest)
        if at + struct.calcsize(form) <= len(changed):
            struct.pack_into(form, changed, at, value)
        return bytes(changed)

    return put


def _refuse(errno: int) -> Callable[[bytes], bytes]:
    def refuse(_honest: bytes) -> bytes:
        raise base.RefusalError(errno)

    return refuse


class PciPeer(Peer):
    """Has PCI configuration space, and states how much is left to read."""

    max_transfer = 4096

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == GET_INFO:
            return struct.pack("=IIII", 16, 3, CONFIG + 1, 2)
        if command == REGION_INFO:
            index = struct.unpack_from("=I", payload, 8)[0]
            size = {0: len(self.held), CONFIG: 256}.get(index, 0)
            return struct.pack("=IIIIQQ", 32, 3 if size else 0, index, 0, size, 0)
        if command == REGION_READ and struct.unpack_from("=QI", payload)[1] == CONFIG:
            offset, region, count = struct.unpack_from("=QII", payload)
            data = b"\x34\x12\xe8\x11"[offset : offset + count]
            return struct.pack("=QII", offset, region, len(data)) + data
        if command == FEATURE:
            flags = struct.unpack_from("=II", payload)[1]
            if flags == PROBE | GET | DATA_SIZE:
                return payload[:8]
            if flags == GET | DATA_SIZE:
                left = len(self._left) + len(self._later if self.state != STOP_COPY else b"")
                return struct.pack("=IIQ", 16, flags, left)
        return super().answer(command, payload)


class HostilePeer(PciPeer):
    """Changes one kind of reply."""

    def __init__(self, held: bytes, change: Change | None = None) -> None:
        super().__init__(held)
        self.change = change

    def answer(self, command: int, payload: bytes) -> bytes:
        honest = super().answer(command, payload)
        if self.change is None:
            return honest
        if self.change.kind == "VERSION":
            return self.change.apply(honest) if command == VERSION else honest
        flags = struct.unpack_from("=II", payload)[1] if command == FEATURE else 0
        key = KINDS[self.change.kind][0]
        return self.change.apply(honest) if (command, flags) == key else honest


@contextlib.contextmanager
def serving(path: Path, peer: Peer) -> Iterator[Peer]:
    """Serve a device in a thread, one client after the other."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(8)
        current: list[socket.socket] = []

        def run() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock, contextlib.suppress(OSError):
                    current[:] = [sock]
                    base._serve(sock, peer, io.StringIO())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield peer
        finally:
            # It may be waiting for the next client, or for the next word of this one.
            for sock in (listener, *current):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            path.unlink(missing_ok=True)
            assert not thread.is_alive()
