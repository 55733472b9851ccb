"""Regions of a device, mapped: what the server lets a client reach without a message.

    with client.region_info(2) as info, MappedRegion(info) as region:
        region.areas[0].view[:4]

A server reports of each region whether it can be mapped, and if only parts of it can, which. It can
make the file behind it shorter at any time, unless that is sealed; a process that touches memory
that is not there any more is killed by SIGBUS. So plain files that can shrink, and what is no plain
file, are mapped only if asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from dataclasses import dataclass, field
from typing import Final

from vfio_migration.runtime.client.calls import RegionInfo
from vfio_migration.runtime.protocol.layout import Data, RegionFlags
from vfio_migration.runtime.protocol.messages.regions import MmapArea
from vfio_migration.runtime.transport.closing import Closing

_MAX_OFFSET: Final = (1 << 63) - 1


class NotMappableError(ValueError):
    """The region, or what the server reports of it, cannot be mapped. Nothing is."""


@dataclass(frozen=True, slots=True)
class MappedArea:
    """A part of a region.

    Attributes:
        offset: Where in the region it begins.
        size: How long it is.
        view: Its bytes; read-only if the region is.
    """

    offset: int
    size: int
    view: memoryview = field(repr=False, compare=False)


class MappedRegion(Closing):
    """What of a region can be mapped, mapped.

    Args:
        info: What the server reports of the region. Its descriptor stays the caller's, and is not
            needed any more.
        trusting: Map a file too that the server can make shorter, and what is no file.

    Attributes:
        areas: The parts, by offset.

    Raises:
        NotMappableError: There is nothing to map, or it makes no sense.
    """

    def __init__(self, info: RegionInfo, *, trusting: bool = False) -> None:
        self.areas: tuple[MappedArea, ...] = ()
        self._maps: list[mmap.mmap] = []
        if info.fd is None or not info.flags & RegionFlags.MMAP:
            raise NotMappableError(f"region {info.index} cannot be mapped")
        protection = 0
        if info.flags & RegionFlags.READ:
            protection |= mmap.PROT_READ
        if info.flags & RegionFlags.WRITE:
            protection |= mmap.PROT_WRITE
        if not protection & mmap.PROT_READ:
            raise NotMappableError(
                f"region {info.index} cannot be read, so a map of it is of no use"
            )
        wanted = _checked(info, trusting)
        try:
            self.areas = tuple(self._map(info, area, protection) for area in wanted)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | ValueError):
                raise NotMappableError(f"region {info.index} cannot be mapped: {error}") from error
            raise

    def _map(self, info: RegionInfo, area: MmapArea, protection: int) -> MappedArea:
        """Map an area, from the page in which it begins."""
        assert info.fd is not None
        at = info.offset + area.offset
        begin = at - at % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(info.fd, at - begin + area.size, prot=protection, offset=begin)
        self._maps.append(mapped)
        view = memoryview(mapped)[at - begin :]
        return MappedArea(area.offset, area.size, view)

    def view(self, offset: int, size: int) -> memoryview | None:
        """Return `size` bytes at an offset of the region, or None if they are not mapped."""
        for area in self.areas:
            inside = offset - area.offset
            if inside >= 0 and inside + size <= area.size:
                return area.view[inside : inside + size]
        return None

    def read(self, offset: int, size: int) -> bytes:
        """Read some of it.

        Raises:
            LookupError: It is not mapped.
        """
        return bytes(self._at(offset, size))

    def write(self, offset: int, data: Data) -> None:
        """Write some of it. Raises as `read`, and `TypeError` if the region is read-only."""
        self._at(offset, len(data))[:] = data

    def _at(self, offset: int, size: int) -> memoryview:
        view = self.view(offset, size)
        if view is None:
            raise LookupError(f"{offset:#x}+{size:#x} is not mapped")
        return view

    def close(self) -> None:
        """Unmap it. Views that others still hold keep what they show."""
        for area in self.areas:
            area.view.release()
        self.areas = ()
        maps, self._maps = self._maps, []
        for mapped in maps:
            with contextlib.suppress(BufferError):
                mapped.close()


def _checked(info: RegionInfo, trusting: bool) -> list[MmapArea]:
    """Return the areas by offset, all of which are there."""
    assert info.fd is not None
    name = f"region {info.index}"
    areas = sorted(info.areas, key=lambda one: one.offset) or [MmapArea(0, info.size)]
    end = 0
    for area in areas:
        if not area.size or area.offset < end or area.offset + area.size > info.size:
            raise NotMappableError(f"{name}: {area} of {info.size:#x} bytes makes no sense")
        end = area.offset + area.size
    if info.offset + end > _MAX_OFFSET:
        raise NotMappableError(f"{name}: no file reaches to {info.offset + end:#x}")
    about = os.fstat(info.fd)
    if stat.S_ISREG(about.st_mode):
        if info.offset + end > about.st_size:
            raise NotMappableError(f"{name}: its file ends at {about.st_size:#x}")
        if not (trusting or _cannot_shrink(info.fd)):
            raise NotMappableError(f"{name}: its file can get shorter")
    elif not trusting:
        # A character device can be mapped where there is nothing behind it to be touched.
        raise NotMappableError(
            f"{name}: what is behind it is not a file, and need not reach that far"
        )
    return areas


def _cannot_shrink(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    return False
