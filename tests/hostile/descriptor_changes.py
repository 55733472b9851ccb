"""What a hostile client does to a descriptor while a server has it and uses it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from descriptor_catalogue import LIBC, SIZE, Use

FOLDER: Final = ContextVar("FOLDER", default=Path("/nowhere"))
"""The folder of the maker."""
KEEP_SIZE_AND_PUNCH: Final = 3
_MAX_WRITES: Final = 1000
"""More than the queue of a pipe or socket takes; what is no queue is not filled without end."""
_EVENT_FULL: Final = struct.pack("=Q", (1 << 64) - 2)


def cut(fd: int) -> None:
    """Make it shorter, and as long as it was."""
    size = os.fstat(fd).st_size
    os.ftruncate(fd, 0)
    os.ftruncate(fd, min(size, 1 << 30) or SIZE)


def cut_for_good(fd: int) -> None:
    os.ftruncate(fd, 0)


def grow(fd: int) -> None:
    os.ftruncate(fd, 1 << 30)


def punch(fd: int) -> None:
    """Take its pages away."""
    LIBC.fallocate(fd, KEEP_SIZE_AND_PUNCH, ctypes.c_long(0), ctypes.c_long(SIZE))


def seal(fd: int) -> None:
    for seals in (fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, 0x10, fcntl.F_SEAL_SEAL):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def append(fd: int) -> None:
    """Change the flags of the description that both sides share."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_APPEND)


def nonblocking(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_NONBLOCK)


def direct(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) ^ os.O_DIRECT)


def seek(fd: int) -> None:
    os.lseek(fd, (1 << 62) - 1, os.SEEK_SET)


def lock(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def duplicate(fd: int) -> None:
    os.close(os.dup(fd))


def remove(fd: int) -> None:
    if path := own_path(fd):
        path.unlink()


def forbid(fd: int) -> None:
    os.fchmod(fd, 0)


def made_here(fd: int) -> bool:
    """Return whether a descriptor is of something that these tests have made.

    The folder `/`, `/dev/null` and files of /sys are in the catalogue, too; root may change them.
    """
    path = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - what this link says is no path
    if path.startswith("/memfd:") or not path.startswith("/"):
        return True
    return own_path(fd) is not None or (path.startswith("/dev/shm/") and not os.fstat(fd).st_nlink)


def own_path(fd: int) -> Path | None:
    """Return where a file is that the maker has made; None of any other."""
    path = Path(os.readlink(f"/proc/self/fd/{fd}"))  # noqa: PTH115 - what this link says
    return path if path.is_relative_to(FOLDER.get()) else None


def fill_and_drain(fd: int) -> None:
    """Have an eventfd full between the look of a server and its write; leave it full.

    The description stays as it is: a write of the server waits, unless its client decides that it
    does not. So does one of ours, which a signal ends.
    """
    if _count(fd) is None:
        return
    with suppress(TimeoutError):
        for _ in range(20):
            if _count(fd):
                os.read(fd, 8)
            _write_or_give_up(fd)
            time.sleep(0.001)


def _write_or_give_up(fd: int) -> None:
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.005)
    try:
        os.write(fd, _EVENT_FULL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up(_number: int, _frame: object) -> None:
    raise TimeoutError


def fill(fd: int) -> None:
    os.set_blocking(fd, False)
    data = bytes(4096) if _count(fd) is None else _EVENT_FULL
    with suppress(BlockingIOError):
        for _ in range(_MAX_WRITES):
            os.write(fd, data)
    os.set_blocking(fd, True)


def _count(fd: int) -> int | None:
    text = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii")
    for line in text.splitlines():
        if line.startswith("eventfd-count:"):
            return int(line.split()[1], 16)
    return None


CHANGES: Final[dict[str, Callable[[int], None]]] = {
    one.__name__: one
    for one in (
        *(cut, cut_for_good, grow, punch, seal, append, nonblocking, direct, seek, lock),
        *(duplicate, remove, forbid, fill_and_drain, fill),
    )
}
FOR: Final[dict[Use, tuple[str, ...]]] = {
    Use.MEMORY: (
        *("cut", "cut", "cut_for_good", "grow", "punch", "punch", "seal", "append", "direct"),
        *("nonblocking", "seek", "lock", "duplicate", "remove", "forbid", "unmount"),
    ),
    Use.EVENT: ("fill_and_drain", "fill_and_drain", "fill", "nonblocking", "append", "duplicate"),
    Use.STRAY: ("nonblocking", "append", "fill", "lock", "duplicate"),
}
"""Which changes make sense for which use; `unmount` is the maker's."""


def attempt(name: str, fd: int) -> None:
    """Make a change, as far as it can be made, to what these tests have made themselves."""
    with suppress(OSError):
        if made_here(fd):
            CHANGES[name](fd)
