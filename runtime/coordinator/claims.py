"""Whose devices these are: one coordinator at a time, and one migration until it was settled.

Two things keep a socket to one migration. While a process moves the device behind it, it holds a
lock: an abstract UNIX socket named after the path, which the kernel drops when the process dies, so
that nothing is left. From the beginning of a migration until it was settled there is a claim beside
the socket, `X.sock.migration`: the journal, or a symbolic link to it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from vfio_migration.runtime.coordinator.errors import CannotMigrate

SUFFIX: Final = ".migration"
"""What is put behind the path of a socket: there the claim on it stands."""


def beside(path: str) -> Path:
    """Return where the claim on a socket stands, whatever name the socket is given."""
    real = os.path.realpath(path)
    return Path((path if real == os.path.abspath(path) else real) + SUFFIX)  # noqa: PTH100


@contextlib.contextmanager
def locked(paths: Iterable[str]) -> Iterator[None]:
    """Have these sockets to oneself.

    Raises:
        CannotMigrate: Another process, or another coordinator of this one, has one of them.
    """
    with contextlib.ExitStack() as stack:
        for path in sorted({os.path.realpath(path) for path in paths}):
            lock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            digest = hashlib.blake2b(os.fsencode(path), digest_size=20).hexdigest()
            try:
                lock.bind(f"\0vfio-migration/{digest}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise CannotMigrate(
                    f"{path}: another process is moving this device just now",
                    ["wait until it has ended, and then see whether anything is left to do"],
                    refused=True,
                ) from error
        yield


def claimed(path: str) -> Path | None:
    """Return the journal of the migration that a socket belongs to, or None.

    A claim that leads to no journal any more is removed: nobody can follow it.
    """
    try:
        claim = beside(path)
        if not claim.is_symlink():
            return claim if claim.exists() else None
        target = claim.readlink()
        if target.exists():
            return target
        claim.unlink(missing_ok=True)
    except (OSError, ValueError):
        return None  # a name too long for a file, say: nobody can have made one
    return None


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
