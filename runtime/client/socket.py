"""One socket of a client: events to the core, its answers back, and no more held than is bounded.

A client has one of these, or two with a twin socket. They do not wait; their owner waits for what
they want.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from typing import Final

from vfio_migration.runtime.client.core import Core, dispose
from vfio_migration.runtime.protocol.connection import Connection, Event, Outgoing
from vfio_migration.runtime.transport.channel import (
    MAX_REPLIES,
    Channel,
    DisconnectedError,
    Traffic,
)
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver

_ENDED: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class ClientSocket:
    """A socket.

    A server that asks for memory and does not read the answers is not listened to while
    `MAX_REPLIES` of them wait to be sent. What was read by then stays where it is: the messages
    are good until the next read.

    Args:
        sock: The socket; it belongs to the line.
        connection: The connection on it.
        traffic: Counts the bytes.
        core: What makes sense of it.
        receiver: Receives the descriptors of the server.

    Attributes:
        fd: The descriptor of the socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        connection: Connection,
        traffic: Traffic,
        core: Core,
        receiver: DescriptorReceiver,
    ) -> None:
        self._channel = Channel(sock, connection, traffic, receiver)
        self._core = core
        self._inbox: deque[Event] = deque()
        self.fd = sock.fileno()

    @property
    def full(self) -> bool:
        """Whether so much waits to be sent that nothing more is read."""
        return len(self._channel.waiting) >= MAX_REPLIES

    @property
    def wants(self) -> int:
        """What is to be waited for: a mask of `select.poll`."""
        waiting = len(self._channel.waiting)
        wants = 0 if waiting >= MAX_REPLIES else select.POLLIN
        return wants | select.POLLOUT if waiting else wants

    def send(self, outgoing: Outgoing) -> None:
        """Send; what the server does not take now is copied and kept.

        Raises:
            DisconnectedError: The server is not there any more.
        """
        self._channel.send(outgoing)

    def step(self, ready: int) -> None:
        """Do what the socket is ready for, but read no more than once. Raises as `send`."""
        if ready & select.POLLOUT:
            self._channel.flush()
            self._work()
        if ready & ~select.POLLOUT and not self._inbox:
            if not self.full:
                self._inbox.extend(self._channel.read())
                self._work()
            elif ready & _ENDED:
                raise DisconnectedError("the server has disconnected without reading its replies")

    def _work(self) -> None:
        while self._inbox and not self.full:
            answer = self._core.handle(self._inbox.popleft())
            if answer is not None:
                self._channel.send(answer)

    def close(self) -> None:
        """Close the socket, and the descriptors of what was read and not taken in."""
        while self._inbox:
            dispose(self._inbox.popleft())
        self._channel.close()
