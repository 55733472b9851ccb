"""The socket of one connection: reads into a `Connection`, and sends what is to be sent.

What the other end does not take at once is copied and kept; its owner reads no more from it
while `MAX_REPLIES` messages wait.

A read looks at what has come (MSG_PEEK) before it takes it. Descriptors must not be received in
this process (`vfio_migration.runtime.files.descriptor_kinds`), and only a look that leaves the
bytes where they are shows whether there are any with them.
"""

from __future__ import annotations

import array
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from vfio_migration.runtime.protocol.connection import READ_AHEAD, Connection, Event, Lost, Outgoing
from vfio_migration.runtime.protocol.layout import HEADER_SIZE, WIRE, Data
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver
from vfio_migration.runtime.transport.queued import Queued

MAX_REPLIES: Final = WIRE.bound("replies")

READ_TIMEOUT_S: Final = 0.004
"""For how many seconds a read that may wait does so; see `Channel.allow_waiting_reads`."""
MAX_WAIT_S: Final = 3600.0
"""For how many seconds nothing waits without a look at the clock."""

_BUFFER_BYTES: Final = 4 << 20
"""How much the system is asked to hold for each direction of a socket."""
_MAX_PARTS: Final = 512
"""Below IOV_MAX, how many pieces one call may send."""
_CREDENTIALS: Final = struct.Struct("=iII")
_TIMEVAL: Final = struct.Struct("@ll")
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_PEEK: Final = socket.MSG_PEEK
_NO_WAIT: Final = socket.MSG_DONTWAIT
_CTRUNC: Final = socket.MSG_CTRUNC

_SEND_RETRY_S: Final = 0.01
"""How long, in seconds, a peer that is reading is waited for before the rest is copied."""
_SEND_TIMEOUT_S: Final = 1.0
"""How long, in seconds, a peer that goes on reading is waited for in all, before the same."""


class StoppedError(ConnectionError):
    """The server is to end, or this client; the message has which."""


class DisconnectedError(ConnectionError):
    """The peer has closed its end, or broken it."""


class Traffic:
    """What went over the sockets of a peer.

    Attributes:
        bytes_in: Bytes read.
        bytes_out: Bytes sent.
    """

    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0


class _Waiting(NamedTuple):
    """A message that waits to be sent.

    Attributes:
        rest: What of it was not sent yet.
        fds: What goes with the next byte.
        whole: All of it, if there is a `lost`.
        lost: As in `Outgoing`.
    """

    rest: memoryview
    fds: tuple[int, ...]
    whole: memoryview
    lost: Lost | None


