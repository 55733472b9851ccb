"""Descriptors that keep anybody who closes them waiting: what a hostile peer sends along."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FUSE_DAEMON = Path(__file__).with_name("fuse_daemon.py")
LINGERS_S = 3600
"""Longer than any test takes."""


@contextmanager
def fuse_file(folder: Path, *silent: str) -> Iterator[int]:
    """The file of a peer that does not answer for it; it does, in the end."""
    unshare = shutil.which("unshare")
    if unshare is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("there is no FUSE here")
    folder.mkdir()
    ours, theirs = socket.socketpair()
    own = "-rm" if os.geteuid() else "-m"
    command = [unshare, own, sys.executable, str(FUSE_DAEMON), str(theirs.fileno()), str(folder)]
    with (
        ours,
        subprocess.Popen(
            [*command, str(1 << 20), *silent], pass_fds=[theirs.fileno()], stderr=subprocess.PIPE
        ) as daemon,
    ):
        theirs.close()
        ours.settimeout(20)
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if not fds:
            pytest.skip(f"no FUSE file system can be mounted: {daemon.communicate()[1]!r}")
        try:
            yield fds[0]
        finally:
            ours.close()
            daemon.wait(20)
            with suppress(OSError):  # its file system is gone
                os.close(fds[0])


class LingeringSockets:
    """TCP sockets with data that nobody reads: closing the last reference waits for `LINGERS_S`.

    A context, at the end of which nobody waits any more.
    """

    def __init__(self) -> None:
        self._others: list[socket.socket] = []
        self._kept: list[int] = []

    def __enter__(self) -> LingeringSockets:
        return self

    def __exit__(self, *_exception: object) -> None:
        reset = struct.pack("=ii", 1, 0)
        for other in self._others:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            other.close()
        for fd in self._kept:
            os.close(fd)

    def forget(self, fd: int, *, sent: bool = True) -> None:
        """Close one, now if it was sent: then this is not the last reference."""
        if sent:
            os.close(fd)
        else:
            self._kept.append(fd)

    def make(self) -> int:
        """Return a new one; anybody who sends it closes it then."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.connect(listener.getsockname())
            self._others.append(listener.accept()[0])
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        sock.setblocking(True)
        lingers = struct.pack("=ii", 1, LINGERS_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingers)
        return sock.detach()

    def make_inside(self) -> int:
        """Return a UNIX socket in which a new one is on its way."""
        fd = self.make()
        ours, theirs = socket.socketpair()
        with ours:
            socket.send_fds(ours, [b"x"], [fd])
        os.close(fd)
        return theirs.detach()
