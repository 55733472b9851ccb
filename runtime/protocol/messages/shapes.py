"""The shapes of a message: fields only, or fields and then as much data as the last one states.

A message is a frozen dataclass of the fields of its payload. Its class knows its command (`name`,
`number`), whether it is the reply (`is_reply`) and the fixed part of its payload (`layout`); that
these agree with `model/wire.toml` is tested, not trusted.

Data is never copied: `parse` gives out views of the payload it was given, and `parts` gives the
data back as it came in.
"""

from __future__ import annotations

import functools
import operator
import struct
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, Self, cast

from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import WIRE, Data

UNKNOWN: Final = -1
"""The number of a command that the table does not have, as an older one lacks what was added."""


class Message:
    """The payload of a command or of a reply.

    Attributes:
        name: The command, as in `model/wire.toml`.
        number: Its number.
        is_reply: Whether this is the payload of its reply.
        layout: The fixed part of the payload.
        asks: The field that has how much data the reply is to hold, if there is one.
        cuts: It is a reply with `argsz` and `cut`: if it is longer than the argsz of the command,
            what `cut` returns is sent.
    """

    __slots__ = ()

    name: ClassVar[str]
    number: ClassVar[int]
    is_reply: ClassVar[bool] = False
    layout: ClassVar[struct.Struct]
    asks: ClassVar[str | None] = None
    cuts: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            row = WIRE.command(cls.name)
            cls.number = UNKNOWN if row is None else row.number

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload.

        Args:
            payload: All of it; data in the message is a view of it, if it is one.
            _fds: The descriptors that came with it. Only their number matters here: anybody who has
                them keeps them.

        Raises:
            MalformedError: It holds something it may not.
        """
        raise NotImplementedError

    @classmethod
    def answering(cls, command: Message, payload: Data, /) -> Self:
        """Read the payload of a reply to that command, which it must fit. Raises as `parse`.

        A reply whose length varies says itself how much of it counts. What follows is padding, as
        servers send it that answer with as many bytes as were asked for, and is not looked at. A
        reply is never longer than was asked for.
        """
        room = command.room()
        if room is not None and len(payload) > room:
            raise too_much(cls, len(payload), room)
        return cls.parse(payload)

    def room(self) -> int | None:
        """Return how long a reply a command takes; None if any of its kind will do."""
        return None if self.asks is None else self.layout.size + int(getattr(self, self.asks))

    def takes_fds(self, count: int) -> int:
        """Return how many of the descriptors that came with it a command has a use for."""
        return count

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces that, one after the other, are its bytes."""
        raise NotImplementedError

    def pack(self) -> bytes:
        """Return the payload in one piece."""
        return b"".join(self.parts())


class Fixed(Message):
    """A message all of whose fields are numbers, in the order of `layout`.

    What follows them in a command is passed over; how much that may be the connection checks.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        size = cls.layout.size
        if len(payload) != size and (cls.is_reply or len(payload) < size):
            raise wrong_size(cls, payload)
        return cls(*cls.layout.unpack_from(payload))

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        return (self.pack(),)

    def pack(self) -> bytes:
        """Return the payload."""
        return self.layout.pack(*numbers(self))


class Sized(Fixed):
    """A command whose first field, `argsz`, says how long a reply it takes.

    That is at least as long as the fixed part of the reply, which is as long as the command.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        need = cls.layout.size
        if len(payload) < need:
            raise wrong_size(cls, payload)
        values = cls.layout.unpack_from(payload)
        if values[0] < need:
            raise small_argsz(cls, values[0], need)
        return cls(*values)


class Empty(Message):
    """A message without a payload; what there is in a command is passed over, as by `Fixed`."""

    __slots__ = ()

    layout = struct.Struct("=")

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) and cls.is_reply:
            raise wrong_size(cls, payload)
        return cls()

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        return ()


class Counted(Message):
    """A message that ends in `data`: the last number of `layout` states how much of it there is.

    Attributes:
        padded: What follows the data is padding; otherwise there may be nothing more.
        computed: How many of the first numbers follow from the rest, and are not kept.
    """

    __slots__ = ()

    padded: ClassVar[bool] = False
    computed: ClassVar[int] = 0
    data: Data

    @property
    def count(self) -> int:
        """How much data that is."""
        return len(self.data)

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        size = cls.layout.size
        if len(payload) < size:
            raise wrong_size(cls, payload)
        values = cls.layout.unpack_from(payload)
        end = size + values[-1]
        if end != len(payload) and (end > len(payload) or not cls.padded):
            raise wrong_size(cls, payload, end)
        make: Callable[..., Self] = cls
        return make(*values[cls.computed : -1], payload[size:end])

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        return (self.layout.pack(*numbers(self), len(self.data)), self.data)


def numbers(message: Any) -> tuple[int, ...]:
    """Return the fields of a message but for its data, in the order of its layout."""
    return _getter(cast(Hashable, type(message)))(message)


@functools.cache
def _getter(kind: Any) -> Callable[[Any], tuple[int, ...]]:
    names = [field.name for field in fields(kind) if field.name != "data"]
    if len(names) == 1:
        get = operator.attrgetter(names[0])
        return lambda message: (get(message),)
    return operator.attrgetter(*names)


def wrong_size(kind: type[Message], payload: Data, expected: int | None = None) -> MalformedError:
    """Return the fault of a payload that is not as long as it has to be."""
    want = kind.layout.size if expected is None else expected
    return MalformedError("size_wrong", f"{kind.__name__}: {len(payload)} bytes instead of {want}")


def small_argsz(kind: type[Message], argsz: int, need: int) -> MalformedError:
    """Return the fault of a request whose reply would not fit what it allows."""
    return MalformedError("argument_invalid", f"{kind.__name__}: argsz {argsz} is below {need}")


def too_much(kind: type[Message], count: int, asked: int) -> MalformedError:
    """Return the fault of a reply that is longer than was asked for."""
    return MalformedError(
        "size_wrong", f"{kind.__name__}: {count} bytes, and {asked} were asked for"
    )
