"""What the table of the connection says, in the form in which the code needs it.

Numbers, sizes, bounds and errno answers are in `model/wire.toml` and are read from there; only
what a table cannot hold (which attribute of a message a field becomes) is code.

Constants of other headers that travel inside messages are here too, named as there. Source:
docs/interop/vfio-user.rst and include/uapi/linux/vfio.h.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, TypeAlias

from vfio_migration.model.errors import Named
from vfio_migration.model.wire_load import load_wire

Data: TypeAlias = bytes | bytearray | memoryview
"""What a payload can be made of. A view must be flat: one dimension, of bytes."""

WIRE: Final = load_wire()
"""The table. It is read once: the numbers of commands are part of the classes of messages."""

LIMITS: Final = Named("limit", WIRE.limits)
"""What a side may state of how much it takes, by name."""

_CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}

HEADER: Final = struct.Struct("=" + "".join(_CODES[row.size] for row in WIRE.header))
"""The header: id, command, size, flags, errno, in the byte order of the host, without padding."""

HEADER_SIZE: Final = HEADER.size

TYPE_MASK: Final = WIRE.bits("header", "command").mask
TYPE_COMMAND: Final = WIRE.bits("header", "command").value or 0
TYPE_REPLY: Final = WIRE.bits("header", "reply").value or 0
NO_REPLY: Final = WIRE.bits("header", "no_reply").mask
ERROR: Final = WIRE.bits("header", "error").mask

FEATURE_MASK: Final = WIRE.bits("feature", "index").mask
FEATURE_GET: Final = WIRE.bits("feature", "get").mask
FEATURE_SET: Final = WIRE.bits("feature", "set").mask
FEATURE_PROBE: Final = WIRE.bits("feature", "probe").mask

MAJOR: Final = 0
MINOR: Final = 0
"""The version of the protocol that is spoken here, and the only one there is."""


class DmaMapFlags(enum.IntFlag):
    """`DmaMap.flags`."""

    READ = WIRE.bits("dma_map", "readable").mask
    WRITE = WIRE.bits("dma_map", "writeable").mask
    MMAP = WIRE.bits("dma_map", "mmap").mask
    FILE_IO = WIRE.bits("dma_map", "file_io").mask


class DmaUnmapFlags(enum.IntFlag):
    """`DmaUnmap.flags`: unused, says vfio-user; this one is VFIO's, and QEMU sends it."""

    ALL = WIRE.bits("dma_unmap", "all").mask


class DeviceFlags(enum.IntFlag):
    """`DeviceGetInfoReply.flags`."""

    RESET = WIRE.bits("device_info", "reset").mask
    PCI = WIRE.bits("device_info", "pci").mask


class RegionFlags(enum.IntFlag):
    """`DeviceGetRegionInfoReply.flags`."""

    READ = WIRE.bits("region_info", "read").mask
    WRITE = WIRE.bits("region_info", "write").mask
    MMAP = WIRE.bits("region_info", "mmap").mask
    CAPS = WIRE.bits("region_info", "caps").mask


class PrecopyInfoFlags(enum.IntFlag):
    """`MigPrecopyInfoReply.flags`; without bits if the table does not have them."""

    REINIT = WIRE.known_bits("precopy_info")


class IrqInfoFlags(enum.IntFlag):
    """`DeviceGetIrqInfoReply.flags`."""

    EVENTFD = WIRE.bits("irq_info", "eventfd").mask
    MASKABLE = WIRE.bits("irq_info", "maskable").mask
    AUTOMASKED = WIRE.bits("irq_info", "automasked").mask
    NORESIZE = WIRE.bits("irq_info", "noresize").mask


class IrqSetFlags(enum.IntFlag):
    """`DeviceSetIrqs.flags`: one of DATA_ and one of ACTION_."""

    DATA_NONE = WIRE.bits("irq_set", "data_none").mask
    DATA_BOOL = WIRE.bits("irq_set", "data_bool").mask
    DATA_EVENTFD = WIRE.bits("irq_set", "data_eventfd").mask
    ACTION_MASK = WIRE.bits("irq_set", "action_mask").mask
    ACTION_UNMASK = WIRE.bits("irq_set", "action_unmask").mask
    ACTION_TRIGGER = WIRE.bits("irq_set", "action_trigger").mask


class IoFdType(enum.IntEnum):
    """`SubRegion.type`. The text names no numbers; these are libvfio-user's."""

    IOEVENTFD = 0
    IOREGIONFD = 1


class RegionCapabilityId(enum.IntEnum):
    """The identity of a capability of a region (VFIO_REGION_INFO_CAP_*)."""

    SPARSE_MMAP = 1
    TYPE = 2
