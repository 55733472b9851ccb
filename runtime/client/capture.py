"""A capture of the wire, read as what its client would have recorded.

A capture has a line for each message, in the order in which they passed somebody who stood between
a client and a server: an object with `from`, "client" or "server", and `message`, the bytes of the
message in hexadecimal digits; `descriptors` states how many came with it, and `cut` that zeros
stand for a part of it that was not seen. A line without a message whose `what` begins with "gone"
states who ended the connection. `Capture.lines` makes of each line those of a recording, for
`vfio_migration.model.conformance.observation`.

What the client itself has made up is not judged: a command of which nothing can be made is known by
its name alone.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.errors import Mistake
from vfio_migration.runtime.client.recording import Wording
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    HEADER,
    HEADER_SIZE,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    WIRE,
)
from vfio_migration.runtime.protocol.messages.catalogue import COMMANDS, REPLIES
from vfio_migration.runtime.protocol.messages.shapes import Message

DEVICE: Final = "server"
"""What the device of a capture is called: a capture has no name for it."""

_SIDES: Final = ("client", "server")
_OF_THE_WHOLE: Final = ("malformed", "crc")
"""What is stated of a message only if all of it was seen."""
_SAME_ID: Final = 64
"""How many commands of one id are remembered for their replies."""


@dataclass(slots=True)
class _Command:
    number: int
    message: Message | None


class Capture:
    """Reads the lines of one capture.

    Args:
        spec: The table that gives states and capabilities their names.
    """

    def __init__(self, spec: Spec) -> None:
        self._wording = Wording(spec)
        self._sent: dict[str, dict[int, deque[_Command]]] = {side: {} for side in _SIDES}
        self._over = False

    def lines(self, data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what a line states, as lines of a recording.

        Raises:
            SpecError: The line is damaged.
        """
        sender = data.get("from")
        if sender not in _SIDES:
            raise _wrong("from", sender, 'is neither "client" nor "server"')
        if "message" not in data:
            if not self._over:
                self._over = True
                yield {"device": DEVICE, "what": "gone", "by": sender}
            return
        message = _bytes(data["message"])
        ident, number, size, flags, code = HEADER.unpack_from(message)
        if size != len(message):
            raise _wrong(
                "message", None, f"has {len(message)} bytes, and the size in its header is {size}"
            )
        payload = message[HEADER_SIZE:]
        count = data.get("descriptors", 0)
        if type(count) is not int or count < 0:
            raise _wrong("descriptors", count, "is not a number of descriptors")
        kind, cut = flags & TYPE_MASK, bool(data.get("cut"))
        if kind == TYPE_COMMAND and not flags & ERROR:
            lines = self._command(sender, ident, number, flags, payload, count)
        elif kind == TYPE_REPLY:
            lines = self._reply(sender, ident, number, flags, code, payload)
        else:
            # Neither: what it answers, if anything, it does not state in the words of the text.
            yield {"what": "note", "event": "a message that is neither command nor reply"}
            return
        for line in lines:
            yield {key: line[key] for key in line if not cut or key not in _OF_THE_WHOLE}

    def _command(
        self, sender: str, ident: int, number: int, flags: int, payload: bytes, count: int
    ) -> Iterator[dict[str, Any]]:
        kind = COMMANDS.get(number)
        message: Message | None = None
        if kind is not None:
            with contextlib.suppress(MalformedError):
                message = kind.parse(payload, (0,) * count)
        no_reply = bool(flags & NO_REPLY)
        if not no_reply:
            waiting = self._sent[sender].setdefault(ident, deque(maxlen=_SAME_ID))
            waiting.append(_Command(number, message))
        if sender == "server":
            return  # recorded when it is answered
        line = {"device": DEVICE, "what": "command", "id": ident, "command": _name(number)}
        if message is not None:
            line |= self._wording.about(message)
        yield line | ({"no_reply": True} if no_reply else {})

    def _reply(
        self, sender: str, ident: int, number: int, flags: int, code: int, payload: bytes
    ) -> Iterator[dict[str, Any]]:
        command = self._answered("client" if sender == "server" else "server", ident, number)
        about: dict[str, Any] = {}
        if command is not None and command.message is not None:
            about = self._wording.which(command.message)
        if flags & ERROR:
            about["errno"] = errno_module.errorcode.get(code, code)
        elif command is not None and command.message is not None and number in REPLIES:
            try:
                about |= self._wording.about(REPLIES[number].answering(command.message, payload))
            except MalformedError as fault:
                about["malformed"] = fault.why
        what = "reply" if sender == "server" else "served"
        yield {"device": DEVICE, "what": what, "id": ident, "command": _name(number)} | about
        row = WIRE.command(number)
        if row is not None and row.does == "negotiate" and "errno" not in about:
            yield {"device": DEVICE, "what": "connected"}

    def _answered(self, sender: str, ident: int, number: int) -> _Command | None:
        """Take out the oldest command of this id that a reply to this command can be to."""
        waiting = self._sent[sender].get(ident, deque())
        found = next((one for one in waiting if one.number == number), None)
        if found is not None:
            waiting.remove(found)
        return found


def _name(number: int) -> str:
    row = WIRE.command(number)
    return f"command {number}" if row is None else row.name


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise _wrong("message", text, "is not a string")
    try:
        message = bytes.fromhex(text)
    except ValueError:
        raise _wrong("message", None, "is not written in hexadecimal digits") from None
    if len(message) < HEADER_SIZE:
        raise _wrong("message", None, f"has {len(message)} bytes, and a header {HEADER_SIZE}")
    return message


def _wrong(place: str, value: object, problem: str) -> SpecError:
    return SpecError([Mistake(place, value, problem, None)])
