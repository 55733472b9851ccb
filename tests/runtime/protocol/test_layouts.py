"""Every layout of docs/wire-layouts.md, whose bytes are written by hand, against the code."""

from __future__ import annotations

import re
import struct
import sys
from pathlib import Path

import pytest
from protocol_support import HEADER

import vfio_migration.runtime.protocol as vp
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.protocol import Connection, MalformedError, Message
from vfio_migration.runtime.protocol import layout as protocol_layout

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the examples are little-endian")

DOC = Path(__file__).parents[3] / "docs" / "wire-layouts.md"
RW = vp.RegionFlags.READ | vp.RegionFlags.WRITE
RWM = RW | vp.RegionFlags.MMAP

SPARSE = vp.SparseMmap((vp.MmapArea(0x1000, 0x2000), vp.MmapArea(0x4000, 0x1000)))

EXAMPLES: dict[str, Message] = {
    "Version": vp.Version(
        0, 0, vp.Capabilities(max_msg_fds=8, twin_socket=vp.TwinSocket(supported=True))
    ),
    "Version without data": vp.Version(0, 0),
    "VersionReply": vp.VersionReply(
        0, 0, vp.Capabilities(max_msg_fds=16, twin_socket=vp.TwinSocket(True, 0))
    ),
    "DmaMap": vp.DmaMap(32, 3, 0x1000, 0x80000000, 0x200000),
    "DmaMapReply": vp.DmaMapReply(),
    "DmaUnmap": vp.DmaUnmap(24, 0, 0x80000000, 0x200000),
    "DmaUnmapReply": vp.DmaUnmapReply(24, 0, 0x80000000, 0x200000),
    "DeviceGetInfo": vp.DeviceGetInfo(),
    "DeviceGetInfoReply": vp.DeviceGetInfoReply(16, 3, 9, 5),
    "DeviceGetRegionInfo": vp.DeviceGetRegionInfo.asking(2, argsz=80),
    "DeviceGetRegionInfoReply": vp.DeviceGetRegionInfoReply(7, int(RW), 4096, 0),
    "DeviceGetRegionInfoReply with sparse areas": vp.DeviceGetRegionInfoReply(
        2, int(RWM), 0x8000, 0x100000, (SPARSE,)
    ),
    "DeviceGetRegionInfoReply with two capabilities": vp.DeviceGetRegionInfoReply(
        9,
        int(RWM),
        0x10000,
        0,
        (vp.RegionType(0x80008086, 1), vp.SparseMmap((vp.MmapArea(0, 0x1000),))),
    ),
    "DeviceGetRegionInfoReply that does not fit": vp.DeviceGetRegionInfoReply(
        2, int(RW), 0x8000, 0x100000, (), 48
    ),
    "DeviceGetRegionIoFds": vp.DeviceGetRegionIoFds(56, 0, 2, 0),
    "DeviceGetRegionIoFdsReply": vp.DeviceGetRegionIoFdsReply(
        2, (vp.SubRegion(0x1000, 4, 0, vp.IoFdType.IOEVENTFD, 1, 0xDEADBEEF),)
    ),
    "DeviceGetRegionIoFdsReply that does not fit": vp.DeviceGetRegionIoFdsReply(2, (), 2),
    "DeviceGetIrqInfo": vp.DeviceGetIrqInfo(16, 0, 2, 0),
    "DeviceGetIrqInfoReply": vp.DeviceGetIrqInfoReply(16, 9, 2, 16),
    "DeviceSetIrqs with descriptors": vp.DeviceSetIrqs(0x24, 2, 4, 3),
    "DeviceSetIrqs with booleans": vp.DeviceSetIrqs(0x0A, 2, 0, 3, b"\1\0\1"),
    "DeviceSetIrqs of all": vp.DeviceSetIrqs(0x21, 1, 0, 0),
    "DeviceSetIrqsReply": vp.DeviceSetIrqsReply(),
    "RegionRead": vp.RegionRead(16, 7, 4),
    "RegionReadReply": vp.RegionReadReply(16, 7, b"\xaa\xbb\xcc\xdd"),
    "RegionWrite": vp.RegionWrite(16, 7, b"\7\1"),
    "RegionWriteReply": vp.RegionWriteReply(16, 7, 2),
    "DmaRead": vp.DmaRead(0x80000000, 4),
    "DmaReadReply": vp.DmaReadReply(0x80000000, b"\xaa\xbb\xcc\xdd"),
    "DmaWrite": vp.DmaWrite(0x80000000, b"\7\1"),
    "DmaWriteReply": vp.DmaWriteReply(0x80000000, 2),
    "DmaWriteReply as the text has it, only taken": vp.DmaWriteReply(0x80000000, 2),
    "DeviceReset": vp.DeviceReset(),
    "DeviceResetReply": vp.DeviceResetReply(),
    "RegionWriteMulti": vp.RegionWriteMulti.of(
        vp.SingleWrite(16, 0, b"\1\2\3\4"), vp.SingleWrite(24, 2, b"\1\2\3\4\5\6\7\x08")
    ),
    "RegionWriteMultiReply": vp.RegionWriteMultiReply(2),
    "DeviceFeature probing": vp.DeviceFeature.asking(2, get=True, set_=True, probe=True),
    "DeviceFeatureReply to probing": vp.DeviceFeatureReply(8, 0x70002),
    "DeviceFeature getting MIGRATION": vp.DeviceFeature.asking(1, get=True, room=8),
    "DeviceFeatureReply with MIGRATION": vp.DeviceFeatureReply(
        16, 0x10001, vp.FeatureMigration(7).pack()
    ),
    "DeviceFeatureReply that does not fit": vp.DeviceFeatureReply(16, 0x10001),
    "DeviceFeature setting MIG_DEVICE_STATE": vp.DeviceFeature.asking(
        2, set_=True, data=vp.FeatureDeviceState(3).pack()
    ),
    "DeviceFeatureReply with MIG_DEVICE_STATE": vp.DeviceFeatureReply(
        16, 0x20002, vp.FeatureDeviceState(3).pack()
    ),
    "DeviceFeature setting DMA_LOGGING_START": vp.DeviceFeature.asking(
        6,
        set_=True,
        data=vp.DmaLoggingControl(4096, (vp.DmaLoggingRange(0x80000000, 0x100000),)).pack(),
    ),
    "DeviceFeature setting DMA_LOGGING_STOP": vp.DeviceFeature.asking(7, set_=True),
    "DeviceFeature getting DMA_LOGGING_REPORT": vp.DeviceFeature.asking(
        8, get=True, room=32, data=vp.DmaLoggingReport(0x80000000, 0x40000, 4096).pack()
    ),
    "DeviceFeatureReply with DMA_LOGGING_REPORT": vp.DeviceFeatureReply(
        40,
        0x10008,
        vp.DmaLoggingReport(0x80000000, 0x40000, 4096, bytes((5, 0, 0, 0, 0, 0, 0, 0x80))).pack(),
    ),
    "DeviceFeatureReply with MIG_DATA_SIZE": vp.DeviceFeatureReply(
        16, 0x10009, vp.MigDataSize(0x100000).pack()
    ),
    "MigDataRead": vp.MigDataRead.asking(0x10000),
    "MigDataReadReply": vp.MigDataReadReply(b"\xaa\xbb\xcc\xdd"),
    "MigDataWrite": vp.MigDataWrite.asking(b"\xaa\xbb\xcc\xdd"),
    "MigDataWriteReply": vp.MigDataWriteReply(),
    "MigPrecopyInfo": vp.MigPrecopyInfo(),
    "MigPrecopyInfoReply": vp.MigPrecopyInfoReply(24, 1, 0x100000, 0),
}
ONLY_TAKEN = "DmaWriteReply as the text has it, only taken"


