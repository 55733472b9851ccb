"""Where a path leads, followed only over symbolic links that nobody else could have planted.

In a folder that others may write to, `/tmp` for one, another user can make a symbolic link with the
name that a command is about to write, and have a file of ours overwritten. So a link is followed if
it belongs to this user or to root, and to nobody else. The kernel has a rule of this kind
(`fs.protected_symlinks`); it does not hold for a file that is replaced by renaming, and not in
folders without the sticky bit.

The way is walked with descriptors, folder by folder, so that a folder exchanged meanwhile leads
nowhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_LINKS: Final = 40
"""How many symbolic links one path may lead over, as in Linux."""

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_PROC: Final = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class TrustedPath:
    """The end of a path.

    Attributes:
        folder: A descriptor of the folder (O_PATH); the caller closes it.
        name: The name in it. There may be nothing of this name.
        is_magic: The name is a link of the kernel's own, in /proc, which only `open` can follow.
    """

    folder: int
    name: str
    is_magic: bool = False

    @property
    def no_follow(self) -> int:
        """The flag that keeps `open` from following what appears there at the last moment."""
        return 0 if self.is_magic else os.O_NOFOLLOW

    def stat(self) -> os.stat_result | None:
        """Look at what is there; None if there is nothing."""
        try:
            return os.stat(self.name, dir_fd=self.folder, follow_symlinks=self.is_magic)
        except FileNotFoundError:
            return None


def trusted(owner: int) -> bool:
    """Return whether what belongs to this user id may decide where we write."""
    return owner in (os.geteuid(), 0)


def check_owner(there: os.stat_result, what: str) -> None:
    """Refuse what belongs to another user, root apart.

    Args:
        there: What was found.
        what: What it is, for the message: "a symbolic link", "a file".

    Raises:
        PermissionError: It does.
    """
    if not trusted(there.st_uid):
        raise PermissionError(errno.EPERM, f"{what} there belongs to another user ({there.st_uid})")


def open_folder(path: str | os.PathLike[str]) -> TrustedPath:
    """Open the folder that a path leads to.

    Raises:
        PermissionError: A symbolic link on the way belongs to another user.
        OSError: A folder on the way cannot be opened.
        ValueError: The path has a NUL in it.
    """
    text = os.fspath(path)
    parts = _parts(text)
    here = os.open("/" if text.startswith("/") else ".", _STEP | os.O_DIRECTORY)
    links = 0
    try:
        while True:
            part = parts.pop() if parts else "."
            try:
                there = os.stat(part, dir_fd=here, follow_symlinks=False)
            except FileNotFoundError:
                if parts:
                    raise
                return TrustedPath(here, part)
            if stat.S_ISLNK(there.st_mode):
                links += 1
                target, is_magic = _followed(part, here, links)
                if is_magic:
                    if not parts:
                        return TrustedPath(here, part, is_magic=True)
                    here = _into(part, here, os.O_PATH | os.O_CLOEXEC)
                    continue
                parts += _parts(target)
                if target.startswith("/"):
                    here = _into("/", here)
            elif not parts:
                return TrustedPath(here, part)
            else:
                here = _into(part, here)
    except BaseException:
        os.close(here)
        raise


def _parts(path: str) -> list[str]:
    """Return the names on the way, the last one first."""
    return [part for part in path.split("/") if part not in ("", ".")][::-1]


def _into(part: str, here: int, flags: int = _STEP) -> int:
    """Step into a folder; the one that was open is closed."""
    there = os.open(part, flags | os.O_DIRECTORY, dir_fd=here)
    os.close(here)
    return there


def _followed(part: str, here: int, links: int) -> tuple[str, bool]:
    """Return where a link leads, and whether it is one of the kernel's own."""
    if links > MAX_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    link = os.open(part, _STEP, dir_fd=here)
    try:
        found = os.fstat(link)
        if not stat.S_ISLNK(found.st_mode):
            raise OSError(errno.EAGAIN, "it was exchanged while it was looked at")
        check_owner(found, "a symbolic link")
        is_magic = _PROC.exists() and found.st_dev == _PROC.stat().st_dev
        return os.readlink("", dir_fd=link), is_magic
    finally:
        os.close(link)
