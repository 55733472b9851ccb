"""Waiting for a server that a test has started."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any, Final

_LISTENS: Final = "00010000"
"""`__SO_ACCEPTCON`, the flags of a socket that listens in /proc/net/unix."""


def listens(path: Path | str) -> bool:
    """Return whether a server listens at a path, by the name it was bound to; connect to nobody."""
    rows = Path("/proc/net/unix").read_text("utf-8", "replace").splitlines()[1:]
    # Num RefCount Protocol Flags Type St Inode Path
    return any(row.split(maxsplit=7)[3::4] == [_LISTENS, str(path)] for row in rows)


def wait_for(
    path: Path | str, process: subprocess.Popen[Any], log: Path | None = None, seconds: float = 30
) -> None:
    """Wait until a process listens at a path.

    That the path is there is not enough: it comes with `bind`, and a client that connects before
    `listen` is refused.
    """

    def reported() -> str:
        return "" if log is None else log.read_text("utf-8")

    deadline = time.monotonic() + seconds
    while not listens(path):
        assert process.poll() is None, reported()
        assert time.monotonic() < deadline, reported()
        time.sleep(0.01)
