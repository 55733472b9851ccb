"""What a client sends along and does to it afterwards: none of it ends, stops or fills the server.

The server is a process of its own, which each test ends by SIGTERM.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support import raw_client as raw
from support.blocking_descriptors import LingeringSockets, fuse_file
from support.edu_client import BUFFER, FLAGS_OFF, FLAGS_ON, dma, dma_done, eventfd, signalled, until
from support.raw_client import Client, RefusedError
from support.waiting import wait_for

PAGE = 4096
RUNNING = 2
NO_REPLY = 0x10
TURNS = 300
HANGS_S = 20
"""After which a server that does not answer is taken to wait for its client."""
SERVE = [sys.executable, "-m", "vfio_migration.cli.main", "serve"]
ENDS_WITHIN_S = 5


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of an edu in a process of its own."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*SERVE, str(folder / "edu.sock")], stderr=log)
    try:
        wait_for(folder / "edu.sock", process)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """One server for all: after all that was done to it, SIGTERM ends it in time."""
    folder = tmp_path_factory.mktemp("server")
    with running(folder) as process:
        yield folder / "edu.sock", process
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_S) == 0


@pytest.fixture
def path(server: tuple[Path, subprocess.Popen]) -> Iterator[Path]:
    """Where it listens; it is alive at the end of each test."""
    path, process = server
    yield path
    assert process.poll() is None, path.with_name("log").read_text()


def serves_an_honest_client(path: Path) -> None:
    with Client(path) as client:
        assert client.read(0, 0, 4) == b"\xed\x00\x00\x01"
        memory = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, PAGE)
        client.dma_map(0, PAGE, fd=memory)
        client.write(0, BUFFER, b"word")
        dma(client, BUFFER, 0, 4, from_device=True)
        until(lambda: dma_done(client))
        assert os.pread(memory, 4, 0) == b"word"
        os.close(memory)


def access(client: Client, *, faults: bool) -> None:
    """Have the device write and read what is mapped at 0."""
    client.reset()
    client.write(7, 4, struct.pack("<H", 7))  # a bus master
    for from_device in (True, False):
        source, target = (BUFFER, 0) if from_device else (0, BUFFER)
        dma(client, source, target, 64, from_device=from_device)
        until(lambda: dma_done(client))
    # An access that failed is a master abort, as on hardware.
    assert bool(client.read(7, 6, 2)[1] & 0x20) == faults


@contextmanager
def opened(path: str, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_map_of_dev_zero_is_refused_at_any_offset(path: Path) -> None:
    with opened("/dev/zero") as zero, Client(path) as client:
        for offset in (0, PAGE, 1 << 20):
            with pytest.raises(RefusedError, match="Invalid argument"):
                client.dma_map(0, 2 * PAGE, fd=zero, offset=offset)
        client.memory = bytearray(PAGE)
        client.dma_map(0, PAGE)
        access(client, faults=False)
    serves_an_honest_client(path)


@pytest.mark.parametrize(
    "name", ["/dev/null", "/dev/full", "/dev/random", "/dev/ptmx", "/dev/fuse", "/proc/self/mem"]
)
def test_a_file_that_is_no_memory_is_refused(path: Path, name: str) -> None:
    with (
        suppress(OSError),  # this user may not open it
        opened(name) as fd,
        Client(path) as client,
        pytest.raises(RefusedError, match="Invalid argument"),
    ):
        client.dma_map(0, PAGE, fd=fd)
    serves_an_honest_client(path)


def test_a_folder_and_a_descriptor_of_a_place_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    with (
        opened(str(tmp_path), os.O_RDONLY) as folder,
        opened(str(tmp_path / "file"), os.O_PATH) as place,
        Client(path) as client,
    ):
        for fd in (folder, place):
            with pytest.raises(RefusedError, match="Invalid argument"):
                client.dma_map(0, PAGE, fd=fd)
    serves_an_honest_client(path)


@pytest.mark.parametrize("where", ["memfd", "/dev/shm", "disk"])
def test_memory_that_shrinks_while_it_is_mapped_is_a_fault_of_the_access(
    path: Path, tmp_path: Path, where: str
) -> None:
    if where == "memfd":
        fd = os.memfd_create("guest")
    else:
        folder = tmp_path if where == "disk" else Path(where)
        name = folder / f"vfio-migration-{os.getpid()}"
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        name.unlink()
    os.ftruncate(fd, PAGE)
    with Client(path) as client:
        client.dma_map(0, PAGE, fd=fd)
        access(client, faults=False)
        os.ftruncate(fd, 0)
        access(client, faults=True)
    assert os.fstat(fd).st_size == 0, "it does not grow by our hand"
    os.close(fd)
    serves_an_honest_client(path)


def test_a_file_that_appends_does_not_grow_by_the_writes_of_a_device(path: Path) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGE)
    with Client(path) as client:
        client.dma_map(0, PAGE, fd=fd)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # on what the server was given too
        client.write(0, BUFFER, b"word")
        for _ in range(3):
            dma(client, BUFFER, 8, 4, from_device=True)
            until(lambda: dma_done(client))
    assert os.fstat(fd).st_size == PAGE
    assert os.pread(fd, 4, 8) == b"word"
    os.close(fd)


@pytest.mark.parametrize(
    "silent", [(), ("FLUSH",), ("GETATTR", "STATFS", "READ", "WRITE", "FLUSH")]
)
def test_a_file_of_a_clients_own_file_system_neither_ends_nor_stops_the_server(
    path: Path, tmp_path: Path, silent: tuple[str, ...]
) -> None:
    """Its blocks are as large as those of hugetlbfs, and it answers nothing it is asked."""
    with fuse_file(tmp_path / "fuse", *silent) as fd:
        with Client(path) as client:
            with pytest.raises(RefusedError, match="Invalid argument"):
                client.dma_map(0, PAGE, fd=fd)
            with pytest.raises(RefusedError, match="Invalid argument"):
                client.ask(raw.SET_IRQS, struct.pack("=5I", 20, FLAGS_ON, 0, 0, 1), fds=[fd])
            assert client.state == 2
        serves_an_honest_client(path)
        for _ in range(3):
            with Client(path) as client, suppress(RefusedError):
                client.ask(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0), fds=[fd])
        serves_an_honest_client(path)


def test_sigterm_ends_a_server_whose_client_sent_a_file_that_cannot_be_closed(
    tmp_path: Path,
) -> None:
    with (
        running(tmp_path) as server,
        fuse_file(tmp_path / "fuse", "FLUSH") as fd,
        Client(tmp_path / "edu.sock") as client,
    ):
        with pytest.raises(RefusedError):
            client.dma_map(0, PAGE, fd=fd)
        server.send_signal(signal.SIGTERM)
        assert server.wait(ENDS_WITHIN_S) == 0


def empty(event: int) -> None:
    if select.select([event], [], [], 0)[0]:
        os.read(event, 8)


def test_an_eventfd_that_is_filled_while_it_is_signalled_keeps_nobody_waiting(path: Path) -> None:
    """One that blocks is filled by its client while the server adds to it, and stays full."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    full = struct.pack("=Q", 2**64 - 2)
    trigger = struct.pack("=5I", 20, FLAGS_OFF, 0, 0, 1)

    def fill(emptied: threading.Event) -> None:
        empty(event)
        emptied.set()
        os.write(event, full)

    with Client(path) as client:
        client.ask(raw.SET_IRQS, struct.pack("=5I", 20, FLAGS_ON, 0, 0, 1), fds=[event])
        client.sock.settimeout(HANGS_S)
        for turn in range(TURNS):
            emptied = threading.Event()
            filler = threading.Thread(target=fill, args=(emptied,), daemon=True)
            for number in range(50):
                client.send(raw.SET_IRQS, trigger, flags=NO_REPLY)
                if number == turn % 50:
                    filler.start()
            try:
                assert client.state == RUNNING
            finally:
                emptied.wait()
                while filler.is_alive():  # it came too late, and waits for room
                    empty(event)
                    filler.join(0.001)
            empty(event)
    os.close(event)
    serves_an_honest_client(path)


