"""Servers that we did not write: what the specification lets them do, and what it does not."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from client_support import (
    DMA_MAP,
    DMA_READ,
    DMA_WRITE,
    ERROR,
    FEATURE,
    GET_INFO,
    IO_FDS,
    MIG_READ,
    NO_REPLY,
    REGION_INFO,
    REGION_READ,
    REGION_WRITE,
    REPLY,
    RESET,
    SET_IRQS,
    VERSION,
    attach,
    memfd,
    until,
)

from vfio_migration.runtime.client import (
    AddressSpace,
    PeerBroke,
    PeerGone,
    Refused,
    SharedMemory,
    TimedOut,
    Window,
    calls,
)
from vfio_migration.runtime.protocol import CannotSend
from vfio_migration.runtime.protocol.version import Limits

ANSWERS = {GET_INFO: struct.pack("=IIII", 16, 3, 9, 5)}

# --- what it may do ---


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"{}",
        b"{}\0",
        b'{"capabilities":{}}\0',
        b'{"capabilities":{"max_msg_fds":0}}\0',
        b'{"capabilities":{"max_msg_fds":1,"migration":{"pgsize":4096}}, "vendor":[1]}\0\0',
        b'  {"capabilities": {"max_data_xfer_size": 16, "pgsizes": 4096}}\n',
        b'{"capabilities":{"twin_socket":{"supported":false}}}\0',
    ],
)
def test_a_version_is_agreed_on(foreign, data) -> None:
    def script(peer) -> None:
        asked = peer.hello(data=data)
        assert set(asked) == {
            "max_msg_fds",
            "max_data_xfer_size",
            "max_dma_maps",
            "pgsizes",
            "twin_socket",
            "write_multiple",
        }
        peer.state(2)

    client = foreign(script)
    assert client.state() == "RUNNING"
    assert not client.agreed.twin_socket
    assert not client.agreed.write_multiple
    with pytest.raises(CannotSend):
        client.do(calls.region_write_multi([(0, 0, b"1")]))


def test_a_server_that_takes_little_gets_little(foreign) -> None:
    def script(peer) -> None:
        peer.hello({"max_data_xfer_size": 16, "max_msg_fds": 0})
        peer.state(2)
        ident, _ = peer.expect(DMA_MAP)
        assert peer.fds == []
        peer.send(ident, DMA_MAP)

    client = foreign(script)
    assert client.transfer == 16
    assert client.most_fds == 0
    for call in (
        calls.region_read(0, 0, 17),
        calls.region_write(0, 0, bytes(17)),
        calls.data_read(17, len),
        calls.data_write(bytes(17)),
        calls.dma_map(0, 4096, fd=0),
        calls.set_irqs(0x24, 0, 0, 1, fds=[0]),
    ):
        with pytest.raises(CannotSend):
            client.do(call)
    assert client.state() == "RUNNING"
    space = AddressSpace()
    with SharedMemory(4096) as memory:
        space.add(Window(0, 4096, memory))
        attach(client, space)  # by messages, then


def test_replies_come_in_any_pieces_and_any_order(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        asked = [peer.read() for _ in range(4)]
        for ident, command, _flags, payload in reversed(asked):
            _, flags = struct.unpack_from("=II", payload)
            body = struct.pack("=IIIi", 16, flags, 1 + ident % 3, -1)
            message = struct.pack("=HHIII", ident, command, 16 + len(body), REPLY, 0) + body
            for at in range(len(message)):
                peer.raw(message[at : at + 1])

    client = foreign(script)
    begun = [client.begin(calls.get_state()) for _ in range(4)]
    values = [client.finish(one) for one in begun]
    assert len(set(values)) == 3
    assert values[0] == values[3]


def test_flags_that_mean_nothing_are_not_looked_at(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, ANSWERS[GET_INFO], flags=REPLY | 0xFFFFFF00, errno=22)

    assert foreign(script).info().num_irqs == 5


@pytest.mark.parametrize("payload", [b"", bytes(16)])
@pytest.mark.parametrize(
    ("number", "name"), [(errno.EPERM, "EPERM"), (0, "EIO"), (4095, "EIO"), (0xFFFFFFEA, "EIO")]
)
def test_an_error_is_an_error_whatever_comes_with_it(foreign, number, name, payload) -> None:
    def script(peer) -> None:
        peer.hello({})
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, payload, flags=REPLY | ERROR, errno=number)
        peer.state(2)

    client = foreign(script)
    with pytest.raises(Refused, match=rf"DEVICE_GET_INFO is refused \({name}\)") as refused:
        client.info()
    assert refused.value.errno == name
    assert client.state() == "RUNNING"


def test_features_that_are_missing_are_missing(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        for number in (errno.ENOTTY, errno.EINVAL):
            ident, _ = peer.expect(FEATURE)
            peer.send(ident, FEATURE, flags=REPLY | ERROR, errno=number)

    client = foreign(script)
    assert not client.supports("MIG_DATA_SIZE", get=True)
    with pytest.raises(Refused):
        client.capabilities()


def test_capabilities_of_a_region_come_in_a_second_answer(foreign) -> None:
    def script(peer) -> None:
        peer.hello({"max_msg_fds": 8})
        fd = memfd(0x8000)
        chain = struct.pack("=HHIII", 1, 1, 0, 400, 0) + b"".join(
            struct.pack("=QQ", 4096 * at, 4096) for at in range(400)
        )
        for fits in (False, True):
            ident, payload = peer.expect(REGION_INFO)
            argsz, _, index, *_ = struct.unpack("=IIIIQQ", payload)
            assert (argsz >= 32 + len(chain)) == fits
            head = (32 + len(chain), 15, index, 32 if fits else 0, 4096 * 400, 0)
            body = struct.pack("=IIIIQQ", *head) + (chain if fits else b"")
            peer.send(ident, REGION_INFO, body, fds=[fd])
        os.close(fd)

    with foreign(script).region_info(2) as info:
        assert len(info.areas) == 400
        assert info.fd is not None


def test_a_region_without_the_descriptor_it_promises(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        ident, _ = peer.expect(REGION_INFO)
        peer.send(ident, REGION_INFO, struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0))

    info = foreign(script).region_info(0)
    assert info.fd is None


def test_a_short_read_is_what_it_is(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        ident, _ = peer.expect(REGION_READ)
        peer.send(ident, REGION_READ, struct.pack("=QII", 0, 0, 2) + b"ab")
        ident, _ = peer.expect(MIG_READ)
        peer.send(ident, MIG_READ, struct.pack("=II", 8, 0))

    client = foreign(script)
    assert client.region_read(0, 0, 8) == b"ab"
    assert client.read_data(100, len) == 0


@pytest.mark.parametrize("twin", [True, False])
def test_dma_by_messages_is_answered(foreign, twin) -> None:
    answers = []

    def script(peer) -> None:
        other = peer.twin({}) if twin else (peer.hello({}), peer)[1]
        ident, _ = peer.expect(GET_INFO)
        other.send(7, DMA_READ, struct.pack("=QQ", 0x1000, 5), flags=0)
        other.send(7, DMA_WRITE, struct.pack("=QQ", 0x1005, 3) + b"new", flags=0)
        other.send(7, DMA_WRITE, struct.pack("=QQ", 0x1006, 1) + b"!", flags=NO_REPLY)
        other.send(8, DMA_READ, struct.pack("=QQ", 0x1FFF, 2), flags=0)
        other.send(9, DMA_WRITE, struct.pack("=QQ", 0, 1) + b"x", flags=0)
        other.send(10, DMA_READ, struct.pack("=QQ", 0x1000, 1 << 21), flags=0)
        other.send(11, 99, flags=0)
        for _ in range(6):
            answers.append(other.read())
        peer.send(ident, GET_INFO, ANSWERS[GET_INFO])
        if twin:
            other.until_hung()
            other.close()

    space = AddressSpace()
    with SharedMemory(4096) as memory:
        space.add(Window(0x1000, 4096, memory, by_descriptor=False))
        memory.view[:8] = b"whatever"
        client = foreign(script, memory=space)
        assert client.info().num_irqs == 5
        assert bytes(memory.view[:8]) == b"whatenew"[:6] + b"!w"
    assert [(ident, flags) for ident, _, flags, _ in answers] == [
        (7, REPLY),
        (7, REPLY),
        (8, REPLY | ERROR),
        (9, REPLY | ERROR),
        (10, REPLY | ERROR),
        (11, REPLY | ERROR),
    ]
    assert answers[0][3] == struct.pack("=QQ", 0x1000, 5) + b"whate"
    assert answers[1][3] == struct.pack("=QQ", 0x1005, 3)


# --- what it may not do ---


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{", "version data"),
        (b'{"capabilities":[]}\0', "capabilities is no dict"),
        (b'{"capabilities":{"max_msg_fds":-1}}\0', "max_msg_fds is out of range"),
        (b'{"capabilities":{"max_msg_fds":"8"}}\0', "max_msg_fds is no int"),
        (b'{"capabilities":{"twin_socket":{"supported":true}}}\0', "without a descriptor"),
        (b"{}\0{}", "bytes after its NUL"),
        (b" " * 5000, "over 4096"),
    ],
)
def test_a_version_that_makes_no_sense(foreign, data, why) -> None:
    def script(peer) -> None:
        peer.hello(data=data)

    with pytest.raises(PeerBroke, match=why):
        foreign(script)


@pytest.mark.parametrize("major", [1, 0xFFFF])
def test_another_version(foreign, major) -> None:
    def script(peer) -> None:
        ident, _ = peer.expect(VERSION)
        peer.send(ident, VERSION, struct.pack("=HH", major, 0))

    with pytest.raises(PeerBroke, match=f"version {major}"):
        foreign(script)


def test_no_version(foreign) -> None:
    def script(peer) -> None:
        ident, _ = peer.expect(VERSION)
        peer.send(ident, VERSION, flags=REPLY | ERROR, errno=errno.EINVAL)

    with pytest.raises(PeerBroke, match=r"no version is agreed on: VERSION is refused \(EINVAL\)"):
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
        peer.hello({"twin_socket": {"supported": True, "fd_index": 0}}, fds=[fd])
        os.close(fd)

    with pytest.raises(PeerBroke, match="the twin socket is no"):
        foreign(script)


def test_descriptors_that_nobody_asked_for(foreign) -> None:
    def script(peer) -> None:
        peer.hello({}, fds=[0])

    with pytest.raises(PeerBroke, match="1 descriptors and no twin socket"):
        foreign(script)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (calls.info(), (GET_INFO, b"short", ())),
        (calls.info(), (GET_INFO, bytes(17), ())),
        (calls.info(), (RESET, b"", ())),
        (calls.info(), (GET_INFO, ANSWERS[GET_INFO], (0,))),
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
        peer.hello({"max_msg_fds": 8})
        ident, *_ = peer.read()
        peer.send(ident, number, payload, fds=fds)

    client = foreign(script)
    with pytest.raises(PeerBroke):
        client.do(call)
    assert isinstance(client.over, PeerBroke)
    with pytest.raises(PeerBroke):
        client.info()


@pytest.mark.parametrize("value", [8, 0xFFFFFFFF])
def test_a_state_that_the_table_does_not_know(foreign, value) -> None:
    def script(peer) -> None:
        peer.hello({})
        peer.state(value)

    with pytest.raises(PeerBroke, match=f"state {value}, which the table does not know"):
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
        peer.hello({})
        peer.read()
        peer.raw(message)

    client = foreign(script)
    with pytest.raises(PeerBroke, match=why):
        client.info()


def test_too_many_descriptors_end_the_connection(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        ident, _ = peer.expect(REGION_INFO)
        peer.send(ident, REGION_INFO, struct.pack("=IIIIQQ", 32, 7, 0, 0, 0, 0), fds=[0] * 5)

    with pytest.raises(PeerBroke, match="descriptors"):
        foreign(script, limits=Limits(max_msg_fds=4)).region_info(0)


@pytest.mark.parametrize("ident", [0, 0x1234])
def test_replies_to_nothing_are_passed_over(foreign, ident) -> None:
    def script(peer) -> None:
        peer.hello({})
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
        twin.close()

    assert foreign(script).info().num_irqs == 5
    assert refused[0][2] == REPLY | ERROR


@pytest.mark.parametrize("socket", ["main", "twin"])
def test_a_server_that_hangs_up_says_so(foreign, socket) -> None:
    def script(peer) -> None:
        twin = peer.twin({})
        peer.expect(GET_INFO)
        (peer if socket == "main" else twin).sock.close()
        (twin if socket == "main" else peer).until_hung()
        twin.close()

    client = foreign(script)
    with pytest.raises(PeerGone, match="the server closed its end"):
        client.info()


def test_a_server_that_does_not_answer(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})

    client = foreign(script)
    others = [client.begin(calls.info()) for _ in range(3)]
    with pytest.raises(TimedOut, match="DEVICE_RESET is not answered"):
        client.do(calls.reset(), 0.05)
    for one in others:
        with pytest.raises(TimedOut):
            client.finish(one)
    assert isinstance(client.over, TimedOut)


def test_a_server_that_talks_and_does_not_answer(foreign) -> None:
    """Noise is no answer: patience ends all the same."""

    def script(peer) -> None:
        peer.hello({})
        while True:
            peer.send(0x7777, GET_INFO, bytes(16))

    client = foreign(script)
    with pytest.raises(TimedOut):
        client.do(calls.info(), 0.2)


def test_a_posted_write_to_a_server_that_is_gone(foreign) -> None:
    def script(peer) -> None:
        peer.hello({})
        peer.close()

    client = foreign(script)

    def gone() -> bool:
        try:
            client.region_write(0, 0, b"1", no_reply=True)
        except PeerGone:
            return True
        return False

    until(gone)
    assert isinstance(client.over, PeerGone)


def test_a_descriptor_that_is_none_is_the_callers_mistake(foreign) -> None:
    def script(peer) -> None:
        peer.hello({"max_msg_fds": 8})
        peer.state(2)

    client = foreign(script)
    for call in (calls.dma_map(0, 4096, fd=999), calls.set_irqs(0x24, 0, fds=[-1])):
        with pytest.raises(OSError, match="Bad file descriptor"):
            client.do(call)
    assert client.state() == "RUNNING"


def test_interrupts_need_descriptors(foreign) -> None:
    from vfio_migration.runtime.client.interrupts import Vectors

    def script(peer) -> None:
        peer.hello({"max_msg_fds": 0})

    client = foreign(script)
    vectors = Vectors(0, 1)
    with pytest.raises(ValueError, match="takes no descriptors"):
        vectors.giving(client.most_fds)
    vectors.close()
    assert SET_IRQS == 8
