"""Interrupts: the line, messages, masks, pending ones, hostile descriptors."""

from __future__ import annotations

import os
import resource
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.kit import interrupts as irq
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.interrupts import (
    ACTION_MASK,
    ACTION_TRIGGER,
    ACTION_UNMASK,
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    INTX,
    MSI,
    MSIX,
    Interrupts,
)


@pytest.fixture
def events() -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(4)]
    yield fds
    for fd in fds:
        os.close(fd)


def came(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def test_messages_go_to_their_descriptor(events: list[int]) -> None:
    all_ = Interrupts(msi=2, msix=3)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSIX, 1, 2, fds=events[:2])
    all_.trigger(MSIX, 1)
    all_.trigger(MSIX, 2)
    all_.trigger(MSIX, 2)
    assert [came(fd) for fd in events] == [1, 2, 0, 0]
    with pytest.raises(IndexError):
        all_.trigger(MSIX, 3)
    all_.drop()


def test_what_has_no_descriptor_is_pending(events: list[int]) -> None:
    all_ = Interrupts(msi=2)
    all_.trigger(MSI, 1)
    assert all_.pending(MSI) == (1,)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 2, fds=events[:1])
    assert all_.pending(MSI) == (1,), "fewer descriptors than interrupts: the rest comes later"
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 1, 1, fds=events[1:2])
    assert (came(events[0]), came(events[1]), all_.pending(MSI)) == (0, 1, ())
    all_.drop()


def test_what_is_not_permitted_is_pending(events: list[int]) -> None:
    may = False
    all_ = Interrupts(intx=True, msi=1, gate=lambda: may)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, fds=events[:1])
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, INTX, 0, 1, fds=events[1:2])
    all_.trigger(MSI)
    all_.raise_line()
    assert (came(events[0]), came(events[1])) == (0, 0)
    may = True
    all_.flush()
    assert (came(events[0]), came(events[1])) == (1, 1)
    all_.drop()


def test_the_line_masks_itself_and_shows_again_while_it_is_up(events: list[int]) -> None:
    all_ = Interrupts(intx=True)
    all_.raise_line()
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, INTX, 0, 1, fds=events[:1])
    assert came(events[0]) == 1, "it was up before anybody listened"
    all_.raise_line()
    assert (came(events[0]), all_.masked) == (0, True)
    all_.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    assert came(events[0]) == 1
    all_.lower_line()
    all_.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    assert (came(events[0]), all_.masked) == (0, False)
    all_.set(DATA_BOOL | ACTION_MASK, INTX, 0, 1, bools=b"\0")
    assert not all_.masked
    all_.set(DATA_BOOL | ACTION_MASK, INTX, 0, 1, bools=b"\1")
    all_.raise_line()
    assert came(events[0]) == 0
    all_.drop()


def test_masking_is_reported(events: list[int]) -> None:
    all_ = Interrupts(intx=True)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_MASK, 1), (ACTION_UNMASK, 2)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    all_.raise_line()
    assert [came(fd) for fd in events[:3]] == [1, 1, 0]
    all_.lower_line()
    all_.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    assert [came(fd) for fd in events[:3]] == [0, 0, 1]
    all_.drop()


def test_the_descriptor_for_unmask_goes_both_ways(events: list[int]) -> None:
    """With Linux the client writes it, and KVM does for QEMU; with vfio-user the device."""
    all_ = Interrupts(intx=True)
    os.eventfd_write(events[1], 7)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_UNMASK, 1)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    all_.raise_line()
    assert (came(events[0]), all_.awaits_unmask) == (1, True)
    all_.read_unmask_event()
    all_.raise_line()
    assert came(events[0]) == 0, "what was written before it was masked does not count"
    os.eventfd_write(events[1], 1)
    all_.read_unmask_event()
    assert (came(events[0]), all_.masked) == (1, True), "the line is still up"
    all_.read_unmask_event()
    assert came(events[0]) == 0
    all_.lower_line()
    assert not all_.awaits_unmask
    os.eventfd_write(events[1], 1)
    all_.raise_line()
    assert came(events[0]) == 1, "the next one is reported without a look"
    # Unmasked by a message, the client reads of it, and that states nothing to the device.
    assert came(events[1]) == 9
    all_.lower_line()
    all_.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    all_.raise_line()
    all_.read_unmask_event()
    assert [came(fd) for fd in events[:2]] == [1, 1]
    all_.read_unmask_event()
    assert came(events[0]) == 0
    # Nor does it unmask what the client has masked since.
    os.eventfd_write(events[1], 1)
    all_.set(DATA_NONE | ACTION_MASK, INTX, 0, 1)
    all_.read_unmask_event()
    assert (came(events[0]), all_.masked) == (0, True)
    all_.drop()


