"""The commands that ask about regions, with the structures inside their replies.

Source: docs/interop/vfio-user.rst, the section named after the command; the chain of capabilities
is that of `struct vfio_info_cap_header` in include/uapi/linux/vfio.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import Data, RegionCapabilityId, RegionFlags
from vfio_migration.runtime.protocol.messages.shapes import (
    Message,
    Sized,
    wrong_size,
)

_INFO: Final = struct.Struct("=IIIIQQ")
_CAP: Final = struct.Struct("=HHI")
_SPARSE: Final = struct.Struct("=II")
_PAIR: Final = struct.Struct("=QQ")
_TYPE: Final = struct.Struct("=II")
_CAPS_FLAG: Final = int(RegionFlags.CAPS)
_MMAP_FLAG: Final = int(RegionFlags.MMAP)
_SPARSE_ID: Final = int(RegionCapabilityId.SPARSE_MMAP)
_TYPE_ID: Final = int(RegionCapabilityId.TYPE)

# --- DEVICE_GET_REGION_INFO -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MmapArea:
    """A part of a region that can be mapped; `offset` counts from the offset of the region."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SparseMmap:
    """These parts of the region can be mapped, and no others."""

    areas: tuple[MmapArea, ...]

    def pack(self, follows: int) -> bytes:
        """Return the bytes; `follows` is where the next capability is."""
        head = _CAP.pack(_SPARSE_ID, 1, follows) + _SPARSE.pack(len(self.areas), 0)
        return head + b"".join(_PAIR.pack(area.offset, area.size) for area in self.areas)


@dataclass(frozen=True, slots=True)
class RegionType:
    """A region that is no standard one states what it is."""

    type: int
    subtype: int

    def pack(self, follows: int) -> bytes:
        """Return the bytes; `follows` is where the next capability is."""
        return _CAP.pack(_TYPE_ID, 1, follows) + _TYPE.pack(self.type, self.subtype)


@dataclass(frozen=True, slots=True)
class OtherCapability:
    """A capability that is not known here. `data` goes on to where the next one begins."""

    id: int
    version: int
    data: bytes

    def pack(self, follows: int) -> bytes:
        """Return the bytes; `follows` is where the next capability is."""
        return _CAP.pack(self.id, self.version, follows) + self.data


RegionCapability: TypeAlias = SparseMmap | RegionType | OtherCapability


@dataclass(frozen=True, slots=True)
class DeviceGetRegionInfo(Sized):
    """What is this region? Only `argsz` and `index` count."""

    name = "DEVICE_GET_REGION_INFO"
    layout = _INFO

    argsz: int = 32
    flags: int = 0
    index: int = 0
    cap_offset: int = 0
    size: int = 0
    offset: int = 0

    @classmethod
    def asking(cls, index: int, *, argsz: int = 32) -> Self:
        """Make the command; capabilities come only if `argsz` has room for them."""
        return cls(argsz, 0, index, 0, 0, 0)

    def room(self) -> int:
        """Return how long a reply it takes; see `Message.room`."""
        return self.argsz


