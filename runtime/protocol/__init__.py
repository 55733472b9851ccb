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
from vfio_migration.runtime.protocol.messages import catalogue
from vfio_migration.runtime.protocol.messages.catalogue import *  # noqa: F403 - the list of names is there, once
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
    "READ_AHEAD",
    "CannotSendError",
    "Capabilities",
    "Command",
    "Connection",
    "DeviceFlags",
    "DmaLoggingControl",
    "DmaLoggingRange",
    "DmaLoggingReport",
    "DmaMapFlags",
    "DmaUnmapFlags",
    "Event",
    "FeatureDeviceState",
    "FeatureMigration",
    "IoFdType",
    "IrqInfoFlags",
    "IrqSetFlags",
    "Limits",
    "MalformedError",
    "Message",
    "MigDataSize",
    "MmapArea",
    "OtherCapability",
    "Outgoing",
    "ProtocolFault",
    "RegionCapability",
    "RegionCapabilityId",
    "RegionFlags",
    "RegionType",
    "Reply",
    "Role",
    "SingleWrite",
    "SparseMmap",
    "SubRegion",
    "TwinSocket",
    "feature_flags",
]
__all__ += catalogue.__all__
