"""A saved migration: the streams of one or more devices in one file. docs/save-format.md has it.

    with ContainerWriter("guest.save", Header((DeviceHeader("edu"),), codec="zlib")) as file:
        for piece in stream:
            file.write(0, piece)
    with ContainerReader("guest.save") as file:
        file.check()
        for block in file.blocks(0):
            ...

A file is there whole or not at all. Nothing of it is handed out before all of it was checked:
damage of any kind is found before a destination learns of the stream. None of this is proof against
someone who means to deceive; but whatever a file says, reading it takes no more memory than a
block and a header of the largest size do.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from vfio_migration.model.errors import why
from vfio_migration.runtime.files.atomic_file import AtomicFile, CannotWriteError, kind_of
from vfio_migration.runtime.files.checksum import crc32
from vfio_migration.runtime.files.compression import NAMES, BadDataError, Codec, Data, codec
from vfio_migration.runtime.files.container_header import (
    MAX_DEVICES,
    MAX_HEADER,
    BadHeaderError,
    DeviceHeader,
    Header,
)

__all__ = [
    "MAX_BLOCK",
    "MAX_DEVICES",
    "MAX_HEADER",
    "VERSION",
    "BadHeaderError",
    "CannotReadError",
    "CannotWriteError",
    "ContainerReader",
    "ContainerWriter",
    "DamagedError",
    "DeviceHeader",
    "Header",
    "Total",
]

MAGIC: Final = b"VFIOSAVE"
VERSION: Final = 1
"""The version that is written, and the only one that is read."""

MAX_BLOCK: Final = 1 << 20
"""How many bytes of a stream one block holds at most."""

PROLOGUE: Final = struct.Struct("<8sIIII")
"""Magic, version, length of the JSON text, its CRC-32, CRC-32 of these."""
RECORD: Final = struct.Struct("<BBHIIIII")
"""Kind, codec, device, number, raw size, stored size, CRC-32 of the content, CRC-32 of these."""
TOTAL: Final = struct.Struct("<QQ32s")
"""Per device: bytes, blocks, BLAKE2b of its stream."""
BLOCK, END = 1, 2

_DIGEST: Final = 32


def _sealed(fields: bytes) -> bytes:
    """Return fields whose last one is a CRC-32 of those before."""
    return fields[:-4] + crc32(fields[:-4]).to_bytes(4, "little")


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_DIGEST)


class Total(NamedTuple):
    """The stream of one device.

    Attributes:
        size: How many bytes it has.
        blocks: In how many blocks.
        digest: Its BLAKE2b, of 32 bytes.
    """

    size: int
    blocks: int
    digest: bytes


class _Sum:
    """A total in the making."""

    def __init__(self) -> None:
        self.size = self.blocks = 0
        self._digest = _blake2b()

    def add(self, block: Data) -> None:
        self.size += len(block)
        self.blocks += 1
        self._digest.update(block)

    def total(self) -> Total:
        return Total(self.size, self.blocks, self._digest.digest())


class CannotReadError(Exception):
    """The file cannot be read, or is none that this version reads.

    Attributes:
        path: Which file.
        problem: What is wrong.
        offset: The byte at which it is wrong, or None.
    """

    def __init__(self, path: Path, problem: str, offset: int | None = None) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem
        self.offset = offset


class DamagedError(CannotReadError):
    """The file is not what was written."""


class ContainerWriter:
    """Writes the streams of devices into a new file; a context manager.

    At the end the file gets its name, all of it at once; after an exception there is none, and
    what was at its place before is there still. Threads may write at the same time.

    Args:
        path: Where.
        header: What is known of the devices, and the codec.
        replace: A regular file that is there may be replaced.

    Raises:
        BadHeaderError: The header would not be read again.
        ImportError: The codec's library is not installed.
        CannotWriteError: When the `with` statement begins or ends, or from `write`.
    """

    def __init__(
        self, path: str | os.PathLike[str], header: Header, *, replace: bool = False
    ) -> None:
        self.header = header
        self._text = header.to_json()
        self._codec = codec(header.codec)
        self._file = AtomicFile(path, replace=replace)
        self._digest = _blake2b()
        self._sums = [_Sum() for _ in header.devices]
        self._buffers = [bytearray() for _ in header.devices]
        self._number = 0
        self._lock = threading.Lock()

    @property
    def written(self) -> int:
        """How many bytes the file has so far."""
        return self._file.written

    def totals(self) -> tuple[Total, ...]:
        """Return what was written of each device; after the end, of its whole stream."""
        return tuple(sum_.total() for sum_ in self._sums)

    def __enter__(self) -> Self:
        """Begin the file. A writer writes one; ValueError if it has."""
        if self.written:
            raise ValueError(f"{self._file.path}: this writer has written its file; make another")
        self._file.__enter__()
        try:
            crc = crc32(self._text)
            self._put(_sealed(PROLOGUE.pack(MAGIC, VERSION, len(self._text), crc, 0)))
            self._put(self._text)
        except BaseException:
            self._file.discard()
            raise
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """End the file, or leave no trace of it if there was an exception."""
        with self._lock:  # up to the end: a thread that still writes is not to write behind it
            try:
                if kind is None:
                    self._end()
            except BaseException:
                self._file.discard()
                raise
            self._file.__exit__(kind, error, trace)

    def write(self, device: int, data: Data) -> None:
        """Add to the stream of a device. Small pieces are gathered until they make a block."""
        if not 0 <= device < len(self._buffers):
            raise ValueError(f"device {device}: there are {len(self._buffers)}, counted from 0")
        view = memoryview(data).cast("B")
        with self._lock:
            if not self._file.is_open:
                raise ValueError("write: only within the with statement of this writer")
            try:
                self._gather(device, view)
            except BaseException:
                # Anybody who catches this must not end up with a file in which something is
                # missing.
                self._file.give_up()
                raise

    def _gather(self, device: int, view: memoryview) -> None:
        if waiting := len(self._buffers[device]):
            self._buffers[device] += view[: MAX_BLOCK - waiting]
            view = view[MAX_BLOCK - waiting :]
            if len(self._buffers[device]) < MAX_BLOCK:
                return
            self._flush(device)
        while len(view) >= MAX_BLOCK:
            self._block(device, view[:MAX_BLOCK])
            view = view[MAX_BLOCK:]
        self._buffers[device] += view

    def _flush(self, device: int) -> None:
        block, self._buffers[device] = self._buffers[device], bytearray()
        if block:
            self._block(device, block)

    def _block(self, device: int, block: Data) -> None:
        stored, number = self._codec.compress(block), NAMES.index(self._codec.name)
        if len(stored) >= len(block):
            stored, number = block, 0
        self._record(BLOCK, number, device, len(block), stored)
        self._sums[device].add(block)

    def _end(self) -> None:
        for device in range(len(self._buffers)):
            self._flush(device)
        totals = b"".join(TOTAL.pack(*total) for total in self.totals())
        self._record(END, 0, len(self._sums), 0, totals)
        self._file.write(self._digest.digest())

    def _record(self, kind: int, codec: int, device: int, raw: int, content: Data) -> None:
        number = self._number & 0xFFFFFFFF
        crc = crc32(content)
        self._put(_sealed(RECORD.pack(kind, codec, device, number, raw, len(content), crc, 0)))
        self._put(content)
        self._number += 1

    def _put(self, data: Data) -> None:
        self._file.write(data)
        self._digest.update(data)


class _Record(NamedTuple):
    """A record's header, and where it is."""

    at: int
    head: bytes
    name: str
    kind: int
    codec: int
    device: int
    raw: int
    stored: int
    crc: int

    @property
    def end(self) -> int:
        return self.at + RECORD.size + self.stored


