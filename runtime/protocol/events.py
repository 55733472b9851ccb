"""What a connection hands to its owner, and what it wants sent.

None of these is meant to be changed. They are not frozen because one of each is made for every
message, and a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from vfio_migration.model.wire import Occasion
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.messages.shapes import Message

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
