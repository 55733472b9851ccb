"""A server that begins to listen where another process holds its lock does not wait for ever."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from descriptor_catalogue import LIBC, check
from honest_prober import ends_within
from hostile_server import MAX_END_S

from vfio_migration.runtime.transport.listening import START_SUFFIX, START_TIMEOUT_S

IN_OPEN = 0x20
COMMAND = [sys.executable, "-m", "vfio_migration.cli.main", "serve"]


class Opens:
    """Waits until another process opens a file."""

    def __init__(self, path: Path) -> None:
        self._fd = check(LIBC.inotify_init1(os.O_CLOEXEC), "inotify_init1")
        watched = LIBC.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(IN_OPEN))
        check(watched, "inotify_add_watch")

    def wait(self) -> None:
        assert select.select([self._fd], [], [], 60)[0]

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def waiting_server(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server that waits for its lock."""
    socket = folder / "edu.sock"
    lock = socket.with_name(socket.name + START_SUFFIX)
    fd = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b"%d\n" % os.getpid())
    with closing(Opens(lock)) as opens:
        server = subprocess.Popen([*COMMAND, socket], stderr=subprocess.PIPE)
        try:
            opens.wait()
            yield server
        finally:
            server.kill()
            server.communicate()
            os.close(fd)


def test_sigterm_ends_a_server_that_waits_for_a_squatted_lock(tmp_path) -> None:
    with waiting_server(tmp_path) as server:
        server.terminate()
        _, took = ends_within(server.pid, server.poll, MAX_END_S)
        assert took < MAX_END_S


@pytest.mark.exhaustive
def test_a_server_gives_up_a_squatted_lock_and_states_who_holds_it(tmp_path) -> None:
    with waiting_server(tmp_path) as server:
        status, _ = ends_within(server.pid, server.poll, START_TIMEOUT_S + MAX_END_S)
        assert status == 2
        assert server.stderr is not None
        assert f"process {os.getpid()} (" in server.stderr.read().decode()
        assert not (tmp_path / "edu.sock").exists()
