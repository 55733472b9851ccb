"""A device is moved by one coordinator at a time, and belongs to one migration to its end.

Each of these was found by an attack: two sides ran, or none, and everybody said that all was well.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from support.migration_harness import SPEC, Harness
from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator, Event, Settings
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver

BUSY = "another process is moving this device just now"
UNFINISHED = "an earlier migration of this device was not brought to its end"


class Killed(BaseException):
    """Anybody who coordinates is gone, in the middle of a word."""


@pytest.fixture
def pair(harness: Harness) -> Harness:
    harness.serve("s0")
    harness.serve("d0")
    return harness


def killed_at(harness: Harness, name: str, **fields: str) -> None:
    """Begin a migration, and leave it at an event as a process does that is killed."""

    def report(event: Event) -> None:
        if event.name == name and fields.items() <= event.fields.items():
            raise Killed

    coordinator = Coordinator(
        harness.pairs, spec=SPEC, report=report, journal=claims.beside("s0"), settings=Settings()
    )
    with pytest.raises(Killed):
        coordinator.run()


def test_a_device_is_moved_by_one_at_a_time(pair: Harness):
    with claims.locked(["./s0"]):
        for act in (
            lambda: pair.coordinator().run(),
            lambda: recover([("s0", "d0")], spec=SPEC),
            lambda: recover([("s0", None)], spec=SPEC, keep="source"),
            lambda: Saver(["s0"], spec=SPEC).run("file"),
        ):
            with pytest.raises(CannotMigrateError, match=BUSY) as refusal:
                act()
            assert refusal.value.refused
    assert pair.running == {"s0", "d0"}
    pair.coordinator().run()
    assert pair.running == {"d0"}


def test_a_recovery_does_not_run_beside_a_migration(pair: Harness):
    seen = []

    def watch(exchange) -> None:
        if exchange.what == "command" and not seen:
            with pytest.raises(CannotMigrateError, match=BUSY):
                recover([("s0", "d0")], spec=SPEC)
            seen.append(exchange)

    pair.coordinator(observers=[watch]).run()
    assert seen
    assert pair.running == {"d0"}
    assert pair.hosts["d0"].whole


@pytest.mark.parametrize(
    "at", [("plan", {}), ("phase", {"phase": "judge"}), ("running", {})], ids=lambda at: at[0]
)
def test_what_is_not_finished_is_not_begun_again(pair: Harness, at):
    """By whatever name it is known, at whichever end it stands, and whatever is to be done."""
    killed_at(pair, at[0], **at[1])
    before = pair.states
    for name in ("s1", "d1"):
        pair.serve(name)
    Path("link").symlink_to("s0")
    Path("folder").mkdir()
    for source, destination in (
        ("s0", "d1"),
        ("./folder/../s0", "d1"),
        ("link", "d1"),
        ("d0", "d1"),
        ("s1", "d0"),
    ):
        with pytest.raises(CannotMigrateError, match=UNFINISHED) as refusal:
            Coordinator([(source, destination)], spec=SPEC, journal=claims.beside(source)).run()
        assert refusal.value.hints == ("run: vfio-migration recover s0 d0",)
    with pytest.raises(CannotMigrateError, match=UNFINISHED):
        Saver(["s0"], spec=SPEC).run("file")
    Saver(["s1"], spec=SPEC).run("file", then="run")
    with pytest.raises(CannotMigrateError, match=UNFINISHED):
        Restorer(["d0"], spec=SPEC).run("file")
    assert {name: pair.states[name] for name in before} == before
    finished = recover([("s0", "d0")], spec=SPEC)
    winner = "d0" if finished.outcome == "destination" else "s0"
    assert pair.running == {winner, "s1", "d1"}
    assert pair.hosts[winner].whole
    assert not list(Path().glob("*.migration"))


def test_a_recovery_from_another_folder_goes_by_the_journal(
    pair: Harness, tmp_path_factory, monkeypatch
):
    killed_at(pair, "phase", phase="judge")
    here = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(CannotMigrateError, match="is not a source of the migration"):
        recover([("s0", "d0")], spec=SPEC, journal=here / "s0.migration")
    finished = recover([(str(here / "s0"), str(here / "d0"))], spec=SPEC)
    assert finished.outcome == "destination"
    assert pair.running == {"d0"}
    assert not list(here.glob("*.migration"))


def test_a_claim_that_leads_nowhere_holds_nobody_up(pair: Harness):
    Path("d0.migration").symlink_to("gone")
    pair.coordinator().run()
    assert pair.running == {"d0"}


def test_which_destination_is_kept_has_to_be_known(pair: Harness):
    pair.coordinator().run()
    with pytest.raises(CannotMigrateError, match="which one is not known"):
        recover([("s0", None)], spec=SPEC, keep="destination")
    assert pair.running == {"d0"}


def test_a_table_that_does_not_state_in_which_states_a_device_is_stopped(pair: Harness):
    rows = [row for row in SPEC.activities if row.role != "state_change"]
    spec = dataclasses.replace(SPEC, activities=tuple(rows))
    for act in (
        lambda: Coordinator(pair.pairs, spec=spec),
        lambda: Saver(["s0"], spec=spec),
        lambda: recover([("s0", "d0")], spec=spec),
    ):
        with pytest.raises(CannotMigrateError, match='has no activity with role = "state_change"'):
            act()


def test_an_observer_cannot_stop_it(pair: Harness):
    def report(_event: Event) -> None:
        raise RuntimeError("nobody listens")

    Coordinator(pair.pairs, spec=SPEC, report=report).run()
    assert pair.running == {"d0"}


def test_no_mistake_leaves_a_device_half_way(pair: Harness, monkeypatch):
    """A thread that cannot be started, say."""
    coordinator = pair.coordinator()
    monkeypatch.setattr(
        coordinator._transfer, "rest", lambda *_: (_ for _ in ()).throw(MemoryError("no more"))
    )
    with pytest.raises(Exception, match="MemoryError: no more") as failure:
        coordinator.run()
    assert failure.value.outcome == "source"
    assert pair.running == {"s0"}
    assert pair.hosts["s0"].whole
    assert not list(Path().glob("*.migration"))


def test_a_lock_ends_with_its_process(harness: Harness):
    pid = os.fork()
    if not pid:
        with claims.locked(["s0"]):
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    with claims.locked(["s0"]):
        pass
