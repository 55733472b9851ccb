"""A file that is written whole or not at all.

What is written has no name until it is complete and on the disk (O_TMPFILE); then it gets its name
in one step. Where the file system has no nameless files, and for the one step in which an old file
is replaced, it has a name that begins with `PREFIX`; only there a process that is killed leaves
something behind, beside the file and never in place of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final, Self

from vfio_migration.model.errors import why
from vfio_migration.runtime.files import trusted_path
from vfio_migration.runtime.files.trusted_path import TrustedPath

Data = bytes | bytearray | memoryview

PREFIX: Final = ".vfio-migration-"
"""How the name of an unfinished file begins, if it has one."""

_MODE: Final = 0o600
_NO_NAMELESS: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)

_NO_ALLOCATION: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_ROOM = "make room, or take a place on another file system"
_HINTS: Final = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "raise the limit (ulimit -f), or take another file system",
    errno.EACCES: "take a folder that you may write to",
    errno.EPERM: "take a folder that you may write to",
    errno.EROFS: "its file system is read-only; take a place on another",
    errno.ENOENT: "make its folder first",
    errno.ENOTDIR: "what should be its folder is a file; take another path",
    errno.ENAMETOOLONG: "take a shorter name",
    errno.ELOOP: "the links on the way to it lead nowhere; take another path",
    errno.EMFILE: "raise the limit (ulimit -n)",
    errno.EIO: "the disk may be failing; take a place on another",
}
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class CannotWriteError(Exception):
    """The file cannot be written. What was there before is there still, unless `problem` says not.

    Attributes:
        path: Which file.
        problem: What is wrong.
        hint: The way out.
        errno: The name of the system's error, or None if it was not the system that refused.
    """

    def __init__(self, path: Path, problem: str, hint: str, errno: str | None = None) -> None:
        super().__init__(f"{path}: {problem}; {hint}")
        self.path = path
        self.problem = problem
        self.hint = hint
        self.errno = errno


def kind_of(mode: int) -> str | None:
    """Return what is there if it is no regular file."""
    return next((name for is_one, name in _KINDS if is_one(mode)), None)


def write_output(path: str | os.PathLike[str], data: Data) -> None:
    """Write what a user asked to have in a file, as a shell's `>` would, but whole or not at all.

    A symbolic link stays a link, and what it leads to is replaced, if it belongs to this user or to
    root. The file gets the mode of any new file. A pipe or a device is written to.

    Raises:
        CannotWriteError: What was there before is there still.
    """
    try:
        found = trusted_path.open_folder(path)
        try:
            there = found.stat()
            if there is None or stat.S_ISREG(there.st_mode):
                if not found.is_magic:
                    with AtomicFile(path, replace=True, mode=new_mode(), at=found) as file:
                        file.write(data)
                    return
            else:
                trusted_path.check_owner(there, kind_of(there.st_mode) or "what is")
            flags = os.O_WRONLY | os.O_CLOEXEC | found.no_follow
            with open(os.open(found.name, flags, dir_fd=found.folder), "wb") as special:  # noqa: PTH123
                special.write(data)
        finally:
            os.close(found.folder)
    except (OSError, ValueError) as error:
        raise _cannot(Path(path), error, 0) from error


def new_mode(asked: int = 0o666) -> int:
    """Return what the user's umask leaves of the permissions asked for (0o777 for a folder)."""
    umask = os.umask(0)
    os.umask(umask)
    return asked & ~umask


