"""How fast migration data goes out of a device and into one, against C that does nothing but copy.

The C source sends the same bytes out of memory, with the same headers, in answer to the same
requests; the C sink takes them into fresh memory. One C client drives both sides, in turns, and the
best of several rounds is shown. What the device does besides is to look at each byte: everything
that goes over the socket is checked by a CRC, whose own speed is shown, as zlib-ng computes it
(the extra `fast`) or, without that, zlib. As with round trips it is done with client and server on
one processor, and with each on its own.

Nothing here asserts a time: a busy machine is no bug.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from support import c_peers
from support.c_peers import (
    Driver,
    handshake,
    read_data,
    running,
    serving,
    set_state,
    write_data,
    write_head,
)
from vfio_migration.model import load
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.files.checksum import FAST, crc32
from vfio_migration.runtime.kit.devices import MemoryDevice

TARGET_READ = 0.6
ROUNDS = 15
SIZE = 64 << 20
"""That of `serve --device memory`."""

WRITE_ROUNDS = 4
WRITE_SIZE = 1 << 30
WRITE_BLOCK = 1 << 20

RUNNING, STOP_COPY, RESUMING, STOP = (
    load().state(name).value for name in ("RUNNING", "STOP_COPY", "RESUMING", "STOP")
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    try:
        return c_peers.build(tmp_path_factory.mktemp("peers"))
    except c_peers.NotBuiltError as error:
        pytest.fail(str(error))


def crc() -> float:
    """Bytes per nanosecond."""
    data = memoryview(os.urandom(1 << 20))
    best = 0.0
    for _ in range(20):
        begun = time.perf_counter_ns()
        crc32(data)
        best = max(best, len(data) / (time.perf_counter_ns() - begun))
    return best


def show(what: str, mine: float, other: float, target: str) -> None:
    print(
        f"\n{what}: {mine:.2f} GB/s, C {other:.2f} GB/s: {mine / other:.2f} of it ({target}); "
        f"crc32 of {'zlib-ng' if FAST else 'zlib'} {crc():.1f} GB/s"
    )


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
@pytest.mark.parametrize("block", [64 << 10, 1 << 20], ids=["64 KiB", "1 MiB"])
def test_reading(built, tmp_path, block: int, apart: bool) -> None:
    message, reply = ask = read_data(block)
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    source = [
        built / "source",
        theirs,
        str(len(message)),
        str(reply - block),
        str(block),
        str(SIZE),
    ]
    there, here = c_peers.processors(apart)
    rounds = []
    with (
        running(serving(ours, "--device", "memory"), ours, there),
        running(source, theirs, there),
        Driver(built, ours, here) as us,
        Driver(built, theirs, here) as them,
    ):
        us.turns(1, handshake())
        for number in range(ROUNDS + 1):
            us.turns(1, set_state(STOP_COPY))
            mine, answer = us.turns(SIZE // block, ask)
            us.turns(1, set_state(RUNNING))
            other, _ = them.turns(SIZE // block, ask)
            assert int.from_bytes(answer[4:8], "little") == reply, "a whole reply"
            if number:  # at first the pages are not there
                rounds.append((SIZE / mine, SIZE / other))
    what = f"MIG_DATA_READ of {block >> 10} KiB, {'two processors' if apart else 'one processor'}"
    best = [max(figures) for figures in zip(*rounds, strict=True)]
    show(what, *best, f"target: at least {TARGET_READ}")


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    """A whole stream of a gigabyte, in a file: whole blocks, and the rest."""
    path = tmp_path_factory.mktemp("stream") / "stream"
    device = MemoryDevice(size=WRITE_SIZE)
    memory = device.block("bar2")
    some = os.urandom(1 << 20)
    for at in range(0, WRITE_SIZE, len(some)):
        memory.write(at, some)
    Engine(device.spec, device.capabilities, device).set_state("STOP_COPY")
    with path.open("wb") as file:
        while parts := device.stream_read(WRITE_BLOCK):
            file.writelines(parts)
    device.close()
    return path


@pytest.mark.parametrize("apart", [False, True], ids=["shared", "apart"])
def test_writing(built, tmp_path, stream: Path, apart: bool) -> None:
    head, reply = write_head(WRITE_BLOCK), len(write_data(b"")[0]) - 8
    with stream.open("rb") as file:
        file.seek(WRITE_SIZE)
        rest = file.read()
    assert 0 < len(rest) < WRITE_BLOCK
    ours, theirs = tmp_path / "ours.sock", tmp_path / "theirs.sock"
    sizes = (len(head), WRITE_BLOCK, reply, WRITE_SIZE)
    there, here = c_peers.processors(apart)
    rounds = []
    with (
        running(c_peers.serving_memory(ours, WRITE_SIZE), ours, there),
        running([built / "sink", theirs, *map(str, sizes)], theirs, there),
        Driver(built, ours, here) as us,
        Driver(built, theirs, here) as them,
    ):
        us.turns(1, handshake())
        for _ in range(WRITE_ROUNDS):
            us.turns(1, c_peers.reset())
            us.turns(1, set_state(RESUMING))
            mine, _ = us.write(stream, WRITE_BLOCK, head, reply)
            other, _ = them.write(stream, WRITE_BLOCK, head, reply)
            us.turns(1, write_data(rest))
            # The whole stream is judged here; an error reply is shorter, and would be missed.
            us.turns(1, set_state(STOP))
            rounds.append((WRITE_SIZE / mine, WRITE_SIZE / other))
    what = f"MIG_DATA_WRITE of a gigabyte, {'two processors' if apart else 'one processor'}"
    best = [max(figures) for figures in zip(*rounds, strict=True)]
    show(what, *best, "no target of its own: a migration is to reach 0.4")
