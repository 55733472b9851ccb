"""Whatever happens to a file is found before any of it is handed out, and said where."""

from __future__ import annotations

import os
import re
import tracemalloc
import zlib
from pathlib import Path

import pytest
import zstandard
from container_support import (
    TWO,
    Row,
    assembled,
    block,
    digest,
    end,
    examples,
    prologue,
    save,
    total,
)

from support.open_descriptors import opened, opened_at_rest
from support.samples import sampled
from vfio_migration.model.extras import install_command
from vfio_migration.runtime.files.container import (
    MAX_BLOCK,
    MAX_HEADER,
    CannotReadError,
    ContainerReader,
    DamagedError,
    DeviceHeader,
    Header,
    Total,
)

EXAMPLES = examples()
TEXT = TWO.to_json()
SMALL = {
    **EXAMPLES,
    "Zstandard": assembled(
        b'{"codec":"zstd","devices":[{"name":"a"}]}',
        [
            block(zstandard.compress(bytes(999)), codec=2, raw=999),
            end(total(bytes(999))),
        ],
    ),
}


def refusal(path: Path, data: bytes) -> CannotReadError:
    """What is stated of a file. It must be stated before anything is handed out."""
    path.write_bytes(data)
    with pytest.raises(CannotReadError) as caught, ContainerReader(path) as reader:
        reader.blocks(0)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.problem}"
    return caught.value


@pytest.mark.parametrize("name", SMALL)
def test_the_files_are_right_before_they_are_damaged(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(SMALL[name])
    with ContainerReader(tmp_path / "x") as reader:
        reader.check()


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SMALL)
def test_every_change_of_a_byte_is_found(name: str, tmp_path: Path) -> None:
    """Every byte, to every other value of one bit and to four more."""
    data, path = bytearray(SMALL[name]), tmp_path / "x"
    for at, was in enumerate(data):
        changes = {was ^ 1 << bit for bit in range(8)} | {0, 0xFF, was ^ 0xFF, was ^ 0x5A}
        for value in sorted(changes - {was}):
            data[at] = value
            found = refusal(path, bytes(data))
            assert found.offset is not None, found
            assert found.offset <= at, found
        data[at] = was


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_found(name: str, tmp_path: Path) -> None:
    data, path = SMALL[name], tmp_path / "x"
    assert refusal(path, b"").problem == "is empty"
    for size in range(1, len(data)):
        found = refusal(path, data[:size])
        assert isinstance(found, DamagedError)
        assert found.offset == size
        reported = re.fullmatch(
            rf"is truncated at byte {size}: (.+) goes to byte (\d+)", found.problem
        )
        assert reported is not None, found
        assert size < int(reported[2]) <= len(data)


@sampled(3)
@pytest.mark.parametrize("name", SMALL)
def test_everything_put_in_or_taken_out_is_found(name: str, tmp_path: Path) -> None:
    data, path = SMALL[name], tmp_path / "x"
    for at in range(len(data) + 1):
        for more in (b"\0", b"\xff", data[at : at + 1] or b"\n"):
            refusal(path, data[:at] + more + data[at:])
        for size in (1, 2, 24):
            if at + size <= len(data):
                refusal(path, data[:at] + data[at + size :])
    for more in (b"\0", b"\n", data):
        found = refusal(path, data + more)
        assert found.problem == f"{len(more)} bytes follow its end at byte {len(data)}"


def records(data: bytes) -> tuple[bytes, list[bytes], bytes]:
    """Cut a file into its header, its records and its digest."""
    at = len(prologue(TEXT))
    before, found = data[:at], []
    while at < len(data) - 32:
        after = at + 24 + int.from_bytes(data[at + 12 : at + 16], "little")
        found.append(data[at:after])
        at = after
    return before, found, data[at:]


def test_records_swapped_repeated_and_left_out_are_found(tmp_path: Path) -> None:
    """Also where the digest of the file was made to fit."""
    pieces = [(number % 2, bytes([number]) * MAX_BLOCK) for number in range(4)]
    before, found, last = records(save(tmp_path / "y", TWO, *pieces))
    assert (len(found), len(last)) == (5, 32)
    for i in range(5):
        changed = [found[:i] + found[i + 1 :], [*found[:i], found[i], *found[i:]]]
        changed += [
            [*found[:i], found[j], *found[i + 1 : j], found[i], *found[j + 1 :]]
            for j in range(i + 1, 5)
        ]
        for other in changed:
            body = before + b"".join(other)
            refusal(tmp_path / "x", body + last)
            refusal(tmp_path / "x", body + digest(body))
    found_ = refusal(tmp_path / "x", before + b"".join([found[1], found[0], *found[2:]]) + last)
    at = len(before)
    assert found_.problem == f"record 1 is at byte {at}, where record 0 should be"


