"""The peers of the benchmarks: small C programs, built when they are needed, and the server.

The client that takes the time is one of them, and the same for both sides of a ratio: no Python
stands between its clock and the socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.raw_client import (
    FEATURE,
    GET,
    HEADER,
    MIG_READ,
    MIG_WRITE,
    REGION_READ,
    REGION_WRITE,
    RESET,
    SET,
    VERSION,
)
from support.waiting import wait_for

SOURCES = Path(__file__).parents[1] / "benchmarks" / "peers"
COMPILERS = ("cc", "gcc", "clang")
TIMEOUT_S = 20

Exchange = tuple[bytes, int]
"""A message and the size of its reply."""


class NotBuiltError(Exception):
    """A peer cannot be built."""


def build(folder: Path) -> Path:
    """Build all peers in a folder, and return it.

    Raises:
        NotBuiltError: There is no C compiler, or it does not take what is there.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NotBuiltError("there is no C compiler; on Debian: apt-get install gcc libc6-dev")
    for source in sorted(SOURCES.glob("*.c")):
        made = folder / source.stem
        done = subprocess.run(
            [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, source],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotBuiltError(f"{source.name} cannot be built:\n{done.stderr}")
    return folder


@contextlib.contextmanager
def running(
    program: Sequence[str | Path], path: Path, where: Collection[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server that listens at `path`; its standard error goes into a file beside it.

    Args:
        program: The command line.
        path: The socket.
        where: On which processors.
    """
    with path.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stderr=log)
        try:
            _place(process, where)
            wait_for(path, process, path.with_suffix(".log"), TIMEOUT_S)
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)


def serving(path: Path, *options: str) -> list[str | Path]:
    """Return the command that serves a device at `path`."""
    return [sys.executable, "-m", "vfio_migration.cli.main", "serve", path, *options]


def _place(process: subprocess.Popen[Any], where: Collection[int]) -> None:
    if where:
        os.sched_setaffinity(process.pid, where)


_MEMORY = """
import sys
from vfio_migration.runtime.kit.devices import MemoryDevice
from vfio_migration.runtime.transport.listening import listening
from vfio_migration.runtime.server.server import Server
with listening(sys.argv[1]) as sock, Server(MemoryDevice(size=int(sys.argv[2]))) as server:
    server.serve(sock)
"""


def serving_memory(path: Path, size: int) -> list[str | Path]:
    """Return the command that serves a `memory` of another size than the command line's."""
    return [sys.executable, "-c", _MEMORY, path, str(size)]


class Driver:
    """The C client, connected. A context, at the end of which it is gone."""

    def __init__(self, built: Path, path: Path, where: Collection[int] = ()) -> None:
        self._process = subprocess.Popen(
            [built / "drive", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        _place(self._process, where)

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.communicate(timeout=TIMEOUT_S)

    def turns(self, count: int, *messages: Exchange) -> tuple[int, bytes]:
        """Have messages sent in turn, `count` in all; return nanoseconds and the last reply."""
        words = (f"{message.hex()} {size}" for message, size in messages)
        return self._do(f"turns {count} {' '.join(words)}")

    def write(self, path: Path, block: int, head: bytes, size: int) -> tuple[int, bytes]:
        """Have all whole blocks of a file sent, each behind `head`; returns as `turns`."""
        return self._do(f"write {path} {block} {head.hex()} {size}")

    def _do(self, line: str) -> tuple[int, bytes]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().split()
        assert answer, "the client has given up; it states why on standard error"
        return int(answer[0]), bytes.fromhex("".join(answer[1:]))


def processors(apart: bool) -> tuple[set[int], set[int]]:
    """Return where the servers are to run, and where the client is: on one processor, or on two.

    Never wherever the system likes: whether two that wait for one another are put on one processor,
    where a wake-up costs a microsecond, or on two, where it costs 25, is its mood of the moment.
    Left alone, even the C peers take 4 us for a turn now and 60 then.
    """
    have = sorted(os.sched_getaffinity(0))
    if not apart:
        return {have[0]}, {have[0]}
    if len(have) < 2:
        pytest.skip("there is one processor only")
    return {have[0]}, {have[1]}


# --- the messages that are measured ---


def handshake() -> Exchange:
    """VERSION without version data."""
    return HEADER.pack(0, VERSION, 20, 0, 0) + struct.pack("=HH", 0, 0), 20


def get_state() -> Exchange:
    """DEVICE_FEATURE GET of the state."""
    return HEADER.pack(1, FEATURE, 24, 0, 0) + struct.pack("=II", 16, GET | 2), 32


def set_state(value: int) -> Exchange:
    """DEVICE_FEATURE SET of the state."""
    body = struct.pack("=IIIi", 16, SET | 2, value, -1)
    return HEADER.pack(2, FEATURE, 32, 0, 0) + body, 32


def region_read(region: int, offset: int, size: int) -> Exchange:
    """REGION_READ."""
    body = struct.pack("=QII", offset, region, size)
    return HEADER.pack(6, REGION_READ, 32, 0, 0) + body, 32 + size


def region_write(region: int, offset: int, data: bytes) -> Exchange:
    """REGION_WRITE."""
    body = struct.pack("=QII", offset, region, len(data)) + data
    return HEADER.pack(7, REGION_WRITE, 32 + len(data), 0, 0) + body, 32


def read_data(size: int) -> Exchange:
    """MIG_DATA_READ."""
    body = struct.pack("=II", 8 + size, size)
    return HEADER.pack(3, MIG_READ, 24, 0, 0) + body, 24 + size


def reset() -> Exchange:
    """DEVICE_RESET."""
    return HEADER.pack(5, RESET, HEADER.size, 0, 0), HEADER.size


def write_data(data: bytes) -> Exchange:
    """MIG_DATA_WRITE."""
    return write_head(len(data)) + data, HEADER.size


def write_head(size: int) -> bytes:
    """What stands before the data of MIG_DATA_WRITE."""
    return HEADER.pack(4, MIG_WRITE, 24 + size, 0, 0) + struct.pack("=II", 8 + size, size)
