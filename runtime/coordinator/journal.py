"""The journal of a migration: what has to be known if its coordinator is killed.

It states which process serves each device, and who holds the state (see [[migrations]] in
`model/group_plan.toml`). It is there from before the first device is asked anything until the side
that is not to run is known to be stopped. Each change is on the disk before anything else is done.

The disk may be full by then, and that must not be what leaves two sides stopped. So the file
has all its room from the beginning: behind what does not change (JSON, and a NUL) there are slots,
each a block of its own that is written once, with who holds the state from then on. The last slot
whose checksum is right counts; one that was torn counts for nothing. Only a journal whose slots are
used up is replaced, as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from vfio_migration.model import json_text
from vfio_migration.model.advice import command, operand
from vfio_migration.model.errors import why
from vfio_migration.model.plan import FIRST_HOLDER, Holder
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.errors import CannotMigrateError, NotTrustedError
from vfio_migration.runtime.files import trusted_path
from vfio_migration.runtime.files.atomic_file import AtomicFile, CannotWriteError, kind_of
from vfio_migration.runtime.transport.peer_process import Process

FORMAT: Final = 2
"""The version of the file."""
_FORMATS: Final = (1, FORMAT)
"""What is read; a reader refuses another."""

MAX_JOURNAL_BYTES: Final = 1 << 20
"""How many bytes the part that does not change has at most."""
_BLOCK: Final = 4096
_SLOTS: Final = 4
"""How often who holds the state can change. It does so three times, all recoveries included: to
delivered, to the destination, and to the source again if that is lost (see [[handovers]])."""
_HOLDERS: Final[dict[str, Holder]] = {
    **{one: one for one in get_args(Holder)},
    "both": FIRST_HOLDER,
}
"""What is read of who holds the state. Format 1 said "both" from before the rest was transferred:
that states no more than that the destination was not started yet."""
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_KEEP: Final = "choose which side is to run: --keep source or --keep destination"


class NotWrittenError(OSError):
    """The journal cannot be written, and states what it said before."""

    @property
    def why(self) -> str:
        """What is wrong, in full."""
        return f"{self.filename}: the journal cannot be written: {self.strerror}"

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A device, by the paths of its sockets, and who serves it at each; None for any process."""

    source: str
    destination: str
    source_process: Process | None
    destination_process: Process | None


