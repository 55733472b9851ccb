"""Servers that we did not write are moved like ours."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import foreign_server
import pytest

from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailed
from vfio_migration.runtime.coordinator.ledger import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.saving import Restorer, Saver

SIZE = 10_000
PLAIN, PRE_COPY = 1, 5


@contextlib.contextmanager
def two(folder: Path, flags: int, refuses: str = "") -> Iterator[tuple[str, str, bytes]]:
    """Two such servers; what the device of the first holds."""
    paths, running = [str(folder / "a"), str(folder / "b")], []
    held = os.urandom(SIZE)
    try:
        for path, no in zip(paths, ("", refuses), strict=True):
            words = [sys.executable, foreign_server.__file__, path, str(SIZE), str(flags), no]
            process = subprocess.Popen(words, stdout=subprocess.PIPE)
            running.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        with Client(paths[0]) as client:
            for at in range(0, SIZE, client.transfer):
                client.region_write(0, at, held[at : at + client.transfer])
        yield paths[0], paths[1], held
    finally:
        for process in running:
            process.kill()
            process.communicate()


def holds(path: str) -> tuple[str, bytes]:
    with Client(path) as client:
        step = client.transfer
        data = b"".join(
            client.region_read(0, at, min(step, SIZE - at)) for at in range(0, SIZE, step)
        )
        return client.state(), data


@pytest.mark.parametrize("flags", [PLAIN, PRE_COPY], ids=["plain", "pre-copy"])
def test_there_and_back(tmp_path: Path, flags: int) -> None:
    with two(tmp_path, flags) as (a, b, held):
        for one, other in ((a, b), (b, a)):
            summary = Coordinator([(one, other)], journal=beside(one)).run()
            assert summary.bytes == SIZE + 8
            assert holds(one)[0] == "STOP"
            assert holds(other) == ("RUNNING", held)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("flags", [PLAIN, PRE_COPY], ids=["plain", "pre-copy"])
def test_a_stream_it_refuses(tmp_path: Path, flags: int) -> None:
    with two(tmp_path, flags, "stream") as (a, b, held):
        with pytest.raises(MigrationFailed, match=r"SET_STATE STOP .*EBADMSG") as caught:
            Coordinator([(a, b)], journal=beside(a)).run()
        assert caught.value.outcome == "source"
        assert holds(a) == ("RUNNING", held)
        assert holds(b)[0] == "STOP"
    assert not beside(a).exists()


def test_a_destination_that_does_not_start(tmp_path: Path) -> None:
    with two(tmp_path, PRE_COPY, "start") as (a, b, held):
        with pytest.raises(MigrationFailed) as caught:
            Coordinator([(a, b)], journal=beside(a)).run()
        assert caught.value.outcome == "source"
        assert holds(a) == ("RUNNING", held)
        assert holds(b)[0] == "STOP"


def test_what_is_left_behind_is_recovered(tmp_path: Path) -> None:
    with two(tmp_path, PRE_COPY) as (a, b, held):
        with Client(a) as client, Client(b) as other:
            client.set_state("STOP_COPY")
            other.set_state("RESUMING")
        settled = recover([(a, b)])
        assert settled.outcome == "source"
        assert holds(a) == ("RUNNING", held)
        assert holds(b)[0] == "STOP"


def test_saved_and_restored(tmp_path: Path) -> None:
    with two(tmp_path, PLAIN) as (a, b, held):
        Saver([a]).run(tmp_path / "file")
        Restorer([b]).run(tmp_path / "file")
        assert holds(a)[0] == "STOP"
        assert holds(b) == ("RUNNING", held)
