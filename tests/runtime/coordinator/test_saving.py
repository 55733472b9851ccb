"""Saves and restores by their API: arcs that fail, cancelling at every step, the file itself."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from support import forked_servers
from support.migration_harness import ALWAYS, SPEC, FaultyMemory, Harness
from support.samples import sampled
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import CannotMigrateError, MigrationFailedError, Settings
from vfio_migration.runtime.coordinator.save import Restorer, Saver
from vfio_migration.runtime.files import compression
from vfio_migration.runtime.files.container import ContainerReader, ContainerWriter
from vfio_migration.runtime.files.container_header import DeviceHeader, Header

ONCE, AGAIN, FOR_GOOD = (1, False), (ALWAYS, False), (1, True)
HOW = {"once": ONCE, "again-and-again": AGAIN, "for-good": FOR_GOOD}
SAVES = [("RUNNING", "PRE_COPY"), ("PRE_COPY", "PRE_COPY_P2P"), ("PRE_COPY_P2P", "STOP_COPY")]
LOADS = [
    ("RUNNING", "RUNNING_P2P"),
    ("RUNNING_P2P", "STOP"),
    ("STOP", "RESUMING"),
    ("RESUMING", "STOP"),
    ("STOP", "RUNNING_P2P"),
    ("RUNNING_P2P", "RUNNING"),
]


@pytest.fixture(params=HOW)
def how(request) -> tuple[int, bool]:
    return HOW[request.param]


def saver(harness: Harness, *names: str, settings: Settings | None = None, observers=()) -> Saver:
    report = harness.events.append
    return Saver(names, spec=SPEC, settings=settings, report=report, observers=observers)


def restorer(harness: Harness, *names: str, report=None) -> Restorer:
    return Restorer(names, spec=SPEC, report=report or harness.events.append)


@pytest.fixture
def saved(harness: Harness) -> Harness:
    """A device that was saved to `a.save`."""
    harness.serve("s0")
    saver(harness, "s0").run("a.save")
    return harness


# --- arcs that fail ---


@sampled(2)
@pytest.mark.parametrize("arc", SAVES, ids="-".join)
def test_an_arc_of_a_save_fails(harness: Harness, arc, how):
    harness.serve("s0", faults={arc: how})
    harness.serve("s1")
    if how == ONCE or (how == AGAIN and arc[1] != "STOP_COPY"):
        # It can be stopped all the same, and is saved then.
        saved = saver(harness, "s0", "s1").run("a.save")
        assert saved.fell_back is not None
        assert f"s0: SET_STATE {arc[1]} is refused (EIO)" in saved.fell_back
        assert harness.states == {"s0": "STOP", "s1": "STOP"}
        with ContainerReader("a.save") as file:
            file.check()
        return
    with pytest.raises(MigrationFailedError) as failed:
        saver(harness, "s0", "s1").run("a.save")
    assert f"s0: SET_STATE {arc[1]} is refused (EIO)" in failed.value.why
    assert not failed.value.cancelled
    assert harness.running == {"s0", "s1"}
    assert harness.hosts["s1"].whole
    assert not Path("a.save").exists()
    if how == FOR_GOOD:
        lost = "s0: has failed, and what it held is lost"
        assert (failed.value.outcome, failed.value.hints) == ("lost", ("no file was written", lost))
    else:
        assert (failed.value.outcome, failed.value.hints) == ("source", ("no file was written",))
        assert harness.hosts["s0"].whole


@sampled(2)
@pytest.mark.parametrize("then", ["stop", "run"])
def test_an_arc_fails_when_all_is_in_the_file(harness: Harness, then, how):
    """The file is there and whole. What did not follow is reported, and is no success."""
    harness.serve("s0", faults={("STOP_COPY", "STOP"): how})
    harness.serve("d0")
    if then == "run" and how != ONCE:
        with pytest.raises(MigrationFailedError) as failed:
            saver(harness, "s0").run("a.save", then=then)
        assert failed.value.why.startswith(
            "a.save: is written and whole, but not all of the devices run on: "
        )
        assert "s0: " in failed.value.why
        assert failed.value.outcome == "lost"
        assert failed.value.hints[-1] == (
            "nothing is lost: all that the devices held is in the file"
        )
    else:
        saver(harness, "s0").run("a.save", then=then)
    recorded = [event.fields["why"] for event in harness.events if event.name == "failed"]
    assert recorded[0].startswith("s0: SET_STATE STOP is refused (EIO)") or then == "run"
    assert harness.hosts["s0"].runs == (then == "run" and how == ONCE)
    restorer(harness, "d0").run("a.save")
    assert harness.hosts["d0"].whole


def test_a_device_that_does_not_answer_when_all_is_in_the_file(harness: Harness):
    """Whether it goes on is not known then; that it was stopped is not enough."""
    event = threading.Event()
    harness.serve("s0", gate={("STOP_COPY", "STOP"): event})
    harness.serve("s1")
    with pytest.raises(MigrationFailedError) as failed:
        saver(harness, "s0", "s1", settings=Settings(timeout_s=0.5)).run("a.save", then="run")
    assert failed.value.outcome == "undecided"
    assert "s0: DEVICE_FEATURE SET MIG_DEVICE_STATE RUNNING_P2P is not answered" in failed.value.why
    with ContainerReader("a.save") as file:
        file.check()
    event.set()


@sampled(9)
@pytest.mark.parametrize("arc", LOADS, ids="-".join)
def test_an_arc_of_a_restore_fails(saved: Harness, arc, how):
    saved.serve("d0", faults={arc: how})
    saved.serve("d1")
    with pytest.raises(MigrationFailedError) as failed:
        restorer(saved, "d0").run("a.save")
    assert f"d0: SET_STATE {arc[1]} is refused (EIO)" in failed.value.why
    assert failed.value.outcome == "source"
    still = "d0: is stopped; restore into it again before it is used"
    if how == AGAIN and arc[0].startswith("RUNNING") and arc[1] != "RUNNING":
        assert failed.value.hints == ("d0: is not known to be stopped",)
    else:
        assert failed.value.hints == (still,)
        assert not saved.hosts["d0"].runs
    restorer(saved, "d1").run("a.save")
    assert saved.hosts["d1"].whole


# --- cancelling ---


class Cancelling:
    """Gives a save or a restore up when the n-th event is reported."""

    def __init__(self, at: int) -> None:
        self.half: Saver | Restorer | None = None
        self.at, self.seen = at, 0

    def __call__(self, _event) -> None:
        if self.seen == self.at:
            self.half.cancel()
        self.seen += 1

    def run(self, *arguments, **options) -> MigrationFailedError | None:
        """Do it; return what is raised."""
        try:
            self.half.run(*arguments, **options)
        except MigrationFailedError as failure:
            return failure
        return None


def test_a_save_is_given_up_at_every_step(harness: Harness):
    """Either there is no file and the device runs on, or all of it is there."""
    harness.serve("s0")
    there = []
    while True:
        path = Path(f"{len(there)}.save")
        cancelling = Cancelling(len(there))
        cancelling.half = Saver(["s0"], spec=SPEC, report=cancelling)
        failure = cancelling.run(path, then="run")
        there.append(path.exists())
        if failure is None:
            with ContainerReader(path) as file:
                file.check()
        else:
            assert (failure.cancelled, failure.outcome) == (True, "source")
            assert not path.exists()
        assert harness.states == {"s0": "RUNNING"}
        assert harness.hosts["s0"].whole
        if cancelling.seen <= cancelling.at:
            break
    assert there == sorted(there)
    assert there.count(False) >= 5
    assert there.count(True) >= 3


def test_a_restore_is_given_up_at_every_step(saved: Harness):
    """Either the device is stopped, or it runs with the whole state."""
    host = saved.serve("d0")
    runs = []
    while True:
        host.device.block("bar0.0").write(0, bytes(1000))
        host.server.engine.reset()
        cancelling = Cancelling(len(runs))
        cancelling.half = restorer(saved, "d0", report=cancelling)
        failure = cancelling.run("a.save")
        runs.append(host.runs)
        if failure is None:
            assert host.state == "RUNNING"
            assert host.whole
        else:
            assert (failure.cancelled, failure.outcome) == (True, "source")
            assert not host.runs
        if cancelling.seen <= cancelling.at:
            break
    # Up to the judgement it can be given up, and from the first start on it cannot.
    assert runs == sorted(runs)
    assert runs.count(False) >= 5
    assert runs.count(True) >= 3


# --- the file ---


@pytest.mark.parametrize("codec", compression.NAMES)
def test_the_figures(harness: Harness, codec):
    harness.serve("s0")
    harness.serve("s1", FaultyMemory)
    result = saver(harness, "s0", "s1", settings=Settings(codec=codec)).run("a.save")
    with ContainerReader("a.save") as file:
        totals = file.check()
    assert result.devices == len(totals) == 2
    assert result.bytes == sum(one.size for one in totals)
    assert result.stored == Path("a.save").stat().st_size
    assert result.downtime is None
    harness.serve("d0")
    harness.serve("d1", FaultyMemory)
    restored = restorer(harness, "d0", "d1").run("a.save")
    assert dataclasses.replace(restored, seconds=result.seconds) == result


def test_how_long_the_devices_were_stopped(harness: Harness):
    harness.serve("s0")
    result = saver(harness, "s0").run("a.save", then="run")
    assert result.downtime is not None
    assert 0 < result.downtime < result.seconds


def test_nothing_is_compressed_twice(harness: Harness, monkeypatch):
    harness.serve("s0", FaultyMemory)
    blocks: list[int] = []
    compress = compression._Zlib.compress

    def counting(codec, block):
        blocks.append(len(block))
        return compress(codec, block)

    monkeypatch.setattr(compression._Zlib, "compress", counting)
    result = saver(harness, "s0", settings=Settings(codec="zlib")).run("a.save")
    assert sum(blocks) == result.bytes


def test_the_header_states_what_was_saved(harness: Harness):
    harness.serve("s0")
    saver(harness, "s0", settings=Settings(codec="zlib")).run("a.save")
    with ContainerReader("a.save") as file:
        (device,) = file.header.devices
        assert file.header.codec == "zlib"
    assert device.name == "s0"
    assert device.identity["ids"] == [0x1234, 0x11E8]
    assert device.identity["capabilities"] == ["STOP_COPY", "P2P", "PRE_COPY"]


def written(identity, *streams: bytes) -> None:
    """Write a file by hand."""
    devices = tuple(DeviceHeader("by hand", identity) for _ in streams)
    with ContainerWriter("b.save", Header(devices, "none"), replace=True) as file:
        for number, stream in enumerate(streams):
            file.write(number, stream)


def test_a_file_of_somebody_else_is_judged_by_the_device(saved: Harness):
    """Its header states nothing that we know of the device."""
    with ContainerReader("a.save") as file:
        file.check()
        stream = b"".join(map(bytes, file.blocks(0)))
    written({"model": "another program's"}, stream)
    saved.serve("d0")
    restorer(saved, "d0").run("b.save")
    assert saved.hosts["d0"].whole
    written({}, b"nothing a device wrote")
    with pytest.raises(MigrationFailedError, match="d0") as failed:
        restorer(saved, "d0").run("b.save")
    assert failed.value.outcome == "source"
    assert not saved.hosts["d0"].runs


def test_a_file_that_is_changed_while_it_is_read(saved: Harness):
    """It was looked at from end to end; whatever is not that any more is not handed out."""
    saved.serve("d0")

    def report(event) -> None:
        if event.name == "moved" and event.fields["to"] == "RESUMING":
            data = bytearray(Path("a.save").read_bytes())
            data[len(data) // 2] ^= 1
            Path("a.save").write_bytes(data)

    with pytest.raises(MigrationFailedError, match=r"a\.save") as failed:
        restorer(saved, "d0", report=report).run("a.save")
    assert failed.value.hints == ("d0: is stopped; restore into it again before it is used",)
    assert saved.states["d0"] == "STOP"
    assert not saved.hosts["d0"].whole


# --- the devices ---


@pytest.mark.parametrize("kind", [Saver, Restorer])
def test_a_group_that_no_plan_is_for(harness: Harness, kind):
    for name in ("s0", "s1"):
        harness.serve(name, capabilities="STOP_COPY")
    saver(harness, "s0").run("a.save", then="run")
    half = kind(["s0", "s1"], spec=SPEC)
    written({}, b"1", b"2")
    with pytest.raises(CannotMigrateError, match="lack P2P") as refused:
        half.run("c.save" if kind is Saver else "b.save")
    assert refused.value.refused
    assert harness.running == {"s0", "s1"}


def test_a_source_that_was_served_anew_has_lost_its_state(tmp_path):
    """It runs, but blank: that is not taken for the device that was."""
    path = tmp_path / "s0"
    servers = [forked_servers.serve(path, "memory,size=4M", "7")]
    forked_servers.wait_for(path)

    def watch(exchange) -> None:
        if (
            exchange.what == "reply"
            and exchange.command.name == "MIG_DATA_READ"
            and not servers[1:]
        ):
            servers[0].kill()
            servers[0].join(60)
            servers.append(forked_servers.serve(path, "memory,size=4M", "7"))
            forked_servers.wait_for(path)

    try:
        with pytest.raises(MigrationFailedError) as failed:
            Saver([str(path)], spec=SPEC, observers=[watch]).run(tmp_path / "a.save")
        assert failed.value.outcome == "lost"
        lost = f"{path}: was served anew, and what it held is lost"
        assert failed.value.hints == ("no file was written", lost)
        with Client(path) as client:
            assert client.state() == "RUNNING"
    finally:
        for server in servers:
            server.kill()
            server.join(60)
