"""An arc fails in the middle of a migration: once, again and again, or for good."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import ALWAYS, SPEC, FaultyEdu, FaultyMemory, Lab

from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import MigrationFailedError
from vfio_migration.runtime.protocol.messages.features import DeviceFeatureReply, FeatureDeviceState

ONCE, AGAIN, FOR_GOOD = (1, False), (ALWAYS, False), (1, True)
HOW = {"once": ONCE, "again and again": AGAIN, "for good": FOR_GOOD}

LOADED, TAKEN, SOURCE, UNDONE, FAILED_D, FAILED_S = (
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

ANEW = "whoever uses it has to set it up anew, or restores a save (vfio-migration restore)"


def refused(where: str, device: str, arc: tuple[str, str], how: tuple[int, bool]) -> str:
    now = "ERROR" if how[1] else arc[0]
    return f"{where}: {device}: SET_STATE {arc[1]} is refused (EIO); it is in {now} now"


def failing(
    lab: Lab, who: str, arc: tuple[str, str], how: tuple[int, bool]
) -> MigrationFailedError:
    for name in ("s0", "d0"):
        lab.serve(name, faults={arc: how} if name == who else None)
    return lab.fail()


@pytest.fixture(params=HOW, ids=lambda name: name.replace(" ", "-"))
def how(request) -> tuple[int, bool]:
    return HOW[request.param]


@pytest.mark.parametrize("arc", SOURCES, ids="-".join)
def test_of_the_source(lab: Lab, arc, how):
    if how is ONCE or (how is AGAIN and arc[1] != "STOP_COPY"):
        # It can be stopped all the same, and is transferred then.
        for name in ("s0", "d0"):
            lab.serve(name, faults={arc: how} if name == "s0" else None)
        summary = lab.coordinator().run()
        assert summary.fell_back == refused(SOURCES[arc], "s0", arc, how)
        assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
        assert lab.hosts["d0"].whole
        assert not Path("s0.migration").exists()
        return
    failure = failing(lab, "s0", arc, how)
    assert failure.why == refused(SOURCES[arc], "s0", arc, how)
    assert lab.states == {"s0": "RUNNING", "d0": "STOP"}
    assert not lab.hosts["d0"].whole
    assert not Path("s0.migration").exists()
    if how is FOR_GOOD:
        # A device that failed for good has to be reset, and a reset clears it.
        cleared = f"s0: cleared by a reset; {ANEW}"
        assert (failure.outcome, failure.hints) == ("lost", (FAILED_S, cleared))
        assert not lab.hosts["s0"].whole
    else:
        assert (failure.outcome, failure.hints) == ("source", (SOURCE,))
        assert lab.hosts["s0"].whole


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_of_a_source_that_is_retired(lab: Lab, times: int):
    """It stands still either way, and is not reset: it holds the state until the other runs."""
    lab.serve("s0", faults={("STOP_COPY", "STOP"): (times, False)})
    lab.serve("d0")
    assert lab.coordinator().run().not_stopped == ()
    assert lab.states == {"s0": "STOP" if times == 1 else "STOP_COPY", "d0": "RUNNING"}
    assert lab.hosts["s0"].whole
    assert lab.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_of_a_source_that_fails_for_good_when_it_is_retired(lab: Lab):
    lab.serve("s0", faults={("STOP_COPY", "STOP"): FOR_GOOD})
    lab.serve("d0")
    assert lab.coordinator().run().not_stopped == ()
    assert lab.states == {"s0": "ERROR", "d0": "RUNNING"}
    assert lab.hosts["d0"].whole


@pytest.mark.parametrize("arc", PREPARES, ids="-".join)
def test_of_a_destination_before_it_is_loaded(lab: Lab, arc, how):
    failure = failing(lab, "d0", arc, how)
    assert failure.why == refused(PREPARES[arc], "d0", arc, how)
    assert failure.outcome == "source"
    assert lab.hosts["s0"].whole
    runs_on = how is AGAIN and arc[1] != "RESUMING"
    if runs_on:
        # Blank, and without maps; but it runs, and that is said, and kept in mind.
        assert failure.hints == (
            "the source runs, and is left in RUNNING",
            "d0: runs and cannot be stopped",
            "d0: not known to stand still; once it can be reached run: "
            "vfio-migration recover s0 d0",
        )
        assert lab.states == {"s0": "RUNNING", "d0": arc[0]}
        assert Path("s0.migration").exists()
        lab.hosts["d0"].device.faults.clear()
        finished = lab.recover()
        assert (finished.outcome, finished.why, finished.problems) == ("source", SOURCE, [])
    else:
        assert failure.hints == (SOURCE,)
    assert lab.states == {"s0": "RUNNING", "d0": "ERROR" if how is FOR_GOOD else "STOP"}
    assert not Path("s0.migration").exists()


def test_a_loaded_destination_refuses(lab: Lab, how):
    arc = ("RESUMING", "STOP")
    failure = failing(lab, "d0", arc, how)
    why = refused("plan resume, phase judge", "d0", arc, how)
    assert failure.why == why
    if how is ONCE:
        assert (failure.outcome, failure.hints) == ("destination", (LOADED,))
        assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
        assert lab.hosts["d0"].whole
    else:
        assert (failure.outcome, failure.hints) == ("source", (SOURCE,))
        assert lab.states == {"s0": "RUNNING", "d0": "STOP" if how is AGAIN else "ERROR"}
    assert lab.hosts["s0"].whole
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize("arc", STARTS, ids="-".join)
def test_a_destination_does_not_start(lab: Lab, arc, how):
    """Whether it did anything nobody can tell; it is stopped for sure before the source goes on."""
    failure = failing(lab, "d0", arc, how)
    assert failure.why == refused(STARTS[arc], "d0", arc, how)
    if how is ONCE:
        assert (failure.outcome, failure.hints) == ("destination", (TAKEN,))
        assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
        assert lab.hosts["d0"].whole
    else:
        again = refused(STARTS[arc].replace("resume", "recover"), "d0", arc, how)
        hints = (UNDONE, again) if how is AGAIN else (UNDONE,)
        assert (failure.outcome, failure.hints) == ("source", hints)
        assert lab.states == {"s0": "RUNNING", "d0": "STOP" if how is AGAIN else "ERROR"}
    assert lab.hosts["s0"].whole
    assert not Path("s0.migration").exists()
    # It was stopped before the source was moved again.
    later = lab.arcs[next(i for i, row in enumerate(lab.arcs) if row[0] == "d0") :]
    if how is AGAIN:
        last_of_d0 = max(i for i, row in enumerate(later) if row[0] == "d0")
        first_back = next(i for i, row in enumerate(later) if row[:2] == ("s0", "STOP_COPY"))
        assert last_of_d0 < first_back


@pytest.mark.parametrize("who", ["s0", "s1", "d0", "d1"])
@pytest.mark.parametrize("for_good", [False, True])
def test_one_of_two_fails(lab: Lab, who: str, for_good: bool):
    """All of them go back together, those that did as they were asked too."""
    arc = ("PRE_COPY_P2P", "STOP_COPY") if who[0] == "s" else ("RESUMING", "STOP")
    for name in ("s0", "d0", "s1", "d1"):
        kind = FaultyEdu if name[1] == "0" else FaultyMemory
        lab.serve(name, kind, faults={arc: (ALWAYS, for_good)} if name == who else None)
    failure = lab.fail()
    lost = for_good and who[0] == "s"
    assert failure.outcome == ("lost" if lost else "source")
    assert f"{who}: SET_STATE {arc[1]} is refused (EIO)" in failure.why
    assert lab.running == {"s0", "s1"}
    assert {name for name in ("s0", "s1") if lab.hosts[name].whole} == {"s0", "s1"} - (
        {who} if lost else set()
    )
    assert not Path("s0.migration").exists()


def test_all_that_failed_in_a_phase_are_named(lab: Lab):
    for name in ("s0", "d0", "s1", "d1"):
        lab.serve(name, faults={("PRE_COPY_P2P", "STOP_COPY"): ONCE})
    assert lab.fail(migration="offline").why == (
        "plan save, phase stop: "
        "s0: SET_STATE STOP_COPY is refused (EIO); it is in PRE_COPY_P2P now; "
        "s1: SET_STATE STOP_COPY is refused (EIO); it is in PRE_COPY_P2P now"
    )
    failed = [event.fields for event in lab.events if event.name == "failed"]
    assert [row["device"] for row in failed][:3] == ["s0", "s1", None]


def test_what_failed_once_on_the_way_back_is_asked_again(lab: Lab):
    faults = {("PRE_COPY_P2P", "STOP_COPY"): ONCE, ("PRE_COPY_P2P", "RUNNING_P2P"): (2, False)}
    lab.serve("s0", faults=faults)
    lab.serve("d0")
    failure = lab.fail(migration="offline")
    assert failure.outcome == "source"
    assert lab.states == {"s0": "RUNNING", "d0": "STOP"}
    assert lab.hosts["s0"].whole


def test_a_way_back_that_is_shut(lab: Lab):
    """A source that cannot go on and has not failed keeps its state; where it stands is said."""
    shut = {("PRE_COPY_P2P", "STOP_COPY"): ONCE, ("RUNNING_P2P", "RUNNING"): (ALWAYS, False)}
    lab.serve("s0", faults=shut)
    lab.serve("d0")
    failure = lab.fail(migration="offline")
    why = (
        "plan recover, phase run: s0: SET_STATE RUNNING is refused (EIO); it is in RUNNING_P2P now"
    )
    assert failure.outcome == "source"
    assert failure.hints == ("the source runs, and is left in RUNNING_P2P", why)
    assert lab.states == {"s0": "RUNNING_P2P", "d0": "STOP"}
    assert lab.hosts["s0"].whole


@pytest.mark.parametrize("name", ["s0", "d0"])
def test_a_device_that_is_not_where_it_was_led(lab: Lab, name: str):
    """A server may say yes and not do it: what counts is where the device stands."""
    for one in ("s0", "d0"):
        lab.serve(one)
    host, serving = lab.hosts[name], lab.hosts[name].server.handlers
    answer = serving.answer

    def instead(command):
        said = answer(command)
        stopped = host.state in ("STOP_COPY", "STOP") and len(lab.arcs) > 4
        if stopped and getattr(said, "index", None) == 2 and said.get:
            running = next(row.value for row in SPEC.states if row.name == "RUNNING")
            return DeviceFeatureReply.got(command.message, FeatureDeviceState(running).pack())
        return said

    serving.answer = instead
    failure = lab.fail(migration="offline")
    led = "STOP_COPY" if name == "s0" else "STOP"
    assert failure.why == f"{name}: was led to {led} and is in RUNNING"
    serving.answer = answer
