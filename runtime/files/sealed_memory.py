"""Memory in a memfd that nobody can make shorter or longer, so that it can be shared."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from typing import Final

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""Who maps memory that can shrink could be killed by any process that shrinks it. And none of them
may add a seal: one against writing would keep the next one out."""


class SealedMemory:
    """So many bytes of zeroes, to begin with.

    Args:
        size: How many bytes.
        name: What it is called in /proc.

    Attributes:
        size: How many bytes.
        fd: Its descriptor, which belongs to this object; -1 once it is closed.
        view: Its bytes, writable.
    """

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self._map)

    def close(self) -> None:
        """Give it back. Views that others still hold keep what they show."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.view.release()
            with contextlib.suppress(BufferError):
                self._map.close()
            del self._map  # or it would outlive those views
