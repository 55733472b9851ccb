"""Which descriptors this process has open: what a test that none is left open compares."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path


def opened() -> set[str]:
    """Number and target of each, without the one that listing them opens."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing itself
            found.add(f"{path.name} {path.readlink()}")
    return {one for one in found if not one.endswith("/fd")}


def settled() -> set[str]:
    """The same at the start of a test: what an earlier one left to the collector is collected.

    Let go between two looks, it would be taken for the doing of the test that looks.
    """
    gc.collect()
    return opened()
