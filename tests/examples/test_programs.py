"""The other examples, each run as a reader would run it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from repository import ROOT

from support.waiting import wait_for
from vfio_migration import Client

EXAMPLES = ROOT / "examples"
TIMEOUT_S = 60
MAX_LINES = 65


@contextmanager
def running(name: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an example that serves at a path."""
    process = subprocess.Popen([sys.executable, str(EXAMPLES / name), str(path)])
    try:
        wait_for(path, process)
        yield process
    finally:
        process.kill()
        process.wait(TIMEOUT_S)


def run(name: str, *words: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize(
    "name", ["counter.py", "read_state.py", "embedded_engine.py", "embedded_coordinator.py"]
)
def test_an_example_can_be_read_in_one_go(name: str) -> None:
    assert len((EXAMPLES / name).read_text("utf-8").splitlines()) <= MAX_LINES


def test_the_client_reads_the_state_and_lets_the_device_run_again(tmp_path: Path) -> None:
    path, file = tmp_path / "a", tmp_path / "state"
    with running("counter.py", path):
        ended = run("read_state.py", path, file)
        with Client(path) as client:
            assert client.state() == "RUNNING"
    size = file.stat().st_size
    assert size > 0
    assert ended.stdout == f"{path}: {size} bytes of state in {file}\n"
    assert ended.returncode == 0


def test_the_client_states_that_nobody_serves(tmp_path: Path) -> None:
    ended = run("read_state.py", tmp_path / "nobody", tmp_path / "state")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{tmp_path / 'nobody'}: ")
    assert ended.stderr.count("\n") == 1


def test_the_coordinator_moves_the_device(tmp_path: Path) -> None:
    source, destination = tmp_path / "a", tmp_path / "b"
    with running("counter.py", source), running("counter.py", destination):
        ended = run("embedded_coordinator.py", source, destination)
        assert ended.returncode == 0, ended.stderr
        with Client(source) as one, Client(destination) as other:
            assert (one.state() == "RUNNING", other.state()) == (False, "RUNNING")
    assert "source: stop\n" in ended.stdout
    assert " bytes; it was stopped for " in ended.stdout


def test_the_coordinator_begins_nothing_without_a_destination(tmp_path: Path) -> None:
    source = tmp_path / "a"
    with running("counter.py", source):
        ended = run("embedded_coordinator.py", source, tmp_path / "nobody")
        with Client(source) as client:
            assert client.state() == "RUNNING"
    assert ended.returncode == 1
    assert ended.stderr.startswith("nothing was begun: ")


def test_the_engine_answers_by_the_table(tmp_path: Path) -> None:
    path = tmp_path / "states"
    with running("embedded_engine.py", path) as process, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.settimeout(TIMEOUT_S)
        with client.makefile("rw") as lines:

            def answer(line: str) -> str:
                lines.write(f"{line}\n")
                lines.flush()
                return lines.readline().rstrip("\n")

            arcs = "RUNNING -> RUNNING_P2P, RUNNING_P2P -> STOP, STOP -> STOP_COPY"
            assert answer("STOP_COPY") == f"STOP_COPY by {arcs}"
            assert answer("STOP_COPY") == "STOP_COPY by no arc"
            assert answer("PRE_COPY").startswith("refused: STOP_COPY -> PRE_COPY: refused (EINVAL)")
            assert answer("STOPP").startswith("refused: ")
            assert answer("RUNNING").startswith("RUNNING by STOP_COPY -> STOP")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
