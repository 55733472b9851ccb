"""What a server does besides migration: connections, regions, interrupts."""

from __future__ import annotations

import errno
import os
import select
import struct

import pytest

from support import raw_client as raw
from support.edu_client import (
    BUFFER,
    FLAGS_OFF,
    FLAGS_ON,
    UNMASK,
    descriptors,
    eventfd,
    rss,
    signalled,
    until,
)
from support.raw_client import GET, RefusedError
from vfio_migration.runtime.kit.devices import Edu


def test_the_version_is_agreed_within_the_size_of_the_request(serve) -> None:
    served = serve()
    with served.client() as client:
        assert client.agreed == raw.CAPABILITIES
    with served.client(capabilities={"max_dma_maps": 2, "unknown": {}}) as client:
        assert client.agreed == {"max_dma_maps": 2}
        client.dma_map(0, 4096)
        client.dma_map(4096, 4096)
        with pytest.raises(RefusedError) as refused:
            client.dma_map(8192, 4096)
        assert refused.value.errno == errno.ENOSPC
        client.dma_unmap(0, 4096)
        client.dma_map(8192, 4096)
    with served.client(version=False) as client:
        with pytest.raises(RefusedError):
            client.ask(raw.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0))
        client.ask(raw.VERSION, struct.pack("=HH", 0, 0))
        with pytest.raises(RefusedError):
            client.ask(raw.VERSION, struct.pack("=HH", 0, 0))
        assert client.state == 2


def test_the_second_client_waits_for_its_turn(serve) -> None:
    served = serve()
    first = served.client()
    second = served.client(version=False)
    waiting = second.send(raw.VERSION, struct.pack("=HH", 0, 0))
    assert not select.select([second.sock], [], [], 0.1)[0]
    assert first.state == 2
    first.close()
    second.reply(waiting)
    assert second.state == 2
    second.close()


def test_replies_keep_their_order_and_only_wanted_ones_come(serve) -> None:
    with serve().client() as client:
        body = struct.pack("=II", 16, GET | 2)
        wanted = [client.send(raw.FEATURE, body) for _ in range(200)]
        for _ in range(50):
            client.send(raw.FEATURE, body, flags=0x10)
            client.send(raw.FEATURE, b"", flags=0x10)
        wanted += [client.send(raw.FEATURE, body)]
        for ident in wanted:
            assert client.message()[0] == ident
        assert client.state == 2


@pytest.mark.exhaustive
def test_nothing_leaks_over_a_thousand_connections(serve) -> None:
    served = serve()
    memory = os.memfd_create("guest")
    os.ftruncate(memory, 1 << 20)

    def connect() -> None:
        with served.client() as client:
            client.dma_map(0, 1 << 20, fd=memory)
            event = eventfd()
            client.set_irqs(FLAGS_ON, 0, 0, 1, [event])
            client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", 64, 0, 0, 0, 0, 0))
            client.set_state(3)
            client.mig_read(1000)
            os.close(event)

    for _ in range(100):
        connect()
    until(lambda: not served.device.memory.maps)
    before, resident = descriptors(), rss()
    for _ in range(1000):
        connect()
    until(lambda: served.server.counters.connections == 1100 and not served.device.memory.maps)
    until(lambda: descriptors() <= before)
    assert rss() - resident < 4 << 20
    os.close(memory)


def test_the_device_and_its_regions_are_described(serve) -> None:
    with serve().client() as client:
        assert client.ask(raw.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)) == struct.pack(
            "=IIII", 16, 3, 9, 5
        )
        # With room for the fixed part only: no capabilities, but how much room they need, and
        # nothing that goes with a descriptor.
        short = client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", 32, 0, 0, 0, 0, 0))
        argsz, flags, index, first, size, offset = struct.unpack("=IIIIQQ", short)
        assert (argsz, index, size, offset) == (64, 0, 1 << 20, 0)
        assert (flags, first, client.fds) == (3, 0, [])
        full = client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", 64, 0, 0, 0, 0, 0))
        assert len(full) == 64
        assert struct.unpack_from("=IIIIQQ", full) == (64, 15, 0, 32, 1 << 20, 0)
        assert struct.unpack_from("=HHIII", full, 32) == (1, 1, 0, 1, 0)
        assert struct.unpack_from("=QQ", full, 48) == (BUFFER, 4096)
        assert len(client.fds) == 1
        client.write(0, BUFFER + 5, b"seen")
        assert os.pread(client.fds[0], 4, BUFFER + 5) == b"seen"
        none = client.ask(raw.REGION_INFO, struct.pack("=IIIIQQ", 32, 0, 3, 0, 0, 0))
        assert struct.unpack("=IIIIQQ", none) == (32, 0, 3, 0, 0, 0)
        assert client.ask(raw.IO_FDS, struct.pack("=IIII", 16, 0, 0, 0)) == struct.pack(
            "=IIII", 16, 0, 0, 0
        )
        assert client.ask(raw.IRQ_INFO, struct.pack("=IIII", 16, 0, 0, 0)) == struct.pack(
            "=IIII", 16, 7, 0, 1
        )
        for command, payload in (
            (raw.REGION_INFO, struct.pack("=IIIIQQ", 32, 0, 9, 0, 0, 0)),
            (raw.IO_FDS, struct.pack("=IIII", 16, 0, 9, 0)),
            (raw.IRQ_INFO, struct.pack("=IIII", 16, 0, 5, 0)),
            (raw.REGION_READ, struct.pack("=QII", 0, 9, 4)),
            (raw.REGION_READ, struct.pack("=QII", 1 << 20, 0, 4)),
            (raw.REGION_READ, struct.pack("=QII", (1 << 64) - 1, 7, 4)),
        ):
            with pytest.raises(RefusedError) as refused:
                client.ask(command, payload)
            assert refused.value.errno == errno.EINVAL
        with pytest.raises(RefusedError) as refused:
            client.ask(raw.REGION_READ, struct.pack("=QII", 0, 0, (1 << 20) + 1))
        assert refused.value.errno == errno.E2BIG


