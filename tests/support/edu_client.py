"""What tests of a server do with an edu on it, and how they look at the process."""

from __future__ import annotations

import os
import select
import struct
import time
from pathlib import Path

from support.open_descriptors import opened

BUFFER = 0x40000
FLAGS_ON, FLAGS_OFF, UNMASK = 0x24, 0x21, 0x11


def eventfd() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def signalled(fd: int, seconds: float = 5) -> int:
    """How often an eventfd was signalled; waits for the first."""
    if not select.select([fd], [], [], seconds)[0]:
        return 0
    return os.eventfd_read(fd)


def dma(client, source: int, target: int, count: int, *, from_device: bool) -> None:
    """Start a transfer; the registers are written as QEMU does, with no replies wanted."""
    client.write(0, 0x80, struct.pack("<Q", source), posted=True)
    client.write(0, 0x88, struct.pack("<Q", target), posted=True)
    client.write(0, 0x90, struct.pack("<Q", count), posted=True)
    client.write(0, 0x98, struct.pack("<Q", 3 if from_device else 1), posted=True)


def dma_done(client) -> bool:
    return not client.read(0, 0x98, 4)[0] & 1


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def descriptors() -> int:
    return len(opened())


def rss() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096