def test_a_block_of_another_file_is_found(tmp_path: Path) -> None:
    """It is right in itself, and stands where it was."""
    mine = save(tmp_path / "a", TWO, (0, b"mine"), (1, b"x"))
    other = save(tmp_path / "b", TWO, (0, b"your"), (1, b"x"))
    before, found, last = records(mine)
    found[0] = records(other)[1][0]
    body = before + b"".join(found)
    for data in (body + last, body + digest(body)):
        assert refusal(tmp_path / "x", data).problem == (
            "the stream of device 0 is not the one that was saved"
        )


ROWS = [block(b"abc"), block(b"de", device=1), end(total(b"abc"), total(b"de"))]
ZLIB = b'{"codec":"zlib","devices":[{"name":"a"},{"name":"b"}]}'
PACKED = zlib.compress(bytes(999))


def test_a_message_names_the_block(tmp_path: Path) -> None:
    rows = [block(b"abc"), block(b"d", device=1), block(b"e", device=1, crc=1), ROWS[2]]
    found = refusal(tmp_path / "x", assembled(TEXT, rows))
    at = len(prologue(TEXT)) + 24 + 3 + 24 + 1
    assert str(found) == f"{tmp_path / 'x'}: block 1 of device 1, at byte {at}, is damaged"
    assert found.offset == at


@pytest.mark.parametrize(
    ("text", "rows", "reported"),
    [
        (TEXT, [Row(kind=0)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [Row(kind=3)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(b"")], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(b"abc", device=2)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(b"abc", raw=4)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(b"abc", raw=2)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(PACKED, raw=999, codec=1)], "record 0, at byte {at}, is none there can be"),
        (ZLIB, [block(PACKED, raw=999, codec=2)], "record 0, at byte {at}, is none there can be"),
        (ZLIB, [block(PACKED, codec=1)], "record 0, at byte {at}, is none there can be"),
        (ZLIB, [block(b"", raw=9, codec=1)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(bytes(MAX_BLOCK + 1))], "record 0, at byte {at}, is none there can be"),
        (TEXT, [block(b"", stored=0xFFFFFFFF, raw=0xFFFFFFFF)], "record 0, at byte {at}, is none"),
        (ZLIB, [block(PACKED, raw=MAX_BLOCK + 1, codec=1)], "record 0, at byte {at}, is none"),
        (TEXT, [block(b"abc", number=1)], "record 1 is at byte {at}, where record 0 should be"),
        (TEXT, [end(total())], "record 0, at byte {at}, is none there can be"),
        (TEXT, [end(total(), total(), raw=1)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [end(total(), total(), codec=1)], "record 0, at byte {at}, is none there can be"),
        (TEXT, [], "the header of record 0, at byte {at}, is damaged"),
        (TEXT, ROWS[:2], "the header of record 2, at byte"),
        (TEXT, [end(total(b"a"), total())], "the stream of device 0 is not the one"),
        (TEXT, [end(total(), Total(0, 1, digest(b"")))], "the stream of device 1 is not the one"),
        (
            ZLIB,
            [block(PACKED, raw=998, codec=1)],
            "block 0 of device 0, at byte {at}, does not decompress: they make more than 998 bytes",
        ),
        (
            ZLIB,
            [block(PACKED + b"x", raw=999, codec=1)],
            "block 0 of device 0, at byte {at}, does not decompress: 1 bytes follow their end",
        ),
    ],
)
def test_a_hostile_record_is_refused(
    text: bytes, rows: list[Row], reported: str, tmp_path: Path
) -> None:
    """All checksums are right here."""
    data = assembled(text, rows, tail=bytes(64))
    found = refusal(tmp_path / "x", data)
    assert isinstance(found, DamagedError)
    assert found.problem.startswith(reported.format(at=len(prologue(text))))


@pytest.mark.parametrize(
    ("codec", "bomb"),
    [
        ("zlib", zlib.compress(bytes(1 << 28))),
        ("zstd", zstandard.compress(bytes(1 << 28))),
        ("none", bytes(MAX_BLOCK)),
    ],
)
def test_a_bomb_takes_no_memory(codec: str, bomb: bytes, tmp_path: Path) -> None:
    number = ["none", "zlib", "zstd"].index(codec)
    text = f'{{"codec":"{codec}","devices":[{{"name":"a"}}]}}'.encode()
    raw = MAX_BLOCK if codec != "none" else 0xFFFFFFFF
    rows = [block(bomb, raw=raw, codec=number, stored=0xFFFFFFFF if codec == "none" else len(bomb))]
    (tmp_path / "x").write_bytes(assembled(text, rows))
    os.truncate(tmp_path / "x", 1 << 33)  # room for all that it states
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError), ContainerReader(tmp_path / "x") as reader:
            reader.check()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BLOCK


