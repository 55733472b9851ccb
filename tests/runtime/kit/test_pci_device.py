"""The kit as a device author meets it: declarations, hooks, gates, work put off, load and save."""

from __future__ import annotations

import os
import select
import struct
from pathlib import Path

import pytest
from noting_device import Noting
from sample_device import DELAY, JOB, Sample, drive_sample

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.model import Spec, load
from vfio_migration.runtime import ArcError, Engine, RequestFailedError
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.guest_memory import NotPermittedError
from vfio_migration.runtime.kit.interrupts import ACTION_TRIGGER, DATA_EVENTFD, INTX, MSI, MSIX
from vfio_migration.runtime.kit.pci_device import Bar, Identity, PciDevice
from vfio_migration.runtime.kit.state_stream import StreamRefusedError
from vfio_migration.runtime.testing.suite import (
    Clock,
    Setup,
    Trial,
    device_test_suite,
    find_problems,
)

ROOT = Path(__file__).parents[3]


class Counter(PciDevice):
    """The device of the documentation."""

    name = "counter"
    identity = Identity(vendor=0x1234, device=0xC0DE)
    bars = {0: Bar(4096)}  # noqa: RUF012
    msi = 1

    def reset_device(self) -> None:
        self.count = 0

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return self.count

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.count = value
        self.interrupt()

    def save(self) -> bytes:
        return struct.pack("<Q", self.count)

    def load(self, state: bytes, version: int) -> None:
        (self.count,) = struct.unpack("<Q", state)


WIDEST = "STOP_COPY,P2P,PRE_COPY"
SMALLER = ["STOP_COPY", "STOP_COPY,P2P", "STOP_COPY,PRE_COPY"]
TestCounter = device_test_suite(Counter, capabilities=[WIDEST])
TestSmallerCounter = pytest.mark.exhaustive(device_test_suite(Counter, capabilities=SMALLER))


def engine(device: PciDevice) -> Engine:
    return Engine(device.spec, device.capabilities, device)


# --- gates ---


def test_dma_is_impossible_where_it_is_not_permitted(spec: Spec) -> None:
    for state in ("STOP", "STOP_COPY", "RESUMING"):
        trial = Trial(Setup(Sample, spec, 7), 1)
        trial.ask(state)
        assert isinstance(trial.device, Sample)
        before, memory = trial.world(), trial.device.memory
        with pytest.raises(NotPermittedError, match="guest_dma"):
            memory.write(0, b"x")
        with pytest.raises(NotPermittedError, match="guest_dma"):
            memory.read(0, 1)
        assert trial.world() == before
        trial.close()


def test_work_waits_until_it_is_permitted(spec: Spec) -> None:
    clock = Clock()
    device = Sample(clock=clock)
    run = engine(device)
    device.regions[0].write(JOB, struct.pack("<Q", 5))
    clock.now += DELAY / 2
    run.set_state("STOP")
    clock.now += 100
    assert device.deadline() is None
    device.tick()
    assert (device.count, device.job) == (0, 5)
    run.set_state("RUNNING")
    assert device.deadline() == pytest.approx(clock.now + DELAY / 2)
    device.tick()
    assert device.count == 0
    clock.now += DELAY / 2
    device.tick()
    assert (device.count, device.job) == (5, 0)


def test_work_whose_needs_fail_fails_itself_and_nothing_else() -> None:
    """They are asked at every arc and for every deadline, which have no part in it."""

    class Careless(Sample):
        broken = False

        def reset_device(self) -> None:
            super().reset_device()
            self.done: list[str] = []

        def do(self, what: str) -> None:
            self.done.append(what)

        def can_do(self, what: str) -> bool:
            if self.broken:
                raise ZeroDivisionError(what)
            return True

    clock = Clock()
    device = Careless(clock=clock)
    run = engine(device)
    device.later(1.0, device.do, "this", needs=device.can_do)
    device.later(2.0, device.do, "that")
    device.broken = True
    run.set_state("STOP")
    run.set_state("RUNNING")
    assert device.deadline() == clock.now, "at once"
    with pytest.raises(ZeroDivisionError):
        device.tick()
    assert device.deadline() == clock.now + 2
    clock.now += 2
    device.tick()
    assert device.done == ["that"]
    device.close()


def test_registers_cannot_be_written_while_it_is_stopped() -> None:
    device = Sample()
    run = engine(device)
    run.set_state("STOP")
    with pytest.raises(CommandError) as refusal:
        device.regions[0].write(0, bytes(4))
    assert refusal.value.errno == "EBUSY"
    device.regions[7].write(4, b"\6\0")
    assert device.config.command == 6, "configuration space can: the client restores it"


