"""Recovery without a journal, with one that is of no use, and with the word of the caller."""

from __future__ import annotations

import errno
import itertools
import json
import os
import socket
from pathlib import Path

import pytest

from support.migration_harness import SPEC, FaultyEdu, Harness
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import CannotMigrateError, MigrationFailedError
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.coordinator.recover import recover

SOURCE = default_plans(SPEC).handovers[2].summary


def guessed(places: str) -> str:
    """What is stated of a source that goes on without a journal."""
    return (
        "there is no journal of a migration; no destination is known to run, and the source can go "
        f"on from where it is ({places}); what it holds is not known here"
    )


STATES = [row.name for row in SPEC.states]
ERROR = SPEC.event("arc_failed_for_good").to
HINTS = (
    "give the place of the journal: --journal FILE",
    "or choose which side is to run, and the other is stopped: --keep source or --keep destination",
)
# As the words of docs/groups.md have it, not as the table does.
RUN = {"RUNNING", "RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"}


def put(harness: Harness, name: str, state: str) -> None:
    """Bring a device to a state, from wherever it is."""
    host = harness.hosts[name]
    with Client(Path(name)) as client:
        client.reset()
        if state == ERROR:
            host.device.faults[("RUNNING", "RUNNING_P2P")] = (1, True)
            with pytest.raises(Exception, match="EIO"):
                client.set_state("RUNNING_P2P")
        else:
            client.set_state(state)
    host.fill()
    assert host.state == state


@pytest.fixture
def two(harness: Harness) -> Harness:
    for name in ("s0", "d0"):
        harness.serve(name, FaultyEdu)
    return harness


@pytest.mark.exhaustive
def test_without_a_journal_in_every_combination_of_states(two: Harness):
    """Nothing is done that a wrong guess would make worse; 64 combinations."""
    recorded: dict[str, int] = {"source": 0, "destination": 0, "refused": 0}
    for source, destination in itertools.product(STATES, STATES):
        put(two, "s0", source)
        put(two, "d0", destination)
        two.arcs.clear()
        # A source in STOP or ERROR has handed its state over, or it is gone.
        if source in ("STOP", ERROR):
            expected = "destination" if destination in RUN else "refused"
        elif source == "RESUMING":
            expected = "refused"  # it is no source, but being loaded itself
        else:
            expected = "refused" if destination in RUN else "source"
        recorded[expected] += 1
        if expected == "refused":
            with pytest.raises(CannotMigrateError) as refusal:
                two.recover()
            assert refusal.value.why == (
                "there is no journal of a migration, and it is not known who is to run: "
                f"s0 in {source}, d0 in {destination}"
            )
            assert refusal.value.hints == HINTS
            assert two.states == {"s0": source, "d0": destination}
            assert two.arcs == []
            continue
        finished = two.recover()
        assert finished.outcome == expected, (source, destination)
        assert finished.problems == []
        assert list(Path().glob("*migration*")) == []
        ended = expected == "destination"  # it may be on its way to somewhere else by now
        if ended or (source == "RUNNING" and destination in ("STOP", ERROR)):
            other = "source" if ended else "destination"
            assert finished.why == f"it runs, the {other} is stopped: nothing to do"
            assert two.states == {"s0": source, "d0": destination}
            assert two.arcs == []
            continue
        if (source, destination) in (("RUNNING", "STOP"), ("RUNNING", ERROR)):
            assert finished.why == "it runs, the destination is stopped: nothing to do"
            assert two.arcs == []
        else:
            assert finished.why == guessed(f"s0 in {source}, d0 in {destination}")
        assert two.states["s0"] == "RUNNING"
        assert not two.hosts["d0"].runs
        assert two.hosts["s0"].whole
    assert recorded == {"source": 20, "destination": 8, "refused": 36}