@dataclass(slots=True)
class Journal:
    """A journal.

    Attributes:
        path: Where it is; None keeps it in memory alone.
        migration: The row of [[migrations]] that is followed.
        entries: The devices.
        holder: Who holds the state.
        folder: Where the names of the sockets are to be looked up.
        asserted: What the operator answered for: names of rows of [[assertions]].
    """

    path: Path | None
    migration: str
    entries: tuple[Entry, ...]
    holder: Holder = FIRST_HOLDER
    folder: str = field(default_factory=lambda: _folder())
    _written: bool = field(default=False, repr=False)
    _fixed: bytes = field(default=b"", repr=False)
    _used: int = field(default=_SLOTS, repr=False)
    asserted: tuple[str, ...] = ()

    def begin(self) -> None:
        """Write it for the first time, and claim all sockets.

        Raises:
            CannotMigrateError: One of them belongs to a migration that was not finished, or it
            cannot be
                written.
        """
        if self.path is None:
            return
        for one in self.sockets:
            if (other := claims.claimed(one)) is not None:
                raise unfinished(one, other)
        try:
            self._replace(new=True)
            self._written = True
            claims.claim(self.sockets, self.path)
        except FileExistsError as error:
            self.end()
            raise unfinished(self.entries[0].source, self.path) from error
        except (OSError, ValueError) as error:
            self.end()
            everywhere = getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE)
            raise CannotMigrateError(
                f"{claims.shown(str(self.path))}: the journal cannot be written: {why(error)}",
                [] if everywhere else ["choose another place: --journal FILE"],
            ) from error

    def amend(self, entries: tuple[Entry, ...]) -> None:
        """Write down who serves the devices, now that they have answered; raise as `hold`."""
        if entries == self.entries:
            return
        before, self.entries = self.entries, entries
        if self.path is not None:
            try:
                self._replace(new=False)
            except OSError as error:
                self.entries = before
                raise NotWrittenError(error.errno, error.strerror, str(self.path)) from error

    def _resume(self, fixed: bytes, used: int, size: int) -> None:
        """Go on with the slots of a file, if it has all of them."""
        if size == _room(fixed) + _SLOTS * _BLOCK:
            self._fixed, self._used = fixed, used

    def takes_over(self, exists: bool) -> None:
        """Take the place of a journal that is there, if one does."""
        self._written = exists

    @property
    def sockets(self) -> list[str]:
        """The paths of all sockets, from the root."""
        names = [name for one in self.entries for name in (one.source, one.destination) if name]
        return self.named(names, self.folder)

    @staticmethod
    def named(names: Sequence[str], folder: str | None = None) -> list[str]:
        """Return the paths of sockets from the root, by their names in this folder or another."""
        folder = _folder() if folder is None else folder
        return [os.path.join(folder, name) for name in names]  # noqa: PTH118 - as bytes allow

    def here(self, name: str) -> str:
        """Return how a socket is reached from this folder: by the name it was given, if it can."""
        if not name or self.folder == _folder():
            return name
        return os.path.join(self.folder, name)  # noqa: PTH118

    def recovery(self, *more: str) -> str:
        """Return what to run to finish it from this folder.

        Args:
            more: What else is to be reported to it.
        """
        words = [name for one in self.entries for name in (one.source, one.destination) if name]
        words = [operand(self.here(name)) for name in words]
        if self.path is not None and not _is_claimed(words[0]):
            words += ["--journal", operand(self.path)]
        return f"run: {command('recover', *words, *more)}"

    def hold(self, holder: Holder) -> None:
        """Write down who holds the state from now on; raise `NotWrittenError` if it cannot."""
        if holder == self.holder:
            return
        before, self.holder = self.holder, holder
        if self.path is not None:
            try:
                if not self._note():
                    self._replace(new=False)
            except OSError as error:
                self.holder = before
                raise NotWrittenError(error.errno, error.strerror, str(self.path)) from error

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
    def exists(self) -> bool:
        """Whether there is a file that somebody may still need."""
        return self._written

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "format": FORMAT,
            "migration": self.migration,
            "holder": self.holder,
            "folder": self.folder,
            "asserted": list(self.asserted),
            "devices": [
                {
                    "source": one.source,
                    "source_process": _process_data(one.source_process),
                    "destination": one.destination,
                    "destination_process": _process_data(one.destination_process),
                }
                for one in self.entries
            ],
        }

    def _note(self) -> bool:
        """Write who holds the state into the next slot; return whether that was done."""
        if self._used >= _SLOTS:
            return False
        assert self.path is not None
        at = _room(self._fixed) + self._used * _BLOCK
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False  # somebody took it away; it is written anew
        try:
            if os.pread(fd, len(self._fixed), 0) != self._fixed:
                return False
            try:
                os.pwrite(fd, _slot(self._fixed, self._used, self.holder), at)
                os.fsync(fd)
            except OSError:
                # Whatever of it is there must not count: nobody will act on it.
                os.pwrite(fd, bytes(_BLOCK), at)
                return False
        except OSError:
            return False
        finally:
            os.close(fd)
        self._used += 1
        return True

    def _replace(self, *, new: bool) -> None:
        assert self.path is not None
        fixed = json.dumps(self.to_data(), indent=1).encode() + b"\n\0"
        if len(fixed) > MAX_JOURNAL_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        file = AtomicFile(self.path, replace=not new)
        try:
            with file:
                file.reserve(_room(fixed) + _SLOTS * _BLOCK)
                file.write(fixed)
        except CannotWriteError as error:
            if new and file.placed:
                self.path.unlink(missing_ok=True)
            if error.__cause__ is not None:
                raise error.__cause__ from None
            # It was not the system that refused, but what stands there.
            raise FileExistsError(errno.EEXIST, error.problem) from error
        self._fixed, self._used = fixed, 0


