"""Commands that wait until a call of the device is over, and the bound on them.

The bound is that of the holdings `put_off_...` in the table of the connection: how many commands,
how many bytes of data they have, and how many descriptors came with them. See `session` for when a
command waits, and for what happens at the bound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

from vfio_migration.runtime.protocol.connection import Command
from vfio_migration.runtime.protocol.layout import WIRE, Data


class Held(NamedTuple):
    """How much is held, or may be.

    Attributes:
        commands: How many commands.
        data: How many bytes of data they have.
        fds: How many descriptors came with them.
    """

    commands: int
    data: int
    fds: int

    def and_one(self, command: Command) -> Held:
        """Return how much it is with one more command."""
        data = sum(len(held) for _, held in _data(command))
        return Held(self.commands + 1, self.data + data, self.fds + len(command.fds))

    def within(self, most: Held) -> bool:
        """Return whether it is no more than `most`, in each."""
        return all(one <= other for one, other in zip(self, most, strict=True))


NOTHING_HELD: Final = Held(0, 0, 0)
MAX_HELD: Final = Held(
    WIRE.bound("put_off_commands"), WIRE.bound("put_off_data"), WIRE.bound("put_off_fds")
)


class PendingCommands:
    """Commands in the order in which they came.

    Attributes:
        held: How much they hold.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self._commands: deque[Command] = deque()
        self.held = NOTHING_HELD

    def __bool__(self) -> bool:
        """Return whether any command waits."""
        return bool(self._commands)

    def has_room_for(self, command: Command) -> bool:
        """Return whether one more command stays within the bound."""
        return self.held.and_one(command).within(MAX_HELD)

    def append(self, command: Command) -> None:
        """Hold one more command. Its data becomes its own, apart from all that was read with it."""
        self.held = self.held.and_one(command)
        for name, held in _data(command):
            if not isinstance(held, bytes):
                message = cast("Any", command.message)
                command.message = replace(message, **{name: bytes(held)})
        self._commands.append(command)

    def take_all(self) -> deque[Command]:
        """Return the commands, the oldest first, and hold nothing any more."""
        taken, self._commands = self._commands, deque()
        self.held = NOTHING_HELD
        return taken


def _data(command: Command) -> Iterator[tuple[str, Data]]:
    for name in ("data", "items"):
        held = getattr(command.message, name, None)
        if held is not None:
            yield name, held