def test_several_writes_in_one_message_are_all_done_or_none(serve) -> None:
    with serve().client() as client:

        def multi(*writes) -> bytes:
            body = b"".join(struct.pack("=QII8s", at, 0, len(data), data) for at, data in writes)
            return client.ask(raw.WRITE_MULTI, struct.pack("=Q", len(writes)) + body)

        assert multi((BUFFER, b"one"), (BUFFER + 8, b"eighteen")) == struct.pack("=Q", 2)
        assert client.read(0, BUFFER, 16) == b"one\0\0\0\0\0eighteen"
        with pytest.raises(RefusedError):
            multi((BUFFER, b"two"), (1 << 20, b"x"))
        assert client.read(0, BUFFER, 3) == b"one"
        client.set_state(1)
        assert multi((BUFFER, b"two")) == struct.pack("=Q", 0)


def test_a_line_is_unmasked_by_a_descriptor_alone(serve) -> None:
    """As by KVM: it writes to the descriptor when the guest is done, and QEMU sends no message."""
    recorded, unmask = eventfd(), eventfd()
    with serve().client() as client:
        client.set_irqs(FLAGS_ON, 0, 0, 1, [recorded])
        client.set_irqs(0x14, 0, 0, 1, [unmask])
        client.write(0, 0x60, struct.pack("<I", 1))
        assert signalled(recorded) == 1
        assert signalled(recorded, 0.05) == 0
        # Nothing else is stated, and the line is still up.
        os.eventfd_write(unmask, 1)
        assert signalled(recorded) == 1
        client.write(0, 0x64, struct.pack("<I", 1))
        os.eventfd_write(unmask, 1)
        assert signalled(recorded, 0.05) == 0
        client.write(0, 0x60, struct.pack("<I", 1))
        assert signalled(recorded) == 1
    os.close(recorded)
    os.close(unmask)


def test_work_whose_needs_fail_costs_no_client_its_server(serve, caplog) -> None:
    class Careless(Edu):
        def _may_transfer(self) -> bool:
            if self.dma_count == 13:
                raise RuntimeError("thirteen")
            return super()._may_transfer()

    caplog.set_level("CRITICAL")
    served = serve(Careless())
    with served.client() as client:
        client.set_state(1)
        served.device.dma_count, served.device.dma_command = 13, 1
        served.device.later(0.0, served.device._transfer, needs=served.device._may_transfer)
        client.set_state(2)
        until(lambda: served.device.deadline() is None)
        assert client.state == 2
    with served.client() as client:
        assert client.state == 2


def test_interrupts_arrive_and_are_dropped_with_their_client(serve) -> None:
    served = serve()
    first = eventfd()
    with served.client() as client:
        client.set_irqs(FLAGS_ON, 0, 0, 1, [first])
        client.write(0, 0x60, struct.pack("<I", 1))
        assert signalled(first) == 1
        # The line is still up when it is unmasked.
        client.set_irqs(UNMASK, 0, 0, 1)
        assert signalled(first) == 1
        client.write(0, 0x64, struct.pack("<I", 1))
        client.set_irqs(FLAGS_OFF, 0, 0, 0)
        client.set_irqs(FLAGS_ON, 1, 0, 1, [first])
        client.write(0, 0x60, struct.pack("<I", 2))
        assert signalled(first) == 1
        client.write(0, 0x64, struct.pack("<I", 2))
    with served.client() as client:
        client.write(0, 0x60, struct.pack("<I", 1))
        assert signalled(first, 0.05) == 0
        second = eventfd()
        client.set_irqs(FLAGS_ON, 0, 0, 1, [second])
        assert signalled(second) == 1
        with pytest.raises(RefusedError) as refused:
            client.set_irqs(FLAGS_ON, 0, 1, 1, [second])
        assert refused.value.errno == errno.EINVAL
    os.close(first)
    os.close(second)
