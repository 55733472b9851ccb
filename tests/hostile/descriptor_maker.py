"""Makes descriptors of every kind of the catalogue, and changes them while a server uses them.

As a program (`descriptor_maker.py SOCKET FOLDER`) it is a process of its own, which keeps the
other ends, has its own mounts, and is the one that may wait for ever for a file system of its own.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import descriptor_changes
from descriptor_catalogue import (
    CATALOGUE,
    CLONE_NEWNS,
    CLONE_NEWUSER,
    LIBC,
    Need,
    Place,
    Row,
    Use,
)

sys.path.append(str(Path(__file__).parents[1]))

from support.fuse_daemon import exiting

ROWS: Final = {row.name: row for row in CATALOGUE}
_MAX_BYTES: Final = 1 << 16
_BURST: Final = 20
_PAUSE_S: Final = 0.001
"""Changes are made so many at a time, with a pause after them, in which the server gets on."""
_END: Final = '["end"]'
_MS_PRIVATE: Final = 1 << 18 | 1 << 14


class DescriptorMaker:
    """The process, and the descriptors that it made: a context.

    Args:
        folder: Where it may make files. Of files elsewhere nothing is changed for good.
        names: Which rows to make; all of them if it is not given.

    Attributes:
        fds: The descriptors by the names of their rows.
        missing: Why a row could not be made, by its name.
    """

    def __init__(self, folder: Path, names: Sequence[str] = tuple(ROWS)) -> None:
        self.fds: dict[str, int] = {}
        self.missing: dict[str, str] = {}
        self._of: dict[Use, list[str]] = {}
        self._names = [name for name in ROWS if name in names]
        folder.mkdir(exist_ok=True)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), str(folder)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def __enter__(self) -> Self:
        self.make()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.clear()
        self._control.close()
        self._process.wait()

    def make(self) -> None:
        """Make them all anew."""
        self.clear()
        self._ask("make", self._names)
        for name in self._names:
            data, fds, _, _ = socket.recv_fds(self._control, _MAX_BYTES, 1)
            if fds:
                self.fds[name] = fds[0]
            else:
                self.missing[name] = data.decode()
        for use in Use:
            self._of[use] = [name for name in self.fds if ROWS[name].use is use]

    def clear(self) -> None:
        """Let them go. What waits for an answer gets one."""
        self._ask("clear")
        self._control.recv(_MAX_BYTES)
        for fd in self.fds.values():
            close(fd)
        self.fds.clear()

    def change(self, change: str, name: str) -> None:
        """Have a change be made over and over, until something else is asked for."""
        if name in self.fds and not ROWS[name].silent:
            self._ask("change", change, name)

    def rest(self) -> None:
        """Have no more changes be made."""
        self._ask("rest")

    def of(self, use: Use) -> list[str]:
        """Return the names of those there are for a use."""
        return self._of[use]

    def _ask(self, *words: Any) -> None:
        self._control.send(json.dumps(words).encode())


@contextmanager
def maker(folder: Path, names: Sequence[str] = tuple(ROWS)) -> Iterator[DescriptorMaker]:
    """Yield a maker; check that nothing is missing that every machine has."""
    with DescriptorMaker(folder, names) as made:
        check_missing(made.missing)
        yield made


def close(fd: int) -> None:
    """Close a descriptor of a file system that may have ended, which is an error."""
    with suppress(OSError):
        os.close(fd)


def check_missing(missing: dict[str, str]) -> None:
    """Fail for a row that could not be made and that needs nothing special."""
    wrong = {name: why for name, why in missing.items() if ROWS[name].need is Need.NOTHING}
    assert not wrong, wrong


# --- the program ----------------------------------------------------------------------------------


def _own_mounts() -> bool:
    """Have mounts of this process alone; return whether it may mount anything."""
    uid, gid = os.getuid(), os.getgid()
    if LIBC.unshare(CLONE_NEWNS) < 0:
        if LIBC.unshare(CLONE_NEWNS | CLONE_NEWUSER) < 0:
            return False
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        except OSError:
            return False
    return LIBC.mount(None, b"/", None, _MS_PRIVATE, None) == 0


def _make(control: socket.socket, place: Place, row: Row) -> int | None:
    try:
        fd = row.make(place)
    except (OSError, subprocess.CalledProcessError) as error:
        control.send(f"{error or type(error).__name__}".encode())
        return None
    socket.send_fds(control, [b"."], [fd])
    return fd


def _serve(control: socket.socket, place: Place) -> None:
    made: dict[str, int] = {}
    changing: tuple[str, str] | None = None
    for turn in itertools.count():
        pause_s = 0 if turn % _BURST else _PAUSE_S
        if changing is not None and not select.select([control], [], [], pause_s)[0]:
            change, name = changing
            if change == "unmount":
                place.unmount()
                changing = None
            else:
                descriptor_changes.attempt(change, made[name])
            continue
        while not select.select([control], [], [], 1)[0]:
            if exiting(os.getppid()):
                break
        words = ["end"] if exiting(os.getppid()) else json.loads(control.recv(_MAX_BYTES) or _END)
        changing = None
        match words:
            case ["make", [*names]]:
                for name in names:
                    if (fd := _make(control, place, ROWS[name])) is not None:
                        made[name] = fd
            case ["change", change, name]:
                changing = change, name
            case ["clear"] | ["end"]:
                place.answer_all()
                for fd in made.values():
                    close(fd)
                made.clear()
                place.clear()
                if words == ["end"]:
                    return
                control.send(b".")


def main() -> None:
    number, folder = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mounts = _own_mounts()
    descriptor_changes.FOLDER.set(Path(folder))
    _serve(socket.socket(fileno=int(number)), Place(Path(folder), mounts=mounts))


if __name__ == "__main__":
    main()
