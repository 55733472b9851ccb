"""Guest memory: ranges, permissions, gates, peers, ways to reach it, hostile files."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile

import pytest

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.kit import guest_memory
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.kit.guest_memory import DmaFaultError, GuestMemory, NotPermittedError
from vfio_migration.runtime.kit.region import PEER_NAME, Memory
from vfio_migration.runtime.protocol.layout import WIRE

PAGE = 4096
MAX_MAP_COUNT = 65530
"""The default of vm.max_map_count."""


def memfd(size: int = 4 * PAGE, *, seal: bool = False) -> int:
    fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    if seal:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return fd


class Messages:
    """Memory that is reached by messages; notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.data = bytearray(PAGE)
        self.broken = False

    def read(self, iova: int, size: int) -> bytes:
        self.asked.append(("read", iova, size))
        if self.broken:
            raise OSError(5, "gone")
        return bytes(self.data[iova % PAGE : iova % PAGE + size])

    def write(self, iova: int, data: bytes | memoryview) -> None:
        self.asked.append(("write", iova, len(data)))
        if self.broken:
            raise OSError(5, "gone")
        self.data[iova % PAGE : iova % PAGE + len(data)] = data


@pytest.mark.parametrize("seal", [False, True])
def test_it_reads_and_writes_what_is_mapped(seal: bool) -> None:
    fd, memory = memfd(seal=seal), GuestMemory()
    memory.map(0x10000, 2 * PAGE, fd=fd, offset=PAGE)
    memory.write(0x10010, b"hello")
    assert os.pread(fd, 5, PAGE + 0x10) == b"hello"
    assert memory.read(0x10010, 5) == b"hello"
    assert b"".join(memory.views(0x10010, 5)) == b"hello"
    assert memory.maps[0].guarded == (not seal)
    os.close(fd)
    assert memory.read(0x10010, 5) == b"hello", "a descriptor of its own is held"
    memory.unmap(0x10000, 2 * PAGE)
    with pytest.raises(DmaFaultError, match="not mapped"):
        memory.read(0x10010, 5)


def test_an_offset_need_not_be_a_page() -> None:
    fd, memory = memfd(seal=True), GuestMemory()
    os.pwrite(fd, b"here", 100)
    memory.map(0, 50, fd=fd, offset=100)
    assert memory.read(0, 4) == b"here"
    memory.unmap_all()
    os.close(fd)


def test_neighbouring_maps_are_crossed() -> None:
    fd, memory, reach = memfd(), GuestMemory(), Messages()
    memory.reach = reach
    memory.map(PAGE, PAGE)
    memory.map(0, PAGE, fd=fd)
    memory.write(PAGE - 2, b"abcd")
    assert os.pread(fd, 2, PAGE - 2) == b"ab"
    assert reach.data[:2] == b"cd"
    assert memory.read(PAGE - 2, 4) == b"abcd"
    memory.unmap_all()
    os.close(fd)


def test_a_write_that_does_not_fit_writes_nothing() -> None:
    fd, memory = memfd(), GuestMemory()
    memory.map(0, PAGE, fd=fd)
    memory.map(PAGE, PAGE, fd=fd, offset=PAGE, writable=False)
    memory.log.start(PAGE)
    with pytest.raises(DmaFaultError, match="not writable"):
        memory.write(PAGE - 2, b"abcd")
    assert os.pread(fd, 2, PAGE - 2) == b"\0\0"
    assert memory.read(PAGE - 2, 4) == bytes(4)
    with pytest.raises(DmaFaultError, match="not mapped"):
        memory.read(2 * PAGE - 2, 4)
    memory.unmap_all()
    os.close(fd)


def test_permissions_are_kept() -> None:
    memory = GuestMemory()
    memory.reach = Messages()
    memory.map(0, PAGE, readable=False)
    memory.write(0, b"x")
    with pytest.raises(DmaFaultError, match="not readable"):
        memory.read(0, 1)


def test_the_gate_is_asked_first_and_names_the_role() -> None:
    asked: list[str] = []
    memory = GuestMemory(gate=lambda what: asked.append(what) is not None)
    memory.map(0, PAGE)
    memory.add_peer_window(PAGE, PAGE)
    memory.map(PAGE, PAGE)
    for act in (memory.read, memory.views):
        with pytest.raises(NotPermittedError, match="guest_dma"):
            act(0, 4)
    with pytest.raises(NotPermittedError, match="peer_dma"):
        memory.write(PAGE - 1, b"both")
    assert not memory.permitted(0, 4)
    assert asked == ["guest_dma", "guest_dma", "peer_dma", "guest_dma"]


