"""One range of guest memory that a client has mapped, and whether its descriptor can be trusted.

Sealed memory (a memfd that cannot shrink) is mapped. Any other file is read and written through its
descriptor: were it mapped, a client that truncates it would kill this process at the next access.
What cannot be read and written so is mapped all the same: the BAR of a real device, and files on
hugetlbfs, where the danger remains if they are not sealed.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from dataclasses import dataclass

from vfio_migration.runtime.region import PEER_NAME
from vfio_migration.runtime.served import ServedError


@dataclass(frozen=True, slots=True)
class GuestMap:
    """One range that a client has mapped.

    Attributes:
        iova: Where it begins.
        size: How long it is.
        readable: The device may read it.
        writable: The device may write it.
        peer: It shows another device.
        fd: The descriptor, or -1.
        offset: Where in the descriptor it begins.
        view: Its bytes, if it could be mapped safely.
    """

    iova: int
    size: int
    readable: bool
    writable: bool
    peer: bool
    fd: int = -1
    offset: int = 0
    view: memoryview | None = None

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.iova + self.size

    def close(self) -> None:
        """Give memory and descriptor back."""
        if self.view is not None:
            mapped = self.view.obj
            self.view.release()
            if isinstance(mapped, mmap.mmap):
                mapped.close()
        if self.fd >= 0:
            os.close(self.fd)


def as_peer(row: GuestMap) -> GuestMap:
    """Return the map, known to show another device."""
    values = (row.iova, row.size, row.readable, row.writable, True, row.fd, row.offset, row.view)
    return GuestMap(*values)


def with_file(row: GuestMap, fd: int, offset: int, *, file_io: bool = False) -> GuestMap:
    """Return the map with a descriptor of its own, mapped if that is safe.

    With `file_io` it is never mapped, which is not possible for every descriptor (EOPNOTSUPP).

    Raises:
        ServedError: The descriptor cannot be used for it.
    """
    kept = -1
    try:
        kept = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        plain = _check_file(kept, offset + row.size)
        peer = row.peer or not plain or _is_region(kept)
        if _read_and_written(kept, plain, file_io):
            return GuestMap(row.iova, row.size, row.readable, row.writable, peer, kept, offset)
        # mmap holds what it needs of the descriptor.
        view = _mapped(row, kept, offset)
        os.close(kept)
        return GuestMap(row.iova, row.size, row.readable, row.writable, peer, view=view)
    except BaseException as error:
        if kept >= 0:
            os.close(kept)
        if isinstance(error, OSError | ValueError):
            number = getattr(error, "errno", None) or "EINVAL"
            raise ServedError(f"cannot map: {error}", errno=number) from error
        raise


def _read_and_written(fd: int, plain: bool, wanted: bool) -> bool:
    """Say whether it is accessed as a file; raise `ServedError` if that is wanted and cannot be."""
    possible = plain and not _pages_huge(fd)
    if wanted and not possible:
        message = "this descriptor can be mapped, and not read and written"
        raise ServedError(message, errno="EOPNOTSUPP")
    return possible and (wanted or not _cannot_shrink(fd))


def _check_file(fd: int, end: int) -> bool:
    """Return whether this is a file of plain memory; raise `ServedError` if it cannot be used."""
    about = os.fstat(fd)
    plain = stat.S_ISREG(about.st_mode)
    if plain and end > about.st_size:
        message = f"the file is {about.st_size:#x} bytes long, {end:#x} are mapped"
        raise ServedError(message, occasion="argument_invalid")
    if not plain and not stat.S_ISCHR(about.st_mode) and not _is_dmabuf(fd):
        raise ServedError("this descriptor is no memory", occasion="argument_invalid")
    return plain


def _mapped(row: GuestMap, fd: int, offset: int) -> memoryview:
    """Map the range, from the page in which it begins."""
    begin = offset - offset % mmap.ALLOCATIONGRANULARITY
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if row.writable else 0)
    mapped = mmap.mmap(fd, offset - begin + row.size, prot=protection, offset=begin)
    return memoryview(mapped)[offset - begin :]


def _cannot_shrink(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    return False


def _pages_huge(fd: int) -> bool:
    """Say whether this is a hugetlbfs file, which cannot be written but through a map."""
    return os.fstatvfs(fd).f_bsize > 1 << 16


def _name(fd: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(  # noqa: PTH115 - what this link says is no path
            f"/proc/self/fd/{fd}"
        )
    return ""


def _is_region(fd: int) -> bool:
    return _name(fd).startswith(f"/memfd:{PEER_NAME}")


def _is_dmabuf(fd: int) -> bool:
    return _name(fd).startswith("/dmabuf")
