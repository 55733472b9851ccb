"""A client of vfio-user: typed calls, with and without asyncio, over one core without a socket.

`AsyncClient` is in `aclient` and `AsyncInterrupts` in `ainterrupts`, so that only those who run
asyncio import it.
"""

from vfio_migration.runtime.client.blocking import Client
from vfio_migration.runtime.client.calls import Call, PrecopyLeft, RegionInfo
from vfio_migration.runtime.client.common import TIMEOUT_S
from vfio_migration.runtime.client.core import Core, Exchange, Pending, Reachable
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerDisconnectedError,
    PeerProtocolError,
    RefusedError,
    TimedOutError,
)
from vfio_migration.runtime.client.interrupts import Interrupts, Vectors
from vfio_migration.runtime.client.memory import AddressSpace, SharedMemory, Window
from vfio_migration.runtime.client.regions import MappedArea, MappedRegion, NotMappableError

__all__ = [
    "TIMEOUT_S",
    "AddressSpace",
    "Call",
    "Client",
    "ClientError",
    "Core",
    "Exchange",
    "Interrupts",
    "MappedArea",
    "MappedRegion",
    "NotMappableError",
    "PeerDisconnectedError",
    "PeerProtocolError",
    "Pending",
    "PrecopyLeft",
    "Reachable",
    "RefusedError",
    "RegionInfo",
    "SharedMemory",
    "TimedOutError",
    "Vectors",
    "Window",
]
