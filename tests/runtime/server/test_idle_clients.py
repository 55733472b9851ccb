"""A client that does nothing, and one that the operator disconnects; the watchdog meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import time
from collections.abc import Callable

import pytest

from support.edu_client import BUFFER, dma
from support.raw_client import FEATURE, GET, HEADER, Client
from support.samples import sampled
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening

IDLE_S = 0.3


class InThread:
    """A server whose `serve` is called in a thread."""

    def __init__(self, path, **options) -> None:
        self.device, self.path = Edu(dma_seconds=0), path
        self.server = self.make(**options)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def make(self, **options):
        return Server(self.device, **options)

    def run(self) -> None:
        with listening(self.path) as sock:
            self._ready.set()
            self.serve(sock)

    def serve(self, sock) -> None:
        self.server.serve(sock)

    def close(self) -> None:
        self.server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.server.close()
        self.device.close()


class InLoop(InThread):
    """The same in an event loop."""

    def make(self, **options):
        return AsyncServer(self.device, **options)

    def serve(self, sock) -> None:
        asyncio.run(self.server.serve(sock))


@pytest.fixture(params=[InThread, InLoop])
def served(request, tmp_path):
    with contextlib.ExitStack() as stack:

        def served(**options) -> InThread:
            return stack.enter_context(contextlib.closing(request.param(tmp_path / "s", **options)))

        yield served


def half_a_message(client: Client) -> None:
    client.sock.sendall(HEADER.pack(1, FEATURE, 24, 0, 0)[:11])


def not_reading_replies(client: Client) -> None:
    client.sock.setblocking(False)
    message = HEADER.pack(1, FEATURE, 32, 0, 0) + struct.pack("=IIQ", 16, GET | 2, 0)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.sock.send(message)
    client.sock.settimeout(20)


def nothing(_client: Client) -> None:
    """Is done."""


def ended(client: Client) -> bool:
    """Read all there is; return whether the server has closed its end."""
    try:
        while client.sock.recv(1 << 20):
            pass
    except ConnectionResetError:  # it had not read all we sent
        pass
    except TimeoutError:
        return False
    return True


@sampled(6)
@pytest.mark.parametrize("act", [nothing, half_a_message, not_reading_replies])
@pytest.mark.parametrize("version", [True, False])
def test_an_idle_client_is_disconnected_and_the_state_kept(
    served, act: Callable[[Client], None], version
) -> None:
    running = served(idle_timeout=IDLE_S)
    with Client(running.path) as first:
        first.set_state(1)
    with Client(running.path, version=version) as client:
        act(client)
        until_disconnected(running, 2)
        assert ended(client)
    assert running.server.engine.state == "STOP"


def until_disconnected(running, count: int) -> None:
    deadline = time.monotonic() + 20
    disconnects = lambda: running.server.counters.snapshot()["disconnects"]  # noqa: E731
    while sum(row.get("completed", 0) for row in disconnects().values()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_the_device_waits_for_is_not_idle(served) -> None:
    running = served(idle_timeout=IDLE_S)
    with Client(running.path) as client:
        client.dma_map(0, 1 << 16)
        dma(client, BUFFER, 0x1000, 256, from_device=True)
        ident, command, size, _, _ = HEADER.unpack(client.exactly(16))
        payload = client.exactly(size - 16)
        assert command == 12
        time.sleep(2 * IDLE_S)  # far longer than an idle client has
        client.memory = bytearray(1 << 16)
        client.answer(ident, command, payload)
        assert client.state == 2


def test_by_default_no_client_is_too_idle(served) -> None:
    running = served()
    with Client(running.path) as client:
        time.sleep(IDLE_S)
        assert client.state == 2


def test_a_client_is_ended_by_the_operator_and_the_state_kept(served) -> None:
    running = served()
    with Client(running.path) as client:
        client.set_state(1)
        running.server.end_client()
        assert ended(client)
    with Client(running.path) as client:
        assert client.state == 1
    assert running.server.counters.snapshot()["disconnects"]["STOP"]["completed"] >= 1


def test_a_client_in_a_dma_wait_is_ended_by_the_operator(served) -> None:
    running = served()
    with Client(running.path) as client:
        client.dma_map(0, 1 << 16)
        dma(client, BUFFER, 0x1000, 256, from_device=True)
        assert HEADER.unpack(client.exactly(16))[1] == 12
        running.server.end_client()
        assert ended(client)


def test_ending_nobody_ends_nobody_who_comes_later(served) -> None:
    running = served()
    running.server.end_client()
    with Client(running.path) as client:
        assert client.state == 2


class Fed:
    """A watchdog that counts."""

    def __init__(self) -> None:
        self.count = 0

    def feed(self) -> float:
        self.count += 1
        return time.monotonic() + 0.01

    def goes_on(self) -> None:
        wanted, deadline = self.count + 5, time.monotonic() + 20
        while self.count < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_the_watchdog_is_fed_while_the_server_waits_for_a_client_or_with_one(served) -> None:
    fed = Fed()
    running = served(watchdog=fed)
    fed.goes_on()
    with Client(running.path) as client:
        fed.goes_on()
        client.set_state(1)
        fed.goes_on()


def test_the_watchdog_is_fed_while_a_client_keeps_the_device_waiting(served) -> None:
    fed = Fed()
    running = served(watchdog=fed)
    with Client(running.path) as client:
        client.dma_map(0, 1 << 16)
        dma(client, BUFFER, 0x1000, 256, from_device=True)
        assert HEADER.unpack(client.exactly(16))[1] == 12
        fed.goes_on()
        fed.goes_on()


def test_the_watchdog_is_not_fed_while_a_callback_hangs(tmp_path) -> None:
    begun, end = threading.Event(), threading.Event()

    class Hangs(Edu):
        def stop(self) -> None:
            begun.set()
            end.wait(60)

    device, fed = Hangs(), Fed()
    with (
        contextlib.closing(device),
        Server(device, watchdog=fed) as server,
        listening(tmp_path / "s") as sock,
    ):
        thread = threading.Thread(target=server.serve, args=(sock,))
        thread.start()
        with Client(tmp_path / "s") as client:
            ident = client.send(FEATURE, struct.pack("=IIIi", 16, (1 << 17) | 2, 1, -1))
            assert begun.wait(20)
            before = fed.count
            time.sleep(0.2)  # twenty times its interval
            assert fed.count == before
            end.set()
            client.reply(ident)
            fed.goes_on()
        server.stop()
        thread.join(20)
