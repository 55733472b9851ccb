"""Regions: cutting accesses, plain memory in registers, ranges, gates."""

from __future__ import annotations

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.region import Area, CallbackRegion, Memory, MemoryRegion, Region


class Registers:
    """Bytes behind callbacks; notes each access."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.calls: list[tuple[int, int]] = []

    def read(self, offset: int, width: int) -> int:
        self.calls.append((offset, width))
        return int.from_bytes(self.data[offset : offset + width], "little")

    def write(self, offset: int, value: int, width: int) -> None:
        self.calls.append((offset, width))
        self.data[offset : offset + width] = value.to_bytes(width, "little")


@given(st.integers(0, 127), st.integers(0, 127))
def test_accesses_are_cut_into_natural_ones(one: int, other: int) -> None:
    begin, end = sorted((one, other))
    registers = Registers(128)
    memory = Memory(128)
    region = CallbackRegion(
        128, registers.read, registers.write, memory=memory, areas=(Area(32, 40),)
    )
    content = bytes(range(begin, end))
    region.write(begin, content)
    assert region.read(begin, end - begin) == content
    for offset, width in registers.calls:
        assert width in (1, 2, 4, 8)
        assert offset % width == 0
        assert not (offset < 72 and offset + width > 32), "areas are not the device's"
    region.close()


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_a_natural_access_is_one_call(width: int) -> None:
    registers = Registers(64)
    region = CallbackRegion(64, registers.read, registers.write)
    region.read(16, width)
    region.write(8, bytes(width))
    assert registers.calls == [(16, width), (8, width)]


def test_areas_can_be_mapped_and_are_the_same_memory() -> None:
    memory = Memory(3 * mmap.PAGESIZE)
    region = CallbackRegion(
        memory.size, lambda *_: -1, None, memory=memory, areas=(Area(mmap.PAGESIZE, 10),)
    )
    assert (region.mappable, region.writable) == (True, False)
    seen = mmap.mmap(region.fd, 10, offset=region.fd_offset + mmap.PAGESIZE)
    memory.view[mmap.PAGESIZE] = 7
    assert seen[0] == region.read(mmap.PAGESIZE, 1)[0] == 7
    assert region.read(0, 3) == b"\xff\xff\xff"
    seen.close()
    region.close()


def test_ranges_are_checked() -> None:
    region = MemoryRegion(Memory(4096))
    for offset, size in ((0, 4097), (4096, 1), (-1, 1), (1 << 64, 1), (0, -1)):
        with pytest.raises(CommandError) as refusal:
            region.read(offset, size)
        assert refusal.value.occasion == "argument_invalid"
    with pytest.raises(CommandError):
        region.write(4095, b"ab")
    assert region.read(4096, 0) == b""
    with pytest.raises(CommandError):
        Region().read(0, 1)
    region.close()


def test_a_shut_gate_refuses_writes_alone() -> None:
    may = True
    marked: list[tuple[int, int]] = []
    region = MemoryRegion(
        Memory(4096), mappable=False, gate=lambda: may, wrote=lambda *what: marked.append(what)
    )
    region.write(5, b"abc")
    may = False
    with pytest.raises(CommandError) as refusal:
        region.write(5, b"xyz")
    assert refusal.value.errno == "EBUSY"
    assert region.read(5, 3) == b"abc"
    assert (marked, region.mappable) == ([(5, 3)], False)
    region.close()


def test_memory_is_sealed_cleared_and_closed() -> None:
    memory = Memory(1 << 16)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.fd, 1)
    memory.view[:] = b"\1" * memory.size
    held = memory.view[10:20]
    memory.prefault(0, 1 << 30)
    memory.clear()
    assert held == bytes(10)
    memory.close()
    memory.close()
    assert held == bytes(10)


@given(st.lists(st.tuples(st.integers(0, 65536), st.binary(max_size=9000)), max_size=8))
def test_filling_is_writing(pieces: list[tuple[int, bytes]]) -> None:
    """Where nothing was and where something is, in any order, on no boundary."""
    memory, expected = Memory(65536), bytearray(65536)
    for number, (offset, piece) in enumerate(pieces):
        piece = piece[: memory.size - offset]
        memory.fill(offset, memoryview(piece))
        expected[offset : offset + len(piece)] = piece
        if number == 3:
            memory.prefault(offset, 20000)
        if number == 5:
            memory.clear()
            expected = bytearray(65536)
    assert memory.view == expected
    memory.close()


def test_pages_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        written.append(offset)
        return real(fd, data[:5000], offset)  # and in pieces, as the system may

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    memory = Memory(1 << 16)
    what = os.urandom(8192)
    for _ in range(2):
        memory.fill(4096, what)
        assert written == [4096, 9096], "then they are there"
        assert memory.view[4096:12288] == what
    memory.clear()
    memory.fill(4096, what)
    assert written == [4096, 9096] * 2
    assert memory.view[4096:12288] == what
    memory.close()
