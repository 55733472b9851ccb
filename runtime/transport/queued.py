"""How much of a socket can be read without any descriptor.

Looking at bytes (MSG_PEEK) to see whether descriptors come with them copies them once more, which
halves the rate of a stream. The system counts what waits in the socket: the bytes (FIONREAD) and,
since Linux 5.8, the descriptors (`scm_fds` of its fdinfo), each by one call that copies nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import termios
from typing import Final

_MAX_INFO_BYTES: Final = 512
_NONE: Final = b"scm_fds: 0\n"
_UNKNOWN: Final = -1
_NOT_OPEN: Final = -2


class Queued:
    """What waits in a socket of this process.

    Args:
        sock: The socket; it stays the caller's.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self._info = _NOT_OPEN
        self._count = bytearray(4)

    def without_descriptors(self) -> int:
        """Return how many bytes can be read and bring none; 0 if that is not known."""
        if self._info == _NOT_OPEN:
            self._info = self._opened()
        if self._info == _UNKNOWN:
            return 0
        try:
            # In this order: a descriptor that is counted only now comes behind these bytes.
            fcntl.ioctl(self._fd, termios.FIONREAD, self._count)
            text = os.pread(self._info, _MAX_INFO_BYTES, 0)
        except OSError:
            return 0
        return int.from_bytes(self._count, "little") if _NONE in text else 0

    def _opened(self) -> int:
        try:
            return os.open(f"/proc/self/fdinfo/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return _UNKNOWN

    def close(self) -> None:
        """Give back what it holds; may be called again."""
        info, self._info = self._info, _UNKNOWN
        if info >= 0:
            with contextlib.suppress(OSError):
                os.close(info)
