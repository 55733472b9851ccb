"""A reply that nobody gets has no effect on what the next replies carry.

Each command and each method of each feature is sent with No_reply, and by a client that dies before
the reply leaves, to the server in threads and the one in an event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from support import raw_client as raw
from support.edu_client import until
from support.open_descriptors import opened
from support.raw_client import GET, PROBE, SET, Client, RefusedError
from support.samples import sampled
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.kit.state_stream import MAGIC
from vfio_migration.runtime.protocol.connection import Connection
from vfio_migration.runtime.protocol.faults import CannotSendError
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport import channel

WIRE: Final = load_wire()
NO_REPLY: Final = 0x10
STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = 1, 2, 3, 4, 6
SERVERS: Final = ("threads", "asyncio")
PAGE: Final = 4096


class Host:
    """A device behind one of the servers; each client is served to its end by a thread."""

    def __init__(self, kind: str, device: Edu) -> None:
        self.device = device
        self._threads: list[threading.Thread] = []
        if kind == "threads":
            self.server = Server(device)
            self._serve: Callable[[socket.socket], object] = self.server.serve_client
        else:
            other = AsyncServer(device)
            self.server = other._server
            self._serve = lambda sock: asyncio.run(other.serve_client(sock))

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Be a client; at the end the server has taken note that it is gone."""
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(theirs,))
        thread.start()
        try:
            with Client(sock=ours, capabilities=raw.PROPOSED) as client:
                yield client
        finally:
            thread.join(60)
            assert not thread.is_alive()

    def served(self, command: str) -> int:
        counted = self.server.counters.snapshot()["commands"].get(command)
        return 0 if counted is None else int(counted["count"])


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def host(kind: str, device: Edu | None = None) -> Host:
        made.append(Host(kind, Edu() if device is None else device))
        return made[-1]

    yield host
    for one in made:
        one.server.close()
        one.device.close()


def drain(client: Client, size: int = 1 << 16) -> bytes:
    stream = b""
    while True:
        got = client.mig_read(size)
        stream += got
        if len(got) < size:
            return stream


def reading(size: int) -> bytes:
    return struct.pack("=II", 8 + size, size)


# --- every command and every feature --------------------------------------------------------------


def nothing(_client: Client, _host: Host) -> None:
    pass


def in_state(value: int) -> Callable[[Client, Host], None]:
    return lambda client, _host: client.set_state(value)


def logging(client: Client, host: Host) -> None:
    client.feature(SET | 6, struct.pack("=QII", PAGE, 0, 0))
    host.device.memory.log.wrote(3 * PAGE, 1)


def mapped(client: Client, _host: Host) -> None:
    client.dma_map(0, PAGE)


@dataclass(frozen=True)
class Sample:
    """A command that is served.

    Attributes:
        command: Its number.
        payload: Its payload.
        before: What the client does first.
        reads: It changes nothing, so that the same command after it is answered the same.
        again: What the same command is answered by the next client, if it is an errno.
    """

    command: int
    payload: bytes
    before: Callable[[Client, Host], None] = nothing
    reads: bool = True
    again: int | None = None


def feature(flags: int, data: bytes = b"") -> tuple[int, bytes]:
    return raw.FEATURE, struct.pack("=II", 8 + 4096, flags) + data


REPORT: Final = struct.pack("=QQQ", 0, 64 * PAGE, PAGE)
SAMPLES: Final = {
    "DMA_MAP": Sample(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, PAGE), reads=False),
    "DMA_UNMAP": Sample(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, 0, PAGE), mapped, reads=False),
    "DEVICE_GET_INFO": Sample(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0)),
    "DEVICE_GET_REGION_INFO": Sample(raw.REGION_INFO, struct.pack("=4I2Q", 32, 0, 0, 0, 0, 0)),
    "DEVICE_GET_REGION_IO_FDS": Sample(raw.IO_FDS, struct.pack("=4I", 16, 0, 0, 0)),
    "DEVICE_GET_IRQ_INFO": Sample(raw.IRQ_INFO, struct.pack("=4I", 16, 0, 0, 0)),
    "DEVICE_SET_IRQS": Sample(
        raw.SET_IRQS, struct.pack("=5I", 20, 0x21, 0, 0, 0), reads=False
    ),
    "REGION_READ": Sample(raw.REGION_READ, struct.pack("=QII", 0, 7, 4)),
    "REGION_WRITE": Sample(
        raw.REGION_WRITE, struct.pack("=QII", 4, 0, 4) + bytes(4), reads=False
    ),
    "DEVICE_RESET": Sample(raw.RESET, b"", reads=False),
    "REGION_WRITE_MULTI": Sample(
        raw.WRITE_MULTI, struct.pack("=QQIIQ", 1, 4, 0, 4, 0), reads=False
    ),
    "MIG_DATA_READ": Sample(raw.MIG_READ, reading(5000), in_state(STOP_COPY)),
    "MIG_DATA_WRITE": Sample(
        raw.MIG_WRITE, reading(len(MAGIC)) + MAGIC, in_state(RESUMING), reads=False
    ),
    "MIG_PRECOPY_INFO": Sample(
        raw.PRECOPY_INFO, struct.pack("=II", 24, 0), in_state(PRE_COPY)
    ),
    "GET MIGRATION": Sample(*feature(GET | 1)),
    "GET MIG_DEVICE_STATE": Sample(*feature(GET | 2)),
    "SET MIG_DEVICE_STATE": Sample(*feature(SET | 2, struct.pack("=Ii", STOP, -1)), reads=False),
    "SET DMA_LOGGING_START": Sample(
        *feature(SET | 6, struct.pack("=QII", PAGE, 0, 0)), reads=False
    ),
    "SET DMA_LOGGING_STOP": Sample(*feature(SET | 7), logging, reads=False),
    # What is logged goes with the client that has it logged: the next one is refused, not told 0.
    "GET DMA_LOGGING_REPORT": Sample(*feature(GET | 8, REPORT), logging, again=errno.EINVAL),
    "GET MIG_DATA_SIZE": Sample(*feature(GET | 9), in_state(STOP_COPY)),
    "SET MIG_PRECOPY_INFOv2": Sample(*feature(SET | 12), reads=False),
    "PROBE DMA_LOGGING_REPORT": Sample(*feature(PROBE | GET | 8)),
}  # fmt: skip


