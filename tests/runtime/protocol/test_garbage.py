"""Garbage: nothing but events comes out, memory stays within its bound, no descriptor is lost."""

from __future__ import annotations

import gc
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import COMMANDS, HEADER, MESSAGE, U32, VERSION, agreed, raw, wire

import vfio_migration.runtime.protocol as vp
from support.examples import examples
from vfio_migration.runtime.protocol import READ_AHEAD, Connection, Limits

ANY_MESSAGE = st.one_of([MESSAGE[kind] for kind in MESSAGE])
REPLY_KINDS = [kind for kind in MESSAGE if kind.is_reply]
SIZES = st.sampled_from((0, 1, 15, 16, 17, 24, 32, 48, 1048592, 1048608, 1048609, 2**31, 2**32 - 1))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message that was right, and then was not."""
    message = draw(ANY_MESSAGE)
    data = bytearray(wire(message, ident=draw(st.integers(0, 3)), flags=draw(_FLAGS)))
    how = draw(st.sampled_from(("as it is", "bytes", "cut", "more", "size", "number", "type")))
    if how == "bytes":
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif how == "cut":
        data = data[: draw(st.integers(0, len(data)))]
        if len(data) >= 8 and draw(st.booleans()):
            struct.pack_into("=I", data, 4, len(data))
    elif how == "more":
        data += draw(st.binary(max_size=40))
        struct.pack_into("=I", data, 4, len(data))
    elif how == "size":
        struct.pack_into("=I", data, 4, draw(SIZES | U32))
    elif how == "number":
        struct.pack_into("=H", data, 2, draw(st.integers(0, 65535)))
    elif how == "type":
        struct.pack_into("=I", data, 8, draw(U32))
    return bytes(data)


_FLAGS = st.sampled_from((0, 0, 0, 1, 0x10, 0x11, 0x20, 0x21, 2, 15, 0xFFFFFFF0))
STREAM = st.lists(
    st.tuples(
        mutated() | st.binary(max_size=80) | st.just(VERSION), st.integers(0, 18) | st.just(0)
    ),
    max_size=10,
)


class Checked:
    """A connection under watch."""

    def __init__(self, role: str, negotiated: bool) -> None:
        self.closed: list[int] = []
        self.owned: list[int] = []
        self.handed_in = 0
        self.connection = Connection(role, Limits(), close_fd=self.closed.append)  # type: ignore[arg-type]
        if negotiated and role == "server":
            [command] = self.connection.receive(VERSION)
            self.connection.version_reply(command)
            self.connection.send_command(vp.DmaRead(0, 4))
            self.connection.send_command(vp.DmaWrite(0, b"1234"))
        elif role == "client":
            self.connection.send_version()
            if negotiated:
                self.connection.receive(raw(1, b"\0\0\0\0", ident=0, flags=1))
                for kind in (vp.RegionRead(0, 0, 4), vp.DeviceGetRegionInfo.asking(0, argsz=9999)):
                    self.connection.send_command(kind)
                self.connection.send_command(vp.DeviceGetRegionIoFds(9999, 0, 0, 0))

    def feed(self, data: bytes, count: int, buffered: bool) -> None:
        fds = tuple(range(self.handed_in, self.handed_in + count))
        self.handed_in += count
        connection = self.connection
        if not buffered:
            self.judge(connection.receive(data, fds))
            return
        while True:
            buffer = connection.get_buffer()
            part, data = data[: len(buffer)], data[len(buffer) :]
            buffer[: len(part)] = part
            self.judge(connection.buffer_updated(len(part), fds))
            fds = ()
            if not data:
                return

    def judge(self, events: list[vp.Event]) -> None:
        for index, event in enumerate(events):
            assert isinstance(event, vp.Command | vp.Reply | vp.ProtocolFault)
            if isinstance(event, vp.ProtocolFault):
                assert event.fatal <= (index == len(events) - 1)
                assert event.fatal <= self.connection.closed
                assert event.errno is not None or event.occasion == "reply_unasked"
                if event.reply is not None:
                    _, number, size, flags, errno = HEADER.unpack(bytes(event.reply))
                    assert (number, size, flags) == (event.number, 16, 0x21)
                    assert errno > 0
                continue
            self.owned += event.fds
            if isinstance(event, vp.Command):
                assert not event.message.is_reply
                event.message.pack()
                reply = self.connection.send_error(event, "EIO")
                assert (reply is None) == event.no_reply
            else:
                assert (event.message is None) == (event.failed or bool(event.why))

    def end(self) -> None:
        self.connection.close()
        assert sorted(self.closed + self.owned) == list(range(self.handed_in))
        assert self.connection.unanswered == 0


@examples(1500)
@given(
    st.sampled_from(("server", "client")), st.booleans(), STREAM, st.booleans(), st.integers(1, 200)
)
def test_garbage(
    role: str, negotiated: bool, stream: list[tuple[bytes, int]], buffered: bool, step: int
) -> None:
    checked = Checked(role, negotiated)
    for data, count in stream:
        for start in range(0, len(data), step):
            checked.feed(data[start : start + step], count if start == 0 else 0, buffered)
    checked.end()


@examples(300)
@given(st.sampled_from(REPLY_KINDS), st.binary(max_size=120), st.integers(0, 3), st.data())
def test_any_reply_to_any_command(
    kind: type[vp.Message], payload: bytes, fds: int, data: st.DataObject
) -> None:
    """A hostile server."""
    closed: list[int] = []
    client = Connection("client", close_fd=closed.append)
    client.send_version()
    agreed = b'{"capabilities":{"write_multiple":true,"precopy_info":true}}\0'
    client.receive(raw(1, b"\0\0\0\0" + agreed, ident=0, flags=1))
    number = kind.number
    if number in (1, 11, 12):
        return
    command = data.draw(MESSAGE[vp.COMMANDS[number]])
    sent = client.send_command(command)
    flags = data.draw(st.sampled_from((1, 1, 1, 0x21)))
    [event] = client.receive(raw(number, payload, ident=sent.id, flags=flags), range(fds))
    assert isinstance(event, vp.Reply)
    assert event.command is command
    assert sorted([*closed, *event.fds]) == list(range(fds))
    assert not client.closed
    assert client.waiting == 0


# --- What a peer can make us hold -----------------------------------------------------------------


def held(run: object) -> int:
    """How many bytes are held at most while `run` runs, and at its end."""
    gc.collect()
    tracemalloc.start()
    try:
        run()  # type: ignore[operator]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["buffer", "receive"])
def test_an_endless_message_is_held_once(mode: str) -> None:
    server = agreed()
    head = raw(18, struct.pack("=II", 0, 1048576), size=16 + 8 + 1048576)

    def run() -> None:
        for data in (head, *[bytes(4096)] * 255):
            if mode == "buffer":
                server.get_buffer()[: len(data)] = data
                assert server.buffer_updated(len(data)) == []
            else:
                assert server.receive(data) == []

    assert held(run) < 1.3 * server.largest + 2 * READ_AHEAD


def test_a_size_is_not_believed_before_it_is_checked() -> None:
    server = agreed()

    def run() -> None:
        [event] = server.receive(raw(10, size=2**32 - 1))
        assert event.fatal

    assert held(run) < 20_000


def test_a_flood_of_small_messages_is_read_a_buffer_at_a_time() -> None:
    server = agreed()
    flood = raw(13) * (READ_AHEAD // 16)

    def run() -> None:
        for _ in range(5):
            buffer = server.get_buffer()
            assert len(buffer) == READ_AHEAD
            buffer[:] = flood
            events = server.buffer_updated(len(flood))
            assert len(events) == READ_AHEAD // 16
            for event in events:
                server.send_error(event, "EIO")

    assert held(run) < 3_000_000


def test_the_buffer_never_asks_for_more_than_the_message_and_a_read_ahead() -> None:
    server = agreed()
    for size in (16, 4096, 65520, 65536, 1048584):
        message = raw(18, struct.pack("=II", 0, size - 8) + bytes(size - 8))
        while message:
            buffer = server.get_buffer()
            assert 0 < len(buffer) <= max(READ_AHEAD, server.largest)
            part, message = message[: len(buffer)], message[len(buffer) :]
            buffer[: len(part)] = part
            events = server.buffer_updated(len(part))
        assert len(events) == 1
        server.send_error(events[0], "EIO")


@pytest.mark.parametrize("kind", COMMANDS)
@given(data=st.data())
def test_every_command_gets_through(kind: type[vp.Message], data: st.DataObject) -> None:
    """The honest client after all of that."""
    message = data.draw(MESSAGE[kind])
    [event] = agreed().receive(wire(message))
    assert isinstance(event, vp.Command)
    assert event.message == message
