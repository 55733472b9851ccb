"""A migration is cancelled, by somebody or because it is too slow: who runs, runs whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.migration_harness import SPEC, FaultyEdu, FaultyMemory, Harness
from support.samples import sample, sampled
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import Hooks, MigrationFailedError
from vfio_migration.runtime.coordinator import journal as journals

LOADED, _, SOURCE, *_ = (row.summary for row in default_plans(SPEC).handovers)


class Cancels:
    """A migration that is cancelled at a message boundary, and what came of it.

    Attributes:
        tried: Whether it has so many boundaries.
        late: Whether the journal said by then that the destination may run, or was gone.
        failure: What was raised.
        guest: What its owner was reported.
    """

    def __init__(self, harness: Harness, migration: str, number: int) -> None:
        self.tried = self.late = False
        self.failure: MigrationFailedError | None = None
        self.guest: list[str] = []
        self._number, self._seen = number, 0
        hooks = Hooks(pause=lambda: self.guest.append("paused"), resume=self.guest.append)
        self._coordinator = harness.coordinator(migration=migration, observers=[self], hooks=hooks)
        try:
            self._coordinator.run()
        except MigrationFailedError as failure:
            self.failure = failure

    def __call__(self, _exchange) -> None:
        if self._seen == self._number:
            found = journals.read(Path("s0.migration"))
            self.tried = True
            self.late = found is None or found.holder == "destination"
            self._coordinator.cancel()
        self._seen += 1


@pytest.mark.exhaustive
@pytest.mark.parametrize("migration", sample(["offline", "live"], 2))
def test_at_every_boundary(harness: Harness, migration: str):
    """The source runs, until the destination has all of it: then it is too late, and it runs.

    Between the two the rows of [[handovers]] decide, and they ask the destination: a source that
    was preferred, and died before it ran, would leave nobody.
    """
    for name in ("s0", "d0"):
        harness.serve(name)
    became: list[str] = []
    while (found := Cancels(harness, migration, len(became))).tried:
        failure = found.failure
        assert (failure is None) == found.late
        if failure is not None:
            row = SOURCE if failure.outcome == "source" else LOADED
            assert failure.cancelled
            assert failure.why == "cancelled"
            assert failure.hints[0] == row
        outcome = "went on" if failure is None else failure.outcome
        runs, side = ("s0", "source") if outcome == "source" else ("d0", "destination")
        assert harness.running == {runs}
        assert harness.hosts[runs].whole
        assert found.guest in ([], ["paused", side])
        assert not Path("s0.migration").exists()
        for host in harness.hosts.values():
            host.server.engine.reset()
        harness.hosts["s0"].fill()
        became.append(outcome)
    order = ["source", "destination", "went on"]
    assert became == sorted(became, key=order.index)
    assert became.count("source") > 80
    assert became.count("destination") >= 1
    assert became.count("went on") > 8


def test_of_two_devices_while_they_stream(harness: Harness):
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, FaultyEdu if name[1] == "0" else FaultyMemory)
    begun = []

    def watch(exchange) -> None:
        begun.append(exchange.command and exchange.command.name)
        if begun.count("MIG_DATA_WRITE") == 5:
            coordinator.cancel()

    coordinator = harness.coordinator(observers=[watch], chunk=4096)
    with pytest.raises(MigrationFailedError) as failure:
        coordinator.run()
    assert (failure.value.outcome, failure.value.cancelled) == ("source", True)
    assert harness.running == {"s0", "s1"}
    assert harness.hosts["s0"].whole
    assert harness.hosts["s1"].whole
    # Both can be migrated as if nothing had been.
    harness.coordinator().run()
    assert harness.running == {"d0", "d1"}
    assert harness.hosts["d0"].whole
    assert harness.hosts["d1"].whole


def test_a_cancelled_migration_whose_source_has_ended(harness: Harness):
    """Better the destination than nobody."""
    for name in ("s0", "d0"):
        harness.serve(name)

    def watch(exchange) -> None:
        command = exchange.command
        judged = exchange.what == "command" and exchange.peer == "d0" and at(command) == "STOP"
        if judged and harness.hosts["d0"].state == "RESUMING":
            harness.hosts["s0"].stop()
            coordinator.cancel()

    def at(command) -> str | None:
        if command.name != "DEVICE_FEATURE" or not command.set:
            return None
        value = int.from_bytes(bytes(command.data[:4]), "little")
        return next(row.name for row in SPEC.states if row.value == value)

    coordinator = harness.coordinator(observers=[watch])
    with pytest.raises(MigrationFailedError) as failure:
        coordinator.run()
    assert (failure.value.outcome, failure.value.cancelled) == ("destination", True)
    assert failure.value.hints[0] == LOADED
    assert harness.hosts["d0"].state == "RUNNING"
    assert harness.hosts["d0"].whole
    harness.hosts["s0"].device.close()
    del harness.hosts["s0"]


def test_too_slow(harness: Harness):
    """It changes faster than it may be transferred, and the user has chosen what to do then."""
    harness.serve("s0", FaultyMemory, size=1 << 20, rate=1 << 30)
    harness.serve("d0", FaultyMemory, size=1 << 20)
    failure = harness.fail(downtime=0.01, bandwidth=4 << 20, max_passes=3, if_slow="cancel")
    assert (failure.outcome, failure.cancelled) == ("source", False)
    assert failure.hints[0] == SOURCE
    assert failure.hints[-1].startswith("allow a longer downtime")
    assert failure.why.startswith("after 3 passes the devices would still be stopped for ")
    assert failure.why.endswith(
        " s, and 0.01 s are allowed: they change faster than they can be transferred"
    )
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}


def test_too_slow_and_stopped_all_the_same(harness: Harness):
    harness.serve("s0", FaultyMemory, size=1 << 20, rate=1 << 30)
    harness.serve("d0", FaultyMemory, size=1 << 20)
    summary = harness.coordinator(downtime=0.01, bandwidth=4 << 20, max_passes=3).run()
    assert summary.passes == 4  # the rest is the last one, and none of those three
    assert summary.expected_downtime is not None
    assert summary.downtime > summary.expected_downtime / 4 > 0.01
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}


@sampled(2)
@pytest.mark.parametrize("downtime", [0.5, 5.0])
def test_a_device_that_is_idle_is_not_slow(harness: Harness, downtime: float):
    """It has nothing to stream, which takes no bandwidth: that is no reason to give up."""
    for name in ("s0", "d0"):
        harness.serve(name)
    passes = []
    for _ in range(5):
        summary = harness.coordinator(downtime=downtime, if_slow="cancel").run()
        passes.append(summary.passes)
        for host in harness.hosts.values():
            host.server.engine.reset()
        harness.hosts["s0"].fill()
    assert passes == [2] * 5


def test_what_is_allowed_is_less_than_the_requests_take(harness: Harness):
    for name in ("s0", "d0"):
        harness.serve(name)
    failure = harness.fail(downtime=1e-6, if_slow="cancel")
    assert failure.outcome == "source"
    assert "are allowed" in failure.why
