"""What goes in comes out: any streams, cut up in any way, in any order, with any codec."""

from __future__ import annotations

import random
import tempfile
import threading
import tracemalloc
from pathlib import Path

import pytest
from container_support import TWO, restored, save, total
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.samples import sampled
from vfio_migration.runtime.files.compression import NAMES
from vfio_migration.runtime.files.container import (
    MAX_BLOCK,
    ContainerReader,
    ContainerWriter,
    DeviceHeader,
    Header,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
DEVICES = st.lists(st.builds(DeviceHeader, TEXT, OBJECT, OBJECT), min_size=1, max_size=4)
HEADERS = st.builds(Header, DEVICES.map(tuple), st.sampled_from(NAMES), st.none() | TEXT, OBJECT)


@given(header=HEADERS)
def test_a_header_comes_back(header: Header) -> None:
    text = header.to_json()
    assert Header.from_json(text) == header
    assert Header.from_json(text).to_json() == text


# Pieces around the size of a block, and a few that do not compress.
SIZES = st.sampled_from([0, 1, 2, 1000, MAX_BLOCK - 1, MAX_BLOCK, MAX_BLOCK + 1, 2 * MAX_BLOCK])
PIECES = st.lists(st.tuples(st.integers(0, 1), SIZES, st.booleans()), max_size=6)
NOISE = random.Random(1).randbytes(2 * MAX_BLOCK)


@sampled(3)
@pytest.mark.parametrize("codec", NAMES)
@examples(25)
@given(pieces=PIECES)
def test_streams_come_back(codec: str, pieces: list[tuple[int, int, bool]]) -> None:
    streams = [b"", b""]
    header = Header(TWO.devices, codec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        with ContainerWriter(path, header) as writer:
            for number, (device, size, noise) in enumerate(pieces):
                piece = NOISE[:size] if noise else bytes([number]) * size
                streams[device] += piece
                writer.write(device, memoryview(bytearray(piece)))
        assert writer.written == path.stat().st_size
        assert restored(path) == streams
        with ContainerReader(path) as reader:
            totals = reader.check()
            blocks = [list(reader.blocks(device)) for device in (0, 1)]
    assert totals == writer.totals()
    for stream, found, (size, count, _) in zip(streams, blocks, totals, strict=True):
        assert (size, count) == (len(stream), len(found))
        assert all(len(block) == MAX_BLOCK for block in found[:-1])


def test_small_writes_are_gathered(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "x", TWO) as writer:
        for _ in range(3 * 1024 + 1):
            writer.write(0, bytes(1024))
            writer.write(1, b"x")
    assert [total.blocks for total in writer.totals()] == [4, 1]
    assert restored(tmp_path / "x") == [bytes((3 * 1024 + 1) * 1024), b"x" * (3 * 1024 + 1)]


def test_how_a_stream_is_written_does_not_matter(tmp_path: Path) -> None:
    stream = random.Random(2).randbytes(MAX_BLOCK + 5)
    whole = save(tmp_path / "whole", TWO, (0, stream))
    parts = [(0, stream[at : at + 777]) for at in range(0, len(stream), 777)]
    assert save(tmp_path / "parts", TWO, *parts) == whole


def test_other_kinds_of_buffers(tmp_path: Path) -> None:
    import array

    save(tmp_path / "x", TWO, (0, array.array("H", [1, 2])), (0, b""), (0, bytearray(b"z")))  # type: ignore[arg-type]
    assert restored(tmp_path / "x")[0] == array.array("H", [1, 2]).tobytes() + b"z"


def test_a_block_that_gains_nothing_is_stored_as_it_is(tmp_path: Path) -> None:
    header = Header(TWO.devices, "zlib")
    size = len(save(tmp_path / "x", header, (0, NOISE), (1, bytes(MAX_BLOCK))))
    assert len(NOISE) < size < len(NOISE) + 8192
    assert restored(tmp_path / "x") == [NOISE, bytes(MAX_BLOCK)]


def test_blocks_are_checked_first(tmp_path: Path) -> None:
    """Who forgets to check is not handed anything unchecked."""
    save(tmp_path / "x", TWO, (0, b"abc"))
    with ContainerReader(tmp_path / "x") as reader:
        assert list(reader.blocks(0)) == [b"abc"]
        assert reader.check()[0] == total(b"abc")


def test_several_streams_are_read_at_the_same_time(tmp_path: Path) -> None:
    save(tmp_path / "x", Header(TWO.devices, "zstd"), (0, bytes(3 * MAX_BLOCK)), (1, NOISE))
    with ContainerReader(tmp_path / "x") as reader:
        first, second = reader.blocks(0), reader.blocks(1)
        assert next(second) == NOISE[:MAX_BLOCK]
        assert next(first) == bytes(MAX_BLOCK)
        assert list(second) == [NOISE[MAX_BLOCK:]]
        assert len(list(first)) == 2


@pytest.mark.parametrize("device", [-1, 2])
def test_a_device_that_is_not_there(device: int, tmp_path: Path) -> None:
    message = f"device {device}: there are 2, counted from 0"
    with (
        pytest.raises(ValueError, match=message),
        ContainerWriter(tmp_path / "x", TWO) as writer,
    ):
        writer.write(device, b"")
    save(tmp_path / "x", TWO)
    with ContainerReader(tmp_path / "x") as reader, pytest.raises(ValueError, match=message):
        reader.blocks(device)


def test_threads_write_at_the_same_time(tmp_path: Path) -> None:
    header = Header(tuple(DeviceHeader(str(number)) for number in range(4)), "zstd")
    piece = NOISE[: MAX_BLOCK // 8 + 1]
    with ContainerWriter(tmp_path / "x", header) as writer:

        def work(device: int) -> None:
            for _ in range(40):
                writer.write(device, piece)

        threads = [threading.Thread(target=work, args=(device,)) for device in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert restored(tmp_path / "x") == [piece * 40] * 4


@sampled(3)
@pytest.mark.parametrize("codec", NAMES)
def test_memory_is_bounded(codec: str, tmp_path: Path) -> None:
    """64 MiB go through; what is held is a few blocks."""
    header = Header(TWO.devices, codec)
    block = NOISE[: MAX_BLOCK // 2] + bytes(MAX_BLOCK // 2)
    tracemalloc.start()
    try:
        with ContainerWriter(tmp_path / "x", header) as writer:
            for _ in range(64):
                writer.write(0, block)
        with ContainerReader(tmp_path / "x") as reader:
            assert sum(map(len, reader.blocks(0))) == 64 * MAX_BLOCK
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * MAX_BLOCK
