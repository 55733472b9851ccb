"""A vfio-user server: one device, one client at a time, over UNIX stream sockets.

    with listening("/run/edu.sock") as sock, Server(Edu()) as server:
        server.serve(sock)

All of it runs in the thread that calls `serve`; only `stop` may be called from another one, or from
a signal handler. Clients that come while one is served wait for their turn.

A client has a main socket and, if it asked for one, a twin socket, on which the server sends
commands and the client replies. A client that does not read its replies costs no more than
`MAX_REPLIES` of them: they are kept, copied, and no further command is read before there is room.

After a command most clients send the next one as soon as they have the reply. So the next read
waits in the read itself and not in `poll` before it; docs/decisions/0010 has the figures. It waits
for no longer than `READ_TIMEOUT_S`, because nothing else is looked at meanwhile, and not if
anything is due before that. Once it has waited in vain, `poll` is used until the next command.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.records import Observer
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.protocol.connection import Connection, Event, Outgoing
from vfio_migration.runtime.protocol.layout import WIRE
from vfio_migration.runtime.protocol.messages.version import Limits
from vfio_migration.runtime.server.commands import CommandHandlers
from vfio_migration.runtime.server.log import log_event
from vfio_migration.runtime.server.observer import ServerLog
from vfio_migration.runtime.server.session import BLOCKED_TIMEOUT_S, TIMEOUT_S, Session
from vfio_migration.runtime.transport.channel import (
    MAX_REPLIES,
    MAX_WAIT_S,
    READ_TIMEOUT_S,
    Channel,
    DisconnectedError,
    StoppedError,
    Traffic,
    peer_of,
)
from vfio_migration.runtime.transport.closing import Closing
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver
from vfio_migration.runtime.transport.service_notify import Watchdog

_logger: Final = logging.getLogger(__name__)

RETRY_S: Final = 0.1
"""How many seconds a device is left alone after it failed in what it does by itself, and for how
many no client is accepted after one could not be."""

TURN_S: Final = 0.004
"""For how many seconds commands are served before anything else has its turn again."""


MAX_COMMANDS: Final = WIRE.bound("server_commands")

_MAX_WAKE_BYTES: Final = 4096
"""How many bytes, one for each time the server was woken, are read at a time."""


class ConnectedClient(NamedTuple):
    """Who is connected.

    Attributes:
        number: How many clients there have been, this one included.
        pid: Its process, or 0 if the system does not know.
        since: When it connected, as `time.monotonic` counts.
    """

    number: int
    pid: int
    since: float


class Server(Closing):
    """Serves one device.

    Args:
        device: The device. It stays the caller's: `close` does not close it.
        limits: What a client may ask for; all that the table of the connection allows, by
            default.
        observers: Called with what happens to the device, besides the log and the counters.
        timeout_s: How many seconds a client may take to give or take memory of the guest.
        blocked_timeout_s: The same, once the client waits for what cannot be done before.
        idle_timeout: After how many seconds in which a client sends nothing and takes nothing,
            while nothing of it is under way, it is disconnected; None: never.
        watchdog: Notifies the service manager that the loop goes on, if it has asked for that.

    Attributes:
        counters: What was done, in numbers.
        log: What logs it.
        handlers: What answers.
        client: Who is connected, or None; may be read from any thread.
        limits: As given.
        timeout_s: As given.
        blocked_timeout_s: As given.
        idle_timeout: As given.
        watchdog: As given.
        receiver: What receives the descriptors of clients.
    """

    def __init__(
        self,
        device: DeviceContract,
        *,
        limits: Limits | None = None,
        observers: Iterable[Observer] = (),
        timeout_s: float = TIMEOUT_S,
        blocked_timeout_s: float = BLOCKED_TIMEOUT_S,
        idle_timeout: float | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        self.log = ServerLog()
        self.counters = self.log.counters
        self.handlers = CommandHandlers(device, observers=(self.log, *observers))
        self.log.write()
        self.client: ConnectedClient | None = None
        self._device = device
        self.limits = limits
        self.timeout_s, self.blocked_timeout_s = timeout_s, blocked_timeout_s
        self.idle_timeout = idle_timeout
        self.watchdog = watchdog
        self._to_end: ConnectedClient | None = None
        self._paused_until = 0.0
        self._is_log_due = False
        self._stopping = False
        self.receiver = DescriptorReceiver(devices=device.memory.device_memory)
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @property
    def engine(self) -> Engine:
        """What moves the device."""
        return self.handlers.engine

    @property
    def device(self) -> DeviceContract:
        """The device."""
        return self._device

    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    @property
    def wake(self) -> int:
        """A descriptor that can be read once `stop`, `end_client` or `log_counters` was called."""
        return self._wake

    def stop(self) -> None:
        """Make `serve` return. May be called from any thread and from a signal handler."""
        self._stopping = True
        self._wake_up()

    def end_client(self) -> None:
        """Disconnect the present client, if there is one. May be called as `stop`.

        For the device this is a client that goes away: what was its own is dropped, the state is
        kept. The client may come back, behind those who wait.
        """
        self._to_end = self.client
        self._wake_up()

    def end_reason(self) -> str:
        """Return why the present client is to end, or nothing if it is not."""
        if self._stopping:
            return "the server is to end"
        if self._to_end is not None and self._to_end is self.client:
            return "disconnected by the operator"
        return ""

    def log_counters(self) -> None:
        """Log the counters soon. May be called as `stop`."""
        self._is_log_due = True
        self._wake_up()

    def close(self) -> None:
        """Give back what the server itself holds."""
        self.log.flush()
        self.receiver.close()
        if self._wake >= 0:
            os.close(self._wake)
            os.close(self._waker)
            self._wake = self._waker = -1

    def serve(self, listener: socket.socket) -> None:
        """Serve one client after the other, until `stop`."""
        listener.setblocking(False)
        poll, poll_without_listener = select.poll(), select.poll()
        poll.register(listener, select.POLLIN)
        for one in (poll, poll_without_listener):
            one.register(self._wake, select.POLLIN)
        accept_from = 0.0
        while not self.is_stopping():
            self.write_log()
            self.do_due_work()
            deadline = self.next_deadline()
            if time.monotonic() < accept_from:
                until = accept_from if deadline is None else min(deadline, accept_from)
                ready = poll_without_listener.poll(milliseconds(until))
            else:
                ready = poll.poll(milliseconds(deadline))
            if any(fd == self._wake for fd, _ in ready):
                drain(self._wake)
            if self.is_stopping() or not any(fd == listener.fileno() for fd, _ in ready):
                continue
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                # No descriptor is free, for example: the client goes on waiting, and so does this.
                log_event("accept", level=logging.ERROR, why=str(error))
                accept_from = time.monotonic() + RETRY_S
                continue
            self.serve_client(sock)

    def serve_client(self, sock: socket.socket) -> None:
        """Serve one client to its end; the socket is closed then."""
        with self.client_loop(sock) as client_loop:
            while not client_loop.over:
                client_loop.turn()

    def client_loop(self, sock: socket.socket) -> ClientLoop:
        """Begin to serve a client, for a shell that waits in its own way."""
        return ClientLoop(self, sock)

    # --- time ---

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._waker, b"\0")

    def device_deadline(self) -> float | None:
        """Return when the device has something to do by itself; None: at no time."""
        if self._paused_until:
            if time.monotonic() < self._paused_until:
                return self._paused_until
            self._paused_until = 0.0
        try:
            due = self._device.deadline()
            # What is too far off to be waited for, or no time at all, is asked about again.
            if due is not None and not due < (far := time.monotonic() + MAX_WAIT_S):
                due = far
        except Exception as error:  # noqa: BLE001 - is logged there
            self.handlers.failures.report("deadline", error, self._device)
            due = self._pause_device()
        return due

    def next_deadline(self) -> float | None:
        """Return when the loop has something to do, whatever comes; None: at no time."""
        deadline = self.device_deadline()
        if self.watchdog is None:
            return deadline
        feed_at = self.watchdog.feed()
        return feed_at if deadline is None else min(deadline, feed_at)

    def write_log(self) -> None:
        """Log what happened, and the counters if that was asked for."""
        self.log.write()
        if self._is_log_due:
            self._is_log_due = False
            log_event("counters", **self.counters.snapshot())

    def do_due_work(self) -> None:
        """Let the device do what is due by now."""
        due = self.device_deadline()
        if due is not None and due <= time.monotonic():
            try:
                self._device.tick()
            except Exception as error:  # noqa: BLE001 - is logged there
                self.handlers.failures.report("tick", error, self._device)
                self._pause_device()

    def _pause_device(self) -> float:
        self._paused_until = time.monotonic() + RETRY_S
        return self._paused_until


class ClientLoop:
    """The loop that serves one client; a context, at the end of which the client is disconnected.

    Attributes:
        over: The client disconnected or broke the protocol, or the server is to end.
        sockets: Its sockets.
    """

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.over = False
        self._server = server
        self._handlers = handlers = server.handlers
        self._counters = counters = server.counters
        counters.connections += 1
        self._number = counters.connections
        server.client = ConnectedClient(self._number, peer_of(sock), time.monotonic())
        self._moved = -1
        self._idle_since = server.client.since
        self._deadline: float | None = 0.0  # the loop has to go round by then
        self._why = "the server is to end"
        log_event("connected", client=self._number, pid=server.client.pid, state=handlers.state)
        connection = Connection("server", server.limits)
        self.sockets = ClientSockets(
            sock,
            connection,
            counters,
            server.wake,
            server.end_reason,
            server.watchdog,
            receiver=server.receiver,
        )
        self._session = Session(
            handlers,
            connection,
            self.sockets,
            counters,
            timeout_s=server.timeout_s,
            blocked_timeout_s=server.blocked_timeout_s,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()
        self.sockets.close()
        self._handlers.client_disconnected()
        self._handlers.failures.flush()
        self._server.client = None
        self._server.log.flush()
        log_event("disconnected", client=self._number, why=self._why, state=self._handlers.state)

    def turn(self, *, wait: bool = True) -> bool:
        """Do what there is to do, then wait for more, or only look for it.

        Returns:
            Whether there is something to do now.
        """
        session, server = self._session, self._server
        try:
            now = time.monotonic()
            if self._deadline is not None and self._deadline <= now:
                server.do_due_work()
            session.work(now + TURN_S)
            server.write_log()
            self._deadline = server.next_deadline()
            if session.over:
                self.over, self._why = True, session.why or self._why
            elif why := server.end_reason():
                self.over, self._why = True, why
            elif self._is_idle():
                self.over, self._why = True, f"idle for {server.idle_timeout:g} s"
            elif not (session.idle or self.sockets.congested):
                self.sockets.flush()  # what came first is done first
            else:
                session.feed(self.sockets.read(self.until() if wait else 0.0))
        except (DisconnectedError, StoppedError) as error:
            self.over, self._why = True, str(error)
        except Exception:
            self.over, self._why = True, "a mistake in the server"
            _logger.exception("serving client %d failed", self._number)
        return not session.idle and not self.sockets.congested

    def until(self) -> float | None:
        """Until when there is nothing to do, as far as is known; None: no matter when."""
        if not (self._session.idle or self.sockets.congested):
            return 0.0
        deadline, timeout = self._deadline, self._server.idle_timeout
        if timeout is None:
            return deadline
        idle = self._idle_since + timeout
        return idle if deadline is None else min(idle, deadline)

    def _is_idle(self) -> bool:
        """Whether the client has sent nothing and taken nothing for longer than it may."""
        timeout = self._server.idle_timeout
        if timeout is None:
            return False
        moved = self._counters.bytes_in + self._counters.bytes_out
        now = time.monotonic()
        if moved != self._moved or not (self._session.idle or self.sockets.congested):
            self._moved, self._idle_since = moved, now
        return now - self._idle_since >= timeout


class ClientSockets:
    """All sockets of one client: a `vfio_migration.runtime.server.session.Port`.

    Args:
        sock: The socket; it belongs to this object.
        connection: The connection on it.
        traffic: Counts the bytes.
        wake: A descriptor that can be read once another thread wants something; -1 for none.
        end_reason: Says why this client is to end, or nothing if it is not.
        watchdog: Fed while this waits, if the service manager has one.
        receiver: What receives the descriptors of the client; without, one for it alone.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        traffic: Traffic,
        wake: int = -1,
        end_reason: Callable[[], str] = str,
        watchdog: Watchdog | None = None,
        receiver: DescriptorReceiver | None = None,
    ) -> None:
        self._watchdog = watchdog
        self._traffic = traffic
        self._receiver = DescriptorReceiver() if receiver is None else receiver
        self.main = Channel(sock, connection, traffic, self._receiver)
        self.main.allow_waiting_reads()
        self._twin: Channel | None = None
        self._twin_end: socket.socket | None = None
        self._wake, self._end_reason = wake, end_reason
        self._poll = select.poll()
        self._watched: dict[int, int] = {}
        self._expects_more = False
        if wake >= 0:
            self._poll.register(wake, select.POLLIN)

    @property
    def congested(self) -> bool:
        """Whether no more replies may be made; see `Port`."""
        twin = self._twin
        return len(self.main.waiting) >= MAX_REPLIES or (
            twin is not None and len(twin.waiting) >= MAX_REPLIES + MAX_COMMANDS
        )

    def send(self, outgoing: Outgoing, *, twin: bool = False) -> None:
        """Send, or keep to be sent; see `Port`."""
        (self._twin if twin and self._twin is not None else self.main).send(outgoing)

    def flush(self) -> None:
        """Send what was kept, as far as the client takes it, without waiting.

        Raises:
            DisconnectedError: The client has disconnected.
        """
        for channel in (self.main, self._twin):
            if channel is not None:
                channel.flush()

    def check_end(self) -> None:
        """Raise if this client is to end; see `Port`."""
        if why := self._end_reason():
            raise StoppedError(why)

    def read(self, until: float | None) -> list[Event]:
        """Wait as `wait` does; the messages are good until the next call."""
        if self._expects_more and self._twin is None and not self.main.waiting:
            is_free = until is None or until - time.monotonic() > READ_TIMEOUT_S
            if is_free and (events := self.main.read(wait=True)):
                return events
        events = self._wait(until)
        self._expects_more = bool(events)
        return events

    def wait(self, until: float, *, full: bool = False) -> list[Event]:
        """Wait; see `Port`."""
        return self._wait(until, keep=True, full=full)

    def _wait(self, until: float | None, *, keep: bool = False, full: bool = False) -> list[Event]:
        listening = 0 if self.congested else select.POLLIN
        main, twin = self.main, self._twin
        main_listening = 0 if full else listening
        self._watch(main, main_listening | (select.POLLOUT if main.waiting else 0))
        if twin is not None:
            # Nothing that comes is done before there is room for its reply, be it on the twin.
            self._watch(twin, listening | (select.POLLOUT if twin.waiting else 0))
        events: list[Event] = []
        ended = ""  # not the error, whose traceback would hold this frame, and all that called it
        if self._watchdog is not None:
            # In the middle of a call of the device, too: a client that keeps it waiting for memory
            # is not a server that hangs.
            due = self._watchdog.feed()
            until = due if until is None else min(due, until)
        for fd, what in self._poll.poll(milliseconds(until)):
            if fd == self._wake:
                drain(fd)
                self.check_end()
                continue
            channel = main if twin is None or fd == main.sock.fileno() else twin
            try:
                if what & select.POLLOUT:
                    channel.flush()
                if what & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    if channel is main and not main_listening:
                        # It hung up and reads no replies any more: what it sent last is lost.
                        ended = "the client has disconnected without reading its replies"
                        continue
                    events += channel.read(keep=keep)
            except DisconnectedError as error:
                ended = str(error)
        if ended and not events:
            raise DisconnectedError(ended)
        return events

    @property
    def has_twin(self) -> bool:
        """Whether replies of the client come on a socket of their own; see `Port`."""
        return self._twin is not None

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
        """Use the twin socket from now on; see `Port`."""
        assert self._twin_end is not None
        self._twin = Channel(self._twin_end, connection, self._traffic, self._receiver)
        self._twin_end = None

    def close(self) -> None:
        """Close all sockets."""
        self.main.close()
        if self._twin is not None:
            self._twin.close()
        if self._twin_end is not None:
            self._twin_end.close()  # nobody has the other end
        self._receiver.peer_disconnected()


def drain(wake: int) -> None:
    """Read what was written to a pipe to wake the thread that waits for it."""
    with contextlib.suppress(OSError):
        os.read(wake, _MAX_WAKE_BYTES)


def milliseconds(until: float | None) -> int | None:
    """Return how long `poll` is to wait: no longer than it can, whatever is asked for."""
    if until is None:
        return None
    return math.ceil(max(0.0, min(until - time.monotonic(), MAX_WAIT_S)) * 1000)