def test_a_device_that_may_raise_nothing_does_not_look(events: list[int]) -> None:
    may = True
    all_ = Interrupts(intx=True, gate=lambda: may)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_UNMASK, 1)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    all_.raise_line()
    may = False
    os.eventfd_write(events[1], 1)
    all_.read_unmask_event()
    assert (came(events[0]), all_.awaits_unmask) == (1, False)
    may = True
    all_.flush()
    assert came(events[0]) == 1
    all_.drop()


def test_a_line_that_is_disabled_forgets_all_its_descriptors(events: list[int]) -> None:
    all_ = Interrupts(intx=True)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_MASK, 1), (ACTION_UNMASK, 2)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    before = opened_at_rest()
    all_.set(DATA_NONE | ACTION_TRIGGER, INTX, 0, 0)
    assert len(before - opened()) == 3
    all_.raise_line()
    all_.set(DATA_NONE | ACTION_MASK, INTX, 0, 1)
    all_.set(DATA_NONE | ACTION_UNMASK, INTX, 0, 1)
    assert [came(fd) for fd in events[:3]] == [0, 0, 0]


def test_a_client_can_try_its_descriptors(events: list[int]) -> None:
    all_ = Interrupts(msi=2, gate=lambda: False)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 2, fds=events[:2])
    all_.set(DATA_BOOL | ACTION_TRIGGER, MSI, 0, 2, bools=b"\0\1")
    assert [came(fd) for fd in events[:2]] == [0, 1]
    all_.set(DATA_NONE | ACTION_TRIGGER, MSI, 0, 2)
    assert [came(fd) for fd in events[:2]] == [1, 1]
    all_.drop()


def test_descriptors_are_taken_back(events: list[int]) -> None:
    all_ = Interrupts(msi=2)
    give = DATA_EVENTFD | ACTION_TRIGGER
    all_.set(give, MSI, 0, 2, fds=events[:2])
    all_.set(give, MSI, 0, 1)
    all_.trigger(MSI, 0)
    all_.trigger(MSI, 1)
    assert [came(fd) for fd in events[:2]] == [0, 1]
    all_.set(DATA_NONE | ACTION_TRIGGER, MSI, 0, 0)
    assert not all_.armed(MSI)
    all_.set(DATA_NONE | ACTION_TRIGGER, MSIX, 0, 0)


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "more"),
    [
        (0, MSI, 0, 1, {}),
        (DATA_NONE, MSI, 0, 1, {}),
        (ACTION_TRIGGER, MSI, 0, 1, {}),
        (DATA_NONE | DATA_BOOL | ACTION_TRIGGER, MSI, 0, 1, {}),
        (DATA_NONE | ACTION_MASK | ACTION_TRIGGER, INTX, 0, 1, {}),
        (DATA_NONE | ACTION_TRIGGER | 64, MSI, 0, 1, {}),
        (DATA_NONE | ACTION_TRIGGER, 5, 0, 1, {}),
        (DATA_NONE | ACTION_TRIGGER, -1, 0, 1, {}),
        (DATA_NONE | ACTION_TRIGGER, MSI, 1, 2, {}),
        (DATA_NONE | ACTION_TRIGGER, MSI, 1, 0, {}),
        (DATA_NONE | ACTION_TRIGGER, MSI, 0xFFFFFFFF, 0xFFFFFFFF, {}),
        (DATA_NONE | ACTION_MASK, MSI, 0, 1, {}),
        (DATA_BOOL | ACTION_TRIGGER, MSI, 0, 2, {"bools": b"\1"}),
        (DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, {"fds": [0, 1]}),
        (DATA_EVENTFD | ACTION_MASK, INTX, 0, 0, {}),
    ],
)
def test_what_makes_no_sense_is_refused(
    flags: int, index: int, start: int, count: int, more: dict[str, object]
) -> None:
    all_ = Interrupts(intx=True, msi=2)
    with pytest.raises(CommandError) as refusal:
        all_.set(flags, index, start, count, **more)  # type: ignore[arg-type]
    assert refusal.value.occasion == "argument_invalid"


def test_only_event_descriptors_are_taken(events: list[int]) -> None:
    all_ = Interrupts(msi=2)
    end, other = os.pipe()
    before = opened_at_rest()
    for bad in (end, other, 9999):
        with pytest.raises(CommandError):
            all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 2, fds=[events[0], bad])
    assert not all_.armed(MSI)
    assert opened() == before
    os.close(end)
    os.close(other)


def test_a_full_counter_does_not_block() -> None:
    fd = os.eventfd(0)
    os.eventfd_write(fd, 0xFFFFFFFFFFFFFFFE)
    all_ = Interrupts(msi=1)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, fds=[fd])
    all_.trigger(MSI)
    assert all_.sent == 0
    all_.drop()
    os.close(fd)


