"""Debian's newest kernel in QEMU. Run by `make kernel`.

The guest runs once a session: it is led through the suite under every capability set.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import linux_guest

# `make kernel` names them. Without them there is nothing to run: `make test` fetches nothing, and a
# skipped test would be a line in its report that never goes away.
KERNEL = os.environ.get("VFIO_MIGRATION_KERNEL")
QEMU = os.environ.get("VFIO_MIGRATION_QEMU")
# A file: what the probes recorded under the smallest capability set is written into it.
RECORD = os.environ.get("VFIO_MIGRATION_RECORD")

collect_ignore = [] if KERNEL and QEMU else ["test_linux.py"]


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> linux_guest.Guest:
    """What the guest printed."""
    assert QEMU
    assert KERNEL
    found = linux_guest.run(QEMU, Path(KERNEL), tmp_path_factory.mktemp("guest"))
    if RECORD:
        Path(RECORD).write_text(found.traces[linux_guest.FLAGS[0]], "utf-8")
    return found
