"""One side of a vfio-user connection, without a socket: bytes in, events out.

The owner of the socket reads into `get_buffer()` and reports with `buffer_updated()`, or hands over
what it has read with `receive()`; both return events. What the `send_` methods return is to be sent
as it is, in that order. Nothing here blocks, and nothing the peer sends raises.

Three things its owner has to know:

- Views in messages. Data of a message is not copied. After `receive(bytes)` it stays as it is;
  after `buffer_updated` it is part of the buffer, and good until the next `get_buffer`, or for ever
  if `keep_messages` is called before that.
- Descriptors. An event owns those in its `fds`. The connection closes those that no event got: of
  messages it refuses, and in `close()` of messages that never came to an end.
- What the peer can make it hold: one message no longer than `largest`, what was read beyond it (no
  more than `READ_AHEAD`), `max_msg_fds` descriptors, and the commands not yet answered, which are
  those in the events its owner has been given.

A connection belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, NoReturn, Self, TypeAlias, cast

from vfio_migration.model.wire import Answer, Descriptors, Occasion
from vfio_migration.model.wire import Command as Row
from vfio_migration.runtime.engine.errors import errno_number
from vfio_migration.runtime.protocol.faults import CannotSendError, MalformedError
from vfio_migration.runtime.protocol.flags import FlagRule
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    HEADER,
    HEADER_SIZE,
    LIMITS,
    MAJOR,
    MINOR,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    WIRE,
    Data,
)
from vfio_migration.runtime.protocol.messages.catalogue import COMMANDS, REPLIES
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.protocol.messages.version import Limits, Version, VersionReply

READ_AHEAD: Final = WIRE.bound("read_ahead")
"""How much is read at a time, unless one message needs more."""
_MAX_JOINED_BYTES: Final = (
    1024  # data up to this long is copied behind its header: cheaper than a second part
)
_IDS: Final = 0x10000
_MAX_WAITING: Final = WIRE.bound("server_commands")
_ANSWERS: Final[dict[str, Answer]] = {row.when: row for row in WIRE.answers}
_ROWS: Final[dict[int, Row]] = {row.number: row for row in WIRE.commands}
_VERSION: Final = Version.number

Role: TypeAlias = Literal["server", "client"]

# What a connection hands to its owner, and what it wants sent. None of these is to be changed.
# They are not frozen: one is made for every message, and a frozen one takes three times as long.

Lost: TypeAlias = Callable[[Data], object]
"""Called with the payload of a reply that does not leave as a whole: it gives back what the reply
carries and the server would forget."""


@dataclass(slots=True)
class Outgoing:
    """A message to send: all of `parts`, one after the other, `fds` with the first byte.

    The descriptors stay with the caller that gave them; sending duplicates them.

    Attributes:
        parts: The bytes, header first; data is the very object that was given.
        fds: The descriptors.
        id: The id of the message.
        lost: What to call if it does not leave, or not as a whole.
    """

    parts: tuple[Data, ...]
    fds: tuple[int, ...]
    id: int
    lost: Lost | None = field(default=None, compare=False, repr=False)

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(slots=True)
class Command:
    """The peer wants something done. The receiver of this owns `fds`.

    Attributes:
        id: The id of the message; the peer may use one id many times at once.
        number: The number of the command.
        no_reply: No reply is wanted, whatever comes of it.
        message: The payload.
        fds: The descriptors that came with it.
        answered: It has its reply; the connection sets this.
    """

    id: int
    number: int
    no_reply: bool
    message: Message
    fds: tuple[int, ...]
    answered: bool = field(default=False, compare=False, repr=False)


@dataclass(slots=True)
class Reply:
    """The peer answers a command of ours. The receiver of this owns `fds`.

    Attributes:
        id: The id that `Connection.send_command` gave the command.
        command: The command.
        message: The payload; None if the command failed, or the reply does not fit it.
        failed: The peer sent an error.
        errno: The name of that error; None if it has none, for a peer may send an error without an
            errno, or with one that is unknown here.
        code: The number of the error as the peer sent it.
        fds: The descriptors that came with it.
        why: What is wrong with a reply that does not fit; empty if nothing is.
    """

    id: int
    command: Message
    message: Message | None
    failed: bool
    errno: str | None
    code: int
    fds: tuple[int, ...]
    why: str = ""


@dataclass(slots=True)
class ProtocolFault:
    """The peer broke the protocol. Descriptors that came with it are closed already.

    Attributes:
        occasion: Which row of [[answers]] decided.
        errno: The name of the error that is answered, or None if nothing is.
        id: The id of the message; None if it had no header yet.
        number: The number of the command; None if it had no header yet.
        fatal: The connection is over: nothing more is read from it.
        why: What is wrong, with the figures.
        reply: What to send before anything else, if the peer wants to know.
        twin: It came on the twin socket, and its reply goes there.
    """

    occasion: Occasion
    errno: str | None
    id: int | None
    number: int | None
    fatal: bool
    why: str
    reply: Outgoing | None
    twin: bool = False


Event: TypeAlias = Command | Reply | ProtocolFault
"""What `Connection.receive` and `Connection.buffer_updated` return."""


class AcceptedCommand(NamedTuple):
    """How a command of the peer is read.

    Attributes:
        parse: What reads its payload.
        fds: How many descriptors it takes at most; what comes beyond that is closed.
        check: What else is looked at, given the size of the payload and the message.
    """

    parse: Callable[[Any, Sequence[int]], Message]
    fds: int
    check: Callable[[int, Message], None]


class _StreamEndedError(Exception):
    """The connection is over; the event of it is in the list."""


class Connection:
    """One side of a connection. See the module for what its owner has to know.

    Attributes:
        role: Which side this is.
        own: What the peer has to keep to.
        peer: The limits that the peer has sent; the defaults until VERSION.
        agreed: What both sides can do; None until VERSION.
        closed: The peer made it impossible to go on, or `close` was called.
        largest: The longest message the peer may send, header included.
    """

    def __init__(
        self,
        role: Role,
        limits: Limits | None = None,
        *,
        close_fd: Callable[[int], object] = os.close,
    ) -> None:
        """Make a connection on which nothing was sent yet.

        Args:
            role: Which side this is.
            limits: What this side takes and can do; without, all that `model/wire.toml` allows.
            close_fd: How to close a descriptor.
        """
        self.role = role
        self.own = Limits() if limits is None else limits
        self.peer = Limits.of_peer(None)
        self.agreed: Limits | None = None
        self.closed = False
        self._close_fd = close_fd
        self._is_twin = False
        self._fds: list[int] = []  # of the message that has begun and not come to its end
        self._sent: dict[int, Message] = {}
        self._unanswered = 0
        self.largest = HEADER_SIZE + max(self._max_size(row, False) for row in WIRE.commands)
        self._update_accepted()
        self._next_id = 0
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._fresh = self._view
        self._start = self._end = 0
        self._is_shown = False  # a message that was handed out may be part of the buffer
        self._partial = bytearray()

    def twin(self) -> Connection:
        """Return this side of the twin socket, once VERSION has agreed on there being one.

        On it go the commands of the server and nothing else; on this connection they go no more.
        """
        other = Connection(self.role, self.own, close_fd=self._close_fd)
        other._share(self)
        return other

    @property
    def fd_room(self) -> int:
        """For how many descriptors one read should have room.

        One more than allowed: so it is seen that there were too many. What the kernel cannot
        deliver it closes; only MSG_CTRUNC shows it.
        """
        return self.own.max_msg_fds + 1

    @property
    def missing(self) -> int:
        """How many bytes are missing of a message that has begun and takes no descriptors.

        A read of no more than these needs no room for descriptors. Zero between two messages,
        and as long as it is not known which message this is.
        """
        partial = self._partial or self._view[self._start : self._end]
        if len(partial) < HEADER_SIZE or self.closed:
            return 0
        _, number, size, flags, _ = HEADER.unpack_from(partial)
        return 0 if takes_descriptors(number, flags) else max(0, size - len(partial))

    def receive(self, data: Data, fds: Sequence[int] = ()) -> list[Event]:
        """Take in what one read brought. From here on the connection has the descriptors.

        Args:
            data: The bytes, any number of them.
            fds: The descriptors that came with them.
        """
        if self._end > self._start:
            self._partial = bytearray(self._view[self._start : self._end])
            self._start = self._end = 0
        partial = self._partial
        if partial:
            partial += data
            view = memoryview(partial)
        else:
            view = memoryview(data)
        events, at = self._take(view, 0, len(view), fds)
        if self.closed or at == len(view):
            self._partial = bytearray()
        elif at or not partial:
            self._partial = bytearray(view[at:])
        else:
            view.release()  # or the next piece could not be appended
        return events

    def get_buffer(self, _sizehint: int = -1, /) -> memoryview:
        """Return where the next bytes are to be read to. It is never empty.

        What the messages of earlier events show of the buffer may change from here on.

        Args:
            _sizehint: Of no use here; `asyncio.BufferedProtocol` gives one.
        """
        if self._partial:
            self._make_room(len(self._partial))
            self._view[: len(self._partial)] = self._partial
            self._start, self._end = 0, len(self._partial)
            self._partial = bytearray()
        have = self._end - self._start
        if not have:
            self._start = self._end = 0
            if not self._buffer:
                self._make_room(READ_AHEAD)
            return self._fresh
        size = HEADER_SIZE
        if have >= HEADER_SIZE:
            size = HEADER.unpack_from(self._view, self._start)[2]
        if self._start + size > len(self._buffer):
            # Each message is moved once at most: at the front of the buffer it fits.
            old = self._view[self._start : self._end]
            if size > len(self._buffer):
                self._make_room(size)
            self._view[:have] = old
            self._start, self._end = 0, have
        stop = max(self._start + size, min(self._start + READ_AHEAD, len(self._buffer)))
        return self._view[self._end : stop]

    def buffer_updated(self, nbytes: int, fds: Sequence[int] = ()) -> list[Event]:
        """Take in `nbytes` that were read into what `get_buffer` returned.

        Args:
            nbytes: How many.
            fds: The descriptors that came with them. From here on the connection has them.
        """
        end = self._end + nbytes
        events, self._start = self._take(self._view, self._start, end, fds)
        self._end = end
        self._is_shown = self._is_shown or bool(events)
        return events

    def keep_messages(self) -> None:
        """Have the messages of all events so far stay as they are: read on into another buffer."""
        if self._is_shown:
            self._partial = bytearray(self._view[self._start : self._end])
            self._start = self._end = 0
            self._buffer = bytearray()

    def _make_room(self, size: int) -> None:
        """Get a buffer for a message of `size`; a second one, if need be, is for any message."""
        self._buffer = bytearray(READ_AHEAD if size <= READ_AHEAD else self.largest)
        self._view = memoryview(self._buffer)
        self._fresh = self._view[:READ_AHEAD]
        self._is_shown = False

    def close(self) -> None:
        """End the connection: close the descriptors it has. Of events it has given it has none."""
        self.closed = True
        fds, self._fds = self._fds, []
        self._drop(fds)
        self._start = self._end = 0
        self._partial = bytearray()

    # --- What may be sent ---

    def _mine(self, row: Row) -> bool:
        """Whether it is this side that sends the command."""
        return row.sender == self.role

    def _goes_here(self, row: Row) -> bool:
        """Whether the command goes over this socket: with a twin, each side has its own."""
        with_twin = self._is_twin or (self.agreed is not None and self.agreed.twin_socket)
        return not with_twin or (row.sender == "server") == self._is_twin

    def _agreed_on(self, row: Row) -> bool:
        return row.needs is None or bool(getattr(self.agreed, row.needs, False))

    def _max_size(self, row: Row, mine: bool) -> int:
        """How long a payload that this side gets, or sends, for a command may be."""
        command = self._mine(row) == mine
        fixed, item, bound = (
            (row.request, row.request_item, row.request_bound)
            if command
            else (row.reply, row.reply_item, row.reply_bound)
        )
        if command and row.request_padding is not None:
            return fixed + LIMITS[row.request_padding].value
        if not item or bound is None:
            return fixed
        limit = getattr(self.own, bound, None)
        return fixed + (LIMITS[bound].value if limit is None else limit)

    def _room(self, fds: Descriptors) -> int:
        return {"none": 0, "unused": 0, "one": 1, "many": self.own.max_msg_fds}[fds]

    def _update_accepted(self) -> None:
        """Find out which commands of the peer are served now."""
        self._replies = {row.number: self._max_size(row, True) for row in WIRE.commands}
        self._accepted = {
            row.number: AcceptedCommand(
                COMMANDS[row.number].parse, self._room(row.takes_fds), self._check(row)
            )
            for row in WIRE.commands
            if not self._mine(row)
            and self._goes_here(row)
            and row.before_version == (self.agreed is None)
            and self._agreed_on(row)
        }

    # --- From bytes to messages ---

    def _take(
        self, view: memoryview, at: int, end: int, fds: Sequence[int]
    ) -> tuple[list[Event], int]:
        """Read the messages in `view[at:end]`; return events, and where the rest begins."""
        events: list[Event] = []
        if self.closed or end <= at:
            self._drop(fds)
            return events, end
        waits = self._whose(view, at, end) if fds else -1
        try:
            while True:
                # The next message has the descriptors if none before it `waits` any more.
                if waits == 0:
                    self._fds += fds
                    if len(self._fds) > self.own.max_msg_fds:
                        waits = -1
                        self._over(events, view, at, end)
                waits -= 1
                if end - at < HEADER_SIZE:
                    return events, at
                ident, number, size, flags, code = HEADER.unpack_from(view, at)
                if not HEADER_SIZE <= size <= self.largest:
                    self._lost(events, ident, number, size, flags)
                if end - at < size:
                    return events, at
                payload = view[at + HEADER_SIZE : at + size]
                at += size
                got: tuple[int, ...] = ()
                if self._fds:
                    got = tuple(self._fds)
                    self._fds = []
                kind = flags & TYPE_MASK
                if kind == TYPE_COMMAND and (served := self._accepted.get(number)) is not None:
                    if got:
                        got = self._keep(got, served.fds)
                    try:
                        message = served.parse(payload, got)
                        served.check(size - HEADER_SIZE, message)
                    except MalformedError as fault:
                        self._refuse(events, fault.args, ident, number, flags, got)
                        continue
                    if got:
                        got = self._keep(got, message.takes_fds(len(got)))
                    no_reply = bool(flags & NO_REPLY)
                    if not no_reply:
                        self._unanswered += 1
                    events.append(Command(ident, number, no_reply, message, got))
                elif ident in self._sent and (kind == TYPE_REPLY or flags & ERROR):
                    # Only a reply has an error, and some servers give it the type of a command.
                    self._reply(events, ident, number, flags, code, payload, got)
                else:
                    self._refuse(events, self._why_not(number, flags), ident, number, flags, got)
        except _StreamEndedError:
            if waits >= 0:  # the connection ended before the message they came with
                self._drop(fds)
            return events, end

    def _whose(self, view: memoryview, at: int, end: int) -> int:
        """Return which of the messages in `view[at:end]` the descriptors came with.

        A read never goes on past a message with descriptors (Linux: unix_stream_read_generic), so
        it is the last; if that one takes none, the last that does, for a peer that sends several
        at a time.
        """
        index, best = 0, -1
        while end - at >= HEADER_SIZE:
            _, number, size, flags, _ = HEADER.unpack_from(view, at)
            if takes_descriptors(number, flags):
                best = index
            if not HEADER_SIZE <= size <= self.largest or end - at < size:
                return index if best < 0 else best
            at += size
            index += 1
        if end > at:
            return index  # its header has only begun
        return index - 1 if best < 0 else best

    # --- From messages to events ---

    def _check(self, row: Row) -> Callable[[int, Message], None]:
        """Return what looks at a command once it is read."""
        if row.before_version:
            return self._propose
        longest = self._max_size(row, False)
        most = self.own.max_data_xfer_size
        word = WIRE.word_of(row.name)
        rule = None if word is None else FlagRule(word.name)
        asks = COMMANDS[row.number].asks
        asked: Callable[[Any], int] | None = None if asks is None else attrgetter(asks)

        def check(size: int, message: Any) -> None:
            if size > longest:
                raise MalformedError("over_bound", f"{size} bytes, over {longest}")
            if asked is not None and asked(message) > most:
                why = f"{asked(message)} bytes are asked for, over {most}"
                raise MalformedError("over_bound", why)
            # A word without choices between its bits is right if it has none that is unknown.
            if rule is not None and (rule.choices or message.flags & rule.unknown):
                rule.check(message.flags)

        return check

    def _propose(self, _size: int, message: Message) -> None:
        """Complete the handshake with VERSION, so that what follows it at once is served."""
        assert isinstance(message, Version)
        if message.major != MAJOR:
            raise MalformedError("version_incompatible", f"version {message.major}.{message.minor}")
        self._agree(Limits.of_peer(message.capabilities))

    def _agree(self, peer: Limits) -> None:
        self.peer = peer
        self.agreed = self.own.agreed(peer)
        self._update_accepted()

    def _reply(
        self,
        events: list[Event],
        ident: int,
        number: int,
        flags: int,
        code: int,
        payload: memoryview,
        fds: tuple[int, ...],
    ) -> None:
        command = self._sent.pop(ident)
        if flags & ERROR:
            # An error is an error, whatever else comes with it: some servers send a payload along.
            self._drop(fds)
            errno = errno_module.errorcode.get(code)
            events.append(Reply(ident, command, None, True, errno, code, ()))
            return
        try:
            message, fds = self._read_reply(command, number, payload, fds)
        except MalformedError as fault:
            self._drop(fds)
            events.append(Reply(ident, command, None, False, None, code, (), fault.why))
            if number == _VERSION:
                self._stop()
            return
        events.append(Reply(ident, command, message, False, None, code, fds))

    def _read_reply(
        self, command: Message, number: int, payload: memoryview, fds: tuple[int, ...]
    ) -> tuple[Message, tuple[int, ...]]:
        """Return the message of a reply, and its descriptors; those nobody asked for are closed."""
        if number != command.number:
            raise MalformedError("size_wrong", f"a reply to {number} instead of {command.number}")
        room = self._room(_ROWS[number].gives_fds)
        if len(fds) > room > 0:
            raise _too_many(fds)
        message = REPLIES[number].answering(command, payload)
        if isinstance(message, VersionReply):
            room = self._accept(message, fds)
        if not room:
            self._drop(fds)
            fds = ()
        return message, fds

    def _accept(self, message: VersionReply, fds: tuple[int, ...]) -> int:
        """Agree to the server's VERSION; return how many of its descriptors are wanted."""
        if message.major != MAJOR or message.minor > MINOR:
            raise MalformedError("version_incompatible", f"version {message.major}.{message.minor}")
        twin = message.capabilities.twin_socket if message.capabilities else None
        if twin is not None and twin.supported:
            if not self.own.twin_socket:
                raise MalformedError("version_incompatible", "a twin socket nobody asked for")
            if twin.fd_index is None or twin.fd_index >= len(fds):
                raise MalformedError("version_incompatible", "a twin socket without a descriptor")
        self._agree(Limits.of_peer(message.capabilities))
        return len(fds) if self.agreed is not None and self.agreed.twin_socket else 0

    # --- What is wrong ---

    def _why_not(self, number: int, flags: int) -> tuple[Occasion, str]:
        """Return why a message is not served: the first row of [[answers]] that holds."""
        holding = dict(self._reasons(number, flags))
        for row in WIRE.answers:
            if row.when in holding:
                return row.when, holding[row.when]
        return "command_unknown", f"command {number} is not served"

    def _reasons(self, number: int, flags: int) -> Iterator[tuple[Occasion, str]]:
        kind = flags & TYPE_MASK
        row = _ROWS.get(number)
        if kind == TYPE_REPLY:
            yield "reply_unasked", "no command with this id waits for a reply"
        elif kind != TYPE_COMMAND:
            yield "type_unknown", f"type {kind}"
        elif row is None:
            yield "command_unknown", f"command {number}"
        else:
            if self._mine(row) or not self._goes_here(row):
                yield "wrong_direction", f"{row.name} does not come this way"
            if self.agreed is None and not row.before_version:
                yield "version_first", f"{row.name} before VERSION"
            if self.agreed is not None and row.before_version:
                yield "version_again", f"{row.name} again"
            if not self._agreed_on(row):
                yield "not_negotiated", f"{row.name} needs {row.needs}"

    def _refuse(
        self,
        events: list[Event],
        reason: tuple[Any, ...],
        ident: int,
        number: int,
        flags: int,
        fds: tuple[int, ...],
    ) -> None:
        """Make a message a fault, and end the connection if that is what the table specifies."""
        self._drop(fds)
        occasion: Occasion
        occasion, why = reason
        answer = _ANSWERS[occasion]
        errno: str | None = answer.errno or "EINVAL"
        reply = None
        if answer.outcome == "ignored":
            errno = None
        elif errno and not flags & NO_REPLY and flags & TYPE_MASK != TYPE_REPLY:
            head = HEADER.pack(ident, number, HEADER_SIZE, TYPE_REPLY | ERROR, errno_number(errno))
            reply = Outgoing((head,), (), ident)
        fatal = answer.outcome == "closes"
        fault = ProtocolFault(occasion, errno, ident, number, fatal, why, reply, self._is_twin)
        events.append(fault)
        if fatal:
            self._stop()

    def _lost(self, events: list[Event], ident: int, number: int, size: int, flags: int) -> None:
        occasion: Occasion = "size_below_header" if size < HEADER_SIZE else "size_over_limit"
        why = f"a message of {size} bytes; {HEADER_SIZE} to {self.largest} are allowed"
        self._refuse(events, (occasion, why), ident, number, flags, ())

    def _over(self, events: list[Event], view: memoryview, at: int, end: int) -> None:
        """More descriptors have come with a message than may."""
        why = f"{len(self._fds)} descriptors; {self.own.max_msg_fds} are allowed"
        if end - at >= HEADER_SIZE:
            ident, number, _, flags, _ = HEADER.unpack_from(view, at)
            self._refuse(events, ("fds_over_limit", why), ident, number, flags, ())
            return
        answer = _ANSWERS["fds_over_limit"]
        events.append(ProtocolFault("fds_over_limit", answer.errno, None, None, True, why, None))
        self.close()

    def _stop(self) -> NoReturn:
        self.close()
        raise _StreamEndedError

    def _keep(self, fds: tuple[int, ...], count: int) -> tuple[int, ...]:
        """Close the descriptors beyond the first `count`, and return those."""
        self._drop(fds[count:])
        return fds[:count]

    def _drop(self, fds: Sequence[int]) -> None:
        for fd in fds:
            with contextlib.suppress(OSError):
                self._close_fd(fd)

    # --- From messages to bytes ---

    def _share(self, main: Self) -> None:
        """Be the twin of a connection."""
        if main.agreed is None or not main.agreed.twin_socket or main._is_twin:
            raise CannotSendError("no twin socket was agreed on")
        self.peer, self.agreed, self._is_twin = main.peer, main.agreed, True
        self._update_accepted()

    @property
    def unanswered(self) -> int:
        """How many commands of the peer wait to be answered."""
        return self._unanswered

    @property
    def waiting(self) -> int:
        """How many commands of this side wait for a reply."""
        return len(self._sent)

    @property
    def may_send(self) -> bool:
        """Whether one more command of this side may wait for a reply."""
        most = _MAX_WAITING if self.role == "server" else _IDS
        return not self.closed and len(self._sent) < most

    # --- Commands ---

    def send_version(self) -> Outgoing:
        """Client: propose the version and the limits of `own`. Must come first."""
        return self.send_command(Version(MAJOR, MINOR, self.own.proposal()))

    def send_command(
        self, message: Message, *, no_reply: bool = False, fds: Sequence[int] = ()
    ) -> Outgoing:
        """Return a command to send. Unless `no_reply`, a `Reply` with its id will come.

        Raises:
            CannotSendError: The peer would have to refuse it.
        """
        row = _ROWS.get(message.number)
        if row is None:
            raise CannotSendError(f"{message.name}: this table has no such command")
        if message.is_reply or not self._mine(row):
            raise CannotSendError(f"{type(message).__name__} is not a command of the {self.role}")
        if not self._goes_here(row):
            raise CannotSendError(f"{row.name} goes over the other socket")
        if row.before_version != (self.agreed is None):
            raise CannotSendError(
                f"{row.name} {'before' if self.agreed is None else 'after'} VERSION"
            )
        if not self._agreed_on(row):
            raise CannotSendError(f"{row.name} was not agreed on")
        self._check_fds(fds, row.takes_fds)
        if not self.may_send:
            raise CannotSendError("the connection is closed, or too many commands wait for a reply")
        parts = _parts(message)
        data = len(parts[-1]) if row.request_bound == "max_data_xfer_size" else 0
        asked = getattr(message, message.asks) if message.asks else 0
        if max(data, asked) > self.peer.max_data_xfer_size:
            raise CannotSendError(
                f"{row.name}: {max(data, asked)} bytes; the peer takes "
                f"{self.peer.max_data_xfer_size}"
            )
        while self._next_id in self._sent:
            self._next_id = (self._next_id + 1) % _IDS
        ident = self._next_id
        flags = TYPE_COMMAND | (NO_REPLY if no_reply else 0)
        size = sum(map(len, parts))
        head = HEADER.pack(ident, message.number, HEADER_SIZE + size, flags, 0)
        self._next_id = (ident + 1) % _IDS
        if not no_reply:
            self._sent[ident] = message
        return Outgoing(_joined(head, parts, size), tuple(fds), ident)

    # --- Replies ---

    def version_reply(self, command: Command, twin_fd: int | None = None) -> Outgoing | None:
        """Server: return the reply to VERSION, or None if none is wanted.

        Args:
            command: The command.
            twin_fd: The client's end of the twin socket. Without it there is no twin socket, even
                if both sides could have one.
        """
        assert isinstance(command.message, Version)
        assert self.agreed is not None
        if not self.agreed.twin_socket and twin_fd is not None:
            raise CannotSendError("the client has not asked for a twin socket")
        limits = self.agreed
        if twin_fd is None:
            limits = self.agreed = replace(limits, twin_socket=False)
            self._update_accepted()
        minor = min(MINOR, command.message.minor)
        capabilities = limits.reply(command.message.capabilities, None if twin_fd is None else 0)
        reply = VersionReply(MAJOR, minor, capabilities)
        return self.send_reply(command, reply, () if twin_fd is None else (twin_fd,))

    def send_reply(
        self, command: Command, message: Message, fds: Sequence[int] = ()
    ) -> Outgoing | None:
        """Return the reply to a command, or None if none is wanted.

        If it is longer than the argsz of the command, what goes out is the fixed part, which states
        how long it would have been.

        Raises:
            CannotSendError: It is not a reply to this command, or that has been answered already,
                or
            the
                client does not take that many descriptors.
        """
        number = command.number
        if message.number != number or not message.is_reply:
            raise CannotSendError(f"{type(message).__name__} is not a reply to command {number}")
        if fds:
            self._check_fds(fds, _ROWS[number].gives_fds)
        if command.no_reply:
            return None
        if message.cuts and cast("Any", message).argsz > cast("Any", command.message).argsz:
            message, with_fds = cast("Any", message).cut()
            fds = fds if with_fds else ()
        parts = _parts(message)
        size = sum(map(len, parts))
        if size > self._replies[number]:
            raise CannotSendError(f"{type(message).__name__}: {size} bytes are too many")
        self._answered(command)
        head = HEADER.pack(command.id, number, HEADER_SIZE + size, TYPE_REPLY, 0)
        return Outgoing(_joined(head, parts, size), tuple(fds), command.id)

    def send_error(self, command: Command, errno: str | int) -> Outgoing | None:
        """Return the reply that a command failed, or None if no reply is wanted.

        Args:
            command: The command.
            errno: Why, by name or number; zero would be no error.
        """
        number = errno_number(errno) if isinstance(errno, str) else errno
        if not 0 < number <= 0xFFFFFFFF:
            raise CannotSendError(f"{errno!r} is not an errno")
        if command.no_reply:
            return None
        self._answered(command)
        head = HEADER.pack(command.id, command.number, HEADER_SIZE, TYPE_REPLY | ERROR, number)
        return Outgoing((head,), (), command.id)

    def _answered(self, command: Command) -> None:
        if command.answered:
            raise CannotSendError(
                f"command {command.number} with id {command.id} is answered already"
            )
        command.answered = True
        self._unanswered -= 1

    def _check_fds(self, fds: Sequence[int], rule: str) -> None:
        most = {"none": 0, "unused": 0, "one": 1, "many": self.peer.max_msg_fds}[rule]
        if len(fds) > min(most, self.peer.max_msg_fds):
            raise CannotSendError(f"{len(fds)} descriptors; the peer takes {most}")


def takes_descriptors(number: int, flags: int) -> bool:
    """Return whether a message with this header may have descriptors that are of use."""
    row = _ROWS.get(number)
    if row is None:
        return False
    return (row.gives_fds if flags & TYPE_MASK == TYPE_REPLY else row.takes_fds) != "none"


def _too_many(fds: tuple[int, ...]) -> MalformedError:
    return MalformedError("argument_invalid", f"{len(fds)} descriptors")


def _parts(message: Message) -> tuple[Data, ...]:
    try:
        return message.parts()
    except struct.error as error:
        raise CannotSendError(f"{message}: {error}") from error


def _joined(head: bytes, parts: tuple[Data, ...], size: int) -> tuple[Data, ...]:
    """Put the header before the payload; long data stays the object it is."""
    if size <= _MAX_JOINED_BYTES:
        return (b"".join((head, *parts)),)
    return (head + parts[0], *parts[1:])