def test_what_a_client_does_to_the_descriptor_of_a_region_is_its_own(path: Path) -> None:
    """Flags and position belong to the open file description, which lives on with the server."""
    with Client(path) as client:
        client.ask(raw.REGION_INFO, struct.pack("=4IQQ", 4096, 0, 0, 0, 0, 0))
        if not client.fds:
            pytest.skip("this device has no region that is mapped")
        [fd] = client.fds
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    with Client(path) as client:
        client.ask(raw.REGION_INFO, struct.pack("=4IQQ", 4096, 0, 0, 0, 0, 0))
        [fd] = client.fds
        assert not fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_APPEND | os.O_NONBLOCK)


def test_interrupts_are_seen_before_the_reply_to_what_raised_them(path: Path) -> None:
    event = eventfd()
    with Client(path) as client:
        client.ask(raw.SET_IRQS, struct.pack("=5I", 20, FLAGS_ON, 0, 0, 1), fds=[event])
        client.write(0, 0x60, struct.pack("<I", 1))
        assert os.eventfd_read(event) == 1
        assert signalled(event, 0) == 0
    os.close(event)


@pytest.fixture
def lingering() -> Iterator[LingeringSockets]:
    with LingeringSockets() as sockets:
        yield sockets


def send_and_forget(sock: socket.socket, data: bytes, *fds: int) -> None:
    """Send descriptors, of which the message then has the last reference."""
    socket.send_fds(sock, [data], fds)
    for fd in fds:
        os.close(fd)


