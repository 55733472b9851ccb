"""Regions that are mapped: areas, flags, and servers that lie about them."""

from __future__ import annotations

import fcntl
import os

import pytest
from client_support import no_leak

from vfio_migration.runtime.client import MappedRegion, NotMappableError, RegionInfo
from vfio_migration.runtime.protocol.layout import RegionFlags
from vfio_migration.runtime.protocol.messages.regions import MmapArea

READ, WRITE, MMAP = RegionFlags.READ, RegionFlags.WRITE, RegionFlags.MMAP


@pytest.fixture
def file():
    """A file that cannot shrink, with its own offset in each page."""
    fd = os.memfd_create("region", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 0x10000)
    for at in range(0, 0x10000, 0x1000):
        os.pwrite(fd, at.to_bytes(4, "little"), at)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with no_leak():
        yield fd
    os.close(fd)


def info(fd, *, flags=READ | WRITE | MMAP, size=0x8000, offset=0x2000, areas=()) -> RegionInfo:
    return RegionInfo(2, int(flags), size, offset, tuple(MmapArea(*one) for one in areas), fd)


def test_all_of_a_region_or_its_areas(file) -> None:
    with MappedRegion(info(file)) as region:
        assert [(one.offset, one.size) for one in region.areas] == [(0, 0x8000)]
        assert region.read(0x1000, 4) == (0x3000).to_bytes(4, "little")
        region.write(0x7FFC, b"last")
    assert os.pread(file, 4, 0x9FFC) == b"last"
    with MappedRegion(info(file, areas=[(0x4000, 0x1000), (0x1000, 0x800)])) as region:
        assert [(one.offset, one.size) for one in region.areas] == [
            (0x1000, 0x800),
            (0x4000, 0x1000),
        ]
        assert region.read(0x4000, 4) == (0x6000).to_bytes(4, "little")
        for offset, size in ((0, 4), (0x17FE, 4), (0x3FFF, 2), (0x4FFF, 2)):
            assert region.view(offset, size) is None
            with pytest.raises(LookupError):
                region.write(offset, bytes(size))
        view = region.view(0x1000, 4)
    assert bytes(view) == (0x3000).to_bytes(4, "little")
    view.release()


def test_areas_need_not_begin_with_a_page(file) -> None:
    with MappedRegion(info(file, offset=0x1800, areas=[(0x10, 0x20)])) as region:
        region.write(0x10, b"inside")
    assert os.pread(file, 6, 0x1810) == b"inside"


def test_a_region_that_is_read_only(file) -> None:
    with MappedRegion(info(file, flags=READ | MMAP)) as region:
        with pytest.raises(TypeError):
            region.write(0, b"no")
        with pytest.raises(TypeError):
            region.areas[0].view[0] = 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"flags": READ | WRITE}, "cannot be mapped"),
        ({"flags": MMAP}, "cannot be read"),
        ({"flags": WRITE | MMAP}, "cannot be read"),
        ({"size": 0x10000}, "its file ends"),
        ({"size": 0}, "makes no sense"),
        ({"areas": [(0x7000, 0x1001)]}, "makes no sense"),
        ({"areas": [(0, 0x2000), (0x1000, 0x1000)]}, "makes no sense"),
        ({"areas": [(0, 0)]}, "makes no sense"),
        ({"areas": [((1 << 64) - 1, 2)]}, "makes no sense"),
        ({"offset": (1 << 64) - 0x8000}, "no file reaches"),
    ],
)
def test_what_makes_no_sense_is_not_mapped(file, change, why) -> None:
    with pytest.raises(NotMappableError, match=why):
        MappedRegion(info(file, **change))


def test_without_a_descriptor_there_is_nothing_to_map() -> None:
    with pytest.raises(NotMappableError):
        MappedRegion(info(None))


def test_a_file_that_can_shrink_is_mapped_only_if_asked_for() -> None:
    with no_leak():
        fd = os.memfd_create("shrinks")
        os.ftruncate(fd, 0x10000)
        with pytest.raises(NotMappableError, match="its file can get shorter"):
            MappedRegion(info(fd))
        with MappedRegion(info(fd), trusting=True) as region:
            assert region.read(0, 4) == bytes(4)
        os.close(fd)


def test_what_the_system_does_not_map(file) -> None:
    only = os.open(f"/proc/self/fd/{file}", os.O_RDONLY)
    with pytest.raises(NotMappableError, match="Permission denied"):
        MappedRegion(info(only))
    with MappedRegion(info(only, flags=READ | MMAP)) as region:
        assert len(region.areas) == 1
    os.close(only)
    left, right = os.pipe()
    with pytest.raises(NotMappableError):
        MappedRegion(info(left))
    os.close(left)
    os.close(right)


def test_what_is_no_file_is_mapped_only_if_it_is_trusted() -> None:
    """Of /dev/zero any offset can be mapped, and touching it there kills."""
    fd = os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC)
    with pytest.raises(NotMappableError, match="what is behind it is not a file"):
        MappedRegion(info(fd))
    os.close(fd)
