"""The sending half of a connection: from messages to bytes, within what the peer takes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from vfio_migration.runtime.engine.errors import errno_number
from vfio_migration.runtime.protocol.events import Command, Outgoing
from vfio_migration.runtime.protocol.faults import CannotSendError
from vfio_migration.runtime.protocol.inbound import _ROWS, Inbound
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    HEADER,
    HEADER_SIZE,
    MAJOR,
    MINOR,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_REPLY,
    WIRE,
    Data,
)
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.protocol.messages.version import Limits, Version, VersionReply

if TYPE_CHECKING:
    from typing import Self

_MAX_JOINED_BYTES: Final = (
    1024  # data up to this long is copied behind its header: cheaper than a second part
)
_IDS: Final = 0x10000
_MAX_WAITING: Final = WIRE.bound("server_commands")


class Outbound(Inbound):
    """The sending half."""

    def __init__(
        self, role: Literal["server", "client"], own: Limits, close_fd: Callable[[int], object]
    ) -> None:
        super().__init__(role, own, close_fd)
        self._next_id = 0

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
        row = _ROWS[message.number]
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
            limits = self.agreed = Limits(
                max_msg_fds=limits.max_msg_fds,
                max_data_xfer_size=limits.max_data_xfer_size,
                max_dma_maps=limits.max_dma_maps,
                pgsizes=limits.pgsizes,
                twin_socket=False,
                write_multiple=limits.write_multiple,
            )
            self._update_accepted()
        minor = min(MINOR, command.message.minor)
        capabilities = limits.reply(command.message.capabilities, None if twin_fd is None else 0)
        reply = VersionReply(MAJOR, minor, capabilities)
        return self.send_reply(command, reply, () if twin_fd is None else (twin_fd,))

    def send_reply(
        self, command: Command, message: Message, fds: Sequence[int] = ()
    ) -> Outgoing | None:
        """Return the reply to a command, or None if none is wanted.

        If it is longer than the argsz of the command, what goes out is the fixed part, which says
        how long it would have been.

        Raises:
            CannotSendError: It is no reply to this command, or that has been answered already, or
            the
                client does not take that many descriptors.
        """
        number = command.number
        if message.number != number or not message.is_reply:
            raise CannotSendError(f"{type(message).__name__} is no reply to command {number}")
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
