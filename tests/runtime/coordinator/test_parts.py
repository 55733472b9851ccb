"""The parts of a coordinator, each by itself."""

from __future__ import annotations

import json
import os
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.migration_harness import SPEC, Harness
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    CoordinatorError,
    Event,
    MigrationFailedError,
    Settings,
    StepFailedError,
)
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.endpoint import Endpoint, Shape
from vfio_migration.runtime.coordinator.group import Group
from vfio_migration.runtime.coordinator.pump import Meter, Stream
from vfio_migration.runtime.coordinator.transfer import Transfer
from vfio_migration.runtime.transport.peer_process import NOBODY, Process

# --- the limit ---


@given(
    st.integers(1, 1 << 30),
    st.lists(st.tuples(st.integers(0, 1 << 24), st.floats(0, 2)), min_size=1, max_size=40),
)
def test_nobody_who_waits_as_asked_goes_over_the_limit(rate: int, sends: list[tuple[int, float]]):
    """At no time has more been sent than the rate allows, a twentieth of a second's worth apart."""
    now = 0.0
    bandwidth = Bandwidth(rate, clock=lambda: now)
    sent = 0
    for size, idle in sends:
        now += idle
        # The one that goes now may be longer than what is allowed by now: it is paid for after.
        assert sent <= rate * (now + 0.05) + 1e-6 * (sent + 1)
        sent += size
        now += bandwidth.spend(size)


@given(st.integers(1, 1 << 30), st.lists(st.integers(1, 1 << 24), min_size=1, max_size=40))
def test_nobody_waits_longer_than_the_limit_asks_for(rate: int, sizes: list[int]):
    now = 0.0
    bandwidth = Bandwidth(rate, clock=lambda: now)
    for size in sizes:
        now += bandwidth.spend(size)
    assert now <= sum(sizes) / rate * (1 + 1e-9) + 1e-9


def test_no_limit():
    assert Bandwidth(None).spend(1 << 60) == 0.0


@pytest.mark.parametrize("rate", [0, -1])
def test_no_bytes_a_second_is_no_limit(rate: int):
    with pytest.raises(ValueError, match=f"{rate} bytes a second: must be more than 0"):
        Bandwidth(rate)


