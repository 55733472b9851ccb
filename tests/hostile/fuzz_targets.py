"""What `fuzz.py` feeds: a connection, in both roles, and a session with a device, with no socket.

An input is read as a list of things to do, so that every input does something: say a message, whole
or cut, let time pass, have no room for replies. What must hold is asserted while it is done: every
event is one of three, every byte sent is a message, each descriptor is closed once, nothing is
logged as a mistake, nothing is raised.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final

import vfio_migration.runtime.protocol as vp
from support.open_descriptors import opened
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.protocol import Connection
from vfio_migration.runtime.server.commands import CommandHandlers
from vfio_migration.runtime.server.observer import Counters
from vfio_migration.runtime.server.session import Session

HEADER: Final = struct.Struct("=HHIII")
FLAGS: Final = (0, 0, 0x10, 1, 0x21, 0x11, 2, 0xFFFFFFFF)
VERSION: Final = HEADER.pack(0, 1, 16 + 4, 0, 0) + bytes(4)
AGREED: Final = (
    b'\0\0\0\0{"capabilities":{"write_multiple":true,"precopy_info":true,"max_msg_fds":16}}\0'
)
TWIN: Final = b'\0\0\0\0{"capabilities":{"twin_socket":{"supported":true}}}\0'


class Input:
    """The bytes of an input, taken from the front; zeroes after its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += size
        return found.ljust(size, b"\0")

    def reported(self) -> tuple[bytes, int]:
        """Some bytes to be received, and which descriptors come with them: kind << 5 | how many."""
        what = self.byte()
        count = self.byte() if what & 0x40 else 0
        if what & 0x80:
            return self.take(self.byte()), count
        number, flags = self.byte() % 20, FLAGS[what & 7]
        body = self.take(self.byte())
        if what & 0x20:
            body += bytes(self.byte() << 4)
        size = 16 + len(body) + (self.byte() if what & 0x10 else 0)
        return HEADER.pack(what >> 3 & 3, number, size, flags, self.byte() & 1) + body, count


def check_sent(data: bytes) -> None:
    """Hold what goes out to what may go out."""
    _, _, size, flags, errno = HEADER.unpack_from(data)
    assert size == len(data), (size, len(data))
    assert flags in (0, 1, 0x21), hex(flags)
    assert bool(errno) == (flags == 0x21)
    assert flags != 0x21 or size == 16


class Owned:
    """Descriptors that are none: numbers, each to be closed once."""

    def __init__(self) -> None:
        self.given = 0
        self.closed: list[int] = []

    def give(self, which: int) -> tuple[int, ...]:
        count = which & 31
        first, self.given = self.given, self.given + count
        return tuple(range(first, self.given))

    def check(self) -> None:
        assert sorted(self.closed) == list(range(self.given))


def _receive(connection: Connection, data: bytes, fds: Iterable[int], buffered: bool) -> list[Any]:
    if not buffered:
        return connection.receive(data, tuple(fds))
    events: list[Any] = []
    while True:
        buffer = connection.get_buffer()
        part, data = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(part)] = part
        for event in connection.buffer_updated(len(part), tuple(fds)):
            events.append(event)
            repr(event)
        fds = ()
        if not data or connection.closed:
            return events


def server(data: bytes) -> None:
    """A connection in the role of the server."""
    source, owned = Input(data), Owned()
    connection = Connection("server", close_fd=owned.closed.append)
    how = source.byte()
    if how & 1:
        reported = AGREED if how & 4 else TWIN
        for event in connection.receive(HEADER.pack(0, 1, 16 + len(reported), 0, 0) + reported):
            check_sent(
                bytes(connection.version_reply(event, 9 if how & 8 and not how & 4 else None))
            )
        if how & 4:
            check_sent(bytes(connection.send_command(vp.DmaRead(0, 40))))
            check_sent(bytes(connection.send_command(vp.DmaWrite(0, b"1234"))))
    while source and not connection.closed:
        what, count = source.reported()
        for event in _receive(connection, what, owned.give(count), bool(how & 2)):
            if isinstance(event, vp.ProtocolFault):
                assert not event.fatal or connection.closed
                if event.reply is not None:
                    check_sent(bytes(event.reply))
                continue
            owned.closed += event.fds
            if isinstance(event, vp.Command):
                event.message.pack()
                if event.number == 1:
                    reply = connection.version_reply(event)
                else:
                    reply = connection.send_error(event, "EIO")
                assert (reply is None) == event.no_reply
                if reply is not None:
                    check_sent(bytes(reply))
    connection.close()
    assert connection.unanswered == 0
    owned.check()


