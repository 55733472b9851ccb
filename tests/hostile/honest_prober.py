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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.raw_client import Client

MAX_ANSWER_S: Final = 1.0
"""How long an honest client may wait for its answers once it has the seat (issue 11)."""


Waits = dict[int, float]
"""How many seconds each process has waited for a processor so far."""


def waits_of(*pids: int) -> Waits:
    """Return the waits of processes and of their children."""
    found = {}
    children = [child for parent in pids for child in children_of(parent)]
    for pid in (*pids, *children):
        with suppress(OSError, ValueError, IndexError):
            text = Path(f"/proc/{pid}/schedstat").read_text("ascii")
            found[pid] = int(text.split()[1]) / 1e9
    return found


def waited_s(before: Waits, after: Waits) -> float:
    """Return how much of it was between two looks; of a process that has ended nothing is known."""
    return sum(now - before.get(pid, 0.0) for pid, now in after.items())


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started, those that have just ended included."""
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
        before, begun = waits_of(self.pid, os.getpid()), time.monotonic()
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
        took = wall - waited_s(before, waits_of(self.pid, os.getpid()))
        os.close(memory)
        self.probes += 1
        self.longest_s = max(self.longest_s, took)
        self.longest_wall_s = max(self.longest_wall_s, wall)
        assert took < MAX_ANSWER_S, f"an honest client was answered after {took:.2f} s ({wall:.2f})"


def ends_within(pid: int, wait: Callable[[], int | None], limit_s: float) -> tuple[int, float]:
    """Wait for the end of a process; return its status and how long it took, as `Prober` does.

    Args:
        pid: The process.
        wait: Returns its status, or None as long as it has not ended.
        limit_s: How long it may take.
    """
    first, waited = waits_of(pid), 0.0
    begun = time.monotonic()
    while (status := wait()) is None:
        waited = max(waited, waited_s(first, waits_of(pid)))
        took = time.monotonic() - begun - waited
        assert took < limit_s, f"the server has not ended after {took:.1f} s"
        time.sleep(0.01)
    return status, time.monotonic() - begun - waited
