"""Whose devices these are: one coordinator at a time, and one migration until it was finished.

Two things keep a socket to one migration. While a process moves the device behind it, it holds the
lock of a file beside the socket, `X.sock.lock`, which the kernel drops when the process dies. From
the beginning of a migration until it was finished there is a claim beside the socket,
`X.sock.migration`: the journal, or a symbolic link to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shlex
import socket
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from vfio_migration.model.advice import command, operand
from vfio_migration.runtime.coordinator.errors import CannotMigrateError, NotTrustedError
from vfio_migration.runtime.files import lock_file, trusted_path
from vfio_migration.runtime.files.lock_file import LockedError

MAX_PATH_BYTES: Final = 4095
"""How many bytes a path has at most (PATH_MAX, less its NUL)."""
_SHOWN: Final = 200
_CREDENTIALS: Final = struct.Struct("3i")
LOCK_SUFFIX: Final = ".lock"
"""What is put behind the path of a socket: the lock of who moves its device just now."""
SUFFIX: Final = ".migration"
"""What is put behind the path of a socket: there the claim on it is."""


def beside(path: str) -> Path:
    """Return where the claim on a socket is, whatever name the socket is given."""
    real = os.path.realpath(path)
    return Path((path if real == os.path.abspath(path) else real) + SUFFIX)  # noqa: PTH100


def check_names(names: Sequence[str], what: str = "each socket is one end of one device") -> None:
    """See that names can be those of sockets, and each of another one.

    A socket has many names: of a link to it, of another link to its file, by another folder.

    Args:
        names: The names, as they were given.
        what: What a socket is to anybody who names it.

    Raises:
        CannotMigrateError: One of them cannot be, or two lead to the same socket.
    """
    found: dict[str, str] = {}
    for name in names:
        if problem := _no_path(name):
            raise CannotMigrateError(f"{shown(name)}: is not a path of a socket: {problem}")
        keys = list(_keys(name))
        if other := next((found[key] for key in keys if key in found), None):
            place = os.path.abspath(name)  # noqa: PTH100 - as `beside`
            same = place == os.path.abspath(other)  # noqa: PTH100
            why = f"{place}: is named twice" if same else f"{other} and {name}: are the same socket"
            raise CannotMigrateError(f"{why}; {what}")
        found.update(dict.fromkeys(keys, name))


def shown(name: str) -> str:
    """Return a name for a message: whole, if somebody could have meant it."""
    return name if len(name) <= _SHOWN and name.isprintable() else f"{name[:_SHOWN]!r}"


def _no_path(name: str) -> str | None:
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "it has characters that no file name has"
    if not size:
        return "it is empty"
    if size > MAX_PATH_BYTES:
        return f"it is {size} bytes long, and {MAX_PATH_BYTES} are the most"
    return "it has a NUL in it" if "\0" in name else None


def _keys(name: str) -> Iterator[str]:
    """Yield by what a socket is known: where it is and, if it is there, which file."""
    yield f"path {os.path.realpath(name)}"
    with contextlib.suppress(OSError):
        there = os.stat(name)  # noqa: PTH116 - as bytes allow
        yield f"file {there.st_dev}:{there.st_ino}"


@contextlib.contextmanager
def locked(paths: Iterable[str]) -> Iterator[None]:
    """Have these sockets to oneself.

    Raises:
        CannotMigrateError: Another process, or another coordinator of this one, has one of them, or
        its
            lock cannot be used.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({os.path.realpath(path): path for path in paths}.values()):
            try:
                stack.enter_context(lock_file.locked(Path(os.path.realpath(path) + LOCK_SUFFIX)))
            except LockedError as error:
                raise _busy(path, error) from error
            except OSError:
                # No file can be made there, as there is no claim: see `claim`.
                stack.enter_context(_locked_by_name(path))
            if _has_other_names(path):
                stack.enter_context(_locked_by_name(path))
        yield


def _busy(path: str, error: LockedError) -> CannotMigrateError:
    if error.holder is None:
        return CannotMigrateError(
            f"{path}: {error.path}: {error.problem}", [error.hint], refused=True
        )
    return CannotMigrateError(
        f"{path}: another process is moving this device just now: {error.problem}",
        ["wait until it has ended, and then see whether anything is left to do"],
        refused=True,
    )


def _has_other_names(path: str) -> bool:
    """Return whether the file of a socket has several names (hard links), each with a lock file."""
    try:
        return os.stat(path).st_nlink > 1  # noqa: PTH116 - as bytes allow
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _locked_by_name(path: str) -> Iterator[None]:
    """Hold a lock that is no file: an abstract UNIX socket, of which anybody can take the name.

    It is used only where a lock file cannot do: in a folder that cannot be written to, and for a
    socket that has several names.
    """
    *_, key = _keys(path)
    digest = hashlib.blake2b(os.fsencode(key), digest_size=20).hexdigest()
    name = f"\0vfio-migration/{digest}"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as lock:
        try:
            lock.bind(name)
            lock.listen(1)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise CannotMigrateError(
                f"{path}: another process is moving this device just now, or has taken the name "
                f"of its lock{_taker(name)}",
                ["wait until it has ended, and then see whether anything is left to do"],
                refused=True,
            ) from error
        yield


def _taker(name: str) -> str:
    """Return which process and user listen at an abstract name; nothing if that is not known."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        probe.connect(name)
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _group = _CREDENTIALS.unpack(raw)
        return f": process {pid} of user {user}"
    return ""


def claimed(path: str) -> Path | None:
    """Return the journal of the migration that a socket belongs to, or None.

    A claim that leads to no journal any more is removed: nobody can follow it.

    Raises:
        NotTrustedError: What is there belongs to another user.
    """
    try:
        claim = beside(path)
        fd = os.open(claim, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None  # a name too long for a file, say: nobody can have made one
    try:
        there = os.fstat(fd)
        _check_owner(there, claim, path)
        if not stat.S_ISLNK(there.st_mode):
            return claim
        target = Path(os.readlink("", dir_fd=fd))
        if target.exists():
            return target
        claim.unlink(missing_ok=True)
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)
    return None


def _check_owner(there: os.stat_result, claim: Path, path: str) -> None:
    try:
        trusted_path.check_owner(there, "the claim")
    except PermissionError as error:
        recover = command("recover", operand(path))
        raise NotTrustedError(
            f"{shown(str(claim))}: is not taken for the claim of a migration: {error.strerror}",
            [
                f"if that user has begun one, let them bring it to its end: {recover}",
                f"if nobody has: {shlex.join(['rm', operand(claim)])}",
            ],
        ) from error


def claim(paths: Iterable[str], journal: Path) -> None:
    """Claim sockets for the migration of a journal; raise `FileExistsError` if one is taken.

    Where no file can be made there is no claim: then no other coordinator can make one either.
    """
    target = _absolute(journal)
    for path in paths:
        try:
            place = beside(path)
            if _absolute(place) != target and not _leads(place, target):
                place.symlink_to(target)
        except FileExistsError:
            raise
        except (OSError, ValueError):
            continue


def release(paths: Iterable[str], journal: Path) -> None:
    """Take claims back, those of this journal and no others."""
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            place = beside(path)
            if _leads(place, _absolute(journal)):
                place.unlink()


def _leads(place: Path, target: Path) -> bool:
    return place.is_symlink() and place.readlink() == target


def _absolute(path: Path) -> Path:
    return Path(os.path.realpath(path.parent)) / path.name