_ASKED: Final = (
    vp.RegionRead(0, 0, 64),
    vp.DeviceGetRegionInfo.asking(0, argsz=4096),
    vp.DeviceGetRegionIoFds(4096, 0, 0, 0),
    vp.DeviceFeature.asking(2, get=True, room=64),
    vp.MigDataRead.asking(64),
    vp.DmaUnmap.asking(0, 4096),
    vp.DeviceGetInfo(),
    vp.DeviceReset(),
)


def client(data: bytes) -> None:
    """A connection in the role of the client: a hostile server."""
    source, owned = Input(data), Owned()
    connection = Connection("client", close_fd=owned.closed.append)
    connection.send_version()
    how = source.byte()
    if how & 1:
        reported = AGREED
        connection.receive(HEADER.pack(0, 1, 16 + len(reported), 1, 0) + reported)
    while source and not connection.closed:
        if connection.agreed is not None:
            connection.send_command(_ASKED[source.byte() % len(_ASKED)])
        what, count = source.reported()
        if how & 4 and len(what) >= 16:  # the id of what was asked for last
            waiting = list(connection._sent)
            ident = waiting[-1] if waiting else 0
            what = struct.pack("=HH", ident, what[2] if how & 8 else _number(connection)) + what[4:]
        for event in _receive(connection, what, owned.give(count), bool(how & 2)):
            if isinstance(event, vp.ProtocolFault):
                assert not event.fatal or connection.closed
                continue
            owned.closed += event.fds
            if isinstance(event, vp.Reply):
                assert (event.message is None) == (event.failed or bool(event.why))
            else:
                check_sent(bytes(connection.send_error(event, "EIO") or VERSION))
    connection.close()
    owned.check()


def _number(connection: Connection) -> int:
    return next(reversed(connection._sent.values()), vp.DeviceReset()).number


# --- a session ------------------------------------------------------------------------------------


