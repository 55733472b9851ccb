"""The status of a server, for its operator: a second socket that only answers.

A server serves one client at a time, so who wants to know its status cannot ask as a client: it
would wait for its turn, hold the seat, or, with some servers of others, end them by hanging up.
Beside `SOCKET` there is therefore `SOCKET.status`, with mode 0600, which sends each process that
connects one JSON object and hangs up. It reads nothing, so there is nothing that could be changed
by it, and sends without waiting, so nobody can hold it.

It is answered by a thread of its own, also while the device is busy or hangs. What it looks at may
be read from any thread: the situation of the engine, the counters, and who is connected.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from vfio_migration.model import json_text
from vfio_migration.runtime.server.log import log_event
from vfio_migration.runtime.transport import listening
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver

if TYPE_CHECKING:
    from vfio_migration.runtime.server.server import Server

FORMAT: Final = 1
"""The version of what is sent; a key that is added does not change it."""
MAX_BYTES: Final = 1 << 16
"""How long an answer may be."""
_MAX_PID: Final = (1 << 31) - 1
_MAX_COUNT: Final = (1 << 64) - 1
_MAX_SECONDS: Final = 1e12
"""Some thirty thousand years."""
SUFFIX: Final = ".status"


class NoStatusError(Exception):
    """There is no status to be read; the message has the reason.

    Attributes:
        ended: A server of this package was there and has ended.
    """

    def __init__(self, message: str, *, ended: bool = False) -> None:
        super().__init__(message)
        self.ended = ended


def beside(path: str | Path) -> Path:
    """Return the path of the status socket of the server at a socket."""
    path = Path(path)
    return path.with_name(path.name + SUFFIX)


class StatusSocket:
    """Answers at `SOCKET.status`, in a thread of its own; a context.

    A server is worth more than its status: where the socket cannot be made, that is logged, and the
    server serves without it.

    Args:
        server: The server.
        path: Where it listens.
        device: What the device is called.
    """

    def __init__(self, server: Server, path: str | Path, device: str) -> None:
        self._server, self._path, self._device = server, Path(path), device
        self._begun = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        try:
            place = self._path.stat()
            sock = self._stack.enter_context(listening.listening(beside(self._path)))
            wake, waker = os.pipe2(os.O_CLOEXEC)
        except (OSError, ValueError, listening.CannotListenError) as error:
            self._stack.close()
            log_event("no_status", why=str(error))
            return self
        self._stack.callback(os.close, wake)
        identity = place.st_dev, place.st_ino
        self._thread = threading.Thread(
            target=self._run, args=(sock, wake, identity), name="status", daemon=True
        )
        self._thread.start()
        self._stack.callback(self._thread.join)
        self._stack.callback(os.close, waker)  # first of all: it ends the thread
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _run(self, listener: socket.socket, wake: int, identity: tuple[int, int]) -> None:
        # Signals are for the thread that serves: one that came here would not end its waiting.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        listener.setblocking(False)
        receiver = DescriptorReceiver()
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            if any(fd == wake for fd, _ in poll.poll()):
                return
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:  # no descriptor is free: the one that asks waits, and so does this
                time.sleep(0.1)
                continue
            with contextlib.suppress(OSError):
                text = json.dumps(self.now(identity), default=str)
                sock.send(text.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            # The one that asks may have sent something, which is not read: not even to close it.
            receiver.hang_up(sock)
            receiver.peer_disconnected()

    def now(self, identity: tuple[int, int]) -> dict[str, Any]:
        """Return the status of the server.

        Args:
            identity: The file system and the number of the socket that is served.
        """
        server = self._server
        now, client, engine = time.monotonic(), server.client, server.engine
        counters = server.counters
        return {
            "status": FORMAT,
            "socket": list(identity),
            "pid": os.getpid(),
            "serving_seconds": round(now - self._begun, 3),
            "device": self._device,
            "spec": engine.machine.spec.name,
            "capabilities": server.device.capabilities.split(","),
            "state": engine.situation.state,
            "session": engine.situation.session,
            "client": None
            if client is None
            else {
                "number": client.number,
                "pid": client.pid,
                "connected_seconds": round(now - client.since, 3),
            },
            "connections": counters.connections,
            "bytes_in": counters.bytes_in,
            "bytes_out": counters.bytes_out,
        }


def read(path: str | Path, timeout: float) -> dict[str, Any]:
    """Ask the server at a socket for its status; nothing of it is changed.

    Args:
        path: The socket it serves at, not that of its status.
        timeout: How many seconds it may take.

    Raises:
        NoStatusError: There is no status.
        TimeoutError: Somebody listens and does not answer.
        OSError: The socket cannot be looked at.
    """
    where = beside(path)
    place = os.stat(path)  # noqa: PTH116 - as bytes allow
    until = time.monotonic() + timeout
    with (
        contextlib.closing(DescriptorReceiver()) as receiver,
        contextlib.ExitStack() as stack,
    ):
        sock = socket.socket(socket.AF_UNIX)
        stack.callback(receiver.hang_up, sock)
        sock.settimeout(timeout)
        try:
            sock.connect(str(where))
        except OSError as error:
            if isinstance(error, TimeoutError | BlockingIOError):
                raise TimeoutError(f"{where}: does not answer within {timeout:g} s") from error
            ended = isinstance(error, ConnectionRefusedError)
            raise NoStatusError(f"{where}: {error.strerror or error}", ended=ended) from error
        text = b""
        while len(text) <= MAX_BYTES:
            sock.settimeout(max(0.001, until - time.monotonic()))
            try:
                part, _, flags, _ = sock.recvmsg(MAX_BYTES, 0, socket.MSG_PEEK)
                if flags & socket.MSG_CTRUNC:
                    raise NoStatusError(f"{where}: what answers there sends descriptors")
                part = sock.recv(len(part)) if part else b""
            except TimeoutError as error:
                raise TimeoutError(f"{where}: does not answer within {timeout:g} s") from error
            except OSError as error:
                raise NoStatusError(f"{where}: {error.strerror or error}") from error
            if not part:
                break
            text += part
    found = _checked(text)
    if found is None:
        raise NoStatusError(f"{where}: what answers there is not the status of a server")
    if found["socket"] != [place.st_dev, place.st_ino]:
        raise NoStatusError(f"{where}: belongs to a server that {path} does not lead to any more")
    return found


def _checked(text: bytes) -> dict[str, Any] | None:
    """Return what was sent, if it is a status."""
    try:
        found = json_text.parse(text)
    except json_text.JsonError:
        return None
    match found:
        case {
            "status": int(),
            "socket": [int(), int()],
            "pid": int(),
            "serving_seconds": int() | float(),
            "device": str(),
            "spec": str(),
            "capabilities": [*names],
            "state": str(),
            "client": None | {"number": int(), "pid": int(), "connected_seconds": int() | float()},
            "connections": int(),
        } if all(isinstance(name, str) for name in names) and _is_counted(found):
            whole: dict[str, Any] = found
            return whole
    return None


def _is_counted(found: dict[str, Any]) -> bool:
    """Return whether each number is one that can be counted, and shown."""
    client = found["client"] or {}
    pids = [one["pid"] for one in (found, client) if "pid" in one]
    times = [found["serving_seconds"], client.get("connected_seconds", 0)]
    counts = [found["connections"], client.get("number", 0), *found["socket"]]
    return (
        all(0 <= one <= _MAX_PID for one in pids)
        and all(0 <= one <= _MAX_SECONDS for one in times)
        and all(0 <= one <= _MAX_COUNT for one in counts)
    )


def listens(path: str | Path) -> bool | None:
    """Return whether somebody listens at a socket, without a connection; None if that is not known.

    The kernel lists sockets by the names they were bound to, in its own network namespace.
    """
    names = {os.fsencode(path), os.path.realpath(os.fsencode(path))}
    try:
        table = Path("/proc/net/unix").read_bytes()
    except OSError:
        return None
    for line in table.splitlines()[1:]:
        columns = line.split(None, 7)
        # Flags: __SO_ACCEPTCON, include/linux/net.h.
        if len(columns) == 8 and columns[7] in names and int(columns[3], 16) & 1 << 16:
            return True
    return False


def is_socket(path: str | Path) -> bool:
    """Return whether a path leads to a socket; raise `OSError` if it leads nowhere."""
    return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - as bytes allow