def blocks() -> dict[str, bytes]:
    """The payloads in the document; offsets and sizes in it are compared on the way."""
    found: dict[str, bytes] = {}
    for name, body in re.findall(r"^```wire (.+)\n((?:.+\n)*?)```$", DOC.read_text("utf-8"), re.M):
        payload = b""
        *lines, size = body.splitlines()
        for line in lines:
            offset, data, what = line.split("|")
            assert int(offset) == len(payload), f"{name}: {line}"
            assert what.strip()
            payload += bytes.fromhex(data)
        assert int(size) == len(payload), name
        assert name not in found
        found[name] = payload
    return found


BLOCKS = blocks()


def test_every_example_is_in_the_document_and_the_other_way_round() -> None:
    assert sorted(BLOCKS) == sorted(EXAMPLES)


def test_every_message_has_an_example() -> None:
    kinds = {kind for both in vp.MESSAGES for kind in both}
    assert {type(message) for message in EXAMPLES.values()} == kinds


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_sent_and_taken_byte_by_byte(name: str) -> None:
    message, payload = EXAMPLES[name], BLOCKS[name]
    assert name.startswith(type(message).__name__)
    if name != ONLY_TAKEN:
        assert message.pack().hex(" ") == payload.hex(" ")
    fds = (3, 4, 5) if name == "DeviceSetIrqs with descriptors" else ()
    assert type(message).parse(payload, fds) == message
    assert type(message).parse(memoryview(payload), fds) == message


# libvfio-user fills what argsz has room for; what does not fit is not looked at.
ANY_LENGTH = {ONLY_TAKEN, "DeviceGetRegionInfoReply that does not fit"}