@dataclass(frozen=True, slots=True)
class DeviceGetRegionInfoReply(Message):
    """What the region is; a descriptor comes along if `flags` has MMAP.

    Attributes:
        index: Which region.
        flags: `RegionFlags`; CAPS is in the payload if there are capabilities, and not here.
        size: How large it is.
        offset: Where it begins in the descriptor.
        capabilities: What else there is to know.
        omitted: How many bytes of capabilities did not fit the argsz of the command.
    """

    name = "DEVICE_GET_REGION_INFO"
    is_reply = True
    cuts = True
    layout = _INFO

    index: int
    flags: int
    size: int
    offset: int
    capabilities: tuple[RegionCapability, ...] = ()
    omitted: int = 0

    @property
    def argsz(self) -> int:
        """The size of the full payload."""
        return _INFO.size + self.omitted + len(self._chain())

    def cut(self) -> tuple[Self, bool]:
        """Return what is sent if the full payload does not fit, and if descriptors go with it.

        Without capabilities there is no CAPS flag and no offset to them: QEMU's client refuses a
        reply that announces some and has none. Nor is there a descriptor, for which libvfio-user's
        client has no room yet, and so no MMAP flag. argsz shows that there is more.
        """
        omitted = self.argsz - _INFO.size
        flags = self.flags & ~_MMAP_FLAG
        return type(self)(self.index, flags, self.size, self.offset, (), omitted), False

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`. What follows `argsz` bytes is padding."""
        if len(payload) < 32:
            raise wrong_size(cls, payload)
        argsz, flags, index, first, size, offset = _INFO.unpack_from(payload)
        found: tuple[RegionCapability, ...] = ()
        omitted = 0
        if argsz < _INFO.size:
            raise wrong_size(cls, payload, argsz)
        if argsz > len(payload):
            omitted = argsz - _INFO.size
        elif flags & _CAPS_FLAG:
            found = _read_chain(payload[:argsz], first)
        return cls(index, flags & ~_CAPS_FLAG, size, offset, found, omitted)

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        chain = self._chain()
        flags, first = (self.flags | _CAPS_FLAG, 32) if chain else (self.flags, 0)
        argsz = 32 + self.omitted + len(chain)
        fixed = _INFO.pack(argsz, flags, self.index, first, self.size, self.offset)
        return (fixed, chain) if chain else (fixed,)

    def _chain(self) -> bytes:
        chain = b""
        for number, capability in enumerate(self.capabilities, 1):
            # Each begins at a multiple of 8, as the 64-bit numbers in them need.
            length = -(-len(capability.pack(0)) // 8) * 8
            last = number == len(self.capabilities)
            follows = 0 if last else _INFO.size + len(chain) + length
            chain += capability.pack(follows).ljust(length, b"\0")
        return chain


def _read_chain(payload: Data, first: int) -> tuple[RegionCapability, ...]:
    found: list[RegionCapability] = []
    at, end = first, len(payload)
    while at:
        if not 32 <= at <= end - _CAP.size:
            raise _bad_chain(f"capability at {at}, outside the {end} bytes of the payload")
        ident, version, follows = _CAP.unpack_from(payload, at)
        if follows and follows < at + _CAP.size:
            raise _bad_chain(f"capability at {at} leads back to {follows}")
        stop = min(follows, end) if follows else end
        found.append(_read_capability(ident, version, payload[at + _CAP.size : stop]))
        at = follows
    return tuple(found)


def _read_capability(ident: int, version: int, body: Data) -> RegionCapability:
    if (ident, version) == (_SPARSE_ID, 1):
        count = _SPARSE.unpack_from(body)[0] if len(body) >= 8 else 0
        if len(body) < 8 + 16 * count:
            raise _bad_chain(f"{count} areas in {len(body)} bytes")
        pairs = _PAIR.iter_unpack(body[8 : 8 + 16 * count])
        return SparseMmap(tuple(MmapArea(*pair) for pair in pairs))
    if (ident, version) == (_TYPE_ID, 1):
        if len(body) < 8:
            raise _bad_chain(f"a type in {len(body)} bytes")
        return RegionType(*_TYPE.unpack_from(body))
    return OtherCapability(ident, version, bytes(body))


def _bad_chain(why: str) -> MalformedError:
    return MalformedError("argument_invalid", f"DeviceGetRegionInfoReply: {why}")


# --- DEVICE_GET_REGION_IO_FDS ---------------------------------------------------------------------

_IO_FDS: Final = struct.Struct("=IIII")
_SUB_REGION: Final = struct.Struct("=QQIIIIQ")


@dataclass(frozen=True, slots=True)
class SubRegion:
    """A part of a region and the descriptor that stands for it; `type` is an `IoFdType`.

    `value` is called datamatch for an ioeventfd and user_data for an ioregionfd.
    """

    offset: int
    size: int
    fd_index: int
    type: int
    flags: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class DeviceGetRegionIoFds(Sized):
    """Through which descriptors can parts of this region be accessed?"""

    name = "DEVICE_GET_REGION_IO_FDS"
    layout = _IO_FDS

    argsz: int = 16
    flags: int = 0
    index: int = 0
    count: int = 0

    def room(self) -> int:
        """Return how long a reply it takes; see `Message.room`."""
        return self.argsz


@dataclass(frozen=True, slots=True)
class DeviceGetRegionIoFdsReply(Message):
    """The parts; `omitted` is how many did not fit the argsz of the command."""

    name = "DEVICE_GET_REGION_IO_FDS"
    is_reply = True
    cuts = True
    layout = _IO_FDS

    index: int
    sub_regions: tuple[SubRegion, ...] = ()
    omitted: int = 0

    @property
    def count(self) -> int:
        """How many parts there are in all."""
        return len(self.sub_regions) + self.omitted

    @property
    def argsz(self) -> int:
        """The size of the full payload."""
        return _IO_FDS.size + _SUB_REGION.size * self.count

    def cut(self) -> tuple[Self, bool]:
        """Return what is sent if the full payload does not fit, and if descriptors go with it."""
        return type(self)(self.index, (), self.count), False

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`.

        Entries may be longer than 40 bytes; what follows `argsz` bytes is padding.
        """
        if len(payload) < 16:
            raise wrong_size(cls, payload)
        argsz, _flags, index, count = _IO_FDS.unpack_from(payload)
        if argsz > len(payload) and count and argsz >= 16 + _SUB_REGION.size * count:
            return cls(index, (), count)
        length = argsz - 16
        each = length // count if count else 0
        if argsz > len(payload) or each * count != length or (count and each < 40):
            raise wrong_size(cls, payload, argsz)
        found = []
        for at in range(16, argsz, each or 40):
            offset, size, fd, kind, flags, _padding, value = _SUB_REGION.unpack_from(payload, at)
            found.append(SubRegion(offset, size, fd, kind, flags, value))
        return cls(index, tuple(found))

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        pieces = [_IO_FDS.pack(self.argsz, 0, self.index, self.count)]
        pieces += [
            _SUB_REGION.pack(one.offset, one.size, one.fd_index, one.type, one.flags, 0, one.value)
            for one in self.sub_regions
        ]
        return (b"".join(pieces),)
