"""The client without a socket: calls to bytes, events to results.

`Core` is one connection of a client. Its owner sends what `begin` returns, hands in the events of
what it reads (`take`), and sends what that returns: replies to the server's DMA. What a call has
come to stands in its `Pending`. Nothing here waits.

Every message that goes out or comes in is told to the observers as an `Exchange`, before it is sent
and before anybody sees what came of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.client.errors import ClientError, PeerBroke, PeerGone, Refused
from vfio_migration.runtime.protocol.connection import Connection
from vfio_migration.runtime.protocol.events import Command, Event, Outgoing, Reply
from vfio_migration.runtime.protocol.faults import CannotSend, Malformed
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.message import Message
from vfio_migration.runtime.protocol.messages import (
    DmaRead,
    DmaReadReply,
    DmaWrite,
    DmaWriteReply,
    Version,
    VersionReply,
)
from vfio_migration.runtime.protocol.version import Limits

T = TypeVar("T")


class Reachable(Protocol):
    """Memory of the client that the server reaches by messages."""

    def read(self, address: int, count: int, /) -> Data:
        """Return `count` bytes at an address of the device; raise `OSError` if they are not its."""
        ...

    def write(self, address: int, data: Data, /) -> None:
        """Write there; `data` is good until this returns. Raises as `read`."""
        ...


class NoMemory:
    """Nothing is reached by messages."""

    def read(self, address: int, _count: int, /) -> Data:
        """Refuse."""
        raise OSError(_EFAULT, f"nothing is mapped at {address:#x}")

    def write(self, address: int, _data: Data, /) -> None:
        """Refuse."""
        raise OSError(_EFAULT, f"nothing is mapped at {address:#x}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A message, or the beginning or the end of a connection.

    Attributes:
        peer: Whom the client talks to.
        what: "connected", "command" (sent), "reply" (received), "served" (a command of the server,
            answered) or "gone".
        id: The id of the message; -1 if there is none.
        command: The command, for "reply" and "served" too.
        reply: What was answered, or None.
        errno: The errno it was answered with, or None.
        why: For "gone".
    """

    peer: str
    what: Literal["connected", "command", "reply", "served", "gone"]
    id: int = -1
    command: Message | None = None
    reply: Message | None = None
    errno: str | None = None
    why: str | None = None


Watch: TypeAlias = Callable[[Exchange], object]
"""Is told of every exchange. What it raises goes to whoever made the call."""


class Pending(Generic[T]):
    """A call that was begun.

    Attributes:
        done: It has come to something.
        call: The call.
    """

    __slots__ = ("_error", "_value", "call", "done")

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self.done = call.no_reply
        self._value: T | None = None
        self._error: BaseException | None = None

    def result(self) -> T:
        """Return what came of it.

        Raises:
            ClientError: It was refused, or the connection is over.
        """
        assert self.done, "this call has not come to anything yet"
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def settle(self, value: T) -> None:
        """It succeeded."""
        self.done, self._value = True, value

    def fail(self, error: BaseException) -> None:
        """It failed."""
        self.done, self._error = True, error


