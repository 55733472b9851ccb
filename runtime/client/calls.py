"""Every command a client can send, as data: what is sent, and what is made of the reply.

A `Call` knows nothing of sockets or of waiting. `Client` and `AsyncClient` carry calls out, each in
its own way, and so does any other shell around `Core`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar

from vfio_migration.model.errors import Named
from vfio_migration.model.wire import Feature, Occasion
from vfio_migration.runtime.client.errors import asked
from vfio_migration.runtime.protocol.connection import Reply
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import (
    WIRE,
    Data,
    DmaMapFlags,
    DmaUnmapFlags,
    PrecopyInfoFlags,
)
from vfio_migration.runtime.protocol.messages.catalogue import (
    DeviceFeature,
    DeviceGetInfo,
    DeviceGetInfoReply,
    DeviceGetIrqInfo,
    DeviceGetIrqInfoReply,
    DeviceGetRegionInfo,
    DeviceGetRegionInfoReply,
    DeviceGetRegionIoFds,
    DeviceGetRegionIoFdsReply,
    DeviceReset,
    DeviceSetIrqs,
    DmaMap,
    DmaUnmap,
    MigDataRead,
    MigDataWrite,
    MigPrecopyInfo,
    RegionRead,
    RegionWrite,
    RegionWriteMulti,
    RegionWriteReply,
)
from vfio_migration.runtime.protocol.messages.features import (
    DmaLoggingControl,
    DmaLoggingRange,
    DmaLoggingReport,
    FeatureDeviceState,
    FeatureMigration,
    MigDataSize,
    padded,
)
from vfio_migration.runtime.protocol.messages.region_access import SingleWrite
from vfio_migration.runtime.protocol.messages.regions import MmapArea, SparseMmap, SubRegion
from vfio_migration.runtime.protocol.messages.shapes import Message

T = TypeVar("T")

FEATURES: Final[Named[Feature]] = Named("feature", WIRE.features)

Sink: TypeAlias = Callable[[Data], object]
"""Takes migration data. It is good until the sink returns."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A command.

    Attributes:
        message: The payload.
        read: Makes the result of a reply without an error; owns its descriptors, unless it raises.
            Data of the reply is good until it returns. May raise `MalformedError`.
        fds: Descriptors to send with it; they stay the caller's.
        no_reply: The server is not to answer: there is no result.
        release: Gives back what a result holds, for one that nobody takes.
        about: What is asked for besides the command, for messages: the feature, the state.
        instead: Makes the result of an error reply that is a case of the named row of [[answers]],
            where that row was agreed on. May raise what a sink may raise.
    """

    message: Message
    read: Callable[[Reply], T]
    fds: tuple[int, ...] = ()
    no_reply: bool = False
    release: Callable[[T], object] | None = None
    about: str = ""
    instead: tuple[Occasion, Callable[[], T]] | None = None

    @property
    def title(self) -> str:
        """What is asked for, in words."""
        return asked(self.message.name, self.about)


@dataclass(frozen=True, slots=True)
class PrecopyLeft:
    """How much is left to read while the device runs.

    Attributes:
        initial: Bytes that are to be read before the device is stopped.
        dirty: Bytes of what was read and has changed since.
        renewed: New initial data was announced since the last reply.
    """

    initial: int
    dirty: int
    renewed: bool


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """What a region is.

    Attributes:
        index: Which one.
        flags: `RegionFlags`.
        size: How large; 0 if the device does not have it.
        offset: Where it begins in `fd`.
        areas: What of it can be mapped, counted from its beginning; all of it if empty and `fd` is
            there.
        fd: Its descriptor, which is now the caller's to close, or None.
        more: How many bytes of capabilities did not fit the reply.
    """

    index: int
    flags: int
    size: int
    offset: int
    areas: tuple[MmapArea, ...] = ()
    fd: int | None = None
    more: int = 0

    def close(self) -> None:
        """Close the descriptor, if there is one."""
        if self.fd is not None:
            os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class IoFds:
    """Descriptors through which parts of a region can be accessed; they are the caller's."""

    parts: tuple[SubRegion, ...]
    fds: tuple[int, ...]

    def close(self) -> None:
        """Close the descriptors."""
        for fd in self.fds:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _done(_reply: Reply) -> None:
    return None


# --- the device ---


def info() -> Call[DeviceGetInfoReply]:
    """Ask what the device is."""
    return Call(DeviceGetInfo(16), _message)


def _message(reply: Reply) -> Any:
    return reply.message


