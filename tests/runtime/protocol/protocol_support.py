"""Headers by hand, connections that have agreed, and a strategy for every message."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

import vfio_migration.runtime.protocol as vp
from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.protocol import Connection, Limits, Message

HEADER = struct.Struct("=HHIII")


def raw(number: int, payload: bytes = b"", *, ident: int = 1, flags: int = 0, **more: int) -> bytes:
    """A message made by hand; `size` and `code` may be given wrong."""
    size = more.get("size", 16 + len(payload))
    return HEADER.pack(ident, number, size, flags, more.get("code", 0)) + payload


def wire(message: Message, *, ident: int = 1, flags: int = 0) -> bytes:
    return raw(message.number, message.pack(), ident=ident, flags=flags)


RESET = raw(13)
VERSION = raw(
    1,
    b'\0\0\0\0{"capabilities":{"write_multiple":true,"precopy_info":true,"max_msg_fds":16}}\0',
)


def agreed(limits: Limits | None = None, **more: Any) -> Connection:
    """A server with which a client has agreed on a version."""
    server = Connection("server", limits, **more)
    [command] = server.receive(VERSION)
    server.version_reply(command)
    return server


HOSTILE: dict[str, tuple[Callable[[], Connection], bytes, int]] = {
    "size_below_header": (agreed, raw(13, size=15), 22),
    "size_over_limit": (agreed, raw(13, size=1048576 + 33), 7),
    "type_unknown": (agreed, raw(13, flags=2), 22),
    "command_unknown": (agreed, raw(14), 22),
    "wrong_direction": (agreed, raw(11, struct.pack("=QQ", 0, 4)), 22),
    "version_first": (lambda: Connection("server"), RESET, 22),
    "version_again": (agreed, VERSION, 22),
    "not_negotiated": (
        lambda: agreed(Limits(write_multiple=False)),
        raw(15, struct.pack("=Q", 0)),
        22,
    ),
    "size_wrong": (agreed, raw(4, bytes(15)), 22),
    "over_bound": (agreed, raw(9, struct.pack("=QII", 0, 0, 1048577)), 7),
    "flags_unknown": (agreed, raw(3, struct.pack("=IIQQ", 24, 4, 0, 0)), 22),
    "version_incompatible": (lambda: Connection("server"), raw(1, b"\1\0\0\0"), 22),
    "argument_invalid": (agreed, raw(4, bytes(16)), 22),
}
"""For each occasion: a connection, a message that is one, and the errno it is answered."""


def pair(limits: Limits | None = None, twin: int | None = None) -> tuple[Connection, Connection]:
    """A server and a client that have agreed."""
    server, client = Connection("server", limits), Connection("client", limits)
    [command] = server.receive(bytes(client.send_version()))
    reply = server.version_reply(command, twin)
    client.receive(bytes(reply), () if twin is None else (os.dup(twin),))
    return server, client


def plain(events: Sequence[Any]) -> list[Any]:
    """Events as values that can be compared: views and bytes are the same."""
    return [_plain(event) for event in events]


def _plain(value: Any) -> Any:
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Message | vp.Command | vp.Reply | vp.ProtocolFault | vp.Outgoing):
        names = type(value).__dataclass_fields__
        return [type(value).__name__, {name: _plain(getattr(value, name)) for name in names}]
    return value


@contextmanager
def no_leak() -> Iterator[None]:
    """The descriptors open at the end are those open at the start."""
    before = opened_at_rest()
    yield
    assert opened() == before


def files(count: int) -> tuple[int, ...]:
    return tuple(os.memfd_create("test") for _ in range(count))


U16 = st.integers(0, 2**16 - 1)
MAP_FLAGS = st.sampled_from((1, 2, 3, 5, 6, 7, 9, 10, 11))
FEATURE_FLAGS = st.integers(0, 2**19 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
DATA = st.binary(max_size=300)

CAPABILITIES = st.builds(
    vp.Capabilities,
    max_msg_fds=st.none() | U64,
    max_data_xfer_size=st.none() | U64,
    max_dma_maps=st.none() | U64,
    pgsizes=st.none() | U64,
    twin_socket=st.none() | st.builds(vp.TwinSocket, st.booleans(), st.none() | U32),
    write_multiple=st.none() | st.booleans(),
    precopy_info=st.none() | st.booleans(),
)
AREAS = st.lists(st.builds(vp.MmapArea, U64, U64), max_size=4).map(tuple)
REGION_CAPABILITY = st.one_of(
    st.builds(vp.SparseMmap, AREAS),
    st.builds(vp.RegionType, U32, U32),
    st.builds(
        vp.OtherCapability,
        st.integers(3, 2**16 - 1),
        U16,
        st.integers(0, 4).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)),
    ),
)
_ROOM = st.integers(40, 2**32 - 1)


def _irqs(kind: int, action: int, start: int, data: bytes) -> vp.DeviceSetIrqs:
    count = len(data)
    return vp.DeviceSetIrqs(kind | action, 2, start, count, data if kind == 2 else b"")


def _mig_read(size: int, more: int) -> vp.MigDataRead:
    return vp.MigDataRead(8 + size + more, size)


MESSAGE: dict[type[Message], st.SearchStrategy[Any]] = {
    vp.Version: st.builds(vp.Version, U16, U16, st.none() | CAPABILITIES),
    vp.VersionReply: st.builds(vp.VersionReply, U16, U16, st.none() | CAPABILITIES),
    vp.DmaMap: st.builds(vp.DmaMap, _ROOM, MAP_FLAGS, U64, U64, U64),
    vp.DmaMapReply: st.builds(vp.DmaMapReply),
    vp.DmaUnmap: st.builds(vp.DmaUnmap, _ROOM, st.sampled_from((0, 2)), U64, U64),
    vp.DmaUnmapReply: st.builds(vp.DmaUnmapReply, U32, U32, U64, U64),
    vp.DeviceGetInfo: st.builds(vp.DeviceGetInfo, _ROOM, U32, U32, U32),
    vp.DeviceGetInfoReply: st.builds(vp.DeviceGetInfoReply, U32, U32, U32, U32),
    vp.DeviceGetRegionInfo: st.builds(vp.DeviceGetRegionInfo, _ROOM, U32, U32, U32, U64, U64),
    vp.DeviceGetRegionInfoReply: st.builds(
        vp.DeviceGetRegionInfoReply,
        U32,
        U32.map(lambda flags: flags & ~8),
        U64,
        U64,
        st.lists(REGION_CAPABILITY, max_size=4).map(tuple),
    ),
    vp.DeviceGetRegionIoFds: st.builds(vp.DeviceGetRegionIoFds, _ROOM, st.just(0), U32, U32),
    vp.DeviceGetRegionIoFdsReply: st.builds(
        vp.DeviceGetRegionIoFdsReply,
        U32,
        st.lists(st.builds(vp.SubRegion, U64, U64, U32, U32, U32, U64), max_size=4).map(tuple),
    ),
    vp.DeviceGetIrqInfo: st.builds(vp.DeviceGetIrqInfo, _ROOM, U32, U32, U32),
    vp.DeviceGetIrqInfoReply: st.builds(vp.DeviceGetIrqInfoReply, U32, U32, U32, U32),
    vp.DeviceSetIrqs: st.builds(
        _irqs, st.sampled_from((1, 2, 4)), st.sampled_from((8, 16, 32)), U32, DATA
    ),
    vp.DeviceSetIrqsReply: st.builds(vp.DeviceSetIrqsReply),
    vp.RegionRead: st.builds(vp.RegionRead, U64, U32, st.integers(0, 1 << 20)),
    vp.RegionReadReply: st.builds(vp.RegionReadReply, U64, U32, DATA),
    vp.RegionWrite: st.builds(vp.RegionWrite, U64, U32, DATA),
    vp.RegionWriteReply: st.builds(vp.RegionWriteReply, U64, U32, U32),
    vp.DmaRead: st.builds(vp.DmaRead, U64, st.integers(0, 1 << 20)),
    vp.DmaReadReply: st.builds(vp.DmaReadReply, U64, DATA),
    vp.DmaWrite: st.builds(vp.DmaWrite, U64, DATA),
    vp.DmaWriteReply: st.builds(vp.DmaWriteReply, U64, U64),
    vp.DeviceReset: st.builds(vp.DeviceReset),
    vp.DeviceResetReply: st.builds(vp.DeviceResetReply),
    vp.RegionWriteMulti: st.lists(
        st.builds(vp.SingleWrite, U64, U32, st.binary(max_size=8)), max_size=6
    ).map(lambda writes: vp.RegionWriteMulti.of(*writes)),
    vp.RegionWriteMultiReply: st.builds(vp.RegionWriteMultiReply, U64),
    vp.DeviceFeature: st.builds(vp.DeviceFeature, _ROOM, FEATURE_FLAGS, DATA),
    vp.DeviceFeatureReply: st.builds(vp.DeviceFeatureReply, _ROOM, U32, DATA),
    vp.MigDataRead: st.builds(_mig_read, st.integers(0, 1 << 20), st.integers(0, 99)),
    vp.MigDataReadReply: st.builds(vp.MigDataReadReply, DATA),
    vp.MigDataWrite: st.builds(vp.MigDataWrite, U32, DATA),
    vp.MigDataWriteReply: st.builds(vp.MigDataWriteReply),
    vp.MigPrecopyInfo: st.builds(vp.MigPrecopyInfo, st.integers(24, 2**32 - 1), U32),
    vp.MigPrecopyInfoReply: st.builds(vp.MigPrecopyInfoReply, U32, U32, U64, U64),
}
"""For every message, all that it can state."""

COMMANDS = [
    kind
    for kind in MESSAGE
    if not kind.is_reply and kind not in (vp.Version, vp.DmaRead, vp.DmaWrite)
]
"""What a client may send once the version is agreed."""