class AtomicFile:
    """A new file, with mode 0600; a context manager that ends with all of it or nothing.

    Without `replace` a file that is there is never touched, not even one that somebody makes at
    the last moment (but where a file system has no hard links, such as FAT). Everything here
    raises `CannotWriteError`.

    Args:
        path: Where it will be.
        replace: A regular file that is there may be replaced.
        mode: The permissions that it gets.
        at: The folder that was opened for it, and its name there; by default those of the path.

    Attributes:
        path: Where it will be.
        written: How many bytes were written.
        placed: It has its name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        replace: bool = False,
        mode: int = _MODE,
        at: TrustedPath | None = None,
    ) -> None:
        self.path = Path(path)
        self.written = 0
        self.placed = False
        self._replace = replace
        self._mode = mode
        self._at = at
        self._end = self.path.name if at is None else at.name
        self._fd = self._folder = -1
        # The name it has while it is not finished, if it needs one.
        self._name: str | None = None
        self._whole = True

    def __enter__(self) -> Self:
        """Begin the file, after a look at what is there."""
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            if self._at is None:
                self._folder = os.open(self.path.parent, flags)
            else:
                self._folder = os.open(".", flags, dir_fd=self._at.folder)
            self._refuse_what_is_there()
            self._begin()
            os.fchmod(self._fd, self._mode)  # the umask may have taken too much
        except (OSError, ValueError) as error:
            self.discard()
            raise self._cannot(error) from error
        except BaseException:
            self.discard()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Give the file its name, or remove all trace of it if there was an exception."""
        try:
            if kind is None and not self.placed:
                self.commit()
        finally:
            self.discard()

    def write(self, data: Data) -> None:
        """Write all of the data."""
        view = memoryview(data)
        if not self._whole:
            raise self._broken()
        self._whole = False
        try:
            while len(view):
                count = os.write(self._fd, view)
                self.written += count
                view = view[count:]
        except OSError as error:
            raise self._cannot(error) from error
        self._whole = True

    def reserve(self, size: int) -> None:
        """Take room for so many bytes now; what is not written stays zero."""
        try:
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError as error:
                if error.errno not in _NO_ALLOCATION:
                    raise
                if os.pwrite(self._fd, bytes(size), 0) < size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        except OSError as error:
            raise self._cannot(error) from error

    @property
    def is_open(self) -> bool:
        """Return whether it can be written to."""
        return self._fd >= 0

    def give_up(self) -> None:
        """See to it that it never gets its name."""
        self._whole = False

    def discard(self) -> None:
        """Remove what has not got its name yet. Nothing is left, and nothing is raised."""
        if self._name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)
            self._name = None
        for fd in (self._fd, self._folder):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fd = self._folder = -1

    def _begin(self) -> None:
        try:
            flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
            self._fd = os.open(".", flags, _MODE, dir_fd=self._folder)
        except OSError as error:
            if error.errno not in _NO_NAMELESS:
                raise
        else:
            # Without /proc there is no way to give it a name.
            if Path(self._nameless()).exists():
                return
            fd, self._fd = self._fd, -1
            os.close(fd)
        self._name = _fresh()
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        self._fd = os.open(self._name, flags, _MODE, dir_fd=self._folder)

    def commit(self) -> None:
        """Give the file its name now; the end of the block then only closes it."""
        if not self._whole:
            raise self._broken()
        try:
            os.fsync(self._fd)
            self._place()
        except OSError as error:
            raise self._cannot(error) from error
        self.placed = True
        try:
            os.fsync(self._folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some file systems cannot
                problem = f"is complete, but its folder cannot be flushed: {_reason(error)}"
                hint = "it may be lost if the power fails now; write it again to be sure"
                raise CannotWriteError(self.path, problem, hint, _name(error)) from error

    def _place(self) -> None:
        """Give the file its name."""
        if self._name is None:
            try:
                self._link(self._nameless(), self._end)
            except FileExistsError:
                self._refuse_what_is_there()
                self._name = _fresh()
                self._link(self._nameless(), self._name)
            else:
                return
        if not self._replace:
            try:
                self._link(self._name, self._end)
            except OSError as error:
                if error.errno not in (*_NO_LINKS, errno.EEXIST):
                    raise
                self._refuse_what_is_there()
                if error.errno == errno.EEXIST:
                    raise  # it went away between the two, and may come back
            else:
                return  # `discard` removes the other name
        os.rename(self._name, self._end, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._name = None

    def _link(self, source: str, name: str) -> None:
        os.link(
            source,
            name,
            src_dir_fd=self._folder,
            dst_dir_fd=self._folder,
            follow_symlinks=source.startswith("/"),
        )

    def _nameless(self) -> str:
        return f"/proc/self/fd/{self._fd}"

    def _refuse_what_is_there(self) -> None:
        try:
            there = self._there(follow_symlinks=False)
        except FileNotFoundError:
            return
        is_link = stat.S_ISLNK(there.st_mode)
        if is_link:
            with contextlib.suppress(OSError):
                there = self._there(follow_symlinks=True)
        if kind := kind_of(there.st_mode):
            raise CannotWriteError(self.path, f"is {kind}", "name a file on a disk, or one to be")
        if is_link:
            raise CannotWriteError(self.path, "is a symbolic link", "name the file itself")
        if not self._replace:
            hint = "remove it, take another name, or allow it to be replaced"
            raise CannotWriteError(self.path, "is there already", hint)

    def _there(self, *, follow_symlinks: bool) -> os.stat_result:
        # In the folder that was opened: the path, if it is relative, may lead elsewhere by now.
        name = self._end or "."
        return os.stat(name, dir_fd=self._folder, follow_symlinks=follow_symlinks)

    def _cannot(self, error: OSError | ValueError) -> CannotWriteError:
        return _cannot(self.path, error, self.written)

    def _broken(self) -> CannotWriteError:
        problem = f"was given up after {self.written} bytes, when a write did not end"
        return CannotWriteError(self.path, problem, "write it again from its beginning")


def _cannot(path: Path, error: OSError | ValueError, written: int) -> CannotWriteError:
    number = getattr(error, "errno", None) or 0
    hint = _HINTS.get(number, "take another path")
    problem = f"cannot be written: {_reason(error)}"
    if written:
        problem += f", after {written} bytes"
    return CannotWriteError(path, problem, hint, _name(error))


def _fresh() -> str:
    return f"{PREFIX}{secrets.token_hex(8)}.part"


def _name(error: OSError | ValueError) -> str | None:
    return errno.errorcode.get(getattr(error, "errno", None) or 0)


def _reason(error: OSError | ValueError) -> str:
    name = _name(error)
    return f"{why(error)} ({name})" if name else why(error)
