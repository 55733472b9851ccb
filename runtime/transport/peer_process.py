"""Which process serves a device: a server that was started anew has lost what its device held.

The kernel states of a connection who listens there, and of a message who sent it. These need not be
the same: a service manager listens and hands its sockets over, a relay is between. It is the
one who answers that has the device.

A process is known by the number of its pidfd in the kernel (Linux 6.9), which no other process has
until the machine is started again, and which is the same in every pid namespace. Where there is
none it is known by its pid and the time at which it was started (proc_pid_stat(5), field 22), in
one pid namespace. Where neither can be had, it cannot be identified, and the answer is None.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vfio_migration.runtime.transport.channel import peer_of

_SO_PASSPIDFD: Final = 76
_SO_PEERPIDFD: Final = 77
_SCM_CREDENTIALS: Final = 2
_SCM_PIDFD: Final = 4
_MAX_PID: Final = (1 << 31) - 1
"""What the system calls take for the number of a process (pid_t)."""
_MAX_NUMBER: Final = (1 << 64) - 1
"""What the kernel counts in: times in clock ticks, numbers of inodes."""
_INT: Final = struct.Struct("=i")
_CREDENTIALS_ROOM: Final = socket.CMSG_SPACE(12)
_PIDFD_ROOM: Final = socket.CMSG_SPACE(4)
_LOOK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


@dataclass(frozen=True, slots=True)
class Process:
    """A process.

    Attributes:
        pid: Its number, or 0 if this process cannot see it.
        started: When it was started, in clock ticks since the machine was; 0 if that is not known.
        unique: The number of its pidfd; 0 if the kernel does not give one.
        boot: Which start of the machine this is about.
        space: The pid namespace in which it has that number.
    """

    pid: int
    started: int
    unique: int = 0
    boot: str = ""
    space: int = 0

    @classmethod
    def of(cls, pid: int, unique: int = 0) -> Self:
        """Return the process that has this number now."""
        return cls(pid, _started(pid), unique or _unique_of(pid), _boot(), _space())

    @classmethod
    def listening(cls, sock: socket.socket) -> Self:
        """Return the process that listens at the other end of a connection."""
        if (watched := cls.watch(sock)) < 0:
            return cls.of(peer_of(sock))
        with _closing(watched) as pidfd:
            return cls.of(peer_of(sock), _number(pidfd))

    @staticmethod
    def watch(sock: socket.socket) -> int:
        """Return a pidfd of who listens there, by which its end is seen from anywhere; or -1."""
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, _INT.size)
        except OSError:  # older than Linux 6.5, or it has ended
            return -1
        return int(_INT.unpack(raw)[0])

    def is_same(self, other: Process) -> bool | None:
        """Return whether this is that process; None if that cannot be known."""
        if self.boot and other.boot and self.boot != other.boot:
            return False
        if self.unique and other.unique:
            return self.unique == other.unique
        spaces = {one.space for one in (self, other) if one.space}
        if not (self._has_number and other._has_number) or len(spaces) > 1:
            return None
        return (self.pid, self.started) == (other.pid, other.started)

    def is_there(self) -> bool | None:
        """Return whether it still exists and is no zombie; None if that cannot be known here."""
        if self.boot and self.boot != _boot():
            return False
        if not self.pid or (self.space and self.space != _space()):
            return None
        if not self.unique:
            return _started(self.pid) == self.started if self.started else None
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except OSError:
            return None
        with _closing(pidfd):
            return _number(pidfd) == self.unique and not has_ended(pidfd)

    @property
    def _has_number(self) -> bool:
        return self.pid > 0 and self.started > 0

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "pid": self.pid,
            "started": self.started,
            "unique": self.unique,
            "boot": self.boot,
            "space": self.space,
        }

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Read plain data; raise `ValueError` if it is none. What is missing is not known."""
        match data:
            case {"pid": int(pid), "started": int(started)}:
                more = data.get("unique", 0), data.get("boot", ""), data.get("space", 0)
                match more:
                    case (int(unique), str(boot), int(space)) if 0 <= pid <= _MAX_PID and all(
                        0 <= one <= _MAX_NUMBER for one in (started, unique, space)
                    ):
                        return cls(pid, started, unique, boot, space)
        raise ValueError(f"{data!r} is not a process")


def has_ended(pidfd: int) -> bool:
    """Return whether the process of a pidfd exists no more, or is a zombie."""
    poll = select.poll()  # any number of descriptors may be open
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


NOBODY: Final = Process(0, 0)
"""A process that is not known."""


class SenderDetector:
    """Detects which process sends the first message on a connection; made before all traffic."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._set(socket.SO_PASSCRED, 1)

    def detect(self) -> Process | None:
        """Return the process that sent what can be read next; None if nothing can. Works once.

        Descriptors of the message are before the pidfd, and closing one of a stranger may wait
        for ever: if there are any, there is room for none, and the process is known by its pid.
        """
        try:
            _, control, found, _ = self._sock.recvmsg(1, _CREDENTIALS_ROOM, _LOOK)
            if control and not found & socket.MSG_CTRUNC:
                self._set(_SO_PASSPIDFD, 1)
                room = _CREDENTIALS_ROOM + _PIDFD_ROOM
                _, control, _, _ = self._sock.recvmsg(1, room, _LOOK)
        except OSError:
            return None
        pid = unique = 0
        for level, kind, data in control:
            if level != socket.SOL_SOCKET:
                continue
            if kind == _SCM_CREDENTIALS:
                pid = _INT.unpack_from(data)[0]
            elif kind == _SCM_PIDFD and (fd := _INT.unpack_from(data)[0]) >= 0:
                # Negative: it has ended already, or there is no room for a descriptor.
                with _closing(fd):
                    unique = _number(fd)
        # What comes later comes without it: there is room for descriptors, and for no more.
        for option in (socket.SO_PASSCRED, _SO_PASSPIDFD):
            self._set(option, 0)
        return Process.of(pid, unique) if control else None

    def _set(self, option: int, value: int) -> None:
        with contextlib.suppress(OSError):  # the second is not there before Linux 6.5
            self._sock.setsockopt(socket.SOL_SOCKET, option, value)


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _number(pidfd: int) -> int:
    """Return the number of a pidfd; 0 where they all have the same."""
    there = os.fstat(pidfd)
    return 0 if there.st_dev == _anonymous() else there.st_ino


@functools.cache
def _anonymous() -> int:
    """Return the device of files that have no number of their own, as pidfds once were."""
    with _closing(os.eventfd(0, os.EFD_CLOEXEC)) as fd:
        return os.fstat(fd).st_dev


def _unique_of(pid: int) -> int:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return 0
    with _closing(pidfd):
        return _number(pidfd)


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _space() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116 - no Path is made of it
    except OSError:
        return 0


def _started(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return 0
    # The name, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
