"""Habits of clients that we did not write: none of them is turned away.

The clients are emulated in `tests/support/peer_habits`, each with the source of what it does.
"""

from __future__ import annotations

import errno
import os
import struct

import pytest

from support import raw_client as raw
from support.edu_client import descriptors, eventfd, until
from support.open_descriptors import opened_at_rest
from support.peer_habits.clients import CLibraryClient, RustVmmClient, SpdkClient, shared_file
from support.raw_client import RefusedError
from support.samples import sampled
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice

PAGE = 4096
READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
CONFIG = 7
PADDING = load_wire().limit("max_padding").value


def mappable(device) -> list[int]:
    return [index for index, region in enumerate(device.regions) if region.mappable]


# --- Commands longer than their structure ---------------------------------------------------------


@pytest.mark.parametrize("length", [32, 64, 96, 4064])
def test_a_region_is_described_to_who_asks_with_more_than_the_structure(serve, length) -> None:
    """SPDK sends 4,064 bytes with an argsz of as much, libvfio-user the room for the reply."""
    with serve().client() as client:
        asked = struct.pack("=IIIIQQ", 4064, 0, 0, 0, 0, 0)
        expected = client.ask(raw.REGION_INFO, asked)
        assert client.ask(raw.REGION_INFO, asked.ljust(length, b"\xff")) == expected


def test_device_and_interrupts_are_described_to_who_asks_with_24_bytes(serve) -> None:
    with serve().client() as client:
        for command in (raw.GET_INFO, raw.IRQ_INFO):
            reply = client.ask(command, struct.pack("=I", 24).ljust(24, b"\0"))
            assert reply == client.ask(command, struct.pack("=IIII", 16, 0, 0, 0))
            assert len(reply) == 16


def test_a_reset_with_four_bytes_is_a_reset(serve) -> None:
    with serve().client() as client:
        client.set_state(1)
        assert client.ask(raw.RESET, bytes(4)) == b""
        assert client.state == 2


def commands() -> dict[int, bytes]:
    """Each command of a fixed size, so that it can be sent again and again."""
    return {
        raw.DMA_UNMAP: struct.pack("=IIQQ", 24, 2, 0, 0),
        raw.GET_INFO: struct.pack("=IIII", 16, 0, 0, 0),
        raw.REGION_INFO: struct.pack("=IIIIQQ", 32, 0, CONFIG, 0, 0, 0),
        raw.IO_FDS: struct.pack("=IIII", 16, 0, 0, 0),
        raw.IRQ_INFO: struct.pack("=IIII", 16, 0, 0, 0),
        raw.REGION_READ: struct.pack("=QII", 0, CONFIG, 4),
        raw.RESET: b"",
        raw.MIG_READ: struct.pack("=II", 8, 0),
        raw.PRECOPY_INFO: struct.pack("=II", 24, 0),
        raw.DMA_MAP: struct.pack("=IIQQQ", 32, 3, 0, 0, PAGE),
    }


def test_the_commands_here_are_all_that_have_a_fixed_size() -> None:
    fixed = {
        row.number
        for row in load_wire().commands
        if row.sender == "client" and not row.request_item
    }
    assert set(commands()) == fixed


@sampled(3)
@pytest.mark.parametrize("command", commands())
@pytest.mark.parametrize("padding", [1, 4, 8, PADDING])
def test_a_command_longer_than_its_structure_is_served_from_it(serve, command, padding) -> None:
    payload = commands()[command]
    with serve().client(capabilities=raw.PROPOSED) as client:
        client.set_state(6)  # so that migration data can be read, and more may come
        expected = client.ask(command, payload)
        if command == raw.DMA_MAP:
            client.dma_unmap(0, 0, 2)
        assert client.ask(command, payload + b"\xff" * padding) == expected


@pytest.mark.parametrize("command", commands())
def test_a_command_too_long_by_far_is_refused_and_changes_nothing(serve, command) -> None:
    served = serve()
    with served.client(capabilities=raw.PROPOSED) as client:
        client.dma_map(1 << 20, PAGE)
        client.set_state(3)
        with pytest.raises(RefusedError) as refused:
            client.ask(command, commands()[command] + bytes(PADDING + 1))
        assert refused.value.errno == errno.E2BIG
        assert client.state == 3
        assert [row.iova for row in served.device.memory.maps] == [1 << 20]


@pytest.mark.parametrize("command", [one for one in commands() if one != raw.RESET])
def test_a_command_shorter_than_its_structure_is_refused(serve, command) -> None:
    with serve().client() as client:
        with pytest.raises(RefusedError) as refused:
            client.ask(command, commands()[command][:-1])
        assert refused.value.errno == errno.EINVAL
        assert client.state == 2


