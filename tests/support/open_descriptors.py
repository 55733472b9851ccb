"""Which descriptors this process has open: what a test that none is left open compares."""

from __future__ import annotations

import gc
import socket
from contextlib import suppress
from pathlib import Path


def opened() -> set[str]:
    """Number and target of each, without the one that listing them opens.

    Nor are those counted that go to the receivers of descriptors: a server keeps one from the first
    descriptor that a client sends until it is closed.
    """
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the listing itself
            name = str(path.readlink())
            if not (name.startswith("socket:") and _is_receiver(int(path.name))):
                found.add(f"{path.name} {name}")
    return {one for one in found if not one.endswith("/fd")}


def _is_receiver(fd: int) -> bool:
    sock = socket.socket(fileno=fd)
    try:
        return sock.type == socket.SOCK_SEQPACKET
    finally:
        sock.detach()


def opened_at_rest() -> set[str]:
    """The same at the start of a test: what an earlier one left to the collector is collected.

    Let go between two looks, it would be taken for the doing of the test that looks.
    """
    gc.collect()
    return opened()
