"""The client without a socket: calls to bytes, events to results.

`Core` is one connection of a client. Its owner sends what `begin` returns, hands in the events of
what it reads (`handle`), and sends what that returns: replies to the server's DMA. What a call has
come to is in its `Pending`. Nothing here waits, and nothing the server sends raises.

Every message that goes out or comes in goes to the observers as an `Exchange`, before it is sent
and before the result of the call is there.

*Descriptors.* Those of a reply belong to the result of the call. Whatever has no result (an error,
a reply that makes no sense, a call that was abandoned) has them closed here.
"""

from __future__ import annotations

import copy
import errno as errno_module
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerDisconnectedError,
    PeerProtocolError,
    RefusedError,
)
from vfio_migration.runtime.protocol.connection import (
    Command,
    Connection,
    Event,
    Outgoing,
    ProtocolFault,
    Reply,
)
from vfio_migration.runtime.protocol.faults import CannotSendError, MalformedError
from vfio_migration.runtime.protocol.layout import HEADER_SIZE, WIRE, Data
from vfio_migration.runtime.protocol.messages.catalogue import (
    DeviceFeature,
    DmaRead,
    DmaReadReply,
    DmaWrite,
    DmaWriteReply,
    Version,
    VersionReply,
)
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.protocol.messages.version import Limits

T = TypeVar("T")

_logger: Final = logging.getLogger(__name__)

_EFAULT: Final = errno_module.EFAULT

_ENDED: Final = "the connection has ended"
"""How the reason begins if the server ended it."""

