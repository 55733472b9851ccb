"""Where a server listens: a socket of its own at a path, or one it was given."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from vfio_migration.model.errors import why
from vfio_migration.runtime.files import lock_file
from vfio_migration.runtime.files.lock_file import LockedError
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver

BACKLOG: Final = 128
"""How many clients may wait for their turn."""

FIRST_GIVEN: Final = 3
"""The first descriptor that socket activation gives (sd_listen_fds)."""


START_SUFFIX: Final = ".start"
"""What is put behind the path of a socket: the lock of a server that begins to listen there."""

START_TIMEOUT_S: Final = 5.0
"""How long a server waits for another one that begins at the same path."""


class CannotListenError(Exception):
    """There is no listening there; the message states why and what to do."""


@contextlib.contextmanager
def listening(path: str | Path) -> Iterator[socket.socket]:
    """Listen at a path, with mode 0600; the socket is removed at the end.

    A socket at which nobody listens any more is replaced.

    Raises:
        CannotListenError: Somebody does, or it is not a socket, or it cannot be made.
    """
    path = Path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            with _alone_at(path):
                _make_way(path)
                before = os.umask(0o177)
                try:
                    sock.bind(str(path))
                finally:
                    os.umask(before)
                sock.listen(BACKLOG)
                made = path.lstat()
        except CannotListenError:
            raise
        except (OSError, ValueError) as error:
            raise CannotListenError(f"{path}: cannot listen there: {why(error)}") from error
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                now = path.lstat()
                if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
                    path.unlink()
            _turn_away(sock)
    finally:
        sock.close()


def _turn_away(listener: socket.socket) -> None:
    """Hang up on those who wait, who may have sent what is not to be closed with the socket."""
    with contextlib.closing(DescriptorReceiver()) as receiver, contextlib.suppress(OSError):
        listener.setblocking(False)
        listener.shutdown(socket.SHUT_RD)  # nobody connects any more
        while True:
            receiver.hang_up(listener.accept()[0])


def given(fd: int) -> socket.socket:
    """Return a socket that this process was given, listening or connected.

    One that is refused stays open.

    Raises:
        CannotListenError: It is none that can be used.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        if error.errno == errno.ENOTSOCK:
            raise CannotListenError(f"descriptor {fd} is not a UNIX stream socket") from error
        raise CannotListenError(f"descriptor {fd}: {why(error)}") from error
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        sock.detach()
        raise CannotListenError(f"descriptor {fd} is not a UNIX stream socket")
    if not is_listening(sock) and not _has_peer(sock):
        sock.detach()
        raise CannotListenError(
            f"descriptor {fd} is a UNIX stream socket that neither listens nor is connected"
        )
    os.set_inheritable(fd, False)
    return sock


def is_listening(sock: socket.socket) -> bool:
    """Return whether clients connect to this socket, or it is a client's already."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def activated(environ: Mapping[str, str]) -> int | None:
    """Return the descriptor that the service manager gave (LISTEN_FDS), or None.

    Raises:
        CannotListenError: It gave more than one.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.get("LISTEN_FDS", "0")
    if not count.isdigit() or int(count) == 0:
        return None
    if int(count) > 1:
        raise CannotListenError(f"LISTEN_FDS={count}: one socket is served, not {count}")
    return FIRST_GIVEN


@contextlib.contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Keep other servers that start here from looking at the same stale socket."""
    place = path.with_name(path.name + START_SUFFIX)
    try:
        with lock_file.locked(place, timeout_s=START_TIMEOUT_S):
            yield
    except LockedError as error:
        raise CannotListenError(f"{path}: cannot listen there: {error}") from error


def _make_way(path: Path) -> None:
    """Remove a socket nobody listens at; raise `CannotListenError` for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListenError(f"{path}: is there and is not a socket; it is left as it is")
    # Of another type, so that a server that listens there does not even notice: some end when a
    # client hangs up before it has negotiated a version.
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        probe.setblocking(False)
        probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
        return
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
    finally:
        probe.close()
    raise CannotListenError(f"{path}: somebody listens there already; stop it or take another path")
