"""However the bytes are cut, the same events come out, in time in proportion to the bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import COMMANDS, HOSTILE, MESSAGE, RESET, agreed, plain, wire

import vfio_migration.runtime.protocol as vp
from support.examples import examples
from support.samples import sampled
from vfio_migration.runtime.protocol import Connection


def by_receive(connection: Connection, stream: bytes, cuts: list[int]) -> Iterator[Any]:
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        yield from plain(connection.receive(stream[start:stop]))


def by_buffer(connection: Connection, stream: bytes, cuts: list[int]) -> Iterator[Any]:
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        piece = stream[start:stop]
        while piece:
            buffer = connection.get_buffer(-1)
            count = min(len(buffer), len(piece))
            assert count
            buffer[:count] = piece[:count]
            yield from plain(connection.buffer_updated(count))
            piece = piece[count:]


COMMAND = st.sampled_from(COMMANDS).flatmap(lambda kind: MESSAGE[kind])
SOME = st.tuples(COMMAND, st.integers(0, 65535), st.sampled_from((0, 0x10))).map(
    lambda row: wire(row[0], ident=row[1], flags=row[2])
)
BROKEN = st.sampled_from([case[1] for name, case in HOSTILE.items() if "version" not in name])


@examples(150)
@given(st.lists(SOME | BROKEN, max_size=8), st.data())
def test_any_pieces_give_the_same_events(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    whole = list(plain(agreed().receive(stream)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    assert list(by_receive(agreed(), stream, cuts)) == whole
    assert list(by_buffer(agreed(), stream, cuts)) == whole
    if len(stream) < 3000:
        each = list(range(1, len(stream)))
        assert list(by_receive(agreed(), stream, each)) == whole
        assert list(by_buffer(agreed(), stream, each)) == whole


@pytest.mark.parametrize("feed", [by_receive, by_buffer])
@pytest.mark.parametrize("step", [1000, 4096, 65536, 100_001])
def test_long_messages_in_pieces(
    feed: Callable[[Connection, bytes, list[int]], Iterator[Any]], step: int
) -> None:
    data = bytes(range(256)) * 4096
    one = wire(vp.MigDataWrite.asking(data))
    stream = RESET + one + RESET * 3 + one + wire(vp.RegionWrite(0, 0, data[:70000])) + RESET
    whole = plain(agreed().receive(stream))
    assert len(whole) == 8
    assert list(feed(agreed(), stream, list(range(step, len(stream), step)))) == whole


def test_both_ways_of_taking_in_can_be_mixed() -> None:
    server = agreed()
    message = wire(vp.RegionWrite(0, 0, b"12345678"))
    server.receive(message[:10])
    buffer = server.get_buffer()
    buffer[:10] = message[10:20]
    assert server.buffer_updated(10) == []
    assert server.receive(message[20:30]) == []
    [command] = server.receive(message[30:])
    assert bytes(command.message.data) == b"12345678"


@sampled(2)
@pytest.mark.parametrize("mode", ["receive", "buffer"])
def test_byte_by_byte_takes_time_in_proportion(mode: str) -> None:
    """Eight times the bytes take about eight times as long, and not 64 times."""

    def spend(size: int) -> float:
        server = agreed()
        message = wire(vp.MigDataWrite.asking(bytes(size)))
        start = time.thread_time()
        for at in range(len(message)):
            if mode == "receive":
                events = server.receive(message[at : at + 1])
            else:
                server.get_buffer()[0] = message[at]
                events = server.buffer_updated(1)
        assert len(events) == 1
        return time.thread_time() - start

    small = min(spend(20_000) for _ in range(3))
    large = min(spend(160_000) for _ in range(3))
    assert large < 8 * small * 3


def test_views_from_receive_stay_as_they_are() -> None:
    server = agreed()
    message = wire(vp.RegionWrite(0, 0, b"12345678"))
    for cut in (0, 5, 20, 38):
        events = server.receive(message[:cut])
        events += server.receive(message[cut:])
        server.receive(wire(vp.RegionWrite(0, 0, b"abcdefgh")))
        assert bytes(events[0].message.data) == b"12345678"


def test_a_message_read_into_the_buffer_is_not_copied_out_of_it() -> None:
    server = agreed()
    message = wire(vp.RegionWrite(0, 0, b"12345678"))
    buffer = server.get_buffer()
    buffer[: len(message)] = message
    [command] = server.buffer_updated(len(message))
    buffer[len(message) - 1] = ord("9")
    assert bytes(command.message.data) == b"12345679"


@pytest.mark.parametrize("cut", [0, 5, 20, 38])
def test_messages_that_are_kept_stay_as_they_are(cut: int) -> None:
    """Whatever is read after them, and wherever the next message was cut."""
    server = agreed()

    def read(data: bytes) -> list[vp.Event]:
        server.get_buffer()[: len(data)] = data
        return server.buffer_updated(len(data))

    first, second = (wire(vp.RegionWrite(0, 0, data)) for data in (b"12345678", b"abcdefgh"))
    events = read(first + second[:cut])
    server.keep_messages()
    events += read(second[cut:])
    read(wire(vp.RegionWrite(0, 0, bytes(8))))
    assert bytes(events[0].message.data) == b"12345678"
