"""Servers that we did not write, and what the specification lets them do."""

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
    MIG_READ,
    NO_REPLY,
    REGION_INFO,
    REGION_READ,
    REPLY,
    attach,
    memfd,
)

from support.samples import sampled
from vfio_migration.runtime.client import (
    AddressSpace,
    RefusedError,
    SharedMemory,
    Window,
    calls,
)
from vfio_migration.runtime.protocol import CannotSendError

ANSWERS = {GET_INFO: struct.pack("=IIII", 16, 3, 9, 5)}


@sampled(3)
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
        asked = peer.handshake(data=data)
        assert set(asked) == {
            "max_msg_fds",
            "max_data_xfer_size",
            "max_dma_maps",
            "pgsizes",
            "twin_socket",
            "write_multiple",
            "precopy_info",
        }
        peer.state(2)

    client = foreign(script)
    assert client.state() == "RUNNING"
    assert not client.agreed.twin_socket
    assert not client.agreed.write_multiple
    assert not client.agreed.precopy_info
    with pytest.raises(CannotSendError):
        client.do(calls.region_write_multi([(0, 0, b"1")]))


def test_a_server_that_takes_little_gets_little(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({"max_data_xfer_size": 16, "max_msg_fds": 0})
        peer.state(2)
        ident, _ = peer.expect(DMA_MAP)
        assert peer.fds == []
        peer.send(ident, DMA_MAP)

    client = foreign(script)
    assert client.transfer == 16
    assert client.max_fds == 0
    for call in (
        calls.region_read(0, 0, 17),
        calls.region_write(0, 0, bytes(17)),
        calls.data_read(17, len),
        calls.data_write(bytes(17)),
        calls.dma_map(0, 4096, fd=0),
        calls.set_irqs(0x24, 0, 0, 1, fds=[0]),
    ):
        with pytest.raises(CannotSendError):
            client.do(call)
    assert client.state() == "RUNNING"
    space = AddressSpace()
    with SharedMemory(4096) as memory:
        space.add(Window(0, 4096, memory))
        attach(client, space)  # by messages, then


def test_replies_come_in_any_pieces_and_any_order(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
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
        peer.handshake({})
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, ANSWERS[GET_INFO], flags=REPLY | 0xFFFFFF00, errno=22)

    assert foreign(script).info().num_irqs == 5


@sampled(2)
@pytest.mark.parametrize("payload", [b"", bytes(16)])
@pytest.mark.parametrize(
    ("number", "name", "reported"),
    [
        (errno.EPERM, "EPERM", "EPERM"),
        (0, None, "without an errno"),
        (4095, None, "errno 4095"),
        (0xFFFFFFEA, None, "errno 4294967274"),
    ],
)
def test_an_error_is_an_error_whatever_comes_with_it(
    foreign, number, name, reported, payload
) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, payload, flags=REPLY | ERROR, errno=number)
        peer.state(2)

    client = foreign(script)
    with pytest.raises(
        RefusedError, match=rf"DEVICE_GET_INFO is refused \({reported}\)"
    ) as refused:
        client.info()
    assert (refused.value.errno, refused.value.code) == (name, number)
    assert client.state() == "RUNNING"


def test_features_that_are_missing_are_missing(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        for number in (errno.ENOTTY, errno.EINVAL):
            ident, _ = peer.expect(FEATURE)
            peer.send(ident, FEATURE, flags=REPLY | ERROR, errno=number)

    client = foreign(script)
    assert not client.supports("MIG_DATA_SIZE", get=True)
    with pytest.raises(RefusedError):
        client.capabilities()


def test_capabilities_of_a_region_come_in_a_second_answer(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
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


def test_a_region_without_the_descriptor_it_announces(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(REGION_INFO)
        peer.send(ident, REGION_INFO, struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0))

    info = foreign(script).region_info(0)
    assert info.fd is None


def test_a_short_read_is_what_it_is(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
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
        other = peer.twin({}) if twin else (peer.handshake({}), peer)[1]
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