def test_the_state_of_another_device_is_taken_over(events: list[int]) -> None:
    all_ = Interrupts(intx=True, msi=2)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 2, fds=events[:2])
    for bad in ([(9, 0)], [(MSI, 2)], [(MSIX, 0)]):
        with pytest.raises(ValueError, match="no interrupt"):
            all_.restore(True, bad)
        assert (all_.line, all_.pending(MSI)) == (False, ())
    all_.restore(True, [(MSI, 1)])
    assert (all_.line, all_.pending(MSI)) == (True, (1,))
    all_.forget()
    assert (all_.line, all_.pending(MSI)) == (False, ())
    all_.drop()


def test_what_kinds_there_are() -> None:
    all_ = Interrupts(intx=True, msi=4, err=True)
    assert [all_.count(index) for index in range(irq.INDEXES)] == [1, 4, 0, 1, 0]
    assert all_.flags(INTX) == 7
    assert all_.flags(MSI) == 9
    with pytest.raises(CommandError):
        all_.flags(5)


def test_a_file_called_eventfd_is_none(tmp_path: Path) -> None:
    """Writing to it could fail, or wait for ever, in the middle of what the device does."""
    os.mkfifo(tmp_path / "eventfd")
    fds = [
        os.memfd_create("eventfd"),
        os.memfd_create("anon_inode:[eventfd]"),
        os.open(tmp_path / "eventfd", os.O_RDONLY | os.O_NONBLOCK),
    ]
    all_ = Interrupts(msi=1)
    for fd in fds:
        with pytest.raises(CommandError):
            all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, fds=[fd])
        os.close(fd)


def test_a_client_may_read_the_descriptor_for_unmask(events: list[int]) -> None:
    """What it writes after that counts, however much the descriptor held before."""
    all_ = Interrupts(intx=True)
    os.eventfd_write(events[1], 7)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_UNMASK, 1)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    all_.raise_line()
    assert (came(events[0]), came(events[1])) == (1, 7)
    all_.read_unmask_event()
    os.eventfd_write(events[1], 1)
    all_.read_unmask_event()
    assert came(events[0]) == 1
    all_.drop()


def test_a_descriptor_for_mask_takes_no_unmask_away(events: list[int]) -> None:
    all_ = Interrupts(intx=True)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_UNMASK, 1)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    all_.raise_line()
    os.eventfd_write(events[1], 1)
    all_.set(DATA_EVENTFD | ACTION_MASK, INTX, 0, 1, fds=[events[2]])
    all_.read_unmask_event()
    assert came(events[0]) == 2, "the line is still up, and it was unmasked"
    all_.drop()


def test_the_line_is_raised_with_no_descriptor_to_spare(events: list[int]) -> None:
    all_ = Interrupts(intx=True)
    for action, fd in ((ACTION_TRIGGER, 0), (ACTION_UNMASK, 1)):
        all_.set(DATA_EVENTFD | action, INTX, 0, 1, fds=[events[fd]])
    before, free = resource.getrlimit(resource.RLIMIT_NOFILE), os.dup(events[0])
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        all_.raise_line()
        all_.read_unmask_event()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (came(events[0]), all_.masked) == (1, True)
    os.eventfd_write(events[1], 1)
    all_.read_unmask_event()
    assert came(events[0]) == 1
    all_.drop()


def test_a_device_has_no_more_interrupts_than_a_server_keeps_descriptors_for() -> None:
    most = {"intx": True, "msi": 32, "msix": 2048, "err": True, "req": True}
    Interrupts(**most)
    with pytest.raises(ValueError, match="keeps 2086 descriptors of its client; a server keeps"):
        Interrupts(**{**most, "msix": 2049})


@pytest.mark.parametrize("asynchronous", [True, False], ids=["asynchronous I/O", "a thread"])
def test_an_event_that_fills_up_between_look_and_write_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    """A client wins this race sooner or later; here it wins it at the first try."""
    event = os.eventfd(0, os.EFD_CLOEXEC)  # one that blocks, as its client wants it
    looks: list[list[tuple[int, int]]] = []
    real = select.poll

    class Poll:
        def __init__(self) -> None:
            self._real = real()

        def register(self, fd: int, events: int) -> None:
            self._real.register(fd, events)

        def poll(self, timeout: int | None = None) -> list[tuple[int, int]]:
            found = self._real.poll(timeout)
            if not looks:
                os.eventfd_write(event, 2**64 - 2)
            looks.append(found)
            return found

    if not asynchronous:
        monkeypatch.setattr("vfio_migration.runtime.kit.event_signal._CALLS", {})
    monkeypatch.setattr(select, "poll", Poll)
    all_ = Interrupts(msi=1)
    all_.set(DATA_EVENTFD | ACTION_TRIGGER, MSI, 0, 1, fds=[event])
    trigger = threading.Thread(target=all_.trigger, args=(MSI, 0), daemon=True)
    trigger.start()
    trigger.join(20)
    waits = trigger.is_alive()
    os.eventfd_read(event)  # anybody who still waits goes on
    trigger.join()
    all_.drop()
    os.close(event)
    assert [what for _, what in looks[0]] == [select.POLLOUT], "it looked, and there was room"
    assert not waits
