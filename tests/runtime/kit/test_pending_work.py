"""Work that a device has put off: what can be, that it is saved with what is left, and restored."""

from __future__ import annotations

import enum
import functools
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sample_device import DELAY, JOB, Sample

from vfio_migration.model import Spec
from vfio_migration.runtime import Engine, RequestFailedError
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.kit.devices.memory import contents
from vfio_migration.runtime.kit.own_state import KIT, WORK
from vfio_migration.runtime.kit.pci_device import Bar, PciDevice, UnsavableWorkError
from vfio_migration.runtime.kit.pending_work import MAX_WORK_BYTES
from vfio_migration.runtime.kit.state_stream import StreamWriter
from vfio_migration.runtime.testing.suite import Clock, find_problems

STREAMS = Path(__file__).parents[2] / "data" / "streams"


class Doorbell(PciDevice):
    """Rings so long after its doorbell was written to, and notes what it was rung with."""

    name = "doorbell"
    bars = {0: Bar(4096)}  # noqa: RUF012

    def reset_device(self) -> None:
        self.listened: tuple[Any, ...] = ()

    def bar_read(self, bar: int, offset: int, size: int) -> int:
        return len(self.listened)

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        self.later(0.5, self.ring, value)

    def ring(self, *what: Any) -> None:
        self.listened = (*self.listened, *what)

    def receiver(self, *what: Any) -> bool:
        return "not yet" not in what

    async def ring_some_time(self) -> None:
        raise NotImplementedError

    def save(self) -> bytes:
        return json.dumps(self.listened).encode()

    def load(self, state: bytes, version: int) -> None:
        self.listened = tuple(json.loads(state))


def engine(device: PciDevice) -> Engine:
    """Return the one engine of a device."""
    made: Engine = vars(device).setdefault(
        "engine_of_the_test", Engine(device.spec, device.capabilities, device)
    )
    return made


def saved(device: PciDevice) -> bytes:
    run = engine(device)
    run.set_state("STOP_COPY")
    parts = []
    while part := device.stream_read(1 << 20):
        parts += [bytes(piece) for piece in part]
    run.set_state("STOP")
    return b"".join(parts)


def loaded(device: PciDevice, stream: bytes) -> Engine:
    run = engine(device)
    run.set_state("RESUMING")
    device.stream_write(stream)
    run.set_state("STOP")
    return run


def changed(device: PciDevice, sections: Iterable[tuple[int, bytes]]) -> bytes:
    """Return a stream of a device whose memories are not saved, with other sections."""
    engine(device).set_state("STOP")
    rows = {number: bytes(data) for number, data in device.kit_sections()} | dict(sections)
    kept = [(number, data) for number, data in rows.items() if data]
    writer = StreamWriter(device.kit_header(), device.memories, lambda: kept)
    return b"".join(bytes(part) for part in writer.read(1 << 30, still=True))


# --- what is saved ---


def test_a_rung_doorbell_arrives_with_what_is_left_of_its_delay() -> None:
    here, there = Clock(5.0), Clock(90_000.0)
    source, target = Doorbell(clock=here), Doorbell(clock=there)
    source.regions[0].write(0, b"\7")
    here.now += 0.2
    stream = saved(source)
    here.now += 1000.0
    there.now += 3.0
    run = loaded(target, stream)
    there.now += 500.0
    assert target.deadline() is None, "the time is stopped while it is stopped"
    run.set_state("RUNNING")
    deadline = target.deadline()
    assert deadline == pytest.approx(there.now + 0.3)
    target.tick()
    assert target.listened == ()
    there.now += 0.3001
    target.tick()
    assert target.listened == (7,)
    assert target.deadline() is None


def test_several_pieces_arrive_in_their_order_with_all_kinds_of_arguments() -> None:
    class Level(enum.IntEnum):
        HIGH = 3

    clock = Clock()
    source, target = Doorbell(clock=clock), Doorbell(clock=clock)
    given = (None, True, -1, 1 << 80, 0.1, float("inf"), "\ud800ü", b"\0\xff", (1, (b"x", ())))
    source.later(1, source.ring, *given)
    source.later(1, source.ring, Level.HIGH, needs=source.receiver)
    source.later(0.0, source.ring, "not yet", needs=source.receiver)
    run = loaded(target, saved(source))
    run.set_state("RUNNING")
    clock.now += 2
    target.tick()
    assert target.listened == (*given, 3)
    assert type(target.listened[-1]) is int, "it is what it was before the migration, too"
    assert len(target._kit_timers) == 1, "what is not permitted goes on waiting"
    target.cancel(target.ring)
    assert len(target._kit_timers) == 0


