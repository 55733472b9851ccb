"""Nothing is lost to a destination that judges nothing: what it accepts is not taken for the state.

Servers in processes of their own, with the habits of `support.peer_habits.servers`; every migration
is offline, so that all of the state is what is transferred last.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import explicit_group
from support.peer_habits import servers as habits
from support.peer_habits.base import RESUMING, RUNNING, STOP, STOP_COPY, Peer
from support.peer_habits.running import SIZE, Running, pair, running
from support.raw_client import DMA_UNMAP, RESET
from support.samples import sampled
from vfio_migration.model import load
from vfio_migration.model.plan import Plans, loads_plans
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.journal import beside, read
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver

OFFLINE = Settings(migration="offline")
ACCEPTS = (habits.JudgesNothing,)
KILLED_AT = """
import os, signal, sys
from vfio_migration.runtime.coordinator import Coordinator, Settings
from vfio_migration.runtime.coordinator.journal import beside

source, destination, command = sys.argv[1:]

def watch(exchange):
    if exchange.what == "command" and exchange.command.name == command:
        os.kill(os.getpid(), signal.SIGKILL)

Coordinator(
    [(source, destination)],
    settings=Settings(migration="offline"),
    observers=[watch],
    journal=beside(source),
).run()
"""
"""A coordinator that is killed before it sends such a command for the first time."""


KILLED_ONCE_DELIVERED = """
import os, signal, sys
from vfio_migration.runtime.coordinator import Coordinator, Settings, journal

source, destination = sys.argv[1:]
hold = journal.Journal.hold

def hold_and_die(written, holder):
    hold(written, holder)
    if holder == "delivered":
        os.kill(os.getpid(), signal.SIGKILL)

