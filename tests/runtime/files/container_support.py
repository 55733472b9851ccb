"""What the tests of the container share: the examples of the document, and files made by hand."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vfio_migration.runtime.files.container import (
    CannotWriteError,
    ContainerReader,
    ContainerWriter,
    DeviceHeader,
    Header,
    Total,
)

DOC = Path(__file__).parents[3] / "docs" / "save-format.md"

DYING = Path(__file__).with_name("dying_writer.py")

EDU = DeviceHeader("edu", {"vendor": 0x1234})
DISK = DeviceHeader("disk")
TWO = Header((EDU, DISK), created="2026-11-25")


def examples() -> dict[str, bytes]:
    """The files in the document; offsets and sizes in it are compared on the way."""
    found: dict[str, bytes] = {}
    for name, body in re.findall(r"^```bytes (.+)\n((?:.+\n)*?)```$", DOC.read_text("utf-8"), re.M):
        content = b""
        *lines, size = body.splitlines()
        for line in lines:
            offset, data, what = line.split(" | ", 2)
            assert int(offset) == len(content), f"{name}: {line}"
            assert what.strip()
            content += bytes.fromhex(data)
        assert int(size) == len(content), name
        found[name] = content
    return found


def left(folder: Path) -> list[str]:
    """The names of what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def save(path: Path, header: Header, *pieces: tuple[int, bytes], replace: bool = False) -> bytes:
    """Write a file and return its bytes."""
    with ContainerWriter(path, header, replace=replace) as writer:
        for device, data in pieces:
            writer.write(device, data)
    return path.read_bytes()


def restored(path: Path) -> list[bytes]:
    """Read the stream of every device."""
    with ContainerReader(path) as reader:
        reader.check()
        return [
            b"".join(map(bytes, reader.blocks(device)))
            for device in range(len(reader.header.devices))
        ]


class Row(NamedTuple):
    """A record made by hand; whatever it states, its checksums are right unless they are given."""

    kind: int = 1
    codec: int = 0
    device: int = 0
    number: int | None = None
    raw: int = 0
    stored: int | None = None
    content: bytes = b""
    crc: int | None = None


def block(content: bytes, device: int = 0, **fields: int) -> Row:
    return Row(**{"device": device, "raw": len(content), "content": content} | fields)  # type: ignore[arg-type]


def end(*totals: Total, **fields: int) -> Row:
    content = b"".join(struct.pack("<QQ32s", *total) for total in totals)
    return Row(**{"kind": 2, "device": len(totals), "content": content} | fields)  # type: ignore[arg-type]


def total(*blocks: bytes) -> Total:
    return Total(sum(map(len, blocks)), len(blocks), digest(b"".join(blocks)))


def prologue(text: bytes, version: int = 1, length: int | None = None) -> bytes:
    reported = len(text) if length is None else length
    fields = struct.pack("<8sIII", b"VFIOSAVE", version, reported, zlib.crc32(text))
    return fields + struct.pack("<I", zlib.crc32(fields)) + text


def assembled(text: bytes, rows: Sequence[Row], tail: bytes = b"") -> bytes:
    """A file whose checksums are all right."""
    data = prologue(text)
    for at, row in enumerate(rows):
        number = at if row.number is None else row.number
        stored = len(row.content) if row.stored is None else row.stored
        crc = zlib.crc32(row.content) if row.crc is None else row.crc
        head = struct.pack(
            "<BBHIIII", row.kind, row.codec, row.device, number, row.raw, stored, crc
        )
        data += head + struct.pack("<I", zlib.crc32(head)) + row.content
    return data + digest(data) + tail


THERE = ("is there already", "remove it, take another name, or allow it to be replaced")


@contextlib.contextmanager
def refused(path: Path, problem: str, hint: str, name: str | None = None) -> Iterator[None]:
    """Hold that this raises `CannotWriteError` with these words."""
    with pytest.raises(CannotWriteError) as caught:
        yield
    error = caught.value
    assert (error.path, error.problem, error.hint, error.errno) == (path, problem, hint, name)
    assert str(error) == f"{path}: {problem}; {hint}"


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