class Channel:
    """A socket and the connection on it.

    Args:
        sock: The socket.
        connection: The connection.
        traffic: Counts the bytes.
        receiver: What receives descriptors.

    Attributes:
        sock: The socket; it belongs to the channel.
        connection: The connection.
        waiting: The messages that wait to be sent, the first one first.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        traffic: Traffic,
        receiver: DescriptorReceiver,
    ) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self.sock = sock
        self.connection = connection
        self._traffic = traffic
        self._receiver = receiver
        self._queued = Queued(sock)
        self.waiting: deque[_Waiting] = deque()

    def allow_waiting_reads(self) -> None:
        """Have reads with `wait` wait for up to `READ_TIMEOUT_S` seconds for something to come."""
        self.sock.setblocking(True)
        timeout_s = _TIMEVAL.pack(0, int(READ_TIMEOUT_S * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout_s)

    def read(self, *, wait: bool = False, keep: bool = False) -> list[Event]:
        """Read once; nothing is returned if nothing came, or no message is whole yet.

        Args:
            wait: Wait for something to come, if `allow_waiting_reads` was called.
            keep: Leave what earlier events hold as it is. Otherwise their messages are good until
                this call.

        Raises:
            DisconnectedError: There is no more.
        """
        connection = self.connection
        if keep:
            connection.keep_messages()
        buffer = connection.get_buffer()
        flags = _PEEK if wait else _PEEK | _NO_WAIT
        fds: Sequence[int] = ()
        try:
            if missing := connection.missing:
                size = self._rest_size(missing, flags)
            else:
                data, _, found, _ = self.sock.recvmsg(min(len(buffer), READ_AHEAD), 0, flags)
                size = len(data)
                if found & _CTRUNC:
                    fds = self._receive(size, connection.fd_room)
            # No more than was looked at, and without room: the system forgets descriptors.
            size = self.sock.recv_into(buffer[:size], 0, _NO_WAIT) if size else 0
        except BlockingIOError:
            return []
        except OSError as error:
            raise DisconnectedError(str(error)) from error
        if not size:
            raise DisconnectedError("the client closed its end")
        self._traffic.bytes_in += size
        return connection.buffer_updated(size, fds)

    def _rest_size(self, missing: int, flags: int) -> int:
        """Return how much can be read, up to `missing`, of a message that takes no descriptors.

        Those that come all the same are left to the receiver: what the system forgets in this
        process it closes in this process, and may wait for its owner.
        """
        if ready := self._queued.without_descriptors():
            return min(missing, ready)
        data, _, found, _ = self.sock.recvmsg(min(missing, READ_AHEAD), 0, flags)
        if found & _CTRUNC:
            self._receive(len(data), 0)
        return len(data)

    def _receive(self, size: int, room: int) -> Sequence[int]:
        """Receive the descriptors that come with the next `size` bytes, `room` at most."""
        try:
            return self._receiver.receive(self.sock, size, room)
        except OSError as error:
            raise DisconnectedError(f"its descriptors cannot be received: {error}") from error

    def send(self, outgoing: Outgoing) -> None:
        """Send; what the client does not take now is copied and kept."""
        self.put(outgoing.parts, outgoing.fds, outgoing.lost)

    def put(self, parts: tuple[Data, ...], fds: tuple[int, ...], lost: Lost | None = None) -> None:
        """Send the pieces of a message; see `send`."""
        left: Sequence[Data] = parts
        if not self.waiting:
            try:
                if len(parts) == 1:
                    # Nearly all messages: no list is made, nothing is added up.
                    sent = self._try(parts, fds)
                    if sent == len(parts[0]):
                        return
                    left = [memoryview(parts[0])[sent:]]
                    fds = () if sent else fds
                else:
                    sent = self._try(parts[:_MAX_PARTS], fds)
                    if sent == sum(map(len, parts)):
                        return
                    left, fds = self._send_much(parts, sent, () if sent else fds)
                    if not left:
                        return
            except BaseException:
                # Nobody is there, or this thread was interrupted: it is not known to have left.
                if lost is not None:
                    lost(memoryview(b"".join(parts))[HEADER_SIZE:])
                raise
        if lost is None:
            whole = rest = memoryview(b"".join(left))
        else:
            whole = memoryview(b"".join(parts))
            rest = whole[len(whole) - sum(map(len, left)) :]
        self.waiting.append(_Waiting(rest, fds, whole, lost))

    def flush(self) -> None:
        """Send what was kept, as far as the client takes it."""
        while self.waiting:
            first = self.waiting[0]
            sent = self._try((first.rest,), first.fds)
            if sent < len(first.rest):
                if sent:
                    self.waiting[0] = first._replace(rest=first.rest[sent:], fds=())
                return
            self.waiting.popleft()

    def _send_much(
        self, parts: Sequence[Data], sent: int, fds: tuple[int, ...]
    ) -> tuple[list[memoryview], tuple[int, ...]]:
        """Send on without a copy while the client reads; return what is left.

        Args:
            parts: The pieces.
            sent: How much of them was sent.
            fds: What goes with the next byte.
        """
        left = [memoryview(part) for part in parts if len(part)]
        until = time.monotonic() + _SEND_TIMEOUT_S
        while True:
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if not left:
                break
            if sent:
                left[0] = left[0][sent:]
            sent = self._try(left[:_MAX_PARTS], fds)
            if sent:
                fds = ()
                continue
            ready = select.poll()
            ready.register(self.sock, select.POLLOUT)
            if not ready.poll(_SEND_RETRY_S * 1000) or time.monotonic() >= until:
                break
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
            raise DisconnectedError(str(error)) from error
        self._traffic.bytes_out += sent
        return sent

    def close(self) -> None:
        """Close the socket and the connection; what waits to be sent is lost, the last first."""
        while self.waiting:
            waiting = self.waiting.pop()
            if waiting.lost is not None:
                waiting.lost(waiting.whole[HEADER_SIZE:])
        self.connection.close()
        self._queued.close()
        self._receiver.hang_up(self.sock)


def peer_of(sock: socket.socket) -> int:
    """Return the process that connected, or 0 if the system does not know."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    return int(_CREDENTIALS.unpack(raw)[0])
