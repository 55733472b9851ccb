"""The journal of a migration: what has to be known if whoever coordinates it is killed.

It says which process serves each device, and who holds the state (see [[migrations]] in
`model/group_plan.toml`). It is there from before the first device is asked anything until the side
that is not to run is known to stand still. Each change replaces the file as a whole and is on the
disk before anything else is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from vfio_migration.model.plan import FIRST_HOLDER, Holder
from vfio_migration.runtime.atomic_file import kind_of
from vfio_migration.runtime.coordinator import claims
from vfio_migration.runtime.coordinator.errors import CannotMigrate
from vfio_migration.runtime.coordinator.process import Process

FORMAT: Final = 1
"""The version of the file; a reader refuses another."""

_LONGEST: Final = 1 << 20
_KEEP: Final = "say which side is to run: --keep source or --keep destination"


class NotWritten(OSError):  # noqa: N818 - reads as what it says
    """The journal cannot be written, and says what it said before."""

    @property
    def why(self) -> str:
        """What is wrong, in full."""
        return f"{self.filename}: the journal cannot be written: {self.strerror}"

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A device, by the paths of its two sockets, and who serves it at each."""

    source: str
    destination: str
    source_process: Process
    destination_process: Process


@dataclass(slots=True)
class Ledger:
    """A journal.

    Attributes:
        path: Where it stands; None keeps it in memory alone.
        migration: The row of [[migrations]] that is followed.
        entries: The devices.
        holder: Who holds the state.
        folder: Where the names of the sockets are to be looked up.
    """

    path: Path | None
    migration: str
    entries: tuple[Entry, ...]
    holder: Holder = FIRST_HOLDER
    folder: str = field(default_factory=lambda: _folder())
    _written: bool = field(default=False, repr=False)

    def begin(self) -> None:
        """Write it for the first time, and claim all sockets.

        Raises:
            CannotMigrate: One of them belongs to a migration that was not settled, or it cannot be
                written.
        """
        if self.path is None:
            return
        for one in self.sockets:
            if (other := claims.claimed(one)) is not None:
                raise unsettled(one, other)
        try:
            self._replace(new=True)
            self._written = True
            claims.claim(self.sockets, self.path)
        except FileExistsError as error:
            self.end()
            raise unsettled(self.entries[0].source, self.path) from error
        except (OSError, ValueError) as error:
            self.end()
            why = getattr(error, "strerror", None) or error
            raise CannotMigrate(
                f"{claims.shown(str(self.path))}: the journal cannot be written: {why}",
                ["say where it can be: --journal FILE"],
            ) from error

    def takes_over(self, stands: bool) -> None:
        """Take the place of a journal that stands there, if one does."""
        self._written = stands

    @property
    def sockets(self) -> list[str]:
        """The paths of all sockets, from the root."""
        names = [name for one in self.entries for name in (one.source, one.destination) if name]
        return [os.path.join(self.folder, name) for name in names]  # noqa: PTH118 - as bytes allow

    def here(self, name: str) -> str:
        """Return how a socket is reached from this folder: by the name it was given, if it can."""
        if not name or self.folder == _folder():
            return name
        return os.path.join(self.folder, name)  # noqa: PTH118

    def hold(self, holder: Holder) -> None:
        """Write down who holds the state from now on; raise `NotWritten` if that cannot be done."""
        if holder == self.holder:
            return
        before, self.holder = self.holder, holder
        if self.path is not None:
            try:
                self._replace(new=False)
            except OSError as error:
                self.holder = before
                raise NotWritten(error.errno, error.strerror, str(self.path)) from error

    def end(self) -> str | None:
        """Remove it and all claims: nobody needs them any more. Return why that failed, if it did.

        It is no reason to call a migration failed that was brought to its end.
        """
        if self.path is None or not self._written:
            return None
        claims.release(self.sockets, self.path)
        try:
            self.path.unlink(missing_ok=True)
            self._written = False
            _sync(self.path.parent)
        except OSError as error:
            return f"{self.path}: the journal cannot be removed: {error.strerror}"
        return None

    @property
    def stands(self) -> bool:
        """Whether there is a file that somebody may still need."""
        return self._written

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": FORMAT,
            "migration": self.migration,
            "holder": self.holder,
            "folder": self.folder,
            "devices": [
                {
                    "source": one.source,
                    "source_process": one.source_process.to_data(),
                    "destination": one.destination,
                    "destination_process": one.destination_process.to_data(),
                }
                for one in self.entries
            ],
        }

    def _replace(self, *, new: bool) -> None:
        assert self.path is not None
        text = json.dumps(self.to_data(), indent=1) + "\n"
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - it is a descriptor
                file.write(text)
                file.flush()
                os.fsync(fd)
            if new:
                # A link, unlike a rename, fails if somebody else was first.
                os.link(beside, self.path)
                beside.unlink()
            else:
                beside.replace(self.path)
            try:
                _sync(self.path.parent)
            except OSError:
                if new:
                    self.path.unlink(missing_ok=True)
                raise
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            raise


beside = claims.beside


def unsettled(socket: str, journal: Path) -> CannotMigrate:
    """Return why a device is not touched that an earlier migration left behind."""
    with contextlib.suppress(OSError):
        if kind := kind_of(journal.stat().st_mode):
            return CannotMigrate(
                f"{journal}: is {kind}, and stands where the journal of {socket} would",
                ["take it away, or say where the journal can be: --journal FILE"],
                refused=True,
            )
    hints = [f"its journal, {journal}, says how it is settled: vfio-migration recover"]
    with contextlib.suppress(CannotMigrate):
        found = read(journal)
        if found is not None:
            pairs = [(one.source, one.destination) for one in found.entries]
            names = [found.here(name) for pair in pairs for name in pair]
            more = [] if claims.claimed(names[0]) else ["--journal", str(journal)]
            hints = [f"run: vfio-migration recover {shlex.join([*names, *more])}"]
    return CannotMigrate(
        f"{socket}: an earlier migration of this device was not brought to its end",
        hints,
        refused=True,
    )


def _folder() -> str:
    return os.path.realpath(".")


def read(path: Path) -> Ledger | None:
    """Read a journal; None if there is none.

    Raises:
        CannotMigrate: It cannot be read, or is no journal of this version.
    """
    try:
        # Not to wait for a pipe in which nobody writes.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123
            text = file.read(_LONGEST)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        name = claims.shown(str(path))
        raise CannotMigrate(f"{name}: the journal cannot be read: {why}") from error
    try:
        data = json.loads(text)
        form = data["format"]
        entries = tuple(
            Entry(
                _text(one["source"]),
                _text(one["destination"]),
                Process.from_data(one["source_process"]),
                Process.from_data(one["destination_process"]),
            )
            for one in data["devices"]
        )
        if form == FORMAT and data["holder"] in get_args(Holder) and entries:
            folder = _text(data.get("folder", _folder()))
            found = Ledger(path, _text(data["migration"]), entries, data["holder"], folder, True)
            try:
                claims.check_names(found.sockets)
            except CannotMigrate as error:
                raise CannotMigrate(f"{path}: {error.why}", [_KEEP]) from error
            return found
        problem = f"format {form} and holder {data['holder']} are not known here"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotMigrate(
            f"{path}: this is no journal of a migration, or it is damaged", [_KEEP]
        ) from error
    raise CannotMigrate(f"{path}: {problem}", [_KEEP])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
