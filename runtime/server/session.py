"""One client, from its first byte to its last: events in, replies out, still without a socket.

The part that is not simple is memory of the guest that is reached by messages. The device asks for
it in the middle of a call, and while it waits the client's commands must go on being answered: a
client may be unable to reply before it has got an answer of its own (QEMU's is). So commands are
served *inside* the wait, with these limits:

- What moves the device, resets it, streams or changes what is mapped waits until the call is over:
  it would pull the ground from under it. What comes after such a command waits too, so that the
  order is kept; a client that waits for one of these gets its answer because the wait for the
  memory is then cut short to `BLOCKED_TIMEOUT_S` seconds, and the access fails.
- At most `max_server_commands` waits are one inside the other. What is put off is bounded, see
  `pending_commands`. At the bound nothing more is read from the socket on which the next command
  comes. If the reply for which the device waits would come on the same one, the access to the
  memory fails at once, and what was put off is done; on a twin socket it is waited for as before.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from vfio_migration.runtime.engine.errors import answer_to, errno_name, errno_number
from vfio_migration.runtime.kit.errors import Part
from vfio_migration.runtime.protocol.connection import (
    Command,
    Connection,
    Event,
    Outgoing,
    ProtocolFault,
    Reply,
)
from vfio_migration.runtime.protocol.faults import CannotSendError
from vfio_migration.runtime.protocol.messages.catalogue import (
    DeviceFeature,
    DeviceGetInfo,
    DeviceGetIrqInfo,
    DeviceGetRegionInfo,
    DeviceGetRegionIoFds,
    DeviceSetIrqs,
    DmaRead,
    DmaReadReply,
    DmaWrite,
    DmaWriteReply,
    RegionRead,
    RegionWrite,
    RegionWriteMulti,
    Version,
)
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.server.commands import Answered, CommandHandlers
from vfio_migration.runtime.server.observer import Counters
from vfio_migration.runtime.server.pending_commands import PendingCommands

_logger: Final = logging.getLogger(__name__)

TIMEOUT_S: Final = 10.0
"""How many seconds a client may take to give or take memory of the guest."""

BLOCKED_TIMEOUT_S: Final = 2.0
"""The same, once it waits for something that cannot be done before. QEMU waits 5 s for a reply."""

ALLOWED_DURING_DMA: Final = (
    DeviceGetInfo,
    DeviceGetRegionInfo,
    DeviceGetRegionIoFds,
    DeviceGetIrqInfo,
    DeviceSetIrqs,
    RegionRead,
    RegionWrite,
    RegionWriteMulti,
)
"""What is served while the device waits for memory of the guest, besides reading a feature."""


class Port(Protocol):
    """The socket, or what stands for it."""

    @property
    def congested(self) -> bool:
        """Whether so many replies wait to be sent that no more may be made."""
        ...

    def send(self, outgoing: Outgoing, *, twin: bool = False) -> None:
        """Send, or keep to be sent; what has to be kept is copied."""
        ...

    @property
    def has_twin(self) -> bool:
        """Whether what comes in reply to commands of the server comes on a socket of its own."""
        ...

    def wait(self, until: float, *, full: bool = False) -> list[Event]:
        """Wait until something comes, there is room again or it is `until`; return what came.

        The messages are good for as long as anybody has them.

        Args:
            until: Until when.
            full: Read nothing from the socket on which commands come.

        Raises:
            ConnectionError: Nothing will come any more.
        """
        ...

    def check_end(self) -> None:
        """Raise `ConnectionError` if the server, or this client, is to end."""
        ...

    def make_twin(self) -> int | None:
        """Make the twin socket and return the client's end, or None if that cannot be done."""
        ...

    def open_twin(self, connection: Connection) -> None:
        """Use the twin socket, with `connection` on it, from now on."""
        ...


