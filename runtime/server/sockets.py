"""The sockets of one client: what a session reads from and sends to, and what the server waits for.

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
import math
import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

from vfio_migration.runtime.protocol.connection import Connection, Event, Outgoing
from vfio_migration.runtime.protocol.layout import WIRE
from vfio_migration.runtime.server.observer import Counters
from vfio_migration.runtime.transport.channel import (
    MAX_REPLIES,
    MAX_WAIT_S,
    READ_TIMEOUT_S,
    Channel,
    DisconnectedError,
    StoppedError,
)
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver
from vfio_migration.runtime.transport.service_notify import Watchdog

MAX_COMMANDS: Final = WIRE.bound("server_commands")

_MAX_WAKE_BYTES: Final = 4096
"""How many bytes, one for each time the server was woken, are read at a time."""


class ClientSockets:
    """All sockets of one client: a `vfio_migration.runtime.server.session.Port`.

    Args:
        sock: The socket; it belongs to this object.
        connection: The connection on it.
        counters: What is counted.
        wake: A descriptor that can be read once another thread wants something; -1 for none.
        end_reason: Says why this client is to end, or nothing if it is not.
        watchdog: Fed while this waits, if the service manager has one.
        receiver: What receives the descriptors of the client; without, one for it alone.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        counters: Counters,
        wake: int = -1,
        end_reason: Callable[[], str] = str,
        watchdog: Watchdog | None = None,
        receiver: DescriptorReceiver | None = None,
    ) -> None:
        self._watchdog = watchdog
        self._counters = counters
        self._receiver = DescriptorReceiver() if receiver is None else receiver
        self.main = Channel(sock, connection, counters, self._receiver)
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
        return self.main.waiting >= MAX_REPLIES or (
            twin is not None and twin.waiting >= MAX_REPLIES + MAX_COMMANDS
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
        ended: DisconnectedError | None = None
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
                        ended = DisconnectedError(
                            "the client has disconnected without reading its replies"
                        )
                        continue
                    events += channel.read(keep=keep)
            except DisconnectedError as error:
                ended = error
        if ended is not None and not events:
            raise ended
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
        self._twin = Channel(self._twin_end, connection, self._counters, self._receiver)
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
