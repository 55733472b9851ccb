"""The socket of one client: reads into a connection, sends what is to be sent, and waits.

A client that does not read its replies costs no more than `max_replies` of them: they are kept,
copied, and no further command is read before there is room again.

Whoever has just been answered mostly goes on at once. So the next read waits in the read itself,
which is one system call and one way through the scheduler less than to poll first; but only for
`ATTENTIVE` seconds, because nothing else is looked at meanwhile. It is not done if anything else is
due before that. A read that comes back empty-handed is the last of its kind until the next command.
To read again and again without waiting was tried and left alone: where client and server share a
processor it keeps the client from going on, and on two it burns one of them.
"""

from __future__ import annotations

import array
import contextlib
import math
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from vfio_migration.runtime.protocol.connection import READ_AHEAD, Connection
from vfio_migration.runtime.protocol.events import Event, Lost, Outgoing
from vfio_migration.runtime.protocol.layout import HEADER_SIZE, WIRE, Data
from vfio_migration.runtime.transport.counters import Counters, Times
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver
from vfio_migration.runtime.transport.queued import Queued
from vfio_migration.runtime.transport.service_notify import Watchdog

MAX_REPLIES: Final = WIRE.bound("replies")
MAX_COMMANDS: Final = WIRE.bound("server_commands")

ATTENTIVE: Final = 0.004
"""For how many seconds a read waits by itself."""

LONGEST: Final = 256
"""Longer commands are not known, so that no more need be read to see whether one is."""

ID: Final = 2
"""How many bytes the id has, which a message begins with and its reply repeats."""

_BUFFER: Final = 4 << 20
_MAX_PARTS: Final = 512
"""Below IOV_MAX, how many pieces one call may send."""
_CREDENTIALS: Final = struct.Struct("=iII")
_TIMEVAL: Final = struct.Struct("@ll")
_UNTIMED: Final = 15
"""How many commands that ask the device for nothing are counted after one that is timed."""
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_WAIT: Final = 0
_LOOK: Final = socket.MSG_DONTWAIT
_PEEK: Final = socket.MSG_PEEK
_CTRUNC: Final = socket.MSG_CTRUNC
LONG: Final = 3600.0
"""For how many seconds nothing waits without a look at the clock."""

_LITTLE: Final = 0.01
"""How long, in seconds, a client that is reading is waited for before the rest is copied."""
_SEND_TIMEOUT_S: Final = 1.0
"""How long, in seconds, a client that goes on reading is waited for in all, before the same."""


Acted: TypeAlias = tuple[Sequence[Data], Lost | None]


class Shortcut(NamedTuple):
    """What is done with a command that is known.

    Attributes:
        tell: Returns the reply from behind the id on, and asks the device for nothing, so that
            nothing is due because of it. None if there is something to be done.
        act: Does what there is to be done, and returns the reply, from behind the id on, in pieces,
            and what to call if it does not leave (`Outgoing.lost`). What is an `Exception` is
            answered and not raised.
        times: Where it is counted.
    """

    tell: Callable[[], bytes] | None
    act: Callable[[], Acted]
    times: Times


Known: TypeAlias = dict[bytes, Shortcut]
"""By the bytes of a command from behind its id on."""


class StoppedError(ConnectionError):
    """The server is to end, or this client; the message says which."""


