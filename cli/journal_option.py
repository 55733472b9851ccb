"""`--journal`: what it names is looked at before a coordinator replaces or removes it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from vfio_migration.model.errors import why


def to_write(arguments: argparse.Namespace) -> Path:
    """Return where the journal of a migration is to be.

    Raises:
        SpecError: What is there is no file, or none can be there.
    """
    from vfio_migration.runtime.coordinator.journal import beside

    given = arguments.journal
    where = beside(arguments.sockets[0]) if given is None else Path(given)
    _check_way(arguments, where)
    _file(arguments, where)
    return where


def to_read(arguments: argparse.Namespace) -> Path | None:
    """Return the journal that a recovery goes by, if one was named.

    Raises:
        SpecError: As `to_write`.
    """
    from vfio_migration.runtime.coordinator import CannotMigrateError
    from vfio_migration.runtime.coordinator import ownership as claims

    try:
        claimed = [one for one in map(claims.claimed, arguments.sockets) if one is not None]
    except CannotMigrateError:
        return None  # the recovery states it
    where = Path(arguments.journal) if arguments.journal is not None else None
    if where is not None:
        _check_way(arguments, where)
        if os.path.islink(where):  # noqa: PTH114 - takes any name
            where = Path(os.path.realpath(where))  # a link would be replaced, and the journal stay
    for one in claimed if where is None else [where]:
        _file(arguments, one)
    return where


def exists(arguments: argparse.Namespace) -> bool:
    """Return whether there is a journal."""
    from vfio_migration.runtime.coordinator.journal import beside

    where = arguments.journal or beside(arguments.sockets[0])
    return os.path.exists(where)  # noqa: PTH110 - unlike a Path's, it takes any name


def _check_way(arguments: argparse.Namespace, where: Path) -> None:
    """Refuse a name that leads over a symbolic link of another user."""
    from vfio_migration.runtime.files import trusted_path

    try:
        os.close(trusted_path.open_folder(where).folder)
    except PermissionError as error:
        _wrong(arguments, where, f"cannot be a journal: {why(error)}", "name another file")
    except (OSError, ValueError):
        return  # an error that is reported when it is opened


def _file(arguments: argparse.Namespace, where: Path) -> None:
    """Refuse what is no file, and a name that no file can have."""
    from vfio_migration.runtime.files.atomic_file import kind_of

    try:
        mode = where.stat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        if arguments.journal is None:
            return  # it is the name of the socket that is wrong
        problem = f"cannot be a journal: {why(error)}"
        _wrong(arguments, where, problem, "name another file")
    if (kind := kind_of(mode)) is not None:
        _wrong(arguments, where, f"is {kind}, and no journal", "name a file")


def _wrong(arguments: argparse.Namespace, where: Path, problem: str, hint: str) -> NoReturn:
    from vfio_migration.model import Mistake, SpecError

    place = "journal" if arguments.journal is None else "--journal"
    raise SpecError([Mistake(place, str(where), problem, hint)])