def test_a_peer_is_known_by_its_descriptor_or_its_window() -> None:
    memory, region = GuestMemory(), Memory(PAGE, f"{PEER_NAME}0")
    plain = memfd()
    memory.map(0, PAGE, fd=plain)
    memory.map(PAGE, PAGE, fd=region.fd)
    memory.map(2 * PAGE, PAGE)
    memory.map(3 * PAGE, PAGE)
    memory.add_peer_window(3 * PAGE, 10)
    assert [row.peer for row in memory.maps] == [False, True, False, True]
    assert memory.role(0, PAGE) == "guest_dma"
    assert memory.role(0, PAGE + 1) == "peer_dma"
    memory.unmap_all()
    os.close(plain)
    region.close()


def test_maps_are_refused_with_the_right_occasion() -> None:
    memory, fd = GuestMemory(max_maps=2), memfd()
    memory.map(PAGE, PAGE)
    refused = [
        ({"iova": PAGE, "size": PAGE}, "map_exists"),
        ({"iova": PAGE - 1, "size": 2}, "map_exists"),
        ({"iova": 2 * PAGE - 1, "size": 10 * PAGE}, "map_exists"),
        ({"iova": 0, "size": 0}, "argument_invalid"),
        ({"iova": 0, "size": 1 << 64}, "map_exists"),
        ({"iova": 1, "size": 1 << 64}, "argument_invalid"),
        ({"iova": 8 * PAGE, "size": PAGE, "fd": fd, "offset": 1 << 63}, "argument_invalid"),
        ({"iova": 8 * PAGE, "size": 5 * PAGE, "fd": fd}, "argument_invalid"),
    ]
    for arguments, occasion in refused:
        with pytest.raises(CommandError) as refusal:
            memory.map(**arguments)  # type: ignore[arg-type]
        assert refusal.value.occasion == occasion, arguments
    with pytest.raises(CommandError) as refusal:
        memory.map(8 * PAGE, PAGE, fd=9999)
    assert refusal.value.errno == "EBADF"
    memory.map(0, PAGE)
    with pytest.raises(CommandError) as refusal:
        memory.map(8 * PAGE, PAGE)
    assert refusal.value.occasion == "holding_full"
    for iova, size in ((0, 1), (1, PAGE), (5 * PAGE, PAGE)):
        with pytest.raises(CommandError) as refusal:
            memory.unmap(iova, size)
        assert refusal.value.occasion == "map_unknown"
    os.close(fd)


def test_what_is_no_memory_is_refused() -> None:
    memory = GuestMemory()
    end, other = os.pipe()
    one, two = socket.socketpair()
    event = os.eventfd(0)
    for fd in (end, other, one.fileno(), event):
        with pytest.raises(CommandError) as refusal:
            memory.map(0, PAGE, fd=fd)
        assert refusal.value.occasion == "argument_invalid"
        os.fstat(fd)
    one.close()
    two.close()
    for fd in (end, other, event):
        os.close(fd)


def test_a_file_made_shorter_is_a_fault_and_nothing_worse() -> None:
    memory = GuestMemory()
    with tempfile.TemporaryFile() as file:
        for fd in (memfd(), file.fileno()):
            os.ftruncate(fd, 4 * PAGE)
            memory.map(0, 4 * PAGE, fd=fd)
            os.ftruncate(fd, PAGE)
            with pytest.raises(DmaFaultError, match="Bad address"):
                memory.read(2 * PAGE, 8)
            with pytest.raises(DmaFaultError, match="Bad address"):
                memory.write(2 * PAGE, b"x")
            assert os.fstat(fd).st_size == PAGE
            memory.unmap_all()


def test_a_client_that_does_not_answer_is_a_fault() -> None:
    memory, reach = GuestMemory(), Messages()
    memory.map(0, PAGE)
    with pytest.raises(DmaFaultError, match="no way to reach"):
        memory.read(0, 1)
    memory.reach = reach
    reach.broken = True
    for act in (lambda: memory.read(0, 1), lambda: memory.write(0, b"x")):
        with pytest.raises(DmaFaultError, match="gone"):
            act()
    reach.broken = False
    reach.read = lambda iova, size: b"short"  # type: ignore[method-assign]
    with pytest.raises(DmaFaultError, match="only 5 bytes"):
        memory.read(0, 100)


