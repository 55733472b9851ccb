"""Clients that we did not write are served: their message sequences over a real socket.

Who states what stands in `support.peer_habits.clients`. Single habits are in `test_client_habits`,
QEMU in `test_peers`.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from support import raw_client as raw
from support.edu_client import BUFFER, dma, dma_done, eventfd, signalled, until
from support.open_descriptors import opened
from support.peer_habits.clients import (
    CLibraryClient,
    RegionReply,
    RustVmmClient,
    SpdkClient,
    shared_file,
)
from support.raw_client import RefusedError
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.kit.devices.memory import MAILBOX

PAGE = 4096
HUGE = 2 << 20
REGION_MMAP, REGION_CAPS = 1 << 2, 1 << 3
MEMORY_BAR = 2
STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = 1, 2, 3, 4, 6


@pytest.fixture
def guest() -> Iterator[int]:
    """Guest memory of a client: a file."""
    fd = shared_file(2 * HUGE)
    yield fd
    os.close(fd)


def mappable() -> MemoryDevice:
    return MemoryDevice(size=16 * PAGE, mappable=True)


def areas(reply: bytes) -> list[tuple[int, int]]:
    """The sparse areas of a full DEVICE_GET_REGION_INFO reply."""
    at = struct.unpack_from("=I", reply, 12)[0]
    kind, _version, _next, count, _reserved = struct.unpack_from("=HHIII", reply, at)
    assert kind == 1  # VFIO_REGION_INFO_CAP_SPARSE_MMAP
    return [struct.unpack_from("=QQ", reply, at + 16 + 16 * one) for one in range(count)]


# --- the C library's sample client ---


def test_the_sample_client_of_the_c_library_identifies_a_device(serve) -> None:
    served = serve(mappable())
    with CLibraryClient(served.path) as client:
        reported = json.loads(client.version_reply[4:-1])["capabilities"]
        assert client.version_reply[-1:] == b"\0"
        assert reported["max_msg_fds"] > 0
        with pytest.raises(RefusedError) as refused:
            client.read(0xDEADBEEF, 0, 4)
        assert refused.value.errno == errno.EINVAL
        _, _, regions, interrupts = client.info(16, 16)
        assert regions == 9
        for index in range(regions):
            client.region_in_two_steps(index)
        assert len(client.read(7, 0, 64)) == 64
        client.reset()
        for index in range(interrupts):
            client.irq(index)


def test_a_short_region_reply_has_neither_the_mmap_flag_nor_a_descriptor(serve) -> None:
    with CLibraryClient(serve(mappable()).path) as client:
        short, full = client.region_in_two_steps(MEMORY_BAR)
        assert short.length == 32
        assert not short.flags & REGION_MMAP
        assert short.fds == 0
        assert full is not None
        assert full.flags & REGION_MMAP
        assert full.fds == 1


def test_a_wholly_mappable_region_has_one_sparse_area(serve) -> None:
    with CLibraryClient(serve(mappable()).path) as client:
        short, _ = client.region_in_two_steps(MEMORY_BAR)
        asked = struct.pack("=IIIIQQ", short.argsz, 0, MEMORY_BAR, 0, 0, 0)
        reply = client.ask(raw.REGION_INFO, asked.ljust(short.argsz, b"\0"))
        reported = RegionReply(*struct.unpack_from("=IIIIQQ", reply), len(reply), len(client.fds))
        assert reported.flags & REGION_CAPS
        assert areas(reply) == [(0, reported.size)]
        with mmap.mmap(client.fds[-1], reported.size, offset=reported.offset) as window:
            window[:4] = b"mine"
            assert client.read(MEMORY_BAR, 0, 4) == b"mine"


def test_the_sample_client_of_the_c_library_maps_logs_and_unmaps(serve, guest) -> None:
    with CLibraryClient(serve(Edu()).path) as client:
        client.map_pages(32, guest)
        signal = eventfd()
        client.set_irqs(0x24, 0, 0, 1, fds=[signal])
        client.log(True)
        client.write(7, 4, b"\x06\x00")  # bus master
        dma(client, BUFFER, PAGE, 16, from_device=True)
        until(lambda: dma_done(client))
        assert [client.dirty(page * PAGE) for page in range(3)] == [False, True, False]
        client.log(False)
        for page in range(16):
            client.dma_unmap(page * PAGE, PAGE)
        client.unmap_all()
        client.map_pages(32, guest)
        os.close(signal)


def test_the_sample_client_of_the_c_library_migrates_a_device(serve) -> None:
    source, destination = serve(MemoryDevice(size=16 * PAGE)), serve(MemoryDevice(size=16 * PAGE))
    with CLibraryClient(source.path) as client:
        client.write(MEMORY_BAR, 0, b"some state")
        client.set_state(PRE_COPY)
        parts = [client.read_padded(1024) for _ in range(12)]
        client.set_state(STOP_COPY)
        while more := client.read_padded(1024):
            parts.append(more)
        client.set_state(STOP)
    with CLibraryClient(destination.path) as client:
        client.set_state(RESUMING)
        for part in parts:
            client.mig_write(part)
        client.set_state(STOP)
        assert client.read(MEMORY_BAR, 0, 10) == b"some state"
        client.set_state(RUNNING)


# --- SPDK ---


def test_spdk_sets_a_device_up_and_lets_it_go(serve, guest) -> None:
    with SpdkClient(serve(mappable()).path) as client:
        assert struct.unpack_from("=HH", client.version_reply) == (0, 0)
        for index in range(client.device()[2]):
            found = client.whole_region(index)
            client.close_fds()
            assert found.fds == (1 if index in (MEMORY_BAR, MAILBOX) else 0)
            assert bool(found.flags & REGION_MMAP) == bool(found.fds)
        before = opened()
        for address in (0, HUGE):
            client.dma_map(address, HUGE, fd=guest, offset=address)
        for address in (0, HUGE):
            client.unmap_with_descriptor(address, HUGE, guest)
        until(lambda: opened() == before)
        client.dma_map(0, 2 * HUGE, fd=guest)  # nothing of it is mapped any more


def test_a_region_reply_carries_what_spdk_maps_it_with(serve) -> None:
    with SpdkClient(serve(mappable()).path) as client:
        found = client.whole_region(MEMORY_BAR)
        with mmap.mmap(client.fds[0], found.size, offset=found.offset) as window:
            window[:4] = b"spdk"
            assert client.read(MEMORY_BAR, 0, 4) == b"spdk"


# --- rust-vmm ---


def test_rust_vmm_sets_a_device_up_and_lets_it_go(serve, guest) -> None:
    with RustVmmClient(serve(mappable()).path) as client:
        found = client.regions()
        _, full = found[MEMORY_BAR]
        assert full is not None
        assert full.flags & REGION_MMAP
        assert full.fds == 1
        client.dma_map(0, HUGE, fd=guest)
        signal = eventfd()
        client.interrupts(0, [signal])
        client.reset()
        client.dma_unmap(0, HUGE)
        os.close(signal)


def test_rust_vmm_gets_an_interrupt(serve) -> None:
    with RustVmmClient(serve(Edu()).path) as client:
        signal = eventfd()
        client.interrupts(0, [signal])
        client.write(0, 0x60, struct.pack("<I", 1))  # raise it by hand
        assert signalled(signal)
        os.close(signal)