def test_migration_data_with_padding_is_taken_up_to_its_size(serve) -> None:
    """libvfio-user's server pads what is read; a client may pass all of it on as it is."""
    served, other = serve(), serve()
    with served.client() as source, other.client() as target:
        source.write(0, 0x40000, b"carried")
        source.set_state(3)
        target.set_state(4)
        while data := source.mig_read(1000):
            payload = struct.pack("=II", 8 + 1000, len(data)) + data.ljust(1000, b"\xff")
            assert target.ask(raw.MIG_WRITE, payload) == b""
        target.set_state(1)
        assert target.read(0, 0x40000, 7) == b"carried"


def test_migration_data_shorter_than_its_size_is_refused(serve) -> None:
    with serve().client() as client:
        client.set_state(4)
        with pytest.raises(RefusedError) as refused:
            client.ask(raw.MIG_WRITE, struct.pack("=II", 108, 100) + bytes(99))
        assert refused.value.errno == errno.EINVAL


def test_interrupts_are_set_by_who_counts_descriptors_as_data(serve) -> None:
    """As VFIO's ioctl has it: four bytes of payload and of argsz for each descriptor."""
    event = eventfd()
    with serve().client() as client:
        payload = struct.pack("=IIIIIi", 24, 0x24, 0, 0, 1, event)
        assert client.ask(raw.SET_IRQS, payload, fds=[event]) == b""
        client.set_irqs(0x21, 0, 0, 1)
        assert os.eventfd_read(event) == 1
    os.close(event)


# --- Descriptors that nobody asked for ------------------------------------------------------------


def test_spdk_unmaps_with_the_descriptor_that_it_mapped_with(serve) -> None:
    served = serve()
    memory = shared_file(2 * PAGE)
    with SpdkClient(served.path) as client:
        assert client.device()[2:] == (9, 5)
        before = len(opened_at_rest())
        for _ in range(50):
            client.dma_map(0, 2 * PAGE, fd=memory)
            assert len(served.device.memory.maps) == 1
            client.unmap_with_descriptor(0, 2 * PAGE, memory)
            assert served.device.memory.maps == ()
        assert descriptors() == before
    os.close(memory)


@sampled(6)
@pytest.mark.parametrize("command", commands())
@pytest.mark.parametrize("count", [1, 2, 16])
def test_descriptors_nobody_asked_for_are_closed_and_the_command_served(
    serve, command, count
) -> None:
    served = serve()
    memory = shared_file(PAGE)
    with served.client(capabilities=raw.PROPOSED) as client:
        client.set_state(6)
        before = len(opened_at_rest())
        for _ in range(20):
            client.ask(command, commands()[command], fds=[memory] * count)
            client.dma_unmap(0, 0, 2)
        assert descriptors() == before
    os.close(memory)


def test_data_with_descriptors_nobody_asked_for_is_written(serve) -> None:
    served = serve()
    memory = shared_file(PAGE)
    with served.client() as client:
        before = len(opened_at_rest())
        payload = struct.pack("=QII", 0x40000, 0, 4) + b"seen"
        assert client.ask(raw.REGION_WRITE, payload, fds=[memory]) == payload[:16]
        assert client.read(0, 0x40000, 4) == b"seen"
        item = struct.pack("=QII8s", 0x40004, 0, 4, b"more")
        assert client.ask(raw.WRITE_MULTI, struct.pack("=Q", 1) + item, fds=[memory])
        assert client.read(0, 0x40000, 8) == b"seenmore"
        assert client.ask(raw.FEATURE, struct.pack("=II", 16, raw.GET | 2), fds=[memory])
        client.set_state(4)
        assert client.ask(raw.MIG_WRITE, struct.pack("=II", 8, 0), fds=[memory]) == b""
        assert descriptors() == before
    os.close(memory)


def test_more_descriptors_than_interrupts_are_closed_and_the_first_are_used(serve) -> None:
    served = serve()
    first, second = eventfd(), eventfd()
    with served.client() as client:
        before = len(opened_at_rest())
        client.set_irqs(0x24, 0, 0, 1, [first, second])
        until(lambda: descriptors() == before + 1)  # what is used is closed after the reply
        client.set_irqs(0x21, 0, 0, 1, [second])  # triggers it; no descriptor belongs to that
        assert os.eventfd_read(first) == 1
        with pytest.raises(BlockingIOError):
            os.eventfd_read(second)
        client.set_irqs(0x21, 0, 0, 0, [second, second])
        assert descriptors() == before
    for fd in (first, second):
        os.close(fd)


def test_descriptors_over_the_limit_still_end_the_connection(serve) -> None:
    served = serve()
    memory = shared_file(PAGE)
    before = len(opened_at_rest())
    with served.client() as client:
        ident = client.send(*next(iter(commands().items())), fds=[memory] * 17)
        with pytest.raises(RefusedError) as refused:
            client.reply(ident)
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(EOFError):
            client.exactly(1)
    until(lambda: descriptors() == before)
    os.close(memory)


