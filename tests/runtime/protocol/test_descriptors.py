"""Descriptors: which message gets them, who closes them, and that none is lost."""

from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import (
    COMMANDS,
    MESSAGE,
    VERSION,
    agreed,
    files,
    no_leak,
    pair,
    raw,
    wire,
)

import vfio_migration.runtime.protocol as vp
from support.examples import examples
from support.samples import sampled
from vfio_migration.runtime.protocol import CannotSendError, Connection, Limits

MAP = wire(vp.DmaMap.asking(0, 4096, flags=3))
INFO = wire(vp.DeviceGetInfo())


def irqs(count: int) -> bytes:
    return wire(vp.DeviceSetIrqs(0x24, 2, 0, count))


def close(events: list[vp.Event]) -> None:
    for event in events:
        if isinstance(event, vp.Command | vp.Reply):
            for fd in event.fds:
                os.close(fd)


@pytest.mark.parametrize("cut", range(len(MAP)))
def test_they_may_come_with_any_piece(cut: int) -> None:
    with no_leak():
        [fd] = files(1)
        server = agreed()
        assert server.receive(MAP[:cut]) == []
        [event] = server.receive(MAP[cut:], [fd])
        assert event.fds == (fd,)
        os.close(fd)
        [fd] = files(1)
        assert server.receive(MAP[: cut + 1], [fd])[:0] == []
        if cut + 1 < len(MAP):
            [event] = server.receive(MAP[cut + 1 :])
            assert event.fds == (fd,)
        os.close(fd)


def test_they_may_come_in_several_pieces() -> None:
    with no_leak():
        fds = files(3)
        server = agreed()
        message = irqs(3)
        server.receive(message[:4], fds[:1])
        server.receive(message[4:30], fds[1:2])
        [event] = server.receive(message[30:], fds[2:])
        assert event.fds == fds
        close([event])


@pytest.mark.parametrize(
    ("pieces", "owner"),
    [
        ((INFO, MAP), 1),
        ((MAP, MAP), 1),  # a read ends behind the message that has them
        ((MAP, INFO), 0),  # unless a peer sends both at once
        ((INFO, MAP, INFO, INFO), 1),
        ((MAP, INFO[:20]), 0),
        ((INFO, irqs(1)), 1),
    ],
)
def test_of_several_messages_the_last_that_takes_them(
    pieces: tuple[bytes, ...], owner: int
) -> None:
    with no_leak():
        [fd] = files(1)
        events = agreed().receive(b"".join(pieces), [fd])
        assert [event.fds for event in events] == [
            (fd,) if index == owner else () for index in range(len(events))
        ]
        os.close(fd)


def test_of_a_header_that_has_only_begun() -> None:
    with no_leak():
        [fd] = files(1)
        server = agreed()
        assert len(server.receive(MAP + MAP[:3], [fd])) == 1
        [event] = server.receive(MAP[3:])
        assert event.fds == (fd,)
        os.close(fd)


@sampled(3)
@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("count", [1, 2, 16])
@given(data=st.data())
@examples(5)
def test_descriptors_a_command_has_no_use_for_are_closed_and_the_command_is_served(
    kind: type[vp.Message], count: int, data: st.DataObject
) -> None:
    message = data.draw(MESSAGE[kind])
    takes = {vp.DmaMap: 1, vp.DeviceSetIrqs: 0}.get(kind, 0)
    if kind is vp.DeviceSetIrqs and message.flags & vp.IrqSetFlags.DATA_EVENTFD:
        takes = message.count if message.count <= count else -1  # too few: see below
    with no_leak():
        server = agreed()
        fds = files(count)
        [event] = server.receive(wire(message), fds)
        if takes < 0:
            assert event.occasion == "argument_invalid"
        else:
            assert isinstance(event, vp.Command), event
            assert event.fds == fds[:takes]
            close([event])