class Session:
    """One client.

    Args:
        handlers: The device.
        connection: The protocol.
        port: The socket.
        counters: What is counted.

    Attributes:
        over: Nothing more is to be served.
        why: Why it is, if it ended in here.
    """

    def __init__(
        self,
        handlers: CommandHandlers,
        connection: Connection,
        port: Port,
        counters: Counters,
        *,
        timeout_s: float = TIMEOUT_S,
        blocked_timeout_s: float = BLOCKED_TIMEOUT_S,
    ) -> None:
        self.over = False
        self.why = ""
        self._handlers = handlers
        self._connection = connection
        self._dma = connection  # or that of the twin socket
        self._port = port
        self._counters = counters
        self._timeout_s, self._blocked_timeout_s = timeout_s, blocked_timeout_s
        self._inbox: deque[Event] = deque()
        self._pending = PendingCommands()
        self._depth = 0
        self._replies: dict[int, Reply | None] = {}

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do before more comes."""
        return not self._inbox

    def feed(self, events: Iterable[Event]) -> None:
        """Take in what came."""
        self._inbox.extend(events)

    def work(self, until: float = math.inf) -> None:
        """Do what came, as far as there is room for the replies, and begin nothing after `until`.

        What is left stays `feed`'s: before it is done, no more is to be read to the same place.
        """
        while self._inbox and not self.over and not self._port.congested:
            self._handle(self._inbox.popleft())
            if time.monotonic() >= until:
                break

    def close(self) -> None:
        """Forget what came and was not done."""
        self.over = True
        for event in (*self._pending.take_all(), *self._inbox):
            if not isinstance(event, ProtocolFault):
                _close(event.fds)
        self._inbox.clear()

    # --- events ---

    def _handle(self, event: Event) -> None:
        if isinstance(event, Command):
            if self._must_wait(event):
                self._pending.append(event)
            else:
                self._serve(event)
        elif isinstance(event, Reply):
            _close(event.fds)
            # One that nobody waits for any more comes too late.
            if event.id in self._replies:
                self._replies[event.id] = event
        else:
            self._counters.fault(event)
            if event.reply is not None:
                self._port.send(event.reply, twin=event.twin)
            if event.fatal:
                self.over, self.why = True, event.why

    def _must_wait(self, command: Command) -> bool:
        """Whether a command is put off."""
        return self._depth > 0 and (bool(self._pending) or not _is_allowed_during_dma(command))

    @property
    def _full(self) -> bool:
        """Whether a command came next that is to be put off, and there is no room for it."""
        event = self._inbox[0] if self._inbox else None
        return (
            isinstance(event, Command)
            and self._must_wait(event)
            and not self._pending.has_room_for(event)
        )

    def _handle_replies_first(self) -> None:
        """Handle replies, and all from the twin socket, before commands there is no room for."""
        events, self._inbox = self._inbox, deque()
        for event in events:
            passes = isinstance(event, Reply) or (isinstance(event, ProtocolFault) and event.twin)
            if passes and not self._port.congested:
                self._handle(event)
            else:
                self._inbox.append(event)

    def _serve(self, command: Command) -> None:
        begun = time.perf_counter_ns()
        outgoing: Outgoing | None
        errno: str | None = None
        try:
            if isinstance(command.message, Version):
                outgoing = self._agree(command)
            else:
                answer = self._handlers.answer(command)
                if isinstance(answer, str):
                    errno = answer
                    outgoing = self._connection.send_error(command, answer)
                else:
                    outgoing = self._reply(command, answer)
            # Before the reply: a client that asks then finds itself counted.
            self._counters.served(command.number, time.perf_counter_ns() - begun, errno)
            if outgoing is not None:
                self._port.send(outgoing)
        finally:
            if command.fds:
                _close(command.fds)

    def _reply(self, command: Command, answer: Message | Answered) -> Outgoing | None:
        message, fds, lost = answer if isinstance(answer, Answered) else (answer, (), None)
        try:
            outgoing = self._connection.send_reply(command, message, fds)
        except CannotSendError as error:
            _logger.exception("a reply that cannot be sent")
            if lost is not None:
                lost(b"".join(message.parts()))
            return self._connection.send_error(command, answer_to(error).errno)
        if lost is not None:
            if outgoing is None:  # none is wanted: nobody gets what it would have carried
                lost(b"".join(message.parts()))
            else:
                outgoing.lost = lost
        return outgoing

    def _agree(self, command: Command) -> Outgoing | None:
        """Answer VERSION; the twin socket is made if the client asked for one."""
        connection, port = self._connection, self._port
        assert connection.agreed is not None
        wanted = connection.agreed.twin_socket and connection.peer.max_msg_fds > 0
        # Nor for a client that wants no reply: it would not get its end.
        twin = port.make_twin() if wanted and not command.no_reply else None
        try:
            outgoing = connection.version_reply(command, twin)
            if outgoing is not None:
                port.send(outgoing)
        finally:
            if twin is not None:
                os.close(twin)
        if twin is not None:
            self._dma = connection.twin()
            port.open_twin(self._dma)
        self._handlers.max_maps = connection.agreed.max_dma_maps
        self._handlers.max_fds = connection.peer.max_msg_fds
        self._handlers.options = connection.agreed.options()
        self._handlers.features.max_data = connection.own.max_data_xfer_size
        self._handlers.device.memory.reach = self
        return None

    # --- memory of the guest by messages: `vfio_migration.runtime.kit.guest_memory.Reach` ---

    def read(self, iova: int, size: int, /) -> Part:
        """Return memory of the guest.

        Raises:
            OSError: The client does not give it.
        """
        whole = bytearray()
        for at, count in self._cut(iova, size):
            reply = self._ask(DmaRead(at, count))
            if not isinstance(reply, DmaReadReply) or reply.count != count:
                raise _os_error("EIO", "the client gave less than was asked for")
            # Copied: a view would keep all that was read with it, for each piece a megabyte.
            whole += reply.data
        return whole

    def write(self, iova: int, data: Part, /) -> None:
        """Write memory of the guest.

        Raises:
            OSError: The client does not take it.
        """
        view = memoryview(data)
        for at, count in self._cut(iova, len(view)):
            reply = self._ask(DmaWrite(at, view[at - iova : at - iova + count]))
            if not isinstance(reply, DmaWriteReply) or reply.count != count:
                raise _os_error("EIO", "the client took less than it was given")

    def _cut(self, iova: int, size: int) -> Iterable[tuple[int, int]]:
        connection = self._connection
        # What the client gives in reply is bounded as all that it sends.
        most = min(connection.peer.max_data_xfer_size, connection.own.max_data_xfer_size)
        if most <= 0:
            raise _os_error("EIO", "the client takes no data")
        return ((at, min(most, iova + size - at)) for at in range(iova, iova + size, most))

    def _ask(self, message: Message) -> Message:
        """Send a command and wait for its reply, serving the client meanwhile."""
        if self.over or not self._dma.may_send:
            raise _os_error("EIO", "the client owes too many replies, or has disconnected")
        try:
            outgoing = self._dma.send_command(message)
        except CannotSendError as error:
            raise _os_error("EIO", str(error)) from error
        self._replies[outgoing.id] = None
        self._depth += 1
        try:
            self._port.send(outgoing, twin=self._dma is not self._connection)
            return self._await(outgoing.id)
        finally:
            self._depth -= 1
            del self._replies[outgoing.id]
            if not self._depth and self._pending:
                self._inbox.extendleft(reversed(self._pending.take_all()))

    def _await(self, ident: int) -> Message:
        until = time.monotonic() + self._timeout_s
        is_cut = False
        while (reply := self._replies[ident]) is None:
            if self._pending and not is_cut:
                until, is_cut = min(until, time.monotonic() + self._blocked_timeout_s), True
            full = self._full
            if full:
                self._handle_replies_first()
                if self._replies[ident] is not None:
                    continue
            if self.over or time.monotonic() >= until:
                raise _os_error("ETIMEDOUT", "the client does not answer")
            if full and not self._port.has_twin:
                raise _os_error("ETIMEDOUT", "the reply comes after more than can be put off")
            try:
                if self._inbox and not full and not self._port.congested:
                    self._port.check_end()
                    self._handle(self._inbox.popleft())
                else:
                    self.feed(self._port.wait(until, full=full))
            except ConnectionError as error:
                self.over, self.why = True, str(error)
                raise
        if reply.message is None:
            raise _os_error(reply.errno or "EIO", reply.why or "the client refuses")
        return reply.message


def _is_allowed_during_dma(command: Command) -> bool:
    message = command.message
    if isinstance(message, DeviceFeature):
        return not message.set
    return isinstance(message, ALLOWED_DURING_DMA)


def _os_error(errno: str, why: str) -> OSError:
    try:
        number = errno_number(errno_name(errno))
    except ValueError:
        number = errno_number("EIO")
    return OSError(number, why)


def _close(fds: Iterable[int], close: Callable[[int], object] = os.close) -> None:
    for fd in fds:
        close(fd)