def named(text: str) -> bytes:
    return text.replace("DEVICES", '"devices":[{"name":"a"}]').encode()


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        (b"\xff", "header: 'utf-8' codec can't decode byte 0xff in position 0"),
        (b"{", "header: is not valid JSON: Expecting property name"),
        (b"[" * MAX_HEADER, "header: is nested too deeply"),
        (b"1" * 5000, "header: has a number that is too long to read"),
        (b"[]", "header: is not an object"),
        (b"{}", "codec: is not text"),
        (named('{"codec":1,DEVICES}'), "codec: is not text"),
        (named('{"codec":"lz4",DEVICES}'), "codec: 'lz4' is none that is known: none, zlib, zstd"),
        (named('{"codec":"none"}'), "devices: is not a list"),
        (named('{"codec":"none","devices":{}}'), "devices: is not a list"),
        (named('{"codec":"none","devices":[]}'), "devices: are 0; from 1 to 256 may be"),
        (
            b'{"codec":"none","devices":[' + b"0," * 256 + b"0]}",
            "devices: are 257; from 1 to 256 may be",
        ),
        (named('{"codec":"none","devices":[0]}'), "devices[0]: is not an object"),
        (named('{"codec":"none","devices":[{}]}'), "devices[0].name: is not text"),
        (
            named('{"codec":"none","devices":[{"name":"","identity":1}]}'),
            "devices[0].identity: is not an object",
        ),
        (
            named('{"codec":"none","devices":[{"name":"","more":[]}]}'),
            "devices[0].more: is not an object",
        ),
        (named('{"codec":"none",DEVICES,"created":1}'), "created: is not text"),
        (named('{"codec":"none",DEVICES,"created":null}'), "created: is not text"),
        (
            named('{"codec":"none",DEVICES,"x":' + "[" * 100 + "]" * 100 + "}"),
            "header: is nested too deeply",
        ),
        (named('{"codec":"none",DEVICES,"more":null}'), "more: is not an object"),
        (
            named('{"codec":"none",DEVICES,"codec":"zlib"}'),
            "header: the key 'codec' occurs twice",
        ),
        (named('{"codec":"none",DEVICES,"x":NaN}'), "header: NaN is not a number that JSON has"),
        (named('{"codec":"none",DEVICES,"x":1e999}'), "header: 1e999 is too large a number"),
        (named('{"codec":"none",DEVICES,"x":"\\ud800"}'), "header: 'utf-8' codec can't encode"),
    ],
)
def test_a_hostile_header_is_refused(text: bytes, reported: str, tmp_path: Path) -> None:
    found = refusal(tmp_path / "x", assembled(text, []))
    assert found.problem.startswith(f"its header, at byte 24, cannot be used: {reported}")


def test_a_header_of_the_largest_size_is_read_and_no_larger(tmp_path: Path) -> None:
    room = MAX_HEADER - len(Header(TWO.devices, more={"x": ""}).to_json())
    header = Header(TWO.devices, more={"x": "y" * room})
    save(tmp_path / "x", header)
    with ContainerReader(tmp_path / "x") as reader:
        assert reader.header == header
    with pytest.raises(ValueError, match=r"header: has 1048577 bytes; 1048576 is the most"):
        Header(TWO.devices, more={"x": "y" * (room + 1)}).to_json()
    for length in (0, MAX_HEADER + 1, 0xFFFFFFFF):
        found = refusal(tmp_path / "x", prologue(TEXT, length=length))
        assert found.problem == "its first 24 bytes are damaged"


