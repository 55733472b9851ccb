"""memory: changes at a set rate, contents that can be computed anew, streams of some size."""

from __future__ import annotations

import functools
import random
import struct

import pytest

from vfio_migration.model import Spec
from vfio_migration.runtime import Engine
from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.devices import MemoryDevice
from vfio_migration.runtime.kit.devices.memory import (
    MAILBOX,
    PAGE,
    REG_CHANGES,
    REG_IDENTIFICATION,
    REG_PEER,
    REG_RATE,
    REG_SEED,
    REG_SIZE,
    REG_STAMP,
    contents,
)
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.testing.suite import (
    GUEST_AT,
    PEER_AT,
    Clock,
    Guest,
    device_test_suite,
    find_problems,
)

SIZE = 1 << 16
BOTH = "STOP_COPY,P2P,PRE_COPY"


def drive_memory(device: DeviceContract, guest: Guest, rng: random.Random) -> None:
    """Set a rate, write some of the memory, stamp a peer."""
    rate = rng.choice([0, PAGE * 50, PAGE * 1000])
    try:
        device.regions[0].write(REG_PEER, struct.pack("<Q", rng.choice([0, PEER_AT, GUEST_AT])))
        device.regions[0].write(REG_RATE, struct.pack("<Q", rate))
        device.regions[2].write(rng.randrange(SIZE - 64), rng.randbytes(64))
    except CommandError:
        return


Small = functools.partial(MemoryDevice, size=SIZE, rate=PAGE * 100)
Mappable = functools.partial(Small, mappable=True)

# The widest set is the sample.
TestMemory = device_test_suite(Small, drive=drive_memory, capabilities=[BOTH], hidden_states=0)
TestSmallerMemory = pytest.mark.exhaustive(
    device_test_suite(
        Small,
        drive=drive_memory,
        capabilities=["STOP_COPY", "STOP_COPY,P2P", "STOP_COPY,PRE_COPY"],
    )
)
TestMappable = pytest.mark.exhaustive(
    device_test_suite(Mappable, drive=drive_memory, capabilities=[BOTH])
)


def get(device: MemoryDevice, offset: int, size: int = 8) -> int:
    return int.from_bytes(device.regions[0].read(offset, size), "little")


def run(device: MemoryDevice, clock: Clock, seconds: float) -> None:
    end = clock.now + seconds
    while (due := device.deadline()) is not None and due <= end:
        clock.now = due
        device.tick()
    clock.now = end


def test_registers() -> None:
    device = MemoryDevice(size=SIZE, seed=5)
    assert get(device, REG_IDENTIFICATION, 4) == 0x010000EE
    assert (get(device, REG_SIZE), get(device, REG_SEED), get(device, REG_CHANGES)) == (SIZE, 5, 0)
    device.regions[0].write(REG_RATE + 4, struct.pack("<I", 1))
    assert get(device, REG_RATE) == 1 << 32
    assert get(device, REG_RATE + 4, 4) == 1
    device.regions[0].write(REG_CHANGES, bytes(8))
    assert device.regions[2].size == SIZE
    assert not device.regions[2].mappable
    with pytest.raises(ValueError, match="power of two"):
        MemoryDevice(size=5000)
    device.close()


@pytest.mark.parametrize("rate", [PAGE * 3, PAGE * 1000, PAGE * 100_000])
def test_it_changes_at_the_rate_that_was_set(rate: int) -> None:
    clock = Clock()
    device = MemoryDevice(size=SIZE, rate=rate, clock=clock)
    run(device, clock, 2.0)
    assert get(device, REG_CHANGES) * PAGE == pytest.approx(2 * rate, rel=0.01, abs=2 * PAGE)
    assert device.block("bar2").view == contents(1, SIZE, device.changes)
    device.close()


