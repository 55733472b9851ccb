"""The server under test: raw messages, each with a deadline, each held against the tables.

Messages are packed by hand, so that wrong ones can be sent, and what comes back is kept as bytes.
Nothing that a server sends can block this for longer than the deadline or take more memory than
`MAX_REPLY_BYTES`. Descriptors that come with a reply are not taken.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
import json
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.conformance.findings import Examination, Finding
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.runtime.client.capture import Capture
from vfio_migration.runtime.conform.server_process import (
    END_TIMEOUT_S,
    RETRY_S,
    START_TIMEOUT_S,
    CannotStartError,
    ServerProcess,
)
from vfio_migration.runtime.protocol.layout import (
    ERROR,
    FEATURE_GET,
    FEATURE_SET,
    HEADER,
    HEADER_SIZE,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    WIRE,
)
from vfio_migration.runtime.transport.closing import Closing

MAX_REPLY_BYTES: Final = (1 << 20) + (1 << 16)
"""How long a message may be: more data than that is never asked for."""
DATA_BYTES: Final = 1 << 16
"""How much migration data is asked for, or written, at a time."""
_FAULT: Final = errno_module.EFAULT
_PAIR: Final = struct.Struct("=II")
_STATE: Final = struct.Struct("=Ii")
_COMMANDS: Final = {row.name: row.number for row in WIRE.commands}
_NAMES: Final = {row.number: row.name for row in WIRE.commands}
_FEATURES: Final = {row.name: row.number for row in WIRE.features}
_CAPABILITIES: Final = {
    "max_msg_fds": 1,
    "max_data_xfer_size": 1 << 20,
    "pgsizes": 4096,
    "max_dma_maps": 1024,
}
STATE_FEATURE: Final = _FEATURES["MIG_DEVICE_STATE"]
"""The number of the feature that has the migration state."""

Ended = Literal["closed the connection", "does not answer", "is not there", "sends nonsense"]


class ServerEndedError(Exception):
    """The server does not go on as a server: it closed, was silent, is gone or sent no message.

    Attributes:
        how: Which of these.
        about: What it was asked last, in words.
    """

    def __init__(self, how: Ended, about: str) -> None:
        super().__init__(f"the server {how}: {about}")
        self.how = how
        self.about = about


class OutOfTimeError(Exception):
    """The time for the whole test is over."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        errno: The name or number of the error, None for success.
        payload: What follows the header.
        request: The bytes that were sent.
        message: The bytes that came.
    """

    errno: str | int | None
    payload: bytes
    request: bytes
    message: bytes


class TestedServer(Closing):
    """A connection to a server, made again as often as needed.

    Args:
        path: Its socket.
        spec: The migration table.
        found: Called with each finding, the request and the reply it is about, as bytes.
        timeout_s: How many seconds it has for each reply.
        total_timeout_s: How many seconds it has for all together.
        process: Starts the server where nobody listens.
        ended: Called with what was being done when a server has ended that has to go on.

    Attributes:
        doing: What is being done, in words.
        messages: How many messages passed.
        observed: Whether messages are held against the tables; set to False for the rest of a
            connection in which something is sent that a recording has no words for.
    """

    __test__ = False  # for pytest, which takes what is called Test... for a test

    def __init__(
        self,
        path: str,
        spec: Spec,
        found: Callable[[Finding, bytes, bytes], None],
        timeout_s: float,
        total_timeout_s: float,
        process: ServerProcess,
        ended: Callable[[str, Ended], None],
    ) -> None:
        self.path, self.spec, self.timeout_s = path, spec, timeout_s
        self._found, self._ended, self._process = found, ended, process
        self._over_at = time.monotonic() + total_timeout_s
        self._was_there = False
        self.doing = "connecting"
        self._examination = Examination(spec)
        self._capture = Capture(spec)
        self._socket: socket.socket | None = None
        self._id = 0
        self._request = b""
        self.messages = 0
        self.observed = True

    # --- connections ---

    def connect(self, *, negotiate: bool = True) -> None:
        """Connect, and agree on a version; start the server if nobody listens and it is known how.

        Raises:
            ServerEndedError: Nobody listens, or the version is not agreed on.
        """
        self.close()
        try:
            if self._process.ends_with_client:
                self._start()
            self._connect()
        except ServerEndedError as ended:
            if not self._process.is_known:
                raise
            if self._was_there and not self._process.ends_with_client:
                self._ended(self.doing, ended.how)
            self._start()
            self._connect()
        self._was_there = True
        if negotiate and self.negotiate().errno is not None:
            raise ServerEndedError("sends nonsense", "it refuses VERSION 0.0 of a first message")

    def _start(self) -> None:
        """Start the server, and wait until it listens."""
        try:
            self._process.start()
        except CannotStartError as error:
            raise ServerEndedError("is not there", str(error)) from None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connect()
            except ServerEndedError:
                if self._process.has_ended or time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)
            else:
                return

    def _connect(self) -> None:
        if self._socket is not None:
            return
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        made.settimeout(self.timeout_s)
        try:
            made.connect(self.path)
        except OSError as error:
            made.close()
            raise ServerEndedError("is not there", f"{self.path}: {error.strerror}") from None
        self._socket, self.observed = made, True
        self._capture = Capture(self.spec)

    def negotiate(self, major: int = 0) -> Reply:
        """Send VERSION."""
        text = json.dumps({"capabilities": _CAPABILITIES}).encode() + b"\0"
        return self.ask("VERSION", struct.pack("=HH", major, 0) + text)

    def close(self) -> None:
        """Leave. May be called more than once."""
        if self._socket is not None:
            self._socket.close()
            self._socket, self.observed = None, True
            self._note({"from": "client", "what": "gone"})
            if self._process.ends_with_client:
                # Another process serves the next connection: nothing of its device is known.
                self._process.wait()
                self._examination = Examination(self.spec)

    def meet(self) -> None:
        """Connect for the first time, and find out whether the server ends when its client leaves.

        Raises:
            ServerEndedError: Nobody serves there; or it has ended, and cannot be started again.
        """
        self.connect()
        self.close()
        time.sleep(END_TIMEOUT_S)
        try:
            self._connect()
        except ServerEndedError:
            if not self._process.is_known:
                raise ServerEndedError("is not there", "it ends when its client leaves") from None
            self._process.ends_with_client = True
        self.connect()

    @property
    def ends_with_client(self) -> bool:
        """Whether the server has ended when a client left."""
        return self._process.ends_with_client

    def recover(self, ended: ServerEndedError) -> None:
        """Report that it has ended, and connect again.

        Raises:
            ServerEndedError: That cannot be done.
        """
        self._ended(self.doing, ended.how)
        self._was_there = False
        self.connect()

    def reconnect(self) -> None:
        """Leave and come back."""
        self.close()
        self.connect()

    # --- messages ---

    def send(
        self,
        command: str | int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        descriptors: Sequence[int] = (),
    ) -> bytes:
        """Send a command, with descriptors if there are any, and return its bytes."""
        number = command if isinstance(command, int) else _COMMANDS[command]
        self._id = (self._id + 1) & 0xFFFF
        message = HEADER.pack(self._id, number, HEADER_SIZE + len(payload), flags, 0) + payload
        self._request = message
        self.send_bytes(message, descriptors)
        about = {"descriptors": len(descriptors)}
        self._note({"from": "client", "message": message.hex()} | about)
        return message

    def send_bytes(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send bytes that need not be a message."""
        if self._socket is None:
            raise ServerEndedError("closed the connection", "before this request")
        try:
            sent = 0
            if descriptors:
                sent = socket.send_fds(self._socket, [data], descriptors)
            self._socket.sendall(data[sent:])
        except TimeoutError:
            raise ServerEndedError("does not answer", "it reads nothing") from None
        except OSError:
            raise ServerEndedError("closed the connection", self._about()) from None

    def receive(self) -> Reply:
        """Return the next reply; commands of the server are answered with an error meanwhile.

        Raises:
            ServerEndedError: None comes.
            OutOfTimeError: The time for the whole test is over.
        """
        if time.monotonic() > self._over_at:
            raise OutOfTimeError
        deadline = time.monotonic() + self.timeout_s
        while True:
            head = self._exactly(HEADER_SIZE, deadline)
            ident, number, size, flags, code = HEADER.unpack(head)
            if not HEADER_SIZE <= size <= MAX_REPLY_BYTES:
                raise ServerEndedError("sends nonsense", f"a message of {size} bytes")
            message = head + self._exactly(size - HEADER_SIZE, deadline)
            self._note({"from": "server", "message": message.hex()}, message)
            if flags & TYPE_MASK == TYPE_COMMAND and not flags & ERROR:
                answer = HEADER.pack(ident, number, HEADER_SIZE, TYPE_REPLY | ERROR, _FAULT)
                self._note({"from": "client", "message": answer.hex()})
                self.send_bytes(answer)
                continue
            errno = errno_module.errorcode.get(code, code) if flags & ERROR else None
            return Reply(errno, message[HEADER_SIZE:], self._request, message)

    def ask(
        self,
        command: str | int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        descriptors: Sequence[int] = (),
    ) -> Reply:
        """Send a command and return its reply."""
        self.send(command, payload, flags=flags, descriptors=descriptors)
        return self.receive()

    # --- what is asked of a device ---

    def feature(
        self, name: str | int, methods: int, data: bytes = b"", *, room: int | None = None
    ) -> Reply:
        """Get, set or probe a feature.

        Args:
            name: Which, or its number.
            methods: The bits of GET, SET and PROBE.
            data: What is set.
            room: How many bytes of data the reply may have; as many as `data` if None.
        """
        number = name if isinstance(name, int) else _FEATURES[name]
        size = 8 + (len(data) if room is None else room)
        return self.ask("DEVICE_FEATURE", _PAIR.pack(size, methods | number) + data)

    def capabilities(self) -> int:
        """Return the flags word of the device; 0 if it does not migrate."""
        reply = self.feature("MIGRATION", FEATURE_GET, room=8)
        return int.from_bytes(reply.payload[8:16], "little") if reply.errno is None else 0

    def state(self) -> int | None:
        """Return the value of the state that GET answers, None if it answers none."""
        reply = self.feature("MIG_DEVICE_STATE", FEATURE_GET, room=_STATE.size)
        if reply.errno is not None or len(reply.payload) < 8 + _STATE.size:
            return None
        value: int = _STATE.unpack_from(reply.payload, 8)[0]
        return value

    def set_state(self, value: int) -> Reply:
        """Ask for a state by its value."""
        return self.feature("MIG_DEVICE_STATE", FEATURE_SET, _STATE.pack(value, -1))

    def reset(self) -> Reply:
        """Reset the device."""
        return self.ask("DEVICE_RESET")

    @staticmethod
    def data_of(reply: Reply) -> bytes:
        """Return the data of a reply to MIG_DATA_READ; what follows it is padding."""
        if reply.errno is not None or len(reply.payload) < _PAIR.size:
            return b""
        _, size = _PAIR.unpack_from(reply.payload)
        return reply.payload[_PAIR.size : _PAIR.size + size]

    def read_data(self, size: int = DATA_BYTES) -> Reply:
        """Read migration data."""
        return self.ask("MIG_DATA_READ", _PAIR.pack(8 + size, size))

    def write_data(self, data: bytes) -> Reply:
        """Write migration data."""
        return self.ask("MIG_DATA_WRITE", _PAIR.pack(8 + len(data), len(data)) + data)

    # --- within ---

    def _exactly(self, size: int, deadline: float) -> bytes:
        if self._socket is None:
            raise ServerEndedError("closed the connection", "before this request")
        parts = bytearray()
        while len(parts) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServerEndedError("does not answer", self._about())
            self._socket.settimeout(left)
            try:
                more = self._socket.recv(size - len(parts))
            except TimeoutError:
                continue
            except OSError:
                more = b""
            if not more:
                self._socket.close()
                self._socket = None
                self._note({"from": "server", "what": "gone"})
                raise ServerEndedError("closed the connection", self._about())
            parts += more
        self._socket.settimeout(self.timeout_s)
        return bytes(parts)

    def _about(self) -> str:
        if len(self._request) < HEADER_SIZE:
            return "at once"
        number = HEADER.unpack_from(self._request)[1]
        return f"after {_NAMES.get(number, f'command {number}')}"

    def _note(self, line: dict[str, Any], message: bytes = b"") -> None:
        """Hold a message against the tables."""
        self.messages += "message" in line
        if not self.observed:
            return
        with contextlib.suppress(SpecError):  # what cannot be read as a message is no observation
            for entry in self._capture.lines(line):
                seen = Observation.of(entry, self.spec)
                for finding in self._examination.observe(seen):
                    self._found(finding, self._request, message)