_numbers: Final = itertools.count(1)


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

    Data of a message that was received is good until the observer returns.

    Attributes:
        peer: Whom the client talks to.
        what: "connected", "command" (sent), "reply" (received), "served" (a command of the server,
            answered) or "gone".
        id: The id of the message; -1 if there is none.
        command: The command, for "reply" and "served" too.
        reply: What was answered, or None.
        errno: The error it was answered with: its name, or the number that came if it has none
            here (0: an error without an errno). None if it was answered with success.
        malformed: For "reply": what is wrong with one that does not fit its command. Nothing else
            is known of it.
        why: For "gone".
        by: For "gone": who has ended the connection.
        fds: How many descriptors went with it.
        no_reply: For "command": none is wanted.
        connection: distinguishes the connections of this process; 0 if nobody has counted them.
    """

    peer: str
    what: Literal["connected", "command", "reply", "served", "gone"]
    id: int = -1
    command: Message | None = None
    reply: Message | None = None
    errno: str | int | None = None
    malformed: str | None = None
    why: str | None = None
    by: Literal["client", "server"] | None = None
    fds: int = 0
    no_reply: bool = False
    connection: int = 0


ExchangeObserver: TypeAlias = Callable[[Exchange], object]
"""Called with every exchange. What it raises is raised by the call that the exchange belongs to;
with "served" and "gone", which belong to no call, it is logged."""


class Pending(Generic[T]):
    """A call that was begun.

    Attributes:
        done: It has come to something.
        abandoned: Nobody waits for it.
        call: The call.
    """

    __slots__ = ("_error", "_taken", "_then", "_value", "abandoned", "call", "done")

    def __init__(self, call: Call[T]) -> None:
        self.call = call
        self.done = call.no_reply
        self.abandoned = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._taken = False
        self._then: Callable[[], object] | None = None

    def result(self) -> T:
        """Return what came of it; what that holds is then the caller's.

        Raises:
            ClientError: It was refused, or the connection is over.
        """
        assert self.done, "this call has not come to anything yet"
        if isinstance(self._error, ClientError):
            # A copy: one that was raised holds the stack, and what is on it.
            raise copy.copy(self._error)
        if self._error is not None:
            raise self._error
        self._taken = True
        return self._value  # type: ignore[return-value]

    def abandon(self) -> None:
        """Report that nobody waits for it any more: what comes of it is given back."""
        self.abandoned, self._then = True, None
        value, self._value = self._value, None
        if value is not None and not self._taken and self.call.release is not None:
            self.call.release(value)

    def then(self, act: Callable[[], object] | None) -> None:
        """Have something done once it has come to something."""
        self._then = act

    def succeed(self, value: T) -> None:
        """It succeeded."""
        self._value = value
        self._end()

    def fail(self, error: BaseException) -> None:
        """It failed."""
        self._error = error
        self._end()

    def _end(self) -> None:
        self.done = True
        act, self._then = self._then, None
        if act is not None:
            act()


class Core:
    """One connection of a client.

    Args:
        peer: What the server is called in messages and exchanges.
        limits: What this side takes and can do; without, all that the package can.
        memory: Answers the server's DMA by messages.
        observers: Called with every exchange.

    Attributes:
        peer: As given.
        connection: The connection on the main socket.
        twin: The connection on the twin socket, once there is one.
        memory: As given.
        over: Why the connection is over, or None.
    """

    def __init__(
        self,
        peer: str,
        limits: Limits | None = None,
        *,
        memory: Reachable | None = None,
        observers: Iterable[ExchangeObserver] = (),
    ) -> None:
        self.peer = peer
        self.connection = Connection("client", limits)
        self.twin: Connection | None = None
        self.memory: Reachable = NoMemory() if memory is None else memory
        self.over: ClientError | None = None
        self._observers: Sequence[ExchangeObserver] = tuple(observers)
        self._number = next(_numbers)
        self._pending: dict[int, Pending[object]] = {}
        self._max_size = self.connection.largest - HEADER_SIZE

    @property
    def waiting(self) -> int:
        """How many calls have not come to anything yet."""
        return len(self._pending)

    def negotiate(self) -> tuple[Outgoing, Pending[int | None]]:
        """Begin: propose the version. The result is the descriptor of the twin socket, or None."""
        outgoing = self.connection.send_version()
        call = Call(Version(0, 0), self._negotiated, release=_close_twin)
        return outgoing, self._await(outgoing, call)

    def _negotiated(self, reply: Reply) -> int | None:
        assert isinstance(reply.message, VersionReply)
        self._notify(Exchange(self.peer, "connected", connection=self._number))
        if not reply.fds:
            return None
        self.twin = self.connection.twin()
        offered = reply.message.capabilities
        index = offered.twin_socket.fd_index if offered and offered.twin_socket else None
        _close(fd for at, fd in enumerate(reply.fds) if at != index)
        return None if index is None else reply.fds[index]

    def begin(self, call: Call[T]) -> tuple[Outgoing, Pending[T]]:
        """Begin a call: send the one, wait for the other.

        Raises:
            ClientError: The connection is over.
            CannotSendError: The server does not take this; nothing was sent.
            OSError: A descriptor is none; nothing was sent.
        """
        if self.over is not None:
            # A copy: each time one is raised it holds more of the stack.
            raise copy.copy(self.over)
        for fd in call.fds:
            os.fstat(fd)
        if isinstance(call.message, DeviceFeature) and call.message.argsz > self._max_size:
            raise CannotSendError(
                f"a reply of {call.message.argsz} bytes; no more than {self._max_size}"
            )
        outgoing = self.connection.send_command(call.message, no_reply=call.no_reply, fds=call.fds)
        return outgoing, self._await(outgoing, call)

    def _await(self, outgoing: Outgoing, call: Call[T]) -> Pending[T]:
        pending = Pending(call)
        if not call.no_reply:
            self._pending[outgoing.id] = pending  # type: ignore[assignment]
        if self._observers:
            exchange = Exchange(
                self.peer,
                "command",
                outgoing.id,
                call.message,
                fds=len(call.fds),
                no_reply=call.no_reply,
                connection=self._number,
            )
            try:
                self._notify(exchange)
            except BaseException:
                # Nothing is sent. The id stays taken: the protocol knows of it.
                self._pending.pop(outgoing.id, None)
                raise
        if self.over is not None and not pending.done:
            # An observer has ended the connection, or a signal handler did before the call was
            # there.
            self._pending.pop(outgoing.id, None)
            pending.fail(copy.copy(self.over))
        return pending

    def take(self, events: Iterable[Event]) -> list[Outgoing]:
        """Take in what came, from either socket; return what is to be sent back on the same.

        For a shell that has no need to bound what the server makes it hold; see `handle`.
        """
        return [answer for answer in map(self.handle, events) if answer is not None]

    def handle(self, event: Event) -> Outgoing | None:
        """Take in one event; return what is to be sent back on the same socket.

        An answer can be as long as a message may be, and one read can bring thousands of commands:
        who sends each answer before the next event is handled holds one at a time.
        """
        if self.over is not None:
            dispose(event)
            return None
        if isinstance(event, Reply):
            self._deliver(event)
            return None
        if isinstance(event, Command):
            return self._serve(event)
        if event.fatal:
            self.end(PeerProtocolError(self.peer, f"the server broke the protocol: {event.why}"))
        return event.reply

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
            pending.fail(copy.copy(why))
        by: Literal["client", "server"] = "server" if why.why.startswith(_ENDED) else "client"
        self._notify_logged(
            Exchange(self.peer, "gone", why=why.why, by=by, connection=self._number)
        )

    # --- inside ---

    def _deliver(self, reply: Reply) -> None:
        pending = self._pending.pop(reply.id, None)
        fds = reply.fds
        broken = reply.why
        try:
            if pending is None:  # an observer did not want it sent, and the server made it up
                return
            if self._observers:
                self._notify(
                    Exchange(
                        self.peer,
                        "reply",
                        reply.id,
                        reply.command,
                        reply.message,
                        (reply.errno or reply.code) if reply.failed else None,
                        malformed=broken or None,
                        fds=len(reply.fds),
                        connection=self._number,
                    )
                )
            if broken:
                pass
            elif reply.failed and (instead := self._instead(pending, reply)) is not None:
                pending.succeed(instead())
            elif reply.failed:
                call = pending.call
                pending.fail(
                    RefusedError(self.peer, call.message.name, reply.errno, reply.code, call.about)
                )
            elif pending.abandoned:
                pending.fail(PeerDisconnectedError(self.peer, "nobody waited for it"))
            else:
                value = pending.call.read(reply)
                fds = ()
                pending.succeed(value)
        except MalformedError as fault:
            broken = fault.why
        except BaseException as error:
            # The caller that waits for this call made the sink, or the observer, that raised it.
            assert pending is not None
            pending.fail(error)
            if not isinstance(error, Exception):
                raise
        finally:
            _close(fds)
        if broken and pending is not None:
            name = reply.command.name
            why = broken if broken.startswith(name) else f"{name}: {broken}"
            pending.fail(PeerProtocolError(self.peer, why))
            # Nothing else that it sends can be trusted.
            self.end(PeerProtocolError(self.peer, f"the server broke the protocol: {why}"))

    def _instead(self, pending: Pending[T], reply: Reply) -> Callable[[], T] | None:
        """Return what makes the result of an error reply that is a result, if anybody waits."""
        agreed, instead = self.connection.agreed, pending.call.instead
        if instead is None or agreed is None or pending.abandoned:
            return None
        occasion, make = instead
        row = WIRE.agreed_answer(occasion, agreed.options())
        return make if row is not None and row.errno == reply.errno else None

    def _serve(self, command: Command) -> Outgoing | None:
        """Answer the server's DMA."""
        _close(command.fds)
        connection = self.connection if self.twin is None else self.twin
        message = command.message
        answer: Message | None = None
        errno = _EFAULT
        try:
            answer = self._access(message)
        except OSError as error:
            if (number := error.errno or 0) in errno_module.errorcode:
                errno = number
        except Exception:
            _logger.exception("memory of the client failed")
            errno = errno_module.EREMOTEIO
        if self._observers:
            name = errno_module.errorcode[errno] if answer is None else None
            exchange = Exchange(self.peer, "served", command.id, message, answer, name)
            self._notify_logged(replace(exchange, connection=self._number))
        if answer is None:
            return connection.send_error(command, errno)
        return connection.send_reply(command, answer)

    def _access(self, message: Message) -> Message:
        if isinstance(message, DmaRead):
            data = self.memory.read(message.address, message.count)
            if memoryview(data).nbytes != message.count:
                raise ValueError(f"{len(data)} bytes instead of {message.count} were read")
            return DmaReadReply(message.address, data)
        assert isinstance(message, DmaWrite)
        self.memory.write(message.address, message.data)
        return DmaWriteReply(message.address, len(message.data))

    def _notify(self, exchange: Exchange) -> None:
        for watch in self._observers:
            watch(exchange)

    def _notify_logged(self, exchange: Exchange) -> None:
        """Notify of what belongs to no call; what an observer raises is logged."""
        for watch in self._observers:
            try:
                watch(exchange)
            except Exception:
                _logger.exception("an observer of messages failed")


def dispose(event: Event) -> None:
    """Close the descriptors of an event that nobody takes in."""
    if not isinstance(event, ProtocolFault):
        _close(event.fds)


def disconnected(peer: str, error: Exception | str) -> PeerDisconnectedError:
    """Return the error of a connection that ended."""
    return PeerDisconnectedError(peer, f"{_ENDED}: {error}")


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def _close_twin(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