@pytest.mark.exhaustive
@pytest.mark.parametrize("keep", ["source", "destination"])
def test_keep_in_every_combination_of_states(two: Harness, keep: str):
    """The side that was named runs, the other does not, wherever they stood."""
    winner, loser = ("s0", "d0") if keep == "source" else ("d0", "s0")
    for source, destination in itertools.product(STATES, STATES):
        put(two, "s0", source)
        put(two, "d0", destination)
        failed = (source if keep == "source" else destination) == ERROR
        # One that is still being loaded holds nothing: it must refuse to leave for STOP.
        empty = (source if keep == "source" else destination) == "RESUMING"
        finished = two.recover(keep=keep)
        case = (source, destination, finished)
        assert finished.outcome == ("lost" if failed or empty else keep), case
        if not empty:
            assert not two.hosts[loser].runs, case
            assert two.hosts[winner].state == "RUNNING", case
            assert two.hosts[winner].whole != failed, case
        assert list(Path().glob("*migration*")) == []


@pytest.mark.parametrize("keep", ["source", "destination"])
@pytest.mark.parametrize("holder", ["source", "delivered", "destination"])
def test_keep_has_the_last_word(two: Harness, keep: str, holder: str):
    """Whatever the journal records; it is gone then."""
    coordinator = two.coordinator(observers=[])
    entries = coordinator._entries()
    coordinator._hang_up()
    put(two, "s0", "STOP_COPY")
    put(two, "d0", "RUNNING")
    journal = journals.Journal(Path("s0.migration"), "live", entries, holder)
    journal.begin()
    finished = two.recover(keep=keep)
    assert finished.outcome == keep
    assert two.running == {"s0" if keep == "source" else "d0"}
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize("there", ["s0", "d0"])
def test_keep_the_side_that_is_there(two: Harness, there: str):
    """The other one is gone, and will not come back."""
    removed = "d0" if there == "s0" else "s0"
    two.hosts[removed].stop()
    finished = two.recover(keep="source" if there == "s0" else "destination")
    assert finished.outcome == ("source" if there == "s0" else "destination")
    assert two.hosts[there].state == "RUNNING"
    two.hosts[removed].device.close()
    lone = two.hosts[there]
    two.hosts = {there: lone}


@pytest.mark.parametrize("other", ["s0", "d0"])
@pytest.mark.parametrize("keep", ["source", "destination", None])
def test_nothing_is_started_or_reported_to_be_lost_if_the_user_may_not_connect_to_a_side(
    two: Harness, monkeypatch, keep: str | None, other: str
):
    class Denied(socket.socket):
        def connect(self, address: object, /) -> None:
            if address == other:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            super().connect(address)

    put(two, "d0" if other == "s0" else "s0", "STOP")
    monkeypatch.setattr(socket, "socket", Denied)
    with pytest.raises(CannotMigrateError) as refusal:
        two.recover(keep=keep)
    why = f"{other}: cannot be connected to: Permission denied, and its device may run"
    assert refusal.value.why == why
    assert two.running == {other}


def test_a_server_that_is_busy_and_no_journal_leave_all_undecided(two: Harness):
    with Client("s0"), pytest.raises(MigrationFailedError) as failure:
        recover([("s0", "d0")], spec=SPEC, timeout_s=0.1)
    assert failure.value.outcome == "undecided"
    assert "VERSION is not answered; does it serve another client?" in failure.value.why
    assert "--keep source or --keep destination" in failure.value.hints[1]


def test_keep_the_side_that_has_ended(two: Harness):
    two.hosts["d0"].stop()
    finished = two.recover(keep="destination")
    assert finished.outcome == "lost"
    assert finished.why == "d0: is to run, and cannot be reached any more"
    assert finished.problems[0] == "d0: nobody serves there: No such file or directory"
    assert finished.advice == ["if the source still holds the state: recover with --keep source"]
    # The source was given up by the caller. Better it runs than nobody.
    assert two.hosts["s0"].state == "RUNNING"
    two.hosts["d0"].device.close()
    del two.hosts["d0"]


