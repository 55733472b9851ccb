"""Servers that we did not write, and what the specification does not let them do."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from client_support import (
    DMA_READ,
    DMA_WRITE,
    ERROR,
    FEATURE,
    GET_INFO,
    IO_FDS,
    MIG_READ,
    REGION_INFO,
    REGION_READ,
    REGION_WRITE,
    REPLY,
    RESET,
    SET_IRQS,
    VERSION,
    memfd,
    until,
)

from support.samples import sampled
from vfio_migration.runtime.client import (
    PeerDisconnectedError,
    PeerProtocolError,
    TimedOutError,
    calls,
)
from vfio_migration.runtime.protocol.messages.version import Limits

ANSWERS = {GET_INFO: struct.pack("=IIII", 16, 3, 9, 5)}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "version data"),
        (b'{"capabilities":[]}\0', "capabilities is no dict"),
        (b'{"capabilities":{"max_msg_fds":-1}}\0', "max_msg_fds is out of range"),
        (b'{"capabilities":{"max_msg_fds":"8"}}\0', "max_msg_fds is no int"),
        (b'{"capabilities":{"twin_socket":{"supported":true}}}\0', "without a descriptor"),
        (b" " * 5000, "over 4096"),
    ],
)
def test_a_version_that_makes_no_sense(foreign, data, why) -> None:
    def script(peer) -> None:
        peer.handshake(data=data)

    with pytest.raises(PeerProtocolError, match=why):
        foreign(script)


@pytest.mark.parametrize("major", [1, 0xFFFF])
def test_another_version(foreign, major) -> None:
    def script(peer) -> None:
        ident, _ = peer.expect(VERSION)
        peer.send(ident, VERSION, struct.pack("=HH", major, 0))

    with pytest.raises(PeerProtocolError, match=f"version {major}"):
        foreign(script)


def test_no_version(foreign) -> None:
    def script(peer) -> None:
        ident, _ = peer.expect(VERSION)
        peer.send(ident, VERSION, flags=REPLY | ERROR, errno=errno.EINVAL)

    with pytest.raises(
        PeerProtocolError, match=r"no version is agreed on: VERSION is refused \(EINVAL\)"
    ):
        foreign(script)


@pytest.mark.parametrize("what", ["file", "datagram"])
def test_a_twin_socket_that_is_none(foreign, what) -> None:
    import socket

    def script(peer) -> None:
        if what == "file":
            fd = memfd()
        else:
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            pair[1].close()
            fd = pair[0].detach()
        peer.handshake({"twin_socket": {"supported": True, "fd_index": 0}}, fds=[fd])
        os.close(fd)

    with pytest.raises(PeerProtocolError, match="the twin socket is not a "):
        foreign(script)


@sampled(3)
@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calls.info(), (GET_INFO, b"short", ())),
        (calls.info(), (GET_INFO, bytes(17), ())),
        (calls.info(), (RESET, b"", ())),
        (calls.reset(), (RESET, b"more", ())),
        (calls.region_info(0), (REGION_INFO, bytes(31), (0,))),
        (calls.region_info(0), (REGION_INFO, bytes(32), (0, 0))),
        (
            calls.region_info(0),
            (REGION_INFO, struct.pack("=IIIIQQ", 40, 15, 0, 99, 0, 0) + bytes(8), (0,)),
        ),
        (calls.region_io_fds(0), (IO_FDS, struct.pack("=IIII", 56, 0, 0, 2) + bytes(40), (0,))),
        (calls.region_read(0, 0, 4), (REGION_READ, struct.pack("=QII", 0, 0, 5) + b"aaaaa", ())),
        (calls.region_read(0, 0, 4), (REGION_READ, struct.pack("=QII", 0, 0, 4) + b"aaa", ())),
        (calls.region_read(0, 0, 4), (REGION_READ, struct.pack("=QII", 0, 0, 4) + b"aaaap", ())),
        (calls.data_read(4, len), (MIG_READ, struct.pack("=II", 12, 4) + b"aaaap", ())),
        (calls.data_read(4, len), (MIG_READ, struct.pack("=II", 12, 4) + b"aaa", ())),
        (
            calls.region_info(0, room=40),
            (REGION_INFO, struct.pack("=IIIIQQ", 32, 3, 0, 0, 0, 0) + bytes(16), ()),
        ),
        (calls.region_info(0), (REGION_INFO, struct.pack("=IIIIQQ", 31, 3, 0, 0, 0, 0), ())),
        (
            calls.region_io_fds(0, room=16),
            (IO_FDS, struct.pack("=IIII", 16, 0, 0, 0) + bytes(8), ()),
        ),
        (calls.capabilities(), (FEATURE, struct.pack("=IIQ", 16, 0x10001, 1) + bytes(8), ())),
        (calls.region_write(0, 0, b"ab"), (REGION_WRITE, struct.pack("=QII", 0, 0, 1), ())),
        (calls.data_read(4, len), (MIG_READ, struct.pack("=II", 13, 5) + b"aaaaa", ())),
        (calls.get_state(), (FEATURE, struct.pack("=II", 8, 0x10002), ())),
        (calls.capabilities(), (FEATURE, struct.pack("=III", 12, 0x10001, 1), ())),
        (
            calls.logging_report(0, 1 << 20, 4096),
            (FEATURE, struct.pack("=IIQQQQ", 40, 0x10008, 0, 1 << 20, 4096, 0), ()),
        ),
    ],
)
def test_a_reply_that_does_not_fit_ends_the_connection(foreign, call, answer) -> None:
    number, payload, fds = answer

    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
        ident, *_ = peer.read()
        peer.send(ident, number, payload, fds=fds)

    client = foreign(script)
    with pytest.raises(PeerProtocolError):
        client.do(call)
    assert isinstance(client.over, PeerProtocolError)
    with pytest.raises(PeerProtocolError):
        client.info()


@pytest.mark.parametrize("value", [8, 0xFFFFFFFF])
def test_a_state_that_the_table_does_not_know(foreign, value) -> None:
    def script(peer) -> None:
        peer.handshake({})
        peer.state(value)

    with pytest.raises(PeerProtocolError, match=f"state {value}, which the table does not know"):
        foreign(script).state()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (struct.pack("=HHIII", 0, 4, 15, 1, 0), "15 bytes"),
        (struct.pack("=HHIII", 0, 4, 1 << 30, 1, 0), "bytes; 16 to"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "bytes; 16 to"),
    ],
)
def test_a_message_without_bounds_ends_the_connection(foreign, message, why) -> None:
    def script(peer) -> None:
        peer.handshake({})
        peer.read()
        peer.raw(message)

    client = foreign(script)
    with pytest.raises(PeerProtocolError, match=why):
        client.info()


def test_too_many_descriptors_end_the_connection(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(REGION_INFO)
        peer.send(ident, REGION_INFO, struct.pack("=IIIIQQ", 32, 7, 0, 0, 0, 0), fds=[0] * 5)

    with pytest.raises(PeerProtocolError, match="descriptors"):
        foreign(script, limits=Limits(max_msg_fds=4)).region_info(0)


@pytest.mark.parametrize("ident", [0, 0x1234])
def test_replies_to_nothing_are_passed_over(foreign, ident) -> None:
    def script(peer) -> None:
        peer.handshake({})
        got, _ = peer.expect(GET_INFO)
        for wrong in (ident, (got + 1) & 0xFFFF):
            peer.send(wrong, GET_INFO, ANSWERS[GET_INFO], fds=[0])
        peer.send(got, GET_INFO, ANSWERS[GET_INFO])
        peer.send(got, GET_INFO, ANSWERS[GET_INFO])
        peer.state(2)

    client = foreign(script)
    assert client.info().num_irqs == 5
    assert client.state() == "RUNNING"


def test_commands_that_no_server_sends_are_refused(foreign) -> None:
    refused = []

    def script(peer) -> None:
        peer.send(1, DMA_READ, struct.pack("=QQ", 0, 4), flags=0)  # before the version
        ident, _ = peer.expect(VERSION)
        refused.append(peer.read())
        peer.send(ident, VERSION, bytes(4))
        got, _ = peer.expect(GET_INFO)
        peer.send(2, GET_INFO, bytes(16), flags=0, fds=[0])
        peer.send(3, DMA_WRITE, struct.pack("=QQ", 0, 99) + b"x", flags=0)
        peer.send(4, DMA_READ, struct.pack("=QQ", 0, 4), flags=0, fds=[0])
        for _ in range(3):
            refused.append(peer.read())
        peer.send(got, GET_INFO, ANSWERS[GET_INFO])

    assert foreign(script).info().num_irqs == 5
    assert [(ident, flags) for ident, _, flags, _ in refused] == [
        (ident, REPLY | ERROR) for ident in (1, 2, 3, 4)
    ]


def test_commands_on_the_wrong_socket_are_refused(foreign) -> None:
    refused = []

    def script(peer) -> None:
        twin = peer.twin({})
        got, _ = peer.expect(GET_INFO)
        peer.send(1, DMA_READ, struct.pack("=QQ", 0, 4), flags=0)
        twin.send(got, GET_INFO, ANSWERS[GET_INFO])  # no reply comes this way
        refused.append(peer.read())
        peer.send(got, GET_INFO, ANSWERS[GET_INFO])
        twin.until_hung()

    assert foreign(script).info().num_irqs == 5
    assert refused[0][2] == REPLY | ERROR


@pytest.mark.parametrize("socket", ["main", "twin"])
def test_a_server_that_hangs_up_is_reported(foreign, socket) -> None:
    def script(peer) -> None:
        twin = peer.twin({})
        peer.expect(GET_INFO)
        (peer if socket == "main" else twin).sock.close()
        (twin if socket == "main" else peer).until_hung()

    client = foreign(script)
    with pytest.raises(PeerDisconnectedError, match="the server closed its end"):
        client.info()


def test_a_server_that_does_not_answer(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})

    client = foreign(script)
    others = [client.begin(calls.info()) for _ in range(3)]
    with pytest.raises(TimedOutError, match="DEVICE_RESET is not answered"):
        client.do(calls.reset(), 0.05)
    for one in others:
        with pytest.raises(TimedOutError):
            client.finish(one)
    assert isinstance(client.over, TimedOutError)


def test_a_server_that_sends_and_does_not_answer(foreign) -> None:
    """Noise does not count as an answer: the timeout ends all the same."""

    def script(peer) -> None:
        peer.handshake({})
        while True:
            peer.send(0x7777, GET_INFO, bytes(16))

    client = foreign(script)
    with pytest.raises(TimedOutError):
        client.do(calls.info(), 0.2)


def test_a_posted_write_to_a_server_that_has_disconnected(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        peer.close()

    client = foreign(script)

    def ended() -> bool:
        try:
            client.region_write(0, 0, b"1", no_reply=True)
        except PeerDisconnectedError:
            return True
        return False

    until(ended)
    assert isinstance(client.over, PeerDisconnectedError)


def test_a_descriptor_that_is_none_is_the_callers_mistake(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
        peer.state(2)

    client = foreign(script)
    for call in (calls.dma_map(0, 4096, fd=999), calls.set_irqs(0x24, 0, fds=[-1])):
        with pytest.raises(OSError, match="Bad file descriptor"):
            client.do(call)
    assert client.state() == "RUNNING"


def test_interrupts_need_descriptors(foreign) -> None:
    from vfio_migration.runtime.client.interrupts import Vectors

    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 0})

    client = foreign(script)
    vectors = Vectors(0, 1)
    with pytest.raises(ValueError, match="takes no descriptors"):
        vectors.giving(client.max_fds)
    vectors.close()
    assert SET_IRQS == 8