READ_STATE = struct.pack("=HHIIIIIIi", 1, raw.FEATURE, 32, 0, 0, 16, 0x10002, 0, 0)
WRITE = struct.pack("=HHIIIQII", 1, raw.REGION_WRITE, 32 + 65536, 0, 0, BUFFER, 0, 65536)


@pytest.mark.parametrize("inside", [False, True], ids=["socket", "socket-in-a-socket"])
@pytest.mark.parametrize("where", ["command", "rest", "too-many", "unread", "waiting"])
def test_a_socket_that_lingers_keeps_no_server_waiting(
    path: Path, lingering: LingeringSockets, where: str, inside: bool
) -> None:
    """Anybody who gives up the last reference to it waits, be it by not receiving it."""
    make = lingering.make_inside if inside else lingering.make
    with Client(path) as client, socket.socket(socket.AF_UNIX) as waits:
        sock = client.sock
        if where == "command":
            send_and_forget(sock, READ_STATE, make())
        elif where == "rest":
            sock.sendall(WRITE)
            assert client.sock.send(bytes(100))
            until(lambda: not outstanding(sock))
            send_and_forget(sock, bytes(1000), make())
        elif where == "too-many":
            spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
            send_and_forget(sock, READ_STATE, *spare, make())
        elif where == "unread":
            sock.sendall(struct.pack("=HHIII", 1, raw.FEATURE, 3, 0, 0))  # ends the connection
            with suppress(OSError):
                send_and_forget(sock, READ_STATE, make())
        else:
            waits.connect(str(path))
            send_and_forget(waits, b"no version", make())
    serves_an_honest_client(path)


def outstanding(sock: socket.socket) -> int:
    """How many bytes the other end has not read."""
    return struct.unpack("=i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


@pytest.mark.exhaustive
def test_sigterm_ends_a_server_whose_clients_wait_with_sockets_that_linger(
    tmp_path: Path, lingering: LingeringSockets
) -> None:
    with running(tmp_path) as server, Client(tmp_path / "edu.sock") as client:
        assert client.state == 2
        waits = socket.socket(socket.AF_UNIX)
        asks = socket.socket(socket.AF_UNIX)
        with waits, asks:
            waits.connect(str(tmp_path / "edu.sock"))
            asks.connect(str(tmp_path / "edu.sock.status"))
            for sock in (waits, asks, client.sock):
                with suppress(BrokenPipeError):
                    send_and_forget(sock, b"x", lingering.make())
            server.send_signal(signal.SIGTERM)
            assert server.wait(ENDS_WITHIN_S) == 0
