"""`status` and `serve --describe` with a standard output that takes nothing.

They hold nothing while they print: no connection, no device. So they wait for a reader as any
program does, and a signal ends them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from support.samples import sampled
from support.server_process import ServerProcess, full_pipe, until

COMMAND = [sys.executable, "-m", "vfio_migration.cli.main"]


@pytest.fixture(params=["status", "describe"])
def command(request, tmp_path):
    """A command that prints, and what must be able to go on meanwhile."""
    with ServerProcess(tmp_path) as served:
        if request.param == "status":
            yield [*COMMAND, "status", str(served.path)], served
        else:
            yield [*COMMAND, "serve", "--describe", "--binary", "/usr/bin/edu"], served


def waits(process: subprocess.Popen) -> bool:
    """Whether a process waits for room in a pipe."""
    with open(f"/proc/{process.pid}/stat") as file:  # noqa: PTH123 - a kernel's
        state = file.read().rpartition(") ")[2][0]
    with open(f"/proc/{process.pid}/wchan") as file:  # noqa: PTH123 - a kernel's
        return state == "S" and "pipe" in file.read()


@sampled(4)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_reader_that_stalls_holds_up_no_signal_and_no_server(command, number) -> None:
    words, served = command
    with full_pipe() as fd:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd)
        try:
            until(lambda: is_writing(process))
            with served.client() as client:
                assert client.state == 2
            process.send_signal(number)
            assert process.wait(30) != 0
        finally:
            process.kill()
            process.wait()


def is_writing(process: subprocess.Popen) -> bool:
    """Whether a process is in write(2) (syscall 1 of x86-64, 64 elsewhere), or cannot be seen."""
    try:
        with open(f"/proc/{process.pid}/syscall") as file:  # noqa: PTH123 - a kernel's
            return file.read().split()[:2] in (["1", "0x1"], ["64", "0x1"])
    except PermissionError:
        return waits(process)


@sampled(2)
def test_a_full_disk_is_named(command) -> None:
    words, _served = command
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ran = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("vfio-migration: error: the output cannot be written: ")
    assert "Traceback" not in ran.stderr


@sampled(2)
def test_a_closed_output_and_a_reader_that_has_ended_are_no_mistake(command) -> None:
    words, _served = command
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *words]
    ran = subprocess.run(closed, stderr=subprocess.PIPE, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")
