"""The connection: who may state what when, and what it is answered."""

from __future__ import annotations

import struct

import pytest
from protocol_support import HEADER, HOSTILE, RESET, VERSION, agreed, pair, raw, wire

import vfio_migration.runtime.protocol as vp
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.protocol import CannotSendError, Connection, Limits
from vfio_migration.runtime.protocol.connection import _ANSWERS


def fault(connection: Connection, message: bytes) -> vp.ProtocolFault:
    [event] = connection.receive(message)
    assert isinstance(event, vp.ProtocolFault)
    return event


def answer(errno: int, number: int, ident: int = 1) -> bytes:
    return HEADER.pack(ident, number, 16, 0x21, errno)


# --- Negotiation ----------------------------------------------------------------------------------


def test_two_connections_agree() -> None:
    server, client = pair()
    assert server.agreed == client.agreed
    assert server.agreed is not None
    assert server.agreed.write_multiple
    assert not server.agreed.twin_socket
    assert server.peer == Limits()
    assert client.peer.max_msg_fds == 16


def test_a_client_that_sends_few_limits_gets_few() -> None:
    server = Connection("server")
    [command] = server.receive(raw(1, b"\0\0\0\0"))
    assert bytes(server.version_reply(command)) == raw(1, b"\0\0\0\0", flags=1)
    assert server.peer.max_msg_fds == 1
    server = Connection("server")
    [command] = server.receive(raw(1, b'\0\0\7\0{"capabilities":{"pgsizes":4096}}'))
    reply = bytes(server.version_reply(command))
    assert reply == raw(1, b'\0\0\0\0{"capabilities":{"pgsizes":4096}}\0', flags=1)


def test_what_comes_right_behind_version_is_served() -> None:
    server = Connection("server")
    events = server.receive(VERSION + RESET + raw(15, struct.pack("=Q", 0)))
    assert [type(event.message).__name__ for event in events] == [
        "Version",
        "DeviceReset",
        "RegionWriteMulti",
    ]


def test_version_first_and_once() -> None:
    server = Connection("server")
    event = fault(server, RESET)
    assert (event.occasion, event.errno, event.fatal) == ("version_first", "EINVAL", False)
    assert bytes(event.reply) == answer(22, 13)
    [command] = server.receive(VERSION)
    server.version_reply(command)
    event = fault(server, VERSION)
    assert (event.occasion, event.fatal) == ("version_again", False)
    assert server.receive(RESET)[0].message == vp.DeviceReset()


@pytest.mark.parametrize(
    "payload", [b"\1\0\0\0", b"\xff\xff\0\0", b"\0\0\0\0{", b"\0\0\0\0[]\0", b"\0\0\0\0\xff"]
)
def test_a_version_that_cannot_be_is_answered_and_ends_it(payload: bytes) -> None:
    server = Connection("server")
    event = fault(server, raw(1, payload) + RESET)
    assert (event.occasion, event.errno, event.fatal) == ("version_incompatible", "EINVAL", True)
    assert bytes(event.reply) == answer(22, 1)
    assert server.closed
    assert server.receive(RESET) == []


def test_a_higher_minor_version_is_answered_with_ours() -> None:
    server = Connection("server")
    [command] = server.receive(raw(1, b"\0\0\x63\0"))
    assert bytes(server.version_reply(command))[16:] == b"\0\0\0\0"


@pytest.mark.parametrize(
    "payload",
    [
        b"\1\0\0\0",
        b"\0\0\1\0",
        b"\0\0\0\0{",
        b'\0\0\0\0{"capabilities":{"twin_socket":{"supported":true}}}\0',
        b'\0\0\0\0{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}\0',
        b"\0\0",
    ],
)
def test_a_client_gives_up_on_such_a_reply(payload: bytes) -> None:
    client = Connection("client")
    client.send_version()
    [reply] = client.receive(raw(1, payload, ident=0, flags=1))
    assert isinstance(reply, vp.Reply)
    assert (reply.failed, reply.errno, reply.message) == (False, None, None)
    assert reply.why
    assert client.closed


