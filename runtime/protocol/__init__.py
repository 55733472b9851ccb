"""The vfio-user protocol without a socket: bytes in, events out.

`Connection` is one side of a connection. What comes in becomes `Command`, `Reply` and
`ProtocolFault` events; what goes out is made by its `send_` methods. The payloads are the classes
of `messages`, one for each command and one for its reply.

    >>> from vfio_migration.runtime.protocol import Connection, DeviceReset, DeviceResetReply
    >>> server, client = Connection("server"), Connection("client")
    >>> [version] = server.receive(bytes(client.send_version()))
    >>> [reply] = client.receive(bytes(server.version_reply(version)))
    >>> [command] = server.receive(bytes(client.send_command(DeviceReset())))
    >>> command.message
    DeviceReset()
    >>> [reply] = client.receive(bytes(server.send_reply(command, DeviceResetReply())))
    >>> reply.message
    DeviceResetReply()

Numbers, bounds and errno answers are those of `model/wire.toml`; `docs/wire-layouts.md` shows every
payload byte by byte.
"""

from vfio_migration.runtime.protocol.connection import (
    READ_AHEAD,
    Command,
    Connection,
    Event,
    Outgoing,
    ProtocolFault,
    Reply,
    Role,
)
from vfio_migration.runtime.protocol.faults import (
    CannotSendError,
    MalformedError,
)
from vfio_migration.runtime.protocol.layout import (
    DeviceFlags,
    DmaMapFlags,
    DmaUnmapFlags,
    IoFdType,
    IrqInfoFlags,
    IrqSetFlags,
    RegionCapabilityId,
    RegionFlags,
)
from vfio_migration.runtime.protocol.messages.catalogue import (
    COMMANDS,
    MESSAGES,
    REPLIES,
    DeviceFeature,
    DeviceFeatureReply,
    DeviceGetInfo,
    DeviceGetInfoReply,
    DeviceGetIrqInfo,
    DeviceGetIrqInfoReply,
    DeviceGetRegionInfo,
    DeviceGetRegionInfoReply,
    DeviceGetRegionIoFds,
    DeviceGetRegionIoFdsReply,
    DeviceReset,
    DeviceResetReply,
    DeviceSetIrqs,
    DeviceSetIrqsReply,
    DmaMap,
    DmaMapReply,
    DmaRead,
    DmaReadReply,
    DmaUnmap,
    DmaUnmapReply,
    DmaWrite,
    DmaWriteReply,
    MigDataRead,
    MigDataReadReply,
    MigDataWrite,
    MigDataWriteReply,
    RegionRead,
    RegionReadReply,
    RegionWrite,
    RegionWriteMulti,
    RegionWriteMultiReply,
    RegionWriteReply,
    Version,
    VersionReply,
)
from vfio_migration.runtime.protocol.messages.features import (
    DmaLoggingControl,
    DmaLoggingRange,
    DmaLoggingReport,
    FeatureDeviceState,
    FeatureMigration,
    MigDataSize,
    feature_flags,
)
from vfio_migration.runtime.protocol.messages.region_access import (
    SingleWrite,
)
from vfio_migration.runtime.protocol.messages.regions import (
    MmapArea,
    OtherCapability,
    RegionCapability,
    RegionType,
    SparseMmap,
    SubRegion,
)
from vfio_migration.runtime.protocol.messages.shapes import (
    Message,
)
from vfio_migration.runtime.protocol.messages.version import (
    Capabilities,
    Limits,
    TwinSocket,
)

__all__ = [
    "COMMANDS",
    "MESSAGES",
    "READ_AHEAD",
    "REPLIES",
    "CannotSendError",
    "Capabilities",
    "Command",
    "Connection",
    "DeviceFeature",
    "DeviceFeatureReply",
    "DeviceFlags",
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
    "DmaLoggingControl",
    "DmaLoggingRange",
    "DmaLoggingReport",
    "DmaMap",
    "DmaMapFlags",
    "DmaMapReply",
    "DmaRead",
    "DmaReadReply",
    "DmaUnmap",
    "DmaUnmapFlags",
    "DmaUnmapReply",
    "DmaWrite",
    "DmaWriteReply",
    "Event",
    "FeatureDeviceState",
    "FeatureMigration",
    "IoFdType",
    "IrqInfoFlags",
    "IrqSetFlags",
    "Limits",
    "MalformedError",
    "Message",
    "MigDataRead",
    "MigDataReadReply",
    "MigDataSize",
    "MigDataWrite",
    "MigDataWriteReply",
    "MmapArea",
    "OtherCapability",
    "Outgoing",
    "ProtocolFault",
    "RegionCapability",
    "RegionCapabilityId",
    "RegionFlags",
    "RegionRead",
    "RegionReadReply",
    "RegionType",
    "RegionWrite",
    "RegionWriteMulti",
    "RegionWriteMultiReply",
    "RegionWriteReply",
    "Reply",
    "Role",
    "SingleWrite",
    "SparseMmap",
    "SubRegion",
    "TwinSocket",
    "Version",
    "VersionReply",
    "feature_flags",
]
