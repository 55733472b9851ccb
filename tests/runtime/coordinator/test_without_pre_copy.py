"""Pre-copying is an optimisation: a device that refuses it is stopped, and transferred then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.migration_harness import ALWAYS, SPEC, Harness
from support.peer_habits import servers as habits
from support.peer_habits.base import PRE_COPY, RUNNING, STOP, Peer
from support.peer_habits.running import running
from support.raw_client import MIG_READ
from support.samples import sampled
from vfio_migration.model.plan import default_plans, loads_plans
from vfio_migration.model.spec import SpecError
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Coordinator,
    Event,
    Hooks,
    MigrationFailedError,
)
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.save import Restorer, Saver

SIZE = 10_000
REFUSES: tuple[tuple[type[Peer], ...], ...] = (
    (habits.PreCopyArcFails,),
    (habits.PreCopyReadsFail,),
    (habits.PreCopyFailsPartWay,),
    (habits.LeavesPreCopyByRunning,),
    (habits.PreCopyFailsPartWay, habits.CLibrary),
    (habits.PreCopyReadsFail, habits.GivesNoErrno),
)


@sampled(3)
@pytest.mark.parametrize("judges", [True, False], ids=["judges", "judges nothing"])
@pytest.mark.parametrize("these", REFUSES, ids=str)
def test_a_source_that_refuses_pre_copy_is_stopped_and_migrated(
    tmp_path: Path, these: tuple[type[Peer], ...], judges: bool
) -> None:
    held = os.urandom(SIZE)
    events: list[Event] = []
    other = () if judges else (habits.JudgesNothing,)
    with (
        running(tmp_path, "a", *these, held=held) as a,
        running(tmp_path, "b", *other, held=bytes(SIZE)) as b,
    ):
        summary = Coordinator(
            [(a.path, b.path)], report=events.append, journal=beside(a.path)
        ).run()
        assert (a.state, b.state) == (STOP, RUNNING)
        assert b.held == held
        assert summary.bytes == SIZE + 8  # in one piece, and not what was read before
        [event] = [one for one in events if one.name == "falls_back"]
        assert event.fields["migration"] == "offline"
        assert "is refused" in event.fields["why"]
        assert summary.to_data()["fell_back"] == event.fields["why"]
        stopped = next(one.time for one in events[::-1] if one.name == "stopped")
        ran = next(one.time for one in events if one.name == "running")
        assert stopped < ran
        assert summary.downtime > 0
        assert not beside(a.path).exists()


@pytest.mark.parametrize("these", REFUSES, ids=str)
def test_a_source_that_refuses_pre_copy_is_saved(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    held = os.urandom(SIZE)
    with (
        running(tmp_path, "a", *these, held=held) as a,
        running(tmp_path, "b", held=bytes(SIZE)) as b,
    ):
        saved = Saver([a.path]).run(tmp_path / "file")
        assert saved.fell_back is not None
        assert a.state == STOP
        Restorer([b.path]).run(tmp_path / "file")
        assert b.held == held
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("file")] == ["file"]


def test_a_device_that_does_not_let_itself_be_stopped_runs_on(tmp_path: Path) -> None:
    held = os.urandom(SIZE)
    with (
        running(tmp_path, "a", habits.PreCopyReadsFail, habits.NeverStops, held=held) as a,
        running(tmp_path, "b", held=bytes(SIZE)) as b,
    ):
        with pytest.raises(
            MigrationFailedError, match=r"a: SET_STATE STOP_COPY is refused"
        ) as failed:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert failed.value.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held
        with pytest.raises(MigrationFailedError, match="is refused") as failed:
            Saver([a.path]).run(tmp_path / "file")
        assert failed.value.outcome == "source"
        assert a.state == RUNNING
    assert not (tmp_path / "file").exists()


def test_what_a_program_has_mapped_for_a_destination_is_not_taken_away(tmp_path: Path) -> None:
    """To be loaded anew it would have to be reset without maps; so nothing is begun anew."""
    held = os.urandom(SIZE)
    with (
        running(tmp_path, "a", habits.PreCopyFailsPartWay, held=held) as a,
        running(tmp_path, "b", held=bytes(SIZE)) as b,
    ):
        with Client(b.path) as client, pytest.raises(MigrationFailedError) as failed:
            Coordinator([(a.path, b.path)], clients={b.path: client}).run()
        assert failed.value.outcome == "source"
        assert (a.state, a.held) == (RUNNING, held)
    with (
        running(tmp_path, "c", habits.PreCopyReadsFail, held=held) as a,
        running(tmp_path, "d", held=bytes(SIZE)) as b,
    ):
        with Client(b.path) as client:
            Coordinator([(a.path, b.path)], clients={b.path: client}).run()
        assert b.held == held


def test_one_of_a_group_that_refuses_pre_copy(harness: Harness) -> None:
    """All go back together, the guest is let go, and all are stopped then."""
    for name in ("s0", "d0", "s1", "d1"):
        faults = {("PRE_COPY", "PRE_COPY_P2P"): (ALWAYS, False)} if name == "s1" else None
        harness.serve(name, faults=faults)
    guest: list[str] = []
    hooks = Hooks(pause=lambda: guest.append("pause"), resume=guest.append)
    summary = harness.coordinator(hooks=hooks).run()
    assert summary.fell_back == (
        "plan save, phase quiesce: s1: SET_STATE PRE_COPY_P2P is refused (EIO); it is in PRE_COPY "
        "now"
    )
    assert harness.running == {"d0", "d1"}
    assert all(harness.hosts[name].whole for name in ("d0", "d1"))
    assert guest == ["pause", "source", "pause", "destination"]


def test_a_source_that_failed_for_good_is_not_begun_anew(harness: Harness) -> None:
    """It would have to be reset, and that loses what it holds without a word."""
    harness.serve("s0", faults={("PRE_COPY", "PRE_COPY_P2P"): (1, True)})
    harness.serve("d0")
    assert harness.fail().outcome == "lost"
    assert not [one for one in harness.events if one.name == "falls_back"]


def test_a_source_that_refuses_something_else_is_not_begun_anew(tmp_path: Path) -> None:
    """While the destination is prepared the source is asked what it is; that is no pre-copying."""
    with (
        running(tmp_path, "a", habits.NeverReturnsDeviceInfo, held=bytes(SIZE)) as a,
        running(tmp_path, "b", habits.RefusesNearlyAllWhileStopped, held=bytes(SIZE)) as b,
    ):
        with Client(b.path) as client:
            client.set_state("STOP")
        with pytest.raises(
            (CannotMigrateError, MigrationFailedError), match="DEVICE_GET_INFO is refused"
        ):
            Coordinator([(a.path, b.path)]).run()
        assert a.state == RUNNING


def test_reads_are_tried_no_more_once_one_was_refused(tmp_path: Path) -> None:
    with (
        running(tmp_path, "a", habits.PreCopyReadsFail, held=bytes(SIZE)) as a,
        running(tmp_path, "b", held=bytes(SIZE)) as b,
    ):
        Coordinator([(a.path, b.path)]).run()
        assert len([one for one in a.seen if one == (MIG_READ, PRE_COPY)]) <= 2


def test_a_fallback_is_a_migration_without_one() -> None:
    plans = default_plans(SPEC)
    assert plans.migration("live").fallback == "offline"
    assert plans.migration("offline").fallback is None
    text = '[[plans]]\n[[migrations]]\nname = "live"\nfallback = "live"\n'
    with pytest.raises(SpecError, match=r'migrations\[0\].fallback: "live": is not a migration of'):
        loads_plans(SPEC, text)
