"""The pace of a stream: replies in another order, passes without an end, the bandwidth of a few."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.migration_harness import FaultyMemory, Harness
from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, Peer
from support.peer_habits.running import running
from support.samples import sampled
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Coordinator,
    Settings,
    StepFailedError,
)
from vfio_migration.runtime.coordinator import transfer as transfer_module
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.errors import CancelledError
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.pump import READS, Stream
from vfio_migration.runtime.coordinator.save import Restorer, Saver
from vfio_migration.runtime.coordinator.transfer import Transfer

# --- servers that nobody would write ---

SIZE = 10_000


@pytest.mark.parametrize("these", [(habits.OffersNoPreCopy,), ()], ids=["plain", "pre-copy"])
def test_replies_in_another_order(tmp_path: Path, these: tuple[type[Peer], ...]) -> None:
    """A server may answer in any order; the stream has one."""
    held = os.urandom(SIZE)
    with (
        running(tmp_path, "a", habits.AnswersReadsBackwards, *these, held=held) as a,
        running(tmp_path, "b", *these, held=bytes(SIZE)) as b,
    ):
        summary = Coordinator([(a.path, b.path)], journal=None).run()
        assert summary.bytes == SIZE + 8
        assert b.held == held


NO_DATA = "no migration data can be transferred: its max_data_xfer_size is 0"


@pytest.mark.parametrize("side", [0, 1], ids=["source", "destination"])
def test_a_server_that_takes_no_data(tmp_path: Path, side: int) -> None:
    """It is refused before any device is moved."""
    these: list[tuple[type[Peer], ...]] = [(), ()]
    these[side] = (habits.TakesNoData,)
    with running(tmp_path, "a", *these[0]) as a, running(tmp_path, "b", *these[1]) as b:
        with pytest.raises(CannotMigrateError) as caught:
            Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert {a.state, b.state} == {RUNNING}
        assert caught.value.why == f"{(a, b)[side].path}: {NO_DATA}"
    assert caught.value.refused
    assert not list(tmp_path.glob("*.migration"))


def test_nothing_is_saved_from_it_nor_restored_into_it(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with running(tmp_path, "a", habits.OffersNoPreCopy) as a:
        Saver([a.path]).run(file, then="run")
    with running(tmp_path, "a", habits.TakesNoData) as a:
        for half, where in ((Saver, tmp_path / "other"), (Restorer, file)):
            with pytest.raises(CannotMigrateError) as caught:
                half([a.path]).run(where)
            assert caught.value.why == f"{a.path}: {NO_DATA}"
        assert a.state == RUNNING
    assert not (tmp_path / "other").exists()


# --- streams, without sockets ---


class Pipe:
    """A source and a destination in one; a read gives what `make` does of so many bytes."""

    over = None
    name = "pipe"

    def __init__(self, make: Callable[[int], bytes], transfer: int = 1 << 20) -> None:
        self.make, self.transfer = make, transfer
        self.got = bytearray()
        self.sizes: list[int] = []

    def begin(self, call):
        if call.message.name == "MIG_DATA_WRITE":
            self.got += call.message.data
        return call

    def finish(self, call):
        if call.message.name == "MIG_DATA_WRITE":
            return None
        self.sizes.append(call.message.size)
        piece = self.make(call.message.size)
        return call.read(type("R", (), {"message": type("M", (), {"data": piece})}))


class End:
    label = "end"
    name = "pipe"

    def __init__(self, client: Pipe, *, final: bool = True) -> None:
        self.client = client
        self._final = final

    renewals = 0

    def left(self) -> int | None:
        return None

    def precopy_left(self) -> None:
        return None

    def reports_pauses(self) -> bool:
        return False

    def transfers(self) -> str:
        return "read"

    def end_is_final(self) -> bool:
        return self._final


def some(size: int) -> Callable[[int], bytes]:
    """So many bytes, and then nothing."""
    left = size

    def make(most: int) -> bytes:
        nonlocal left
        size = min(most, left)
        left -= size
        return bytes(size)

    return make


def busy(size: int) -> bytes:
    """As much as is asked for, always."""
    time.sleep(0.001)
    return bytes(size)


def transfer(pipe: Pipe, cancelled: threading.Event | None = None, **settings) -> Transfer:
    events = settings.pop("events", [])
    return Transfer(
        [(End(pipe), End(pipe))],
        Settings(**settings),
        events.append,
        cancelled or threading.Event(),
    )


@pytest.mark.parametrize("if_slow", ["cancel", "stop"])
def test_a_device_that_changes_as_fast_as_it_is_read(monkeypatch, if_slow: str) -> None:
    """Also if it cannot state how much it has: a pass has an end, and so have the passes."""
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 0.2)
    cancelled = threading.Event()
    timer = threading.Timer(20, cancelled.set)
    timer.start()
    one = transfer(Pipe(busy, 1 << 12), cancelled, max_passes=3, if_slow=if_slow)
    if if_slow == "cancel":
        with pytest.raises(StepFailedError, match=r"after 3 passes .* for nobody knows how long"):
            one.passes()
    else:
        assert one.passes() is None
    timer.cancel()
    assert not cancelled.is_set()
    assert one.streams[0].passes == 3


def test_no_pass_is_begun_after_the_last(monkeypatch) -> None:
    """Also if the coordinator is busy with something else just then."""
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 0.05)

    def busy_too(event) -> None:
        if event.name == "progress":
            time.sleep(0.3)

    pipe = Pipe(busy, 1 << 12)
    settings = Settings(max_passes=1)
    one = Transfer([(End(pipe), End(pipe))], settings, busy_too, threading.Event())
    one.passes()
    assert one.streams[0].passes == 1


def test_who_has_had_its_passes_goes_on_until_all_have(monkeypatch) -> None:
    """What it changes meanwhile would have to be transferred while all are stopped."""
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 1.0)

    fast, slow = Pipe(lambda size: bytes(size // 2), 1 << 12), Pipe(busy, 1 << 12)
    ends = [(End(one, final=False), End(one)) for one in (fast, slow)]
    one = Transfer(ends, Settings(max_passes=2), lambda _event: None, threading.Event())
    one.passes()
    quick, long = one.streams
    assert long.passes == 2
    assert quick.passes > 4


def test_a_device_that_comes_to_rest(monkeypatch) -> None:
    """A pass that was cut states nothing of what is left; the first that ends by itself does."""
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 0.05)
    begun = time.monotonic()

    def make(size: int) -> bytes:
        return busy(size) if time.monotonic() < begun + 0.5 else b""

    expected = transfer(Pipe(make, 1 << 12), downtime=60.0, max_passes=1000).passes()
    assert time.monotonic() - begun >= 0.5
    assert expected is not None
    assert expected < 60


# --- the bandwidth ---


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_the_bandwidth_is_kept_of_a_little(harness: Harness, migration: str) -> None:
    """Of what is not longer than a chunk, too."""
    harness.serve("s0", FaultyMemory, size=1 << 18)
    harness.serve("d0", FaultyMemory, size=1 << 18)
    rate = 1 << 19
    summary = harness.coordinator(migration=migration, bandwidth=rate).run()
    assert summary.sent > 1 << 18
    assert summary.seconds > summary.sent / rate - 0.06
    assert harness.hosts["d0"].whole


@sampled(3)
@pytest.mark.parametrize("size", [1, 30_000, 200_000])
def test_what_was_sent_is_paid_for_when_a_run_is_over(size: int) -> None:
    pipe = Pipe(some(size))
    limit = Bandwidth(100_000)
    one = Stream(End(pipe), End(pipe), chunk=limit.piece(1 << 20), bandwidth=limit)
    begun = time.monotonic()
    assert one.run(None, threading.Event())
    assert time.monotonic() - begun >= size / 100_000 - 0.06
    assert limit.spend(0) == 0
    assert len(pipe.got) == size


def test_who_is_stopped_pays_before_the_next_run() -> None:
    stop, make = threading.Event(), some(1 << 20)

    def stopped(size: int) -> bytes:
        stop.set()
        return make(size)

    pipe = Pipe(stopped)
    limit = Bandwidth(1 << 17)
    one = Stream(End(pipe), End(pipe), chunk=1 << 16, bandwidth=limit)
    begun = time.monotonic()
    assert not one.run(None, stop)
    # Nothing was asked for after it was stopped.
    assert one.bytes == READS << 16
    assert not one.run(1, threading.Event())
    assert time.monotonic() - begun >= (one.bytes >> 17) - 0.06


def test_the_passes_pay_while_the_devices_run() -> None:
    one = transfer(Pipe(some(50_000)), bandwidth=100_000, downtime=5.0)
    begun = time.monotonic()
    one.passes()
    assert time.monotonic() - begun >= 0.44
    assert one._bandwidth.spend(0) == 0


def test_who_owes_can_be_cancelled() -> None:
    cancelled = threading.Event()
    one = transfer(Pipe(some(1 << 20)), cancelled, bandwidth=1000)
    threading.Timer(0.2, cancelled.set).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        one.rest()
    assert time.monotonic() - begun < 60, "a thousand seconds are owed"


@pytest.mark.parametrize(
    ("rate", "sharers", "piece"),
    [
        (None, 1, 1 << 20),
        (1 << 30, 4, 1 << 20),
        (1_000_000, 1, 100_000),
        (1_000_000, 4, 25_000),
        (1, 1, 4096),
        (1_000_000, 1000, 4096),
    ],
)
def test_a_piece_is_a_tenth_of_a_second(rate: int | None, sharers: int, piece: int) -> None:
    assert Bandwidth(rate).piece(1 << 20, sharers) == piece
    assert Bandwidth(rate).piece(1, sharers) == 1


def test_no_more_is_asked_for_at_a_time_than_the_bandwidth_allows() -> None:
    pipe = Pipe(some(20_000))
    transfer(pipe, bandwidth=100_000).rest()
    assert set(pipe.sizes) == {10_000}


def test_a_rate_of_nothing_is_reported_as_nothing() -> None:
    """And not as the bandwidth, at which it could go."""
    events: list = []
    one = transfer(Pipe(some(0)), bandwidth=1000, events=events)
    one.rest()
    assert {event.fields["rate"] for event in events} == {0}