def test_there_is_a_sample_of_every_command_and_every_method_of_every_feature() -> None:
    about = {row.name for row in WIRE.commands if row.does == "feature"}
    commands = {
        row.name
        for row in WIRE.commands
        if row.sender == "client" and not row.before_version and row.name not in about
    }
    methods = {
        f"{method} {row.name}"
        for row in WIRE.features
        for method, has in (("GET", row.get), ("SET", row.set))
        if has
    }
    assert commands | methods <= SAMPLES.keys()


@sampled(4)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_command_whose_reply_nobody_wants_takes_nothing_from_the_next_one(
    host: Callable[..., Host], kind: str, name: str
) -> None:
    sample = SAMPLES[name]
    served = host(kind)
    with served.client() as client:
        sample.before(client, served)
        expected = None
        if sample.reads:
            with (fresh := host(kind)).client() as undisturbed:
                sample.before(undisturbed, fresh)
                expected = undisturbed.ask(sample.command, sample.payload)
        for _ in range(3):
            client.send(sample.command, sample.payload, flags=NO_REPLY)
            assert len(client.ask(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0))) == 16
        if sample.reads:
            assert client.ask(sample.command, sample.payload) == expected


@sampled(7)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_client_that_dies_before_its_reply_leaves_takes_nothing_from_the_next_one(
    host: Callable[..., Host], kind: str, name: str
) -> None:
    sample = SAMPLES[name]
    served = host(kind)
    with (fresh := host(kind)).client() as undisturbed:
        sample.before(undisturbed, fresh)
        expected = undisturbed.ask(sample.command, sample.payload)
    with served.client() as client:
        sample.before(client, served)
        client.sock.shutdown(socket.SHUT_RD)  # from here on no reply leaves
        client.send(sample.command, sample.payload)
    with served.client() as client:
        if sample.again is not None:
            with pytest.raises(RefusedError) as refused:
                client.ask(sample.command, sample.payload)
            assert refused.value.errno == sample.again
        elif sample.reads:
            assert client.ask(sample.command, sample.payload) == expected
        else:
            assert client.state in (STOP, RUNNING, RESUMING)


def test_what_is_forgotten_is_in_the_table() -> None:
    """Each command and feature whose reply carries what no other reply will, and no other."""
    rows = {row.name: row.forgets for row in (*WIRE.commands, *WIRE.features)}
    assert {name for name, forgets in rows.items() if forgets != "nothing"} == {
        "MIG_DATA_READ",
        "MIG_PRECOPY_INFO",
        "DMA_LOGGING_REPORT",
    }
    assert set(rows.values()) == {"nothing", "when_sent"}


# --- the stream -----------------------------------------------------------------------------------


def memory_device() -> MemoryDevice:
    return MemoryDevice(size=2 << 20, seed=1, rate=0)


@pytest.fixture
def whole(host: Callable[..., Host]) -> bytes:
    """The stream of a memory device that nobody disturbs."""
    with host("threads", memory_device()).client() as client:
        client.set_state(STOP_COPY)
        return drain(client)


@sampled(6)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("known", [False, True], ids=["first", "known"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "once the replies are made"])
@pytest.mark.parametrize("taken", [0, 16, 5000])
def test_what_a_dying_client_was_not_sent_the_next_one_reads(
    host: Callable[..., Host], whole: bytes, monkeypatch, kind: str, known: bool, waits: bool,
    taken: int,
) -> None:  # fmt: skip
    """Of many replies the first has left in part at most; `taken` bytes of it the client has."""
    monkeypatch.setattr(channel, "_BUFFER_BYTES", 4096)  # the socket holds less than one reply
    served, size = host(kind, memory_device()), 100_000
    start = b""
    with served.client() as client:
        client.set_state(STOP_COPY)
        if known:
            start = client.mig_read(size) + client.mig_read(size)
        before = served.served("MIG_DATA_READ")
        message = raw.HEADER.pack(9, raw.MIG_READ, 24, 0, 0) + reading(size)
        client.sock.sendall(message * 10)
        if waits:
            until(lambda: served.served("MIG_DATA_READ") == before + 10)
        client.exactly(taken)
    with served.client() as client:
        left = client.feature(GET | 9, room=8)
        assert struct.unpack("=Q", left) == (len(whole) - len(start),)
        assert start + drain(client) == whole


