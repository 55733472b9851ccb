"""An arc fails in the middle of a migration: once, again and again, or for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.migration_harness import ALWAYS, SPEC, FaultyEdu, FaultyMemory, Harness
from support.samples import sampled
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import MigrationFailedError
from vfio_migration.runtime.protocol.messages.features import (
    DeviceFeature,
    DeviceFeatureReply,
    FeatureDeviceState,
)

ONCE, AGAIN, FOR_GOOD = (1, False), (ALWAYS, False), (1, True)
HOW = {"once": ONCE, "again and again": AGAIN, "for good": FOR_GOOD}

LOADED, TAKEN, SOURCE, ROLLED_BACK, FAILED_D, FAILED_S = (
    row.summary for row in default_plans(SPEC).handovers
)

# Plan and phase in which an arc of a source is asked for.
SOURCES = {
    ("RUNNING", "PRE_COPY"): "plan save, phase pre-copy",
    ("PRE_COPY", "PRE_COPY_P2P"): "plan save, phase quiesce",
    ("PRE_COPY_P2P", "STOP_COPY"): "plan save, phase stop",
}
PREPARES = {
    ("RUNNING", "RUNNING_P2P"): "plan prepare, phase quiesce",
    ("RUNNING_P2P", "STOP"): "plan prepare, phase stop",
    ("STOP", "RESUMING"): "plan prepare, phase load",
}
STARTS = {
    ("STOP", "RUNNING_P2P"): "plan resume, phase wake",
    ("RUNNING_P2P", "RUNNING"): "plan resume, phase run",
}

ANEW = "it has to be set up anew, or a save restored into it (vfio-migration restore)"


def refused(where: str, device: str, arc: tuple[str, str], how: tuple[int, bool]) -> str:
    now = "ERROR" if how[1] else arc[0]
    return f"{where}: {device}: SET_STATE {arc[1]} is refused (EIO); it is in {now} now"


def failing(
    harness: Harness, who: str, arc: tuple[str, str], how: tuple[int, bool]
) -> MigrationFailedError:
    for name in ("s0", "d0"):
        harness.serve(name, faults={arc: how} if name == who else None)
    return harness.fail()


@pytest.fixture(params=HOW, ids=lambda name: name.replace(" ", "-"))
def how(request) -> tuple[int, bool]:
    return HOW[request.param]


@sampled(2)
@pytest.mark.parametrize("arc", SOURCES, ids="-".join)
def test_of_the_source(harness: Harness, arc, how):
    if how is ONCE or (how is AGAIN and arc[1] != "STOP_COPY"):
        # It can be stopped all the same, and is transferred then.
        for name in ("s0", "d0"):
            harness.serve(name, faults={arc: how} if name == "s0" else None)
        summary = harness.coordinator().run()
        assert summary.fell_back == refused(SOURCES[arc], "s0", arc, how)
        assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
        assert harness.hosts["d0"].whole
        assert not Path("s0.migration").exists()
        return
    failure = failing(harness, "s0", arc, how)
    assert failure.why == refused(SOURCES[arc], "s0", arc, how)
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert not harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()
    if how is FOR_GOOD:
        # A device that failed for good has to be reset, and a reset clears it.
        cleared = f"s0: cleared by a reset; {ANEW}"
        assert (failure.outcome, failure.hints) == ("lost", (FAILED_S, cleared))
        assert not harness.hosts["s0"].whole
    else:
        assert (failure.outcome, failure.hints) == ("source", (SOURCE,))
        assert harness.hosts["s0"].whole


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_of_a_source_that_is_retired(harness: Harness, times: int):
    """It is stopped either way, and is not reset: it holds the state until the other runs."""
    harness.serve("s0", faults={("STOP_COPY", "STOP"): (times, False)})
    harness.serve("d0")
    assert harness.coordinator().run().not_stopped == ()
    assert harness.states == {"s0": "STOP" if times == 1 else "STOP_COPY", "d0": "RUNNING"}
    assert harness.hosts["s0"].whole
    assert harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_of_a_source_that_fails_for_good_when_it_is_retired(harness: Harness):
    harness.serve("s0", faults={("STOP_COPY", "STOP"): FOR_GOOD})
    harness.serve("d0")
    assert harness.coordinator().run().not_stopped == ()
    assert harness.states == {"s0": "ERROR", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole


@sampled(4)
@pytest.mark.parametrize("arc", PREPARES, ids="-".join)
def test_of_a_destination_before_it_is_loaded(harness: Harness, arc, how):
    failure = failing(harness, "d0", arc, how)
    assert failure.why == refused(PREPARES[arc], "d0", arc, how)
    assert failure.outcome == "source"
    assert harness.hosts["s0"].whole
    runs_on = how is AGAIN and arc[1] != "RESUMING"
    if runs_on:
        # Blank, and without maps; but it runs, and that is stated, and kept in mind.
        assert failure.hints == (
            "the source runs, and is left in RUNNING",
            "d0: runs and cannot be stopped",
            "d0: not known to be stopped; once it can be reached run: vfio-migration recover s0 d0",
        )
        assert harness.states == {"s0": "RUNNING", "d0": arc[0]}
        assert Path("s0.migration").exists()
        harness.hosts["d0"].device.faults.clear()
        finished = harness.recover()
        assert (finished.outcome, finished.why, finished.problems) == ("source", SOURCE, [])
    else:
        assert failure.hints == (SOURCE,)
    assert harness.states == {"s0": "RUNNING", "d0": "ERROR" if how is FOR_GOOD else "STOP"}
    assert not Path("s0.migration").exists()


def test_a_loaded_destination_refuses(harness: Harness, how):
    arc = ("RESUMING", "STOP")
    failure = failing(harness, "d0", arc, how)
    why = refused("plan resume, phase judge", "d0", arc, how)
    assert failure.why == why
    if how is ONCE:
        assert (failure.outcome, failure.hints) == ("destination", (LOADED,))
        assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
        assert harness.hosts["d0"].whole
    else:
        assert (failure.outcome, failure.hints) == ("source", (SOURCE,))
        assert harness.states == {"s0": "RUNNING", "d0": "STOP" if how is AGAIN else "ERROR"}
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize("arc", STARTS, ids="-".join)
def test_a_destination_does_not_start(harness: Harness, arc, how):
    """Whether it did anything nobody knows; it is stopped for sure before the source goes on."""
    failure = failing(harness, "d0", arc, how)
    assert failure.why == refused(STARTS[arc], "d0", arc, how)
    if how is ONCE:
        assert (failure.outcome, failure.hints) == ("destination", (TAKEN,))
        assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
        assert harness.hosts["d0"].whole
    else:
        again = refused(STARTS[arc].replace("resume", "recover"), "d0", arc, how)
        hints = (ROLLED_BACK, again) if how is AGAIN else (ROLLED_BACK,)
        assert (failure.outcome, failure.hints) == ("source", hints)
        assert harness.states == {"s0": "RUNNING", "d0": "STOP" if how is AGAIN else "ERROR"}
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()
    # It was stopped before the source was moved again.
    later = harness.arcs[next(i for i, row in enumerate(harness.arcs) if row[0] == "d0") :]
    if how is AGAIN:
        last_of_d0 = max(i for i, row in enumerate(later) if row[0] == "d0")
        first_back = next(i for i, row in enumerate(later) if row[:2] == ("s0", "STOP_COPY"))
        assert last_of_d0 < first_back


@sampled(5)
@pytest.mark.parametrize("who", ["s0", "s1", "d0", "d1"])
@pytest.mark.parametrize("for_good", [False, True])
def test_one_of_two_fails(harness: Harness, who: str, for_good: bool):
    """All of them go back together, those that did as they were asked too."""
    arc = ("PRE_COPY_P2P", "STOP_COPY") if who[0] == "s" else ("RESUMING", "STOP")
    for name in ("s0", "d0", "s1", "d1"):
        kind = FaultyEdu if name[1] == "0" else FaultyMemory
        harness.serve(name, kind, faults={arc: (ALWAYS, for_good)} if name == who else None)
    failure = harness.fail()
    lost = for_good and who[0] == "s"
    assert failure.outcome == ("lost" if lost else "source")
    assert f"{who}: SET_STATE {arc[1]} is refused (EIO)" in failure.why
    assert harness.running == {"s0", "s1"}
    assert {name for name in ("s0", "s1") if harness.hosts[name].whole} == {"s0", "s1"} - (
        {who} if lost else set()
    )
    assert not Path("s0.migration").exists()


def test_all_that_failed_in_a_phase_are_named(harness: Harness):
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, faults={("PRE_COPY_P2P", "STOP_COPY"): ONCE})
    assert harness.fail(migration="offline").why == (
        "plan save, phase stop: "
        "s0: SET_STATE STOP_COPY is refused (EIO); it is in PRE_COPY_P2P now; "
        "s1: SET_STATE STOP_COPY is refused (EIO); it is in PRE_COPY_P2P now"
    )
    failed = [event.fields for event in harness.events if event.name == "failed"]
    assert [row["device"] for row in failed][:3] == ["s0", "s1", None]


def test_what_failed_once_on_the_way_back_is_asked_again(harness: Harness):
    faults = {("PRE_COPY_P2P", "STOP_COPY"): ONCE, ("PRE_COPY_P2P", "RUNNING_P2P"): (2, False)}
    harness.serve("s0", faults=faults)
    harness.serve("d0")
    failure = harness.fail(migration="offline")
    assert failure.outcome == "source"
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole


def test_a_way_back_that_is_shut(harness: Harness):
    """A source that cannot go on and has not failed keeps its state; where it is is stated."""
    shut = {("PRE_COPY_P2P", "STOP_COPY"): ONCE, ("RUNNING_P2P", "RUNNING"): (ALWAYS, False)}
    harness.serve("s0", faults=shut)
    harness.serve("d0")
    failure = harness.fail(migration="offline")
    why = (
        "plan recover, phase run: s0: SET_STATE RUNNING is refused (EIO); it is in RUNNING_P2P now"
    )
    assert failure.outcome == "source"
    assert failure.hints == ("the source runs, and is left in RUNNING_P2P", why)
    assert harness.states == {"s0": "RUNNING_P2P", "d0": "STOP"}
    assert harness.hosts["s0"].whole


@pytest.mark.parametrize("name", ["s0", "d0"])
def test_a_device_that_is_not_where_it_was_led(harness: Harness, name: str):
    """A server may report yes and not do it: what counts is where the device is."""
    for one in ("s0", "d0"):
        harness.serve(one)
    host, serving = harness.hosts[name], harness.hosts[name].server.handlers
    answer = serving.answer

    def instead(command):
        reported, asked = answer(command), command.message
        stopped = host.state in ("STOP_COPY", "STOP") and len(harness.arcs) > 4
        if stopped and isinstance(asked, DeviceFeature) and asked.index == 2 and asked.get:
            running = next(row.value for row in SPEC.states if row.name == "RUNNING")
            return DeviceFeatureReply.got(command.message, FeatureDeviceState(running).pack())
        return reported

    serving.answer = instead
    failure = harness.fail(migration="offline")
    led = "STOP_COPY" if name == "s0" else "STOP"
    assert failure.why == f"{name}: was led to {led} and is in RUNNING"
    serving.answer = answer
