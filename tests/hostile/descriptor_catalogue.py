"""Every kind of descriptor that a hostile client could send, as data: its name and how it is made.

The rows are made by `descriptor_maker`, in a process with a mount namespace of its own, so that
a server sees no mount of it. What a machine does not offer is named by `Need`, and missing only
where the need is.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LIBC: Final = ctypes.CDLL(None, use_errno=True)
SIZE: Final = 64 << 10
HUGE_PAGE: Final = 2 << 20
FUSE_DAEMON: Final = Path(__file__).parents[1] / "support" / "fuse_daemon.py"
MNT_DETACH: Final = 2
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MEMFD_SECRET, USERFAULTFD, BPF, PERF_EVENT_OPEN, FSOPEN = 447, 323, 321, 298, 430
SIGNALFD, TIMERFD_CREATE, INOTIFY_INIT, FANOTIFY_INIT = 289, 283, 294, 300


class Need(enum.Enum):
    """What a row needs that not every machine or user has."""

    NOTHING = "nothing"
    MOUNTS = "a mount namespace of its own"
    FUSE = "mounting a FUSE file system"
    LOOP = "loop devices, which root has, and mkfs.ext4"
    KERNEL = "an option of the kernel, and the permission to use it"


class Use(enum.Enum):
    """What a client would send it for."""

    MEMORY = "memory"
    EVENT = "event"
    STRAY = "stray"


@dataclass(frozen=True)
class Row:
    """One kind of descriptor.

    Attributes:
        name: What it is.
        make: Makes one.
        use: What it is sent for most.
        need: What it takes.
        silent: Some of its operations are never answered: nobody is to touch it, nor close it.
    """

    name: str
    make: Callable[[Place], int]
    use: Use = Use.STRAY
    need: Need = Need.NOTHING
    silent: bool = False


class Place:
    """Where the rows are made, and what has to stay open for them.

    Args:
        folder: A folder of their own.
        mounts: Whether this process may mount file systems.
    """

    def __init__(self, folder: Path, *, mounts: bool) -> None:
        self.folder, self.mounts = folder, mounts
        self._kept: list[int] = []
        self._mounted: list[Path] = []
        self._daemons: list[tuple[subprocess.Popen[bytes], socket.socket]] = []

    def keep(self, *fds: int) -> None:
        """Have descriptors stay open until `clear`."""
        self._kept += fds

    def new_folder(self) -> Path:
        """Make a folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def mount(self, kind: str, options: str = "", source: str = "hostile") -> Path:
        """Mount a file system; return where."""
        if not self.mounts:
            raise PermissionError("nothing can be mounted")
        where = self.new_folder()
        called = LIBC.mount(
            source.encode(), str(where).encode(), kind.encode(), 0, options.encode() or None
        )
        check(called, f"mount {kind}")
        self._mounted.append(where)
        return where

    def fuse(self, size: int, *silent: str) -> int:
        """Mount a file system of a daemon's; return a descriptor of its one file."""
        if not self.mounts:
            raise PermissionError("nothing can be mounted")
        os.close(os.open("/dev/fuse", os.O_RDWR))
        ours, theirs = socket.socketpair()
        where = self.new_folder()
        with theirs:
            number = str(theirs.fileno())
            daemon = subprocess.Popen(
                [sys.executable, FUSE_DAEMON, number, where, str(size), *silent],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._daemons.append((daemon, ours))
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        return fd

    def unmount(self) -> None:
        """Take all mounts away, while they are in use."""
        while self._mounted:
            LIBC.umount2(str(self._mounted.pop()).encode(), MNT_DETACH)

    def answer_all(self) -> None:
        """Have the daemons answer what they have left unanswered, and end."""
        for daemon, control in self._daemons:
            control.close()
            daemon.wait()
        self._daemons.clear()

    def clear(self) -> None:
        """Let everything go."""
        self.answer_all()
        for fd in self._kept:
            os.close(fd)
        self._kept.clear()
        self.unmount()
        for one in self.folder.iterdir():
            with suppress(OSError):
                shutil.rmtree(one)


def check(result: int, what: str) -> int:
    """Return what a function of the C library returned; raise `OSError` if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def call(number: int, *arguments: object) -> int:
    """Make a system call that returns a descriptor."""
    return check(LIBC.syscall(ctypes.c_long(number), *arguments), f"system call {number}")


# --- memory ---------------------------------------------------------------------------------------


def memfd(*, seals: int = 0, size: int = SIZE, flags: int = 0) -> Callable[[Place], int]:
    """A memfd, called as one of a server's own and of any other: names are the client's choice."""

    def make(_place: Place) -> int:
        fd = os.memfd_create("eventfd", os.MFD_ALLOW_SEALING | flags)
        os.ftruncate(fd, size)
        if seals:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    return make


def file(
    flags: int = os.O_RDWR, size: int = SIZE, *, folder: str = "", sparse: bool = False
) -> Callable[[Place], int]:
    """A regular file: in the folder of the tests, or in a given one."""

    def make(place: Place) -> int:
        where, name = tempfile.mkstemp(dir=folder or place.folder)
        if sparse:
            os.ftruncate(where, size)
        else:
            os.write(where, bytes(size))
        os.close(where)
        try:
            return os.open(name, flags)
        finally:
            if folder:
                Path(name).unlink()  # in a folder of everybody's nothing is left

    return make


def mounted(kind: str, options: str = "", size: int = SIZE) -> Callable[[Place], int]:
    """A file on a file system that only the client sees."""

    def make(place: Place) -> int:
        fd = os.open(place.mount(kind, options) / "memory", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, size)
        return fd

    return make


def overlay(place: Place) -> int:
    base = place.mount("tmpfs", "size=1M")
    for name in ("lower", "upper", "work"):
        (base / name).mkdir()
    (base / "lower" / "memory").write_bytes(bytes(SIZE))
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    return os.open(place.mount("overlay", options) / "memory", os.O_RDWR)


LOOP_SET_FD, LOOP_SET_STATUS64, LOOP_CTL_GET_FREE, LO_FLAGS_AUTOCLEAR = 0x4C00, 0x4C04, 0x4C82, 4


def loop_device(place: Place, image: Path) -> tuple[int, str]:
    """Attach a file to a loop device, which lets it go when nobody has it open any more."""
    control = os.open("/dev/loop-control", os.O_RDWR)
    backing = os.open(image, os.O_RDWR)
    try:
        for _ in range(10):
            name = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(name, os.O_RDWR)
            try:
                fcntl.ioctl(device, LOOP_SET_FD, backing)
            except OSError:
                os.close(device)  # somebody else was quicker
                continue
            about = bytearray(232)
            struct.pack_into("=I", about, 52, LO_FLAGS_AUTOCLEAR)
            fcntl.ioctl(device, LOOP_SET_STATUS64, bytes(about))
            return device, name
        raise OSError("no loop device is free")
    finally:
        os.close(backing)
        os.close(control)


def block_device(place: Place) -> int:
    image = place.new_folder() / "image"
    image.write_bytes(bytes(1 << 20))
    return loop_device(place, image)[0]


def loop_mounted(place: Place) -> int:
    """A file on ext4 in an image whose file the client has, too, and can cut short."""
    image = place.new_folder() / "image"
    image.touch()
    os.truncate(image, 2 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, stdin=subprocess.DEVNULL)
    device, name = loop_device(place, image)
    try:
        where = place.mount("ext4", source=name)
    finally:
        os.close(device)
    fd = os.open(where / "memory", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(SIZE))
    return fd


def fuse(size: int, *silent: str) -> Callable[[Place], int]:
    def make(place: Place) -> int:
        return place.fuse(size, *silent)

    return make


def opened(path: str, flags: int = os.O_RDWR) -> Callable[[Place], int]:
    def make(_place: Place) -> int:
        return os.open(path, flags)

    return make


# --- events and what looks like them --------------------------------------------------------------


def eventfd(count: int = 0, flags: int = 0) -> Callable[[Place], int]:
    def make(_place: Place) -> int:
        fd = os.eventfd(0, flags)
        if count:
            os.eventfd_write(fd, count)
        return fd

    return make


FULL: Final = (1 << 64) - 2


def end_of(make: Callable[[], tuple[int, int]], which: int, *, full: bool, alone: bool = False):
    """One end of a pair; the other one stays open, or not."""

    def made(place: Place) -> int:
        ends = make()
        if full:
            os.set_blocking(ends[1], False)
            with suppress(BlockingIOError):
                while True:
                    os.write(ends[1], bytes(4096))
            os.set_blocking(ends[1], True)
        other = ends[1 - which]
        if alone:
            os.close(other)
        else:
            place.keep(other)
        return ends[which]

    return made


def socket_pair(kind: int = socket.SOCK_STREAM) -> Callable[[], tuple[int, int]]:
    def make() -> tuple[int, int]:
        one, other = socket.socketpair(socket.AF_UNIX, kind)
        return one.detach(), other.detach()

    return make


def fifo(flags: int) -> Callable[[Place], int]:
    def make(place: Place) -> int:
        path = place.new_folder() / "fifo"
        os.mkfifo(path)
        place.keep(os.open(path, os.O_RDWR))
        return os.open(path, flags)

    return make


def listener(_place: Place) -> int:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")  # at a name that the system makes up
    sock.listen()
    return sock.detach()


def tcp(place: Place) -> int:
    """A connection over which much is to be sent, and whose close waits for that."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    client.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 16))
    client.setblocking(True)
    place.keep(other.detach())
    return client.detach()


def signalfd(_place: Place) -> int:
    mask = struct.pack("=Q", 1 << signal.SIGUSR2 - 1)
    return call(SIGNALFD, -1, mask, 8, 0)


def epoll(place: Place) -> int:
    """One that watches another one, with an eventfd in it."""
    outer, inner, event = select.epoll(), select.epoll(), os.eventfd(1)
    inner.register(event)
    outer.register(inner.fileno())
    place.keep(os.dup(inner.fileno()), event)
    inner.close()
    fd = os.dup(outer.fileno())
    outer.close()
    return fd


def terminal(which: int) -> Callable[[Place], int]:
    def make(place: Place) -> int:
        ends = pty.openpty()
        place.keep(ends[1 - which])
        return ends[which]

    return make


def pidfd(_place: Place) -> int:
    return os.pidfd_open(os.getpid())


def secret(_place: Place) -> int:
    fd = call(MEMFD_SECRET, 0)
    os.ftruncate(fd, SIZE)
    return fd


def bpf_array(_place: Place) -> int:
    """A map of the kernel's that can be mapped into memory."""
    attributes = struct.pack("=5I", 2, 4, 8, SIZE // 8, 1 << 10).ljust(128, b"\0")
    return call(BPF, 0, attributes, len(attributes))


def perf_event(_place: Place) -> int:
    attributes = struct.pack("=IIQ", 1, 128, 0).ljust(128, b"\0")  # the processor's clock
    return call(PERF_EVENT_OPEN, attributes, 0, -1, -1, 0)


RW, RO, WO, PATH = os.O_RDWR, os.O_RDONLY, os.O_WRONLY, os.O_PATH
SHRINK, GROW = fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW
MEMORY, EVENT, MOUNTS, KERNEL = Use.MEMORY, Use.EVENT, Need.MOUNTS, Need.KERNEL
FUSE, LOOP = Need.FUSE, Need.LOOP
F_SEAL_FUTURE_WRITE: Final = 0x10
HUGE: Final = 1 << 40

CATALOGUE: Final = (
    Row("memfd", memfd(), MEMORY),
    Row("memfd that cannot shrink", memfd(seals=SHRINK), MEMORY),
    Row("memfd of one size", memfd(seals=SHRINK | GROW), MEMORY),
    Row("memfd that cannot be written", memfd(seals=fcntl.F_SEAL_WRITE), MEMORY),
    Row("memfd that only others write", memfd(seals=SHRINK | F_SEAL_FUTURE_WRITE), MEMORY),
    Row("memfd of a byte", memfd(size=1), MEMORY),
    Row("memfd of an odd size", memfd(size=SIZE - 1), MEMORY),
    Row("memfd of nothing", memfd(size=0), MEMORY),
    Row("memfd of a terabyte", memfd(size=HUGE), MEMORY),
    Row("memfd of huge pages", memfd(size=HUGE_PAGE, flags=4), MEMORY, KERNEL),
    Row("secret memfd", secret, MEMORY, KERNEL),
    Row("file on tmpfs", file(folder="/dev/shm"), MEMORY),
    Row("file on disk", file(), MEMORY),
    Row("sparse file", file(size=1 << 30, sparse=True), MEMORY),
    Row("file that is too short", file(size=100), MEMORY),
    Row("empty file", file(size=0), MEMORY),
    Row("file, O_APPEND", file(RW | os.O_APPEND), MEMORY),
    Row("file, O_DIRECT", file(RW | os.O_DIRECT), MEMORY, KERNEL),
    Row("file, O_SYNC and O_NONBLOCK", file(RW | os.O_SYNC | os.O_NONBLOCK), MEMORY),
    Row("file, O_RDONLY", file(RO), MEMORY),
    Row("file, O_WRONLY", file(WO), MEMORY),
    Row("file, O_PATH", file(PATH), MEMORY),
    Row("file on another tmpfs", mounted("tmpfs", "size=1M"), MEMORY, MOUNTS),
    Row("file on a full tmpfs", mounted("tmpfs", "size=4k"), MEMORY, MOUNTS),
    Row("file on ramfs", mounted("ramfs"), MEMORY, MOUNTS),
    Row("file on hugetlbfs", mounted("hugetlbfs", size=HUGE_PAGE), MEMORY, KERNEL),
    Row("file on overlay", overlay, MEMORY, MOUNTS),
    Row("file in an image", loop_mounted, MEMORY, LOOP),
    Row("block device", block_device, MEMORY, LOOP),
    Row("FUSE file", fuse(SIZE), MEMORY, FUSE),
    Row("FUSE file of a wrong size", fuse(HUGE), MEMORY, FUSE),
    Row("FUSE file without attributes", fuse(SIZE, "GETATTR", "STATFS"), MEMORY, FUSE, silent=True),
    Row("FUSE file without data", fuse(SIZE, "READ", "WRITE"), MEMORY, FUSE, silent=True),
    Row("FUSE file never closed", fuse(SIZE, "FLUSH", "RELEASE"), MEMORY, FUSE, silent=True),
    Row("/dev/zero", opened("/dev/zero"), MEMORY),
    Row("/dev/null", opened("/dev/null"), MEMORY),
    Row("/dev/full", opened("/dev/full"), MEMORY),
    Row("/dev/urandom", opened("/dev/urandom"), MEMORY),
    Row("/dev/fuse", opened("/dev/fuse"), need=FUSE),
    Row("memory of a process", opened("/proc/self/mem"), MEMORY),
    Row("maps of a process", opened("/proc/self/maps", RO), MEMORY),
    Row("file of sysfs", opened("/sys/kernel/mm/transparent_hugepage/enabled", RO), need=KERNEL),
    Row("folder", opened("/", RO | os.O_DIRECTORY)),
    Row("folder, O_PATH", opened("/", PATH)),
    Row("BPF map", bpf_array, MEMORY, KERNEL),
    Row("performance counter", perf_event, MEMORY, KERNEL),
    Row("eventfd", eventfd(), EVENT),
    Row("eventfd, O_NONBLOCK", eventfd(flags=os.EFD_NONBLOCK), EVENT),
    Row("full eventfd", eventfd(FULL), EVENT),
    Row("full eventfd, O_NONBLOCK", eventfd(FULL, os.EFD_NONBLOCK), EVENT),
    Row("semaphore", eventfd(3, os.EFD_SEMAPHORE), EVENT),
    Row("pipe to read", end_of(os.pipe, 0, full=False)),
    Row("pipe to write", end_of(os.pipe, 1, full=False)),
    Row("full pipe", end_of(os.pipe, 1, full=True)),
    Row("pipe without a reader", end_of(os.pipe, 1, full=False, alone=True)),
    Row("pipe without a writer", end_of(os.pipe, 0, full=False, alone=True)),
    Row("FIFO to read", fifo(RO)),
    Row("FIFO to write", fifo(WO)),
    Row("FIFO, O_PATH", fifo(PATH)),
    Row("socket", end_of(socket_pair(), 0, full=False)),
    Row("full socket", end_of(socket_pair(), 1, full=True)),
    Row("socket without a peer", end_of(socket_pair(), 1, full=False, alone=True)),
    Row("datagram socket", end_of(socket_pair(socket.SOCK_DGRAM), 0, full=False)),
    Row("listening socket", listener),
    Row("TCP socket that lingers", tcp),
    Row("timer", lambda _place: call(TIMERFD_CREATE, 1, 0)),
    Row("signals", signalfd),
    Row("epoll", epoll),
    Row("inotify", lambda _place: call(INOTIFY_INIT, 0)),
    Row("fanotify", lambda _place: call(FANOTIFY_INIT, 0, RO), need=KERNEL),
    Row("process", pidfd),
    Row("userfaultfd", lambda _place: call(USERFAULTFD, 0), need=KERNEL),
    Row("file system to be mounted", lambda _place: call(FSOPEN, b"tmpfs", 0), need=MOUNTS),
    Row("terminal", terminal(1)),
    Row("other end of a terminal", terminal(0)),
)
