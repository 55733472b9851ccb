"""The receiving half of a connection: from bytes to events.

A message that can be served takes the short way in `_take`. For one that cannot, `_why_not` asks
what may be wrong with it in the order of [[answers]] of `model/wire.toml`, where the first row that
holds decides.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final, Literal, NamedTuple, NoReturn

from vfio_migration.model.wire import Answer, Descriptors, Occasion
from vfio_migration.model.wire import Command as Row
from vfio_migration.runtime.engine.errors import errno_number
from vfio_migration.runtime.protocol.events import Command, Event, Outgoing, ProtocolFault, Reply
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.flags import FlagRule
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    HEADER,
    HEADER_SIZE,
    MAJOR,
    MINOR,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    WIRE,
)
from vfio_migration.runtime.protocol.messages.catalogue import COMMANDS, REPLIES
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.protocol.messages.version import Limits, Version, VersionReply

_ANSWERS: Final[dict[str, Answer]] = {row.when: row for row in WIRE.answers}
_ROWS: Final[dict[int, Row]] = {row.number: row for row in WIRE.commands}
_VERSION: Final = Version.number


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


class Inbound:
    """The receiving half."""

    role: Literal["server", "client"]
    own: Limits
    peer: Limits
    agreed: Limits | None
    closed: bool
    largest: int

    def __init__(
        self, role: Literal["server", "client"], own: Limits, close_fd: Callable[[int], object]
    ) -> None:
        self.role = role
        self.own = own
        self.peer = Limits.of_peer(None)
        self.agreed = None
        self.closed = False
        self._close_fd = close_fd
        self._is_twin = False
        self._fds: list[int] = []  # of the message that has begun and not come to its end
        self._sent: dict[int, Message] = {}
        self._unanswered = 0
        self.largest = HEADER_SIZE + max(self._longest(row, False) for row in WIRE.commands)
        self._update_accepted()

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

    def _longest(self, row: Row, mine: bool) -> int:
        """How long a payload that this side gets, or sends, for a command may be."""
        command = self._mine(row) == mine
        fixed, item, bound = (
            (row.request, row.request_item, row.request_bound)
            if command
            else (row.reply, row.reply_item, row.reply_bound)
        )
        if command and row.request_padding is not None:
            return fixed + WIRE.limit(row.request_padding).value
        if not item or bound is None:
            return fixed
        limit = getattr(self.own, bound, None)
        return fixed + (WIRE.limit(bound).value if limit is None else limit)

    def _room(self, fds: Descriptors) -> int:
        return {"none": 0, "unused": 0, "one": 1, "many": self.own.max_msg_fds}[fds]

    def _update_accepted(self) -> None:
        """Find out which commands of the peer are served now."""
        self._replies = {row.number: self._longest(row, True) for row in WIRE.commands}
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
        longest = self._longest(row, False)
        most = self.own.max_data_xfer_size
        word = WIRE.word_of(row.name)
        rule = None if word is None or word.unknown == "ignored" else FlagRule(word.name)
        asks = COMMANDS[row.number].asks
        asked: Callable[[Any], int] | None = None if asks is None else attrgetter(asks)

        def check(size: int, message: Any) -> None:
            if size > longest:
                raise MalformedError("over_bound", f"{size} bytes, over {longest}")
            if asked is not None and asked(message) > most:
                why = f"{asked(message)} bytes are asked for, over {most}"
                raise MalformedError("over_bound", why)
            if rule is not None:
                rule.check(message.flags)

        return check

    def _propose(self, _size: int, message: Message) -> None:
        """Settle with the client's VERSION, so that what follows it at once is served."""
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
        """Say why a message is not served: the first row of [[answers]] that holds."""
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
        """Make a message a fault, and end the connection if that is what the table says."""
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

    def close(self) -> None:
        """End the connection: close the descriptors it has."""
        self.closed = True
        fds, self._fds = self._fds, []
        self._drop(fds)


def takes_descriptors(number: int, flags: int) -> bool:
    """Say whether a message with this header may have descriptors that are of use."""
    row = _ROWS.get(number)
    if row is None:
        return False
    return (row.gives_fds if flags & TYPE_MASK == TYPE_REPLY else row.takes_fds) != "none"


def _too_many(fds: tuple[int, ...]) -> MalformedError:
    return MalformedError("argument_invalid", f"{len(fds)} descriptors")
