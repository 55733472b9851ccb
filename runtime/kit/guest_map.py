"""One range of guest memory that a client has mapped, and whether its descriptor can be trusted.

A range that came with a descriptor is mapped. A memfd that cannot shrink is then accessed as any
memory. Any other file can lose pages while it is mapped (it is truncated, a hole is punched, no
huge page is left), and an access would end this process with SIGBUS. So it is the system that
copies from and to such a map (`GuardedCopy`): what is not there is an error of that call. And no
access through a map makes a file longer, whatever its client does to it or to its descriptor.

What it is, is asked of `descriptor_kinds`, which waits for nobody. A device is refused unless the
operator permits it: a map of one cannot be guarded, and that of /dev/zero is memory of this server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from dataclasses import dataclass, replace
from typing import Final

from vfio_migration.runtime.files import descriptor_kinds
from vfio_migration.runtime.files.descriptor_kinds import DEVICE, FILE, MEMORY
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.region import PEER_NAME

_TMPFS: Final = 0x01021994
"""What `statfs` states of memory in pages of the usual size, a memfd of huge pages not included."""
_CHUNK: Final = 256 << 10
"""How many bytes the system copies at a time, where it has to."""


class GuardedCopy:
    """Copies from and to memory that may not be there, which is an `OSError` (EFAULT).

    Each copy goes through a file of our own: reading it into the memory and writing it from there
    are calls that report what they cannot reach.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("vfio-migration-copy", os.MFD_CLOEXEC)

    def close(self) -> None:
        """Give the file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()

    def read(self, memory: memoryview) -> bytes:
        """Return what is in it."""
        parts = []
        while len(memory):
            count = os.pwrite(self._file, memory[:_CHUNK], 0)
            parts.append(os.pread(self._file, count, 0))
            memory = memory[count:]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, memory: memoryview, data: Part) -> None:
        """Write `data`, which is as long as it."""
        rest = memoryview(data)
        while len(rest):
            count = os.pwrite(self._file, rest[:_CHUNK], 0)
            count = os.preadv(self._file, [memory[:count]], 0)
            if not count:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            rest, memory = rest[count:], memory[count:]


@dataclass(frozen=True, slots=True)
class GuestMap:
    """One range that a client has mapped.

    Attributes:
        iova: Where it begins.
        size: How long it is.
        readable: The device may read it.
        writable: The device may write it.
        peer: It shows another device.
        view: Its bytes, if it came with a descriptor.
        guarded: They may be gone at any time, and are accessed by `GuardedCopy` only.
    """

    iova: int
    size: int
    readable: bool
    writable: bool
    peer: bool
    view: memoryview | None = None
    guarded: bool = False

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.iova + self.size

    def close(self) -> None:
        """Give the memory back."""
        if self.view is not None:
            mapped = self.view.obj
            self.view.release()
            if isinstance(mapped, mmap.mmap):
                mapped.close()


def as_peer(row: GuestMap) -> GuestMap:
    """Return the map, known to show another device."""
    return replace(row, peer=True)


def with_file(
    row: GuestMap, fd: int, offset: int, *, file_io: bool = False, devices: bool = False
) -> GuestMap:
    """Return the map with the memory behind a descriptor, of which it holds a duplicate.

    Args:
        row: The map.
        fd: The descriptor.
        offset: Where in it the range begins.
        file_io: No access is to be direct, which is not possible for a device (EOPNOTSUPP).
        devices: The memory of a real device may be mapped.

    Raises:
        CommandError: The descriptor cannot be used for it.
    """
    try:
        kind = descriptor_kinds.kind_of(fd)
        if kind not in (MEMORY, FILE) and not (kind == DEVICE and devices):
            raise CommandError(_refusal(kind), occasion="argument_invalid")
        if kind == DEVICE:
            if file_io:
                message = "a device can be mapped, and not read and written"
                raise CommandError(message, errno="EOPNOTSUPP")
            return replace(row, peer=True, view=_mapped(row, fd, offset))
        size, end = os.fstat(fd).st_size, offset + row.size
        if end > size:
            message = f"the file is {size:#x} bytes long, {end:#x} are mapped"
            raise CommandError(message, occasion="argument_invalid")
        guarded = file_io or kind == FILE or not _stays(fd)
        peer = row.peer or _is_region(fd)
        return replace(row, peer=peer, view=_mapped(row, fd, offset), guarded=guarded)
    except (OSError, ValueError, OverflowError) as error:
        number = getattr(error, "errno", None) or "EINVAL"
        raise CommandError(f"cannot map: {error}", errno=number) from error


def _refusal(kind: str) -> str:
    if kind == DEVICE:
        return "this is memory of a device, which is mapped only if the operator permits it"
    return "this descriptor is not memory that can be mapped safely"


def _mapped(row: GuestMap, fd: int, offset: int) -> memoryview:
    """Map the range, from the page in which it begins."""
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if row.writable else 0)
    mapped = mmap.mmap(fd, offset - begin + row.size, prot=protection, offset=begin)
    return memoryview(mapped)[offset - begin :]


def _stays(fd: int) -> bool:
    """Return whether all that is mapped of it stays there, or is made anew: it is a sealed memfd.

    Of huge pages there may be none to make a page anew, so they do not count.
    """
    return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK) and _type(fd) == _TMPFS


def _type(fd: int) -> int:
    """Return the type of the file system, which `os.fstatvfs` does not return."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = (ctypes.c_long * 64)()
    if libc.fstatfs(fd, found):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found[0]


def _is_region(fd: int) -> bool:
    with contextlib.suppress(OSError):
        link = f"/proc/self/fd/{fd}"
        return os.readlink(link).startswith(  # noqa: PTH115 - what this link says is no path
            f"/memfd:{PEER_NAME}"
        )
    return False
