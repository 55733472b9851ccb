"""Serving as management software starts it: vfio-user.rst, "Backend Program Conventions"."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.raw_client import Client

MEMORY_PROGRAM = "from vfio_migration.cli.backend import memory; raise SystemExit(memory())"


def started(*arguments: str, **options) -> subprocess.Popen[str]:
    """Start a backend; return once it serves."""
    process = subprocess.Popen(
        [sys.executable, "-c", MEMORY_PROGRAM, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " serving " in line:
            return process
    raise AssertionError("it ended before it served")


def ended(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def test_a_backend_serves_at_its_socket_path_and_honours_sigterm(tmp_path) -> None:
    path = tmp_path / "backend.sock"
    process = started(f"--socket-path={path}")
    with Client(path) as client:
        assert client.read(0, 0, 4) == b"\xee\x00\x00\x01"
    assert ended(process) == 0
    assert not path.exists()


def test_a_backend_takes_a_listening_socket_by_its_descriptor(tmp_path) -> None:
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = started(f"--fd={listener.fileno()}", pass_fds=[listener.fileno()])
        with Client(path) as client:
            assert client.state == 2
        assert ended(process) == 0


def test_a_backend_takes_a_connected_socket_by_its_descriptor() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        process = started(f"--fd={theirs.fileno()}", pass_fds=[theirs.fileno()])
    with Client(sock=ours) as client:
        assert client.state == 2
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_socket_path_and_fd_exclude_each_other(cli) -> None:
    ran = cli("serve", "--socket-path=x", "--fd=3")
    assert ran.status == 2
    assert "argument --fd: not allowed with argument --socket-path" in ran.err


def unconnected() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


def packets() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def internet() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (unconnected, "is a UNIX stream socket that neither listens nor is connected"),
        (datagrams, "is not a UNIX stream socket"),
        (packets, "is not a UNIX stream socket"),
        (internet, "is not a UNIX stream socket"),
    ],
)
def test_a_descriptor_that_cannot_be_served_is_refused_and_stays_open(cli, make, why) -> None:
    with make() as sock:
        ran = cli("serve", f"--fd={sock.fileno()}")
        assert ran.status == 2
        assert ran.err.splitlines()[-1] == (
            f"vfio-migration: error: descriptor {sock.fileno()} {why}"
        )
        os.fstat(sock.fileno())


@pytest.mark.parametrize("name", ["edu", "memory"])
def test_the_description_names_a_program_that_can_be_started(cli, name) -> None:
    ran = cli("serve", "--describe", "--device", name)
    described = json.loads(ran.out)
    assert (ran.status, ran.err) == (0, "")
    assert described.keys() == {"description", "type", "binary", "tags"}
    assert described["type"] == name
    binary = Path(described["binary"])
    assert binary.is_absolute()
    assert os.access(binary, os.X_OK)


def test_the_description_of_a_backend_names_that_backend(tmp_path) -> None:
    program = tmp_path / "vfio-user-mine"
    program.write_text(f"#!{sys.executable}\n{MEMORY_PROGRAM}\n")
    program.chmod(0o700)
    ran = subprocess.run([program, "--describe"], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout)["binary"] == str(program)


def test_a_description_of_no_device_is_refused(cli) -> None:
    ran = cli("serve", "--describe", "--device", "edo")
    assert (ran.status, ran.out) == (2, "")
    assert "did you mean edu?" in ran.err
