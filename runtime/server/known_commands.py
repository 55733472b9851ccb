"""Commands that are known by their bytes: answered without going all the way each time.

A client that watches a device, moves it to and fro, or reads its stream, says the same few messages
again and again. Each is read, checked and answered in full once. If its reply follows from the
state of the device alone (GET of what the device offers, or of its state), is always the same once
it is done (SET_STATE), or is what there is to read (MIG_DATA_READ), its bytes lead straight to what
is to be done from then on: the same calls, and the same answers to what they raise, as on the long
way. The bytes are compared whole, all but the id.

At most `MOST` are known at a time: a client can make up any number of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vfio_migration.runtime.engine.errors import errno_number
from vfio_migration.runtime.protocol.events import Command, Outgoing
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    HEADER,
    HEADER_SIZE,
    TYPE_REPLY,
    WIRE,
)
from vfio_migration.runtime.protocol.messages.features import DeviceFeature, MigDataRead
from vfio_migration.runtime.server.commands import Serving
from vfio_migration.runtime.transport.channel import ID, LONGEST, Acted, Known, Shortcut
from vfio_migration.runtime.transport.counters import Counters

MOST: Final = WIRE.bound("known_commands")
_FIXED: Final = HEADER_SIZE + DeviceFeature.layout.size


class Shortcuts:
    """The commands of one client that are known.

    Args:
        serving: The device.
        counters: What is counted.

    Attributes:
        known: The commands.
    """

    def __init__(self, serving: Serving, counters: Counters) -> None:
        self.known: Known = {}
        self._serving = serving
        self._counters = counters

    def learn(self, command: Command, outgoing: Outgoing) -> None:
        """Take note of a command that was answered without an error, if it can be known."""
        message = command.message
        if not isinstance(message, DeviceFeature | MigDataRead):
            return
        reply = bytes(outgoing.parts[0])
        if outgoing.fds or HEADER.unpack_from(reply)[3] != TYPE_REPLY:
            return
        tell = act = None
        if isinstance(message, DeviceFeature):
            tell, act = self._get(message, reply), self._move(message, reply)
        else:
            act = self._read(message)
        if tell is None and act is None:
            return
        said = message.pack()
        if HEADER_SIZE + len(said) >= LONGEST:
            return
        if len(self.known) >= MOST:
            self.known.clear()
        head = HEADER.pack(0, command.number, HEADER_SIZE + len(said), 0, 0)
        times = self._counters.times(command.number)
        self.known[(head + said)[ID:]] = Shortcut(tell, act or (lambda: ((), None)), times)

    def _get(self, message: DeviceFeature, reply: bytes) -> Callable[[], bytes] | None:
        engine = self._serving.engine
        data = self._serving.features.by_state(message)
        # A client that has no room for the data got a reply that was cut: each time anew.
        if data is None or reply[_FIXED:] != bytes(data[engine.state]):
            return None
        tails = {state: reply[ID:_FIXED] + bytes(this) for state, this in data.items()}
        return lambda: tails[engine.state]

    def _move(self, message: DeviceFeature, reply: bytes) -> Callable[[], Acted] | None:
        move = self._serving.features.move(message)
        if move is None:
            return None
        moved: Acted = ((reply[ID:],), None)

        def act() -> Acted:
            try:
                move()
            except Exception as error:  # noqa: BLE001 - what it says is logged there
                return self._refusal(error, message.number)
            return moved

        return act

    def _read(self, message: MigDataRead) -> Callable[[], Acted]:
        read, number, size = self._serving.stream, message.number, message.size
        lost = self._serving.stream_lost

        def reply(size: int) -> bytes:
            fixed = message.layout.size + size
            head = HEADER.pack(0, number, HEADER_SIZE + fixed, TYPE_REPLY, 0)
            return (head + message.layout.pack(fixed, size))[ID:]

        full = reply(size)

        def act() -> Acted:
            try:
                pieces = read(size)
            except Exception as error:  # noqa: BLE001 - what it says is logged there
                return self._refusal(error, number)
            got = sum(map(len, pieces))
            return (full if got == size else reply(got), *pieces), lost()

        return act

    def _refusal(self, error: Exception, number: int) -> Acted:
        errno = self._serving.refusal(error, number)
        self._counters.refused(errno)
        flags = TYPE_REPLY | ERROR
        return (HEADER.pack(0, number, HEADER_SIZE, flags, errno_number(errno))[ID:],), None
