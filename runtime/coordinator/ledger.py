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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from vfio_migration.model.plan import FIRST_HOLDER, Holder
from vfio_migration.runtime.coordinator.errors import CannotMigrate
from vfio_migration.runtime.coordinator.process import Process

FORMAT: Final = 1
"""The version of the file; a reader refuses another."""

SUFFIX: Final = ".migration"
"""What is put behind the name of the first source: there its journal stands if nothing is said."""

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
    """

    path: Path | None
    migration: str
    entries: tuple[Entry, ...]
    holder: Holder = FIRST_HOLDER
    _written: bool = field(default=False, repr=False)

    def begin(self) -> None:
        """Write it for the first time.

        Raises:
            CannotMigrate: There is one already, or it cannot be written.
        """
        if self.path is None:
            return
        try:
            self._replace(new=True)
        except FileExistsError as error:
            raise CannotMigrate(
                f"{self.path}: an earlier migration was not brought to its end",
                [f"run: vfio-migration recover {_pairs(self.entries)}"],
            ) from error
        except OSError as error:
            raise CannotMigrate(
                f"{self.path}: the journal cannot be written: {error.strerror}",
                ["say where it can be: --journal FILE"],
            ) from error
        self._written = True

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

    def end(self) -> None:
        """Remove it: nobody needs it any more."""
        if self.path is not None and self._written:
            self.path.unlink(missing_ok=True)
            _sync(self.path.parent)
            self._written = False

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
            _sync(self.path.parent)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                beside.unlink()
            raise


def beside(source: str) -> Path:
    """Return where the journal of a migration stands whose first source is this."""
    return Path(source + SUFFIX)


def read(path: Path) -> Ledger | None:
    """Read a journal; None if there is none.

    Raises:
        CannotMigrate: It cannot be read, or is no journal of this version.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotMigrate(f"{path}: the journal cannot be read: {error.strerror}") from error
    try:
        data = json.loads(text)
        form = data["format"]
        entries = tuple(
            Entry(
                str(one["source"]),
                str(one["destination"]),
                Process.from_data(one["source_process"]),
                Process.from_data(one["destination_process"]),
            )
            for one in data["devices"]
        )
        if form == FORMAT and data["holder"] in get_args(Holder) and entries:
            return Ledger(path, str(data["migration"]), entries, data["holder"], True)
        problem = f"format {form} and holder {data['holder']} are not known here"
    except (ValueError, KeyError, TypeError) as error:
        raise CannotMigrate(
            f"{path}: this is no journal of a migration, or it is damaged", [_KEEP]
        ) from error
    raise CannotMigrate(f"{path}: {problem}", [_KEEP])


def _pairs(entries: Sequence[Entry]) -> str:
    return " ".join(f"{one.source} {one.destination}" for one in entries)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