# --- The short and the full description of a region -----------------------------------------------


@pytest.mark.parametrize("kind", [Edu, MemoryDevice])
def test_a_short_region_reply_has_neither_mmap_nor_a_descriptor_and_the_full_one_both(
    serve, kind
) -> None:
    """libvfio-user's client has no room for descriptors when it first asks."""
    served = serve(kind())
    wanted = mappable(served.device)
    assert wanted
    with CLibraryClient(served.path) as client:
        for index, region in enumerate(served.device.regions):
            short, full = client.region_in_two_steps(index)
            assert (short.flags & (MMAP | CAPS), short.cap_offset, short.fds) == (0, 0, 0)
            assert short.length == 32
            if index in wanted:
                assert full is not None
                assert full.flags & (MMAP | CAPS) == MMAP | CAPS
                assert (full.cap_offset, full.fds) == (32, 1)
                assert (full.length, full.argsz) == (short.argsz, short.argsz)
            else:
                assert full is None
            assert short.size == region.size


def test_a_region_that_can_be_mapped_as_a_whole_has_one_area(serve) -> None:
    served = serve(MemoryDevice())
    whole = [
        (index, region)
        for index, region in enumerate(served.device.regions)
        if region.mappable and region.areas[0].size == region.size
    ]
    assert whole
    with served.client() as client:
        for index, region in whole:
            asked = struct.pack("=IIIIQQ", 64, 0, index, 0, 0, 0)
            reply = client.ask(raw.REGION_INFO, asked)
            assert struct.unpack_from("=HHIII", reply, 32) == (1, 1, 0, 1, 0)
            assert struct.unpack_from("=QQ", reply, 48) == (0, region.size)


def test_spdk_gets_the_descriptor_of_a_region_at_once(serve) -> None:
    """It maps area number n from descriptor number n: with one area that is right."""
    served = serve(MemoryDevice())
    with SpdkClient(served.path) as client:
        for index in mappable(served.device):
            reply = client.whole_region(index)
            assert (reply.flags, reply.fds) == (READ | WRITE | MMAP | CAPS, 1)


@pytest.mark.parametrize("kind", [Edu, MemoryDevice])
def test_rust_vmm_asks_each_region_twice_and_gets_one_descriptor(serve, kind) -> None:
    served = serve(kind())
    with RustVmmClient(served.path) as client:
        for index, (short, full) in enumerate(client.regions()):
            assert short.fds == 0
            if index in mappable(served.device):
                assert full is not None
                assert (full.fds, full.length, full.flags & MMAP) == (1, full.argsz, MMAP)
            else:
                assert full is None


def test_qemu_gets_the_mmap_flag_with_the_full_reply_to_its_second_question(serve) -> None:
    """It asks with argsz 32, and again with the argsz that it was notified if that is more."""
    served = serve(MemoryDevice())
    with served.client() as client:
        for index in mappable(served.device):
            short = client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", 32, 0, index, 0, 0, 0))
            argsz, flags, _, cap_offset, _, _ = struct.unpack("=IIIIQQ", short)
            assert (flags, cap_offset, client.fds) == (READ | WRITE, 0, [])
            full = client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0))
            assert len(full) == argsz
            assert struct.unpack_from("=I", full, 4) == (READ | WRITE | MMAP | CAPS,)
            assert len(client.fds) == 1
            client.close_fds()


def test_a_client_that_takes_no_descriptors_is_offered_no_mapping(serve) -> None:
    served = serve(MemoryDevice())
    with served.client(capabilities={"max_msg_fds": 0}) as client:
        for index in mappable(served.device):
            for argsz in (32, 4096):
                asked = struct.pack("=IIIIQQ", argsz, 0, index, 0, 0, 0)
                reply = client.ask(raw.REGION_INFO, asked)
                assert struct.unpack_from("=II", reply) == (32, READ | WRITE)


def test_all_messages_of_libvfio_users_client_are_answered(serve) -> None:
    served = serve()
    memory = shared_file(8 * PAGE)
    with CLibraryClient(served.path) as client:
        assert client.info(24, 24)[2:] == (9, 5)
        assert client.irq(0, 24, 24)[2:] == (0, 1)
        client.map_pages(8, memory)
        client.log(on=True)
        assert not client.dirty(0)
        client.log(on=False)
        client.set_state(3)
        assert client.read_padded(1024)
        client.set_state(1)
        client.unmap_all()
        assert served.device.memory.maps == ()
        assert client.ask(raw.RESET, bytes(4)) == b""
    os.close(memory)