# A message that states how much of it counts may be padded.
PADDED = (
    vp.RegionReadReply,
    vp.DmaReadReply,
    vp.MigDataReadReply,
    vp.MigDataWrite,
    vp.DeviceGetRegionInfoReply,
    vp.DeviceGetRegionIoFdsReply,
)

PADDED_FORMS = ("DeviceSetIrqs with descriptors", "DeviceSetIrqs of all")


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - ANY_LENGTH))
def test_no_other_size_is_taken(name: str) -> None:
    """One byte less is refused, and one more, but where data goes to the end or is padded."""
    kind, payload = type(EXAMPLES[name]), BLOCKS[name]
    least = kind.layout.size
    for cut in range(least):
        if (kind, cut) != (vp.DmaWriteReply, 12):
            with pytest.raises(MalformedError) as caught:
                kind.parse(payload[:cut])
            assert caught.value.occasion == "size_wrong"
    row = load_wire().command(kind.number)
    assert row is not None
    padded = kind in PADDED or name in PADDED_FORMS
    if padded or (row.request_padding is not None and not kind.is_reply):
        assert kind.parse(payload + b"\xff") == kind.parse(payload)
    elif kind not in (vp.DeviceFeature, vp.DeviceFeatureReply, vp.Version, vp.VersionReply):
        with pytest.raises(MalformedError) as caught:
            kind.parse(payload + b"\0")
        assert caught.value.errno == "EINVAL"


def test_the_table_has_these_sizes() -> None:
    """The fixed parts of the table and of the code, command by command."""
    wire = load_wire()
    assert [row.number for row in wire.commands] == [command.number for command, _ in vp.MESSAGES]
    for row, (command, reply) in zip(wire.commands, vp.MESSAGES, strict=True):
        assert (command.name, reply.name) == (row.name, row.name)
        assert command.layout.size == row.request, row.name
        assert reply.layout.size == row.reply, row.name
        assert not command.is_reply
        assert reply.is_reply


def test_the_header() -> None:
    header = protocol_layout.HEADER
    assert header.size == 16
    assert header.pack(0x1234, 0x10, 0x18, 0x21, 0x16).hex(" ") == (
        "34 12 10 00 18 00 00 00 21 00 00 00 16 00 00 00"
    )
    assert (protocol_layout.TYPE_MASK, protocol_layout.TYPE_COMMAND) == (0xF, 0)
    assert (protocol_layout.TYPE_REPLY, protocol_layout.NO_REPLY) == (1, 0x10)
    assert protocol_layout.ERROR == 0x20


def test_whole_messages_as_they_go_out() -> None:
    """Header and payload together, from both sides, written by hand."""
    server, client = Connection("server"), Connection("client")
    [version] = server.receive(bytes(client.send_version()))
    client.receive(bytes(server.version_reply(version)))
    sent = client.send_command(vp.MigDataRead.asking(4))
    assert bytes(sent).hex(" ") == (
        "01 00 11 00 18 00 00 00 00 00 00 00 00 00 00 00 0c 00 00 00 04 00 00 00"
    )
    [command] = server.receive(bytes(sent))
    reply = server.send_reply(command, vp.MigDataReadReply(b"\xaa\xbb"))
    assert bytes(reply).hex(" ") == (
        "01 00 11 00 1a 00 00 00 01 00 00 00 00 00 00 00 0a 00 00 00 02 00 00 00 aa bb"
    )
    posted = client.send_command(vp.DeviceReset(), no_reply=True)
    assert bytes(posted).hex(" ") == "02 00 0d 00 10 00 00 00 10 00 00 00 00 00 00 00"
    sent = client.send_command(vp.DeviceReset())
    [_, command] = server.receive(bytes(posted) + bytes(sent))
    failed = server.send_error(command, "EIO")
    assert bytes(failed).hex(" ") == "03 00 0d 00 10 00 00 00 21 00 00 00 05 00 00 00"


def test_the_reply_to_qemus_version_has_room_in_its_buffer() -> None:
    """QEMU's proposal; its buffer for the reply is as long as that."""
    data = (
        b'{"capabilities": {"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, '
        b'"max_msg_fds": 16, "max_data_xfer_size": 1048576, "pgsizes": 4096, '
        b'"max_dma_maps": 65535, "write_multiple": true}}\0'
    )
    message = HEADER.pack(0, 1, 20 + len(data), 0, 0) + struct.pack("=HH", 0, 0) + data
    server = Connection("server")
    [command] = server.receive(message)
    reply = bytes(server.version_reply(command))
    assert len(reply) <= len(message)
    assert reply[-1] == 0
    assert b"twin_socket" not in reply
    assert b'"max_msg_fds":16' in reply
    assert b'"write_multiple":true' in reply
