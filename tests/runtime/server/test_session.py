"""A session without a socket: the replies of a client to DMA, and the order of its commands."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator

import pytest

from support import raw_client as raw
from support.raw_client import SET
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.protocol.connection import Connection, Event, Outgoing
from vfio_migration.runtime.protocol.layout import HEADER, HEADER_SIZE, TYPE_COMMAND, TYPE_REPLY
from vfio_migration.runtime.server.commands import CommandHandlers
from vfio_migration.runtime.server.observer import Counters
from vfio_migration.runtime.server.session import Session

ADDRESS, SIZE = 0x1000, 100
MIG_DEVICE_STATE = 2
STOP, STOP_COPY = 1, 3
Answer = Callable[[int, int], bytes]
"""What a client has for DMA to an address and of a size: the payload of its reply."""


def message(ident: int, number: int, payload: bytes, kind: int = TYPE_COMMAND) -> bytes:
    return HEADER.pack(ident, number, HEADER_SIZE + len(payload), kind, 0) + payload


class ClientPort:
    """The socket: behind it is a client that answers DMA, after what it wants itself."""

    congested = False
    has_twin = False

    def __init__(self, connection: Connection, answer: Answer) -> None:
        self.sent: list[tuple[int, int]] = []
        self.first: list[bytes] = []
        self.with_the_reply = b""
        self._connection, self._answer = connection, answer
        self._asked: tuple[int, int, int, int] | None = None

    def send(self, outgoing: Outgoing, *, twin: bool = False) -> None:
        data = bytes(outgoing)
        ident, number, _, flags, _ = HEADER.unpack_from(data)
        if flags & TYPE_REPLY:
            self.sent.append((ident, number))
        else:
            self._asked = (ident, number, *struct.unpack_from("=QQ", data, HEADER_SIZE))

    def wait(self, until: float, *, full: bool = False) -> list[Event]:
        if self.first:
            return self._connection.receive(self.first.pop(0))
        assert self._asked is not None
        ident, number, address, size = self._asked
        reply = message(ident, number, self._answer(address, size), TYPE_REPLY)
        return self._connection.receive(reply + self.with_the_reply)

    def check_end(self) -> None:
        """Nothing ends."""

    def make_twin(self) -> int | None:
        return None

    def open_twin(self, connection: Connection) -> None:
        raise AssertionError("there is no twin")


class Rig:
    def __init__(self, answer: Answer) -> None:
        self.device = Edu()
        self.handlers = CommandHandlers(self.device)
        self.connection = Connection("server")
        self.port = ClientPort(self.connection, answer)
        self.session = Session(self.handlers, self.connection, self.port, Counters())
        self.receive(message(0, raw.VERSION, struct.pack("=HH", 0, 0)))
        self.port.sent.clear()

    def receive(self, data: bytes) -> None:
        self.session.feed(self.connection.receive(data))
        self.session.work()


@pytest.fixture
def rig() -> Iterator[Callable[[Answer], Rig]]:
    made: list[Rig] = []

    def make(answer: Answer) -> Rig:
        made.append(Rig(answer))
        return made[-1]

    yield make
    for one in made:
        one.session.close()
        one.connection.close()
        one.device.close()


def read_of(given: int) -> Answer:
    return lambda address, size: struct.pack("=QQ", address, given) + bytes(given)


def write_of(taken: int) -> Answer:
    return lambda address, size: struct.pack("=QQ", address, taken)


def test_a_client_that_gives_what_was_asked_for_serves_the_device(rig) -> None:
    assert rig(read_of(SIZE)).session.read(ADDRESS, SIZE) == bytes(SIZE)
    rig(write_of(SIZE)).session.write(ADDRESS, bytes(SIZE))


@pytest.mark.parametrize("given", [0, 1, SIZE - 1])
def test_a_dma_read_reply_with_less_than_was_asked_for_is_an_error(rig, given: int) -> None:
    with pytest.raises(OSError, match="gave less than was asked for") as failure:
        rig(read_of(given)).session.read(ADDRESS, SIZE)
    assert failure.value.errno == errno.EIO


@pytest.mark.parametrize("taken", [0, 1, SIZE - 1])
def test_a_dma_write_reply_with_less_than_was_given_is_an_error(rig, taken: int) -> None:
    with pytest.raises(OSError, match="took less than it was given") as failure:
        rig(write_of(taken)).session.write(ADDRESS, bytes(SIZE))
    assert failure.value.errno == errno.EIO


def moves(ident: int, state: int) -> bytes:
    payload = struct.pack("=IIIi", 16, SET | MIG_DEVICE_STATE, state, -1)
    return message(ident, raw.FEATURE, payload)


def test_commands_that_waited_for_dma_are_served_before_later_ones(rig) -> None:
    """And among themselves in the order in which they came, whether or not each had to wait."""
    made = rig(read_of(SIZE))
    info = message(3, raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0))
    made.port.first = [moves(1, STOP), moves(2, STOP_COPY) + info]
    made.port.with_the_reply = moves(4, STOP)
    made.session.read(ADDRESS, SIZE)
    assert made.port.sent == [], "all of them wait"
    made.session.work()
    assert [ident for ident, _ in made.port.sent] == [1, 2, 3, 4]
    assert made.handlers.engine.state == "STOP"