journal.Journal.hold = hold_and_die
Coordinator(
    [(source, destination)],
    settings=Settings(migration="offline"),
    journal=journal.beside(source),
).run()
"""
"""A coordinator killed when the journal records that the destination was given the state."""


def fails(a: Running, b: Running, **more: object) -> MigrationFailedError:
    """Migrate, which must fail."""
    with pytest.raises(MigrationFailedError) as caught:
        Coordinator(
            [(a.path, b.path)],
            **{"settings": OFFLINE, "journal": beside(a.path), **more},  # type: ignore[arg-type]
        ).run()
    return caught.value


def restarted(folder: Path, server: Running, name: str) -> Running:
    """Kill a server and start it anew, with a blank device."""
    server.kill()
    return Running(folder / name, ACCEPTS, bytes(SIZE))


# --- who runs ---


@sampled(2)
@pytest.mark.parametrize("command", ["MIG_DATA_READ", "MIG_DATA_WRITE"])
def test_after_a_coordinator_killed_before_all_was_delivered_the_source_runs(
    tmp_path: Path, command: str
) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, held):
        words = [sys.executable, "-c", KILLED_AT, a.path, b.path, command]
        assert subprocess.run(words, timeout=60).returncode == -9
        assert (a.state, b.state) == (STOP_COPY, RESUMING)
        journal = read(beside(a.path))
        assert journal is not None
        assert journal.holder == "source"
        finished = recover([(a.path, b.path)])
        assert finished.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held
        assert not beside(a.path).exists()


def test_after_a_coordinator_killed_once_all_was_delivered_the_destination_runs(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (), ()) as (a, b, held):
        words = [sys.executable, "-c", KILLED_ONCE_DELIVERED, a.path, b.path]
        assert subprocess.run(words, timeout=60).returncode == -9
        assert recover([(a.path, b.path)]).outcome == "destination"
        assert (a.state, b.state) == (STOP, RUNNING)
        assert b.held == held


@sampled(2)
@pytest.mark.parametrize("source", [(), (habits.RunsOnceItsClientHangsUp,)])
def test_a_destination_that_its_server_has_reset_is_not_taken_for_the_state(
    tmp_path: Path, source: tuple[type[Peer], ...]
) -> None:
    """The journal records that it was given the whole state; it runs, and nobody told it to."""
    with pair(tmp_path, source, (*ACCEPTS, habits.RunsOnceItsClientHangsUp)) as (a, b, held):
        words = [sys.executable, "-c", KILLED_ONCE_DELIVERED, a.path, b.path]
        assert subprocess.run(words, timeout=60).returncode == -9
        assert b.state == RUNNING
        assert recover([(a.path, b.path)]).outcome == "source"
        assert a.state == RUNNING
        assert a.held == held


def test_a_source_that_its_server_has_started_again_wins_over_what_it_delivered(
    tmp_path: Path,
) -> None:
    """It has run since: the destination holds what it was before."""
    with pair(tmp_path, (habits.RunsOnceItsClientHangsUp,), ()) as (a, b, held):
        words = [sys.executable, "-c", KILLED_ONCE_DELIVERED, a.path, b.path]
        assert subprocess.run(words, timeout=60).returncode == -9
        assert (a.state, b.state) == (RUNNING, RESUMING)
        assert recover([(a.path, b.path)]).outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_a_source_that_dies_at_the_first_read_takes_the_state_with_it(tmp_path: Path) -> None:
    with pair(tmp_path, (habits.DiesUponRead,), ACCEPTS) as (a, b, _held):
        failure = fails(a, b)
        assert failure.outcome == "lost"
        assert b.state == STOP
        words = " ".join([failure.why, *failure.hints])
        assert "holds the whole state" not in words
        assert (
            f"{b.path}: is stopped in STOP with what it was given, which need not be all of it"
            in words
        )


def test_the_command_line_states_that_the_state_is_lost_with_exit_status_1(tmp_path: Path) -> None:
    with pair(tmp_path, (habits.DiesUponRead,), ACCEPTS) as (a, b, _held):
        words = [sys.executable, "-m", "vfio_migration.cli.main", "migrate", a.path, b.path]
        done = subprocess.run([*words, "--no-pre-copy"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "the state is lost" in done.stderr


def test_a_destination_that_refuses_a_write_and_accepts_stop_does_not_run(tmp_path: Path) -> None:
    with pair(tmp_path, (), (habits.RefusesWrites,)) as (a, b, held):
        failure = fails(a, b)
        assert failure.outcome == "source"
        assert "MIG_DATA_WRITE is refused (EINVAL)" in failure.why
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_a_destination_that_does_not_answer_a_write_does_not_run(tmp_path: Path) -> None:
    settings = Settings(migration="offline", timeout_s=0.5)
    with pair(tmp_path, (), (habits.LeavesWritesUnanswered,)) as (a, b, held):
        failure = fails(a, b, settings=settings)
        assert failure.outcome == "source"
        assert a.state == RUNNING
        assert a.held == held
        assert beside(a.path).exists()  # it is not known to be stopped


def test_a_source_started_anew_takes_nothing_from_a_destination_that_was_given_all(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (), (habits.KillsClientUponJudgement, *ACCEPTS)) as (a, b, held):
        words = [sys.executable, "-m", "vfio_migration.cli.main", "migrate", a.path, b.path]
        assert subprocess.run([*words, "--no-pre-copy"], timeout=60).returncode == -9
        blank = restarted(tmp_path, a, "a")
        try:
            assert recover([(a.path, b.path)]).outcome == "destination"
            assert (blank.state, b.state) == (STOP, RUNNING)
            assert b.held == held
        finally:
            blank.kill()


def test_a_destination_that_runs_off_while_it_is_loaded_is_not_started(tmp_path: Path) -> None:
    with pair(tmp_path, (), (habits.RunsOffUponLastWrite, *ACCEPTS)) as (a, b, held):
        failure = fails(a, b)
        assert failure.outcome == "source"
        assert failure.why == f"{b.path}: was led to RESUMING and is in RUNNING"
        assert a.state == RUNNING
        assert a.held == held


def test_a_device_that_runs_off_while_it_is_restored_is_not_reported_to_run_restored(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (), (habits.RunsOffUponLastWrite, *ACCEPTS)) as (a, b, _held):
        Saver([a.path]).run(tmp_path / "saved")
        with pytest.raises(MigrationFailedError, match="was led to RESUMING and is in RUNNING"):
            Restorer([b.path]).run(tmp_path / "saved")
        assert b.state == STOP


def test_a_migration_cancelled_while_the_rest_is_transferred_leaves_the_source_running(
    tmp_path: Path,
) -> None:
    begun: list[Coordinator] = []

    def watch(exchange) -> None:
        if exchange.what == "reply" and exchange.command.name == "MIG_DATA_WRITE":
            begun[0].cancel()

    with pair(tmp_path, (), ACCEPTS) as (a, b, held):
        begun.append(
            Coordinator(
                [(a.path, b.path)], settings=OFFLINE, observers=[watch], journal=beside(a.path)
            )
        )
        with pytest.raises(MigrationFailedError) as caught:
            begun[0].run()
        assert (caught.value.outcome, caught.value.cancelled) == ("source", True)
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_a_source_that_dies_after_all_was_delivered_is_not_missed(tmp_path: Path) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, held):

        def watch(exchange) -> None:
            journal = read(beside(a.path))
            if journal is not None and journal.holder == "delivered":
                a.kill()

        Coordinator(
            [(a.path, b.path)], settings=OFFLINE, observers=[watch], journal=beside(a.path)
        ).run()
        assert a.ended
        assert b.state == RUNNING
        assert b.held == held


# --- plans that say more than is known ---


def without_the_rest() -> Plans:
    _, data = explicit_group.broken(explicit_group.BROKEN / "g7-the-rest-is-not-transferred.toml")
    return loads_plans(load(), explicit_group.to_toml(data))


def test_a_plan_cannot_have_it_written_down_that_what_was_not_transferred_was_delivered(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, held):
        failure = fails(a, b, settings=Settings(), plans=without_the_rest())
        assert failure.outcome == "source"
        assert "but not all of it was transferred" in failure.why
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held


def test_what_was_not_read_to_its_end_is_no_save(tmp_path: Path) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, _b, held):
        with pytest.raises(
            MigrationFailedError, match="has no step that transfers the rest"
        ) as caught:
            Saver([a.path], plans=without_the_rest()).run(tmp_path / "file")
        assert caught.value.outcome == "source"
        assert not (tmp_path / "file").exists()
        assert a.state == RUNNING
        assert a.held == held


# --- the rows of before, which the verifier refutes ---


def of_before() -> Plans:
    _, data = explicit_group.broken(
        explicit_group.BROKEN / "g7-delivered-before-it-is-transferred.toml"
    )
    return loads_plans(load(), explicit_group.to_toml(data))


@pytest.mark.parametrize(
    ("source", "destination"),
    [((habits.DiesUponRead,), ACCEPTS), ((), (habits.RefusesWrites,))],
    ids=["the source dies at the first read", "a write is refused"],
)
def test_by_the_rows_of_before_a_blank_destination_runs(
    tmp_path: Path, monkeypatch, source: tuple[type[Peer], ...], destination: tuple[type[Peer], ...]
) -> None:
    """What the verifier reports them is what happens: these tests would see it."""
    monkeypatch.setattr(Coordinator, "_check_delivered", lambda *_: None)
    with pair(tmp_path, source, destination) as (a, b, held):
        failure = fails(a, b, plans=of_before())
        assert failure.outcome == "destination"
        assert b.state == RUNNING
        assert b.held != held


@sampled(2)
@pytest.mark.parametrize("command", ["MIG_DATA_READ", "MIG_DATA_WRITE"])
def test_by_the_rows_of_before_a_recovery_starts_a_blank_destination(
    tmp_path: Path, command: str
) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, held):
        words = [sys.executable, "-c", KILLED_AT, a.path, b.path, command]
        assert subprocess.run(words, timeout=60).returncode == -9
        journal = read(beside(a.path))
        assert journal is not None
        journal.hold("delivered")  # as they had it written down by then
        assert recover([(a.path, b.path)], plans=of_before()).outcome == "destination"
        assert (a.state, b.state) == (STOP, RUNNING)
        assert b.held != held


# --- journals of before ---


@pytest.mark.parametrize("source", ["lives", "is gone"])
def test_a_journal_of_before_is_read_as_one_that_knows_of_no_delivery(
    tmp_path: Path, source: str
) -> None:
    """It said "both" from before the rest was transferred."""
    with pair(tmp_path, (), ACCEPTS) as (a, b, held):
        coordinator = Coordinator([(a.path, b.path)], journal=beside(a.path))
        entries = coordinator._entries()
        coordinator._hang_up()
        process = {"pid": 0, "started": 0}
        assert entries[0].source_process is not None
        assert entries[0].destination_process is not None
        data = {
            "format": 1,
            "migration": "live",
            "holder": "both",
            "folder": str(tmp_path),
            "devices": [
                {
                    "source": a.path,
                    "source_process": {**process, **entries[0].source_process.to_data()},
                    "destination": b.path,
                    "destination_process": entries[0].destination_process.to_data(),
                }
            ],
        }
        for path, state in ((a.path, "STOP_COPY"), (b.path, "RESUMING")):
            with Client(path) as client:
                client.set_state(state)
        beside(a.path).write_text(json.dumps(data))
        if source == "is gone":
            a.kill()
        finished = recover([(a.path, b.path)])
        assert b.state == STOP
        if source == "lives":
            assert finished.outcome == "source"
            assert a.state == RUNNING
            assert a.held == held
        else:
            assert finished.outcome == "lost"


# --- what is stated ---


def test_a_server_that_answers_and_does_not_state_its_state_is_not_called_lost(
    tmp_path: Path,
) -> None:
    with pair(tmp_path, (habits.RefusesToReturnItsState,), ACCEPTS) as (a, b, held):
        finished = recover([(a.path, b.path)], keep="source")
        assert finished.outcome == "undecided"
        assert finished.why == (
            f"{a.path}: its server answers, and does not return the state of its device: it may "
            "still hold the state"
        )
        assert finished.advice == []
        assert b.state == RUNNING  # nothing was done
        assert a.held == held


@pytest.mark.parametrize("keep", ["source", "destination"])
def test_keep_claims_nothing_of_what_the_side_holds(tmp_path: Path, keep: str) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, _held):
        finished = recover([(a.path, b.path)], keep=keep)  # type: ignore[arg-type]
        assert finished.outcome == keep
        assert finished.why == (
            f"--keep {keep}: it runs because that was asked for; what it holds is not known here"
        )


@sampled(2)
@pytest.mark.parametrize("keep", ["source", "destination"])
def test_keep_states_it_if_the_server_was_started_after_the_migration_began(
    tmp_path: Path, keep: str
) -> None:
    with pair(tmp_path, (), ACCEPTS) as (a, b, _held):
        words = [sys.executable, "-c", KILLED_AT, a.path, b.path, "MIG_DATA_WRITE"]
        assert subprocess.run(words, timeout=60).returncode == -9
        servers = [restarted(tmp_path, a, "a"), restarted(tmp_path, b, "b")]
        try:
            finished = recover([(a.path, b.path)], keep=keep)  # type: ignore[arg-type]
            kept = servers[keep == "destination"]
            assert finished.outcome == "lost"
            assert "holds the whole state" not in finished.why
            assert finished.advice[0].startswith(
                f"{kept.path}: its server was started after the migration began, so its device is "
                "blank"
            )
            assert kept.state == RUNNING
        finally:
            for server in servers:
                server.kill()


def test_a_save_states_what_a_server_answered_that_hides_its_state(tmp_path: Path) -> None:
    these = (habits.HidesItsStateOnceRead, habits.OffersNoPreCopy)
    with running(tmp_path, "a", *these, held=bytes(SIZE)) as a:
        with pytest.raises(MigrationFailedError) as caught:
            Saver([a.path]).run(tmp_path / "file")
        assert caught.value.outcome == "undecided"
        assert not any("cannot be reached" in hint for hint in caught.value.hints)
        assert any("the state of the device is not known" in hint for hint in caught.value.hints)
        assert not (tmp_path / "file").exists()


# --- resets ---


def lines(server: Running) -> list[str]:
    return server._seen.read_text("utf-8").splitlines()


def test_a_device_that_refuses_dma_unmap_is_reset_over_a_new_connection(tmp_path: Path) -> None:
    """Its maps go with the connection."""
    these = (habits.RefusesToUnmap, habits.RefusesEveryStream)
    with pair(tmp_path, (), these) as (a, b, held):
        failure = fails(a, b)
        assert failure.outcome == "source"
        assert (a.state, b.state) == (RUNNING, STOP)
        assert a.held == held
        reported = lines(b)
        unmap, reset = (
            next(i for i, line in enumerate(reported) if line.split()[0] == str(command))
            for command in (DMA_UNMAP, RESET)
        )
        assert "hang-up" in reported[unmap:reset]


def test_a_device_that_keeps_its_maps_is_not_reset(tmp_path: Path) -> None:
    """The connection is somebody else's, who may have mapped memory over it."""
    these = (habits.RefusesToUnmap, habits.RefusesEveryStream)
    events = []
    with pair(tmp_path, (), these) as (a, b, held), Client(b.path) as client:
        failure = fails(a, b, clients={b.path: client}, report=events.append)
        assert failure.outcome == "source"
        assert client.state() == "RESUMING"
        client.close()
        assert a.state == RUNNING
        assert a.held == held
        assert not any(line.split()[0] == str(RESET) for line in lines(b))
        reported = [event.fields["why"] for event in events if event.name == "failed"]
        assert any("DMA_UNMAP is refused (EINVAL): it keeps its maps" in why for why in reported)
