"""edu: registers as QEMU's description has them, migration in the middle of things, peers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from edu_rig import RAM, EduRig, carry, drive_edu

from support.samples import sampled
from vfio_migration.model import Spec
from vfio_migration.runtime.kit.devices import DEVICES, Edu, MemoryDevice
from vfio_migration.runtime.kit.devices.edu import (
    BUFFER,
    BUFFER_SIZE,
    DMA_IRQ,
    DMA_RUN,
    IRQ_DMA,
    IRQ_FACTORIAL,
    REG_DMA_COMMAND,
    REG_FACTORIAL,
    REG_IRQ_ACK,
    REG_IRQ_RAISE,
    REG_IRQ_STATUS,
    REG_LIVENESS,
    REG_STATUS,
    STATUS_COMPUTING,
    STATUS_IRQ,
)
from vfio_migration.runtime.kit.interrupts import INTX
from vfio_migration.runtime.testing.suite import Clock, device_test_suite, find_problems

# The widest set is the sample.
TestEdu = device_test_suite(
    Edu,
    drive=drive_edu,
    capabilities=["STOP_COPY,P2P,PRE_COPY"],
    hidden_states=0,
)
TestSmallerEdu = pytest.mark.exhaustive(
    device_test_suite(
        Edu,
        drive=drive_edu,
        capabilities=["STOP_COPY", "STOP_COPY,P2P", "STOP_COPY,PRE_COPY"],
    )
)

CAPABILITIES = [1, 3, 5, 7]
HERE = 0x800


@pytest.fixture
def rig() -> Iterator[EduRig]:
    made = EduRig()
    yield made
    made.close()


# --- registers ---


def test_who_it_is(rig: EduRig) -> None:
    config = rig.edu.regions[7]
    assert config.read(0, 4) == b"\x34\x12\xe8\x11"
    assert config.read(8, 4) == b"\x10\x00\xff\x00"
    assert config.read(0x2C, 4) == b"\xf4\x1a\x00\x11"
    assert rig.edu.regions[0].size == 1 << 20
    assert rig.get(0) == 0x010000ED
    assert rig.edu.interrupts.count(INTX) == 1


def test_liveness(rig: EduRig) -> None:
    rig.put(REG_LIVENESS, 0x12345678)
    assert rig.get(REG_LIVENESS) == 0xEDCBA987


@pytest.mark.parametrize("number", [0, 1, 5, 12, 13, 20, 33, 34, 1000, 0xFFFFFFFF])
def test_factorial(rig: EduRig, number: int) -> None:
    rig.put(REG_FACTORIAL, number)
    assert rig.get(REG_STATUS) & STATUS_COMPUTING
    assert rig.get(REG_FACTORIAL) == number
    rig.put(REG_FACTORIAL, 3)
    rig.wait()
    assert not rig.get(REG_STATUS) & STATUS_COMPUTING
    assert rig.get(REG_FACTORIAL) == math.factorial(min(number, 40)) % (1 << 32)
    assert rig.came() == 0


def test_factorial_interrupts_if_asked_to(rig: EduRig) -> None:
    rig.put(REG_STATUS, STATUS_IRQ | STATUS_COMPUTING)
    assert rig.get(REG_STATUS) == STATUS_IRQ, "computing cannot be set by writing it"
    rig.put(REG_FACTORIAL, 4)
    rig.wait()
    assert (rig.came(), rig.get(REG_IRQ_STATUS)) == (1, IRQ_FACTORIAL)
    rig.put(REG_STATUS, 0)
    assert rig.get(REG_STATUS) == 0


def test_interrupts_are_raised_and_acknowledged(rig: EduRig) -> None:
    rig.put(REG_IRQ_RAISE, 0)
    assert rig.came() == 0
    rig.put(REG_IRQ_RAISE, 0x30)
    rig.put(REG_IRQ_RAISE, 0x01)
    assert (rig.came(), rig.get(REG_IRQ_STATUS)) == (2, 0x31)
    rig.put(REG_IRQ_ACK, 0x21)
    assert rig.get(REG_IRQ_STATUS) == 0x10


def test_the_line_is_used_when_there_is_no_msi(rig: EduRig) -> None:
    rig.edu.interrupts.drop()
    rig.put(REG_IRQ_RAISE, 2)
    assert rig.edu.interrupts.line
    rig.put(REG_IRQ_ACK, 1)
    assert rig.edu.interrupts.line
    rig.put(REG_IRQ_ACK, 2)
    assert not rig.edu.interrupts.line


@pytest.mark.parametrize("size", [1, 2, 8])
def test_low_registers_take_four_bytes_at_a_time(rig: EduRig, size: int) -> None:
    rig.put(REG_LIVENESS if size < 8 else 0x20, 0, size)
    assert rig.get(0, size) == (1 << 8 * size) - 1
    assert rig.get(REG_LIVENESS) == 0


def test_high_registers_take_eight(rig: EduRig) -> None:
    rig.put(0x80, 0x1122334455667788, 8)
    assert rig.get(0x80, 8) == 0x1122334455667788
    assert rig.get(0x80, 4) == 0x55667788
    assert rig.get(0x80, 2) == 0xFFFF


def test_where_there_is_nothing_all_bits_are_ones(rig: EduRig) -> None:
    for offset in (0x0C, 0x60, 0x64, 0xA0, 0x1000, 0xFFFFC):
        assert rig.get(offset) == 0xFFFFFFFF
        rig.put(offset if offset not in (0x60, 0x64) else 0x0C, 5)


# --- DMA ---


def test_dma_both_ways(rig: EduRig) -> None:
    rig.ram.view[HERE : HERE + 100] = bytes(range(100))
    rig.to_device(HERE, 8, 100)
    assert rig.get(REG_DMA_COMMAND, 8) & DMA_RUN
    rig.wait()
    assert not rig.get(REG_DMA_COMMAND, 8) & DMA_RUN
    assert rig.edu.regions[0].read(BUFFER + 8, 100) == bytes(range(100))
    rig.from_device(8, 0x4000, 100)
    rig.wait()
    assert bytes(rig.ram.view[0x4000:0x4064]) == bytes(range(100))
    assert rig.came() == 0


def test_dma_interrupts_if_asked_to(rig: EduRig) -> None:
    rig.to_device(HERE, 0, 4, DMA_IRQ)
    rig.wait()
    assert (rig.came(), rig.get(REG_IRQ_STATUS)) == (1, IRQ_DMA)


def test_registers_do_not_change_while_it_transfers(rig: EduRig) -> None:
    rig.to_device(HERE, 0, 4)
    for offset in (0x80, 0x88, 0x90, 0x98):
        before = rig.get(offset, 8)
        rig.put(offset, 0x77, 8)
        assert rig.get(offset, 8) == before
    rig.wait()
    rig.put(REG_DMA_COMMAND, 2, 8)
    assert rig.get(REG_DMA_COMMAND, 8) & 2 == 0, "a command that starts nothing is not kept"


@pytest.mark.parametrize(
    ("place", "count"),
    [(BUFFER_SIZE, 1), (0, BUFFER_SIZE + 1), (1, 1 << 63), (-BUFFER, 4), (BUFFER_SIZE - 1, 2)],
)
def test_dma_outside_of_the_buffer_copies_nothing(rig: EduRig, place: int, count: int) -> None:
    rig.ram.view[:] = b"\5" * RAM
    rig.to_device(0, place, count, DMA_IRQ)
    rig.wait()
    assert (rig.came(), rig.get(REG_DMA_COMMAND, 8) & DMA_RUN) == (1, 0)
    assert rig.edu.regions[0].read(BUFFER, BUFFER_SIZE) == bytes(BUFFER_SIZE)
    rig.from_device(place, 0, count)
    rig.wait()
    assert bytes(rig.ram.view) == b"\5" * RAM


def test_dma_to_nobody_is_a_master_abort(rig: EduRig) -> None:
    rig.to_device(RAM, 0, 4, DMA_IRQ)
    rig.wait()
    assert (rig.came(), rig.get(REG_DMA_COMMAND, 8) & DMA_RUN) == (1, 0)
    assert rig.edu.config.read(6, 2) == b"\x10\x20"


def test_addresses_are_masked(rig: EduRig) -> None:
    rig.ram.view[HERE] = 9
    rig.to_device((1 << 40) + HERE, 0, 1)
    rig.wait()
    assert rig.edu.regions[0].read(BUFFER, 1) == b"\x09"
    wide = EduRig(dma_mask=(1 << 64) - 1)
    wide.to_device((1 << 40) + HERE, 0, 1)
    wide.wait()
    assert wide.edu.config.read(7, 1) == b"\x20"
    wide.close()


def test_dma_is_logged(rig: EduRig) -> None:
    rig.edu.memory.log.start(4096)
    rig.from_device(0, 4096 - 2, 4)
    rig.wait()
    rig.to_device(0x5000, 0, 4)
    rig.wait()
    assert rig.edu.memory.log.report(0, RAM, 4096) == b"\x03" + bytes(7)


# --- migration in the middle of things ---


@pytest.mark.parametrize("flags", CAPABILITIES)
@pytest.mark.parametrize("precopy", [False, True])
def test_a_factorial_goes_on_elsewhere(flags: int, precopy: bool) -> None:
    if precopy and not flags & 4:
        return
    source, target = EduRig(capabilities=flags), EduRig(capabilities=flags)
    source.put(REG_STATUS, STATUS_IRQ)
    source.put(REG_FACTORIAL, 10)
    carry(source, target, precopy=precopy)
    assert target.get(REG_STATUS) == STATUS_IRQ | STATUS_COMPUTING
    target.wait()
    assert target.get(REG_FACTORIAL) == math.factorial(10)
    assert (target.came(), source.came()) == (1, 0)
    source.wait()
    assert source.get(REG_STATUS) & STATUS_COMPUTING, "the source is stopped"
    source.engine.set_state("RUNNING")
    source.wait()
    assert source.get(REG_FACTORIAL) == math.factorial(10), "and goes on if it is let"
    source.close()
    target.close()


@pytest.mark.parametrize("flags", CAPABILITIES)
def test_a_transfer_goes_on_elsewhere(flags: int) -> None:
    source, target = EduRig(capabilities=flags), EduRig(capabilities=flags)
    source.edu.block("bar0.0").write(0, b"payload")
    source.from_device(0, HERE, 7, DMA_IRQ)
    carry(source, target)
    assert bytes(target.ram.view[HERE : HERE + 7]) == bytes(7)
    target.wait()
    assert bytes(target.ram.view[HERE : HERE + 7]) == b"payload"
    assert bytes(source.ram.view[HERE : HERE + 7]) == bytes(7)
    assert (target.came(), target.get(REG_IRQ_STATUS)) == (1, IRQ_DMA)
    source.close()
    target.close()


def test_an_interrupt_raised_while_nobody_listens_arrives_elsewhere() -> None:
    source, target = EduRig(), EduRig()
    source.edu.interrupts.drop()
    source.edu.config.write(source.edu.config.capability(5) + 2, b"\1\0")
    source.put(REG_IRQ_RAISE, 1)
    carry(source, target)
    assert target.came() == 1
    source.close()
    target.close()


def test_work_for_a_client_that_went_away_waits_for_the_next(rig: EduRig) -> None:
    rig.from_device(0, HERE, 4, DMA_IRQ)
    rig.edu.block("bar0.0").write(0, b"late")
    rig.engine.disconnect()
    rig.wait()
    assert rig.get(REG_DMA_COMMAND, 8) & DMA_RUN
    rig.edu.memory.map(0, RAM, fd=rig.ram.fd)
    rig.wait()
    rig.wait()
    assert bytes(rig.ram.view[HERE : HERE + 4]) == b"late"


def test_reset_in_the_middle(rig: EduRig) -> None:
    rig.put(REG_FACTORIAL, 10)
    rig.to_device(HERE, 0, 4, DMA_IRQ)
    rig.put(REG_IRQ_RAISE, 1)
    rig.came()
    rig.engine.reset()
    rig.wait()
    assert [rig.get(offset) for offset in (REG_FACTORIAL, REG_STATUS, REG_IRQ_STATUS)] == [0] * 3
    assert (rig.came(), rig.edu.deadline()) == (0, None)


# --- peers ---


def peers(**options: object) -> tuple[EduRig, EduRig]:
    """Two devices on one bus: each has the other's buffer at 1 MiB."""
    clock = Clock()
    one, other = EduRig(clock, **options), EduRig(clock, **options)
    for mine, theirs in ((one, other), (other, one)):
        bar = theirs.edu.regions[0]
        [area] = bar.areas
        offset = bar.fd_offset + area.offset
        mine.edu.memory.map(1 << 20, area.size, fd=bar.fd, offset=offset)
    return one, other