def test_descriptors_that_come_with_version_are_closed_and_it_is_served() -> None:
    with no_leak():
        [event] = Connection("server").receive(VERSION, files(3))
        assert isinstance(event, vp.Command)
        assert event.fds == ()


def test_fewer_descriptors_than_interrupts_are_closed_and_refused() -> None:
    with no_leak():
        server = agreed()
        [event] = server.receive(irqs(2), files(1))
        assert (event.occasion, event.errno, event.fatal) == ("argument_invalid", "EINVAL", False)
        assert event.reply is not None
        assert isinstance(server.receive(INFO)[0], vp.Command)


def test_a_map_does_not_get_the_descriptor_of_the_unmap_behind_it() -> None:
    """SPDK's client sends the descriptor of a region again to unmap it."""
    unmap = wire(vp.DmaUnmap.asking(0x1000, 4096))
    with no_leak():
        events = agreed().receive(MAP + unmap, files(1))
        assert [event.fds for event in events] == [(), ()]


@pytest.mark.parametrize("cut", [0, 3, 16, 40])
def test_more_than_agreed_end_the_connection(cut: int) -> None:
    with no_leak():
        server = agreed()
        server.receive(MAP[:cut], files(1) if cut else ())
        assert server.fd_room == 17
        [event] = server.receive(MAP[cut:] + INFO, files(17))
        assert (event.occasion, event.errno, event.fatal) == ("fds_over_limit", "EINVAL", True)
        assert server.closed
        assert server.receive(INFO, files(2)) == []


def test_too_many_in_several_pieces_end_it_too() -> None:
    with no_leak():
        server = agreed()
        message = irqs(17)
        assert server.receive(message[:10], files(10)) == []
        [event] = server.receive(message[10:20], files(7))
        assert (event.occasion, event.fatal) == ("fds_over_limit", True)


def test_sixteen_are_not_too_many() -> None:
    with no_leak():
        server = agreed()
        [event] = server.receive(irqs(16), files(16))
        assert len(event.fds) == 16
        close([event])


def test_without_a_header_there_is_nobody_to_answer() -> None:
    with no_leak():
        [event] = agreed().receive(b"1", files(17))
        assert (event.id, event.number, event.reply, event.fatal) == (None, None, None, True)


def test_close_closes_what_no_event_got() -> None:
    with no_leak():
        server = agreed()
        assert server.receive(MAP[:20], files(1)) == []
        server.close()
        server.close()
        assert server.receive(b"", files(1)) == []
        assert server.receive(MAP, files(1)) == []
        server.get_buffer()[:1] = b"1"
        assert server.buffer_updated(1, files(1)) == []


def test_a_connection_that_ends_before_the_message_they_came_with() -> None:
    with no_leak():
        events = agreed().receive(raw(13, size=3) + MAP, files(1))
        assert [event.fatal for event in events] == [True]
        events = agreed().receive(INFO + raw(13, size=2**31) + MAP, files(1))
        assert len(events) == 2
        close(events)
        server = Connection("server")
        events = server.receive(raw(1, b"\7\0\0\0") + MAP, files(1))
        assert [event.occasion for event in events] == ["version_incompatible"]


def test_a_descriptor_that_cannot_be_closed_does_no_harm() -> None:
    [fd] = files(1)
    os.close(fd)
    [event] = agreed().receive(INFO, [fd])
    assert (type(event), event.fds) == (vp.Command, ())


def test_with_replies() -> None:
    with no_leak():
        server, client = pair()
        sent = client.send_command(vp.DeviceGetRegionInfo.asking(0))
        [command] = server.receive(bytes(sent))
        [fd] = files(1)
        reply = server.send_reply(command, vp.DeviceGetRegionInfoReply(0, 7, 4096, 0), (fd,))
        assert reply.fds == (fd,)
        [event] = client.receive(bytes(reply), [os.dup(fd)])
        assert len(event.fds) == 1
        close([event])
        client.send_command(vp.DeviceGetRegionInfo.asking(0))
        [event] = client.receive(b"\2" + bytes(reply)[1:], files(2))
        assert (event.message, event.fds) == (None, ())
        assert event.why == "2 descriptors"
        [event] = client.receive(bytes(reply), files(1))  # nobody waits for it any more
        assert event.occasion == "reply_unasked"
        os.close(fd)


