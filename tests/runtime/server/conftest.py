"""A server in a thread, and what tests need around it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.raw_client import Client
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening


class ServerThread:
    """A server that runs in a thread."""

    def __init__(self, device, path: Path, **options) -> None:
        self.device, self.path = device, path
        self.server = Server(device, **options)
        self.engine = self.server.engine
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        with listening(self.path) as sock:
            self._ready.set()
            self.server.serve(sock)

    def client(self, **options) -> Client:
        return Client(self.path, **options)

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server does not end"
        self.server.close()
        self.device.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServerThread]]:
    """Serve a device; without one, an edu."""
    running: list[ServerThread] = []

    def serve(device=None, **options) -> ServerThread:
        device = Edu() if device is None else device
        served = ServerThread(device, tmp_path / f"{len(running)}.sock", **options)
        running.append(served)
        return served

    yield serve
    for served in running:
        served.stop()
