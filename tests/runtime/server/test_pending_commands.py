"""Commands that wait until memory of the guest is there: so many are kept, and no more is read."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from support import raw_client as raw
from support.edu_client import BUFFER, dma, dma_done, until
from support.open_descriptors import opened_at_rest
from support.raw_client import SET, Client, RefusedError
from support.samples import sampled
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server import pending_commands
from vfio_migration.runtime.server.pending_commands import Held, PendingCommands
from vfio_migration.runtime.server.server import ClientSockets

WIRE = load_wire()
LIMITS = {name: WIRE.bound(f"put_off_{name}") for name in Held._fields}
STOP, RUNNING = 1, 2
MIB = 1 << 20
LONG = 60.0
OPENED_BY_CHANNEL = 1
"""What `queued` opens for a channel once a long message comes in pieces: its fdinfo."""


@pytest.fixture
def most(monkeypatch) -> Iterator[dict[str, int]]:
    """The most of each that was put off at a time."""
    seen = dict.fromkeys(LIMITS, 0)
    append = PendingCommands.append

    def watched(self, command) -> None:
        append(self, command)
        for name, amount in self.held._asdict().items():
            seen[name] = max(seen[name], amount)

    monkeypatch.setattr(PendingCommands, "append", watched)
    yield seen
    assert all(seen[name] <= limit for name, limit in LIMITS.items()), seen


@pytest.fixture
def stopped_reading(monkeypatch) -> threading.Event:
    """Is set once the server waits without reading more commands."""
    event = threading.Event()
    wait = ClientSockets.wait

    def watched(self, until, *, full=False):
        if full:
            event.set()
        return wait(self, until, full=full)

    monkeypatch.setattr(ClientSockets, "wait", watched)
    return event


class Flood:
    """More of one kind than is put off, behind a command that has to wait."""

    def __init__(self, client: Client, name: str, fds: list[int]) -> None:
        moves = struct.pack("=IIIi", 16, SET | 2, STOP, -1)
        self.client = client
        self.idents = [client.next_id]
        self.kind = name
        self._messages = [(raw.FEATURE, moves, ())]
        if name == "fds":
            many = struct.pack("=5I", 20, 0x24, 0, 0, 16)
            # Linux lets a user other than root have RLIMIT_NOFILE descriptors on the way, often
            # 1024, and refuses to send more (ETOOMANYREFS).
            self._messages += [(raw.SET_IRQS, many, tuple(fds))] * (4 * LIMITS["fds"] // len(fds))
        elif name == "data":
            write = struct.pack("=II", 8 + MIB, MIB) + bytes(MIB)
            self._messages += [(raw.MIG_WRITE, write, ())] * 6
        else:
            info = struct.pack("=4I", 16, 0, 0, 0)
            self._messages += [(raw.GET_INFO, info, ())] * 9000
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        for command, payload, fds in self._messages:
            self.client.send(command, payload, fds=fds)

    def answers(self) -> list[int]:
        """Read all replies: in order, each an errno or 0."""
        found = []
        for number in range(len(self._messages)):
            try:
                self.client.reply(self.idents[0] + number & 0xFFFF)
            except RefusedError as refused:
                found.append(refused.errno)
            else:
                found.append(0)
        self._thread.join(60)
        assert not self._thread.is_alive()
        return found


@pytest.fixture
def eventfds() -> Iterator[list[int]]:
    made = [os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(16)]
    yield made
    for fd in made:
        os.close(fd)


@sampled(3)
@pytest.mark.parametrize("name", LIMITS)
def test_on_a_twin_socket_no_more_is_read_than_is_put_off_and_then_all_is_done(
    serve, most, stopped_reading, eventfds, name: str
) -> None:
    served = serve(Edu(dma_seconds=0), timeout_s=LONG, blocked_timeout_s=LONG)
    reported = {**raw.CAPABILITIES, "twin_socket": {"supported": True}}
    with served.client(capabilities=reported) as client:
        twin = Client(sock=socket.socket(fileno=os.dup(client.fds[0])), version=False)
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 100, from_device=False)
        ident, command, _, _, payload = twin.message()
        before = len(opened_at_rest())
        flood = Flood(client, name, eventfds)
        assert stopped_reading.wait(60)
        # What one read brought stands before the server, besides what is put off.
        held = len(opened_at_rest()) - before
        assert held <= LIMITS["fds"] + 16
        assert LIMITS[name] * 3 // 4 < most[name] <= LIMITS[name]
        # The reply comes; what was put off is done in order, none of it refused for want of room.
        twin.memory = bytearray(b"guest" * 1000)
        twin.answer(ident, command, payload)
        answers = flood.answers()
        assert answers[0] == 0
        refusals = {"fds": {22}, "data": {22}, "commands": {0}}[name]
        assert set(answers[1:]) == refusals, "no error but those of the commands themselves"
        assert client.state == STOP
        assert dma_done(client)
        assert client.read(0, BUFFER, 5) == b"guest"
        twin.close()
        assert len(opened_at_rest()) <= before + OPENED_BY_CHANNEL


@sampled(3)
@pytest.mark.parametrize("name", LIMITS)
def test_on_one_socket_the_access_fails_once_its_reply_cannot_be_read(
    serve, most, eventfds, name: str
) -> None:
    """And not later: nobody waits for the deadline. Then all that was put off is done."""
    served = serve(Edu(dma_seconds=0), timeout_s=LONG, blocked_timeout_s=LONG)
    with served.client() as client:
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 100, from_device=False)
        assert client.message()[1] == raw.DMA_READ
        before = len(opened_at_rest())
        flood = Flood(client, name, eventfds)
        answers = flood.answers()
        assert answers[0] == 0
        assert LIMITS[name] * 3 // 4 < most[name] <= LIMITS[name]
        assert client.state == STOP
        assert len(opened_at_rest()) <= before + OPENED_BY_CHANNEL


def test_a_reply_behind_more_than_is_put_off_is_found_if_it_was_read(serve, most) -> None:
    served = serve(Edu(dma_seconds=0), timeout_s=LONG, blocked_timeout_s=LONG)
    with served.client() as client:
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 5, from_device=False)
        ident, command, _, _, payload = client.message()
        moves = struct.pack("=IIIi", 16, SET | 2, STOP, -1)
        first = raw.HEADER.pack(1, raw.FEATURE, 16 + len(moves), 0, 0) + moves
        info = raw.HEADER.pack(2, raw.GET_INFO, 32, 0, 0) + struct.pack("=4I", 16, 0, 0, 0)
        body = payload[:16] + b"guest"
        reply = raw.HEADER.pack(ident, command, 16 + len(body), 1, 0) + body
        client.sock.sendall(first + info * 300 + reply)
        client.reply(1)
        for _ in range(300):
            client.reply(2)
        assert client.state == STOP
        assert client.read(0, BUFFER, 5) == b"guest"
    assert most["commands"] == LIMITS["commands"]


def test_a_flood_of_faults_on_the_twin_is_not_kept(serve, most, stopped_reading) -> None:
    """They are answered, past what is put off, until the client does not read the answers."""
    served = serve(Edu(dma_seconds=0), timeout_s=LONG, blocked_timeout_s=LONG)
    reported = {**raw.CAPABILITIES, "twin_socket": {"supported": True}}
    with served.client(capabilities=reported) as client:
        twin = Client(sock=socket.socket(fileno=os.dup(client.fds[0])), version=False)
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 5, from_device=False)
        ident, command, _, _, payload = twin.message()
        flood = Flood(client, "commands", [])
        assert stopped_reading.wait(60)
        for _ in range(3):
            with pytest.raises(RefusedError):
                twin.ask(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0))
        wrong = raw.HEADER.pack(1, raw.GET_INFO, 16, 0, 0)
        twin.sock.setblocking(False)
        sent = 0
        while select.select([], [twin.sock], [], 0.3)[1]:
            try:
                sent += twin.sock.send(wrong * 4096)
            except BlockingIOError:
                continue
        assert sent < 16 * MIB
        twin.sock.settimeout(20)
        for _ in range(sent // 16):
            assert twin.message()[1] == raw.GET_INFO
        assert not sent % 16
        twin.memory = bytearray(b"guest" * 10)
        twin.answer(ident, command, payload)
        assert set(flood.answers()) == {0}
        until(lambda: dma_done(client))
        twin.close()


def test_the_limits_are_those_of_the_table() -> None:
    assert pending_commands.MAX_HELD == Held(256, 4 << 20, 128) == Held(**LIMITS)
    for name in LIMITS:
        row = WIRE.holding(f"put_off_{name}")
        assert (row.full, row.belongs_to) == ("waits", "connection")