class Core:
    """One connection of a client.

    Args:
        peer: What the server is called in messages and exchanges.
        limits: What this side takes and can do; without, all that the package can.
        memory: Answers the server's DMA by messages.
        watches: Who is told of every exchange.

    Attributes:
        peer: As given.
        connection: What is spoken on the main socket.
        twin: What is spoken on the twin socket, once there is one.
        memory: As given.
        over: Why the connection is over, or None.
    """

    def __init__(
        self,
        peer: str,
        limits: Limits | None = None,
        *,
        memory: Reachable | None = None,
        watches: Iterable[Watch] = (),
    ) -> None:
        self.peer = peer
        self.connection = Connection("client", limits)
        self.twin: Connection | None = None
        self.memory: Reachable = NoMemory() if memory is None else memory
        self.over: ClientError | None = None
        self._watches: Sequence[Watch] = tuple(watches)
        self._pending: dict[int, Pending[object]] = {}

    @property
    def waiting(self) -> int:
        """How many calls have not come to anything yet."""
        return len(self._pending)

    def hello(self) -> tuple[Outgoing, Pending[int | None]]:
        """Begin: propose the version. The result is the descriptor of the twin socket, or None."""
        outgoing = self.connection.send_version()
        call = Call(Version(0, 0), self._welcome)
        return outgoing, self._await(outgoing, call)

    def _welcome(self, reply: Reply) -> int | None:
        assert isinstance(reply.message, VersionReply)
        self._tell(Exchange(self.peer, "connected"))
        if not reply.fds:
            return None
        self.twin = self.connection.twin()
        said = reply.message.capabilities
        index = said.twin_socket.fd_index if said and said.twin_socket else None
        _close(fd for at, fd in enumerate(reply.fds) if at != index)
        return None if index is None else reply.fds[index]

    def begin(self, call: Call[T]) -> tuple[Outgoing, Pending[T]]:
        """Begin a call: send the one, wait for the other.

        Raises:
            ClientError: The connection is over.
            CannotSend: The server does not take this; nothing was sent.
        """
        if self.over is not None:
            raise self.over
        outgoing = self.connection.send_command(call.message, no_reply=call.no_reply, fds=call.fds)
        return outgoing, self._await(outgoing, call)

    def _await(self, outgoing: Outgoing, call: Call[T]) -> Pending[T]:
        pending = Pending(call)
        if not call.no_reply:
            self._pending[outgoing.id] = pending  # type: ignore[assignment]
        if self._watches:
            self._tell(Exchange(self.peer, "command", outgoing.id, call.message))
        return pending

    def take(self, events: Iterable[Event]) -> list[Outgoing]:
        """Take in what came, from either socket; return what is to be sent back on the same."""
        answers: list[Outgoing] = []
        for event in events:
            if isinstance(event, Reply):
                self._deliver(event)
            elif isinstance(event, Command):
                answer = self._serve(event)
                if answer is not None:
                    answers.append(answer)
            else:
                if event.reply is not None:
                    answers.append(event.reply)
                if event.fatal:
                    self.end(PeerBroke(self.peer, f"the server broke the protocol: {event.why}"))
        return answers

    def end(self, why: ClientError) -> None:
        """End the connection: every call that waits fails with `why`. Closes no socket."""
        if self.over is not None:
            return
        self.over = why
        self.connection.close()
        if self.twin is not None:
            self.twin.close()
        waiting, self._pending = self._pending, {}
        for pending in waiting.values():
            pending.fail(why)
        self._tell(Exchange(self.peer, "gone", why=why.why))

    # --- inside ---

    def _deliver(self, reply: Reply) -> None:
        pending = self._pending.pop(reply.id)
        fds = reply.fds
        try:
            if self._watches:
                said, errno = reply.message, reply.errno
                self._tell(Exchange(self.peer, "reply", reply.id, reply.command, said, errno))
            if reply.errno is None:
                pending.settle(pending.call.read(reply))
                fds = ()
            elif reply.why:
                pending.fail(PeerBroke(self.peer, f"{reply.command.name}: {reply.why}"))
            else:
                pending.fail(Refused(self.peer, reply.command.name, reply.errno))
        except Malformed as fault:
            pending.fail(PeerBroke(self.peer, str(fault)))
        except BaseException as error:
            # Whoever waits for this call made the sink, or the watch, that raised it.
            pending.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            _close(fds)

    def _serve(self, command: Command) -> Outgoing | None:
        """Answer the server's DMA."""
        _close(command.fds)
        connection = self.connection if self.twin is None else self.twin
        message = command.message
        errno: int | None = None
        answer: Message | None = None
        try:
            if isinstance(message, DmaRead):
                answer = DmaReadReply(
                    message.address, self.memory.read(message.address, message.count)
                )
            else:
                assert isinstance(message, DmaWrite)
                self.memory.write(message.address, message.data)
                answer = DmaWriteReply(message.address, len(message.data))
        except OSError as error:
            errno = error.errno or _EFAULT
        if self._watches:
            name = None if errno is None else os.strerror(errno)
            self._tell(Exchange(self.peer, "served", command.id, message, answer, name))
        try:
            if answer is None:
                return connection.send_error(command, errno or _EFAULT)
            return connection.send_reply(command, answer)
        except CannotSend:
            return connection.send_error(command, _EFAULT)

    def _tell(self, exchange: Exchange) -> None:
        for watch in self._watches:
            watch(exchange)


_EFAULT: Final = 14


def gone(peer: str, error: Exception | str) -> PeerGone:
    """Return the error of a connection that ended."""
    return PeerGone(peer, f"the connection has ended: {error}")


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)
