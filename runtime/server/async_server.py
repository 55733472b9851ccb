"""The server for programs that run asyncio: what is done is `Server`'s, only waiting is different.

    server = AsyncServer(Edu())
    with listening("/run/edu.sock") as sock:
        await server.serve(sock)

The device is called in the thread of the event loop. A call of it that reaches memory of the
guest by messages keeps the loop waiting until the client has replied, since the device waits too;
memory that came with a descriptor, which is the rule, costs no waiting.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.server.log import log_event
from vfio_migration.runtime.server.observer import Counters
from vfio_migration.runtime.server.server import RETRY_S, Server
from vfio_migration.runtime.transport.closing import Closing


class AsyncServer(Closing):
    """Serves one device in an event loop.

    Args:
        device: The device.
        options: Those of `Server`.
    """

    def __init__(self, device: DeviceContract, **options: Any) -> None:
        self._server = Server(device, **options)

    @property
    def engine(self) -> Engine:
        """What moves the device."""
        return self._server.engine

    @property
    def counters(self) -> Counters:
        """What was done, in numbers."""
        return self._server.counters

    def stop(self) -> None:
        """Make `serve` return. May be called from any thread and from a signal handler."""
        self._server.stop()

    def end_client(self) -> None:
        """Disconnect the present client; see `Server.end_client`."""
        self._server.end_client()

    def close(self) -> None:
        """Give back what the server itself holds."""
        self._server.close()

    async def serve(self, listener: socket.socket) -> None:
        """Serve one client after the other, until `stop` or until it is cancelled."""
        server = self._server
        listener.setblocking(False)
        while not server.is_stopping():
            server.write_log()
            server.do_due_work()
            await self._ready({listener.fileno(): select.POLLIN}, server.next_deadline())
            if server.is_stopping():
                break
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                # As in `Server.serve`: the client goes on waiting, and so do we.
                log_event("accept", level=logging.ERROR, why=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            await self.serve_client(sock)

    async def serve_client(self, sock: socket.socket) -> None:
        """Serve one client to its end; the socket is closed then."""
        with self._server.client_loop(sock) as client_loop:
            while not client_loop.over:
                if client_loop.turn(wait=False):
                    await asyncio.sleep(0)  # others have their turn too
                elif not client_loop.over:
                    await self._ready(client_loop.sockets.watched, client_loop.until())

    async def _ready(self, wanted: Mapping[int, int], until: float | None) -> None:
        """Wait until a descriptor is ready, somebody calls `stop`, or it is `until`."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        watched = {**wanted, self._server.wake: select.POLLIN}
        for fd, mask in watched.items():
            if mask & select.POLLIN:
                loop.add_reader(fd, ready.set)
            if mask & select.POLLOUT:
                loop.add_writer(fd, ready.set)
        timer = None
        if until is not None:
            timer = loop.call_later(max(0.0, until - time.monotonic()), ready.set)
        try:
            await ready.wait()
        finally:
            if timer is not None:
                timer.cancel()
            for fd in watched:
                loop.remove_reader(fd)
                loop.remove_writer(fd)
