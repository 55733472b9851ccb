"""Where figures go: what is there, what should be, and the difference between the two."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vfio_migration.cli.publishing.marked import MarkerError, exchanged, first_marker
from vfio_migration.model.errors import Mistake, why
from vfio_migration.runtime.files.atomic_file import (
    AtomicFile,
    CannotWriteError,
    kind_of,
    new_mode,
)

_MAX_FILE_BYTES: Final = 64 << 20


@dataclass
class Place:
    """A file that figures go to.

    Attributes:
        path: Its path, from the folder of the manifest.
        whole: What is to be in it; None if it has parts.
        parts: What is to be between its markers.
        found: What is in it; None if there is no such file.
        mode: The permissions it has, or is to have.
        wanted: What is to be in all of it; None if that cannot be stated.
        mistakes: What is in the way.
    """

    path: str
    whole: bytes | None = None
    parts: dict[str, str] = field(default_factory=dict)
    found: bytes | None = None
    mode: int = 0o644
    wanted: bytes | None = None
    mistakes: list[Mistake] = field(default_factory=list)

    def look(self) -> None:
        """Read what is there, and find out what should be."""
        try:
            self.found = self._read()
            if self.whole is not None:
                self.wanted = self.whole
                self._look_whole()
            elif self.found is None:
                self._complain(None, "is missing", "make it, with the two lines for each marker")
            else:
                self.wanted = exchanged(self.path, self.found, self.parts)
        except MarkerError as error:
            self._complain(error.line, error.problem, error.hint)
        except (OSError, ValueError) as error:
            self._complain(None, f"cannot be read: {why(error)}", "name another file")

    def _look_whole(self) -> None:
        """Complain if somebody writes this file by hand, as far as that can be seen."""
        line = None if self.found in (None, self.whole) else first_marker(self.found or b"")
        if line is not None:
            problem = "has markers, and a figure is to be all of the file"
            self._complain(line, problem, "give the figure `into` and `marker`, or remove the file")

    def _read(self) -> bytes | None:
        real = Path(os.path.realpath(self.path))
        if ".git" in real.parts:
            self._complain(None, "is git's own", "name another file")
            return None
        if not real.is_relative_to(Path.cwd().resolve()):
            hint = "name the file that it leads to, or list it in a manifest there"
            self._complain(None, "leads out of the folder of the manifest", hint)
            return None
        try:
            there = real.stat()
        except FileNotFoundError:
            self.mode = new_mode()
            return None
        if kind := kind_of(there.st_mode):
            self._complain(None, f"is {kind}", "name a file")
            return None
        if there.st_size > _MAX_FILE_BYTES:
            self._complain(None, f"has more than {_MAX_FILE_BYTES} bytes", "name another file")
            return None
        self.mode = stat.S_IMODE(there.st_mode)
        return real.read_bytes()

    def _complain(self, line: int | None, problem: str, hint: str) -> None:
        if not self.mistakes:
            where = self.path if line is None else f"{self.path}:{line}"
            self.mistakes.append(Mistake(where, None, problem, hint))

    @property
    def differs(self) -> bool:
        """Whether it is not what it should be."""
        return bool(self.mistakes) or self.found != self.wanted

    def difference(self) -> str:
        """Return in what it differs, to be printed."""
        if self.mistakes:
            return str(self.mistakes[0])
        assert self.wanted is not None
        if self.found is None:
            return f"{self.path}: is missing"
        old, new = _lines(self.found), _lines(self.wanted)
        diff = "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in difflib.unified_diff(
                old, new, f"{self.path} (as it is)", f"{self.path} (as it should be)", n=1
            )
        )
        # Bytes that are not text can differ where their text does not.
        is_text = b"\0" not in self.found + self.wanted
        return diff.rstrip("\n") if diff and is_text else f"{self.path}: differs, and is not text"


def _lines(content: bytes) -> list[str]:
    # Not `str.splitlines`: it also splits at, and so hides, a carriage return.
    lines = content.decode(errors="replace").split("\n")
    return [f"{line}\n" for line in lines[:-1]] + [line for line in lines[-1:] if line]


def strays(folders: Iterable[str], places: Mapping[str, Place]) -> Iterator[str]:
    """Yield each file in a folder of figures that is no figure."""
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            name = path.as_posix()
            if (path.is_symlink() or not path.is_dir()) and name not in places:
                yield name


def write(places: Iterable[Place]) -> None:
    """Write all of them, or none.

    All are written out beside their places first, which finds a full disk or a folder that cannot
    be written to. Only then they get their names, one after the other, and a signal waits until
    all have them; if one cannot, those that were replaced are put back.

    Raises:
        CannotWriteError: One cannot be written.
    """
    done: list[Place] = []
    with contextlib.ExitStack() as staged:
        files = []
        for place in places:
            real = Path(os.path.realpath(place.path))
            try:
                real.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                problem = f"cannot be written: {why(error)}"
                raise CannotWriteError(real, problem, "take another folder") from error
            if place.found is not None and not place.mode & 0o222:
                hint = "make it writable"
                raise CannotWriteError(Path(place.path), "is read-only", hint)
            file = AtomicFile(real, replace=True, mode=place.mode)
            staged.enter_context(file)
            assert place.wanted is not None
            file.write(place.wanted)
            files.append((place, file))
        with _signals_wait():
            try:
                for place, file in files:
                    file.commit()
                    done.append(place)
            except CannotWriteError:
                for place in done:
                    _put_back(place)
                raise


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let what would end this process come only afterwards."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _put_back(place: Place) -> None:
    real = Path(os.path.realpath(place.path))
    with contextlib.suppress(OSError, CannotWriteError):
        if place.found is None:
            real.unlink()
            return
        with AtomicFile(real, replace=True, mode=place.mode) as file:
            file.write(place.found)