def test_interrupts_take_the_way_the_guest_wants() -> None:
    class Both(Sample):
        msix = 4

    device = Both()
    device.interrupt()
    assert device.interrupts.line
    device.interrupts.lower_line()
    msi, msix = device.config.capability(5), device.config.capability(0x11)
    assert msi
    assert msix
    device.config.write(msi + 2, b"\x11\0")
    device.interrupt(1)
    assert device.interrupts.pending(MSI) == (1,)
    device.interrupt(3)
    assert device.interrupts.line, "there is no MSI 3"
    device.config.write(msix + 2, b"\0\x80")
    device.interrupt(3)
    assert device.interrupts.pending(MSIX) == (3,)
    with pytest.raises(CommandError):
        device.interrupts.set(DATA_EVENTFD, INTX, 0, 1)


def test_the_status_register_shows_whether_the_line_is_up() -> None:
    """A driver of a shared line asks it whether the interrupt is its device's."""
    device = Sample()
    config = device.regions[7]
    for up in (False, True, False):
        if up:
            device.interrupt()
        else:
            device.interrupts.lower_line()
        assert config.read(6, 1) == bytes([0x10 | 8 * up])
        assert config.read(4, 4) == struct.pack("<HH", 0, 0x10 | 8 * up)
        assert config.read(0, 256)[:6] == config.read(0, 6)
        assert config.read(7, 1) == b"\0"
    device.interrupt()
    config.write(6, b"\xff\xff")
    assert config.read(6, 1) == b"\x18", "writing does not take it down"
    carry(device, other := Sample())
    assert other.regions[7].read(6, 1) == b"\x18"
    other.interrupts.lower_line()
    assert other.regions[7].read(6, 1) == b"\x10"
    for made in (device, other):
        made.close()


@pytest.mark.parametrize(
    ("allocated", "listened"),
    [(0, [0, 0, 0, 0]), (1, [0, 1, 0, 1]), (2, [0, 1, 2, 3]), (5, [0, 1, 2, 3])],
)
def test_a_guest_with_few_vectors_is_found_by_those(allocated: int, listened: list[int]) -> None:
    class Four(Sample):
        msi = 4

    device = Four()
    control = device.config.capability(5)
    assert control
    device.config.write(control + 2, struct.pack("<H", 1 | allocated << 4))
    for vector, where in enumerate(listened):
        device.interrupt(vector)
        assert where in device.interrupts.pending(MSI)
    assert device.interrupts.pending(MSI) == tuple(sorted(set(listened)))
    device.close()


def test_pending_bits_show_what_is_pending_and_cannot_be_written() -> None:
    """QEMU reads them from the server: its own copy of them is never right."""

    class Many(Sample):
        msix = 70

    device, other = Many(), Many()
    table, bits = device.regions[4], 70 * 16
    assert device.regions[7].read(device.config.capability(0x11) + 8, 4) == struct.pack(
        "<I", bits | 4
    )
    for vector in (0, 9, 69):
        device.interrupts.trigger(MSIX, vector)
    words = struct.pack("<QQ", 1 | 1 << 9, 1 << 69 - 64)
    assert table.read(bits, 16) == words
    assert table.read(bits + 1, 8) == words[1:9], "wherever it begins"
    assert table.read(bits - 4, 4) == bytes(4)
    table.write(bits - 8, b"\xaa" * 32)
    assert table.read(bits - 8, 32) == b"\xaa" * 8 + words + b"\xaa" * 8
    table.write(bits + 4, b"\xff" * 4)
    assert table.read(bits, 16) == words
    carry(device, other)
    assert other.regions[4].read(bits - 8, 32) == b"\xaa" * 8 + words + b"\xaa" * 8
    events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(70)]
    other.interrupts.set(DATA_EVENTFD | ACTION_TRIGGER, MSIX, 0, 70, fds=events)
    assert [n for n, fd in enumerate(events) if select.select([fd], [], [], 0)[0]] == [0, 9, 69]
    assert other.regions[4].read(bits, 16) == bytes(16)
    for fd in events:
        os.close(fd)
    for made in (device, other):
        made.close()


# --- save and load ---


def carry(source: PciDevice, target: PciDevice) -> None:
    here, there = engine(source), engine(target)
    here.set_state("STOP_COPY")
    there.set_state("RESUMING")
    while parts := source.stream_read(1000):
        for part in parts:
            target.stream_write(part)
    there.set_state("RUNNING")
    here.set_state("RUNNING")


