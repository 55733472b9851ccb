"""An edu served by asyncio, as a program: `async_server.py SOCKET`. Its log is that of `serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys

from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.server.log import JsonLines, log_event
from vfio_migration.runtime.transport.listening import listening


async def serve(path: str) -> None:
    device = Edu()
    with contextlib.closing(device), AsyncServer(device) as server, listening(path) as sock:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, server.stop)
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: log_event("counters", **server.counters.snapshot())
        )
        await server.serve(sock)


if __name__ == "__main__":
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    asyncio.run(serve(sys.argv[1]))