def test_every_write_is_logged_by_messages_too_and_before_it_is_made() -> None:
    memory, reach = GuestMemory(), Messages()
    memory.map(0, 8 * PAGE)
    memory.reach = reach
    memory.log.start(PAGE)
    memory.write(PAGE - 1, b"ab")
    assert memory.log.report(0, 8 * PAGE, PAGE)[0] == 0b11
    reach.broken = True
    with pytest.raises(DmaFaultError):
        memory.write(5 * PAGE, b"x")
    assert memory.log.report(0, 8 * PAGE, PAGE)[0] == 0b100000, "half of it may have arrived"


def test_views_cannot_be_written() -> None:
    memory, fd = GuestMemory(), memfd(seal=True)
    memory.map(0, PAGE, fd=fd)
    [view] = memory.views(0, 8)
    with pytest.raises(TypeError):
        view[0] = 1
    view.release()
    memory.unmap_all()
    os.close(fd)


def test_nothing_is_permitted_between_two_clients() -> None:
    memory = GuestMemory()
    assert memory.permitted(0, 1), "a device that never had a client meets a fault, as on hardware"
    memory.map(0, PAGE)
    memory.log.start(PAGE)
    memory.drop()
    assert not memory.maps
    assert not memory.log.on
    assert not memory.permitted(0, 1)
    memory.used()
    assert not memory.permitted(0, 1), "the next one has mapped nothing yet"
    memory.map(0, PAGE)
    assert memory.permitted(0, PAGE)
    assert memory.permitted(PAGE - 1, 1)
    assert not memory.permitted(PAGE, 1), "it may go on mapping"
    assert not memory.permitted(PAGE - 1, 2)
    memory.map(2 * PAGE, PAGE)
    assert not memory.permitted(0, 3 * PAGE)
    memory.map(PAGE, PAGE)
    assert memory.permitted(0, 3 * PAGE)
    memory.used()
    assert memory.permitted(4 * PAGE, 1), "it goes on to something else: that meets a fault"


def test_nothing_leaks() -> None:
    memory, fd, sealed = GuestMemory(), memfd(), memfd(seal=True)
    before = opened_at_rest()
    for _ in range(300):
        memory.map(0, PAGE, fd=fd)
        memory.map(PAGE, PAGE, fd=sealed)
        with pytest.raises(CommandError):
            memory.map(2 * PAGE, 1 << 40, fd=fd)
        memory.drop()
    assert opened() == before
    os.close(fd)
    os.close(sealed)


def test_so_many_maps_come_with_a_descriptor_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound itself takes a descriptor to each: what is shown is that it is the one used."""
    assert WIRE.bound("mapped_files") == guest_memory.MAX_MAPPED_FILES
    monkeypatch.setattr(guest_memory, "MAX_MAPPED_FILES", 3)
    fd = memfd()
    memory = GuestMemory()
    for at in range(3):
        memory.map(at * PAGE, PAGE, fd=fd)
    with pytest.raises(CommandError, match="3 maps with a descriptor are all") as refusal:
        memory.map(3 * PAGE, PAGE, fd=fd)
    assert refusal.value.occasion == "holding_full"
    memory.map(3 * PAGE, PAGE)  # one without is no map of the process
    memory.unmap(3 * PAGE, PAGE)
    memory.unmap(0, PAGE)
    memory.map(3 * PAGE, PAGE, fd=fd)
    memory.unmap_all()
    for at in range(3):
        memory.map(at * PAGE, PAGE, fd=fd)
    memory.drop()
    os.close(fd)


def test_so_many_bytes_come_with_a_descriptor_and_no_more() -> None:
    most = WIRE.bound("mapped_mib") << 20
    fd = memfd(most + PAGE)
    memory = GuestMemory()
    memory.map(0, most - PAGE, fd=fd)
    memory.map(most, PAGE, fd=fd)
    with pytest.raises(CommandError, match="bytes are mapped at most") as refusal:
        memory.map(most + PAGE, 1, fd=fd)
    assert refusal.value.occasion == "holding_full"
    memory.unmap(most, PAGE)
    with pytest.raises(CommandError, match="bytes are mapped at most"):
        memory.map(most, PAGE + 1, fd=fd)
    memory.map(most, PAGE, fd=fd)
    memory.drop()
    os.close(fd)


def test_a_map_that_is_refused_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_memory, "MAX_MAPPED_FILES", 1)
    short, long = memfd(PAGE), memfd(2 * PAGE)
    memory = GuestMemory()
    with pytest.raises(CommandError, match="bytes long"):
        memory.map(0, 2 * PAGE, fd=short)
    memory.map(0, 2 * PAGE, fd=long)
    memory.drop()
    os.close(short)
    os.close(long)


def test_half_of_the_maps_that_linux_gives_a_process_are_left_to_the_device() -> None:
    assert WIRE.bound("mapped_files") <= MAX_MAP_COUNT // 2
