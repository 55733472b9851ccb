"""Programs that serve one device, as management software starts the backend of a device.

The specification (vfio-user.rst, "Backend Program Conventions") has such a program take
`--socket-path=PATH` or `--fd=FDNUM`, stay in the foreground, end upon SIGTERM, and come with a JSON
file under /usr/share/vfio-user. `vfio-user-edu` and `vfio-user-memory` are two; a device of your
own becomes one by a program of two lines:

    from vfio_migration.cli.backend import run
    raise SystemExit(run("mypackage.nic:Nic"))
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def run(device: str, arguments: Sequence[str] | None = None) -> int:
    """Serve a device as `vfio-migration serve --device` does; return the exit status.

    Args:
        device: What `--device` takes.
        arguments: The arguments of the program; those of this process if none are given.
    """
    try:
        from vfio_migration.cli.main import main

        words = sys.argv[1:] if arguments is None else arguments
        this = str(Path(sys.argv[0]).absolute())
        return main(["serve", "--device", device, "--binary", this, *words])
    except KeyboardInterrupt:
        return 130


def edu() -> int:
    """Serve QEMU's educational device."""
    return run("edu")


def memory() -> int:
    """Serve a large memory that changes at a set rate."""
    return run("memory")
