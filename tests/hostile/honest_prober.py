"""An honest client that connects whenever the seat is free, and measures how long it waits.

On a machine with other work, a process waits for a processor, which is no fault of the server. The
kernel counts that wait (`schedstat`), for the server, for the processes it has started and for the
prober, and it does not count as part of the answer. A second server, which no hostile client ever
talks to, shows what a client then still waits for.
"""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raw_client import Client

MAX_ANSWER_S: Final = 1.0
"""How long an honest client may wait for its answers once it has the seat (issue 11)."""


def waited_s(pid: int) -> float:
    """Return how long a process and its children have waited for a processor so far."""
    total = 0
    for process in (pid, *_children(pid)):
        with suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{process}/schedstat").read_text("ascii").split()[1])
    return total / 1e9


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split())]
    return []


@dataclass
class Prober:
    """Figures of one server.

    Attributes:
        path: The socket of the server.
        pid: The process.
        longest_s: The longest it took to answer, without what was waited for a processor.
        longest_wall_s: The longest it took, that included.
        probes: How often it was asked.
    """

    path: Path
    pid: int
    longest_s: float = 0.0
    longest_wall_s: float = 0.0
    probes: int = 0

    def probe(self, *, descriptors: bool = False) -> None:
        """Connect, negotiate, ask for the state and for a register; fail if that took too long.

        Args:
            descriptors: Map memory and use it, too.
        """
        memory = os.memfd_create("honest")
        os.ftruncate(memory, 4096)
        before, begun = self._waited(), time.monotonic()
        with Client(self.path) as client:
            assert client.state in range(8)
            assert client.read(0, 0, 4)[3] == 1
            if descriptors:
                client.dma_map(1 << 40, 4096, fd=memory)
                client.dma_unmap(1 << 40, 4096)
                event = os.eventfd(0, os.EFD_NONBLOCK)
                client.set_irqs(0x24, 0, 0, 1, fds=[event])
                client.set_irqs(0x21, 0, 0, 1)
                assert struct.unpack("=Q", os.read(event, 8)) >= (1,)
                os.close(event)
        wall = time.monotonic() - begun
        took = wall - (self._waited() - before)
        os.close(memory)
        self.probes += 1
        self.longest_s = max(self.longest_s, took)
        self.longest_wall_s = max(self.longest_wall_s, wall)
        assert took < MAX_ANSWER_S, f"an honest client was answered after {took:.2f} s ({wall:.2f})"

    def _waited(self) -> float:
        return waited_s(self.pid) + waited_s(os.getpid())


def ends_within(pid: int, wait, limit_s: float) -> tuple[int, float]:
    """Wait for the end of a process; return its status and how long it took, as `Prober` does.

    Args:
        pid: The process.
        wait: Returns its status, or None as long as it has not ended.
        limit_s: How long it may take.
    """
    first = last = waited_s(pid)
    begun = time.monotonic()
    while (status := wait()) is None:
        last = max(last, waited_s(pid))
        took = time.monotonic() - begun - (last - first)
        assert took < limit_s, f"the server has not ended after {took:.1f} s"
        time.sleep(0.01)
    return status, time.monotonic() - begun - (last - first)