def test_no_more_are_sent_than_the_peer_takes() -> None:
    server = Connection("server")
    [command] = server.receive(raw(1, b'\0\0\0\0{"capabilities":{"max_msg_fds":2}}\0'))
    server.version_reply(command)
    [command] = server.receive(wire(vp.DeviceGetRegionIoFds(4096, 0, 0, 0)))
    parts = vp.DeviceGetRegionIoFdsReply(0, (vp.SubRegion(0, 4, 0, 0),))
    with pytest.raises(CannotSendError, match="takes 2"):
        server.send_reply(command, parts, (0, 1, 2))
    assert server.send_reply(command, parts, (0, 1)).fds == (0, 1)
    [command] = server.receive(raw(13))
    with pytest.raises(CannotSendError, match="takes 0"):
        server.send_reply(command, vp.DeviceResetReply(), (0,))


def test_a_client_that_takes_none() -> None:
    server = Connection("server", Limits(max_msg_fds=1))
    [command] = server.receive(raw(1, b'\0\0\0\0{"capabilities":{"max_msg_fds":0}}\0'))
    server.version_reply(command)
    [command] = server.receive(wire(vp.DeviceGetRegionInfo.asking(0)))
    with pytest.raises(CannotSendError):
        server.send_reply(command, vp.DeviceGetRegionInfoReply(0, 7, 4096, 0), (0,))


def test_over_a_real_socket_each_message_has_its_own() -> None:
    """Linux ends a read behind a message that has descriptors: what this rests on."""
    with no_leak():
        ours, theirs = socket.socketpair()
        server = agreed()
        sent = [files(n) for n in (1, 0, 1, 3, 0, 1)]
        for fds in sent:
            message = INFO if not fds else MAP if len(fds) == 1 else irqs(3)
            socket.send_fds(theirs, [message], list(fds))
        theirs.close()
        events: list[vp.Event] = []
        while True:
            data, fds, flags, _ = socket.recv_fds(ours, 65536, server.fd_room)
            assert not flags & socket.MSG_CTRUNC
            if not data:
                break
            events += server.receive(data, fds)
        ours.close()
        assert [len(event.fds) for event in events] == [1, 0, 1, 3, 0, 1]
        inode = [[os.fstat(fd).st_ino for fd in fds] for fds in sent]
        assert [[os.fstat(fd).st_ino for fd in event.fds] for event in events] == inode
        close(events)
        for fds in sent:
            for fd in fds:
                os.close(fd)


PIECES = st.lists(
    st.tuples(
        st.sampled_from([MAP, INFO, irqs(2), raw(13), MAP[:20], raw(99), VERSION, raw(13, size=3)]),
        st.integers(0, 18),
    ),
    max_size=8,
)


@examples(200)
@given(PIECES, st.integers(1, 60), st.booleans())
def test_none_is_lost(pieces: list[tuple[bytes, int]], step: int, buffered: bool) -> None:
    """Each descriptor handed in is in exactly one event, or was closed exactly once."""
    closed: list[int] = []
    server = Connection("server", close_fd=closed.append)
    events = server.receive(VERSION)
    given_in = 0
    for data, count in [*pieces, (struct.pack("=I", 7), 1)]:
        for start in range(0, len(data), step):
            fds = tuple(range(given_in, given_in + count)) if start == 0 else ()
            given_in += len(fds)
            part = data[start : start + step]
            if buffered:
                server.get_buffer()[: len(part)] = part
                events += server.buffer_updated(len(part), fds)
            else:
                events += server.receive(part, fds)
    server.close()
    owned = [fd for event in events if isinstance(event, vp.Command) for fd in event.fds]
    assert sorted(closed + owned) == list(range(given_in))
