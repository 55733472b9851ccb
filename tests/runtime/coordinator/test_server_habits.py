"""Servers with habits that we did not choose are migrated, saved, restored and recovered like ours.

Who has which habit stands in `peer_habits.servers`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_habits import servers as habits
from peer_habits.base import RUNNING, STOP, Peer
from peer_habits.running import Running, running

from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import Coordinator
from vfio_migration.runtime.coordinator.ledger import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.saving import Restorer, Saver

SIZE = 10_000
HARMLESS: tuple[tuple[type[Peer], ...], ...] = (
    (),
    (habits.GivesNoErrno,),
    (habits.WantsNul,),
    (habits.CallsUnknownFeatureInvalid,),
    (habits.ExitsBeforeVersion,),
    (habits.ResetKeepsState,),
    (habits.OffersNoPreCopy,),
    (habits.JudgesNothing,),
)
"""Habits in spite of which everything succeeds."""


def named(these: tuple[type[Peer], ...]) -> str:
    return "-".join(one.__name__ for one in these) or "none"


@contextlib.contextmanager
def pair(
    folder: Path, source: tuple[type[Peer], ...], destination: tuple[type[Peer], ...]
) -> Iterator[tuple[Running, Running, bytes]]:
    """A source that holds something and a blank destination."""
    held = os.urandom(SIZE)
    with (
        running(folder, "a", *source, held=held) as a,
        running(folder, "b", *destination, held=bytes(SIZE)) as b,
    ):
        yield a, b, held


@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_device_is_migrated_and_back(tmp_path: Path, these: tuple[type[Peer], ...]) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        for one, other in ((a, b), (b, a)):
            Coordinator([(one.path, other.path)], journal=beside(one.path)).run()
            assert (one.state, other.state) == (STOP, RUNNING)
            assert other.held == held
        assert not a.ended
        assert not b.ended


@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_device_is_saved_and_restored(tmp_path: Path, these: tuple[type[Peer], ...]) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        Saver([a.path]).run(tmp_path / "file")
        Restorer([b.path]).run(tmp_path / "file")
        assert (a.state, b.state) == (STOP, RUNNING)
        assert b.held == held


@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_migration_given_up_half_way_is_recovered(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        for path, state in ((a.path, "STOP_COPY"), (b.path, "RESUMING")):
            with Client(path) as client:
                client.set_state(state)
        settled = recover([(a.path, b.path)])
        assert settled.outcome == "source"
        assert a.state == RUNNING
        assert a.held == held