def test_a_second_migration_carries_what_is_then_put_off() -> None:
    clock = Clock()
    one, other = Doorbell(clock=clock), Doorbell(clock=clock)
    for left in (0.4, 0.3, 0.2):
        if left == 0.4:
            one.later(0.4, one.ring, "once")
        run = loaded(other, saved(one))
        run.set_state("RUNNING")
        assert other.deadline() == pytest.approx(clock.now + left)
        clock.now += 0.1
        one, other = other, one
    clock.now += 0.11
    one.tick()
    assert one.listened == ("once",)


def test_what_load_puts_off_gives_way_to_what_was_waiting() -> None:
    clock = Clock()
    source, target = Sample(clock=clock), Sample(clock=clock)
    source.regions[0].write(JOB, struct.pack("<Q", 5))
    clock.now += DELAY / 2
    loaded(target, saved(source)).set_state("RUNNING")
    assert len(target._kit_timers) == 1
    assert target.deadline() == pytest.approx(clock.now + DELAY / 2)


@pytest.mark.exhaustive
def test_a_device_whose_load_puts_nothing_off_again_passes_the_whole_suite(spec: Spec) -> None:
    assert list(find_problems(Doorbell, spec, capabilities=[7])) == []


def test_interrupts_can_be_put_off_as_they_are() -> None:
    clock = Clock()
    source, target = Doorbell(clock=clock), Doorbell(clock=clock)
    source.later(1.0, source.interrupt, 0)
    loaded(target, saved(source)).set_state("RUNNING")
    clock.now += 1.1
    target.tick()
    assert target.interrupts.line


# --- streams of earlier versions ---


def test_a_stream_of_edu_without_pending_work_is_loaded_and_its_factorial_begun_anew() -> None:
    clock = Clock()
    device = Edu(clock=clock)
    loaded(device, (STREAMS / "edu-without-work.stream").read_bytes()).set_state("RUNNING")
    assert device.regions[0].read(0x40000, 18) == b"kept in the buffer"
    assert device.liveness == ~0x12345678 & 0xFFFFFFFF
    clock.now += 0.002
    device.tick()
    assert device.regions[0].read(8, 4) == struct.pack("<I", 120)


def test_a_stream_of_memory_without_pending_work_is_loaded_and_goes_on_changing() -> None:
    clock = Clock()
    device = MemoryDevice(clock=clock, size=4096)
    loaded(device, (STREAMS / "memory-without-work.stream").read_bytes()).set_state("RUNNING")
    assert device.changes == 5
    assert bytes(device.block("bar2").view) == contents(1, 4096, 5)[:]
    for _ in range(20):
        clock.now += 0.0011
        device.tick()
    assert device.changes > 5
    assert bytes(device.block("bar2").view) == contents(1, 4096, device.changes)[:]


# --- what is refused when it is put off ---


def elsewhere() -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda device: lambda: None, "<lambda>, which a stream cannot name"),
        (lambda device: elsewhere, "elsewhere, which a stream cannot name"),
        (lambda device: functools.partial(device.ring, 1), "partial, which a stream cannot name"),
        (lambda device: Doorbell().ring, "Doorbell.ring, which a stream cannot name"),
        (lambda device: device.config.reset, "ConfigSpace.reset, which a stream cannot name"),
        (lambda device: device.ring_some_time, "it is `async`"),
        (lambda device: device.bar_write, "it is for the kit to call"),
        (lambda device: device.reset_device, "it is for the kit to call"),
    ],
)
def test_work_that_no_stream_can_name_is_refused_when_it_is_put_off(
    make: Any, message: str
) -> None:
    device = Doorbell()
    with pytest.raises(UnsavableWorkError, match="Doorbell") as refusal:
        device.later(1.0, make(device))
    assert message in str(refusal.value)
    with pytest.raises(UnsavableWorkError) as refusal:
        device.later(1.0, device.ring, needs=make(device))
    assert message in str(refusal.value)
    assert device.deadline() is None


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        ([1], r"tuple\(...\)"),
        (bytearray(1), r"bytes\(...\)"),
        ({}, "keep it in the device"),
        ((1, object()), "keep it in the device"),
        (lambda: True, "needs=self.method"),
        (1 << 2000, "more than 1024 bits"),
    ],
)
def test_an_argument_that_is_no_plain_data_is_refused_when_it_is_put_off(
    value: Any, way_out: str
) -> None:
    device = Doorbell()
    with pytest.raises(UnsavableWorkError, match=way_out) as refusal:
        device.later(1.0, device.ring, 0, value)
    assert str(refusal.value).startswith("Doorbell: argument 2 of ring, put off with `later`")


