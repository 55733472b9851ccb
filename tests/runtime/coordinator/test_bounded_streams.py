"""Every pass, stream and downtime ends, in time and in bytes, whatever a device reports."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.hostile_value_server import DATA_SIZE, PciPeer, serving
from support.peer_habits.base import PRE_COPY, RESUMING, RUNNING, STOP, STOP_COPY
from support.raw_client import FEATURE, GET, MIG_WRITE
from support.samples import sampled
from vfio_migration.runtime.client.blocking import GRACE_S, CancelDeadline
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Coordinator,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator import save as saving_module
from vfio_migration.runtime.coordinator import transfer as transfer_module
from vfio_migration.runtime.coordinator.save import Restorer, Saver

HELD = bytes(range(200))
HUGE = 1 << 62
LATE_S = 0.2
"""How long a late answer takes: much less than a server may."""


class Endless(PciPeer):
    """Its stream never ends, and it states that there is as much left as there can be."""

    estimate = HUGE
    max_transfer = 1 << 16

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == FEATURE and struct.unpack_from("=II", payload)[1] == GET | DATA_SIZE:
            return struct.pack("=IIQ", 16, GET | DATA_SIZE, self.estimate)
        return super().answer(command, payload)

    def read(self, size: int) -> bytes:
        super().read(size)
        return bytes(size)


class EndlessOnceStopped(Endless):
    """Its stream ends while it runs, and never once it is stopped."""

    estimate = 0

    def read(self, size: int) -> bytes:
        return b"" if self.state == PRE_COPY else super().read(size)


class FallsAsItIsRead(Endless):
    """What it states is left falls with what was read of it, as that of an honest device."""

    def read(self, size: int) -> bytes:
        self.estimate -= size
        return super().read(size)


class OneByteARead(PciPeer):
    """Answers each read with one byte, for ever, while it runs; then its stream ends."""

    def read(self, size: int) -> bytes:
        super().read(size)
        return b"x" if self.state == PRE_COPY else b""


class LateWhileStopped(EndlessOnceStopped):
    """Each read of the stopped device is answered late, and always in time."""

    def read(self, size: int) -> bytes:
        if self.state == STOP_COPY:
            time.sleep(LATE_S)
        return super().read(size)


class TakesWritesLate(PciPeer):
    """Takes a byte at a time, each of them late, and always in time."""

    max_transfer = 1

    def answer(self, command: int, payload: bytes) -> bytes:
        if command == MIG_WRITE:
            time.sleep(LATE_S)
        return super().answer(command, payload)


class AlwaysLate(PciPeer):
    """Each answer is late, and always in time."""

    def answer(self, command: int, payload: bytes) -> bytes:
        time.sleep(LATE_S)
        return super().answer(command, payload)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 0.1)


@contextlib.contextmanager
def devices(source: type[PciPeer], target: type[PciPeer] = PciPeer) -> Iterator[tuple[Any, Any]]:
    with serving(Path("s"), source(HELD)) as one, serving(Path("d"), target(bytes(200))) as two:
        yield one, two


def migrate(**settings: Any) -> Coordinator:
    return Coordinator([("s", "d")], settings=Settings(**{"timeout_s": 20.0, **settings}))


def fails(coordinator: Coordinator) -> MigrationFailedError:
    with pytest.raises(MigrationFailedError) as failure:
        coordinator.run()
    assert failure.value.outcome == "source"
    return failure.value


@pytest.mark.parametrize("kind", [Endless, FallsAsItIsRead])
def test_an_estimate_of_two_to_the_62nd_and_a_stream_without_an_end_bound_nothing(kind) -> None:
    """As reported: with --max-passes 2 --if-slow cancel it was in pass 1 after 40 s."""
    with devices(kind) as (source, _destination):
        coordinator = migrate(max_passes=2, if_slow="cancel", max_pre_copy=1.0)
        failure = fails(coordinator)
        assert source.state == RUNNING
    stream = coordinator._transfer.streams[0]
    if kind is Endless:  # nothing of what it said came true: each pass ended
        assert stream.passes == 2
        assert "after 2 passes the devices would still be stopped" in failure.why
    else:
        assert failure.why.startswith("pre-copy took longer than 1 s, the most that is allowed")


def test_a_pass_brings_no_more_than_twice_what_a_pass_before_it_brought(monkeypatch) -> None:
    monkeypatch.setattr(transfer_module, "MAX_PASS_S", 3600.0)

    class ReportsMoreEachTime(PciPeer):
        max_transfer = 1 << 16
        asked = 0

        def answer(self, command: int, payload: bytes) -> bytes:
            if command == FEATURE and struct.unpack_from("=II", payload)[1] == GET | DATA_SIZE:
                self.asked += 1
                estimate = 1 << 18 if self.asked == 1 else HUGE
                return struct.pack("=IIQ", 16, GET | DATA_SIZE, estimate)
            return super().answer(command, payload)

        def read(self, size: int) -> bytes:
            super().read(size)
            return bytes(size)

    with devices(ReportsMoreEachTime):
        coordinator = migrate(max_passes=3, if_slow="cancel")
        fails(coordinator)
    # 256 KiB as it said, then twice as much, and twice as much again.
    assert coordinator._transfer.streams[0].bytes <= 7 * (1 << 18) + 3 * 3 * (1 << 16)


def test_one_byte_for_each_read_is_a_pass_like_any_other() -> None:
    with devices(OneByteARead) as (source, destination):
        destination.judge = lambda _stream: None
        summary = migrate(max_passes=5, downtime=1e-9).run()
        assert summary.passes <= 6
        assert (source.state, destination.state) == (STOP, RUNNING)


@sampled(3)
@pytest.mark.parametrize("kind", [EndlessOnceStopped, LateWhileStopped])
@pytest.mark.parametrize("migration", ["live", "offline"])
def test_a_stream_without_an_end_holds_the_devices_still_no_longer_than_is_allowed(
    kind, migration
) -> None:
    with devices(kind) as (source, destination):
        failure = fails(migrate(migration=migration, max_downtime=0.5))
        assert source.state == RUNNING
        assert destination.state == STOP
    assert failure.why.startswith("the devices were held still for 0.5 s, the longest that is")
    assert any("--max-downtime" in hint for hint in failure.hints)


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_a_stream_without_an_end_brings_no_more_bytes_than_are_allowed(migration) -> None:
    bound = 1 << 20
    with devices(EndlessOnceStopped) as (source, _destination):
        coordinator = migrate(migration=migration, max_bytes=bound)
        failure = fails(coordinator)
        assert source.state == RUNNING
    assert failure.why == (
        f"s: its stream is longer than {bound} bytes, which is the most that is transferred of a "
        "device"
    )
    assert coordinator._transfer.streams[0].bytes <= bound


def test_pre_copy_ends_once_half_of_the_bytes_were_read() -> None:
    with devices(FallsAsItIsRead) as (source, _destination):
        coordinator = migrate(max_bytes=1 << 22, if_slow="cancel")
        failure = fails(coordinator)
        assert source.state == RUNNING
    assert failure.why.startswith(f"pre-copy took more than {1 << 21} bytes of one of them")
    assert coordinator._transfer.streams[0].bytes < 1 << 22


@pytest.mark.parametrize(
    ("settings", "room", "why"),
    [
        ({"max_downtime": 0.5}, None, "the devices were held still for 0.5 s"),
        ({"max_bytes": 1 << 20}, None, "s: its stream is longer than 1048576 bytes"),
        ({}, 1 << 22, "and no more than 4194304 of its file system are filled with it"),
    ],
    ids=["time", "bytes", "room"],
)
@pytest.mark.parametrize("migration", ["live", "offline"])
def test_a_save_of_a_stream_without_an_end_is_given_up_and_leaves_no_file(
    monkeypatch, settings, room, why, migration
) -> None:
    if room is not None:
        monkeypatch.setattr(saving_module, "_room_for", lambda _path: room)
    with devices(EndlessOnceStopped) as (source, _destination):
        saver = Saver(["s"], settings=Settings(migration=migration, timeout_s=20.0, **settings))
        with pytest.raises(MigrationFailedError) as failure:
            saver.run("file")
        assert failure.value.outcome == "source"
        assert why in failure.value.why
        assert "no file was written" in failure.value.hints
        assert source.state == RUNNING
    assert not [one for one in Path().iterdir() if "file" in one.name]


def test_a_save_leaves_room_in_its_file_system_for_others(monkeypatch) -> None:
    free = 1 << 40
    there = type("", (), {"f_bavail": free >> 12, "f_frsize": 1 << 12})
    monkeypatch.setattr(saving_module.os, "statvfs", lambda _path: there)
    assert saving_module._room_for(Path("file")) == free - free // 16


def test_a_restore_that_is_taken_byte_by_byte_ends_in_time() -> None:
    with devices(PciPeer, TakesWritesLate) as (_source, destination):
        Saver(["s"]).run("file")
        restorer = Restorer(["d"], settings=Settings(timeout_s=20.0, max_downtime=0.5))
        with pytest.raises(MigrationFailedError, match=r"held still for 0\.5 s") as failure:
            restorer.run("file")
        assert failure.value.outcome == "source"
        assert destination.state != RESUMING
    assert Path("file").exists()


def test_answers_that_come_late_and_always_in_time_have_one_deadline_in_all() -> None:
    """A look at two devices asks them some sixty times."""
    with devices(AlwaysLate, AlwaysLate) as (source, _destination):
        with pytest.raises((CannotMigrateError, MigrationFailedError)) as failure:
            migrate(timeout_s=0.5, max_pre_copy=0.1).run()
        assert "is not answered" in failure.value.why
        assert source.state == RUNNING


def test_a_deadline_is_the_same_for_each_that_is_waited_for() -> None:
    deadline = CancelDeadline()
    deadline.expire_at(100.0)
    assert deadline(0.0) == deadline(99.0) == deadline(500.0) == 100.0 + GRACE_S
    deadline.end()
    assert deadline(0.0) == float("inf")