def test_a_client_that_is_refused_learns_why() -> None:
    client = Connection("client")
    client.send_version()
    [reply] = client.receive(answer(22, 1, 0))
    assert (reply.errno, reply.code, client.agreed) == ("EINVAL", 22, None)
    with pytest.raises(CannotSendError, match="before VERSION"):
        client.send_command(vp.DeviceReset())


# --- Every occasion, with its answer --------------------------------------------------------------


@pytest.mark.parametrize("occasion", HOSTILE)
def test_every_occasion_is_answered_as_the_table_states(occasion: str) -> None:
    make, message, errno = HOSTILE[occasion]
    connection = make()
    event = fault(connection, message)
    row = load_wire().answer(occasion)
    assert row is not None
    assert (event.occasion, event.errno) == (occasion, row.errno)
    assert event.fatal == connection.closed == (row.outcome == "closes")
    assert bytes(event.reply) == answer(errno, event.number)
    assert event.why
    again = connection.receive(RESET)
    assert (again == []) == event.fatal


@pytest.mark.parametrize("occasion", HOSTILE)
def test_nothing_is_answered_to_who_wants_no_reply(occasion: str) -> None:
    make, message, _ = HOSTILE[occasion]
    quiet = bytearray(message)
    quiet[8] |= 0x10
    event = fault(make(), bytes(quiet))
    assert (event.occasion, event.reply) == (occasion, None)


def test_the_occasions_of_the_protocol_have_rows_in_this_order() -> None:
    """What the code looks at first must be what the table has first."""
    order = [
        *("size_below_header", "size_over_limit", "fds_over_limit", "reply_unasked"),
        *("type_unknown", "command_unknown", "wrong_direction", "version_first", "version_again"),
        *("not_negotiated", "size_wrong", "over_bound", "flags_unknown", "version_incompatible"),
        "argument_invalid",
    ]
    assert [when for when in _ANSWERS if when in order] == order
    assert _ANSWERS["reply_unasked"].outcome == "ignored"


@pytest.mark.parametrize(
    ("message", "occasion"),
    [
        (raw(11, b"1"), "wrong_direction"),  # and version_first, and size_wrong
        (raw(99, flags=3), "type_unknown"),  # and command_unknown
        (raw(15, b"1"), "version_first"),  # and not_negotiated, and size_wrong
        (raw(10, size=2**32 - 1), "size_over_limit"),  # and version_first
    ],
)
def test_the_first_row_that_holds_decides(message: bytes, occasion: str) -> None:
    assert fault(Connection("server"), message).occasion == occasion


def test_a_reply_nobody_asked_for_is_passed_over() -> None:
    server = agreed()
    event = fault(server, raw(12, bytes(16), flags=1))
    assert (event.occasion, event.errno, event.reply) == ("reply_unasked", None, None)
    assert not server.closed


def test_bits_that_mean_nothing_are_not_looked_at() -> None:
    server = agreed()
    [command] = server.receive(raw(13, flags=0xFFFFFFE0, code=5))
    assert command.message == vp.DeviceReset()
    assert not command.no_reply


@pytest.mark.parametrize(
    ("message", "occasion"),
    [
        (raw(10, struct.pack("=QII", 0, 0, 65536) + bytes(65536)), None),
        (raw(10, struct.pack("=QII", 0, 0, 65537) + bytes(65537)), "size_over_limit"),
        (raw(18, struct.pack("=II", 0, 65536) + bytes(65536)), None),
        (raw(18, struct.pack("=II", 0, 65537) + bytes(65537)), "over_bound"),
        (raw(9, struct.pack("=QII", 0, 0, 65536)), None),
        (raw(9, struct.pack("=QII", 0, 0, 65537)), "over_bound"),
        (raw(17, struct.pack("=II", 2**32 - 1, 65536)), None),
        (raw(17, struct.pack("=II", 2**32 - 1, 65537)), "over_bound"),
        (raw(15, struct.pack("=Q", 2730) + bytes(24 * 2730)), None),
        (raw(15, struct.pack("=Q", 2731) + bytes(24 * 2731)), "over_bound"),
        (raw(15, struct.pack("=Q", 2732) + bytes(24 * 2732)), "size_over_limit"),
        (raw(16, struct.pack("=II", 8, 0x20006) + bytes(4112)), None),
        (raw(16, struct.pack("=II", 8, 0x20006) + bytes(4113)), "over_bound"),
        (raw(8, struct.pack("=IIIII", 2105, 0x22, 2, 0, 2085) + bytes(2085)), None),
        (raw(8, struct.pack("=IIIII", 2106, 0x22, 2, 0, 2086) + bytes(2086)), "over_bound"),
    ],
)
def test_each_bound_to_the_byte(message: bytes, occasion: str | None) -> None:
    server = agreed(Limits(max_data_xfer_size=65536))
    assert server.largest == 16 + 16 + 65536
    [event] = server.receive(message)
    assert getattr(event, "occasion", None) == occasion


