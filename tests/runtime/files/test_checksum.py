"""Anybody who computes it, it is the CRC-32 of zlib, and a stream is the same bytes."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_migration.runtime.files import checksum

WITHOUT = "import sys\nsys.modules['zlib_ng'] = None\n"

SUMS = """
import os, zlib
from vfio_migration.runtime.files.checksum import FAST, crc32, crc32_of_memory
data = os.urandom(200_001)
for size in (0, 1, 65_535, 65_536, 65_537, 131_072, len(data)):
    piece = memoryview(data)[:size]
    assert crc32_of_memory(piece) == zlib.crc32(piece), size
    assert crc32(piece, 7) == zlib.crc32(piece, 7), size
print(FAST)
"""

STREAM = """
import hashlib
from vfio_migration.runtime.kit.devices import MemoryDevice
from vfio_migration.runtime.engine.engine import Engine
device = MemoryDevice(size=1 << 21, seed=3)
device.change(400)
Engine(device.spec, device.capabilities, device).set_state("STOP_COPY")
said = hashlib.sha256()
while parts := device.stream_read(70_000):
    for part in parts:
        said.update(part)
print(said.hexdigest())
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_extra_is_used_where_it_is_installed() -> None:
    assert checksum.FAST, "zlib-ng is a development dependency: make setup installs it"


@given(data=st.binary(max_size=300), before=st.binary(max_size=300))
def test_it_is_that_of_zlib(data: bytes, before: bytes) -> None:
    assert checksum.crc32_of_memory(memoryview(data)) == zlib.crc32(data)
    assert checksum.crc32(data, checksum.crc32(before)) == zlib.crc32(before + data)


@pytest.mark.parametrize(("before", "fast"), [("", "True"), (WITHOUT, "False")])
def test_it_is_the_same_with_and_without_the_extra(before: str, fast: str) -> None:
    assert run(before + SUMS) == fast


def test_a_stream_is_the_same_with_and_without_the_extra() -> None:
    assert run(STREAM) == run(WITHOUT + STREAM)