def region_info(index: int, *, room: int = 4096) -> Call[RegionInfo]:
    """Ask about a region; `room` is how long a reply is taken, capabilities included."""

    def read(reply: Reply) -> RegionInfo:
        info = reply.message
        assert isinstance(info, DeviceGetRegionInfoReply)
        areas: tuple[MmapArea, ...] = ()
        for one in info.capabilities:
            if isinstance(one, SparseMmap):
                areas += one.areas
        # One descriptor stands for all areas; the specification allows no more.
        fd = reply.fds[0] if reply.fds else None
        return RegionInfo(index, info.flags, info.size, info.offset, areas, fd, info.omitted)

    asked = DeviceGetRegionInfo.asking(index, argsz=room)
    return Call(asked, read, release=RegionInfo.close)


def region_io_fds(index: int, *, room: int = 4096) -> Call[IoFds]:
    """Ask for descriptors through which parts of a region can be accessed."""

    def read(reply: Reply) -> IoFds:
        assert isinstance(reply.message, DeviceGetRegionIoFdsReply)
        return IoFds(reply.message.sub_regions, reply.fds)

    return Call(DeviceGetRegionIoFds(room, 0, index, 0), read, release=IoFds.close)


def irq_info(index: int) -> Call[DeviceGetIrqInfoReply]:
    """Ask about a type of interrupt."""
    return Call(DeviceGetIrqInfo(16, 0, index, 0), _message)


def set_irqs(
    flags: int,
    index: int,
    start: int = 0,
    count: int = 1,
    *,
    bools: bytes = b"",
    fds: Sequence[int] = (),
) -> Call[None]:
    """Set what happens when an interrupt is raised, masked or unmasked; `flags`: `IrqSetFlags`.

    Args:
        flags: One DATA and one ACTION.
        index: Which type of interrupt.
        start: The first vector.
        count: How many vectors.
        bools: With DATA_BOOL, a byte for each.
        fds: With DATA_EVENTFD, a descriptor for each; they stay the caller's.
    """
    return Call(DeviceSetIrqs(flags, index, start, count, bools), _done, tuple(fds))


def reset() -> Call[None]:
    """Reset the device."""
    return Call(DeviceReset(), _done)


# --- regions ---


def region_read(region: int, offset: int, count: int) -> Call[bytes]:
    """Read `count` bytes of a region; fewer, if that is what the server gives."""

    def read(reply: Reply) -> bytes:
        return bytes(reply.message.data)  # type: ignore[union-attr]

    return Call(RegionRead(offset, region, count), read)


def region_write(region: int, offset: int, data: Data, *, no_reply: bool = False) -> Call[None]:
    """Write to a region; with `no_reply` nobody learns whether it was done."""
    size = len(data)

    def read(reply: Reply) -> None:
        assert isinstance(reply.message, RegionWriteReply)
        if reply.message.count != size:
            # An error means that nothing was done; what half a write has done nobody knows.
            why = f"REGION_WRITE: {reply.message.count} of {size} bytes were written"
            raise MalformedError("size_wrong", why)

    return Call(RegionWrite(offset, region, data), read, no_reply=no_reply)


def region_write_multi(writes: Sequence[tuple[int, int, bytes]]) -> Call[int]:
    """Do several short writes, each of (region, offset, data); the result is how many were done."""
    pieces = [SingleWrite(offset, region, data) for region, offset, data in writes]

    def read(reply: Reply) -> int:
        count: int = reply.message.wr_cnt  # type: ignore[union-attr]
        return count

    return Call(RegionWriteMulti.of(*pieces), read)


# --- memory of the client ---


def dma_map(
    address: int,
    size: int,
    *,
    fd: int | None = None,
    offset: int = 0,
    readable: bool = True,
    writable: bool = True,
) -> Call[None]:
    """Let the device reach memory: through `fd`, which stays the caller's, or by messages."""
    flags = (DmaMapFlags.READ if readable else 0) | (DmaMapFlags.WRITE if writable else 0)
    message = DmaMap.asking(address, size, flags=int(flags), offset=offset)
    return Call(message, _done, () if fd is None else (fd,))


def dma_unmap(address: int, size: int) -> Call[None]:
    """Take memory back that was mapped exactly so."""
    return Call(DmaUnmap.asking(address, size), _done)


def dma_unmap_all() -> Call[None]:
    """Take all memory back. Not every server knows this (VFIO_DMA_UNMAP_FLAG_ALL)."""
    return Call(DmaUnmap.asking(0, 0, flags=int(DmaUnmapFlags.ALL)), _done)


# --- features ---


def probe(feature: str, *, get: bool = False, set_: bool = False) -> Call[None]:
    """Ask whether a feature is there, with these methods. A no is an error reply.

    Raises:
        UnknownNameError: The wire has no feature of this name.
    """
    return _feature(feature, _done, get=get, set_=set_, probe=True)


def capabilities() -> Call[int]:
    """Get what of migration the device supports: `vfio_device_feature_migration.flags`."""
    return _feature(
        "MIGRATION", lambda reply: padded(FeatureMigration, _data(reply)).flags, get=True
    )


def get_state() -> Call[int]:
    """Get the number of the state the device is in."""
    return _feature("MIG_DEVICE_STATE", _state, get=True)


