"""Every bit and every pair of bits of every flags word, said to a real server.

What is legal is written down by hand. Whatever else is stated must be refused with EINVAL and
change nothing, or not be looked at.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import struct

import pytest

from support import raw_client as raw
from support.edu_client import eventfd
from support.raw_client import HEADER, PROBE, SET, RefusedError
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.files import descriptor_kinds
from vfio_migration.runtime.kit.devices import Edu

PAGE = 4096
BITS = [1 << n for n in range(32)]
WORDS = [*BITS, *(one | other for one, other in itertools.combinations(BITS, 2))]
"""Each bit by itself, and each pair."""

INTX = 0
PRE_COPY = 6


def dma_map(flags: int) -> tuple[int, bytes]:
    return raw.DMA_MAP, struct.pack("=IIQQQ", 32, flags, 0, 1 << 20, PAGE)


def dma_unmap(flags: int) -> tuple[int, bytes]:
    return raw.DMA_UNMAP, struct.pack("=IIQQ", 24, flags, 0, 0)


def dma_unmap_of_a_region(flags: int) -> tuple[int, bytes]:
    return raw.DMA_UNMAP, struct.pack("=IIQQ", 24, flags, 0, PAGE)


def io_fds(flags: int) -> tuple[int, bytes]:
    return raw.IO_FDS, struct.pack("=IIII", 64, flags, 0, 0)


def set_irqs(flags: int) -> tuple[int, bytes]:
    return raw.SET_IRQS, struct.pack("=IIIII", 20, flags, INTX, 0, 0)


def feature(flags: int) -> tuple[int, bytes]:
    return raw.FEATURE, struct.pack("=IIIi", 16, flags, 1, -1)


def device_info(flags: int) -> tuple[int, bytes]:
    return raw.GET_INFO, struct.pack("=IIII", 16, flags, 0, 0)


def region_info(flags: int) -> tuple[int, bytes]:
    return raw.REGION_INFO, struct.pack("=IIIIQQ", 32, flags, 0, 0, 0, 0)


def irq_info(flags: int) -> tuple[int, bytes]:
    return raw.IRQ_INFO, struct.pack("=IIII", 16, flags, 0, 0)


def precopy_info(flags: int) -> tuple[int, bytes]:
    return raw.PRECOPY_INFO, struct.pack("=II", 24, flags)


DATA, ACTIONS = (1, 2, 4), (8, 16, 32)

REFUSED = {
    "dma_map": (dma_map, {1, 2, 3}),
    "dma_unmap": (dma_unmap, {0, 2}),
    "dma_unmap, of a region": (dma_unmap_of_a_region, {0}),
    "region_io_fds": (io_fds, {0}),
    "irq_set": (set_irqs, {data | action for data in DATA for action in ACTIONS}),
}
"""The words that are looked at: how to state them, and what is legal without a descriptor."""

IGNORED = {
    "device_info": device_info,
    "region_info": region_info,
    "irq_info": irq_info,
    "precopy_info": precopy_info,
}


def test_every_flags_word_of_the_table_is_tested_here() -> None:
    tested = {name.partition(",")[0] for name in REFUSED} | set(IGNORED)
    assert {row.name for row in load_wire().words} == tested | {"header", "feature"}


class StatusServer:
    """A server at which a client holds something, and a look at all that a command could change."""

    def __init__(self, serve) -> None:
        self.served = serve(Edu())
        self.client = self.served.client(capabilities=raw.PROPOSED)
        self.client.dma_map(0, PAGE)
        self.client.dma_map(PAGE, PAGE)
        event = eventfd()
        self.client.set_irqs(0x24, INTX, 0, 1, [event])
        os.close(event)

    def look(self) -> tuple[object, ...]:
        device = self.served.device
        maps = [(row.iova, row.size, row.readable, row.writable) for row in device.memory.maps]
        armed = [device.interrupts.armed(index) for index in range(5)]
        return self.served.engine.state, maps, armed, device.interrupts.masked

    def refuses(self, command: int, payload: bytes) -> None:
        """The command is refused with EINVAL and has changed nothing."""
        before = self.look()
        with pytest.raises(RefusedError) as refused:
            self.client.ask(command, payload)
        assert refused.value.errno == errno.EINVAL, payload.hex(" ")
        assert self.look() == before, payload.hex(" ")


@pytest.fixture
def connected(serve):
    found = StatusServer(serve)
    with found.client:
        yield found


@pytest.mark.parametrize("flags", [4, 8, 1 << 31, 6])
def test_an_unknown_flag_unmaps_nothing(connected, flags: int) -> None:
    """A report of a user: `18000000 04000000` and sixteen zero bytes, and all maps were gone."""
    payload = struct.pack("=II", 0x18, flags) + bytes(16)
    connected.refuses(raw.DMA_UNMAP, payload)
    connected.client.dma_unmap(0, PAGE)
    connected.client.dma_unmap(0, 0, 2)
    assert connected.look()[1] == []


def test_the_flag_that_rust_vmm_sends_to_unmap_all_is_refused(connected) -> None:
    """There it is 1 << 2, and the text knows none; 1 << 1 is a bitmap there, and ALL in VFIO."""
    connected.refuses(*dma_unmap(1 << 2))
    connected.refuses(*dma_unmap_of_a_region(1 << 1))


@pytest.mark.parametrize("name", REFUSED)
def test_flags_that_the_table_does_not_know_are_refused_and_change_nothing(
    connected, name: str
) -> None:
    make, legal = REFUSED[name]
    for flags in [0, *WORDS]:
        if flags not in legal:
            connected.refuses(*make(flags))
    for flags in legal:
        unknown = [bit for bit in BITS[6:] if bit not in legal]
        for bit in unknown:
            connected.refuses(*make(flags | bit))


def test_flags_that_the_table_does_not_know_are_refused_without_a_reply_too(connected) -> None:
    before = connected.look()
    for flags in BITS:
        for make in (dma_unmap, dma_unmap_of_a_region):
            if flags != 2:
                command, payload = make(flags)
                connected.client.send(command, payload, flags=0x10)
    connected.client.ask(*device_info(0))
    assert connected.look() == before


@pytest.mark.parametrize("number", [1, 2, 6, 7, 8, 9, 12])
def test_a_feature_with_a_flag_that_nobody_knows_is_refused(connected, number: int) -> None:
    known = (0, 1 << 16, SET, PROBE, PROBE | 1 << 16, PROBE | SET)
    for bit in BITS[19:]:
        for other in (*known, *BITS[19:]):
            connected.refuses(*feature(number | bit | other))


@pytest.mark.parametrize("name", IGNORED)
def test_flags_of_a_command_that_asks_for_information_are_not_looked_at(
    connected, name: str
) -> None:
    make = IGNORED[name]
    connected.client.set_state(PRE_COPY)  # where all of them are answered
    expected = connected.client.ask(*make(0))
    for flags in WORDS:
        assert connected.client.ask(*make(flags)) == expected, hex(flags)


def test_bits_of_the_header_that_nobody_knows_are_not_looked_at(connected) -> None:
    command, payload = device_info(0)
    expected = connected.client.ask(command, payload)
    for flags in WORDS:
        if not flags & 0x1F:
            reply = connected.client.reply(connected.client.send(command, payload, flags=flags))
            assert reply == expected, hex(flags)


def test_no_reply_with_bits_that_nobody_knows_stays_no_reply(connected) -> None:
    command, payload = device_info(0)
    for bit in BITS[5:]:
        connected.client.send(command, payload, flags=0x10 | bit)
    assert connected.client.ask(command, payload)


def test_a_message_that_is_neither_command_nor_reply_is_refused(connected) -> None:
    for kind in range(2, 16):
        for bit in (0, *BITS[5:]):
            ident = connected.client.send(*dma_unmap(2), flags=kind | bit)
            with pytest.raises(RefusedError) as refused:
                connected.client.reply(ident)
            assert refused.value.errno == errno.EINVAL
    for bit in (0, *BITS[4:]):
        connected.client.send(*dma_unmap(2), flags=1 | bit)  # a reply to nothing
    assert len(connected.look()[1]) == 2
    assert connected.client.ask(*device_info(0))


def test_the_flags_of_a_reply_are_those_of_a_reply_whatever_the_command_had(connected) -> None:
    for bit in (0, *BITS[5:]):
        ident = connected.client.send(*device_info(0), flags=bit)
        head = connected.client.exactly(32)
        assert HEADER.unpack(head[:16]) == (ident, raw.GET_INFO, 32, 1, 0)


# --- libvfio-user's two flags of DMA_MAP ----------------------------------------------------------


@pytest.fixture
def memory():
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4 * PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("flags", [3, 3 | 4, 3 | 8, 1 | 4, 2 | 8])
def test_a_map_may_state_how_its_descriptor_is_to_be_accessed(
    connected, memory, flags: int
) -> None:
    os.pwrite(memory, b"guest", PAGE)
    connected.client.dma_map(1 << 20, PAGE, fd=memory, offset=PAGE, flags=flags)
    guest = connected.served.device.memory
    if flags & 1:
        assert guest.read(1 << 20, 5) == b"guest"
    if flags & 2:
        guest.write(1 << 20, b"device")
        assert os.pread(memory, 6, PAGE) == b"device"


@pytest.mark.parametrize("flags", [3 | 4, 3 | 8])
def test_a_map_that_states_how_to_access_its_descriptor_needs_one(connected, flags: int) -> None:
    connected.refuses(*dma_map(flags))


@pytest.mark.parametrize("flags", [12, 12 | 1, 12 | 3, 4, 8])
def test_a_map_cannot_be_mapped_and_read_at_once_and_must_be_accessible(
    connected, memory, flags: int
) -> None:
    before = connected.look()
    with pytest.raises(RefusedError) as refused:
        connected.client.dma_map(1 << 20, PAGE, fd=memory, flags=flags)
    assert (refused.value.errno, connected.look()) == (errno.EINVAL, before)


def test_file_access_is_never_direct_and_refuses_what_can_only_be_mapped(
    connected, memory, monkeypatch
) -> None:
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    connected.client.dma_map(1 << 20, PAGE, fd=memory, flags=3)
    connected.client.dma_map(1 << 21, PAGE, fd=memory, flags=3 | 8)
    guarded = {row.iova: row.guarded for row in connected.served.device.memory.maps}
    assert not guarded[1 << 20]
    assert guarded[1 << 21]
    monkeypatch.setattr(descriptor_kinds, "kind_of", lambda _fd: descriptor_kinds.DEVICE)
    connected.served.device.memory.device_memory = True
    with pytest.raises(RefusedError) as refused:
        connected.client.dma_map(1 << 22, PAGE, fd=memory, flags=3 | 8)
    assert refused.value.errno == errno.EOPNOTSUPP
