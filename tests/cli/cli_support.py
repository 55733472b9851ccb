"""Commands that speak to servers, run as users run them; what they said."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import forked_servers
from vfio_migration.cli import event_printer
from vfio_migration.cli.main import main
from vfio_migration.runtime.client import Client

_PROCESSES = multiprocessing.get_context("forkserver")
# There is one forkserver for all: what it has imported, no child has to.
_PROCESSES.set_forkserver_preload(
    [
        "support.forked_servers",
        "vfio_migration.cli.main",
        "vfio_migration.cli.event_printer",
        "vfio_migration.runtime.coordinator.recover",
        "vfio_migration.runtime.coordinator.save",
        "vfio_migration.runtime.kit.devices",
        "vfio_migration.runtime.client.recording",
        "vfio_migration.runtime.server.server",
    ]
)

SLOW = ("--bandwidth", "200K", "--downtime", "1ms")
"""With these, `BIG` bytes take longer than any test."""
BIG = 1 << 26

_FIGURES = (
    (re.compile(r"^ *[\d.]+ s  (?=\S| )", re.MULTILINE), "    0.000 s  "),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b(?!  )"), "# s"),
    (re.compile(r"\b\d+(\.\d+)? ([KMG]iB|B)\b"), "# B"),
)


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """What `--json` printed, a line an object."""
        return [json.loads(line) for line in self.out.splitlines()]

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name."""
        return [one for one in self.events if one["event"] == name]


def masked(text: str) -> str:
    """Return a text with its times and sizes made the same."""
    for pattern, instead in _FIGURES:
        text = pattern.sub(instead, text)
    return text


def files() -> list[str]:
    """Return the names of all files, sockets among them."""
    return sorted(path.name for path in Path().iterdir())


def until(condition: Callable[[], object], what: str = "it does not happen") -> None:
    """Wait for something that is sure to come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def complains(ran: Ran, status: int, *lines: str) -> None:
    """See that a command printed nothing but a complaint."""
    assert ran.err == "".join(
        f"{line}\n" for line in (f"vfio-migration: error: {lines[0]}", *lines[1:])
    )
    assert (ran.status, ran.out) == (status, "")


class Gate(threading.Event):
    """For an arc of a device in `harness`: states whether the device hangs in it already."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as the device does."""
        self.hangs.set()
        return super().wait(timeout)


class Served:
    """A device that is served by a process of its own."""

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self._process = forked_servers.serve(path, device, "7")
        forked_servers.wait_for(path)

    @property
    def state(self) -> str:
        """Where the device is."""
        with Client(self.path) as client:
            return client.state()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join(60)


class Program:
    """A command in a process of its own.

    Args:
        arguments: Its arguments.
        place: Where its output and errors go, as `.out` and `.err`.
        out: Where its output goes instead.
        file_size: How large files of its own may become (RLIMIT_FSIZE).
        environment: What is different in its environment.
        override: Whether it may pass over the modes of files, as root may.
        timeout_s: How many seconds it waits for anybody who reads, at its end.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        place: Path,
        *,
        out: str | Path | None = None,
        err: str | Path | None = None,
        file_size: int | None = None,
        environment: dict[str, str] | None = None,
        override: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        self._out, self._err = place.with_suffix(".out"), place.with_suffix(".err")
        self._process = _PROCESSES.Process(
            target=_run,
            args=(
                list(arguments),
                str(out or self._out),
                str(err or self._err),
                file_size,
                environment or {},
                override,
                timeout_s,
            ),
        )
        self._process.start()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text("utf-8") if self._out.exists() else ""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return not self._process.is_alive()

    def over_within(self, seconds: float) -> bool:
        """Return whether it ends within a time."""
        self._process.join(seconds)
        return self.over

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def ends(self) -> Ran:
        """Wait for its end."""
        self._process.join(60)
        assert self.over, "it does not end"
        status = self._process.exitcode
        assert status is not None
        err = self._err.read_text("utf-8") if self._err.exists() else ""
        return Ran(status, self.out, err)

    def close(self) -> None:
        """See that nothing of it is left."""
        self._process.kill()
        self._process.join(60)
        self._process.close()


def _give_up_override() -> None:
    """Let the modes of files hold for root too: no CAP_DAC_OVERRIDE (capset(2))."""
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(head, sets) == 0
    sets[0] &= ~(1 << 1)  # of those that are in effect
    assert libc.capset(head, sets) == 0


def _run(
    arguments: list[str],
    out: str,
    err: str,
    file_size: int | None,
    environment: dict[str, str],
    override: bool,
    timeout_s: float | None,
) -> None:
    for number, path in ((1, out), (2, err)):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    # As if it had been started with them: what these are is looked up when they are opened.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    if not override:
        _give_up_override()
    if timeout_s is not None:
        event_printer._TIMEOUT_S = timeout_s
    raise SystemExit(main(arguments))
