"""The server in an event loop does what the other one does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
import time

import pytest

from support.edu_client import BUFFER, dma, dma_done, until
from support.raw_client import Client, RefusedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.transport.listening import listening


def served(path, scene) -> AsyncServer:
    """Run `scene` in a thread against a server in an event loop; return the server, closed."""

    async def main() -> AsyncServer:
        device = Edu(dma_seconds=0)
        with contextlib.closing(device), AsyncServer(device) as server:
            with listening(path) as sock:
                serving = asyncio.create_task(server.serve(sock))
                try:
                    await asyncio.to_thread(scene)
                finally:
                    server.stop()
                    await asyncio.wait_for(serving, 60)
            return server

    return asyncio.run(main())


def test_states_data_and_dma(tmp_path) -> None:
    path = tmp_path / "edu.sock"

    def scene() -> None:
        with Client(path) as client:
            client.memory = bytearray(1 << 16)
            client.dma_map(0, 1 << 16)
            what = os.urandom(4096)
            client.write(0, BUFFER, what)
            dma(client, BUFFER, 0x1000, 4096, from_device=True)
            until(lambda: dma_done(client))
            assert client.memory[0x1000:0x2000] == what
            client.set_state(3)
            stream = b""
            while more := client.mig_read(1000):
                stream += more
            client.set_state(4)
            client.mig_write(stream)
        with Client(path) as client:
            assert client.state == 4
            client.set_state(2)
            with pytest.raises(RefusedError):
                client.set_state(0)
            assert client.read(0, 0, 4) == struct.pack("<I", 0x010000ED)

    server = served(path, scene)
    assert server.counters.connections == 2
    assert server.engine.state == "RUNNING"
    assert not path.exists()


def test_it_can_be_cancelled_while_it_serves(tmp_path) -> None:
    path = tmp_path / "edu.sock"

    async def main() -> None:
        device = Edu()
        with contextlib.closing(device), AsyncServer(device) as server, listening(path) as sock:
            serving = asyncio.create_task(server.serve(sock))
            client = await asyncio.to_thread(Client, path)
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert client.sock.recv(1) == b""
            client.close()

    asyncio.run(main())


def test_it_goes_on_when_there_is_no_descriptor_for_a_client(tmp_path) -> None:
    """The client waits until there is one."""
    path = tmp_path / "edu.sock"
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)

    def scene() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (1 + sock.fileno(), most))
            try:
                sock.connect(str(path))
                time.sleep(0.2)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            with Client(sock=sock) as client:
                assert client.state == 2

    assert served(path, scene).counters.connections == 1
