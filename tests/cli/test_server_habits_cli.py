"""What the command line states of servers with habits that we did not choose.

Who has which habit is in `support.peer_habits.servers`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, STOP, Peer
from support.peer_habits.running import running
from support.samples import sampled

SIZE = 10_000
HARMLESS: tuple[type[Peer], ...] = (
    Peer,
    habits.PadsReads,
    habits.GivesNoErrno,
    habits.RepliesAsCommand,
    habits.SendsPayloadWithErrors,
    habits.LeavesDataFdZero,
    habits.RefusesNearlyAllWhileStopped,
    habits.RefusesRegionsWhileCopying,
    habits.CallsUnknownFeatureInvalid,
    habits.ResetKeepsState,
    habits.OffersNoPreCopy,
    habits.JudgesNothing,
    habits.PreCopyArcFails,
    habits.LeavesPreCopyByRunning,
    habits.CLibrary,
)
"""What is allowed, or does no harm."""


def test_a_dry_run_leaves_servers_that_exit_before_version(tmp_path: Path, cli) -> None:
    with (
        running(tmp_path, "a", habits.ExitsBeforeVersion) as a,
        running(tmp_path, "b", habits.ExitsBeforeVersion) as b,
    ):
        ran = cli("migrate", a.path, b.path, "--dry-run")
        assert (ran.status, ran.err) == (0, "")
        assert (a.state, b.state) == (RUNNING, RUNNING)


@sampled(3)
@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("migrate a b", 1),
        ("migrate a gone", 2),
        ("migrate a gone --dry-run", 2),
        ("recover a gone", 2),
        ("recover a b", 2),
        ("recover a b --keep source", 0),
        ("save a no/such/file", 2),
        ("save a file gone other", 2),
        ("restore bad a", 2),
        ("status a", 3),
        ("status --connect a", 0),
    ],
)
def test_no_command_hangs_up_before_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli, words: str, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").write_bytes(b"no saved migration")
    with (
        running(tmp_path, "a", habits.ExitsBeforeVersion) as a,
        running(tmp_path, "b", habits.ExitsBeforeVersion, held=bytes(500)) as b,
    ):
        assert cli(*words.split()).status == status
        assert (a.state, b.state in (STOP, RUNNING)) == (RUNNING, True)


@sampled(7)
@pytest.mark.parametrize("habit", HARMLESS, ids=lambda one: one.__name__)
def test_a_recording_of_a_migration_accuses_nobody(tmp_path: Path, cli, habit: type[Peer]) -> None:
    recording = tmp_path / "run.jsonl"
    with (
        running(tmp_path, "a", habit, held=os.urandom(SIZE)) as a,
        running(tmp_path, "b", habit, held=bytes(SIZE)) as b,
    ):
        assert cli("migrate", a.path, b.path, "--record", recording).status == 0
        ran = cli("check-trace", recording)
        assert (ran.status, ran.err) == (0, ""), ran.out
        assert "suspicious" not in ran.out


@pytest.mark.parametrize("habit", [habits.PreCopyReadsFail, habits.PreCopyFailsPartWay])
def test_reads_that_are_refused_in_pre_copy_are_suspicious_and_no_violation(
    tmp_path: Path, cli, habit: type[Peer]
) -> None:
    recording = tmp_path / "run.jsonl"
    with running(tmp_path, "a", habit) as a, running(tmp_path, "b") as b:
        assert cli("migrate", a.path, b.path, "--record", recording).status == 0
    ran = cli("check-trace", recording)
    assert (ran.status, ran.err) == (0, "")
    assert "suspicious: " in ran.out
    assert "MIG_DATA_READ is answered with an error (EIO)" in ran.out
