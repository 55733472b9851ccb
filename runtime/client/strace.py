"""A log of strace, read as a capture of each vfio-user connection that is in it.

strace shows what a process has sent and received; a stream is cut into messages by the sizes in
their headers, and each message goes to a `Capture`. A connection is one of vfio-user if what is
first seen of it is a whole header with a command of vfio-user. Who first sends a command is the
client.

By default strace shows no more than 32 bytes of a buffer (-s). The header must be among them; what
else is missing of a message is taken to be zero, and a message of which nothing can be made without
it states nothing but its command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.errors import Mistake
from vfio_migration.runtime.client.capture import Capture
from vfio_migration.runtime.protocol.layout import (
    HEADER,
    HEADER_SIZE,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    WIRE,
)

_PREFIX: Final = r"(?:\[pid +(?P<pid>\d+)\] |(?P<id>\d+) +)?(?:[\d:.]+ +)?"
_CALL: Final = re.compile(
    _PREFIX + r"(?P<call>[a-z0-9_]+)\((?P<fd>\d+(?:<.*?>)?)(?P<rest>[,)].*)= (?P<got>-?\d+)",
    re.ASCII,
)
_UNFINISHED: Final = re.compile(_PREFIX + r"(?P<text>.*?) ?<unfinished \.\.\.>", re.ASCII)
_RESUMED: Final = re.compile(_PREFIX + r"<\.\.\. \w+ resumed>(?P<text>.*)", re.ASCII)
_STRING: Final = re.compile(r'(?:iov_base=|, )"((?:[^"\\]|\\.)*)"(\.\.\.)?', re.ASCII)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-f]{2})|([0-7]{1,3})|(.))", re.ASCII)
_LETTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f", "0": "\0"}

_SENDING: Final = ("sendmsg", "sendto", "send", "write", "writev")
_RECEIVING: Final = ("recvmsg", "recvfrom", "recv", "read", "readv")
_VERSION: Final = next(row.number for row in WIRE.commands if row.does == "negotiate")
_MAX_UNFINISHED: Final = 1000
"""How many calls are remembered whose end is to come."""
_MAX_OPEN: Final = 16
"""How many connections are followed at a time."""
_MAX_MESSAGE_BYTES: Final = 4 << 20
"""How long a message may be: what strace does not show is zeros here, and a log may claim anything.
"""


@dataclass(slots=True)
class _Stream:
    """One direction of a connection: what is not yet a whole message.

    Attributes:
        data: The bytes.
        cut: How many of the last message's bytes strace did not show.
    """

    data: bytearray = field(default_factory=bytearray)
    cut: int = 0


@dataclass(slots=True)
class _Connection:
    name: str
    capture: Capture
    sent: _Stream = field(default_factory=_Stream)
    received: _Stream = field(default_factory=_Stream)
    client: bool | None = None
    """Whether the process that is traced is the client, if that is known."""
    threads: set[str] = field(default_factory=set)
    """Which threads have sent or received something."""
    whole: bool = False
    """It was seen from its beginning."""
    asked: set[int] = field(default_factory=set)
    """The ids of the commands that were seen."""
    closed: bool = False
    """Its descriptor may be another's by now."""