@pytest.mark.parametrize("kind", SERVERS)
def test_replies_that_left_are_not_sent_again(
    host: Callable[..., Host], whole: bytes, monkeypatch, kind: str
) -> None:
    """Two of five have been received, the others wait."""
    monkeypatch.setattr(channel, "_BUFFER_BYTES", 4096)
    served, size = host(kind, memory_device()), 100_000
    with served.client() as client:
        client.set_state(STOP_COPY)
        idents = [client.send(raw.MIG_READ, reading(size)) for _ in range(5)]
        start = b"".join(client.reply(ident)[8:] for ident in idents[:2])
    with served.client() as client:
        assert start + drain(client) == whole


@pytest.mark.parametrize("kind", SERVERS)
def test_a_stream_that_came_back_is_read_in_pieces_of_any_size(
    host: Callable[..., Host], whole: bytes, monkeypatch, kind: str
) -> None:
    monkeypatch.setattr(channel, "_BUFFER_BYTES", 4096)
    served = host(kind, memory_device())
    for size in (100_000, 70_000, 3):
        with served.client() as client:
            if not served.served("MIG_DATA_READ"):
                client.set_state(PRE_COPY)
            client.sock.shutdown(socket.SHUT_RD)
            with contextlib.suppress(BrokenPipeError):  # the first reply failed: it has hung up
                for _ in range(3):
                    client.send(raw.MIG_READ, reading(size))
    with served.client() as client:
        client.send(raw.MIG_READ, reading(12_345), flags=NO_REPLY)
        stream = client.mig_read(1000)
        client.send(raw.MIG_READ, reading(200_000), flags=NO_REPLY)
        client.set_state(STOP_COPY)
        assert stream + drain(client, 99_999) == whole


@pytest.mark.parametrize("kind", SERVERS)
def test_what_came_back_belongs_to_its_session(
    host: Callable[..., Host], whole: bytes, kind: str
) -> None:
    served = host(kind, memory_device())
    with served.client() as client:
        client.set_state(STOP_COPY)
        client.sock.shutdown(socket.SHUT_RD)
        client.send(raw.MIG_READ, reading(100_000))
    with served.client() as client:
        client.set_state(STOP)
        client.set_state(STOP_COPY)
        assert drain(client) == whole


@pytest.mark.parametrize("kind", SERVERS)
def test_a_reply_that_cannot_be_sent_takes_nothing(
    host: Callable[..., Host], whole: bytes, monkeypatch, kind: str, caplog
) -> None:
    served = host(kind, memory_device())
    send_reply = Connection.send_reply

    def fail(self, command, message, fds=()):
        if command.number == raw.MIG_READ and message.size == 777:
            raise CannotSendError("a mistake of ours")
        return send_reply(self, command, message, fds)

    monkeypatch.setattr(Connection, "send_reply", fail)
    with served.client() as client:
        client.set_state(STOP_COPY)
        with pytest.raises(RefusedError):
            client.mig_read(777)
        assert drain(client) == whole
    assert "cannot be sent" in caplog.text


# --- DMA logging ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("page", [PAGE // 8, PAGE, 16 * PAGE])
def test_a_report_that_nobody_wants_forgets_no_page(
    host: Callable[..., Host], kind: str, page: int
) -> None:
    served = host(kind)
    log = served.device.memory.log
    with served.client() as client:
        client.feature(SET | 6, struct.pack("=QII", PAGE, 0, 0))
        asked = struct.pack("=QQQ", 0, 64 * PAGE, page)
        log.wrote(3 * PAGE, 1)
        log.wrote(17 * PAGE + 5, 9 * PAGE)
        client.send(*feature(GET | 8, asked), flags=NO_REPLY)
        first = client.feature(GET | 8, REPORT)
        # In pages that are larger than those of the log it may have been reported more.
        pages = {3, *range(17, 27)}
        recorded = struct.unpack_from("=Q", first, 24)[0]
        found = {number for number in range(64) if recorded >> number & 1}
        assert found == ({*range(16), *range(16, 32)} if page > PAGE else pages)
        assert client.feature(GET | 8, REPORT) == REPORT + bytes(8)


@pytest.mark.parametrize("kind", SERVERS)
def test_descriptors_of_a_reply_that_nobody_gets_are_not_kept(
    host: Callable[..., Host], kind: str
) -> None:
    served = host(kind, memory_device())
    payload = struct.pack("=4I2Q", 4096, 0, 0, 0, 0, 0)
    with served.client() as client:
        client.ask(raw.REGION_INFO, payload)
        client.close_fds()
        before = opened()
        for _ in range(5):
            client.send(raw.REGION_INFO, payload, flags=NO_REPLY)
        assert client.state == RUNNING
        assert opened() == before