def test_threads_share_a_limit():
    now = 0.0
    bandwidth = Bandwidth(1000, clock=lambda: now)
    threads = [
        threading.Thread(target=lambda: [bandwidth.spend(1) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bandwidth.spend(0) == pytest.approx(2.0)


# --- the meter ---


def test_a_meter_knows_nothing_at_first():
    meter = Meter()
    assert meter.rate == 0.0
    meter.add(5, now=1.0)
    assert meter.rate == 0.0
    meter.add(9, now=1.0)
    assert meter.rate == 0.0


@given(st.floats(1, 1e9), st.integers(2, 200), st.floats(0.001, 1))
def test_a_meter_shows_a_steady_rate(rate: float, count: int, apart: float):
    meter = Meter()
    for number in range(count):
        meter.add(round(rate * number * apart), now=number * apart)
    assert meter.rate == pytest.approx(rate, rel=0.01, abs=2 / apart)


def test_a_meter_forgets():
    """What was two seconds ago counts no more."""
    meter = Meter(window=2.0)
    for number in range(100):
        meter.add(number * 1000, now=number / 10)
    for number in range(100, 125):
        meter.add(99 * 1000, now=number / 10)
    assert meter.rate == 0.0


# --- what is stated ---


def test_errors_state_what_to_do():
    error = MigrationFailedError("it broke", "source", ["do this", "and that"], cancelled=True)
    assert str(error) == "it broke\n  do this\n  and that"
    assert (error.why, error.outcome, error.cancelled) == ("it broke", "source", True)
    assert isinstance(error, CoordinatorError)
    assert str(StepFailedError("no", ["a"])) == "no"
    assert StepFailedError("no", ["a"]).peers == ("a",)


def test_events_are_plain_data():
    event = Event("moved", {"device": "s0"}, time=12.5)
    assert event.to_data(10.0) == {"event": "moved", "time": 2.5, "device": "s0"}
    json.dumps(event.to_data(10.0))


@pytest.mark.parametrize(
    ("one", "other", "reported"),
    [
        (Shape(None, (), ()), Shape(None, (), ()), []),
        (Shape((1, 2), (), ()), Shape(None, (), ()), ["PCI device 0001:0002 and unknown"]),
        (Shape(None, (4, 0), ()), Shape(None, (4,), ()), []),
        (Shape(None, (4, 8), ()), Shape(None, (4,), ()), ["region 1 of 8 and 0 bytes"]),
        (Shape(None, (), (1, 2)), Shape(None, (), (1, 3)), ["interrupts of type 1: 2 and 3"]),
    ],
)
def test_shapes(one: Shape, other: Shape, reported: list[str]):
    assert one.differences(other) == reported
    assert (other.differences(one) == []) == (reported == [])


def test_every_event_is_plain_data(harness: Harness):
    for name in ("s0", "d0"):
        harness.serve(name)
    harness.coordinator().run()
    names = {event.name for event in harness.events}
    assert names == {
        "plan",
        "phase",
        "moved",
        "progress",
        "stopped",
        "running",
        "retired",
        "summary",
    }
    for event in harness.events:
        assert json.loads(json.dumps(event.to_data(0.0)))["event"] == event.name
    times = [event.time for event in harness.events]
    assert times == sorted(times)


# --- streams, without sockets ---


class Pipe:
    """A source and a destination in one: reads give what there is, writes are kept."""

    over = None
    name = "pipe"
    transfer = 1 << 20

    def __init__(self, ready: list[bytes]) -> None:
        self.ready, self.got = ready, []
        self.reading = self.most = 0

    def begin(self, call):
        if call.message.name == "MIG_DATA_WRITE":
            self.got.append(bytes(call.message.data))
        else:
            self.reading += 1
            self.most = max(self.most, self.reading)
        return call

    def finish(self, call):
        if call.message.name == "MIG_DATA_WRITE":
            return None
        self.reading -= 1
        piece = self.ready.pop(0) if self.ready else b""
        assert len(piece) <= call.message.size
        reply = type("R", (), {"message": type("M", (), {"data": piece})})
        return call.read(reply)


class End:
    def __init__(self, client: Pipe) -> None:
        self.client = client
        self.label = "end"

    def end_is_final(self) -> bool:
        return True

    def reports_pauses(self) -> bool:
        return False


def stream(pipe: Pipe, chunk: int) -> Stream:
    return Stream(End(pipe), End(pipe), chunk=chunk, bandwidth=Bandwidth(None))


@given(st.binary(max_size=400), st.integers(1, 50))
def test_all_of_a_stream_goes_over_in_order(content: bytes, chunk: int):
    pieces = [content[at : at + chunk] for at in range(0, len(content), chunk)]
    pipe = Pipe(list(pieces))
    one = stream(pipe, chunk)
    assert one.run(None, threading.Event())
    assert one.whole
    assert b"".join(pipe.got) == content
    assert (one.bytes, one.pass_bytes, one.sent) == (len(content),) * 3
    assert one.passes == (len(content) > 0)
    assert pipe.most <= 2
    assert pipe.reading == 0


@given(st.integers(1, 400), st.integers(1, 50))
def test_a_pass_ends_at_about_what_was_asked_for(most: int, chunk: int):
    pipe = Pipe([bytes(chunk)] * 1000)
    one = stream(pipe, chunk)
    assert not one.run(most, threading.Event())
    assert most <= one.pass_bytes < most + chunk
    assert pipe.reading == 0


def test_a_stream_that_is_stopped():
    pipe = Pipe([bytes(10)] * 1000)
    stop = threading.Event()
    stop.set()
    one = stream(pipe, 10)
    assert not one.run(None, stop)
    assert (one.bytes, pipe.reading) == (0, 0)


class Left:
    """A worker that states how much is left."""

    def __init__(self, left: int | None) -> None:
        self.left = left


@pytest.mark.parametrize(
    ("left", "settings", "overhead", "little"),
    [
        ([0], {}, 0.0, True),
        ([65536, 65536], {}, 0.0, True),
        ([65536, 65537], {}, 0.0, False),
        ([0, None], {}, 0.0, False),
        ([1000], {"bandwidth": 1000}, 0.0, False),
        ([100], {"bandwidth": 1000}, 0.0, True),
        ([100], {"bandwidth": 1000}, 0.25, False),
        ([0], {}, 0.31, False),
    ],
)
def test_when_little_is_left(left, settings, overhead: float, little: bool):
    transfer = Transfer([], Settings(downtime=0.3, **settings), print, threading.Event())
    transfer._overhead = overhead
    assert transfer._is_little([Left(one) for one in left]) == little


# --- one device ---


def test_of_a_process_that_is_not_watched_it_is_not_known_whether_it_has_ended(harness: Harness):
    harness.serve("s0")
    end = Endpoint("s0", "source", SPEC, timeout_s=20)
    here = Process.of(os.getpid())
    assert end.has_ended(here) is None, "nobody was noted"
    served_by = end.note()
    assert end.has_ended(served_by) in (False, None), "None: older than Linux 6.5"
    assert end.has_ended(NOBODY) is None, "another one"
    end.close()
    assert end.has_ended(served_by) is None


# --- groups ---


def test_a_group_moves_all_of_it_at_a_time(harness: Harness):
    """All requests of a phase are on their way before one of them is answered."""
    for name in ("s0", "s1", "s2"):
        harness.serve(name)
    seen: list[tuple[str, str]] = []
    ends = [
        Endpoint(
            name,
            "source",
            SPEC,
            timeout_s=20,
            observers=[lambda one: seen.append((one.what, one.peer))],
        )
        for name in ("s0", "s1", "s2")
    ]
    plans = default_plans(SPEC)
    group = Group("source", ends, SPEC, plans, lambda _event: None)
    for end in ends:
        end.look()
        _ = end.machine
    seen.clear()
    step = next(one for one in plans.migration("live").steps if one.side == "source")
    group.take(step)
    assert seen == [(what, name) for what in ("command", "reply") for name in ("s0", "s1", "s2")]
    seen.clear()
    group.take(step)  # they are there already
    assert seen == []
    for end in ends:
        end.close()


def test_errors_can_be_sent_to_another_process():
    for error in (
        CannotMigrateError("why", ["hint"], refused=True),
        StepFailedError("why", ["peer"], ["hint"]),
        MigrationFailedError("why", "lost", ["hint"], cancelled=True),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
