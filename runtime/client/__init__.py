"""A client of vfio-user: typed calls, with and without asyncio, over one core without a socket."""

from vfio_migration.runtime.client.calls import Call, RegionInfo
from vfio_migration.runtime.client.client import PATIENCE, Client
from vfio_migration.runtime.client.core import Core, Exchange, Pending, Reachable
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerBroke,
    PeerGone,
    Refused,
    TimedOut,
)
from vfio_migration.runtime.client.memory import AddressSpace, SharedMemory, Window

__all__ = [
    "PATIENCE",
    "AddressSpace",
    "Call",
    "Client",
    "ClientError",
    "Core",
    "Exchange",
    "PeerBroke",
    "PeerGone",
    "Pending",
    "Reachable",
    "Refused",
    "RegionInfo",
    "SharedMemory",
    "TimedOut",
    "Window",
]
