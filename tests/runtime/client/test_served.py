"""Both clients against our server: every call, every capability set, memory and interrupts."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import threading
import time

import pytest
from client_support import attach, until

from support.samples import sampled
from vfio_migration.model import UnknownNameError, load
from vfio_migration.runtime.client import (
    AddressSpace,
    MappedRegion,
    PeerDisconnectedError,
    RefusedError,
    SharedMemory,
    TimedOutError,
    Window,
    calls,
)
from vfio_migration.runtime.client.async_interrupts import AsyncInterrupts
from vfio_migration.runtime.client.interrupts import INTX, MSI, MSIX, Interrupts, Vectors
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.kit.pci_device import Bar, Identity, PciDevice
from vfio_migration.runtime.protocol.messages.version import Limits

SPEC = load()
BUFFER = 0x40000
SETS = ["STOP_COPY", "STOP_COPY,P2P", "STOP_COPY,PRE_COPY", "STOP_COPY,P2P,PRE_COPY"]


@sampled(3)
@pytest.mark.parametrize("flags", SETS)
def test_every_request_does_what_the_table_states(kind, serve, flags) -> None:
    machine = SPEC.machine(flags)
    states = [state.name for state in SPEC.states]
    with kind(serve(Edu(capabilities=flags)).path) as client:
        assert client.capabilities() == int(machine.capabilities.value)
        for start, target in itertools.product(machine.states, states):
            client.reset()
            if machine.route("RUNNING", start.name).refused:
                continue  # it is come to by a mistake of the device and in no other way
            client.set_state(start.name)
            route = machine.route(start.name, target)
            if route.refused:
                with pytest.raises(RefusedError) as refused:
                    client.set_state(target)
                assert refused.value.errno == route.refused.errno
            elif start.name == "RESUMING" and route.path:
                with pytest.raises(RefusedError):  # nothing was written, so there is no state
                    client.set_state(target)
            else:
                client.set_state(target)
            assert client.state() in (target, start.name)


def test_a_name_that_nothing_has_is_a_slip_of_the_program(kind, serve) -> None:
    """Nothing is sent; what is meant is stated."""
    with kind(serve().path) as client:
        reported = vars(client.counters).copy()
        for ask, name, meant in (
            (client.set_state, "STOP_CPY", "STOP_COPY"),
            (client.moving, "RUNING", "RUNNING"),
            (client.supports, "MIGRATIN", "MIGRATION"),
        ):
            with pytest.raises(UnknownNameError, match=name) as slip:
                ask(name)
            assert meant in str(slip.value)
        assert vars(client.counters) == reported
        assert client.state() == "RUNNING"


def test_a_state_is_moved_from_one_device_to_another(kind, serve) -> None:
    with kind(serve().path) as source, kind(serve().path) as target:
        what = os.urandom(4096)
        source.region_write(0, BUFFER, what)
        pending = source.moving("STOP_COPY")
        source.finish(pending)
        assert source.data_size() > 4096
        target.set_state("RESUMING")
        stream = bytearray()
        while source.read_data(1000, stream.extend) == 1000:
            pass
        for at in range(0, len(stream), 777):
            target.write_data(bytes(stream[at : at + 777]))
        target.set_state("RUNNING")
        assert target.region_read(0, BUFFER, 4096) == what
        with pytest.raises(RefusedError) as refused:
            target.write_data(b"more")
        assert refused.value.errno == "EINVAL"
        assert refused.value.command == "MIG_DATA_WRITE"
        assert target.over is None


def test_features_are_asked_for(kind, serve) -> None:
    with kind(serve().path) as client:
        assert client.supports("MIGRATION", get=True)
        assert not client.supports("MIGRATION", set_=True)
        assert client.supports("MIG_DEVICE_STATE", get=True, set_=True)
        assert client.supports("DMA_LOGGING_START", set_=True)
        with pytest.raises(RefusedError):
            client.logging_report(0, 4096, 4096)


@sampled(3)
@pytest.mark.parametrize("twin", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_dma_reaches_memory_and_is_logged(kind, serve, shared, twin) -> None:
    served = serve()
    space = AddressSpace()
    limits = Limits(twin_socket=twin)
    with SharedMemory(1 << 16) as memory, kind(served.path, limits=limits) as client:
        assert client.agreed.twin_socket == twin
        space.add(Window(0x10000, 0x8000, memory, by_descriptor=shared))
        space.add(Window(0x18000, 0x8000, memory, offset=0x8000, by_descriptor=shared))
        attach(client, space)
        client.logging_start(4096, [(0x10000, 0x10000)])
        what = os.urandom(4096)
        client.region_write(0, BUFFER, what)
        dma(client, BUFFER, 0x17800, 4096, from_device=True)  # from one window into the next
        assert bytes(memory.view[0x7800:0x8800]) == what
        assert client.logging_report(0x10000, 0x10000, 4096) == struct.pack("=Q", 3 << 7)
        assert client.logging_report(0x10000, 0x10000, 4096) == bytes(8)
        client.logging_stop()
        memory.view[:4096] = bytes(reversed(what))
        dma(client, 0x10000, BUFFER, 4096, from_device=False)
        assert client.region_read(0, BUFFER, 4096) == bytes(reversed(what))
        dma(client, 0x30000, BUFFER, 4, from_device=False)
        assert client.region_read(7, 6, 2)[1] & 0x20  # received master abort
        client.dma_unmap(0x18000, 0x8000)
        client.dma_unmap_all()


def dma(client, source, target, count, *, from_device) -> None:
    for offset, value in ((0x80, source), (0x88, target), (0x90, count)):
        client.region_write(0, offset, struct.pack("<Q", value))
    client.region_write(0, 0x98, struct.pack("<Q", 3 if from_device else 1), no_reply=True)
    until(lambda: not client.region_read(0, 0x98, 4)[0] & 1)


def test_dma_is_answered_while_nobody_waits(kind, serve) -> None:
    """The device starts by itself, after the client has got its answer."""
    served = serve(Edu(dma_seconds=0.05))
    space = AddressSpace()
    with SharedMemory(4096) as memory, kind(served.path) as client:
        space.add(Window(0, 4096, memory, by_descriptor=False))
        attach(client, space)
        client.region_write(0, BUFFER, b"by itself")
        for offset, value in ((0x80, BUFFER), (0x88, 0), (0x90, 9), (0x98, 3)):
            client.region_write(0, offset, struct.pack("<Q", value))
        deadline = time.monotonic() + 60
        while bytes(memory.view[:9]) != b"by itself":
            assert time.monotonic() < deadline
            if hasattr(client, "idle"):
                client.idle(0.05)
            else:
                with client.answering_dma():
                    time.sleep(0.05)


def test_regions_are_described_and_mapped(kind, serve) -> None:
    with kind(serve().path) as client:
        about = client.info()
        assert (about.flags, about.num_regions, about.num_irqs) == (3, 9, 5)
        with client.region_info(0) as info, MappedRegion(info) as region:
            assert [(one.offset, one.size) for one in region.areas] == [(BUFFER, 4096)]
            region.write(BUFFER + 5, b"mapped")
            assert client.region_read(0, BUFFER + 5, 6) == b"mapped"
            client.region_write(0, BUFFER + 5, b"asked.")
            assert region.read(BUFFER + 5, 6) == b"asked."
            assert region.view(0, 4) is None
            with pytest.raises(LookupError):
                region.read(BUFFER + 4095, 2)
        assert client.region_info(3).size == 0
        with client.region_io_fds(0) as found:
            assert (found.parts, found.fds) == ((), ())
        with pytest.raises(RefusedError) as refused:
            client.region_info(99)
        assert refused.value.errno == "EINVAL"
        writes = [(0, BUFFER + 8 * at, bytes([at] * 8)) for at in range(4)]
        assert client.region_write_multi(writes) == 4
        assert client.region_read(0, BUFFER, 32) == b"".join(data for _, _, data in writes)


class Loud(PciDevice):
    """A device with many vectors: writing n to its register raises vector n."""

    identity = Identity(vendor=0x1234, device=0x5678)
    bars = {0: Bar(4096)}  # noqa: RUF012
    msix = 40

    def bar_read(self, bar, offset, size):
        return 0

    def bar_write(self, bar, offset, value, size):
        self.interrupt(value)


def test_many_vectors_are_given_in_pieces_and_taken_back(serve, kind) -> None:
    served = serve(Loud())
    seen = []
    with kind(served.path, observers=[seen.append]) as client:
        assert client.irq_info(MSIX).count == 40
        interrupts = opened(client, MSIX, 40)
        given = [one.command for one in seen if one.what == "command" and one.command.number == 8]
        assert [(one.start, one.count) for one in given] == [(32, 8), (16, 16), (0, 16)]
        for vector in (0, 15, 16, 39, 39):
            client.region_write(0, 0, struct.pack("<I", vector))
        assert waited(client, interrupts) == {0: 1, 15: 1, 16: 1, 39: 2}
        run(client, interrupts.trigger, 7)
        assert waited(client, interrupts) == {7: 1}
        shut(client, interrupts)
        assert not served.device.interrupts.armed(MSIX)
        with pytest.raises(RefusedError):
            opened(client, MSIX, 41)
        assert client.over is None


def test_a_line_is_masked_until_it_is_unmasked(serve, kind) -> None:
    with kind(serve().path) as client:
        interrupts = opened(client, INTX, 1)
        client.region_write(0, 0x60, struct.pack("<I", 1))
        assert waited(client, interrupts) == {0: 1}
        client.region_write(0, 0x60, struct.pack("<I", 2))
        assert interrupts.taken() == {}
        run(client, interrupts.unmask)  # it is still up
        assert waited(client, interrupts) == {0: 1}
        client.region_write(0, 0x64, struct.pack("<I", 3))
        run(client, interrupts.unmask)
        run(client, interrupts.mask)
        client.region_write(0, 0x60, struct.pack("<I", 1))
        assert interrupts.taken() == {}
        shut(client, interrupts)
        assert client.irq_info(MSI).count == 1


def opened(client, index, count):
    if hasattr(client, "idle"):
        made = AsyncInterrupts(client._client, index, count)
        client._runner.run(made.__aenter__())
        return made
    return Interrupts(client, index, count)


def run(client, method, *args):
    result = method(*args)
    return client._runner.run(result) if hasattr(client, "idle") else result


def waited(client, interrupts) -> dict[int, int]:
    if hasattr(client, "idle"):
        return client._runner.run(interrupts.wait())
    return interrupts.wait(120)


def shut(client, interrupts) -> None:
    if hasattr(client, "idle"):
        client._runner.run(interrupts.__aexit__(None, None, None))
    else:
        interrupts.close()
        interrupts.close()


def test_a_wait_for_interrupts_ends_in_time(serve) -> None:
    from client_support import Client

    with Client(serve().path) as client, Interrupts(client, INTX) as interrupts:
        assert interrupts.wait(0.01) == {}


def test_closing_ends_a_wait_for_interrupts(serve) -> None:
    from client_support import Client

    found = []
    with Client(serve().path) as client:
        interrupts = Interrupts(client, INTX)
        thread = threading.Thread(target=lambda: found.append(interrupts.wait(120)))
        begun = time.monotonic()
        thread.start()
        time.sleep(0.05)
        interrupts.close()
        thread.join()
        assert found == [{}]
        assert time.monotonic() - begun < 60
        assert interrupts.wait() == {}


def test_no_vectors_need_no_descriptors() -> None:
    assert Vectors(INTX, 0).giving(0) == []


def test_nobody_serves_there(kind, tmp_path) -> None:
    for path in (tmp_path / "none", tmp_path / ("x" * 200)):
        with pytest.raises(PeerDisconnectedError, match="nobody serves there"):
            kind(path)


def test_the_server_serves_another_client(kind, serve) -> None:
    served = serve()
    with kind(served.path), pytest.raises(TimedOutError, match="does it serve another client"):
        kind(served.path, timeout_s=0.1)


def test_too_many_clients_wait(kind, tmp_path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "full"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "full"))
            with pytest.raises(TimedOutError, match="too many clients wait there"):
                kind(tmp_path / "full", timeout_s=0.1)


def test_a_server_that_ends_is_noticed(kind, serve) -> None:
    served = serve()
    with kind(served.path) as client:
        pending = client.begin(calls.info())
        client.finish(pending)
        served.server.stop()
        until(lambda: served.server.is_stopping())

        def ended() -> bool:
            with contextlib.suppress(PeerDisconnectedError):
                client.state()
            return client.over is not None

        until(ended)
        assert isinstance(client.over, PeerDisconnectedError)
        with pytest.raises(PeerDisconnectedError):
            client.begin(calls.info())


@pytest.mark.exhaustive
def test_a_thousand_connections_leave_nothing(kind, serve) -> None:
    served = serve()
    with SharedMemory(4096) as memory:
        space = AddressSpace()
        space.add(Window(0, 4096, memory))
        for _ in range(200):
            with kind(served.path) as client:
                attach(client, space)
                client.region_info(0).close()
                client.set_state("STOP_COPY")
                client.read_data(100, len)
                shut(client, opened(client, INTX, 1))
                client.reset()
