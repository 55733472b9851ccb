"""What the client that waits and the one for asyncio have in common: all but the waiting."""

from __future__ import annotations

import copy
import functools
import inspect
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from vfio_migration.model import Spec, load
from vfio_migration.model.errors import why
from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.client.core import (
    Core,
    ExchangeObserver,
    Pending,
    Reachable,
    disconnected,
    dispose,
)
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerDisconnectedError,
    PeerProtocolError,
    TimedOutError,
)
from vfio_migration.runtime.protocol.connection import Connection, Event, Outgoing
from vfio_migration.runtime.protocol.messages.version import Limits
from vfio_migration.runtime.transport.channel import (
    MAX_REPLIES,
    Channel,
    DisconnectedError,
    Traffic,
    peer_of,
)
from vfio_migration.runtime.transport.descriptor_receiver import DescriptorReceiver
from vfio_migration.runtime.transport.peer_process import Process, SenderDetector

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

TIMEOUT_S: Final = 30.0
"""How many seconds a server may take to answer."""

RETRY_S: Final = 0.02
"""After how many seconds a server at which too many wait is tried again."""


_ENDED: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL


class ClientSocket:
    """One socket of a client: events to the core, its answers back, in bounds.

    A client has one of these, or two with a twin socket. They do not wait; their owner waits for
    what they want.

    A server that asks for memory and does not read the answers is not listened to while
    `MAX_REPLIES` of them wait to be sent. What was read by then stays where it is: the messages
    are good until the next read.

    Args:
        sock: The socket; it belongs to this object.
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


class BaseClient:
    """A connection to a server, without the waiting.

    Args:
        where: The path of its socket, or a socket that is connected, which then belongs to this.
        spec: The table that gives states and capabilities their names; that of the package if none
            is given.
        name: What the server is called in messages; its path by default.
        timeout_s: How many seconds the server may take to answer.
        limits: What this side takes and can do.
        memory: Answers the server's DMA by messages.
        observers: Called with every message; see `Exchange`.
        devices: Take memory of real devices (VFIO, dma-buf) for the descriptor of a region, too.
        identify: Find out who sends the first message.

    Attributes:
        spec: The table.
        name: As given.
        timeout_s: As given.
        counters: Its `bytes_in` and `bytes_out` count what went over the sockets.
        pid: The process that listens, or 0 if the system does not know.
        sender: Who sent the first message; None if it is not known.
    """

    def __init__(
        self,
        where: str | Path | socket.socket,
        *,
        spec: Spec | None = None,
        name: str | None = None,
        timeout_s: float = TIMEOUT_S,
        limits: Limits | None = None,
        memory: Reachable | None = None,
        observers: Iterable[ExchangeObserver] = (),
        devices: bool = False,
        identify: bool = False,
    ) -> None:
        default = "server" if isinstance(where, socket.socket) else str(where)
        self.name = default if name is None else name
        self.spec = load() if spec is None else spec
        self.timeout_s = timeout_s
        self.counters = Traffic()
        self.pid = 0
        self.sender: Process | None = None
        self._detector: SenderDetector | None = None
        self._identify = identify
        self._where = where
        self._core = Core(self.name, limits, memory=memory, observers=observers)
        self._sockets: list[ClientSocket] = []
        twin = self._core.connection.own.twin_socket
        self._receiver = DescriptorReceiver(devices=devices, sockets=twin)
        self._names = {state.value: state.name for state in self.spec.states}
        self._process = os.getpid()

    # --- what holds ---

    @property
    def agreed(self) -> Limits:
        """What both sides can do."""
        limits = self._core.connection.agreed
        assert limits is not None, "no version is agreed on yet"
        return limits

    @property
    def transfer(self) -> int:
        """How many bytes of data one message may carry, either way."""
        connection = self._core.connection
        return min(connection.peer.max_data_xfer_size, connection.own.max_data_xfer_size)

    @property
    def max_fds(self) -> int:
        """How many descriptors the server takes with one message."""
        return self._core.connection.peer.max_msg_fds

    @property
    def over(self) -> ClientError | None:
        """Why the connection is over, or None."""
        return self._core.over

    @property
    def memory(self) -> Reachable:
        """What answers the server's DMA by messages; may be set at any time."""
        return self._core.memory

    @memory.setter
    def memory(self, memory: Reachable) -> None:
        self._core.memory = memory

    # --- for the clients ---

    def _is_forked_copy(self) -> bool:
        """Whether this is a copy that a fork made: the connection is the parent's."""
        return os.getpid() != self._process

    def _start(self, sock: socket.socket) -> tuple[Outgoing, Pending[int | None]]:
        """Begin to use a socket. If this raises, it is the caller's to close."""
        self.pid = peer_of(sock)
        if self._identify:
            self._detector = SenderDetector(sock)
        # A descriptor for which this process has no room is dropped without a word, and it would be
        # the server that is blamed for the twin socket: see now whether there is room for one.
        os.close(os.dup(sock.fileno()))
        self._sockets = [
            ClientSocket(sock, self._core.connection, self.counters, self._core, self._receiver)
        ]
        return self._core.negotiate()

    def _add_twin(self, fd: int | None) -> None:
        """Speak on the twin socket too, if there is one."""
        self._receiver.sockets = False  # no other reply brings one
        if fd is None:
            return
        if self._core.over is not None:  # it was agreed on, and all was over in the same breath
            os.close(fd)
            return
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            os.close(fd)
            raise PeerProtocolError(self.name, "the twin socket is not a socket") from error
        if sock.type != socket.SOCK_STREAM:
            sock.close()
            raise PeerProtocolError(self.name, "the twin socket is not a stream")
        assert self._core.twin is not None
        self._sockets.append(
            ClientSocket(sock, self._core.twin, self.counters, self._core, self._receiver)
        )

    def _begin(self, call: Call[T]) -> Pending[T]:
        """Make a call and send it."""
        if self._is_forked_copy():
            raise PeerDisconnectedError(
                self.name, "the connection belongs to the process that made it"
            )
        outgoing, pending = self._core.begin(call)
        self._send(outgoing)
        if call.no_reply and self.over is not None:
            raise copy.copy(self.over)  # there is no reply that would show it
        return pending

    def _send(self, outgoing: Outgoing) -> None:
        try:
            self._sockets[0].send(outgoing)
        except DisconnectedError as error:
            self._end(self._disconnected(error))
        except BaseException:
            self._end(self._interrupted())
            raise

    def _step(self, sock: ClientSocket, ready: int) -> None:
        """Do what a socket is ready for."""
        if self.over is not None:
            return
        if self._detector is not None and (sender := self._detector.detect()) is not None:
            self.sender, self._detector = sender, None
        try:
            sock.step(ready)
        except DisconnectedError as error:
            self._end(self._disconnected(error))
        except BaseException:
            self._end(self._interrupted())
            raise
        if (over := self._core.over) is not None:
            self._end(over)

    def _end(self, error: ClientError) -> None:
        """The connection is of no use any more."""
        try:
            self._core.end(error)
        finally:
            for sock in self._sockets:
                sock.close()
            self._receiver.close()

    def _disconnected(self, error: DisconnectedError) -> PeerDisconnectedError:
        # The message of a channel calls its peer the client.
        return disconnected(self.name, str(error.__cause__ or "the server closed its end"))

    def _interrupted(self) -> PeerDisconnectedError:
        """What it was doing is half done: where the next message begins nobody knows."""
        return PeerDisconnectedError(
            self.name, "this side was interrupted in the middle of a message"
        )

    def _timed_out(self, pending: Pending[Any]) -> TimedOutError:
        return TimedOutError(self.name, f"{pending.call.title} is not answered")

    # --- calls in the words of the table ---

    def _state(self) -> Call[str]:
        return calls.state(self._names)

    def _set_state(self, state: str | int) -> Call[None]:
        if isinstance(state, int):
            return calls.set_state(state, self._names.get(state))
        return calls.set_state(self.spec.state(state).value, state)


