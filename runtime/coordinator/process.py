"""Which process serves a device: a server that was started anew has lost what its device held.

A process is known by its number and the time at which it was started (proc_pid_stat(5), field 22),
so that a number used again is not mistaken for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Process:
    """A process.

    Attributes:
        pid: Its number, or 0 if it is not known.
        started: When it was started, in clock ticks since the machine was; 0 if it is not there.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the process that has this number now."""
        return cls(pid, _started(pid))

    @property
    def known(self) -> bool:
        """Whether it can be told from others.

        A socket that the service manager made is its own: that process says nothing of the server.
        """
        return self.pid > 1

    def is_there(self) -> bool:
        """Say whether it still exists and is no zombie."""
        return self.known and self.started > 0 and _started(self.pid) == self.started

    def to_data(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return {"pid": self.pid, "started": self.started}

    @classmethod
    def from_data(cls, data: Any) -> Self:
        """Read plain data; raise `ValueError` if it is none."""
        match data:
            case {"pid": int(pid), "started": int(started)}:
                return cls(pid, started)
        raise ValueError(f"{data!r} is no process")


def _started(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return 0
    # The name, in parentheses, may hold anything.
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])