def test_the_longest_message_is_the_tables() -> None:
    assert Connection("server").largest == load_wire().largest_request
    assert Connection("client").largest >= load_wire().largest_reply


# --- Replies --------------------------------------------------------------------------------------


def test_one_reply_to_each_command() -> None:
    server = agreed()
    one, two = server.receive(RESET + RESET)  # the same id twice, as the text allows
    assert server.unanswered == 2
    server.send_reply(one, vp.DeviceResetReply())
    with pytest.raises(CannotSendError, match="answered already"):
        server.send_reply(one, vp.DeviceResetReply())
    with pytest.raises(CannotSendError, match="answered already"):
        server.send_error(one, "EIO")
    assert bytes(server.send_error(two, 5)) == answer(5, 13)
    assert server.unanswered == 0


def test_no_reply_to_who_wants_none() -> None:
    server = agreed()
    [command] = server.receive(raw(13, flags=0x10))
    assert server.send_reply(command, vp.DeviceResetReply()) is None
    assert server.send_error(command, "EIO") is None
    assert server.unanswered == 0


@pytest.mark.parametrize(
    "message", [vp.DeviceReset(), vp.DeviceGetInfoReply(), vp.DeviceGetInfo(), vp.DmaMapReply()]
)
def test_a_reply_fits_its_command(message: vp.Message) -> None:
    server = agreed()
    [command] = server.receive(RESET)
    with pytest.raises(CannotSendError, match="not a reply to command 13"):
        server.send_reply(command, message)


@pytest.mark.parametrize("errno", [0, -1, 2**32])
def test_an_error_has_its_errno(errno: int) -> None:
    server = agreed()
    [command] = server.receive(RESET)
    with pytest.raises(CannotSendError, match="not an errno"):
        server.send_error(command, errno)
    with pytest.raises(ValueError, match="not an errno"):
        server.send_error(command, "ENOSUCH")


def test_long_data_goes_out_as_the_object_it_is() -> None:
    server = agreed()
    data = memoryview(bytearray(65536))
    [command] = server.receive(wire(vp.MigDataRead.asking(65536)))
    reply = server.send_reply(command, vp.MigDataReadReply(data))
    assert len(reply.parts) == 2
    assert reply.parts[1] is data
    assert len(reply) == 24 + 65536


def test_no_more_goes_out_than_one_message_may_carry() -> None:
    server = agreed(Limits(max_data_xfer_size=4096))
    [command] = server.receive(wire(vp.DeviceFeature.asking(8, get=True, room=8192)))
    with pytest.raises(CannotSendError, match="too many"):
        server.send_reply(command, vp.DeviceFeatureReply.got(command.message, bytes(4097)))
    assert server.send_error(command, "E2BIG") is not None


SPARSE = vp.DeviceGetRegionInfoReply(
    0, 7, 4096, 0, (vp.SparseMmap((vp.MmapArea(0, 4096),)), vp.RegionType(1, 2))
)


@pytest.mark.parametrize("argsz", [*range(32, 96, 7), 79, 80, 81, 2**32 - 1])
def test_a_region_reply_has_the_mmap_flag_and_a_descriptor_only_if_all_of_it_fits(
    argsz: int,
) -> None:
    server, client = pair()
    sent = client.send_command(vp.DeviceGetRegionInfo.asking(0, argsz=argsz))
    [command] = server.receive(bytes(sent))
    outgoing = server.send_reply(command, SPARSE, (0,))
    assert outgoing.fds == ((0,) if argsz >= 80 else ())
    out = bytes(outgoing)
    [reply] = client.receive(out)
    assert SPARSE.argsz == 80
    assert reply.message.argsz == 80
    if argsz >= 80:
        assert len(out) == 16 + 80
        assert reply.message == SPARSE
    else:
        assert len(out) == 16 + 32
        assert (reply.message.capabilities, reply.message.flags) == ((), 3)


