"""SIGTERM ends a server whatever its client, its device or anybody who reads its log does."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import struct
import termios
from collections.abc import Callable, Iterator

import pytest

from support.edu_client import BUFFER, dma
from support.raw_client import (
    CAPABILITIES,
    FEATURE,
    GET,
    HEADER,
    MIG_READ,
    SET,
    Client,
    RefusedError,
)
from support.samples import sampled
from support.server_process import ServerProcess, full_pipe, until

STATES = {"STOP": 1, "STOP_COPY": 3}
DEVICE = '''
import time
from vfio_migration.runtime.kit.devices import Edu

class Sleeps(Edu):
    """Never returns from the stop."""
    def stop(self):
        time.sleep(1e6)

class Spins(Edu):
    """Neither does this, and takes no rest."""
    def stop(self):
        while True:
            pass

class StaysOpen(Edu):
    """Is never closed."""
    def close(self):
        time.sleep(1e6)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hanging.py").write_text(DEVICE)
    return tmp_path


@contextlib.contextmanager
def reader_ended() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    fd = os.open("/dev/full", os.O_WRONLY)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def stopped_terminal() -> Iterator[int]:
    """A terminal on which Ctrl-S was pressed."""
    main, terminal = pty.openpty()
    termios.tcflow(terminal, termios.TCOOFF)
    yield terminal
    os.close(main)
    os.close(terminal)


def refusals(client: Client, count: int) -> None:
    """Ask for states there are none of, each of which has to be answered."""
    for number in range(count):
        with pytest.raises(RefusedError):
            client.set_state(100 + number)


@sampled(4)
@pytest.mark.parametrize("stderr", [full_pipe, stopped_terminal, reader_ended, full_disk])
def test_a_log_that_nobody_reads_stops_neither_the_server_nor_sigterm(folder, stderr) -> None:
    with stderr() as fd, ServerProcess(folder, "--log-level", "debug", stderr=fd) as served:
        for _ in range(3):
            with served.client() as client:
                refusals(client, 400)
                for state in (1, 2) * 100:
                    client.set_state(state)
        with served.client() as client:
            assert client.state == 2
            served.process.send_signal(signal.SIGTERM)
            assert served.ends() == 0
    assert not served.path.exists()


def idle(client: Client) -> None:
    """Do nothing."""


def half_a_message(client: Client) -> None:
    client.sock.sendall(HEADER.pack(1, FEATURE, 24, 0, 0)[:11])


def half_a_header_and_a_body(client: Client) -> None:
    client.sock.sendall(HEADER.pack(1, FEATURE, 4000, 0, 0) + b"x" * 100)


def fill(client: Client, message: bytes) -> None:
    """Send until the server takes no more, and read no reply."""
    client.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            client.sock.send(message)


def not_reading_replies(client: Client) -> None:
    fill(client, HEADER.pack(1, FEATURE, 32, 0, 0) + struct.pack("=IIQ", 16, GET | 2, 0))


def reply_under_way(client: Client) -> None:
    client.set_state(STATES["STOP_COPY"])
    fill(client, HEADER.pack(1, MIG_READ, 24, 0, 0) + struct.pack("=II", 8 + 65536, 65536))


def in_a_dma_wait(client: Client) -> None:
    client.dma_map(0, 1 << 16)
    dma(client, BUFFER, 0x1000, 256, from_device=True)
    command, size = 0, 0
    while command != 12:  # DMA_WRITE, which is never answered
        _, command, size, _, _ = HEADER.unpack(client.exactly(16))
        client.exactly(size - 16)


@sampled(6)
@pytest.mark.parametrize(
    "stalled",
    [
        idle,
        half_a_message,
        half_a_header_and_a_body,
        not_reading_replies,
        reply_under_way,
        in_a_dma_wait,
    ],
)
def test_a_client_that_stalls_holds_up_no_sigterm(
    folder, stalled: Callable[[Client], None]
) -> None:
    with ServerProcess(folder, "--log-format", "json") as served, served.client() as client:
        stalled(client)
        until(lambda: served.status()["client"] is not None)
        served.process.send_signal(signal.SIGTERM)
        assert served.ends() == 0
        assert '"why": "the server is to end"' in served.log
        assert not served.path.exists()


def ask_to_stop(client: Client) -> None:
    client.send(FEATURE, struct.pack("=IIIi", 16, SET | 2, STATES["STOP"], -1))


@sampled(2)
@pytest.mark.parametrize("device", ["Sleeps", "Spins"])
def test_a_callback_that_hangs_is_named_and_the_process_ended(folder, device) -> None:
    with ServerProcess(folder, "--device", f"hanging:{device}") as served:
        with served.client() as client:
            ask_to_stop(client)
            until(lambda: served.status()["state"] == "RUNNING_P2P")
            served.process.send_signal(signal.SIGTERM)
            assert served.ends() == 3
        assert f'at="{device}.stop (hanging.py line ' in served.log
        assert 'why="a callback of the device hangs"' in served.log


def test_a_device_whose_close_hangs_does_not_keep_the_process(folder) -> None:
    with ServerProcess(folder, "--device", "hanging:StaysOpen") as served:
        served.process.send_signal(signal.SIGTERM)
        assert served.ends() == 3
        assert 'at="StaysOpen.close (hanging.py line ' in served.log


@sampled(2)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_the_process_at_once(folder, number, status) -> None:
    with ServerProcess(folder, "--device", "hanging:Sleeps") as served, served.client() as client:
        ask_to_stop(client)
        until(lambda: served.status()["state"] == "RUNNING_P2P")
        served.process.send_signal(signal.SIGTERM)
        # The first has been handled: two of a kind that wait are one.
        until(lambda: "ShdPnd:\t0000000000000000" in proc_status(served))
        served.process.send_signal(number)
        assert served.ends() == status
        assert 'why="a second signal"' in served.log


def proc_status(served: ServerProcess) -> str:
    with open(f"/proc/{served.process.pid}/status") as file:  # noqa: PTH123 - a kernel's
        return file.read()


@pytest.mark.exhaustive
def test_a_callback_that_hangs_and_a_full_log_together(folder) -> None:
    with (
        full_pipe() as fd,
        ServerProcess(folder, "--device", "hanging:Sleeps", stderr=fd) as served,
        served.client() as client,
    ):
        ask_to_stop(client)
        until(lambda: served.status()["state"] == "RUNNING_P2P")
        served.process.send_signal(signal.SIGTERM)
        assert served.ends() == 3


def test_the_operator_disconnects_the_client_that_is_served(folder) -> None:
    with ServerProcess(folder, "--log-format", "json") as served:
        with served.client() as first:
            first.set_state(STATES["STOP"])
            assert served.status()["client"]["pid"] == os.getpid()
            served.process.send_signal(signal.SIGUSR2)
            assert first.sock.recv(1) == b""
        with served.client() as second:
            assert second.state == STATES["STOP"]
            assert served.status()["client"]["number"] == 2
            served.process.send_signal(signal.SIGTERM)
            assert served.ends() == 0
        assert '"why": "disconnected by the operator", "state": "STOP"' in served.log


def test_nobody_is_disconnected_when_nobody_is_connected(folder) -> None:
    with ServerProcess(folder) as served:
        served.process.send_signal(signal.SIGUSR2)
        served.process.send_signal(signal.SIGUSR1)
        until(lambda: "counters" in served.log)
        with served.client() as client:
            assert client.state == 2


def test_an_idle_client_is_disconnected_and_the_next_one_served(folder) -> None:
    with ServerProcess(folder, "--idle-timeout", "2") as served:
        with served.client() as first, served.client(version=False) as second:
            assert first.sock.recv(1) == b""
            second.agreed = second.handshake(CAPABILITIES)
            assert second.state == 2
        assert 'why="idle for 2 s"' in served.log
