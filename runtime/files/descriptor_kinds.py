"""What a descriptor that a peer sent is, found out without asking the file system behind it.

A file of a peer's own file system (FUSE) may leave any question unanswered, for ever, and no
signal ends the wait: not even SIGKILL, and not the exit of the process, which asks once more for
each descriptor that it closes (`flush`). So neither a server nor a client may have such a
descriptor at all. This module therefore also is a program, the receiver of descriptors: a process
that takes them from the socket of the peer, hands on those that are safe to have, and puts
`/dev/null` in the place of the others, which it never closes. It is the one that waits for ever,
when it ends.

A descriptor on its way holds its reader too: anybody who reads the message, or closes the socket it
    is
in, gives up the last reference to a file that its sender has closed already, and a TCP socket with
SO_LINGER is waited for then, as long as its owner says. The receiver has a reference to all of
them, so that nobody else's is the last. A process that ends waits for none of these.

Only the standard library is imported, and little of it: the program runs by itself and starts fast.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import re
import stat
import struct

MEMORY = "memory"
"""A file of tmpfs or hugetlbfs, a memfd too."""
EVENT = "event"
"""An eventfd."""
FILE = "file"
"""A regular file on a local file system that is mounted for this process too."""
DEVICE = "device"
"""Memory of a real device: a VFIO device, or a dma-buf."""
SOCKET = "socket"
"""A UNIX socket. What is on its way in it is closed with it, so this process never closes one."""
HARMLESS = "harmless"
"""Of no use, and closing it waits for nobody."""
UNKNOWN = "unknown"
"""Anything else: anybody who closes it may wait for ever."""

LOCAL_TYPES = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
)
"""Types of file systems that ask nobody outside of the kernel for anything, once the operator has
mounted them. A client can mount one over its own FUSE, but only where we do not see it mounted."""

MAX_MESSAGE_FDS = 253
"""How many descriptors a message can have (SCM_MAX_FD of Linux)."""

REQUEST = struct.Struct("=II??")
"""How much of the socket to look at, how many descriptors to hand on at most, whether DEVICE may
be handed on, and whether SOCKET. The socket itself comes along. Of nothing to look at, the socket
itself is what is not to be closed."""
REPLY = struct.Struct("=???")
"""Whether all that came could be received, whether this process has a descriptor that it must not
close, and whether one of these may keep it from ending. The descriptors come along."""

_EVENT_NAME = "anon_inode:[eventfd]"
_VFIO_NAME = "anon_inode:[vfio-device]"
_VFIO_FOLDER = "/dev/vfio/"
# What the kernel gives these names, and no path begins without a slash.
_HARMLESS_NAMES = (
    "pipe:[",
    "anon_inode:[eventpoll]",
    "anon_inode:[timerfd]",
    "anon_inode:[signalfd]",
    "anon_inode:[pidfd]",
    "anon_inode:inotify",
)
_SOCKET_NAME = "socket:["
_MEMORY_DEVICES = 1
"""The major number of /dev/null, /dev/zero and so on."""
_INFO = re.compile(r"^(flags|mnt_id|exp_name):\s*(\S*)$", re.MULTILINE)
_MOUNT_INFO = re.compile(r"^(\d+) .* - (\S+) ", re.MULTILINE)
_SO_DOMAIN = 39
_F_GET_SEALS = 1034
_INT = struct.Struct("=i")


def kind_of(fd: int) -> str:
    """Return what a descriptor is: one of the words above.

    Raises:
        OSError: It is not open.
    """
    try:
        text = _content(f"/proc/self/fdinfo/{fd}")
    except FileNotFoundError:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
    info = dict(_INFO.findall(text))
    if int(info.get("flags", "0"), 8) & os.O_PATH:
        return HARMLESS
    try:
        # Succeeds for tmpfs and hugetlbfs, whose names and types no other can borrow.
        fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return _other(fd, info)
    return MEMORY


def _other(fd: int, info: dict[str, str]) -> str:
    name = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - what this link says is no path
    if name == _EVENT_NAME:
        return EVENT
    if name == _VFIO_NAME or "exp_name" in info:
        return DEVICE
    if name.startswith(_HARMLESS_NAMES):
        return HARMLESS
    if name.startswith(_SOCKET_NAME) and _is_local(fd):
        return SOCKET
    kind = dict(_MOUNT_INFO.findall(_content("/proc/self/mountinfo"))).get(info.get("mnt_id", ""))
    if kind not in LOCAL_TYPES and kind != "devtmpfs":
        return UNKNOWN
    about = os.fstat(fd)
    if stat.S_ISREG(about.st_mode):
        return FILE
    if stat.S_ISCHR(about.st_mode):
        if name.startswith(_VFIO_FOLDER):
            return DEVICE
        return HARMLESS if os.major(about.st_rdev) == _MEMORY_DEVICES else UNKNOWN
    return HARMLESS if stat.S_ISDIR(about.st_mode) or stat.S_ISFIFO(about.st_mode) else UNKNOWN


def _is_local(fd: int) -> bool:
    """Return whether it is a UNIX socket; closing one of a network may wait for the other end."""
    twin = _socket.socket(fileno=os.dup(fd))
    try:
        return twin.getsockopt(_socket.SOL_SOCKET, _SO_DOMAIN) == _socket.AF_UNIX
    finally:
        os.close(twin.detach())


def _content(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as about:  # noqa: PTH123 - starts faster
        return about.read()


def _descriptors(control: list[tuple[int, int, bytes]]) -> list[int]:
    return [
        _INT.unpack_from(data, at)[0]
        for level, kind, data in control
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(data) - len(data) % _INT.size, _INT.size)
    ]


def _serve(control: _socket.socket) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    kept = stuck = False
    room = _socket.CMSG_SPACE(_INT.size)
    while True:
        asked, came, _, _ = control.recvmsg(REQUEST.size, room, _socket.MSG_CMSG_CLOEXEC)
        if not asked:
            return
        size, count, devices, sockets = REQUEST.unpack(asked)
        [peer] = _descriptors(came)
        if not size:
            kept = True
            control.send(REPLY.pack(True, kept, stuck))
            continue
        usable = {MEMORY, EVENT, FILE}
        usable |= {DEVICE} if devices else set()
        usable |= {SOCKET} if sockets else set()
        fds, whole = _look(peer, size)
        os.close(peer)
        found = [(fd, kind_of(fd)) for fd in fds]
        harmless = {MEMORY, EVENT, FILE, HARMLESS} | usable - {SOCKET}
        kept = kept or any(kind not in harmless for _, kind in found)
        stuck = stuck or any(kind not in harmless | {SOCKET} for _, kind in found)
        handed = [_INT.pack(fd if kind in usable else null) for fd, kind in found[:count]]
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(handed))]
        control.sendmsg([REPLY.pack(whole, kept, stuck)], rights if handed else [])
        for fd, kind in found:
            if kind in harmless:
                os.close(fd)


def _look(peer: int, size: int) -> tuple[list[int], bool]:
    """Return the descriptors that come with the next `size` bytes, and whether these are all."""
    sock = _socket.socket(fileno=peer)
    try:
        room = _socket.CMSG_SPACE(MAX_MESSAGE_FDS * _INT.size)
        flags = _socket.MSG_PEEK | _socket.MSG_DONTWAIT | _socket.MSG_CMSG_CLOEXEC
        _, came, found, _ = sock.recvmsg(size, room, flags)
    finally:
        sock.detach()
    return _descriptors(came), not found & _socket.MSG_CTRUNC


def main() -> None:
    """Serve on standard input until it is closed; the other descriptors are none of ours."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    _serve(_socket.socket(fileno=0))
    os._exit(0)


if __name__ == "__main__":
    main()