class DisconnectedError(ConnectionError):
    """The client has closed its end, or broken it."""


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
    """A socket and the connection that is spoken on it.

    Args:
        sock: The socket.
        connection: The connection.
        counters: What is counted.
        receiver: What receives descriptors.

    Attributes:
        sock: The socket; it belongs to the channel.
        connection: The connection.
        brief: No more was read the last time than a command that could be known.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        counters: Counters,
        receiver: DescriptorReceiver,
    ) -> None:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.sock = sock
        self.connection = connection
        self.brief = True
        self._counters = counters
        self._receiver = receiver
        self._queued = Queued(sock)
        self._queue: deque[_Waiting] = deque()

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        return len(self._queue)

    def attend(self) -> None:
        """Have reads that may wait do so, for `ATTENTIVE` seconds."""
        self.sock.setblocking(True)
        timeout_s = _TIMEVAL.pack(0, int(ATTENTIVE * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout_s)

    def read(self) -> list[Event]:
        """Read once. The messages are good until the next call.

        Raises:
            DisconnectedError: There is no more.
        """
        return self._read(_LOOK) or []

    def read_or_wait(self) -> list[Event] | None:
        """Read as `read` does, but wait if `attend` was called; None if nothing came."""
        return self._read(_WAIT)

    def _read(self, flags: int) -> list[Event] | None:
        buffer = self.connection.get_buffer()
        fds: Sequence[int] = ()
        try:
            if missing := self.connection.missing:
                size = self._look_at_rest(missing, flags)
            else:
                size, fds = self._look(min(len(buffer), READ_AHEAD), flags)
            # No more than was looked at, and without room: the system forgets descriptors.
            size = self.sock.recv_into(buffer[:size], 0, _LOOK) if size else 0
        except BlockingIOError:
            return None
        except OSError as error:
            raise DisconnectedError(str(error)) from error
        if not size:
            raise DisconnectedError("the client closed its end")
        self._counters.bytes_in += size
        self.brief = size < LONGEST
        return self.connection.buffer_updated(size, fds)

    def read_to_keep(self) -> list[Event]:
        """Read once. The messages are good for ever. Raises as `read`."""
        fds: Sequence[int] = ()
        try:
            if missing := self.connection.missing:
                size = self._look_at_rest(missing, _LOOK)
            else:
                size, fds = self._look(READ_AHEAD, _LOOK)
            data = self.sock.recv(size, _LOOK) if size else b""
        except BlockingIOError:
            return []
        except OSError as error:
            raise DisconnectedError(str(error)) from error
        if not data:
            raise DisconnectedError("the client closed its end")
        self._counters.bytes_in += len(data)
        return self.connection.receive(data, fds)

    def _look(self, size: int, flags: int) -> tuple[int, Sequence[int]]:
        """Return how much can be read, up to `size`, and the descriptors that come with it."""
        data, _, found, _ = self.sock.recvmsg(size, 0, _PEEK | flags)
        room = self.connection.fd_room
        return len(data), self._receive(len(data), room) if found & _CTRUNC else ()

    def _look_at_rest(self, size: int, flags: int) -> int:
        """Return how much can be read, up to `size`, of a message that takes no descriptors.

        Those that come all the same are left to the receiver: what the system forgets in this
        process it closes in this process, and may wait for its owner.
        """
        if ready := self._queued.without_descriptors():
            return min(size, ready)
        data, _, found, _ = self.sock.recvmsg(min(size, READ_AHEAD), 0, _PEEK | flags)
        if found & _CTRUNC:
            self._receive(len(data), 0)
        return len(data)

    def _receive(self, size: int, room: int) -> Sequence[int]:
        """Receive the descriptors that come with the next `size` bytes, `room` at most."""
        try:
            return self._receiver.receive(self.sock, size, room)
        except OSError as error:
            raise DisconnectedError(f"its descriptors cannot be received: {error}") from error

    def answer_known(
        self, known: Known, urges: Sequence[object], settle: Callable[[], bool], *, once: bool
    ) -> list[Event] | None:
        """Read commands, waiting as `read_or_wait`, and answer those that are known.

        Only for a connection on which no message has begun, and with nothing waiting to be sent.

        Args:
            known: What is known.
            urges: No more is read while there are any.
            settle: As for `Link.attend`.
            once: Read no more than one.

        Returns:
            What came that is not known, good for ever, or nothing if there is something to be
            looked at before more is read; None if nothing came.

        Raises:
            DisconnectedError: There is no more.
        """
        # All in one function, and what it calls looked up before: each call more would cost the
        # twentieth part of what there is to save.
        counters, connection = self._counters, self.connection
        peek, take, send, find = self.sock.recvmsg, self.sock.recv, self.sock.send, known.get
        clock = time.perf_counter_ns
        taken = untimed = 0
        while not urges:
            try:
                data, _, flags, _ = peek(LONGEST, 0, _PEEK)
                size = len(data)
                fds = self._receive(size, connection.fd_room) if flags & _CTRUNC else ()
                if size:
                    take(size, _LOOK)
            except BlockingIOError:
                return None
            except OSError as error:
                raise DisconnectedError(str(error)) from error
            counters.bytes_in += size
            shortcut = find(data[ID:])
            if shortcut is None or fds:
                if not data:
                    raise DisconnectedError("the client closed its end")
                return self._read_on(connection.receive(data, fds), len(data))
            tell, act, times = shortcut
            if tell is None:
                begun = clock()
                (tail, *more), lost = act()
                times.add(clock() - begun)
                self.put((data[:ID] + tail, *more), (), lost)
                if self._queue or not settle() or once:
                    break
                continue
            if untimed:
                untimed -= 1  # takes as long as the one before
                reply = data[:ID] + tell()
            else:
                begun = clock()
                reply = data[:ID] + tell()
                taken = clock() - begun
                untimed = _UNTIMED
            # Before the reply: a client that asks then finds itself counted.
            times.count += 1
            times.total += taken
            if taken > times.longest:
                times.longest = taken
            try:
                sent = send(reply, _FLAGS)
            except OSError:
                sent = 0  # whether there is no room or nobody, `put` finds out
            counters.bytes_out += sent
            if sent != len(reply):
                self.put((reply[sent:],), ())
                break
            if once:
                break
        return []

    def _read_on(self, events: list[Event], size: int) -> list[Event]:
        """Read as much as `read` would have, if there was more than a command that can be known.

        A socket that is closed with something unread tells the other end of an error.
        """
        self.brief = size < LONGEST
        if not self.brief:
            with contextlib.suppress(DisconnectedError):  # the next read says so again
                events += self.read_to_keep()
        return events

    def send(self, outgoing: Outgoing) -> None:
        """Send; what the client does not take now is copied and kept."""
        self.put(outgoing.parts, outgoing.fds, outgoing.lost)

    def put(self, parts: tuple[Data, ...], fds: tuple[int, ...], lost: Lost | None = None) -> None:
        """Send the pieces of a message; see `send`."""
        left: Sequence[Data] = parts
        if not self._queue:
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
        self._queue.append(_Waiting(rest, fds, whole, lost))

    def flush(self) -> None:
        """Send what was kept, as far as the client takes it."""
        while self._queue:
            first = self._queue[0]
            sent = self._try((first.rest,), first.fds)
            if sent < len(first.rest):
                if sent:
                    self._queue[0] = first._replace(rest=first.rest[sent:], fds=())
                return
            self._queue.popleft()

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
            if not ready.poll(_LITTLE * 1000) or time.monotonic() >= until:
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
        self._counters.bytes_out += sent
        return sent

    def close(self) -> None:
        """Close the socket and the connection; what waits to be sent is lost, the last first."""
        while self._queue:
            waiting = self._queue.pop()
            if waiting.lost is not None:
                waiting.lost(waiting.whole[HEADER_SIZE:])
        self.connection.close()
        self._queued.close()
        self._receiver.hang_up(self.sock)


class Link:
    """All sockets of one client: a `vfio_migration.runtime.server.session.Port`.

    Args:
        sock: The socket; it belongs to the link.
        connection: What is spoken on it.
        counters: What is counted.
        wake: A descriptor that can be read once somebody else wants something; -1 for none.
        woken: Called then; says why this client is to end, or nothing if it is not.
        watchdog: Fed while the link waits, if the service manager has one.
        receiver: What receives the descriptors of the client; without, one for it alone.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        counters: Counters,
        wake: int = -1,
        woken: Callable[[], str] = str,
        watchdog: Watchdog | None = None,
        receiver: DescriptorReceiver | None = None,
    ) -> None:
        self._watchdog = watchdog
        self._counters = counters
        self._receiver = DescriptorReceiver() if receiver is None else receiver
        self.main = Channel(sock, connection, counters, self._receiver)
        self._twin: Channel | None = None
        self._twin_end: socket.socket | None = None
        self._wake, self._woken = wake, woken
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._attends = self._attentive = False
        self._known: Known = {}
        self._urges: Sequence[object] = ()
        self._settle: Callable[[], bool] = bool
        if wake >= 0:
            self._poll.register(wake, select.POLLIN)

    @property
    def congested(self) -> bool:
        """Whether no more replies may be made; see `Port`."""
        twin = self._twin
        return self.main.waiting >= MAX_REPLIES or (
            twin is not None and twin.waiting >= MAX_REPLIES + MAX_COMMANDS
        )

    def send(self, outgoing: Outgoing, *, twin: bool = False) -> None:
        """Send, or keep to be sent; see `Port`."""
        (self._twin if twin and self._twin is not None else self.main).send(outgoing)

    def push(self) -> None:
        """Send what was kept, as far as the client takes it, without waiting.

        Raises:
            DisconnectedError: There is nobody.
        """
        for channel in (self.main, self._twin):
            if channel is not None:
                channel.flush()

    def attend(self, known: Known, urges: Sequence[object], settle: Callable[[], bool]) -> None:
        """Have `read` wait in the read itself when more is expected soon.

        Args:
            known: What is answered without a word to anybody.
            urges: Whether there are any is looked at between two reads, so that `wake` need not be.
            settle: Called when the reply to what acted on the device is out; says whether nothing
                else is due, so that more may be read.
        """
        self.main.attend()
        self._attends = True
        self._known, self._urges, self._settle = known, urges, settle

    def wait(self, until: float, *, full: bool = False) -> list[Event]:
        """Wait; see `Port`."""
        return self._wait(until, keep=True, full=full)

    def heed(self) -> None:
        """Look whether the server is to end; see `Port`."""
        if self._urges and (why := self._woken()):
            raise StoppedError(why)

    def read(self, until: float | None) -> list[Event]:
        """Wait as `wait` does; the messages are good until the next call."""
        if self._attentive and self._twin is None and not self.main.waiting:
            if until is None or until - time.monotonic() > ATTENTIVE:
                if self.main.brief and self.main.connection.at_rest:
                    came = self.main.answer_known(
                        self._known, self._urges, self._settle, once=until is not None
                    )
                else:
                    came = self.main.read_or_wait()
                if came is not None:
                    return came
            self._attentive = False
        events = self._wait(until, keep=False)
        self._attentive = self._attends and bool(events)
        return events

    @property
    def has_twin(self) -> bool:
        """Whether replies of the client come on a socket of their own; see `Port`."""
        return self._twin is not None

    def _wait(self, until: float | None, *, keep: bool, full: bool = False) -> list[Event]:
        listening = 0 if self.congested else select.POLLIN
        main, twin = self.main, self._twin
        main_listening = 0 if full else listening
        self._watch(main, main_listening | (select.POLLOUT if main.waiting else 0))
        if twin is not None:
            # Nothing that comes is done before there is room for its reply, be it on the twin.
            self._watch(twin, listening | (select.POLLOUT if twin.waiting else 0))
        events: list[Event] = []
        ended: DisconnectedError | None = None
        if self._watchdog is not None:
            # In the middle of a call of the device, too: a client that keeps it waiting for memory
            # is not a server that hangs.
            due = self._watchdog.feed()
            until = due if until is None else min(due, until)
        for fd, what in self._poll.poll(milliseconds(until)):
            if fd == self._wake:
                if why := self._woken():
                    raise StoppedError(why)
                continue
            channel = main if twin is None or fd == main.sock.fileno() else twin
            try:
                if what & select.POLLOUT:
                    channel.flush()
                if what & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    if channel is main and not main_listening:
                        # It hung up and reads no replies any more: what it said last is lost.
                        ended = DisconnectedError("the client is gone and has not read its replies")
                        continue
                    events += channel.read_to_keep() if keep or twin is not None else channel.read()
            except DisconnectedError as error:
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
        self._twin = Channel(self._twin_end, connection, self._counters, self._receiver)
        self._twin_end = None

    def close(self) -> None:
        """Close all sockets."""
        self.main.close()
        if self._twin is not None:
            self._twin.close()
        if self._twin_end is not None:
            self._twin_end.close()  # nobody has the other end
        self._receiver.peer_gone()


def milliseconds(until: float | None) -> int | None:
    """Return how long `poll` is to wait: no longer than it can, whatever is asked for."""
    if until is None:
        return None
    return math.ceil(max(0.0, min(until - time.monotonic(), LONG)) * 1000)


def peer_of(sock: socket.socket) -> int:
    """Return the process that connected, or 0 if the system does not say."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    return int(_CREDENTIALS.unpack(raw)[0])