class Messages:
    """Reads the lines of one log of strace.

    Args:
        spec: The table that gives states and capabilities their names.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._open: dict[str, _Connection] = {}
        self._unfinished: dict[str, str] = {}

    def lines(self, text: str) -> list[dict[str, Any]] | None:
        """Return what a line states, as lines of a recording; None if it is of no connection.

        Raises:
            SpecError: Of a message of vfio-user not even its header is shown.
        """
        whole = self._whole(text)
        if whole is None:
            return []
        call = _CALL.match(whole)
        if call is None:
            return None
        name = call["call"]
        if name == "close":
            # Another process may have the descriptor under this number, and not as ours: what the
            # same thread transfers next shows it.
            connection = self._open.get(call["fd"])
            if connection is not None and _thread(call) in connection.threads:
                connection.closed = True
            return []
        if name not in (*_SENDING, *_RECEIVING):
            return None
        if "MSG_PEEK" in _STRING.sub("", call["rest"]):
            return []  # it is received once more
        return self._transferred(call, sending=name in _SENDING)

    def _whole(self, text: str) -> str | None:
        """Return a call in one line, or None if the rest of it is to come."""
        unfinished = _UNFINISHED.fullmatch(text)
        if unfinished is not None:
            if len(self._unfinished) >= _MAX_UNFINISHED:
                self._unfinished.clear()
            self._unfinished[_thread(unfinished)] = unfinished["text"]
            return None
        resumed = _RESUMED.fullmatch(text)
        if resumed is None:
            return text
        return self._unfinished.pop(_thread(resumed), "") + resumed["text"]

    def _transferred(self, call: re.Match[str], *, sending: bool) -> list[dict[str, Any]] | None:
        got, shown = int(call["got"]), b""
        if got <= 0:
            connection = self._open.get(call["fd"])
            if connection is None or _thread(call) not in connection.threads:
                return None
            if got < 0 or sending:
                return []
            del self._open[call["fd"]]
            return list(self._ended(connection, "server"))
        missing = False
        for text, more in _STRING.findall(call["rest"]):
            shown += _bytes(text)
            missing = missing or bool(more)
        shown = shown[:got]
        connection, thread = self._open.get(call["fd"]), _thread(call)
        if connection is not None and (connection.closed or thread not in connection.threads):
            if not _is_message(shown, got):
                if thread not in connection.threads:
                    return None  # of another process
                del self._open[call["fd"]]
                return list(self._ended(connection, "client"))
            connection.closed = False
        connection = connection or self._begun(call["fd"], shown, got)
        if connection is None:
            return None
        connection.threads.add(thread)
        stream = connection.sent if sending else connection.received
        return list(self._messages(connection, stream, shown, got, sending=sending))

    def _begun(self, fd: str, shown: bytes, got: int) -> _Connection | None:
        """Return a connection that begins with these bytes, if it is one of vfio-user."""
        if not _is_message(shown, got):
            return None
        if len(self._open) >= _MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._open[fd] = _Connection(f"descriptor {fd}", Capture(self._spec))
        return self._open[fd]

    def _messages(
        self, connection: _Connection, stream: _Stream, shown: bytes, got: int, *, sending: bool
    ) -> Iterator[dict[str, Any]]:
        if len(stream.data) + len(shown) < HEADER_SIZE and got > len(shown):
            problem = f"{len(shown)} bytes of a message are shown, and its header has {HEADER_SIZE}"
            hint = "have strace show more of it: -s 64"
            raise SpecError([Mistake("message", None, problem, hint)])
        if len(stream.data) + got > _MAX_MESSAGE_BYTES:
            yield from self._lost(connection)
            return
        stream.data += shown + bytes(got - len(shown))
        stream.cut += got - len(shown)
        while len(stream.data) >= HEADER_SIZE:
            ident, number, size, flags, _ = HEADER.unpack_from(stream.data)
            if not HEADER_SIZE <= size <= _MAX_MESSAGE_BYTES:
                yield from self._lost(connection)
                return
            if len(stream.data) < size:
                return
            message = bytes(stream.data[:size])
            del stream.data[:size]
            cut, stream.cut = bool(stream.cut), 0
            if flags & TYPE_MASK == TYPE_COMMAND:
                if connection.client is None:
                    connection.client = sending
                    connection.whole = number == _VERSION
                connection.asked.add(ident)
            elif not connection.whole and ident not in connection.asked:
                continue  # what it answers was sent before the log begins
            sender = "client" if connection.client is sending else "server"
            data = {"from": sender, "message": message.hex(), "cut": cut}
            for line in connection.capture.lines(data):
                yield line | ({"device": connection.name} if "device" in line else {})

    def _lost(self, connection: _Connection) -> Iterator[dict[str, Any]]:
        """What follows is not cut at the messages, or is too long: follow it no more."""
        self._open = {fd: one for fd, one in self._open.items() if one is not connection}
        yield {"what": "gone", "device": connection.name}

    def _ended(self, connection: _Connection, by: str) -> Iterator[dict[str, Any]]:
        if connection.client is False:
            by = "client" if by == "server" else "server"
        for line in connection.capture.lines({"from": by}):
            yield line | {"device": connection.name}


def _is_message(shown: bytes, got: int) -> bool:
    """Return whether bytes are the beginning of a message of vfio-user, or its header alone."""
    if len(shown) < HEADER_SIZE:
        return False
    _, number, size, flags, _ = HEADER.unpack_from(shown)
    known = WIRE.command(number) is not None and flags & TYPE_MASK in (TYPE_COMMAND, TYPE_REPLY)
    return known and size >= HEADER_SIZE and got in (HEADER_SIZE, size)


def _thread(found: re.Match[str]) -> str:
    return found["pid"] or found["id"] or ""


def _bytes(text: str) -> bytes:
    def one(found: re.Match[str]) -> str:
        digits, octal, letter = found.groups()
        if digits:
            return chr(int(digits, 16))
        return chr(int(octal, 8) & 0xFF) if octal else _LETTERS.get(letter, letter)

    return _ESCAPE.sub(one, text).encode("latin-1", "replace")
