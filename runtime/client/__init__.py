"""A client of vfio-user: typed calls, with and without asyncio, over one core without a socket.

`AsyncClient` is in `aclient` and `AsyncInterrupts` in `ainterrupts`, so that only those who run
asyncio import it.
"""

from vfio_migration.runtime.client.blocking import Client
from vfio_migration.runtime.client.calls import Call, RegionInfo
from vfio_migration.runtime.client.common import PATIENCE
from vfio_migration.runtime.client.core import Core, Exchange, Pending, Reachable
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerBroke,
    PeerGone,
    Refused,
    TimedOut,
)
from vfio_migration.runtime.client.interrupts import Interrupts, Vectors
from vfio_migration.runtime.client.memory import AddressSpace, SharedMemory, Window
from vfio_migration.runtime.client.regions import MappedArea, MappedRegion, NotMappable

__all__ = [
    "PATIENCE",
    "AddressSpace",
    "Call",
    "Client",
    "ClientError",
    "Core",
    "Exchange",
    "Interrupts",
    "MappedArea",
    "MappedRegion",
    "NotMappable",
    "PeerBroke",
    "PeerGone",
    "Pending",
    "Reachable",
    "Refused",
    "RegionInfo",
    "SharedMemory",
    "TimedOut",
    "Vectors",
    "Window",
]