def test_an_older_version_is_loaded_if_the_device_states_it() -> None:
    class Newer(Counter):
        version = 3
        loads = (1,)

        def load(self, state: bytes, version: int) -> None:
            super().load(state, version)
            self.seen = version

    old, new = Counter(), Newer()
    old.count = 7
    carry(old, new)
    assert (new.count, new.seen) == (7, 1)
    third = Newer()
    carry(new, third)
    assert third.seen == 3
    with pytest.raises(CommandError, match="version 3 of the state; this device loads 1"):
        carry(third, Counter())


@pytest.mark.parametrize("error", [ValueError, KeyError, struct.error, RuntimeError, ArcError])
def test_whatever_load_raises_the_stream_is_refused(error: type[Exception]) -> None:
    class Picky(Counter):
        good = False

        def load(self, state: bytes, version: int) -> None:
            if not self.good:
                raise error("no")
            super().load(state, version)

    source, target = Counter(), Picky()
    with pytest.raises(RequestFailedError) as failure:
        carry(source, target)
    assert isinstance(failure.value.__cause__, ArcError)
    assert failure.value.situation.state == target.state == "RESUMING"
    assert failure.value.errno in ("EINVAL", "EIO")
    target.good = True
    target.take(target.spec.machine(7).arcs_from("RESUMING")[0], 1, "closes")


def test_work_under_way_before_does_not_survive_a_load() -> None:
    clock = Clock()
    source, target = Sample(clock=clock), Sample(clock=clock)
    target.regions[0].write(JOB, struct.pack("<Q", 5))
    carry(source, target)
    assert target.deadline() is None
    clock.now += 10
    target.tick()
    assert target.count == 0


def test_a_device_with_other_memory_or_registers_is_refused() -> None:
    class More(Counter):
        private = {"more": 4096}  # noqa: RUF012

    class Express(Counter):
        express = True

    for other, why in ((More(), "memories"), (Sample(), "device")):
        with pytest.raises(CommandError, match=why):
            carry(Counter(), other)
    with pytest.raises(RequestFailedError) as failure:
        carry(Counter(), Express())
    assert isinstance(failure.value.__cause__, StreamRefusedError)


def test_plain_memory_is_found_by_name() -> None:
    device = Sample()
    assert [device.block(name).size for name in ("bar0.0", "bar2", "notes")] == [4096, 4096, 16384]
    with pytest.raises(KeyError):
        device.block("bar1")


def test_closing_leaves_nothing_behind() -> None:
    before = opened_at_rest()
    for _ in range(50):
        trial = Trial(Setup(Sample, load(), 7, drive_sample), 1)
        trial.drive()
        trial.ask("PRE_COPY")
        trial.read(10)
        trial.close()
    assert opened() == before


# --- a changed table ---


@pytest.mark.exhaustive
def test_a_ninth_state_passes_the_whole_suite(ninth_state: Spec) -> None:
    assert list(find_problems(Sample, ninth_state, drive=drive_sample, capabilities=[7])) == []


def test_a_ninth_state_is_run_by_the_same_device(ninth_state: Spec) -> None:
    device = Noting(spec=ninth_state)
    run = engine(device)
    run.set_state("STOP_P2P")
    assert (device.state, device.may("start_dma")) == ("STOP_P2P", False)
    with pytest.raises(CommandError):
        device.regions[0].write(0, bytes(4))


def test_a_state_that_gives_back_dma_alone_is_obeyed(spec: Spec) -> None:
    """What a state permits is asked of the table and of nothing else."""
    from dataclasses import replace

    stopped = spec.operation("stopped")
    changed = replace(
        spec,
        operations=tuple(
            replace(row, may=("start_dma",)) if row is stopped else row for row in spec.operations
        ),
    )
    trial = Trial(Setup(Sample, changed, 7), 1)
    trial.ask("STOP")
    trial.device.memory.write(0, b"permitted")
    assert bytes(trial.guest.memory.view[:9]) == b"permitted"
    trial.close()


def test_no_state_is_known_by_name() -> None:
    names = [row.name for row in load().states]
    folders = [ROOT / "runtime" / wing for wing in ("kit", "testing")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    assert len(files) > len(folders)
    for file in files:
        text = file.read_text("utf-8").replace("'STOP_COPY,P2P,PRE_COPY'", "")
        for name in names:
            quoted = [quote + name + quote for quote in ('"', "'")]
            assert not [one for one in quoted if one in text], (file, name)


# --- the kit for testing ---


def test_the_suite_names_its_tests_by_check_and_capabilities() -> None:
    both = (*dir(TestCounter), *dir(TestSmallerCounter))
    names = {name for name in both if name.startswith("test_")}
    assert "test_two_lives_with_stop_copy_p2p_pre_copy" in names
    assert len(names) == 4 * 21