def test_it_changes_only_where_the_table_permits(spec: Spec) -> None:
    clock = Clock()
    device = MemoryDevice(size=SIZE, rate=PAGE * 1000, clock=clock)
    engine = Engine(spec, None, device)
    for row in spec.machine().states:
        if not row.settable:
            continue
        engine.set_state(row.name)
        before = device.changes
        run(device, clock, 1.0)
        assert (device.changes > before) == spec.permits(row.name, "change_state"), row.name
        engine.reset()


def test_a_peer_is_stamped_where_the_table_permits(spec: Spec) -> None:
    """What arrived is what was counted, in every state, and nothing else moves the counter."""
    clock = Clock()
    device, peer = (MemoryDevice(size=SIZE, clock=clock) for _ in range(2))
    box = peer.regions[MAILBOX]
    device.memory.map(PEER_AT, PAGE, fd=box.fd, offset=box.fd_offset)
    device.regions[0].write(REG_PEER, struct.pack("<Q", PEER_AT))
    engine = Engine(spec, None, device)
    for row in spec.machine().states:
        if not row.settable:
            continue
        device.regions[0].write(REG_RATE, struct.pack("<Q", PAGE * 1000))
        engine.set_state(row.name)
        before = get(device, REG_STAMP)
        run(device, clock, 0.1)
        after = get(device, REG_STAMP)
        assert (after > before) == spec.permits(row.name, "start_p2p_dma"), row.name
        if after:
            assert struct.unpack("<Q", box.read(0, 8))[0] == after
        engine.reset()
        device.regions[0].write(REG_PEER, struct.pack("<Q", PEER_AT))
    device.memory.unmap_all()
    device.regions[0].write(REG_RATE, struct.pack("<Q", PAGE * 1000))
    run(device, clock, 0.1)
    assert get(device, REG_STAMP) == 0, "nobody is there"
    for one in (device, peer):
        one.close()


def test_a_migration_under_load_arrives_whole(spec: Spec) -> None:
    clock = Clock()
    source, target = (MemoryDevice(size=1 << 22, clock=clock, seed=9) for _ in range(2))
    one, other = Engine(spec, None, source), Engine(spec, None, target)
    source.change(3000)
    source.regions[0].write(REG_RATE, struct.pack("<Q", PAGE * 2000))
    one.set_state("PRE_COPY")
    other.set_state("RESUMING")
    passes = read = 0
    while source.precopy_info() != (0, 0) and passes < 200:
        for part in source.stream_read(1 << 16):
            read += len(part)
            target.stream_write(part)
        run(source, clock, 0.001)
        passes += 1
    one.set_state("STOP_COPY")
    rest = source.stop_copy_length()
    final = 0
    while parts := source.stream_read(1 << 20):
        for part in parts:
            final += len(part)
            target.stream_write(part)
    other.set_state("RUNNING")
    assert final < 1 << 21 < read, "most of it went while the source ran"
    assert 0.5 < rest / final < 2
    assert target.changes == source.changes > 3000
    assert target.block("bar2").view == contents(9, 1 << 22, target.changes)
    run(target, clock, 0.1)
    assert target.block("bar2").view == contents(9, 1 << 22, target.changes)
    source.close()
    target.close()


def test_nonsense_in_the_state_is_refused() -> None:
    device = MemoryDevice(size=SIZE)
    for state in (
        struct.pack("<QQQQQQQd", SIZE * 2, 0, 1, 1, 0, 0, 0, 0.0),
        struct.pack("<QQQQQQQd", SIZE, 0, 1, 1, 0, 0, 0, float("nan")),
        struct.pack("<QQQQQQQd", SIZE, 0, 1, 1, 0, 0, 0, 1e300),
        b"short",
    ):
        with pytest.raises((ValueError, struct.error)):
            device.load(state, 1)
    device.close()


@pytest.mark.exhaustive
def test_a_ninth_state(ninth_state: Spec) -> None:
    assert list(find_problems(Small, ninth_state, drive=drive_memory, capabilities=[7])) == []