@pytest.mark.parametrize("name", ["s0", "d0"])
def test_somebody_is_not_there_and_neither_is_a_journal(two: Harness, name: str):
    two.hosts[name].stop()
    with pytest.raises(CannotMigrateError) as refusal:
        recover([("s0", "d0")], spec=SPEC)
    assert refusal.value.why == (
        f"{name}: nobody serves there: No such file or directory, and there is no journal of a "
        "migration"
    )
    assert refusal.value.hints == HINTS
    two.hosts.pop(name).device.close()
    two.hosts = {"s0": next(iter(two.hosts.values()))}


def test_a_source_alone(two: Harness):
    """Its destination is not known. One that runs still goes on; one that is stopped waits."""
    put(two, "s0", "STOP_COPY")
    with pytest.raises(CannotMigrateError, match="it is not known who is to run: s0 in STOP_COPY"):
        recover([("s0", None)], spec=SPEC)
    assert two.hosts["s0"].state == "STOP_COPY"
    put(two, "s0", "PRE_COPY")
    finished = recover([("s0", None)], spec=SPEC)
    assert (finished.outcome, finished.why) == ("source", guessed("s0 in PRE_COPY"))
    assert two.hosts["s0"].state == "RUNNING"
    assert two.hosts["s0"].whole


# --- journals ---


def journal(two: Harness, **changes) -> None:
    coordinator = two.coordinator()
    entries = coordinator._entries()
    coordinator._hang_up()
    data = journals.Journal(None, "live", entries).to_data()
    Path("s0.migration").write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "nothing", "null", '{"format": 1}', '{"format": 1, "devices": [7]}']
)
def test_a_journal_that_is_damaged(two: Harness, text: str):
    Path("s0.migration").write_text(text)
    two.arcs.clear()
    with pytest.raises(CannotMigrateError) as refusal:
        two.recover()
    assert refusal.value.why == (
        "s0.migration: this is not a journal of a migration, or it is damaged"
    )
    assert refusal.value.hints == (
        "choose which side is to run: --keep source or --keep destination",
    )
    assert two.arcs == []
    assert Path("s0.migration").read_text() == text


@pytest.mark.parametrize("keep", ["source", "destination"])
def test_a_damaged_journal_is_replaced_by_a_word(two: Harness, keep: str):
    Path("s0.migration").write_text("nothing")
    assert two.recover(keep=keep).outcome == keep
    assert two.running == {"s0" if keep == "source" else "d0"}
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 3}, "format 3 and holder source are not known here"),
        ({"holder": "nobody"}, "format 2 and holder nobody are not known here"),
        ({"devices": []}, "format 2 and holder source are not known here"),
    ],
)
def test_a_journal_of_another_version(two: Harness, changes, why: str):
    journal(two, **changes)
    with pytest.raises(CannotMigrateError) as refusal:
        two.recover()
    assert refusal.value.why == f"s0.migration: {why}"


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([("s1", "d0")], "s1: is not a source of the migration in s0.migration"),
        ([("s0", "d1")], "d1: s0.migration records that s0 was migrated to d0"),
    ],
)
def test_a_journal_of_other_devices(two: Harness, pairs, why: str):
    journal(two)
    with pytest.raises(CannotMigrateError) as refusal:
        recover(pairs, journal=Path("s0.migration"), spec=SPEC)
    assert refusal.value.why == why
    assert refusal.value.hints == ("run: vfio-migration recover s0 d0",)


def test_a_journal_that_cannot_be_read(two: Harness):
    Path("s0.migration").mkdir()
    with pytest.raises(CannotMigrateError) as refusal:
        two.recover()
    assert refusal.value.why == "s0.migration: is a folder, and no journal"


def test_a_recovery_that_cannot_write(two: Harness, monkeypatch):
    """It states it before it moves anybody whose move must be written down first."""
    journal(two, holder="delivered")
    put(two, "s0", "STOP_COPY")
    put(two, "d0", "STOP")
    two.arcs.clear()
    before = Path("s0.migration").read_text()

    def fsync(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journals.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"s0\.migration: No space left on device"):
        two.recover()
    assert two.arcs == []
    assert Path("s0.migration").read_text() == before
    assert sorted(path.name for path in Path().iterdir()) == ["d0", "s0", "s0.migration"]
