"""Serves a device on a vfio-user socket.

`Server` blocks; `async_server` has the one for asyncio.
"""

from vfio_migration.runtime.server.server import Server

__all__ = ["Server"]