def connect_now(path: str | Path, name: str) -> socket.socket | None:
    """Connect; None if too many wait there: a UNIX socket does not show when that ends."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(os.fspath(path))
    except BlockingIOError:
        sock.close()
        return None
    except (OSError, ValueError) as error:
        sock.close()
        # Somebody may well serve at a socket that this user may not connect to.
        denied = isinstance(error, PermissionError)
        what = "cannot be connected to" if denied else "nobody serves there"
        raise PeerDisconnectedError(name, f"{what}: {why(error)}") from error
    return sock


def too_many_wait(name: str) -> TimedOutError:
    """Return the error of a connection that is not even queued."""
    return TimedOutError(name, "too many clients wait there")


def no_version(error: ClientError) -> ClientError:
    """Return the error of a server with which no version could be agreed on."""
    if isinstance(error, TimedOutError):
        return TimedOutError(error.peer, f"{error.why}; does it serve another client?")
    return PeerProtocolError(error.peer, f"no version is agreed on: {error.why}")


def described(method: F, make: Callable[..., object]) -> F:
    """Give a method that carries out a call the name, words and arguments of the call."""
    functools.update_wrapper(method, make)
    signature = inspect.signature(make, eval_str=True)
    myself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    arguments = (myself, *signature.parameters.values())
    [result] = getattr(signature.return_annotation, "__args__", (None,))
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=arguments, return_annotation=None if result is type(None) else result
    )
    return method
