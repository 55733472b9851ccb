"""Adding one to an eventfd of a client, without ever waiting for it.

A write to an eventfd waits while its count is at its limit, for as long as the client likes; that
it was below the limit a moment ago states nothing. What the kernel adds by itself, on the
completion of asynchronous I/O, it adds without waiting. So an event is the completion of a read
that asks for nothing, of the eventfd itself since no other descriptor need be free (Linux AIO with
`IOCB_FLAG_RESFD`).

Where there is no such I/O (a kernel without it, a system call filter) the write is done by a thread
that is left behind if it does not come back. There is one at a time: as long as it waits, events
are not sent.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys
import sysconfig
import threading
from typing import Final

TIMEOUT_S: Final = 0.5
"""For how long an event that a thread writes is waited for."""

_ONE: Final = (1).to_bytes(8, sys.byteorder)
_REQUEST: Final = struct.Struct("=QIiHhIQQqQII")
"""struct iocb of linux/aio_abi.h, without the parts whose order is that of the processor."""
_READ: Final = 0
_SIGNALS: Final = 1
"""IOCB_CMD_PREAD, and IOCB_FLAG_RESFD."""
_CALLS: Final = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
    "riscv64": (0, 1, 4, 2),
}
"""The numbers of io_setup, io_destroy, io_getevents and io_submit."""


MAX_WAITING: Final = 16
"""How many threads may wait for clients that are gone before events are not sent any more."""


class EventSignal:
    """Adds to eventfds. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        self._writing: threading.Thread | None = None
        self._waiting: list[threading.Thread] = []
        machine = sysconfig.get_platform().rpartition("-")[2]
        self._calls = _CALLS.get(machine) if sys.byteorder == "little" else None
        if self._calls and self._libc.syscall(self._calls[0], 1, ctypes.byref(self._context)):
            self._calls = None
        self._request = ctypes.create_string_buffer(_REQUEST.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(32)
        self._at_once = ctypes.create_string_buffer(16)

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            assert self._calls is not None
            self._libc.syscall(self._calls[1], self._context)

    def client_disconnected(self) -> None:
        """Take note that the client went away: a thread that waits for it is left behind."""
        if self._writing is not None:
            self._waiting = [one for one in (*self._waiting, self._writing) if one.is_alive()]
            self._writing = None

    def send(self, fd: int) -> bool:
        """Add one to an eventfd whose count has room for it; return whether that was done.

        A client that let its count fill up has an unread event already; one more would notify it
        nothing.
        """
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        if not any(what & select.POLLOUT for _, what in ready.poll(0)):
            return False
        done = self._calls is not None and self._complete(fd, self._calls)
        return done or self._write(fd)

    def _complete(self, fd: int, calls: tuple[int, int, int, int]) -> bool:
        """Have a read completed that asks for nothing; return whether the system takes it."""
        *_, collect, submit = calls
        numbers = (0, 0, 0, _READ, 0, fd, 0, 0, 0, 0, _SIGNALS, fd)
        _REQUEST.pack_into(self._request, 0, *numbers)
        one, none = ctypes.c_long(1), ctypes.c_long(0)
        sent: int = self._libc.syscall(submit, self._context, one, self._requests)
        self._libc.syscall(collect, self._context, none, one, self._event, self._at_once)
        return sent == 1

    def _write(self, fd: int) -> bool:
        busy = self._writing is not None and self._writing.is_alive()
        if busy or len(self._waiting) >= MAX_WAITING:
            return False
        try:
            own = os.dup(fd)
        except OSError:
            return False
        done: list[bool] = []
        self._writing = threading.Thread(target=_write, args=(own, done), daemon=True)
        self._writing.start()
        self._writing.join(TIMEOUT_S)
        return bool(done)


_own = threading.local()


def event_signal() -> EventSignal:
    """Return that of this thread: to give one back takes the system tens of milliseconds."""
    found: EventSignal | None = getattr(_own, "signal", None)
    if found is None:
        found = _own.signal = EventSignal()
    return found


def _write(fd: int, done: list[bool]) -> None:
    try:
        os.write(fd, _ONE)
        done.append(True)
    except OSError:
        pass
    finally:
        os.close(fd)