class Complaints(logging.Handler):
    """Remembers what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(logging.Formatter().format(record))


class World:
    """One device, and what a session needs around it; made once, and reset for each input."""

    def __init__(self) -> None:
        self.now = 0.0
        self.device = Edu(clock=lambda: self.now)
        self.handlers = CommandHandlers(self.device)
        self.complaints = Complaints()
        logging.getLogger().addHandler(self.complaints)
        logging.getLogger("vfio_migration").setLevel(logging.ERROR)
        memory = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 1 << 16)
        reader, _writer = os.pipe()
        self.fds = (os.eventfd(0, os.EFD_NONBLOCK), memory, reader, os.open("/", os.O_RDONLY))
        self.runs = 0
        self.open = opened()

    def check(self) -> None:
        assert not self.complaints.found, self.complaints.found.pop()
        self.runs += 1
        if self.runs % 512 == 0:
            assert opened() == self.open

    def give(self, which: int) -> tuple[int, ...]:
        return tuple(os.dup(self.fds[which >> 5 & 3]) for _ in range(which & 31))


class FakePort:
    """A `Port` whose other end states what an input says."""

    def __init__(self, source: Input, world: World, connection: Connection) -> None:
        self.congested = False
        self.twin: Connection | None = None
        self._source, self._world, self._connection = source, world, connection

    def send(self, outgoing: vp.Outgoing, *, twin: bool = False) -> None:
        check_sent(bytes(outgoing))

    @property
    def has_twin(self) -> bool:
        return self.twin is not None

    def wait(self, until: float, *, full: bool = False) -> list[vp.Event]:
        if not self._source:
            raise ConnectionResetError
        self.congested = False
        return self.receive_for(False, only_twin=full)

    def receive_for(self, buffered: bool, *, only_twin: bool = False) -> list[vp.Event]:
        what, count = self._source.reported()
        connection = self._connection
        if self.twin is not None and (self._source.byte() & 1 or only_twin):
            connection, buffered = self.twin, False
        return _receive(connection, what, self._world.give(count), buffered)

    def check_end(self) -> None:
        pass

    def make_twin(self) -> int | None:
        return os.dup(self._world.fds[0]) if self._source.byte() & 1 else None

    def open_twin(self, connection: Connection) -> None:
        self.twin = connection


_WORLD: list[World] = []


def session(data: bytes) -> None:
    """A whole session: an edu, served; time passes when the input states it."""
    if not _WORLD:
        _WORLD.append(World())
    world = _WORLD[0]
    world.handlers.engine.reset()
    source = Input(data)
    how = source.byte()
    connection = Connection("server")
    port = FakePort(source, world, connection)
    one = Session(world.handlers, connection, port, Counters(), timeout_s=5, blocked_timeout_s=5)
    if how & 1:
        reported = AGREED if how & 4 else TWIN
        one.feed(connection.receive(HEADER.pack(0, 1, 16 + len(reported), 0, 0) + reported))
    if how & 8:
        # Memory that messages lead to, and a transfer that is due.
        one.feed(connection.receive(_TRANSFER))
    try:
        while source and not one.over:
            one.work()
            what = source.byte() if source else 0
            if what < 16:
                port.congested = True
            elif what < 80:
                world.now += what / 1000
                world.device.tick()
            if not port.congested or source.byte() & 1:
                port.congested = False
                one.work()
                if not one.over:
                    one.feed(port.receive_for(False))
    except ConnectionError:
        pass
    finally:
        one.close()
        connection.close()
        if port.twin is not None:
            port.twin.close()
        world.handlers.client_disconnected()
    world.check()


def _message(number: int, body: bytes) -> bytes:
    return HEADER.pack(7, number, 16 + len(body), 0x10, 0) + body


_TRANSFER: Final = _message(2, struct.pack("=IIQQQ", 32, 3, 0, 0, 1 << 16)) + b"".join(
    _message(10, struct.pack("=QIIQ", register, 0, 8, value))
    for register, value in ((0x80, 0), (0x88, 0x40000), (0x90, 100), (0x98, 5))
)


def seeds() -> list[bytes]:
    """Inputs to begin with: each command once as it should be, and a few in a row."""
    feature = [
        struct.pack("=II", 4096, index | method << 16) + data
        for index, method, data in (
            *((index, 1, b"") for index in (1, 2, 9)),
            *((2, 2, struct.pack("=Ii", state, -1)) for state in range(8)),
            (6, 2, struct.pack("=QIIQQ", 4096, 1, 0, 0, 1 << 16)),
            (6, 2, struct.pack("=QII", 4096, 0, 0)),
            (8, 1, struct.pack("=QQQ", 0, 1 << 16, 4096)),
            *((7, 2, b""), (12, 2, b""), (2, 7, b"")),
        )
    ]
    one = struct.pack("=QII8s", 0x04, 0, 4, b"1234")
    bodies: list[tuple[int, bytes, int]] = [
        (2, struct.pack("=IIQQQ", 32, 3, 0, 0, 1 << 16), 0x21),
        (2, struct.pack("=IIQQQ", 32, 3, 0, 1 << 20, 1 << 16), 0),
        (3, struct.pack("=IIQQ", 24, 0, 0, 1 << 16), 0),
        (3, struct.pack("=IIQQ", 24, 2, 0, 0), 0),
        (4, struct.pack("=IIII", 16, 0, 0, 0), 0),
        *((5, struct.pack("=IIIIQQ", 64, 0, index, 0, 0, 0), 0) for index in (0, 7)),
        (6, struct.pack("=IIII", 16, 0, 0, 0), 0),
        (7, struct.pack("=IIII", 16, 0, 1, 0), 0),
        (8, struct.pack("=IIIII", 20, 0x24, 0, 0, 1), 1),
        (8, struct.pack("=IIIII", 20, 0x21, 0, 0, 1), 0),
        (8, struct.pack("=IIIIIB", 21, 0x12, 0, 0, 1, 1), 0),
        (9, struct.pack("=QII", 0, 0, 8), 0),
        (9, struct.pack("=QII", 0, 7, 64), 0),
        (10, struct.pack("=QIII", 4, 0, 4, 7), 0),
        (13, b"", 0),
        (15, struct.pack("=Q", 2) + one + one, 0),
        *((16, body, 0) for body in feature),
        (17, struct.pack("=II", 108, 100), 0),
        (18, struct.pack("=II", 8, 4) + b"VFIO", 0),
    ]
    reported = [
        bytes((0x40 if fds else 0,))
        + (bytes((fds,)) if fds else b"")
        + bytes((number, len(body)))
        + body
        + b"\0"
        for number, body, fds in bodies
    ]
    # What a session does before it listens: no time passes, or a little.
    singly = [bytes((how, 200)) + one for how in (5, 13) for one in reported]
    rows = [bytes((how,)) + b"".join(b"\x4f" + one for one in reported) for how in (5, 13, 9, 1)]
    replies = [
        b"\x0d\x40" + bytes((3, 11, 16 + 100)) + struct.pack("=QQ", 0, 100) + bytes(100) + b"\0" * 4
    ]
    return [*singly, *rows, *replies]


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "server": server,
    "client": client,
    "session": session,
}