def test_parts_of_a_region_that_do_not_fit_come_without_descriptors() -> None:
    server = agreed()
    parts = vp.DeviceGetRegionIoFdsReply(0, (vp.SubRegion(0, 4, 0, 0),) * 2)
    for argsz, size, fds in ((95, 16, ()), (96, 96, (0,))):
        [command] = server.receive(wire(vp.DeviceGetRegionIoFds(argsz, 0, 0, 0)))
        reply = server.send_reply(command, parts, (0,))
        assert (len(reply), reply.fds) == (16 + size, fds)
        assert bytes(reply)[16:20] == struct.pack("=I", 96)


def test_data_of_a_feature_that_does_not_fit() -> None:
    server = agreed()
    [command] = server.receive(wire(vp.DeviceFeature(8, 0x10001)))
    reply = server.send_reply(command, vp.DeviceFeatureReply.got(command.message, bytes(8)))
    assert bytes(reply)[16:] == struct.pack("=II", 16, 0x10001)
    [command] = server.receive(wire(vp.DeviceFeature(8, 0x20002, bytes(8))))
    reply = server.send_reply(command, vp.DeviceFeatureReply.echo(command.message))
    assert bytes(reply)[16:] == struct.pack("=II", 8, 0x20002) + bytes(8)


# --- Commands of this side ------------------------------------------------------------------------


def test_the_server_reads_and_writes_memory_of_the_client() -> None:
    server, client = pair()
    read = server.send_command(vp.DmaRead(4096, 4))
    write = server.send_command(vp.DmaWrite(8192, b"1234"))
    assert server.waiting == 2
    first, second = client.receive(bytes(read) + bytes(write))
    assert first.message == vp.DmaRead(4096, 4)
    assert bytes(second.message.data) == b"1234"
    done = client.send_reply(second, vp.DmaWriteReply(8192, 4))
    data = client.send_reply(first, vp.DmaReadReply(4096, b"abcd"))
    one, two = server.receive(bytes(done) + bytes(data))  # in any order: the id decides
    assert (one.id, one.message, one.command) == (1, vp.DmaWriteReply(8192, 4), second.message)
    assert (two.id, bytes(two.message.data)) == (0, b"abcd")
    assert server.waiting == 0


@pytest.mark.parametrize(
    ("command", "number", "payload"),
    [
        (vp.DmaRead(0, 4), 11, struct.pack("=QQ", 0, 5) + b"12345"),  # more than asked for
        (vp.DmaRead(0, 4), 11, struct.pack("=QQ", 0, 4) + b"123"),
        (vp.DmaRead(0, 4), 12, struct.pack("=QQ", 0, 4)),  # to another command
        (vp.DmaWrite(0, b"12"), 12, struct.pack("=QQ", 0, 3)),
        (vp.DmaWrite(0, b"12"), 12, b"1"),
        (vp.DmaWrite(0, b"12"), 99, b""),
    ],
)
def test_a_reply_that_does_not_fit_fails_the_command_it_answers(
    command: vp.Message, number: int, payload: bytes
) -> None:
    server = agreed()
    server.send_command(command)
    [reply] = server.receive(raw(number, payload, ident=0, flags=1))
    assert (reply.command, reply.errno, reply.message) == (command, None, None)
    assert not reply.failed
    assert reply.why
    assert server.waiting == 0
    assert not server.closed


@pytest.mark.parametrize("payload", [b"", struct.pack("=QI", 7, 2), struct.pack("=QQ", 7, 2)])
def test_every_way_peers_acknowledge_a_write(payload: bytes) -> None:
    server = agreed()
    server.send_command(vp.DmaWrite(7, b"12"))
    [reply] = server.receive(raw(12, payload, ident=0, flags=1))
    assert reply.message == vp.DmaWriteReply(7, 2)


