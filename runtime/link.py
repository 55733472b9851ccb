"""The socket of one client: reads into a connection, sends what is to be sent, and waits.

A client that does not read its replies costs no more than `max_replies` of them: they are kept,
copied, and no further command is read before there is room again.
"""

from __future__ import annotations

import array
import math
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from vfio_migration.runtime.counters import Counters
from vfio_migration.runtime.protocol.connection import READ_AHEAD, Connection
from vfio_migration.runtime.protocol.events import Event, Outgoing
from vfio_migration.runtime.protocol.layout import WIRE, Data

MOST_REPLIES: Final = WIRE.limit("max_replies").value

_BUFFER: Final = 4 << 20
_MOST_PARTS: Final = 512
"""Below IOV_MAX, how many pieces one call may send."""
_CREDENTIALS: Final = struct.Struct("=iII")
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_LITTLE: Final = 0.01
"""How long, in seconds, a client that is reading is waited for before the rest is copied."""


class Stopped(ConnectionError):  # noqa: N818 - reads as what it says
    """The server is to end."""


class Gone(ConnectionError):  # noqa: N818 - reads as what it says
    """The client has closed its end, or broken it."""


class Channel:
    """A socket and the connection that is spoken on it.

    Attributes:
        sock: The socket; it belongs to the channel.
        connection: The connection.
    """

    def __init__(self, sock: socket.socket, connection: Connection, counters: Counters) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.sock = sock
        self.connection = connection
        self._counters = counters
        self._room = socket.CMSG_SPACE(connection.fd_room * array.array("i").itemsize)
        self._queue: deque[tuple[memoryview, tuple[int, ...]]] = deque()

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        return len(self._queue)

    def read(self) -> list[Event]:
        """Read once. The messages are good until the next call.

        Raises:
            Gone: There is no more.
        """
        buffer = self.connection.get_buffer()
        try:
            size, control, _flags, _ = self.sock.recvmsg_into(
                [buffer], self._room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone(str(error)) from error
        fds = _fds(control) if control else ()
        if not size:
            raise Gone("the client closed its end")
        self._counters.bytes_in += size
        return self.connection.buffer_updated(size, fds)

    def read_to_keep(self) -> list[Event]:
        """Read once. The messages are good for ever. Raises as `read`."""
        try:
            data, control, _flags, _ = self.sock.recvmsg(
                READ_AHEAD, self._room, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return []
        except OSError as error:
            raise Gone(str(error)) from error
        fds = _fds(control) if control else ()
        if not data:
            raise Gone("the client closed its end")
        self._counters.bytes_in += len(data)
        return self.connection.receive(data, fds)

    def send(self, outgoing: Outgoing) -> None:
        """Send; what the client does not take now is copied and kept."""
        parts, fds = outgoing.parts, outgoing.fds
        if not self._queue:
            if len(parts) == 1:
                # Nearly all messages: no list is made, nothing is added up.
                sent = self._try(parts, fds)
                if sent == len(parts[0]):
                    return
                left = [memoryview(parts[0])[sent:]]
                fds = () if sent else fds
            else:
                left, fds = self._send_much(parts, fds)
                if not left:
                    return
            rest = b"".join(left)
        else:
            rest = b"".join(parts)
        self._queue.append((memoryview(rest), fds))

    def flush(self) -> None:
        """Send what was kept, as far as the client takes it."""
        while self._queue:
            rest, fds = self._queue[0]
            sent = self._try((rest,), fds)
            if sent < len(rest):
                if sent:
                    self._queue[0] = (rest[sent:], ())
                return
            self._queue.popleft()

    def _send_much(
        self, parts: Sequence[Data], fds: tuple[int, ...]
    ) -> tuple[list[memoryview], tuple[int, ...]]:
        """Send pieces without a copy while the client reads; return what is left."""
        left = [memoryview(part) for part in parts if len(part)]
        while left:
            sent = self._try(left[:_MOST_PARTS], fds)
            if not sent:
                ready = select.poll()
                ready.register(self.sock, select.POLLOUT)
                if not ready.poll(_LITTLE * 1000):
                    break
                continue
            fds = ()
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = left[0][sent:]
        return left, fds

    def _try(self, parts: Sequence[Data], fds: tuple[int, ...]) -> int:
        try:
            if fds:
                rights = array.array("i", fds)
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                sent = self.sock.sendmsg(parts, ancillary, _FLAGS)
            elif len(parts) == 1:
                sent = self.sock.send(parts[0], _FLAGS)
            else:
                sent = self.sock.sendmsg(parts, (), _FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Gone(str(error)) from error
        self._counters.bytes_out += sent
        return sent

    def close(self) -> None:
        """Close the socket and the connection."""
        self._queue.clear()
        self.connection.close()
        self.sock.close()


class Link:
    """All sockets of one client: a `vfio_migration.runtime.session.Port`.

    Args:
        sock: The socket; it belongs to the link.
        connection: What is spoken on it.
        counters: What is counted.
        wake: A descriptor that can be read once somebody else wants something; -1 for none.
        woken: Called then; says whether the server is to end.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        counters: Counters,
        wake: int = -1,
        woken: Callable[[], bool] = bool,
    ) -> None:
        self._counters = counters
        self.main = Channel(sock, connection, counters)
        self._twin: Channel | None = None
        self._twin_end: socket.socket | None = None
        self._wake, self._woken = wake, woken
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        if wake >= 0:
            self._poll.register(wake, select.POLLIN)

    @property
    def congested(self) -> bool:
        """Whether no more replies may be made; see `Port`."""
        return self.main.waiting >= MOST_REPLIES

    def send(self, outgoing: Outgoing, *, twin: bool = False) -> None:
        """Send, or keep to be sent; see `Port`."""
        (self._twin if twin and self._twin is not None else self.main).send(outgoing)

    def wait(self, until: float) -> list[Event]:
        """Wait; see `Port`."""
        return self._wait(until, keep=True)

    def read(self, until: float | None) -> list[Event]:
        """Wait as `wait` does; the messages are good until the next call."""
        return self._wait(until, keep=False)

    def _wait(self, until: float | None, *, keep: bool) -> list[Event]:
        listening = 0 if self.congested else select.POLLIN
        main, twin = self.main, self._twin
        self._watch(main, listening | (select.POLLOUT if main.waiting else 0))
        if twin is not None:
            self._watch(twin, select.POLLIN | (select.POLLOUT if twin.waiting else 0))
        timeout = None if until is None else max(0, math.ceil((until - time.monotonic()) * 1000))
        events: list[Event] = []
        ended: Gone | None = None
        for fd, what in self._poll.poll(timeout):
            if fd == self._wake:
                if self._woken():
                    raise Stopped("the server is to end")
                continue
            channel = main if twin is None or fd == main.sock.fileno() else twin
            try:
                if what & select.POLLOUT:
                    channel.flush()
                if what & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    if channel is main and not listening:
                        # It hung up and reads no replies any more: what it said last is lost.
                        ended = Gone("the client is gone and has not read its replies")
                        continue
                    events += channel.read_to_keep() if keep or twin is not None else channel.read()
            except Gone as error:
                ended = error
        if ended is not None and not events:
            raise ended
        return events

    @property
    def watched(self) -> Mapping[int, int]:
        """The descriptors that were last waited for, each with its mask of `select.poll`."""
        return self._watched

    def _watch(self, channel: Channel, mask: int) -> None:
        fd = channel.sock.fileno()
        if self._watched.get(fd) != mask:
            self._watched[fd] = mask
            self._poll.register(fd, mask)

    def make_twin(self) -> int | None:
        """Make the twin socket; see `Port`."""
        try:
            self._twin_end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return None
        return theirs.detach()

    def open_twin(self, connection: Connection) -> None:
        """Speak on the twin socket; see `Port`."""
        assert self._twin_end is not None
        self._twin = Channel(self._twin_end, connection, self._counters)
        self._twin_end = None

    def close(self) -> None:
        """Close all sockets."""
        self.main.close()
        if self._twin is not None:
            self._twin.close()
        if self._twin_end is not None:
            self._twin_end.close()


def _fds(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came; each of them is now ours to close."""
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def peer_of(sock: socket.socket) -> int:
    """Return the process that connected, or 0 if the system does not say."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    return int(_CREDENTIALS.unpack(raw)[0])
