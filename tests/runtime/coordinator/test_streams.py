"""The stream on its way: damaged, cut, doubled, another's; and how a destination refuses it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from support.migration_harness import SPEC, FaultyEdu, FaultyMemory, Harness
from support.samples import sample, sampled
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import Event, Hooks, MigrationFailedError
from vfio_migration.runtime.files import compression

LOADED, TAKEN, SOURCE, ROLLED_BACK, *_ = (row.summary for row in default_plans(SPEC).handovers)
KINDS = {"edu": FaultyEdu, "memory": FaultyMemory}

Mangle = Callable[[bytes], Sequence[bytes]]


class Stream:
    """Sees all bytes of a stream, and changes some of them at a position."""

    def __init__(self, change: Callable[[bytes, int], Sequence[bytes]]) -> None:
        self.at = 0
        self._change = change

    def __call__(self, piece: bytes) -> Sequence[bytes]:
        at, self.at = self.at, self.at + len(piece)
        return self._change(piece, at)


def flip(where: int) -> Mangle:
    def change(piece: bytes, at: int) -> Sequence[bytes]:
        if at <= where < at + len(piece):
            new = bytearray(piece)
            new[where - at] ^= 1 << where % 8
            return [bytes(new)]
        return [piece]

    return Stream(change)


def cut(where: int) -> Mangle:
    """The stream ends there."""
    return Stream(lambda piece, at: [piece[: max(0, where - at)]] if where > at else [])


def drop(where: int) -> Mangle:
    """One byte is missing."""

    def change(piece: bytes, at: int) -> Sequence[bytes]:
        inside = at <= where < at + len(piece)
        return [piece[: where - at], piece[where - at + 1 :]] if inside else [piece]

    return Stream(change)


def double(where: int) -> Mangle:
    """One piece comes twice, and more than its end."""

    def change(piece: bytes, at: int) -> Sequence[bytes]:
        return [piece, piece] if at <= where < at + len(piece) else [piece]

    return Stream(change)


def size_of(harness: Harness) -> int:
    """How long a stream between these devices is; they are as they were then."""
    size = harness.coordinator(migration="offline").run().bytes
    for host in harness.hosts.values():
        host.server.engine.reset()
    harness.hosts["s0"].fill()
    return size


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", [flip, cut, drop, double], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", sample(KINDS, 2))
def test_a_damaged_stream_is_refused(harness: Harness, kind: str, how: Callable[[int], Mangle]):
    """At any place: the destination refuses, and the source goes on with the whole state."""
    harness.serve("s0", KINDS[kind])
    harness.serve("d0", KINDS[kind])
    size = size_of(harness)
    rng = random.Random(f"{kind} {how.__name__}")
    places = {0, 1, size - 1, *(rng.randrange(size) for _ in range(9))}
    for place in sorted(places):
        harness.hosts["d0"].device.mangle = how(place)
        failure = harness.fail(migration="offline", chunk=1 << 12)
        assert (failure.outcome, failure.hints[0]) == ("source", SOURCE), place
        refusals = (
            "d0: MIG_DATA_WRITE is refused (EINVAL)",
            "plan resume, phase judge: d0: SET_STATE STOP is refused (EINVAL); "
            "it is in RESUMING now",
        )
        assert failure.why in refusals, place
        assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
        assert harness.hosts["s0"].whole
        assert not harness.hosts["d0"].whole
        assert not Path("s0.migration").exists()
    harness.hosts["d0"].device.mangle = None
    harness.coordinator(migration="offline").run()
    assert harness.hosts["d0"].whole


def test_nothing_arrives(harness: Harness):
    harness.serve("s0")
    harness.serve("d0", mangle=lambda _piece: [])
    failure = harness.fail()
    assert failure.why == (
        "plan resume, phase judge: d0: SET_STATE STOP is refused (EINVAL); it is in RESUMING now"
    )
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}


def test_the_stream_of_another_device(harness: Harness):
    """It is whole and undamaged, and is not of the kind of device that it is for."""
    harness.serve("s0", FaultyMemory)
    stream: list[bytes] = []
    harness.serve("s1", FaultyEdu)
    harness.serve("d1", FaultyEdu, mangle=lambda piece: stream.append(piece) or [piece])
    harness.serve("d0", FaultyMemory)
    s0, d0 = harness.hosts.pop("s0"), harness.hosts.pop("d0")
    harness.coordinator().run()
    harness.hosts = {"s0": s0, "d0": d0, **harness.hosts}
    sent = []
    d0.device.mangle = lambda _piece: [] if sent else (sent.append(1) or [b"".join(stream)])
    s1, d1 = harness.hosts.pop("s1"), harness.hosts.pop("d1")
    failure = harness.fail()
    harness.hosts |= {"s1": s1, "d1": d1}
    assert (failure.outcome, failure.hints[0]) == ("source", SOURCE)
    assert (s0.state, d0.state) == ("RUNNING", "STOP")
    assert s0.whole


def test_the_streams_of_two_devices_of_a_kind_changed_round(harness: Harness):
    """Nothing in a stream names which of two like devices it is of: the coordinator keeps them."""
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name)
    harness.hosts["s1"].device.block("bar0.0").write(0, b"another state")
    harness.coordinator().run()
    assert harness.hosts["d0"].whole
    assert bytes(harness.hosts["d1"].device.block("bar0.0").view[:13]) == b"another state"


# --- codecs, chunks, bandwidth ---


@pytest.mark.parametrize("codec", compression.NAMES)
def test_codecs(harness: Harness, codec: str):
    harness.serve("s0", FaultyMemory, size=1 << 20)
    harness.serve("d0", FaultyMemory, size=1 << 20)
    summary = harness.coordinator(codec=codec).run()
    assert harness.hosts["d0"].whole
    assert (summary.sent < summary.bytes / 10) == (codec != "none")
    assert summary.bytes >= 1 << 20


def test_a_codec_that_is_not_there(harness: Harness):
    harness.serve("s0")
    harness.serve("d0")
    with pytest.raises(ValueError, match="'gzip': is not a codec"):
        harness.coordinator(codec="gzip")
    assert harness.arcs == []


@sampled(9)
@pytest.mark.parametrize("chunk", [1, 7, 4096, 1 << 20, 1 << 30])
@pytest.mark.parametrize("migration", ["live", "offline"])
def test_any_chunk(harness: Harness, chunk: int, migration: str):
    harness.serve("s0")
    harness.serve("d0")
    harness.coordinator(chunk=chunk, migration=migration).run()
    assert harness.hosts["d0"].whole


@pytest.mark.parametrize("codec", ["none", "zlib"])
def test_the_bandwidth_is_kept(harness: Harness, codec: str):
    """By all devices together, of what goes over."""
    for number in (0, 1):
        for side in "sd":
            host = harness.serve(f"{side}{number}", FaultyMemory, size=1 << 20)
        pages = random.Random(number).randbytes(1 << 20)
        harness.hosts[f"s{number}"].device.block("bar2").write(0, pages)
        harness.hosts[f"s{number}"].fill()
    assert host is not None
    rate = 8 << 20
    summary = harness.coordinator(
        migration="offline", bandwidth=rate, chunk=1 << 16, codec=codec
    ).run()
    least = summary.sent / rate
    assert summary.sent > 2 << 20
    # A twentieth of a second may have been saved up.
    assert summary.seconds > least - 0.06
    assert all(harness.hosts[name].whole for name in ("d0", "d1"))


# --- what a program that owns the guest is notified, and what is counted ---


def recorded(harness: Harness, **options) -> list[tuple[str, dict[str, str]]]:
    guest: list[tuple[str, dict[str, str]]] = []
    hooks = Hooks(
        pause=lambda: guest.append(("pause", harness.states)),
        resume=lambda side: guest.append((side, harness.states)),
    )
    try:
        harness.coordinator(hooks=hooks, **options).run()
    except MigrationFailedError as failure:
        guest.append((f"failed: {failure.outcome}", harness.states))
    return guest


@pytest.mark.parametrize(("migration", "before"), [("live", "PRE_COPY"), ("offline", "RUNNING")])
def test_the_guest_is_held_before_anything_is_given_up(
    harness: Harness, migration: str, before: str
):
    harness.serve("s0")
    harness.serve("d0")
    assert recorded(harness, migration=migration) == [
        ("pause", {"s0": before, "d0": "RESUMING"}),
        ("destination", {"s0": "STOP_COPY", "d0": "RUNNING"}),
    ]


def test_the_guest_goes_on_where_it_was(harness: Harness):
    harness.serve("s0", faults={("PRE_COPY_P2P", "STOP_COPY"): (1, False)})
    harness.serve("d0")
    assert recorded(harness, migration="offline") == [
        ("pause", {"s0": "RUNNING", "d0": "RESUMING"}),
        ("source", {"s0": "RUNNING", "d0": "STOP"}),
        ("failed: source", {"s0": "RUNNING", "d0": "STOP"}),
    ]


def test_a_guest_that_was_not_held_is_not_let_go(harness: Harness):
    harness.serve("s0")
    harness.serve("d0", faults={("STOP", "RESUMING"): (1, False)})
    assert recorded(harness) == [("failed: source", {"s0": "RUNNING", "d0": "STOP"})]


def test_a_guest_whose_state_is_lost_stays_held(harness: Harness):
    """It would find a blank device; that is for anybody who owns it to decide."""
    harness.serve("s0", faults={("PRE_COPY_P2P", "STOP_COPY"): (1, True)})
    harness.serve("d0")
    assert [what for what, _ in recorded(harness)] == ["pause", "failed: lost"]


def test_the_downtime_is_what_it_states(harness: Harness):
    """From the first request that stops a source to the last reply that a destination runs."""
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name)
    times: dict[str, float] = {}

    def report(event: Event) -> None:
        moved = event.name == "moved" and event.fields
        if event.name == "stopped":
            times["stopped"] = event.time
        if moved and moved["device"][0] == "d" and moved["to"] == "RUNNING":
            times["ran"] = event.time

    coordinator = harness.coordinator()
    coordinator._report = report
    summary = coordinator.run()
    assert summary.downtime == pytest.approx(times["ran"] - times["stopped"], abs=0.05)
    assert 0 < summary.downtime < summary.seconds


def test_what_is_summed_up(harness: Harness):
    harness.serve("s0", FaultyMemory, size=1 << 20)
    harness.serve("d0", FaultyMemory, size=1 << 20)
    summary = harness.coordinator().run()
    assert summary.devices == 1
    assert summary.passes >= 2
    assert summary.bytes == summary.sent > (1 << 20)
    assert 0 < summary.last_pass < 1 << 16
    assert harness.events[-1].name == "summary"
    assert harness.events[-1].fields == summary.to_data()
    offline = [event.name for event in harness.events]
    for name in ("plan", "phase", "moved", "progress", "stopped", "running", "retired"):
        assert name in offline
    assert offline.index("stopped") < offline.index("running") < offline.index("retired")


def test_offline_is_one_pass(harness: Harness):
    harness.serve("s0", FaultyMemory)
    harness.serve("d0", FaultyMemory)
    summary = harness.coordinator(migration="offline").run()
    assert summary.passes == 1
    assert summary.last_pass == summary.bytes
    assert summary.expected_downtime is None


# --- a journal that cannot be written in the middle ---


class Disk:
    """Is full from a write of the journal on, for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full: Sequence[int]) -> None:
        self.writes, self.full = 0, full
        from vfio_migration.runtime.coordinator import journal as journals

        real = journals.os.fsync

        def fsync(fd: int) -> None:
            if not Path(f"/proc/self/fd/{fd}").resolve().is_dir():
                self.writes += 1
                if self.writes in self.full:
                    raise OSError(28, "No space left on device")
            real(fd)

        monkeypatch.setattr(journals.os, "fsync", fsync)


FULL = "s0.migration: the journal cannot be written: No space left on device"


def test_a_disk_that_is_full_before_the_rest(harness: Harness, monkeypatch):
    harness.serve("s0")
    harness.serve("d0")
    Disk(monkeypatch, range(2, 100))
    failure = harness.fail()
    assert (failure.outcome, failure.why, failure.hints) == ("source", FULL, (SOURCE,))
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_a_disk_that_is_full_for_a_moment(harness: Harness, monkeypatch):
    harness.serve("s0")
    harness.serve("d0")
    Disk(monkeypatch, [3, 4])  # in its slot, and as a new file
    failure = harness.fail()
    assert (failure.outcome, failure.why, failure.hints) == ("destination", FULL, (LOADED,))
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_a_slot_that_cannot_be_written(harness: Harness, monkeypatch):
    """Then the journal is written anew, as a whole."""
    harness.serve("s0")
    harness.serve("d0")
    disk = Disk(monkeypatch, [2, 5])
    harness.coordinator().run()
    assert disk.writes == 4
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert not Path("s0.migration").exists()


def test_a_disk_that_is_full_before_the_destination_may_run(harness: Harness, monkeypatch):
    """Nobody can write down who runs. So nobody does; nothing is lost, and what to do is stated."""
    harness.serve("s0")
    harness.serve("d0")
    disk = Disk(monkeypatch, range(3, 100))
    failure = harness.fail()
    assert (failure.outcome, failure.why) == ("undecided", FULL)
    assert failure.hints == (
        FULL,
        "once it can be reached run: vfio-migration recover s0 d0",
    )
    assert harness.states == {"s0": "STOP_COPY", "d0": "STOP"}
    disk.full = ()
    assert harness.recover().outcome == "destination"
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