@pytest.mark.parametrize("flags", CAPABILITIES)
def test_two_devices_reach_each_other(flags: int) -> None:
    one, other = peers(capabilities=flags)
    one.edu.block("bar0.0").write(0, b"from one")
    one.from_device(0, (1 << 20) + 16, 8)
    one.wait()
    assert other.edu.regions[0].read(BUFFER + 16, 8) == b"from one"
    other.edu.block("bar0.0").write(100, b"from other")
    one.to_device((1 << 20) + 100, 200, 10)
    one.wait()
    assert one.edu.regions[0].read(BUFFER + 200, 10) == b"from other"
    one.close()
    other.close()


def test_quiesced_it_holds_back_what_goes_to_a_peer_and_nothing_else() -> None:
    one, other = peers()
    one.edu.block("bar0.0").write(0, b"held back")
    one.engine.set_state("RUNNING_P2P")
    one.from_device(0, HERE, 9)
    one.wait()
    assert bytes(one.ram.view[HERE : HERE + 9]) == b"held back", "the guest's memory is reached"
    one.from_device(0, 1 << 20, 9, DMA_IRQ)
    for _ in range(3):
        one.wait()
    assert other.edu.regions[0].read(BUFFER, 9) == bytes(9)
    assert one.get(REG_DMA_COMMAND, 8) & DMA_RUN
    other.engine.set_state("RUNNING_P2P")
    other.edu.block("bar0.0").write(0, b"x")
    one.engine.set_state("RUNNING")
    one.wait()
    assert other.edu.regions[0].read(BUFFER, 9) == b"held back", "a quiesced device accepts it"
    assert one.came() == 1
    one.close()
    other.close()


