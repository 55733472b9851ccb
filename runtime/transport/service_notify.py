"""Notifies the service manager that the server is ready, that it ends, and that it still serves.

systemd starts a service of `Type=notify` with NOTIFY_SOCKET, and one with `WatchdogSec=` with
WATCHDOG_USEC, within which it has to be notified again and again (sd_notify(3), sd_watchdog_enabled
(3)). The watchdog is fed by the loop that serves and by nothing else, so a callback of the device
that hangs lets it run out. Nothing here waits: a message there is no room for is not sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"


def notify(*messages: str, environ: Mapping[str, str] | None = None) -> bool:
    """Send messages to the service manager.

    Args:
        messages: Each NAME=VALUE, without a newline.
        environ: Where NOTIFY_SOCKET is; the environment of the process by default.

    Returns:
        Whether they were sent: there is a service manager, and room.
    """
    address = (os.environ if environ is None else environ).get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@") or len(address) < 2:
        return False
    if address[0] == "@":  # a name in the abstract space
        address = "\0" + address[1:]
    with contextlib.suppress(OSError, ValueError):
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.sendto("\n".join(messages).encode(), socket.MSG_NOSIGNAL, os.fsencode(address))
            return True
    return False


class Watchdog:
    """Says again and again that the loop that serves goes on.

    Args:
        interval_s: How many seconds are between two messages.
        environ: As for `notify`.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        interval_s: float,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s, self._environ, self._clock = interval_s, environ, clock
        self._due = 0.0

    def feed(self) -> float:
        """Report that the loop goes on, if it is time; return when it is time again."""
        now = self._clock()
        if now >= self._due:
            notify(WATCHDOG, environ=self._environ)
            self._due = now + self._interval_s
        return self._due


def watchdog(environ: Mapping[str, str] | None = None) -> Watchdog | None:
    """Return what feeds the watchdog of the service manager at half its time, or None."""
    given = os.environ if environ is None else environ
    usec, pid = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit() and int(usec[:18]) > 0):
        return None
    if pid and pid != str(os.getpid()):
        return None  # it is for another process, which has started this one
    return Watchdog(int(usec[:18]) / 2e6, given)
