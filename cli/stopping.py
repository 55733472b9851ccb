"""How a server ends when it is asked to, whatever its client, its device or its log does.

SIGTERM and SIGINT ask the loop that serves to end. A thread of its own is woken by the signal too,
before the thread that serves does, and ends the process if that does not happen: a callback of the
device may hang, and the client's command with it. The kernel then drops what the process had. Only
a callback in C that keeps the interpreter's lock holds this thread up as well.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import PurePath
from types import FrameType
from typing import Final, NoReturn

from vfio_migration.cli import arguments as options
from vfio_migration.cli.output import UNKNOWN
from vfio_migration.runtime.server.log import log_event
from vfio_migration.runtime.server.log_writer import LogWriter
from vfio_migration.runtime.transport import service_notify

STOP_TIMEOUT_S: Final = 4.0
"""How many seconds after the signal the process is ended if it has not ended by itself."""
_LOG_TIMEOUT_S: Final = 0.3
"""How many seconds the last lines of the log may take then."""
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stopper:
    """Ends the process some time after SIGTERM or SIGINT, at once after a second one.

    SIGINT stays ignored if it was: the shell has put this process into the background.

    Args:
        stop: Asks the server to end.
        device: The device, whose callback is named if it hangs.
        log: The log of the process.
    """

    def __init__(self, stop: Callable[[], object], device: object, log: LogWriter) -> None:
        self._stop, self._device, self._log = stop, device, log
        self._main = threading.get_ident()
        self._asked = False
        # The interpreter writes the number of each signal there, at once, from whatever it does.
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in SIGNALS:
            if number == signal.SIGTERM or not options.ignores(number):
                signal.signal(number, lambda _number, _frame: self._ask())
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="stopper", daemon=True).start()

    def dismiss(self) -> None:
        """Let signals end the process the way the kernel does, if none has come yet.

        If one has, the deadline holds until the process has ended: threads of the device may keep
        it, too.
        """
        if self._asked:
            return
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if not options.ignores(number):
                signal.signal(number, signal.SIG_DFL)
        os.close(self._writer)  # which ends the thread

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        deadline: float | None = None
        wait = select.poll()
        wait.register(self._reader, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not wait.poll(left):
                self._end("a callback of the device hangs", UNKNOWN)
            numbers = os.read(self._reader, 512)
            if not numbers:
                os.close(self._reader)
                return
            for number in filter(SIGNALS.__contains__, numbers):
                if deadline is not None:
                    self._end("a second signal", 128 + number)
                deadline = time.monotonic() + STOP_TIMEOUT_S
                self._ask()

    def _ask(self) -> None:
        """Ask the server to end; from either thread, whichever gets the signal first."""
        self._asked = True
        self._stop()
        service_notify.notify(service_notify.STOPPING)

    def _end(self, why: str, status: int) -> NoReturn:
        # What is logged may wait for a lock that the thread that hangs has.
        last = threading.Thread(target=self._print, args=(why, status), daemon=True)
        last.start()
        last.join(2 * _LOG_TIMEOUT_S)
        os._exit(status)

    def _print(self, why: str, status: int) -> None:
        at = self._where()
        log_event("ended_by_force", level=logging.ERROR, why=why, at=at, status=status)
        self._log.end(_LOG_TIMEOUT_S)

    def _where(self) -> str:
        """Return in which method of the device the thread that serves is, or else where it is."""
        frame: FrameType | None = sys._current_frames().get(self._main)
        found = frame
        while frame is not None:
            if frame.f_locals.get("self") is self._device:
                found = frame
                break
            frame = frame.f_back
        if found is None:
            return "unknown"
        code = found.f_code
        return f"{code.co_qualname} ({PurePath(code.co_filename).name} line {found.f_lineno})"
