"""DEVICE_FEATURE with the data of each feature, and the transfer of migration data.

Source: docs/interop/vfio-user.rst, the section named after the command or the feature; for features
that only Linux has, include/uapi/linux/vfio.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeVar

from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import (
    FEATURE_GET,
    FEATURE_MASK,
    FEATURE_PROBE,
    FEATURE_SET,
    Data,
)
from vfio_migration.runtime.protocol.messages.shapes import (
    Counted,
    Empty,
    Fixed,
    Message,
    numbers,
    small_argsz,
    wrong_size,
)

_FEATURE: Final = struct.Struct("=II")

# --- DEVICE_FEATURE -------------------------------------------------------------------------------


class _Feature(Message):
    __slots__ = ()

    layout = _FEATURE
    argsz: int
    flags: int
    data: Data

    @property
    def index(self) -> int:
        """Which feature."""
        return self.flags & FEATURE_MASK

    @property
    def get(self) -> bool:
        """Whether GET is asked for."""
        return bool(self.flags & FEATURE_GET)

    @property
    def set(self) -> bool:
        """Whether SET is asked for."""
        return bool(self.flags & FEATURE_SET)

    @property
    def probe(self) -> bool:
        """Whether this only asks if it could be done."""
        return bool(self.flags & FEATURE_PROBE)

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        fixed = _FEATURE.pack(self.argsz, self.flags)
        return (fixed, self.data) if self.data else (fixed,)


def feature_flags(index: int, *, get: bool = False, set_: bool = False, probe: bool = False) -> int:
    """Return the flags word of a `DeviceFeature`."""
    return (
        index
        | (FEATURE_GET if get else 0)
        | (FEATURE_SET if set_ else 0)
        | (FEATURE_PROBE if probe else 0)
    )


@dataclass(frozen=True, slots=True)
class DeviceFeature(_Feature):
    """Get, set or probe a feature; `argsz` is how long a reply the client takes."""

    name = "DEVICE_FEATURE"

    argsz: int
    flags: int
    data: Data = b""

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) < 8:
            raise wrong_size(cls, payload)
        argsz, flags = _FEATURE.unpack_from(payload)
        if argsz < 8:
            raise small_argsz(cls, argsz, 8)
        return cls(argsz, flags, payload[8:])

    @classmethod
    def asking(
        cls,
        index: int,
        *,
        get: bool = False,
        set_: bool = False,
        probe: bool = False,
        data: Data = b"",
        room: int = 0,
    ) -> Self:
        """Make the command.

        Args:
            index: Which feature.
            get: Ask for GET.
            set_: Ask for SET.
            probe: Ask whether that could be done.
            data: The data of the feature.
            room: How much data the reply may hold, if that is more than there is here.
        """
        flags = feature_flags(index, get=get, set_=set_, probe=probe)
        return cls(_FEATURE.size + max(len(data), room), flags, data)

    def room(self) -> int | None:
        """Return how long a reply it takes; see `Message.room`.

        How much of the data counts is stated by the feature and not by `argsz`: the text has the
        length of the data "added to argsz", which peers read differently.
        """
        return self.argsz if self.get and not self.probe else None


@dataclass(frozen=True, slots=True)
class DeviceFeatureReply(_Feature):
    """What came of it; `argsz` is the size of the full payload, or repeats the command's."""

    name = "DEVICE_FEATURE"
    is_reply = True
    cuts = True

    argsz: int
    flags: int
    data: Data = b""

    @classmethod
    def got(cls, command: DeviceFeature, data: Data) -> Self:
        """Reply to GET: its data, whose length is added to argsz."""
        return cls(_FEATURE.size + len(data), command.flags, data)

    @classmethod
    def echo(cls, command: DeviceFeature, data: Data | None = None) -> Self:
        """Reply to SET or PROBE: the payload of the command, or with other data of that length."""
        return cls(command.argsz, command.flags, command.data if data is None else data)

    def cut(self) -> tuple[Self, bool]:
        """Return what is sent if the full payload does not fit, and if descriptors go with it."""
        return type(self)(self.argsz, self.flags), False

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) < 8:
            raise wrong_size(cls, payload)
        argsz, flags = _FEATURE.unpack_from(payload)
        return cls(argsz, flags, payload[8:])


# --- Data of the features -------------------------------------------------------------------------

_U64: Final = struct.Struct("=Q")
_STATE: Final = struct.Struct("=Ii")
_LOGGING: Final = struct.Struct("=QII")
_RANGE: Final = struct.Struct("=QQ")
_REPORT: Final = struct.Struct("=QQQ")


class FeatureData:
    """The data of a feature that is a structure of one size, its fields those of the class.

    Attributes:
        layout: The structure.
    """

    __slots__ = ()

    layout: ClassVar[struct.Struct]

    @classmethod
    def parse(cls, data: Data) -> Self:
        """Read the data; raise `MalformedError` if it does not fit."""
        if len(data) != cls.layout.size:
            raise _misfit(cls, data)
        return cls(*cls.layout.unpack(data))

    def pack(self) -> bytes:
        """Return the data."""
        return self.layout.pack(*numbers(self))


_D = TypeVar("_D", bound=FeatureData)


def padded(kind: type[_D], data: Data) -> _D:
    """Read the data of a reply to GET, which may be followed by padding. Raises as `parse`."""
    return kind.parse(data[: kind.layout.size])


def _misfit(kind: type[object], data: Data) -> MalformedError:
    return MalformedError("size_wrong", f"{kind.__name__}: {len(data)} bytes of data do not fit")