def state(names: Mapping[int, str]) -> Call[str]:
    """Get the name of the state the device is in, given the names of all that there are."""

    def read(reply: Reply) -> str:
        value = _state(reply)
        if value not in names:
            raise MalformedError(
                "argument_invalid", f"state {value}, which the table does not know"
            )
        return names[value]

    return _feature("MIG_DEVICE_STATE", read, get=True)


def _state(reply: Reply) -> int:
    return padded(FeatureDeviceState, _data(reply)).device_state


def set_state(value: int, name: str | None = None) -> Call[None]:
    """Ask for a state, by its number; `name` is what it is called in messages."""
    about = str(value) if name is None else name
    data = FeatureDeviceState(value).pack()
    return _feature("MIG_DEVICE_STATE", _done, set_=True, data=data, about=about)


def data_size() -> Call[int]:
    """Get how many bytes are expected to be left once the device is stopped (Linux)."""
    return _feature(
        "MIG_DATA_SIZE", lambda reply: padded(MigDataSize, _data(reply)).stop_copy_length, get=True
    )


def logging_start(page_size: int, ranges: Sequence[tuple[int, int]] = ()) -> Call[None]:
    """Log what the device writes by DMA to (address, length); to all addresses if none is given."""
    wanted = tuple(DmaLoggingRange(*one) for one in ranges)
    data = DmaLoggingControl(page_size, wanted).pack()
    return _feature("DMA_LOGGING_START", _done, set_=True, data=data)


def logging_stop() -> Call[None]:
    """Log no more."""
    return _feature("DMA_LOGGING_STOP", _done, set_=True)


def logging_report(iova: int, length: int, page_size: int) -> Call[bytes]:
    """Get the bitmap of the pages written since they were last reported.

    Page n is bit n % 64 of 64-bit word n // 64. Long ranges are for the caller to cut: what the
    first piece reports is not reported again, so it must not get lost if the second fails.
    """
    asked = DmaLoggingReport(iova, length, page_size).pack()
    pages = -(-length // page_size)
    size = -(-pages // 64) * 8
    room = len(asked) + size

    def read(reply: Reply) -> bytes:
        bitmap = bytes(DmaLoggingReport.parse(_data(reply)[:room]).bitmap)
        if len(bitmap) != size:
            # Pages that are not in it would count as not written.
            why = f"DMA_LOGGING_REPORT: a bitmap of {len(bitmap)} bytes instead of {size}"
            raise MalformedError("size_wrong", why)
        return bitmap

    return _feature("DMA_LOGGING_REPORT", read, get=True, data=asked, room=room)


def _feature(
    name: str,
    read: Callable[[Reply], T],
    *,
    get: bool = False,
    set_: bool = False,
    probe: bool = False,
    data: bytes = b"",
    room: int = 0,
    about: str = "",
) -> Call[T]:
    row = FEATURES[name]
    if get and not probe:
        room = max(room, len(data) + row.get_reply)
    message = DeviceFeature.asking(
        row.number, get=get, set_=set_, probe=probe, data=data, room=room
    )
    words = ("PROBE" * probe, "GET" * get, "SET" * set_, name, about)
    return Call(message, read, about=" ".join(filter(None, words)))


def _data(reply: Reply) -> Data:
    data: Data = reply.message.data  # type: ignore[union-attr]
    return data


# --- migration data ---


def precopy_info() -> Call[PrecopyLeft]:
    """Ask how much is left to read while the device runs, where that was agreed on."""

    def read(reply: Reply) -> PrecopyLeft:
        message: Any = reply.message
        is_new = bool(message.flags & PrecopyInfoFlags.REINIT)
        return PrecopyLeft(message.initial_bytes, message.dirty_bytes, is_new)

    return Call(MigPrecopyInfo(), read)


def want_announcements() -> Call[None]:
    """Ask to be notified of new initial data, until the connection ends."""
    return _feature("MIG_PRECOPY_INFOv2", _done, set_=True)


def data_read(size: int, sink: Sink, pause: Callable[[], object] | None = None) -> Call[int]:
    """Read migration data into `sink`; the result is how many bytes there were.

    Fewer than `size` mean that there is no more: for now or for good, as the table specifies for
    the state. Where `precopy_info` was agreed on, only no bytes at all mean that there are none
    for now.

    Args:
        size: How many bytes are asked for.
        sink: Takes the data.
        pause: Called in place of `sink` if the server answers that there are none for now.
    """

    def nothing() -> int:
        if pause is not None:
            pause()
        return 0

    def read(reply: Reply) -> int:
        data = _data(reply)
        sink(data)
        return len(data)

    return Call(MigDataRead.asking(size), read, instead=("nothing_now", nothing))


def data_write(data: Data) -> Call[None]:
    """Write migration data."""
    return Call(MigDataWrite.asking(data), _done)
