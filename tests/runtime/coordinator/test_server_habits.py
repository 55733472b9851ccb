"""Servers with habits that we did not choose are migrated, saved, restored and recovered like ours.

Who has which habit is in `support.peer_habits.servers`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, STOP, Peer
from support.peer_habits.running import SIZE, pair, running
from support.samples import sampled
from vfio_migration.runtime.client import Client, ClientError
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.errors import CannotMigrateError, CoordinatorError
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver

HARMLESS: tuple[tuple[type[Peer], ...], ...] = (
    (),
    (habits.PadsReads,),
    (habits.GivesNoErrno,),
    (habits.RepliesAsCommand,),
    (habits.SendsPayloadWithErrors,),
    (habits.LeavesDataFdZero,),
    (habits.RefusesNearlyAllWhileStopped,),
    (habits.RefusesRegionsWhileCopying,),
    (habits.WantsNul,),
    (habits.CallsUnknownFeatureInvalid,),
    (habits.ExitsBeforeVersion,),
    (habits.ResetKeepsState,),
    (habits.StartsLoggingTwice,),
    (habits.OffersNoPreCopy,),
    (habits.JudgesNothing,),
    (habits.PreCopyArcFails,),
    (habits.PreCopyReadsFail,),
    (habits.PreCopyFailsPartWay,),
    (habits.LeavesPreCopyByRunning,),
    (habits.CLibrary,),
    (habits.CLibrary, habits.OffersNoPreCopy),
)
"""Habits in spite of which everything succeeds."""


def named(these: tuple[type[Peer], ...]) -> str:
    return "-".join(one.__name__ for one in these) or "none"


@sampled(7)
@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_device_is_migrated_and_back(tmp_path: Path, these: tuple[type[Peer], ...]) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        for one, other in ((a, b), (b, a)):
            assert b.held != held or one is b
            Coordinator([(one.path, other.path)], journal=beside(one.path)).run()
            assert (one.state, other.state) == (STOP, RUNNING)
            assert other.held == held
        assert not a.ended
        assert not b.ended


@sampled(7)
@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_device_is_saved_and_restored(tmp_path: Path, these: tuple[type[Peer], ...]) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        Saver([a.path]).run(tmp_path / "file")
        Restorer([b.path]).run(tmp_path / "file")
        assert (a.state, b.state) == (STOP, RUNNING)
        assert b.held == held


@sampled(6)
@pytest.mark.parametrize("these", HARMLESS, ids=named)
def test_a_migration_given_up_half_way_is_recovered(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        for path, state in ((a.path, "STOP_COPY"), (b.path, "RESUMING")):
            with Client(path) as client:
                client.set_state(state)
        finished = recover([(a.path, b.path)])
        assert finished.outcome == "source"
        assert a.state == RUNNING
        assert a.held == held


# --- connections ---


def test_a_refused_migration_leaves_servers_that_exit_before_version(tmp_path: Path) -> None:
    these = (habits.ExitsBeforeVersion,)
    with (
        running(tmp_path, "a", *these, held=bytes(1000)) as a,
        running(tmp_path, "b", *these, held=bytes(2000)) as b,
    ):
        with pytest.raises(CannotMigrateError, match="not the same kind of device"):
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert (a.state, b.state) == (RUNNING, RUNNING)


def test_one_server_that_is_not_there_does_not_end_the_other(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.ExitsBeforeVersion) as a:
        with pytest.raises((CoordinatorError, ClientError)):
            Coordinator([(a.path, str(tmp_path / "b"))], journal=beside(a.path)).run()
        assert a.state == RUNNING


def test_a_migration_between_servers_that_exit_when_it_is_over(tmp_path: Path) -> None:
    these = (habits.ExitsOnHangUp,)
    with pair(tmp_path, these, these) as (a, b, _held):
        Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert (a.ends(), b.ends()) == (0, 0)
        assert (a.connections, b.connections) == (1, 1)


# --- streams: what may be lost ---

OFFLINE = Settings(migration="offline")


@pytest.mark.parametrize("settings", [Settings(), OFFLINE], ids=["live", "offline"])
def test_a_destination_that_refuses_writes_and_accepts_the_rest_never_wins(
    tmp_path: Path, settings: Settings
) -> None:
    with pair(tmp_path, (), (habits.RefusesWrites,)) as (a, b, held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert caught.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


@pytest.mark.parametrize("settings", [Settings(), OFFLINE], ids=["live", "offline"])
def test_data_behind_a_short_read_fails_the_migration(tmp_path: Path, settings: Settings) -> None:
    with pair(tmp_path, (habits.ReadsShort,), (habits.JudgesNothing,)) as (a, b, held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert caught.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_data_behind_a_short_read_is_not_saved(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.ReadsShort, held=b"x" * SIZE) as a:
        with pytest.raises(MigrationFailedError):
            Saver([a.path]).run(tmp_path / "file")
        assert not (tmp_path / "file").exists()
        assert a.state == RUNNING


DEATHS = [habits.DiesUponRead, habits.DiesUponSecondRead, habits.EndsSlowlyUponRead]


@sampled(3)
@pytest.mark.parametrize("dies", DEATHS)
@pytest.mark.parametrize("settings", [Settings(), OFFLINE], ids=["live", "offline"])
def test_a_source_that_dies_before_the_end_of_its_stream_is_a_lost_state(
    tmp_path: Path, dies: type[Peer], settings: Settings
) -> None:
    with pair(tmp_path, (dies,), (habits.JudgesNothing,)) as (a, b, _held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert caught.value.outcome == "lost"
        assert a.ended
        assert b.state != RUNNING


@pytest.mark.parametrize("settings", [Settings(), OFFLINE], ids=["live", "offline"])
def test_a_destination_that_dies_upon_a_write_leaves_the_source_running(
    tmp_path: Path, settings: Settings
) -> None:
    with pair(tmp_path, (), (habits.DiesUponWrite,)) as (a, b, held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert caught.value.outcome == "source"
        assert b.ended
        assert a.state == RUNNING
        assert a.held == held


@sampled(6)
@pytest.mark.parametrize("options", [(), ("--no-pre-copy",)], ids=["live", "offline"])
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ((habits.KillsClientUponRead,), ()),
        ((), (habits.KillsClientUponWrite,)),
        ((habits.KillsClientUponRead, habits.RunsOnceItsClientHangsUp), ()),
    ],
    ids=["first-read", "first-write", "first-read-and-runs-by-itself"],
)
def test_a_coordinator_killed_in_the_stream_leaves_the_state_to_the_source(
    tmp_path: Path,
    source: tuple[type[Peer], ...],
    destination: tuple[type[Peer], ...],
    options: tuple[str, ...],
) -> None:
    blind = (*destination, habits.JudgesNothing)
    with pair(tmp_path, source, blind) as (a, b, held):
        command = [sys.executable, "-m", "vfio_migration.cli.main", "migrate", a.path, b.path]
        killed = subprocess.run([*command, *options], capture_output=True, check=False)
        assert killed.returncode == -signal.SIGKILL
        finished = recover([(a.path, b.path)])
        assert finished.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


@pytest.mark.parametrize("these", [(habits.OffersNoPreCopy,), ()], ids=["plain", "pre-copy"])
def test_a_destination_that_refuses_the_stream_leaves_the_source_running(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    with pair(tmp_path, these, (habits.RefusesEveryStream, *these)) as (a, b, held):
        with pytest.raises(MigrationFailedError, match=r"SET_STATE STOP .*EBADMSG") as caught:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert caught.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held
    assert not beside(a.path).exists()


def test_a_destination_that_does_not_start_leaves_the_source_running(tmp_path: Path) -> None:
    with pair(tmp_path, (), (habits.DoesNotStart,)) as (a, b, held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert caught.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_a_destination_that_does_not_leave_resuming_is_not_reported_to_take_a_migration(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (habits.DiesUponRead,), (habits.ResetKeepsState,)) as (a, b, _held):
        with pytest.raises(MigrationFailedError) as caught:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert caught.value.outcome == "lost"
        assert (
            f"{b.path}: is stopped in RESUMING, and cannot be migrated to there; "
            "if it holds nothing that is needed: start its server anew"
        ) in caught.value.hints
        assert not any("migrated to again" in hint for hint in caught.value.hints)
