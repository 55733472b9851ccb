"""A server by hand, one of ours in a thread, and an asyncio client driven from outside."""

from __future__ import annotations

import array
import asyncio
import contextlib
import inspect
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening

HEADER = struct.Struct("=HHIII")
VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
REGION_READ, REGION_WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
WRITE_MULTI, FEATURE, MIG_READ, MIG_WRITE = range(15, 19)
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
REPLY, ERROR, NO_REPLY = 1, 0x20, 0x10

__all__ = ["Client"]


class HungUpError(Exception):
    """The client hung up."""


class Peer:
    """A server's end of a socket. It packs and unpacks by itself and may state anything."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(60)
        self.fds: list[int] = []
        self.sockets: list[Peer] = []

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more, fds, _, _ = socket.recv_fds(self.sock, size - len(data), 32)
            self.fds += fds
            if not more:
                raise HungUpError
            data += more
        return data

    def read(self) -> tuple[int, int, int, bytes]:
        """The next message: id, command, flags, payload."""
        ident, command, size, flags, _ = HEADER.unpack(self.exactly(16))
        return ident, command, flags, self.exactly(size - 16)

    def expect(self, command: int) -> tuple[int, bytes]:
        ident, got, _flags, payload = self.read()
        assert got == command
        return ident, payload

    def send(self, ident, command, payload=b"", *, flags=REPLY, errno=0, size=None, fds=()) -> None:
        length = 16 + len(payload) if size is None else size
        self.raw(HEADER.pack(ident, command, length, flags, errno) + payload, fds)

    def raw(self, message: bytes, fds=()) -> None:
        if fds:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            message = message[self.sock.sendmsg([message], rights) :]
        if message:  # or a client that has hung up by now would be reported of
            self.sock.sendall(message)

    def handshake(self, capabilities: object = None, *, data: bytes | None = None, fds=()) -> dict:
        """Agree on the version; return what the client proposed."""
        ident, payload = self.expect(VERSION)
        assert payload[:4] == bytes(4)
        assert payload[-1:] == b"\0"
        if data is None:
            data = (
                b""
                if capabilities is None
                else json.dumps({"capabilities": capabilities}).encode() + b"\0"
            )
        self.send(ident, VERSION, bytes(4) + data, fds=fds)
        return json.loads(payload[4:-1])["capabilities"]

    def twin(self, capabilities: dict) -> Peer:
        """Agree on the version with a twin socket; return the server's end of it."""
        ours, theirs = socket.socketpair()
        self.handshake(
            {**capabilities, "twin_socket": {"supported": True, "fd_index": 0}},
            fds=[theirs.fileno()],
        )
        theirs.close()
        self.sockets.append(Peer(ours))
        return self.sockets[0]

    def feature(self, data: bytes = b"") -> int:
        """Answer a DEVICE_FEATURE with data; return its flags."""
        ident, payload = self.expect(FEATURE)
        _, flags = struct.unpack_from("=II", payload)
        self.send(ident, FEATURE, struct.pack("=II", 8 + len(data), flags) + data)
        return flags

    def state(self, value: int = 2) -> None:
        self.feature(struct.pack("=Ii", value, -1))

    def until_hung(self) -> None:
        with contextlib.suppress(HungUpError, OSError):
            while self.sock.recv(1 << 20):
                pass

    def close(self) -> None:
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        for twin in self.sockets:
            twin.close()


class Scene:
    """A script for a server, run in a thread against the other end of a socket pair.

    When it ends, the server stays until the client hangs up.
    """

    def __init__(self, script) -> None:
        theirs, self.sock = socket.socketpair()
        self._peer = Peer(theirs)
        self._script = script
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="foreign server")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._script(self._peer)
            self._peer.until_hung()
        except (HungUpError, ConnectionError):
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by `close`
            self._error = error
        finally:
            self._peer.close()

    def close(self) -> None:
        self.sock.close()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the script does not end"
        if self._error is not None:
            raise self._error


class Looped:
    """An `AsyncClient` used as if it was a `Client`: each call runs its loop until it is done."""

    def __init__(self, where, **options) -> None:
        self._runner = asyncio.Runner()
        try:
            self._client = AsyncClient(where, **options)
            self._runner.run(self._client.open())
        except BaseException:
            self._runner.close()
            raise

    def __getattr__(self, name):
        value = getattr(self._client, name)
        if inspect.iscoroutinefunction(value):
            return lambda *args, **options: self._runner.run(value(*args, **options))
        return value

    def __setattr__(self, name, value) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self._client, name, value)

    def finish(self, begun):
        async def wait():
            return await begun

        if begun.pending.done:  # the loop may be closed by then
            return begun.pending.result()
        return self._runner.run(wait())

    def idle(self, seconds: float) -> None:
        self._runner.run(asyncio.sleep(seconds))

    def attach(self, space) -> None:
        self._runner.run(space.attach_async(self._client))

    def close(self) -> None:
        self._client.close()
        self._runner.close()

    def __enter__(self):
        return self

    def __exit__(self, *_error) -> None:
        self.close()


def attach(client, space) -> None:
    (client.attach if isinstance(client, Looped) else lambda one: one.attach(client))(space)


class Served:
    """A server of ours that runs in a thread."""

    def __init__(self, device, path: Path, **options) -> None:
        self.device = Edu(dma_seconds=0) if device is None else device
        self.path = path
        self.server = Server(self.device, **options)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        with listening(self.path) as sock:
            self._ready.set()
            self.server.serve(sock)

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server does not end"
        self.server.close()
        self.device.close()


@contextlib.contextmanager
def no_leak() -> Iterator[None]:
    """The descriptors and threads at the end are those at the start."""
    before, threads = opened_at_rest(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + 60
    while (left := opened() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"left open: {left}"
    assert set(threading.enumerate()) <= threads


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def memfd(size: int = 4096) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd
