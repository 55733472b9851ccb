"""The stream on its way: damaged, cut, doubled, another's; and how a destination refuses it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from lab import SPEC, FaultyEdu, FaultyMemory, Lab

from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import Event, Hooks, MigrationFailedError
from vfio_migration.runtime.files import compression

LOADED, TAKEN, SOURCE, UNDONE, *_ = (row.summary for row in default_plans(SPEC).handovers)
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


def size_of(lab: Lab) -> int:
    """How long a stream between these devices is; they are as they were then."""
    size = lab.coordinator(migration="offline").run().bytes
    for host in lab.hosts.values():
        host.server.engine.reset()
    lab.hosts["s0"].fill()
    return size


@pytest.mark.parametrize("how", [flip, cut, drop, double], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_stream_is_refused(lab: Lab, kind: str, how: Callable[[int], Mangle]):
    """At any place: the destination refuses, and the source goes on with the whole state."""
    lab.serve("s0", KINDS[kind])
    lab.serve("d0", KINDS[kind])
    size = size_of(lab)
    rng = random.Random(f"{kind} {how.__name__}")
    places = {0, 1, size - 1, *(rng.randrange(size) for _ in range(9))}
    for place in sorted(places):
        lab.hosts["d0"].device.mangle = how(place)
        failure = lab.fail(migration="offline", chunk=1 << 12)
        assert (failure.outcome, failure.hints[0]) == ("source", SOURCE), place
        refusals = (
            "d0: MIG_DATA_WRITE is refused (EINVAL)",
            "plan resume, phase judge: d0: SET_STATE STOP is refused (EINVAL); "
            "it is in RESUMING now",
        )
        assert failure.why in refusals, place
        assert lab.states == {"s0": "RUNNING", "d0": "STOP"}
        assert lab.hosts["s0"].whole
        assert not lab.hosts["d0"].whole
        assert not Path("s0.migration").exists()
    lab.hosts["d0"].device.mangle = None
    lab.coordinator(migration="offline").run()
    assert lab.hosts["d0"].whole


def test_nothing_arrives(lab: Lab):
    lab.serve("s0")
    lab.serve("d0", mangle=lambda _piece: [])
    failure = lab.fail()
    assert failure.why == (
        "plan resume, phase judge: d0: SET_STATE STOP is refused (EINVAL); it is in RESUMING now"
    )
    assert lab.states == {"s0": "RUNNING", "d0": "STOP"}


def test_the_stream_of_another_device(lab: Lab):
    """It is whole and undamaged, and is not of the kind of device that it is for."""
    lab.serve("s0", FaultyMemory)
    stream: list[bytes] = []
    lab.serve("s1", FaultyEdu)
    lab.serve("d1", FaultyEdu, mangle=lambda piece: stream.append(piece) or [piece])
    lab.serve("d0", FaultyMemory)
    s0, d0 = lab.hosts.pop("s0"), lab.hosts.pop("d0")
    lab.coordinator().run()
    lab.hosts = {"s0": s0, "d0": d0, **lab.hosts}
    sent = []
    d0.device.mangle = lambda _piece: [] if sent else (sent.append(1) or [b"".join(stream)])
    s1, d1 = lab.hosts.pop("s1"), lab.hosts.pop("d1")
    failure = lab.fail()
    lab.hosts |= {"s1": s1, "d1": d1}
    assert (failure.outcome, failure.hints[0]) == ("source", SOURCE)
    assert (s0.state, d0.state) == ("RUNNING", "STOP")
    assert s0.whole


def test_the_streams_of_two_devices_of_a_kind_changed_round(lab: Lab):
    """Which of two like devices a stream is of, nothing in it says: the coordinator keeps them."""
    for name in ("s0", "d0", "s1", "d1"):
        lab.serve(name)
    lab.hosts["s1"].device.block("bar0.0").write(0, b"another state")
    lab.coordinator().run()
    assert lab.hosts["d0"].whole
    assert bytes(lab.hosts["d1"].device.block("bar0.0").view[:13]) == b"another state"


# --- codecs, chunks, bandwidth ---


@pytest.mark.parametrize("codec", compression.NAMES)
def test_codecs(lab: Lab, codec: str):
    lab.serve("s0", FaultyMemory, size=1 << 20)
    lab.serve("d0", FaultyMemory, size=1 << 20)
    summary = lab.coordinator(codec=codec).run()
    assert lab.hosts["d0"].whole
    assert (summary.sent < summary.bytes / 10) == (codec != "none")
    assert summary.bytes >= 1 << 20


def test_a_codec_that_is_not_there(lab: Lab):
    lab.serve("s0")
    lab.serve("d0")
    with pytest.raises(ValueError, match="'gzip': is not a codec"):
        lab.coordinator(codec="gzip")
    assert lab.arcs == []


@pytest.mark.parametrize("chunk", [1, 7, 4096, 1 << 20, 1 << 30])
@pytest.mark.parametrize("migration", ["live", "offline"])
def test_any_chunk(lab: Lab, chunk: int, migration: str):
    lab.serve("s0")
    lab.serve("d0")
    lab.coordinator(chunk=chunk, migration=migration).run()
    assert lab.hosts["d0"].whole


@pytest.mark.parametrize("codec", ["none", "zlib"])
def test_the_bandwidth_is_kept(lab: Lab, codec: str):
    """By all devices together, of what goes over."""
    for number in (0, 1):
        for side in "sd":
            host = lab.serve(f"{side}{number}", FaultyMemory, size=1 << 20)
        pages = random.Random(number).randbytes(1 << 20)
        lab.hosts[f"s{number}"].device.block("bar2").write(0, pages)
        lab.hosts[f"s{number}"].fill()
    assert host is not None
    rate = 8 << 20
    summary = lab.coordinator(migration="offline", bandwidth=rate, chunk=1 << 16, codec=codec).run()
    least = summary.sent / rate
    assert summary.sent > 2 << 20
    # A twentieth of a second may have been saved up.
    assert summary.seconds > least - 0.06
    assert all(lab.hosts[name].whole for name in ("d0", "d1"))


# --- what a program that owns the guest is told, and what is counted ---


def told(lab: Lab, **options) -> list[tuple[str, dict[str, str]]]:
    guest: list[tuple[str, dict[str, str]]] = []
    hooks = Hooks(
        pause=lambda: guest.append(("pause", lab.states)),
        resume=lambda side: guest.append((side, lab.states)),
    )
    try:
        lab.coordinator(hooks=hooks, **options).run()
    except MigrationFailedError as failure:
        guest.append((f"failed: {failure.outcome}", lab.states))
    return guest


@pytest.mark.parametrize(("migration", "before"), [("live", "PRE_COPY"), ("offline", "RUNNING")])
def test_the_guest_is_held_before_anything_is_given_up(lab: Lab, migration: str, before: str):
    lab.serve("s0")
    lab.serve("d0")
    assert told(lab, migration=migration) == [
        ("pause", {"s0": before, "d0": "RESUMING"}),
        ("destination", {"s0": "STOP_COPY", "d0": "RUNNING"}),
    ]


def test_the_guest_goes_on_where_it_was(lab: Lab):
    lab.serve("s0", faults={("PRE_COPY_P2P", "STOP_COPY"): (1, False)})
    lab.serve("d0")
    assert told(lab, migration="offline") == [
        ("pause", {"s0": "RUNNING", "d0": "RESUMING"}),
        ("source", {"s0": "RUNNING", "d0": "STOP"}),
        ("failed: source", {"s0": "RUNNING", "d0": "STOP"}),
    ]


def test_a_guest_that_was_not_held_is_not_let_go(lab: Lab):
    lab.serve("s0")
    lab.serve("d0", faults={("STOP", "RESUMING"): (1, False)})
    assert told(lab) == [("failed: source", {"s0": "RUNNING", "d0": "STOP"})]


def test_a_guest_whose_state_is_lost_stays_held(lab: Lab):
    """It would find a blank device; that is for whoever owns it to decide."""
    lab.serve("s0", faults={("PRE_COPY_P2P", "STOP_COPY"): (1, True)})
    lab.serve("d0")
    assert [what for what, _ in told(lab)] == ["pause", "failed: lost"]


def test_the_downtime_is_what_it_says(lab: Lab):
    """From the first request that stops a source to the last reply that a destination runs."""
    for name in ("s0", "d0", "s1", "d1"):
        lab.serve(name)
    times: dict[str, float] = {}

    def report(event: Event) -> None:
        moved = event.name == "moved" and event.fields
        if event.name == "stopped":
            times["stopped"] = event.time
        if moved and moved["device"][0] == "d" and moved["to"] == "RUNNING":
            times["ran"] = event.time

    coordinator = lab.coordinator()
    coordinator._report = report
    summary = coordinator.run()
    assert summary.downtime == pytest.approx(times["ran"] - times["stopped"], abs=0.05)
    assert 0 < summary.downtime < summary.seconds


def test_what_is_summed_up(lab: Lab):
    lab.serve("s0", FaultyMemory, size=1 << 20)
    lab.serve("d0", FaultyMemory, size=1 << 20)
    summary = lab.coordinator().run()
    assert summary.devices == 1
    assert summary.passes >= 2
    assert summary.bytes == summary.sent > (1 << 20)
    assert 0 < summary.last_pass < 1 << 16
    assert lab.events[-1].name == "summary"
    assert lab.events[-1].fields == summary.to_data()
    offline = [event.name for event in lab.events]
    for name in ("plan", "phase", "moved", "progress", "stopped", "running", "retired"):
        assert name in offline
    assert offline.index("stopped") < offline.index("running") < offline.index("retired")


def test_offline_is_one_pass(lab: Lab):
    lab.serve("s0", FaultyMemory)
    lab.serve("d0", FaultyMemory)
    summary = lab.coordinator(migration="offline").run()
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


def test_a_disk_that_is_full_before_the_rest(lab: Lab, monkeypatch):
    lab.serve("s0")
    lab.serve("d0")
    Disk(monkeypatch, range(2, 100))
    failure = lab.fail()
    assert (failure.outcome, failure.why, failure.hints) == ("source", FULL, (SOURCE,))
    assert lab.states == {"s0": "RUNNING", "d0": "STOP"}
    assert lab.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_a_disk_that_is_full_for_a_moment(lab: Lab, monkeypatch):
    lab.serve("s0")
    lab.serve("d0")
    Disk(monkeypatch, [3, 4])  # in its slot, and as a new file
    failure = lab.fail()
    assert (failure.outcome, failure.why, failure.hints) == ("destination", FULL, (LOADED,))
    assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
    assert lab.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_a_slot_that_cannot_be_written(lab: Lab, monkeypatch):
    """Then the journal is written anew, as a whole."""
    lab.serve("s0")
    lab.serve("d0")
    disk = Disk(monkeypatch, [2, 5])
    lab.coordinator().run()
    assert disk.writes == 4
    assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
    assert not Path("s0.migration").exists()


def test_a_disk_that_is_full_before_the_destination_may_run(lab: Lab, monkeypatch):
    """Nobody can write down who runs. So nobody does; nothing is lost, and what to do is said."""
    lab.serve("s0")
    lab.serve("d0")
    disk = Disk(monkeypatch, range(3, 100))
    failure = lab.fail()
    assert (failure.outcome, failure.why) == ("undecided", FULL)
    assert failure.hints == (
        FULL,
        "once it can be reached run: vfio-migration recover s0 d0",
    )
    assert lab.states == {"s0": "STOP_COPY", "d0": "STOP"}
    disk.full = ()
    assert lab.recover().outcome == "destination"
    assert lab.states == {"s0": "STOP", "d0": "RUNNING"}
    assert lab.hosts["d0"].whole
