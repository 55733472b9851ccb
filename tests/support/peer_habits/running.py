"""Runs an emulated server in a process of its own, as a real one would be."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support import environment
from support.peer_habits.base import DEVICE_STATE, Peer
from support.raw_client import GET, Client
from support.waiting import wait_for

SIZE = 10_000
"""How many bytes a device holds, unless a test states otherwise."""


class Running:
    """A server that runs.

    Attributes:
        path: Its socket.
        process: Its process.
    """

    def __init__(self, path: Path, habits: tuple[type[Peer], ...], held: bytes) -> None:
        self.path = str(path)
        self._size = len(held)
        self._seen = path.with_suffix(".seen")
        path.unlink(missing_ok=True)
        state = path.with_suffix(".held")
        state.write_bytes(held)
        words = [sys.executable, "-S", "-m", "support.peer_habits", str(path), str(state)]
        self.process = subprocess.Popen(
            [*words, *(habit.__name__ for habit in habits)],
            env=environment(),
            stdin=subprocess.DEVNULL,
        )
        wait_for(path, self.process)
        state.unlink()

    @property
    def seen(self) -> list[tuple[int, int]]:
        """The commands that came, each with the state that the device was in."""
        return [
            (int(words[0]), int(words[1]))
            for line in self._seen.read_text("utf-8").splitlines()
            if len(words := line.split()) == 2
        ]

    @property
    def connections(self) -> int:
        """How many clients have connected so far."""
        return self._seen.read_text("utf-8").splitlines().count("connect")

    @property
    def state(self) -> int:
        """The state of the device, asked for by a client that is not ours."""
        with Client(self.path) as client:
            return int(struct.unpack_from("=I", client.feature(GET | DEVICE_STATE, room=8))[0])

    @property
    def held(self) -> bytes:
        """What the device holds, read by a client that is not ours."""
        with Client(self.path) as client:
            return b"".join(
                client.read(0, at, min(1000, self._size - at)) for at in range(0, self._size, 1000)
            )

    @property
    def ended(self) -> bool:
        """Whether the server has exited."""
        return self.process.poll() is not None

    def ends(self) -> int:
        """Wait until it has exited; return its exit status."""
        return self.process.wait(60)

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(60)


@contextlib.contextmanager
def running(
    folder: Path, name: str, *habits: type[Peer], held: bytes = bytes(SIZE)
) -> Iterator[Running]:
    """Run a server with habits, whose device holds `held`; its socket is `folder / name`."""
    server = Running(folder / name, habits, held)
    try:
        yield server
    finally:
        server.kill()
        server._seen.unlink(missing_ok=True)


@contextlib.contextmanager
def pair(
    folder: Path, source: tuple[type[Peer], ...], destination: tuple[type[Peer], ...]
) -> Iterator[tuple[Running, Running, bytes]]:
    """Run a source that holds something and a blank destination; yield both, and what it holds."""
    held = os.urandom(SIZE)
    with (
        running(folder, "a", *source, held=held) as a,
        running(folder, "b", *destination, held=bytes(SIZE)) as b,
    ):
        yield a, b, held
