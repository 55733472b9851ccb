"""A lock on a file that only this user can make, and that states who holds it.

A lock that anybody can take can be taken by a stranger who never gives it back: `flock` on a folder
needs only the right to read it, and an abstract UNIX socket has no owner at all. The file of this
lock has mode 0600, so only its owner and root can lock it, and it is used only if its owner is this
user or root. In it is the process that holds it. The kernel drops the lock when that process
ends, however it ends; the file that is left behind keeps nobody out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vfio_migration.model.errors import why
from vfio_migration.runtime.files.trusted_path import trusted

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MODE: Final = 0o600
_RETRY_S: Final = 0.05
_MAX_PID_BYTES: Final = 32


class LockedError(Exception):
    """The lock cannot be had.

    Attributes:
        path: The file of the lock.
        holder: The process that holds it; None if it is not known.
        problem: Why, in words: who holds it, or why the file cannot be used.
        hint: The way out.
    """

    def __init__(self, path: Path, holder: int | None, problem: str, hint: str) -> None:
        super().__init__(f"{path}: {problem}; {hint}")
        self.path = path
        self.holder = holder
        self.problem = problem
        self.hint = hint


@contextlib.contextmanager
def locked(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock, and remove its file at the end.

    Args:
        path: The file, in a folder that this user may write to.
        timeout_s: For how many seconds to try, if somebody holds it.

    Raises:
        LockedError: Somebody holds it, or the file is another user's, or none of a lock.
        OSError: The file cannot be made.
    """
    deadline = time.monotonic() + timeout_s
    while (fd := _taken(path)) is None:
        if time.monotonic() >= deadline:
            raise _held(path)
        time.sleep(_RETRY_S)
    try:
        yield
    finally:
        # Removed before it is let go: anybody who opened it meanwhile sees that it is gone.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(fd)


def _taken(path: Path) -> int | None:
    """Take the lock, if it is free; return its descriptor."""
    try:
        fd = os.open(path, _FLAGS, _MODE)
    except OSError as error:
        _complain(path, error)
        raise
    try:
        _lock(fd, path)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock(fd: int, path: Path) -> None:
    """Lock an open file, and write down who does; raise `BlockingIOError` if somebody holds it."""
    there = os.fstat(fd)
    if not stat.S_ISREG(there.st_mode):
        raise _unusable(path, "is there and is not a lock")
    if not trusted(there.st_uid):
        raise _unusable(path, f"belongs to another user ({there.st_uid})")
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not _is_at(path, there):
        raise BlockingIOError  # its holder has removed it since: there may be a new one
    os.ftruncate(fd, 0)
    os.pwrite(fd, b"%d\n" % os.getpid(), 0)


def _is_at(path: Path, there: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.lstat(), there)
    except OSError:
        return False


def _complain(path: Path, error: OSError) -> None:
    """Return what is at the path of a file that cannot be opened, if anything is."""
    if error.errno == errno.ELOOP:
        raise _unusable(path, "is a symbolic link") from error
    if error.errno in (errno.EACCES, errno.EISDIR, errno.ENXIO):
        try:
            owner = path.lstat().st_uid
        except OSError:
            return
        problem = f"is there, of user {owner}, and cannot be locked: {why(error)}"
        raise _unusable(path, problem) from error


def _unusable(path: Path, problem: str) -> LockedError:
    return LockedError(
        path, None, problem, "remove it, or put the socket into a folder that nobody else writes to"
    )


def _held(path: Path) -> LockedError:
    holder = None
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            holder = int(os.read(fd, _MAX_PID_BYTES))
        finally:
            os.close(fd)
    who = "another process" if holder is None else f"process {holder}{_name(holder)}"
    return LockedError(path, holder, f"{who} holds this lock", "wait until it has ended, or end it")


def _name(pid: int) -> str:
    """Return what a process is called, in parentheses; nothing if it is not known."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    except OSError:
        return ""
    return f" ({name})" if name.isprintable() else ""
