"""Devices that fail or dawdle where nobody expects it, and a system with nothing left to give."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import socket
import struct
import time

import pytest

from support.edu_client import BUFFER, dma, until
from support.raw_client import DMA_READ, HEADER, REGION_READ, Client, RefusedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.transport.listening import listening


class Timeless(Edu):
    """Cannot say when it wants to do something by itself."""

    fails = False
    asked = 0

    def deadline(self) -> float | None:
        self.asked += 1
        if self.fails:
            raise RuntimeError("what time is it?")
        return super().deadline()


def use(path, device: Timeless) -> None:
    with Client(path) as client:
        device.fails = True
        for _ in range(3):
            client.set_state(1)
            client.set_state(2)
        assert client.read(0, 0, 4) == b"\xed\0\0\1"
    time.sleep(0.3)
    with Client(path) as client:
        assert client.state == 2
        device.fails = False
        client.write(0, 0x08, b"\5\0\0\0")
        until(lambda: client.read(0, 0x08, 4) == b"\x78\0\0\0")


def test_a_device_whose_deadline_raises_is_still_served(serve, caplog) -> None:
    device = Timeless()
    served = serve(device)
    use(served.path, device)
    reported = [
        row.fields for row in caplog.records if getattr(row, "event", "") == "device_failed"
    ]
    assert {(row["where"], row["error"]) for row in reported} == {("deadline", "RuntimeError")}
    assert reported[0]["why"] == "what time is it?"
    assert reported[0]["at"].startswith("Timeless.deadline (test_failing.py line ")
    assert all(row["left_out"] for row in reported[1:]), "the first one alone is stated in full"
    assert not [row for row in caplog.records if row.exc_info]
    # Nor is it asked for each command.
    assert len(reported) + sum(row["left_out"] for row in reported[1:]) < 30


def test_it_is_in_an_event_loop(tmp_path, caplog) -> None:
    path, device = tmp_path / "edu.sock", Timeless()

    async def main() -> None:
        with contextlib.closing(device), AsyncServer(device) as server, listening(path) as sock:
            serving = asyncio.create_task(server.serve(sock))
            await asyncio.to_thread(use, path, device)
            server.stop()
            await asyncio.wait_for(serving, 60)

    caplog.set_level("CRITICAL")
    asyncio.run(main())


IN_TWO_MONTHS = pytest.param(time.monotonic() + 4e6, id="in two months")  # one name in every worker


@pytest.mark.parametrize("when", [math.inf, math.nan, 1e12, IN_TWO_MONTHS, "soon", -1e30])
def test_any_deadline_is_lived_with(serve, caplog, when) -> None:
    """Work that a device puts off for two months is an honest one: `poll` cannot wait so long."""
    caplog.set_level("CRITICAL")
    device = Edu()
    device.deadline = lambda: when
    served = serve(device)
    for _ in range(2):
        with served.client() as client:
            assert [client.state for _ in range(3)] == [2, 2, 2]
            time.sleep(0.01)
            assert client.state == 2


def test_a_client_that_cannot_be_accepted_waits_quietly(serve, caplog) -> None:
    """It is there all the time, but to try again at once would be no use."""
    served = serve()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as sock:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 + sock.fileno(), most))
        try:
            sock.connect(str(served.path))
            time.sleep(0.35)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with Client(sock=sock) as client:
            assert client.state == 2
    reported = [row for row in caplog.records if getattr(row, "event", None) == "accept"]
    assert 1 <= len(reported) <= 6


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words for it")


class Mute(Edu):
    """Fails without being able to state why."""

    def stop(self) -> None:
        raise SpeechlessError

    def load(self, state: bytes, version: int) -> None:
        raise SpeechlessError


def test_a_failure_without_words_does_not_end_the_log(serve, caplog) -> None:
    caplog.set_level("INFO")
    served = serve(Mute())
    with served.client() as client:
        with pytest.raises(RefusedError):
            client.set_state(1)
        assert client.state == 0
        client.reset()
        client.set_state(5)
    with served.client() as client:
        assert client.state == 5
    reported = [
        (row.event, row.fields["what"], row.fields.get("why"))
        for row in caplog.records
        if getattr(row, "event", None) in ("transition", "reset")
    ]
    assert ("transition", "RUNNING_P2P -> STOP", "SpeechlessError") in reported
    assert reported[-2:] == [
        ("reset", "ERROR", None),
        ("transition", "RUNNING -> RUNNING_P2P", None),
    ]


def test_a_load_that_fails_without_words_is_a_refused_stream(serve, caplog) -> None:
    caplog.set_level("CRITICAL")
    source = serve(Edu())
    with source.client() as client:
        client.set_state(3)
        stream = client.mig_read(1 << 20)
    served = serve(type("Unable", (Edu,), {"load": Mute.load})())
    with served.client() as client:
        client.set_state(4)
        client.mig_write(stream)
        with pytest.raises(RefusedError) as refused:
            client.set_state(2)
        assert (refused.value.errno, client.state) == (22, 4)


class Slow(Edu):
    """Takes its time for each register, and notes when it was ticked."""

    ticked = 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        time.sleep(0.02)
        return super().bar_read(bar, offset, size)

    def deadline(self) -> float | None:
        return 0.0

    def tick(self) -> None:
        self.ticked += 1


MANY = HEADER.pack(1, REGION_READ, 32, 0, 0) + struct.pack("=QII", 0, 0, 4)


def ends_before_it_has_answered(served, client, commands: int) -> None:
    """Stop a server, and read on until it has ended: so many of MANY are not all answered."""
    served.server.stop()
    size = 0
    while data := client.sock.recv(4096):
        size += len(data)
    assert size < commands * (len(MANY) + 4)


def test_much_that_is_asked_at_once_keeps_nothing_else_from_its_turn(serve) -> None:
    device = Slow()
    served = serve(device)
    with served.client() as client:
        client.sock.sendall(MANY * 500)
        before = device.ticked
        for _ in range(10):
            assert client.message()[:3] == (1, REGION_READ, 1)
        assert device.ticked > before + 5
        ends_before_it_has_answered(served, client, 490)


def test_it_stops_while_memory_is_waited_for_and_much_is_asked(serve) -> None:
    served = serve(Slow(dma_seconds=0))
    served.device.deadline = lambda: Edu.deadline(served.device)
    served.device.tick = lambda: Edu.tick(served.device)
    with served.client() as client:
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 4, from_device=False)
        assert client.message()[1] == DMA_READ
        client.sock.sendall(MANY * 200)
        assert client.message()[:3] == (1, REGION_READ, 1)
        ends_before_it_has_answered(served, client, 199)


def test_an_event_loop_has_its_turns(tmp_path) -> None:
    path, turns = tmp_path / "edu.sock", 0
    read_in: list[int] = []

    class Noting(Slow):
        def bar_read(self, bar: int, offset: int, size: int) -> int:
            read_in.append(turns)
            return super().bar_read(bar, offset, size)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def scene() -> None:
        with Client(path) as client:
            client.sock.sendall(MANY * 100)
            for _ in range(100):
                client.message()

    async def main() -> None:
        device = Noting()
        with contextlib.closing(device), AsyncServer(device) as server, listening(path) as sock:
            serving, other = asyncio.create_task(server.serve(sock)), asyncio.create_task(turn())
            await asyncio.to_thread(scene)
            server.stop()
            await asyncio.wait_for(serving, 60)
            other.cancel()
        assert len(read_in) == 100
        assert len(set(read_in)) > 10, "hardly a turn between the answers"

    asyncio.run(main())