@pytest.mark.parametrize(
    ("code", "errno"), [(0, None), (22, "EINVAL"), (14, "EFAULT"), (2**32 - 1, None)]
)
def test_errors_in_replies(code: int, errno: str | None) -> None:
    server = agreed()
    server.send_command(vp.DmaRead(0, 4))
    [reply] = server.receive(HEADER.pack(0, 11, 16, 0x21, code))
    assert (reply.failed, reply.errno, reply.code, reply.message) == (True, errno, code, None)
    assert not reply.why


def test_no_more_commands_wait_than_the_table_allows() -> None:
    server = agreed()
    for _ in range(16):
        assert server.may_send
        server.send_command(vp.DmaRead(0, 4))
    assert not server.may_send
    with pytest.raises(CannotSendError, match="too many"):
        server.send_command(vp.DmaRead(0, 4))
    server.receive(answer(5, 11, 3))
    assert server.send_command(vp.DmaRead(0, 4)).id == 16


def test_ids_come_round_and_pass_over_those_in_use() -> None:
    _, client = pair()
    first = client.send_command(vp.DeviceReset())
    seen = {client.send_command(vp.DeviceReset(), no_reply=True).id for _ in range(0x10000)}
    assert first.id not in seen
    assert len(seen) == 0xFFFF


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (vp.DeviceReset(), "not a command of the server"),
        (vp.DmaReadReply(0, b""), "not a command of the server"),
        (vp.DmaRead(0, 4097), "the peer takes 4096"),
        (vp.DmaWrite(0, bytes(4097)), "the peer takes 4096"),
        (vp.DmaRead(-1, 4), "argument out of range|required argument|format requires"),
    ],
)
def test_what_the_server_may_not_send(message: vp.Message, why: str) -> None:
    server = Connection("server")
    [command] = server.receive(raw(1, b'\0\0\0\0{"capabilities":{"max_data_xfer_size":4096}}\0'))
    server.version_reply(command)
    with pytest.raises(CannotSendError, match=why):
        server.send_command(message)
    assert server.waiting == 0


def test_what_the_client_may_not_send() -> None:
    _, client = pair(Limits(write_multiple=False))
    with pytest.raises(CannotSendError, match="after VERSION"):
        client.send_version()
    with pytest.raises(CannotSendError, match="not agreed on"):
        client.send_command(vp.RegionWriteMulti.of())
    with pytest.raises(CannotSendError, match="not a command of the client"):
        client.send_command(vp.DmaRead(0, 4))
    with pytest.raises(CannotSendError, match="descriptors"):
        client.send_command(vp.DeviceReset(), fds=(0,))
    with pytest.raises(CannotSendError, match="descriptors"):
        client.send_command(vp.DmaMap.asking(0, 4096, flags=3), fds=(0, 0))
    client.close()
    with pytest.raises(CannotSendError, match="closed"):
        client.send_command(vp.DeviceReset())


# --- The twin socket ------------------------------------------------------------------------------


def test_commands_of_the_server_go_over_the_twin_and_nowhere_else() -> None:
    server = Connection("server")
    client = Connection("client")
    [command] = server.receive(bytes(client.send_version()))
    out = server.version_reply(command, twin_fd=0)
    assert out.fds == (0,)
    [reply] = client.receive(bytes(out), (1000,))
    assert reply.fds == (1000,)
    assert reply.message.capabilities.twin_socket == vp.TwinSocket(True, 0)
    ours, theirs = server.twin(), client.twin()
    with pytest.raises(CannotSendError, match="other socket"):
        server.send_command(vp.DmaRead(0, 4))
    with pytest.raises(CannotSendError, match="other socket"):
        theirs.send_command(vp.DeviceReset())
    sent = bytes(ours.send_command(vp.DmaRead(0, 4)))
    assert fault(client, sent).occasion == "wrong_direction"
    [command] = theirs.receive(sent)
    assert command.message == vp.DmaRead(0, 4)
    assert fault(ours, RESET).occasion == "wrong_direction"
    assert server.receive(RESET)[0].message == vp.DeviceReset()


def test_no_twin_unless_agreed_on() -> None:
    server, client = pair()
    for connection in (server, client, Connection("server")):
        with pytest.raises(CannotSendError, match="no twin socket"):
            connection.twin()
    server = Connection("server")
    [command] = server.receive(VERSION)
    with pytest.raises(CannotSendError, match="has not asked"):
        server.version_reply(command, twin_fd=0)