def _room(fixed: bytes) -> int:
    """Return how much room is taken before the first slot."""
    return -(-len(fixed) // _BLOCK) * _BLOCK


def _slot(fixed: bytes, number: int, holder: str) -> bytes:
    """Return what is written into a slot; its checksum states that it belongs to this journal."""
    content = {"number": number, "holder": holder}
    check = zlib.crc32(json.dumps(content).encode(), zlib.crc32(fixed))
    return json.dumps({**content, "check": f"{check:08x}"}).encode() + b"\n"


def _slots(text: bytes) -> tuple[bytes, list[str]]:
    """Return the part of a journal that does not change, and who held the state, one by one."""
    fixed = text[: text.find(b"\0") + 1] or text
    holders: list[str] = []
    while len(holders) < _SLOTS:
        at = _room(fixed) + len(holders) * _BLOCK
        line = text[at : at + _BLOCK].split(b"\0", 1)[0]
        holder = next((one for one in _HOLDERS if _slot(fixed, len(holders), one) == line), None)
        if holder is None:
            break
        holders.append(holder)
    return fixed, holders


beside = claims.beside


def unfinished(socket: str, journal: Path) -> CannotMigrateError:
    """Return why a device is not touched that an earlier migration left behind."""
    with contextlib.suppress(OSError):
        if kind := kind_of(journal.stat().st_mode):
            return CannotMigrateError(
                f"{journal}: is {kind}, and is where the journal of {socket} would be",
                ["take it away, or choose another place for the journal: --journal FILE"],
                refused=True,
            )
    hints = [f"its journal, {journal}, records how to recover it: vfio-migration recover"]
    try:
        found = read(journal)
        if found is not None:
            hints = [found.recovery()]
    except NotTrustedError as error:
        return error
    except CannotMigrateError:
        pass
    return CannotMigrateError(
        f"{socket}: an earlier migration of this device was not brought to its end",
        hints,
        refused=True,
    )


def _is_claimed(socket: str) -> bool:
    try:
        return claims.claimed(socket) is not None
    except CannotMigrateError:
        return False


def _folder() -> str:
    return os.path.realpath(".")


def read(path: Path) -> Journal | None:
    """Read a journal; None if there is none.

    What it states is done to devices, so it is believed only if it belongs to this user or to root,
    is a file, and cannot be written by others: in a folder like `/tmp` anybody can leave one.

    Raises:
        NotTrustedError: Somebody else may have written it.
        CannotMigrateError: It cannot be read, or is not a journal of this version.
    """
    try:
        with open(_open_trusted(path), "rb") as file:
            text = file.read(MAX_JOURNAL_BYTES + _SLOTS * _BLOCK)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        name = claims.shown(str(path))
        raise CannotMigrateError(f"{name}: the journal cannot be read: {why(error)}") from error
    try:
        fixed, holders = _slots(text)
        data = json_text.parse(fixed.rstrip(b"\0"))
        form, holder = data["format"], [data["holder"], *holders][-1]
        entries = tuple(
            Entry(
                _text(one["source"]),
                _text(one["destination"]),
                _process(one["source_process"]),
                _process(one["destination_process"]),
            )
            for one in data["devices"]
        )
        if form in _FORMATS and holder in _HOLDERS and entries:
            folder = _text(data.get("folder", _folder()))
            found = Journal(path, _text(data["migration"]), entries, _HOLDERS[holder], folder, True)
            found.asserted = tuple(_text(one) for one in data.get("asserted", []))
            found._resume(fixed, len(holders), len(text))
            try:
                claims.check_names(found.sockets)
            except CannotMigrateError as error:
                raise CannotMigrateError(f"{path}: {error.why}", [_KEEP]) from error
            return found
        problem = f"format {form} and holder {holder} are not known here"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotMigrateError(
            f"{path}: this is not a journal of a migration, or it is damaged", [_KEEP]
        ) from error
    raise CannotMigrateError(f"{path}: {problem}", [_KEEP])


def _open_trusted(path: Path) -> int:
    """Open a journal that nobody else can have written; return the descriptor.

    Raises:
        NotTrustedError: Somebody else may have written it.
        OSError: It cannot be opened, or there is none.
        ValueError: The path has a NUL in it.
    """
    try:
        found = trusted_path.open_folder(path)
        try:
            _check_trusted(found.stat(), path)  # a pipe or a device is not even opened
            # Not to wait for a pipe that was put there since.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | found.no_follow
            fd = os.open(found.name, flags, dir_fd=found.folder)
        finally:
            os.close(found.folder)
        try:
            _check_trusted(os.fstat(fd), path)
        except BaseException:
            os.close(fd)
            raise
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        raise NotTrustedError(
            f"{claims.shown(str(path))}: is not taken for the journal of a migration: "
            f"{error.strerror}",
            ["if that user has begun one, let them recover it; if nobody has, remove it"],
        ) from error
    return fd


def _check_trusted(there: os.stat_result | None, path: Path) -> None:
    """Raise `NotTrustedError`, or `PermissionError` (EPERM) if it belongs to another user."""
    if there is None:
        return
    name = claims.shown(str(path))
    if kind := kind_of(there.st_mode):
        hint = "take it away, or give the place of the journal: --journal FILE"
        raise NotTrustedError(f"{name}: is {kind}, and no journal", [hint])
    trusted_path.check_owner(there, "the file")
    if there.st_mode & _OTHERS_WRITE:
        raise NotTrustedError(
            f"{name}: is not taken for the journal of a migration: others can write to it (mode "
            f"{stat.S_IMODE(there.st_mode):04o})",
            [f"if you know what is in it: {shlex.join(['chmod', 'go-w', operand(path)])}"],
        )


def _process(data: object) -> Process | None:
    return None if data is None else Process.from_data(data)


def _process_data(process: Process | None) -> dict[str, Any] | None:
    return None if process is None else process.to_data()


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
