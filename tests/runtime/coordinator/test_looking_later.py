"""A device that is stopped may not state what it is: it is led to where it does, then looked at.

The server library nutanix/libvfio-user refuses DEVICE_GET_INFO and DEVICE_RESET in STOP, where a
migration leaves its source (`habits.RefusesMostWhileStopped`).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, STOP, Peer
from support.peer_habits.running import running
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Coordinator,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.save import Restorer, Saver

SIZE = 10_000
HABITS: tuple[tuple[type[Peer], ...], ...] = (
    (habits.RefusesNearlyAllWhileStopped,),
    (habits.RefusesNearlyAllWhileStopped, habits.RefusesRegionsWhileCopying, habits.PadsReads),
    (habits.CLibrary,),
    (habits.CLibrary, habits.OffersNoPreCopy),
)


@pytest.mark.parametrize("migration", ["live", "offline"])
@pytest.mark.parametrize("these", HABITS, ids=str)
def test_from_a_to_b_to_a(tmp_path: Path, these: tuple[type[Peer], ...], migration: str) -> None:
    held = os.urandom(SIZE)
    settings = Settings(migration=migration)
    with (
        running(tmp_path, "a", *these, held=held) as a,
        running(tmp_path, "b", *these, held=bytes(SIZE)) as b,
    ):
        for one, two in ((a, b), (b, a), (a, b)):
            Coordinator([(one.path, two.path)], settings=settings, journal=beside(one.path)).run()
            assert (one.state, two.state) == (STOP, RUNNING)
            assert two.held == held


@pytest.mark.parametrize("these", HABITS, ids=str)
def test_saved_and_restored_into_the_device_that_is_stopped(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    held = os.urandom(SIZE)
    with running(tmp_path, "a", *these, held=held) as a:
        Saver([a.path]).run(tmp_path / "file")
        assert a.state == STOP
        Restorer([a.path]).run(tmp_path / "file")
        assert a.state == RUNNING
        assert a.held == held


def test_what_a_dry_run_cannot_see_it_passes_over(tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", held=os.urandom(SIZE)) as a,
        running(tmp_path, "b", habits.RefusesNearlyAllWhileStopped, held=bytes(SIZE)) as b,
    ):
        with Client(b.path) as client:
            client.set_state("STOP")
        [(_, two)] = Coordinator([(a.path, b.path)]).survey()
        assert two.state == "STOP"


def test_another_kind_of_device_is_found_out_before_anything_is_transferred(tmp_path: Path) -> None:
    held = os.urandom(SIZE)
    with (
        running(tmp_path, "a", held=held) as a,
        running(tmp_path, "b", habits.RefusesNearlyAllWhileStopped, held=bytes(SIZE + 1)) as b,
        running(tmp_path, "c", held=held) as c,
    ):
        with Client(b.path) as client:
            client.set_state("STOP")
        with pytest.raises(
            MigrationFailedError, match="not the same kind of device: region 0"
        ) as failed:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert failed.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held
        Saver([c.path]).run(tmp_path / "file")
        with pytest.raises(
            MigrationFailedError, match=r"as it was saved, and .* not the same kind"
        ):
            Restorer([b.path]).run(tmp_path / "file")
        assert b.state == STOP


def test_a_device_that_never_states_what_it_is_is_refused(tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", habits.NeverReturnsDeviceInfo, held=bytes(SIZE)) as a,
        running(tmp_path, "b", held=bytes(SIZE)) as b,
    ):
        for one, two in ((a, b), (b, a)):
            with pytest.raises(
                CannotMigrateError, match=r"a: DEVICE_GET_INFO is refused \(EINVAL\)"
            ):
                Coordinator([(one.path, two.path)]).run()
        with Client(a.path) as client:
            client.set_state("STOP")
        with pytest.raises(MigrationFailedError, match="a: DEVICE_GET_INFO is refused") as failed:
            Coordinator([(b.path, a.path)]).run()
        assert failed.value.outcome == "source"
        assert b.state == RUNNING
