"""10,000 clients, one after the other: what is left of them. And what a round trip costs."""

from __future__ import annotations

import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.raw_client import FEATURE, GET, HEADER, Client
from support.waiting import wait_for

CLIENTS = 10_000


@pytest.fixture
def served(tmp_path):
    """A server in a process of its own: its path and its process."""
    path = tmp_path / "edu.sock"
    program = [sys.executable, "-m", "vfio_migration.cli.main", "serve", str(path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=log)
        wait_for(path, process, tmp_path / "log")
        yield path, process
        process.terminate()
        assert process.wait(10) == 0


def kept(process) -> tuple[int, int]:
    """Descriptors, and bytes of memory."""
    proc = Path(f"/proc/{process.pid}")
    resident = int((proc / "statm").read_text("ascii").split()[1]) * 4096
    return len(list((proc / "fd").iterdir())), resident


def test_clients_leave_nothing_behind(served) -> None:
    path, process = served

    def connect(count: int) -> None:
        for _ in range(count):
            with Client(path) as client:
                client.dma_map(0, 4096)
                client.set_state(3)
                client.mig_read(4096)
                client.reset()

    def finished() -> tuple[int, int]:
        with Client(path) as client:
            assert client.state == 2
        time.sleep(0.2)
        return kept(process)

    connect(500)
    descriptors, resident = finished()
    begun = time.perf_counter()
    connect(CLIENTS)
    seconds = time.perf_counter() - begun
    descriptors_after, resident_after = finished()
    grown = resident_after - resident
    print(
        f"\n{CLIENTS} clients in {seconds:.1f} s; descriptors {descriptors} -> {descriptors_after}"
        f", memory {resident >> 10} KiB {grown >> 10:+d} KiB"
    )
    assert descriptors_after == descriptors
    assert grown < 2 << 20


def test_a_round_trip(served) -> None:
    path, _ = served
    message = HEADER.pack(1, FEATURE, 24, 0, 0) + struct.pack("=II", 16, GET | 2)
    with Client(path) as client:
        client.sock.settimeout(None)
        rounds = [_round(client.sock, message, 32) for _ in range(20)]
    print(f"\nDEVICE_FEATURE GET: {min(rounds):.1f} us at best, {statistics.median(rounds):.1f} us")


def _round(sock: socket.socket, message: bytes, size: int, count: int = 1000) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        sock.send(message)
        assert len(sock.recv(size)) == size
    return (time.perf_counter() - begun) / count * 1e6
