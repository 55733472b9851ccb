"""Logs that strace really writes of a client of vfio-user, which drives a server of this process.

    PYTHONPATH=tests python -m support.strace_log

makes those of `tests/data/field_logs` anew: `strace-allowed.log` of a right server,
`strace-illegal.log` of one that goes from STOP_COPY to PRE_COPY, and `strace-ioctl.log` of a
program that asks for a state with an ioctl.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from support.field_log_samples import FOLDER
from support.wrong_servers import AcceptsStopCopyToPreCopy, Right, serving

CLIENT = """
import contextlib, sys
from vfio_migration.runtime.client import Client, ClientError
with Client(sys.argv[1]) as client:
    for state in ("PRE_COPY", "STOP_COPY", "PRE_COPY", "RUNNING"):
        with contextlib.suppress(ClientError):
            client.set_state(state)
"""

IOCTLS = """
import contextlib, fcntl, os
device = os.open("/dev/null", os.O_RDWR)
for request in (0x3B75, 0x3B6F):  # VFIO_DEVICE_FEATURE, VFIO_DEVICE_RESET
    with contextlib.suppress(OSError):
        fcntl.ioctl(device, request, bytes(16))
"""


def traced(log: Path, program: str, *arguments: str, what: str = "network") -> None:
    """Run a Python program under strace."""
    strace = ["strace", "-f", "-s", "64", "-e", f"trace={what}", "-o", str(log)]
    subprocess.run(
        [*strace, sys.executable, "-c", program, *arguments], check=True, capture_output=True
    )


def of_a_client(log: Path, server: type[Right], folder: Path) -> None:
    """Write a log of a client of a server."""
    with serving(folder / "s", server()):
        traced(log, CLIENT, str(folder / "s"))


if __name__ == "__main__":
    for name, kind in (("allowed", Right), ("illegal", AcceptsStopCopyToPreCopy)):
        with tempfile.TemporaryDirectory() as place:
            of_a_client(FOLDER / f"strace-{name}.log", kind, Path(place))
    traced(FOLDER / "strace-ioctl.log", IOCTLS, what="ioctl")