@dataclass(frozen=True, slots=True)
class FeatureMigration(FeatureData):
    """MIGRATION: the capability set of the device."""

    layout = _U64

    flags: int


@dataclass(frozen=True, slots=True)
class FeatureDeviceState(FeatureData):
    """MIG_DEVICE_STATE: a state. `data_fd` is unused, and -1 as Linux has it."""

    layout = _STATE

    device_state: int
    data_fd: int = -1


@dataclass(frozen=True, slots=True)
class DmaLoggingRange:
    """A range of addresses to be watched."""

    iova: int
    length: int


@dataclass(frozen=True, slots=True)
class DmaLoggingControl:
    """DMA_LOGGING_START: what to watch; no ranges means everything. STOP has no data."""

    page_size: int
    ranges: tuple[DmaLoggingRange, ...] = ()
    reserved: int = 0

    @classmethod
    def parse(cls, data: Data) -> Self:
        """Read the data; raise `MalformedError` if it does not fit."""
        if len(data) < _LOGGING.size:
            raise _misfit(cls, data)
        page_size, count, reserved = _LOGGING.unpack_from(data)
        if len(data) != _LOGGING.size + _RANGE.size * count:
            raise _misfit(cls, data)
        pairs = _RANGE.iter_unpack(data[_LOGGING.size :])
        return cls(page_size, tuple(DmaLoggingRange(*pair) for pair in pairs), reserved)

    def pack(self) -> bytes:
        """Return the data."""
        head = _LOGGING.pack(self.page_size, len(self.ranges), self.reserved)
        return head + b"".join(_RANGE.pack(one.iova, one.length) for one in self.ranges)


@dataclass(frozen=True, slots=True)
class DmaLoggingReport:
    """DMA_LOGGING_REPORT: of which addresses, and in the reply the bitmap of their pages."""

    iova: int
    length: int
    page_size: int
    bitmap: Data = b""

    @classmethod
    def parse(cls, data: Data) -> Self:
        """Read the data; raise `MalformedError` if it does not fit."""
        if len(data) < _REPORT.size or len(data) % 8:
            raise _misfit(cls, data)
        iova, length, page_size = _REPORT.unpack_from(data)
        return cls(iova, length, page_size, data[_REPORT.size :])

    def pack(self) -> bytes:
        """Return the data."""
        return b"".join((_REPORT.pack(self.iova, self.length, self.page_size), self.bitmap))


@dataclass(frozen=True, slots=True)
class MigDataSize(FeatureData):
    """MIG_DATA_SIZE: how much STOP_COPY is expected to stream."""

    layout = _U64

    stop_copy_length: int


# --- MIG_PRECOPY_INFO, MIG_DATA_READ and MIG_DATA_WRITE -------------------------------------------

_PRECOPY_INFO: Final = struct.Struct("=IIQQ")


@dataclass(frozen=True, slots=True)
class MigPrecopyInfo(Fixed):
    """Ask how much is left to read; `argsz` is how long a reply the client takes."""

    name = "MIG_PRECOPY_INFO"
    layout = _FEATURE

    argsz: int = _PRECOPY_INFO.size
    flags: int = 0

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) < cls.layout.size:
            raise wrong_size(cls, payload)
        argsz, flags = cls.layout.unpack_from(payload)
        if argsz < _PRECOPY_INFO.size:
            raise small_argsz(cls, argsz, _PRECOPY_INFO.size)
        return cls(argsz, flags)


@dataclass(frozen=True, slots=True)
class MigPrecopyInfoReply(Fixed):
    """How much there is: of what was not read even once, and of what has changed since."""

    name = "MIG_PRECOPY_INFO"
    is_reply = True
    layout = _PRECOPY_INFO

    argsz: int
    flags: int
    initial_bytes: int
    dirty_bytes: int


@dataclass(frozen=True, slots=True)
class MigDataRead(Fixed):
    """Read `size` bytes of migration data."""

    name = "MIG_DATA_READ"
    layout = _FEATURE
    asks = "size"

    argsz: int
    size: int

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`.

        A reply that held less than was asked for, to fit argsz, would say that no data remains.
        """
        if len(payload) < 8:
            raise wrong_size(cls, payload)
        argsz, size = _FEATURE.unpack_from(payload)
        if argsz < 8 + size:
            raise small_argsz(cls, argsz, 8 + size)
        return cls(argsz, size)

    @classmethod
    def asking(cls, size: int) -> Self:
        """Make the command with its argsz."""
        return cls(8 + size, size)


class _MigData(Counted):
    __slots__ = ()

    layout = _FEATURE
    padded = True

    @property
    def size(self) -> int:
        """How much data that is."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class MigDataReadReply(_MigData):
    """The data; less than asked for means that there is no more, for now or for good."""

    name = "MIG_DATA_READ"
    is_reply = True
    computed = 1

    data: Data

    @property
    def argsz(self) -> int:
        """The size of the payload."""
        return self.layout.size + len(self.data)

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        return (self.layout.pack(self.argsz, len(self.data)), self.data)


@dataclass(frozen=True, slots=True)
class MigDataWrite(_MigData):
    """Write migration data. `argsz` bounds a reply that has no payload: it is not looked at."""

    name = "MIG_DATA_WRITE"

    argsz: int
    data: Data

    @classmethod
    def asking(cls, data: Data) -> Self:
        """Make the command, with the size of its payload as argsz, which every server takes."""
        return cls(cls.layout.size + len(data), data)


@dataclass(frozen=True, slots=True)
class MigDataWriteReply(Empty):
    """It is written."""

    name = "MIG_DATA_WRITE"
    is_reply = True