def test_what_a_peer_wrote_is_streamed() -> None:
    one, other = peers()
    target = EduRig()
    other.engine.set_state("PRE_COPY")
    while other.edu.stream_read(1 << 20):
        pass
    other.engine.set_state("RUNNING")
    one.edu.block("bar0.0").write(0, b"from a peer")
    one.from_device(0, 1 << 20, 11)
    one.wait()
    carry(other, target, precopy=True)
    assert target.edu.regions[0].read(BUFFER, 11) == b"from a peer"
    for rig in (one, other, target):
        rig.close()


# --- the rest ---


@sampled(4)
@pytest.mark.parametrize("register", ["liveness", "status", "irq_status", "dma_count"])
def test_the_kit_sees_what_is_not_saved(register: str, spec: Spec) -> None:
    class Forgetful(Edu):
        def save(self) -> bytes:
            value = getattr(self, register)
            setattr(self, register, 0)
            try:
                return super().save()
            finally:
                setattr(self, register, value)

    found = find_problems(Forgetful, spec, drive=drive_edu, capabilities=[7])
    assert next(found).obligation in ("S1", "S5")


def test_the_devices_are_known_by_name() -> None:
    assert {"edu": Edu, "memory": MemoryDevice} == DEVICES


@pytest.mark.exhaustive
def test_a_ninth_state(ninth_state: Spec) -> None:
    assert list(find_problems(Edu, ninth_state, drive=drive_edu, capabilities=[7])) == []


def test_a_thousand_migrations_there_and_back() -> None:
    one, other = EduRig(), EduRig()
    one.put(REG_LIVENESS, 0xABC)
    for turn in range(1000):
        carry(one, other, precopy=bool(turn % 2))
        one.engine.set_state("STOP")
        one, other = other, one
    assert one.get(REG_LIVENESS) == ~0xABC & 0xFFFFFFFF
    one.close()
    other.close()
    assert one.engine.state == "RUNNING"
