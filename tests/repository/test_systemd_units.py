"""The units of contrib/systemd: our parser takes their words, their limits fit our bounds."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from support.server_process import until
from vfio_migration.cli import stopping
from vfio_migration.cli.main import parser
from vfio_migration.runtime.kit import event_signal
from vfio_migration.runtime.protocol.layout import WIRE
from vfio_migration.runtime.server import status
from vfio_migration.runtime.transport import descriptor_receiver, listening
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver

UNITS = ROOT / "contrib" / "systemd"
SERVICE, SOCKET = UNITS / "vfio-migration@.service", UNITS / "vfio-migration@.socket"
SERVING = (ROOT / "docs" / "serving.md").read_text("utf-8")
SECURITY = (ROOT / "docs" / "security.md").read_text("utf-8")
MIB = 1 << 20
OWN_TASKS = 6
"""The thread that serves, those of the log, the status socket and the end (two), and a process that
holds a socket."""


def settings(unit: Path) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def words() -> list[str]:
    """The command line of the service, as systemd starts it."""
    unit = settings(SERVICE)
    [line] = unit["ExecStart"]
    given = dict(one.split("=", 1) for one in unit["Environment"])
    return [re.sub(r"\$\{(\w+)\}", lambda name: given[name[1]], word) for word in shlex.split(line)]


def only(unit: Path, name: str) -> str:
    [value] = settings(unit)[name]
    return value


def test_our_parser_takes_the_command_of_the_unit() -> None:
    program, *arguments = words()
    assert Path(program).name == "vfio-migration"
    chosen = parser().parse_args(arguments)
    assert (chosen.command, chosen.device) == ("serve", "edu")
    assert chosen.socket is chosen.fd is None, "the socket is that of the socket unit"


def test_the_limits_of_the_unit_fit_the_bounds_of_the_page() -> None:
    total = int(re.search(r"That is (\d+) MiB", SERVING)[1])
    python, kept = map(int, re.search(r"\(some\s(\d+) MiB\).*?\((\d+) MiB", SERVING, re.S).groups())
    memory = int(re.fullmatch(r"(\d+)M", only(SERVICE, "MemoryMax"))[1])
    receivers = (descriptor_receiver.MAX_LEFT + 1) * descriptor_receiver.MIB_EACH
    assert memory >= total + python + kept + receivers + 64, "and 64 MiB, the memory device"
    assert f"{receivers} MiB" in SERVING
    assert f"the {total} MiB a client" in SECURITY

    held = sum(map(WIRE.bound, ("mapped_files", "interrupts", "put_off_fds")))
    held += WIRE.limit("max_msg_fds").value + 64  # on their way, and our own
    assert int(only(SERVICE, "LimitNOFILE")) >= held

    assert int(only(SERVICE, "TimeoutStopSec")) > stopping.STOP_TIMEOUT_S + 1
    assert int(only(SOCKET, "Backlog")) == listening.BACKLOG


def test_the_unit_has_room_for_all_processes_and_threads_of_the_server() -> None:
    """Those that clients can make it have: beyond TasksMax= no descriptor could be received."""
    receivers = descriptor_receiver.MAX_LEFT + 1
    signalling = event_signal.MAX_WAITING + 1
    tasks = int(only(SERVICE, "TasksMax"))
    assert tasks >= receivers + signalling + OWN_TASKS
    assert f"At most {descriptor_receiver.MAX_LEFT} stay so" in SERVING


def test_a_receiver_of_descriptors_takes_no_more_memory_than_is_stated() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(DescriptorReceiver()) as receiver:
        socket.send_fds(theirs, [b"x"], [theirs.fileno()])
        [fd] = receiver.receive(ours, 1, 1)
        os.close(fd)
        about = Path(f"/proc/{receiver.process}/status").read_text("ascii")
    anonymous = int(re.search(r"^RssAnon:\s+(\d+) kB", about, re.M)[1])
    assert anonymous < descriptor_receiver.MIB_EACH << 10


def test_the_socket_is_where_the_service_may_write() -> None:
    assert only(SOCKET, "ListenStream") == f"/run/{only(SERVICE, 'RuntimeDirectory')}/sock"
    assert only(SOCKET, "SocketUser") == only(SERVICE, "User")
    assert only(SERVICE, "RestrictAddressFamilies") == "AF_UNIX"


def test_the_command_of_the_unit_is_ready_goes_on_and_ends_as_systemd_expects(tmp_path) -> None:
    path, manager = tmp_path / "sock", tmp_path / "notify"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        listener.bind(str(path))
        listener.listen()
        receiver.bind(str(manager))
        receiver.settimeout(60)
        fd = listener.fileno()
        start = (
            f"import os, sys; os.dup2({fd}, 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), WATCHDOG_PID=str(os.getpid())); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-m", "vfio_migration.cli.main", *words()[1:]]
        process = subprocess.Popen(
            [sys.executable, "-c", start, *command],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[fd],
            env={
                **os.environ,
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": str(manager),
                "WATCHDOG_USEC": "200000",
            },
        )
        try:
            assert receiver.recv(1000) == b"READY=1\nSTATUS=serving edu"
            assert [receiver.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            until(status.beside(path).exists)
            assert status.read(path, 20)["state"] == "RUNNING"
            process.send_signal(signal.SIGTERM)
            while (reported := receiver.recv(1000)) == b"WATCHDOG=1":
                pass
            assert reported == b"STOPPING=1"
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path) -> None:
    for unit in (SERVICE, SOCKET):
        # The program is not installed where the tests run.
        text = unit.read_text("utf-8").replace("/usr/bin/vfio-migration", sys.executable)
        (tmp_path / unit.name).write_text(text)
    run = subprocess.run(
        ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    run = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            str(tmp_path / SERVICE.name),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = float(re.search(r"exposure level for \S+ ([\d.]+)", run.stdout)[1])
    assert exposure <= float(re.search(r"an exposure of ([\d.]+) of 10", SECURITY)[1])


def test_the_pages_are_linked() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "(docs/security.md)" in readme
    assert "(SECURITY.md)" in readme
    assert "(security.md)" in SERVING