def test_a_header_as_deep_as_may_be_is_read_wherever(tmp_path: Path) -> None:
    """How deep that is does not depend on how much of the stack is taken."""
    deep: list[object] = []
    for _ in range(97):
        deep = [deep]
    header = Header(TWO.devices, more={"x": deep})
    save(tmp_path / "x", header)

    def below(levels: int) -> Header:
        if levels:
            return below(levels - 1)
        with ContainerReader(tmp_path / "x") as reader:
            return reader.header

    assert below(500) == header
    with pytest.raises(ValueError, match=r"^header: is nested too deeply$"):
        Header(TWO.devices, more={"x": [deep]}).to_json()


def test_a_header_that_would_not_be_read_is_not_written() -> None:
    deep: list[object] = []
    for _ in range(100000):
        deep = [deep]
    for header in (
        Header(()),
        Header((DeviceHeader("a"),) * 257),
        Header(TWO.devices, codec="lz4"),
        Header(TWO.devices, more={"x": float("nan")}),
        Header(TWO.devices, more={"x": "\ud800"}),
        Header(TWO.devices, more={"x": deep}),
        Header((DeviceHeader("a", more={"x": float("inf")}),)),
    ):
        with pytest.raises(ValueError, match=r"^(header|devices|codec): "):
            header.to_json()
    with pytest.raises(TypeError):
        Header(TWO.devices, more={"x": b""}).to_json()


def test_another_version_and_another_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    found = refusal(path, prologue(TEXT, version=2))
    assert found.problem == "was written by a newer version 2, this reads 1"
    assert found.offset == 8
    assert not isinstance(found, DamagedError)
    assert refusal(path, prologue(TEXT, version=0)).problem == "its first 24 bytes are damaged"
    found = refusal(path, b"VFIOMIG\x01 and so on")
    assert found.problem == r"is not a saved migration: it begins with b'VFIOMIG\x01'"
    assert not isinstance(found, DamagedError)


def test_a_file_that_changes_after_the_check(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save(path, TWO, (0, b"a" * MAX_BLOCK), (0, b"b"), (1, b"c"))
    first = path.read_bytes()
    other = save(tmp_path / "y", TWO, (0, b"a" * MAX_BLOCK), (0, b"d"), (1, b"c"))
    with ContainerReader(path) as reader:
        reader.check()
        path.write_bytes(other)  # in place; a new file would not be seen at all
        found: list[int] = []
        with pytest.raises(
            DamagedError, match="the stream of device 0 was changed since the check"
        ):
            found.extend(len(part) for part in reader.blocks(0))
        assert found == [MAX_BLOCK, 1]
        path.write_bytes(first[:-138])
        with pytest.raises(
            DamagedError, match=rf"is truncated at byte {len(first) - 138}: record 3 goes"
        ):
            list(reader.blocks(1))
        path.write_bytes(first)
        assert list(reader.blocks(1)) == [b"c"]
        changed = bytearray(first)
        changed[-300] ^= 1
        path.write_bytes(changed)
        with pytest.raises(DamagedError):
            list(reader.blocks(0))


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reported in (
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (tmp_path / "none" / "x", "cannot be read: No such file or directory"),
        (tmp_path, "is a folder; name a file on a disk"),
        (tmp_path / "pipe", "is a pipe; name a file on a disk"),
        (Path("/dev/zero"), "is a device; name a file on a disk"),
        (tmp_path / "a\0b", "cannot be read: embedded null byte"),
    ):
        with pytest.raises(CannotReadError) as caught:
            ContainerReader(path)
        assert caught.value.problem == reported
        assert not isinstance(caught.value, DamagedError)
    save(tmp_path / "x", TWO, (0, b"abc"))
    with ContainerReader(tmp_path / "x") as reader:

        def broken(fd: int, count: int, at: int) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(CannotReadError, match=r"cannot be read at byte 0: Input/output error$"):
            reader.check()


def test_short_reads_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x", TWO, (0, b"abc"))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, 3), at))
    with ContainerReader(tmp_path / "x") as reader:
        assert list(reader.blocks(0)) == [b"abc"]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = opened_at_rest()
    for data in (b"", b"x", EXAMPLES["Two devices"][:-1]):
        refusal(tmp_path / "x", data)
    assert opened() == before


def test_without_the_library_the_header_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    save(tmp_path / "x", Header(TWO.devices, "zstd"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with ContainerReader(tmp_path / "x") as reader:
        assert reader.header.codec == "zstd"
        with pytest.raises(ImportError) as caught:
            reader.blocks(0)
    assert install_command("compress") in str(caught.value)