def test_a_condition_that_deferrable_lacks_is_refused_as_a_condition() -> None:
    class Careful(Doorbell):
        deferrable = ("ring",)

        def ready(self, times: int) -> bool:
            return times > 0

    device = Careful()
    with pytest.raises(UnsavableWorkError) as refusal:
        device.later(1.0, device.ring, 1, needs=device.ready)
    assert str(refusal.value) == (
        "Careful.ready cannot be `needs` of `later`: `deferrable` of Careful does not name it; "
        "add 'ready' to it"
    )


def test_a_number_of_arguments_that_its_method_does_not_take_is_refused() -> None:
    device = Sample()
    with pytest.raises(UnsavableWorkError, match=r"finish.*cannot be called with 2 arguments"):
        device.later(1.0, device.finish, 1, 2)


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), "1", None])
def test_a_delay_that_is_no_number_of_seconds_is_refused(delay: Any) -> None:
    device = Doorbell()
    with pytest.raises(ValueError, match=r"Doorbell\.later: the delay is"):
        device.later(delay, device.ring)


def test_more_work_than_a_stream_can_carry_is_refused() -> None:
    device = Doorbell()
    for _ in range(9):
        device.later(1.0, device.ring, "x" * (MAX_WORK_BYTES // 10))
    with pytest.raises(UnsavableWorkError, match=f"{MAX_WORK_BYTES} can be saved"):
        device.later(1.0, device.ring, "x" * (MAX_WORK_BYTES // 10))
    loaded(Doorbell(), saved(device))


# --- what is refused of a stream ---


def row(
    left: float = 1.0,
    method: bytes = b"ring",
    arguments: bytes = b"[]",
    needs: bytes = b"",
    *,
    layout: int = 1,
    count: int = 1,
) -> bytes:
    """Return a section of pending work, laid down by hand."""
    head = struct.pack("<HIdHHI", layout, count, left, len(method), len(needs), len(arguments))
    return head + method + needs + arguments


@pytest.mark.parametrize(
    ("section", "why"),
    [
        (b"", "cut off"),
        (row(layout=2), "layout 2"),
        (row(count=2), "2 of 2: it is cut off"),
        (row(count=0), "bytes too many"),
        (row()[:-1], "1 of 1: it is cut off"),
        (row() + b"x", "1 bytes too many"),
        (row(left=-1), "due in -1.0 seconds"),
        (row(left=float("nan")), "due in nan seconds"),
        (row(left=float("inf")), "due in inf seconds"),
        (row(method=b"nothing"), "'nothing': Doorbell has no such method"),
        (row(method=b""), "'': Doorbell has no such method"),
        (row(method=b"\xff"), "can't decode byte"),
        (row(method=b"close"), "'close': it is for the kit to call"),
        (row(method=b"__init__"), "for the kit to call"),
        (row(method=b"kit_power_on"), "for the kit to call"),
        (row(method=b"config"), "has no such method"),
        (row(method=b"ring_some_time"), "async"),
        (row(arguments=b'[{"text": "x"}]'), "not readable"),
        (row(arguments=b'{"0": 1}'), "not a list"),
        (row(arguments=b"[1"), "Expecting"),
        (row(arguments=b"[" * 100_000), "recursion"),
        (row(needs=b"nothing"), "Doorbell has no such method"),
    ],
)
def test_pending_work_that_makes_no_sense_is_refused_with_the_stream(
    section: bytes, why: str
) -> None:
    stream = changed(Doorbell(), [(WORK, section)] if section else [(WORK, b"\1")])
    target = Doorbell()
    with pytest.raises(RequestFailedError) as failure:
        loaded(target, stream)
    assert why in str(failure.value.__cause__)
    assert "pending work" in str(failure.value.__cause__)
    assert failure.value.situation.state == "RESUMING"


def test_a_stream_cannot_have_the_shipped_devices_do_just_anything() -> None:
    source = MemoryDevice(size=4096)
    stream = changed(source, [(WORK, row(method=b"change", arguments=b"[9]"))])
    with pytest.raises(RequestFailedError) as failure:
        loaded(MemoryDevice(size=4096), stream)
    assert "`deferrable` of MemoryDevice does not name it" in str(failure.value.__cause__)


def test_a_stream_without_what_every_stream_has_is_still_refused() -> None:
    stream = changed(Doorbell(), [(KIT, b"")])
    with pytest.raises(RequestFailedError) as failure:
        loaded(Doorbell(), stream)
    assert "section 0 is not in the stream" in str(failure.value.__cause__)
