"""The codecs: blocks come back as they were, and nothing else comes back at all."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from support.samples import sampled
from vfio_migration.model.extras import install_command
from vfio_migration.runtime.files.compression import NAMES, BadDataError, codec

COMPRESSING = [name for name in NAMES if name != "none"]
BLOCK = b"migration " * 100 + random.Random(1).randbytes(100)


@pytest.mark.parametrize("name", NAMES)
@given(block=st.binary(min_size=1) | st.integers(1, 1 << 16).map(bytes))
def test_a_block_comes_back(name: str, block: bytes) -> None:
    made = codec(name)
    assert made.name == name
    data = made.compress(memoryview(block))
    assert bytes(made.decompress(memoryview(bytes(data)), len(block))) == block
    assert bytes(codec(name).decompress(bytes(data), len(block))) == block


@pytest.mark.parametrize("name", COMPRESSING)
def test_it_compresses(name: str) -> None:
    assert len(codec(name).compress(bytes(1 << 20))) < 1 << 13


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", [1, len(BLOCK) - 1, len(BLOCK) + 1, 1 << 40])
def test_a_block_of_another_size_is_refused(name: str, other: int) -> None:
    made = codec(name)
    with pytest.raises(BadDataError):
        made.decompress(made.compress(BLOCK), other)


@pytest.mark.parametrize("name", COMPRESSING)
def test_cut_and_followed_and_changed_data_are_refused(name: str) -> None:
    made = codec(name)
    data = bytes(made.compress(BLOCK))
    for end in range(len(data)):
        with pytest.raises(BadDataError):
            made.decompress(data[:end], len(BLOCK))
    for tail in (b"\0", data):
        with pytest.raises(BadDataError):
            made.decompress(data + tail, len(BLOCK))
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        # A header may be changed in what does not matter; the block never is.
        with contextlib.suppress(BadDataError):
            assert made.decompress(changed, len(BLOCK)) == BLOCK
    assert made.decompress(data, len(BLOCK)) == BLOCK


SKIPPED = struct.pack("<II", 0x184D2A50, 4) + b"abcd"


@pytest.mark.parametrize(
    ("name", "data", "size"),
    [
        ("zlib", b"", 1),
        ("zlib", zlib.compress(b""), 1),
        ("zlib", zlib.compress(BLOCK, wbits=31), len(BLOCK)),  # gzip
        ("zstd", b"", 1),
        ("zstd", SKIPPED, 4),
        ("zstd", SKIPPED + zstandard.compress(b"abcd"), 4),
        ("zstd", zstandard.compress(b"ab") + zstandard.compress(b"cd"), 4),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(b"abcd"), 4),
    ],
)
def test_what_is_not_one_block_is_refused(name: str, data: bytes, size: int) -> None:
    with pytest.raises(BadDataError):
        codec(name).decompress(data, size)


BOMB = """
import resource, sys, zlib
import zstandard
from vfio_migration.runtime.files.compression import BadDataError, codec
name, honest, lie = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if name == "zlib":
    packer = zlib.compressobj()
else:
    packer = zstandard.ZstdCompressor().compressobj(size=honest if honest == lie else -1)
data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(honest >> 20)) + packer.flush()
if name == "zstd" and honest != lie:  # a frame that states it is small, and is not
    whole = bytearray(zstandard.ZstdCompressor().compress(bytes(honest)))
    said = honest.to_bytes(4, "little")
    at = whole.index(said, 4)
    whole[at : at + 4] = lie.to_bytes(4, "little")
    data = bytes(whole)
    del whole
made = codec(name)
made.decompress(made.compress(b"x"), 1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
try:
    made.decompress(data, 1 << 20)
except BadDataError as refused:
    print(refused)
"""


@sampled(3)
@pytest.mark.parametrize(
    ("name", "honest", "reported", "answer"),
    [
        ("zlib", 1 << 28, 1 << 28, "they make more than 1048576 bytes"),
        ("zstd", 1 << 28, 1 << 28, "they make 268435456 bytes, not 1048576"),
        ("zstd", 1 << 28, 1 << 20, "decompression error: Destination buffer is too small"),
    ],
)
def test_a_bomb_does_not_go_off(name: str, honest: int, reported: int, answer: str) -> None:
    """256 MiB in a few KiB, where 64 MiB of address space are left: the refusal needs none."""
    arguments = (name, str(honest), str(reported))
    result = subprocess.run(
        [sys.executable, "-c", BOMB, *arguments], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.stdout.strip() == answer


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="'lz4': is not a codec; there are none, zlib, zstd"):
        codec("lz4")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert codec("zlib").name == "zlib"
    with pytest.raises(ImportError) as caught:
        codec("zstd")
    assert str(caught.value) == (f"zstandard is not installed; run: {install_command('compress')}")
