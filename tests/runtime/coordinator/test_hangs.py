"""A server does not answer: it hangs in an arc, or its whole process does, and later goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from support.kill_points import RigPool
from support.migration_harness import SPEC, Harness
from support.samples import sampled
from vfio_migration.model.plan import default_plans

_, TAKEN, SOURCE, *_ = (row.summary for row in default_plans(SPEC).handovers)
SHORT = 0.5
UNANSWERED = "VERSION is not answered; does it serve another client?"
LATE = "not known to be stopped; once it can be reached run: vfio-migration recover s0 d0"


def asks(arc: tuple[str, str]) -> str:
    """What a request for the end of an arc is called."""
    return f"DEVICE_FEATURE SET MIG_DEVICE_STATE {arc[1]}"


def hanging(harness: Harness, who: str, arc: tuple[str, str]) -> threading.Event:
    event = threading.Event()
    for name in ("s0", "d0"):
        harness.serve(name, gate={arc: event} if name == who else None)
    return event


@sampled(3)
@pytest.mark.parametrize(
    ("arc", "where"),
    [
        (("RUNNING", "PRE_COPY"), "plan save, phase pre-copy"),
        (("PRE_COPY", "PRE_COPY_P2P"), "plan save, phase quiesce"),
        (("PRE_COPY_P2P", "STOP_COPY"), "plan save, phase stop"),
    ],
)
def test_a_source_that_hangs_is_not_lost(harness: Harness, arc: tuple[str, str], where: str):
    event = hanging(harness, "s0", arc)
    failure = harness.fail(timeout_s=SHORT)
    why = "s0: does not answer, and its process is there: it may still hold the state"
    assert failure.why == f"{where}: s0: {asks(arc)} is not answered"
    assert failure.outcome == "undecided"
    assert failure.hints == (why, f"s0: {UNANSWERED}", f"s0: {LATE}")
    assert not harness.hosts["d0"].runs
    again = harness.recover(timeout_s=SHORT)
    assert (again.outcome, again.why) == ("undecided", why)
    assert not harness.hosts["d0"].runs
    event.set()
    finished = harness.recover()
    assert (finished.outcome, finished.why, finished.problems) == ("source", SOURCE, [])
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_a_source_that_hangs_when_it_is_retired(harness: Harness):
    event = hanging(harness, "s0", ("STOP_COPY", "STOP"))
    summary = harness.coordinator(timeout_s=SHORT).run()
    assert summary.not_stopped == ("s0",)
    assert harness.states == {"s0": "STOP_COPY", "d0": "RUNNING"}
    assert Path("s0.migration").exists()
    event.set()
    finished = harness.recover()
    assert (finished.outcome, finished.why) == ("destination", TAKEN)
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()


@sampled(3)
@pytest.mark.parametrize(
    ("arc", "where"),
    [
        (("RUNNING", "RUNNING_P2P"), "plan prepare, phase quiesce"),
        (("STOP", "RESUMING"), "plan prepare, phase load"),
        (("RESUMING", "STOP"), "plan resume, phase judge"),
    ],
)
def test_a_destination_that_hangs_before_it_may_run(
    harness: Harness, arc: tuple[str, str], where: str
):
    event = hanging(harness, "d0", arc)
    failure = harness.fail(timeout_s=SHORT)
    assert failure.why == f"{where}: d0: {asks(arc)} is not answered"
    assert failure.outcome == "source"
    assert failure.hints == (SOURCE, f"d0: {LATE}")
    assert harness.hosts["s0"].state == "RUNNING"
    assert harness.hosts["s0"].whole
    event.set()
    assert harness.recover().outcome == "source"
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert not Path("s0.migration").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("arc", "phase"), [(("STOP", "RUNNING_P2P"), "wake"), (("RUNNING_P2P", "RUNNING"), "run")]
)
def test_a_destination_that_hangs_when_it_may_run(
    harness: Harness, arc: tuple[str, str], phase: str
):
    """Nobody can see whether it runs. So the source may not, until it is known or given up."""
    event = hanging(harness, "d0", arc)
    failure = harness.fail(timeout_s=SHORT)
    why = "d0: does not answer, and its process is there: it may run"
    assert failure.why == f"plan resume, phase {phase}: d0: {asks(arc)} is not answered"
    assert failure.outcome == "undecided"
    assert failure.hints == (why, f"d0: {UNANSWERED}", f"d0: {LATE}")
    assert harness.hosts["s0"].state == "STOP_COPY"
    event.set()
    assert harness.recover().outcome == "destination"
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_a_destination_that_hangs_can_be_given_up(harness: Harness):
    """Somebody who knows better states that it is gone, and is believed."""
    event = hanging(harness, "d0", ("STOP", "RUNNING_P2P"))
    assert harness.fail(timeout_s=SHORT).outcome == "undecided"
    finished = harness.recover(keep="source", timeout_s=SHORT)
    assert finished.outcome == "source"
    assert harness.hosts["s0"].state == "RUNNING"
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()
    event.set()


# --- whole processes, stopped at a message boundary ---


@pytest.fixture(scope="module")
def pool():
    with RigPool() as pool:
        yield pool


def hung(pool: RigPool, *victims: str) -> list[tuple[str | None, str]]:
    """Stop a server where it is asked for something, and let it go on after a recovery.

    Returns:
        What the coordinator said, and what the recovery said while the server was stopped.
    """
    one = {"migration": "offline", "kinds": ["edu"]}
    seen = pool.find(one)["migration"]["seen"]
    first = next(i for i, row in enumerate(seen) if row[2].startswith("SET "))
    points = [i for i, row in enumerate(seen) if i >= first and row[:2] == ["command", victims[-1]]]
    orders = [
        {**one, "victims": list(victims), "at": at, "hang": True, "timeout_s": 0.4}
        for at in [*points[:: max(1, len(points) // 4)], points[-1]]
    ]
    recorded = []
    for order, found in zip(orders, pool.finds(orders), strict=True):
        migration, early, *_, last = (found["migration"], *found["recoveries"])
        reported = migration["reported"] and migration["reported"]["outcome"]
        # Never two run, the state is never lost, and once it goes on all can be put right.
        assert last["reported"]["outcome"] in ("source", "destination"), (order, found)
        assert len(found["whole"]) == 1, (order, found)
        assert all(found["whole"].values()), (order, found)
        assert (found["files"], found["processes"]) == ([], [])
        assert [a == b for a, b in found["descriptors"].values()] == [True, True]
        if reported in ("source", "destination"):
            assert last["reported"]["outcome"] == reported
        if reported is not None:
            assert f"/{victims[-1]}" in str(migration["reported"])
        recorded.append((reported, early["reported"]["outcome"]))
    assert "lost" not in str(recorded)
    return recorded


@pytest.mark.exhaustive
def test_the_process_of_a_source_is_stopped(pool: RigPool):
    recorded = hung(pool, "s0")
    assert recorded[0] == ("undecided", "undecided")
    assert recorded[-1] == ("done", "destination")  # when it was to be retired


@pytest.mark.exhaustive
def test_the_process_of_a_destination_is_stopped(pool: RigPool):
    recorded = hung(pool, "d0")
    assert recorded[0] == ("source", "source")
    assert recorded[-1] == ("undecided", "undecided")  # when it was asked for the last time


@pytest.mark.exhaustive
def test_a_process_is_stopped_and_the_coordinator_killed(pool: RigPool):
    """The recovery knows from the journal alone that a destination may run unseen."""
    assert hung(pool, "coordinator", "s0")[0] == (None, "undecided")
    recorded = hung(pool, "coordinator", "d0")
    assert recorded[0] == (None, "source")
    assert recorded[-1] == (None, "undecided")
