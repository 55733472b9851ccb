"""A run as its clients see it, written down: one JSON object a line.

    with Recording("run.jsonl", spec) as recording:
        with Client("/run/edu.sock", spec=spec, observers=[recording]) as client:
            client.set_state("STOP")
    if recording.error:
        print(f"the recording is not complete: {recording.error}")

Each line is written by one call, so a process that is killed loses at most the line it was writing.
A recording never gets into the way of the run: what goes wrong with the file, or with a note that
cannot be reported, is kept in `error`, nothing more is written, and the messages go on. A pipe
whose reader is too slow counts as that too.

What is written of a message is what it states, not what it carries: of data its length, and of
migration data its CRC-32 as well. `docs/recording.md` has the format; `vfio-migration check-trace`
reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

from vfio_migration.model import Spec, SpecError, load
from vfio_migration.model.conformance.observation import FORMAT, KIND, MAX_LINE_BYTES
from vfio_migration.model.wire import Feature
from vfio_migration.runtime.client.core import Exchange, ExchangeObserver
from vfio_migration.runtime.files import trusted_path
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import WIRE
from vfio_migration.runtime.protocol.messages.catalogue import (
    DeviceFeature,
    DeviceFeatureReply,
    MigDataRead,
    MigDataReadReply,
    MigDataWrite,
    Version,
    VersionReply,
)
from vfio_migration.runtime.protocol.messages.features import (
    DmaLoggingControl,
    DmaLoggingReport,
    FeatureDeviceState,
    FeatureMigration,
    MigDataSize,
)
from vfio_migration.runtime.protocol.messages.shapes import Message
from vfio_migration.runtime.transport.closing import Closing

_MAX_TEXT_CHARS: Final = 500
"""How much of a sentence is written: a peer may have had a part in it."""

_FLAGS: Final = (
    # O_NONBLOCK is nothing to a file, and keeps a pipe that nobody reads from holding up the run.
    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
)

_FEATURES: Final[dict[int, Feature]] = {row.number: row for row in WIRE.features}

_OURS: Final = frozenset({"time", "device", "what", "event"})


def _opened(path: str | Path) -> int:
    """Open the file and empty it; never one of another user, or behind a link of theirs."""
    found = trusted_path.open_folder(path)
    try:
        fd = os.open(found.name, _FLAGS | found.no_follow, 0o600, dir_fd=found.folder)
    finally:
        os.close(found.folder)
    try:
        there = os.fstat(fd)
        trusted_path.check_owner(there, "the file")
        if stat.S_ISREG(there.st_mode):
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Recording(Closing):
    """Writes down what the clients that it observes send and receive: an `ExchangeObserver`.

    Any number of clients and threads may use it.

    Args:
        path: Where to; what is there is overwritten. A file that is made has mode 0600.
        spec: The table that gives states and capabilities their names; that of the package if none
            is given.
        program: What records; this package and its version by default.

    Attributes:
        spec: The table.
        lines: How many lines were written.
        error: What went wrong with the file, or None. Nothing was written after it.

    Raises:
        OSError: The file cannot be opened, or it or a link that leads to it is another user's.
    """

    def __init__(
        self, path: str | Path, spec: Spec | None = None, *, program: str | None = None
    ) -> None:
        self.spec = load() if spec is None else spec
        self.lines = 0
        self.error: Exception | None = None
        self._wording = Wording(self.spec)
        # Re-entrant: a signal handler may have something to note.
        self._lock = threading.RLock()
        # Of each device how many connections there were, and of each that is left which it is.
        self._counts: Counter[str] = Counter()
        self._connections: dict[tuple[str, int], int] = {}
        self._fd = _opened(path)
        self._began = time.monotonic()
        began = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._write(
            {
                "format": FORMAT,
                "kind": KIND,
                "spec": self.spec.name,
                "program": _program() if program is None else program,
                "began": began,
            }
        )

    def __call__(self, exchange: Exchange) -> None:
        """Write down an exchange, under the name of its peer."""
        self._record(exchange.peer, exchange)

    def watch(self, label: str, *, role: str | None = None) -> ExchangeObserver:
        """Return a watch that calls the device `label`, whatever its client calls it.

        Args:
            label: distinguishes the devices of a run.
            role: What part it takes (source, destination); written down at once.
        """
        if role is not None:
            self._add_entry({"device": label, "what": "device", "role": role})
        return lambda exchange: self._record(label, exchange)

    def pair(self, source: str, destination: str) -> None:
        """Write down which device is given the state of which.

        Args:
            source: What the source is called in this recording: its label, or its client's peer.
            destination: What its destination is called.
        """
        self._add_entry({"device": source, "what": "device", "role": "source", "pair": destination})
        self._add_entry(
            {"device": destination, "what": "device", "role": "destination", "pair": source}
        )

    def note(self, device: str | None, event: str, **about: Any) -> None:
        """Write down what is no message: that a phase begins, what is decided.

        Args:
            device: The device it is about, or None for the whole run.
            event: What happens.
            about: More of it; what JSON does not know is written as text.

        Raises:
            ValueError: A field of `about` has a name that every line has.
        """
        if taken := _OURS & about.keys():
            raise ValueError(f"{', '.join(sorted(taken))}: every line has that; name it otherwise")
        head: dict[str, Any] = {} if device is None else {"device": device}
        self._add_entry(head | {"what": "note", "event": event} | about)

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                try:
                    os.close(fd)
                except OSError as error:
                    # Some file systems say only now that there was no room.
                    self.error = self.error or error

    # --- lines ---

    def _add_entry(self, entry: dict[str, Any]) -> None:
        with self._lock:
            # Inside the lock, so that time never goes back from one line to the next.
            at = round(time.monotonic() - self._began, 6)
            self._write({"time": at} | entry)

    def _write(self, entry: dict[str, Any]) -> None:
        with self._lock:
            if self._fd < 0 or self.error is not None:
                return
            try:
                line = memoryview(_line(entry))
                while line:
                    # More than once only where the disk is full or the reader slow.
                    line = line[os.write(self._fd, line) :]
                self.lines += 1
            except Exception as error:  # noqa: BLE001 - a note may hold anything, itself too
                self.error = error

    def _record(self, device: str, exchange: Exchange) -> None:
        if self._fd < 0 or self.error is not None:
            return
        entry: dict[str, Any] = {"device": device, "what": exchange.what}
        command, reply = exchange.command, exchange.reply
        if exchange.id >= 0:
            entry["id"] = exchange.id
        if command is not None:
            entry["command"] = command.name
            # Of a command and its answer by this side all is written at once; of a reply, what it
            # is an answer to is written so that its line can be read by itself.
            if exchange.what != "reply":
                entry |= self._wording.about(command)
            else:
                entry |= self._wording.which(command)
        if exchange.what == "reply" and reply is not None:
            entry |= self._wording.about(reply)
        if exchange.fds:
            entry["fds"] = exchange.fds
        if exchange.no_reply:
            entry["no_reply"] = True
        if exchange.errno is not None:
            entry["errno"] = exchange.errno
        if exchange.malformed is not None:
            entry["malformed"] = exchange.malformed[:_MAX_TEXT_CHARS]
        if exchange.why is not None:
            entry["why"] = exchange.why[:_MAX_TEXT_CHARS]
        if exchange.by is not None:
            entry["by"] = exchange.by
        if (connection := self._connection(device, exchange)) > 1:
            entry["connection"] = connection
        self._add_entry(entry)

    def _connection(self, device: str, exchange: Exchange) -> int:
        """Count the connections of a device."""
        if not exchange.connection:
            return 1
        key = device, exchange.connection
        with self._lock:
            if key not in self._connections:
                self._counts[device] += 1
                self._connections[key] = self._counts[device]
            found = self._connections[key]
            if exchange.what == "gone":
                del self._connections[key]
        return found


class Wording:
    """Describes a message by the names of vfio-user, and in words where it has a meaning.

    Args:
        spec: The table that gives states and capabilities their names.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._names = {state.value: state.name for state in spec.states}

    def which(self, message: Message) -> dict[str, Any]:
        """Return what of a command is in the line of its reply, too."""
        return _which(message) if isinstance(message, DeviceFeature) else {}

    def about(self, message: Message) -> dict[str, Any]:
        """Return what a payload says, in plain words."""
        if isinstance(message, DeviceFeature | DeviceFeatureReply):
            return self._feature(message)
        if isinstance(message, MigDataRead):
            return {"size": message.size, "argsz": message.argsz}
        if isinstance(message, MigDataReadReply | MigDataWrite):
            return {"size": message.size, "crc": f"{zlib.crc32(message.data):08x}"}
        if isinstance(message, Version | VersionReply):
            return _version(message)
        return _fields(type(message))(message)

    def _feature(self, message: DeviceFeature | DeviceFeatureReply) -> dict[str, Any]:
        shown = _which(message) | {"size": len(message.data), "argsz": message.argsz}
        row = _FEATURES.get(message.index)
        if message.probe or row is None or not len(message.data):
            return shown
        with contextlib.suppress(MalformedError):  # its size is in the record, and is what is wrong
            shown |= self._data(row, message)
        return shown

    def _data(self, row: Feature, message: DeviceFeature | DeviceFeatureReply) -> dict[str, Any]:
        data = message.data
        if row.moves:
            value = FeatureDeviceState.parse(data).device_state
            return {"state": self._names.get(value, value)}
        if row.name == "MIGRATION":
            word = FeatureMigration.parse(data).flags
            try:
                return {"flags": list(self.spec.names(self.spec.capability_set(word)))}
            except SpecError:
                return {"flags": word}
        if row.name == "MIG_DATA_SIZE":
            return {"stop_copy_length": MigDataSize.parse(data).stop_copy_length}
        if row.logging == "starts":
            asked = DmaLoggingControl.parse(data)
            return {"page_size": asked.page_size, "ranges": len(asked.ranges)}
        if row.logging == "needs":
            about = DmaLoggingReport.parse(data)
            return {"iova": about.iova, "length": about.length, "page_size": about.page_size}
        return {}


