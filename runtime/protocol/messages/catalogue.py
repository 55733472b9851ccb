"""Every command of vfio-user and its reply, both directions.

Names are those of the specification, in CamelCase: `RegionRead` is VFIO_USER_REGION_READ, and
`RegionReadReply` its reply. Fields have the names and, but for what can be computed, the order of
the specification; `docs/wire-layouts.md` shows every byte. Counts and sizes of data that a message
carries are computed, so that none can be wrong.
"""

from __future__ import annotations

from typing import Final

from vfio_migration.runtime.protocol.messages.device_info import (
    DeviceGetInfo,
    DeviceGetInfoReply,
    DeviceGetIrqInfo,
    DeviceGetIrqInfoReply,
    DeviceReset,
    DeviceResetReply,
    DeviceSetIrqs,
    DeviceSetIrqsReply,
)
from vfio_migration.runtime.protocol.messages.features import (
    DeviceFeature,
    DeviceFeatureReply,
    MigDataRead,
    MigDataReadReply,
    MigDataWrite,
    MigDataWriteReply,
    MigPrecopyInfo,
    MigPrecopyInfoReply,
)
from vfio_migration.runtime.protocol.messages.guest_memory import (
    DmaMap,
    DmaMapReply,
    DmaRead,
    DmaReadReply,
    DmaUnmap,
    DmaUnmapReply,
    DmaWrite,
    DmaWriteReply,
)
from vfio_migration.runtime.protocol.messages.region_access import (
    RegionRead,
    RegionReadReply,
    RegionWrite,
    RegionWriteMulti,
    RegionWriteMultiReply,
    RegionWriteReply,
)
from vfio_migration.runtime.protocol.messages.regions import (
    DeviceGetRegionInfo,
    DeviceGetRegionInfoReply,
    DeviceGetRegionIoFds,
    DeviceGetRegionIoFdsReply,
)
from vfio_migration.runtime.protocol.messages.shapes import UNKNOWN, Message
from vfio_migration.runtime.protocol.messages.version import Version, VersionReply

__all__ = [
    "COMMANDS",
    "MESSAGES",
    "REPLIES",
    "DeviceFeature",
    "DeviceFeatureReply",
    "DeviceGetInfo",
    "DeviceGetInfoReply",
    "DeviceGetIrqInfo",
    "DeviceGetIrqInfoReply",
    "DeviceGetRegionInfo",
    "DeviceGetRegionInfoReply",
    "DeviceGetRegionIoFds",
    "DeviceGetRegionIoFdsReply",
    "DeviceReset",
    "DeviceResetReply",
    "DeviceSetIrqs",
    "DeviceSetIrqsReply",
    "DmaMap",
    "DmaMapReply",
    "DmaRead",
    "DmaReadReply",
    "DmaUnmap",
    "DmaUnmapReply",
    "DmaWrite",
    "DmaWriteReply",
    "MigDataRead",
    "MigDataReadReply",
    "MigDataWrite",
    "MigDataWriteReply",
    "MigPrecopyInfo",
    "MigPrecopyInfoReply",
    "RegionRead",
    "RegionReadReply",
    "RegionWrite",
    "RegionWriteMulti",
    "RegionWriteMultiReply",
    "RegionWriteReply",
    "Version",
    "VersionReply",
]

MESSAGES: Final[tuple[tuple[type[Message], type[Message]], ...]] = (
    (Version, VersionReply),
    (DmaMap, DmaMapReply),
    (DmaUnmap, DmaUnmapReply),
    (DeviceGetInfo, DeviceGetInfoReply),
    (DeviceGetRegionInfo, DeviceGetRegionInfoReply),
    (DeviceGetRegionIoFds, DeviceGetRegionIoFdsReply),
    (DeviceGetIrqInfo, DeviceGetIrqInfoReply),
    (DeviceSetIrqs, DeviceSetIrqsReply),
    (RegionRead, RegionReadReply),
    (RegionWrite, RegionWriteReply),
    (DmaRead, DmaReadReply),
    (DmaWrite, DmaWriteReply),
    (DeviceReset, DeviceResetReply),
    (RegionWriteMulti, RegionWriteMultiReply),
    (DeviceFeature, DeviceFeatureReply),
    (MigDataRead, MigDataReadReply),
    (MigDataWrite, MigDataWriteReply),
    (MigPrecopyInfo, MigPrecopyInfoReply),
)
"""Each command with its reply, in the order of the table."""

_SERVED: Final = [pair for pair in MESSAGES if pair[0].number != UNKNOWN]

COMMANDS: Final = {command.number: command for command, _ in _SERVED}
"""The class of a command, by number."""

REPLIES: Final = {reply.number: reply for _, reply in _SERVED}
"""The class of the reply to a command, by number."""