class ContainerReader:
    """Reads a file of streams; a context manager. Everything here raises `CannotReadError`.

    Attributes:
        path: Which file.
        header: What is known of the devices. It has been checked, by a CRC-32.
        size: How many bytes the file has.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._totals: tuple[Total, ...] | None = None
        try:
            # Without O_NONBLOCK a pipe would wait for somebody to write.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._fd = os.open(self.path, flags)
        except (OSError, ValueError) as error:
            raise CannotReadError(self.path, f"cannot be read: {why(error)}") from error
        try:
            self.size = self._size()
            self.header, self._start = self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return this."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def check(self) -> tuple[Total, ...]:
        """Read the whole file once and return what it holds of each device.

        Raises:
            DamagedError: It is not what was written.
            CannotReadError: The disk cannot be read.
            ImportError: The codec's library is not installed.
        """
        unpack = codec(self.header.codec)
        digest = _blake2b()
        digest.update(self._read(0, self._start, "the header"))
        sums = [_Sum() for _ in self.header.devices]
        for record in self._records():
            content = self._content(record)
            digest.update(record.head)
            digest.update(content)
            if record.kind == BLOCK:
                sums[record.device].add(self._unpacked(record, content, unpack))
            else:
                self._check_end(record, content, digest.digest(), sums)
        self._totals = tuple(sum_.total() for sum_ in sums)
        return self._totals

    def blocks(self, device: int) -> Iterator[Data]:
        """Return the stream of a device, block by block; `check` first, unless it was done.

        Each block is looked at again. If one is not what it was, `DamagedError` ends the iteration:
        what came of it before must then be thrown away.
        """
        count = len(self.header.devices)
        if not 0 <= device < count:
            raise ValueError(f"device {device}: there are {count}, counted from 0")
        totals = self._totals or self.check()
        return self._blocks(device, totals[device])

    def _blocks(self, device: int, total: Total) -> Iterator[Data]:
        unpack = codec(self.header.codec)
        found = _Sum()
        for record in self._records():
            if record.kind == BLOCK and record.device == device:
                block = self._unpacked(record, self._content(record), unpack)
                found.add(block)
                yield block
        if found.total() != total:
            raise DamagedError(
                self.path, f"the stream of device {device} was changed since the check"
            )

    def _size(self) -> int:
        found = os.fstat(self._fd)
        if kind := kind_of(found.st_mode):
            raise CannotReadError(self.path, f"is {kind}; name a file on a disk")
        return found.st_size

    def _begin(self) -> tuple[Header, int]:
        """Read the header; return it, and where the first record is."""
        if not self.size:
            raise CannotReadError(self.path, "is empty", 0)
        magic = self._read(0, min(self.size, len(MAGIC)), "the magic")
        if not MAGIC.startswith(magic):
            raise CannotReadError(
                self.path, f"is not a saved migration: it begins with {magic!r}", 0
            )
        fields = self._read(0, PROLOGUE.size, "the header")
        _, version, length, crc, _ = PROLOGUE.unpack(fields)
        if version > VERSION:
            problem = f"was written by a newer version {version}, this reads {VERSION}"
            raise CannotReadError(self.path, problem, len(MAGIC))
        if version < VERSION or fields != _sealed(fields) or not 0 < length <= MAX_HEADER:
            raise DamagedError(self.path, f"its first {PROLOGUE.size} bytes are damaged", 0)
        text = self._read(PROLOGUE.size, length, "the header")
        if crc != crc32(text):
            problem = f"its header, at byte {PROLOGUE.size}, is damaged"
            raise DamagedError(self.path, problem, PROLOGUE.size)
        try:
            header = Header.from_json(text)
        except BadHeaderError as error:
            problem = f"its header, at byte {PROLOGUE.size}, cannot be used: {error}"
            raise CannotReadError(self.path, problem, PROLOGUE.size) from error
        return header, PROLOGUE.size + length

    def _records(self) -> Iterator[_Record]:
        """Yield the records up to the end. Their headers have been checked."""
        at, number = self._start, 0
        counts = [0] * len(self.header.devices)
        while True:
            record = self._record(at, number, counts)
            yield record
            if record.kind == END:
                return
            counts[record.device] += 1
            at, number = record.end, number + 1

    def _record(self, at: int, number: int, counts: list[int]) -> _Record:
        head = self._read(at, RECORD.size, f"record {number}")
        kind, packing, device, counted, raw, stored, crc, _ = RECORD.unpack(head)
        if head != _sealed(head):
            raise DamagedError(
                self.path, f"the header of record {number}, at byte {at}, is damaged", at
            )
        if counted != number & 0xFFFFFFFF:
            problem = f"record {counted} is at byte {at}, where record {number} should be"
            raise DamagedError(self.path, problem, at)
        if kind == BLOCK:
            known = device < len(counts) and packing in (0, NAMES.index(self.header.codec))
            fits = 0 < stored < raw if packing else stored == raw
            right = known and fits and 0 < raw <= MAX_BLOCK
        else:
            size = TOTAL.size * len(counts)
            right = (kind, packing, device, raw, stored) == (END, 0, len(counts), 0, size)
        if not right:
            raise DamagedError(
                self.path, f"record {number}, at byte {at}, is none there can be", at
            )
        name = f"block {counts[device]} of device {device}" if kind == BLOCK else "the end"
        return _Record(at, head, name, kind, packing, device, raw, stored, crc)

    def _content(self, record: _Record) -> bytes:
        content = self._read(record.at + RECORD.size, record.stored, record.name)
        if record.crc != crc32(content):
            raise DamagedError(
                self.path, f"{record.name}, at byte {record.at}, is damaged", record.at
            )
        return content

    def _unpacked(self, record: _Record, content: bytes, unpack: Codec) -> Data:
        if not record.codec:
            return content
        try:
            return unpack.decompress(content, record.raw)
        except BadDataError as error:
            problem = f"{record.name}, at byte {record.at}, does not decompress: {error}"
            raise DamagedError(self.path, problem, record.at) from error

    def _check_end(self, record: _Record, content: bytes, digest: bytes, sums: list[_Sum]) -> None:
        for device, counted in enumerate(TOTAL.iter_unpack(content)):
            if sums[device].total() != counted:
                problem = f"the stream of device {device} is not the one that was saved"
                raise DamagedError(self.path, problem, record.at)
        end = record.end + _DIGEST
        if digest != self._read(record.end, _DIGEST, record.name):
            raise DamagedError(self.path, "the file as a whole is not what was saved", record.end)
        if end != self.size:
            raise DamagedError(
                self.path, f"{self.size - end} bytes follow its end at byte {end}", end
            )

    def _read(self, at: int, count: int, what: str) -> bytes:
        parts: list[bytes] = []
        while count:
            try:
                part = os.pread(self._fd, count, at)
            except OSError as error:
                problem = f"cannot be read at byte {at}: {error.strerror}"
                raise CannotReadError(self.path, problem, at) from error
            if not part:
                problem = f"is truncated at byte {at}: {what} goes to byte {at + count}"
                raise DamagedError(self.path, problem, at)
            parts.append(part)
            at, count = at + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