_encode: Final = json.JSONEncoder(default=str).encode


def _line(entry: dict[str, Any]) -> bytes:
    line = _encode(entry).encode("ascii") + b"\n"
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes; {MAX_LINE_BYTES} are the most")
    return line


def _program() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"vfio-migration {version('vfio-migration')}"
    except PackageNotFoundError:
        return "vfio-migration"


def _which(message: DeviceFeature | DeviceFeatureReply) -> dict[str, Any]:
    row = _FEATURES.get(message.index)
    words = [
        word
        for word, asked in (
            ("PROBE", message.probe),
            ("GET", message.get),
            ("SET", message.set),
        )
        if asked
    ]
    return {"feature": message.index if row is None else row.name, "method": " ".join(words)}


def _version(message: Version | VersionReply) -> dict[str, Any]:
    shown: dict[str, Any] = {"version": f"{message.major}.{message.minor}"}
    for field in fields(message.capabilities) if message.capabilities else ():
        value = getattr(message.capabilities, field.name)
        if value is not None:
            shown[field.name] = value.supported if field.name == "twin_socket" else value
    return shown


_known: dict[type[Message], Callable[[Message], dict[str, Any]]] = {}


def _fields(kind: type[Message]) -> Callable[[Message], dict[str, Any]]:
    """Return what describes a message of plain fields: numbers as they are, sizes of the rest."""
    found = _known.get(kind)
    if found is None:
        numbers = [field.name for field in fields(cast("Any", kind)) if field.type == "int"]
        counted = [field.name for field in fields(cast("Any", kind)) if field.type != "int"]
        # A message that carries data states in one of these how much it is.
        sizes = [
            name for name in ("count", "wr_cnt") if isinstance(getattr(kind, name, 0), property)
        ]

        def describe(message: Message) -> dict[str, Any]:
            shown = {name: getattr(message, name) for name in (*numbers, *sizes)}
            if not sizes:
                shown |= {name: len(getattr(message, name)) for name in counted}
            return shown

        found = _known[kind] = describe
    return found
