"""The client for asyncio: tasks, cancelling, and what is left in the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import struct

import pytest
from client_support import (
    DMA_READ,
    GET_INFO,
    MIG_READ,
    REGION_INFO,
    SET_IRQS,
    Scene,
    memfd,
    no_leak,
)

from support.samples import sampled
from vfio_migration.runtime.client import ClientError, PeerDisconnectedError, TimedOutError, calls
from vfio_migration.runtime.client.async_interrupts import AsyncInterrupts
from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.async_server import AsyncServer
from vfio_migration.runtime.transport.listening import listening

INFO = struct.pack("=IIII", 16, 3, 9, 5)
REGION = struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0)


def play(script, scene, **options) -> None:
    """Run a scene with a client of a scripted server; nothing is left of either."""

    async def main() -> None:
        server = Scene(script)
        async with AsyncClient(server.sock, **{"timeout_s": 10.0, **options}) as client:
            await scene(client)
            assert asyncio.all_tasks() == {asyncio.current_task()}
        # Only what wakes the loop itself is left in it.
        assert len(asyncio.get_running_loop()._selector.get_map()) == 1
        await asyncio.to_thread(server.close)

    with no_leak():
        asyncio.run(main())
        gc.collect()


def echo(peer) -> None:
    peer.handshake({})
    while True:
        ident, command, _, payload = peer.read()
        offset, region, count = struct.unpack("=QII", payload)
        peer.send(ident, command, struct.pack("=QIIQ", offset, region, count, offset))


def test_tasks_do_not_wait_for_one_another() -> None:
    def backwards(peer) -> None:
        peer.handshake({})
        asked = [peer.read() for _ in range(50)]
        for ident, command, _, payload in reversed(asked):
            offset, region, count = struct.unpack("=QII", payload)
            peer.send(ident, command, struct.pack("=QIIQ", offset, region, count, offset))

    async def scene(client) -> None:
        asked = [client.region_read(0, at, 8) for at in range(50)]
        assert await asyncio.gather(*asked) == [struct.pack("=Q", at) for at in range(50)]

    play(backwards, scene)


def test_what_was_begun_is_sent_at_once_and_awaited_once() -> None:
    async def scene(client) -> None:
        begun = [client.begin(calls.region_read(0, at, 8)) for at in range(50)]
        assert await asyncio.gather(*begun) == [struct.pack("=Q", at) for at in range(50)]
        with pytest.raises(RuntimeError, match="awaited once"):
            await begun[0]
        one = client.begin(calls.region_read(0, 7, 8))
        assert await asyncio.wait_for(one, 60) == struct.pack("=Q", 7)

    play(echo, scene)


def late(peer) -> None:
    """Answer a call only after the next one was made, with a descriptor."""
    peer.handshake({"max_msg_fds": 8})
    held = None
    while True:
        ident, command, _, _ = peer.read()
        if command == REGION_INFO:
            held = ident
            continue
        if held is not None:
            fd = memfd()
            peer.send(held, REGION_INFO, REGION, fds=[fd])
            os.close(fd)
            held = None
        peer.send(ident, GET_INFO, INFO)


@sampled(2)
@pytest.mark.parametrize("how", ["do", "begin", "begin in a task", "not awaited", "not begun"])
def test_a_late_reply_of_a_cancelled_call_is_disposed_of(how) -> None:
    async def scene(client) -> None:
        call = calls.region_info(0)
        for _ in range(20):
            if how == "not awaited":
                client.begin(call)
            elif how == "not begun":
                task = asyncio.ensure_future(client.begin(call))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                del task
            else:
                if how == "do":
                    waits = client.do(call)
                elif how == "begin":
                    waits = client.begin(call)
                else:
                    waits = asyncio.ensure_future(client.begin(call))
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(waits, 0.005)
                del waits
            assert (await client.info()).num_irqs == 5
        assert client.over is None

    play(late, scene)


def test_cancelled_when_the_reply_is_there_already() -> None:
    """The result is set, the task has not run yet, and is cancelled: nobody gets the descriptor."""

    def at_once(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
        while True:
            ident, _ = peer.expect(REGION_INFO)
            fd = memfd()
            peer.send(ident, REGION_INFO, REGION, fds=[fd])
            os.close(fd)

    async def scene(client) -> None:
        for _ in range(20):
            task = asyncio.create_task(client.do(calls.region_info(0)))
            await asyncio.sleep(0)
            pending = next(iter(client._core._pending.values()))
            succeed = pending.succeed

            pending.then(lambda then=pending._then, task=task: (then(), task.cancel()))
            del succeed
            with pytest.raises(asyncio.CancelledError):
                await task
            assert pending.done
        assert client.over is None

    play(at_once, scene)


def test_the_sink_of_a_cancelled_read_is_not_called() -> None:
    def slow(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(MIG_READ)
        other, _ = peer.expect(GET_INFO)
        peer.send(ident, MIG_READ, struct.pack("=II", 12, 4) + b"late")
        peer.send(other, GET_INFO, INFO)

    async def scene(client) -> None:
        got = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.read_data(4, lambda data: got.append(bytes(data)))
        await client.info()
        assert got == []

    play(slow, scene)


def test_a_timeout_ends_the_connection_for_all() -> None:
    async def scene(client) -> None:
        others = [asyncio.create_task(client.info()) for _ in range(5)]
        with pytest.raises(TimedOutError, match="DEVICE_RESET is not answered"):
            await client.do(calls.reset(), 0.05)
        for one in others:
            with pytest.raises(TimedOutError):
                await one
        with pytest.raises(TimedOutError):
            client.begin(calls.info())

    play(lambda peer: peer.handshake({}), scene)


def test_close_ends_the_waiting_of_tasks() -> None:
    async def scene(client) -> None:
        waiting = [asyncio.create_task(client.info()) for _ in range(5)]
        await asyncio.sleep(0)
        client.close()
        for one in waiting:
            with pytest.raises(PeerDisconnectedError, match="this side has hung up"):
                await one

    play(lambda peer: peer.handshake({}), scene)


def test_a_group_of_tasks_ends_with_the_first_error() -> None:
    def one_error(peer) -> None:
        peer.handshake({})
        asked = [peer.read() for _ in range(3)]
        ident, command, _, _ = asked[1]
        peer.send(ident, command, flags=0x21, errno=22)
        other, _ = peer.expect(GET_INFO)
        peer.send(other, GET_INFO, INFO)

    async def scene(client) -> None:
        async def together() -> None:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(client.reset())

        with pytest.raises(ExceptionGroup):
            await together()
        assert (await client.info()).num_irqs == 5

    play(one_error, scene)


def test_the_loop_answers_dma_while_tasks_do_other_things() -> None:
    answered = []

    def asks(peer) -> None:
        twin = peer.twin({})
        for at in range(10):
            twin.send(at, DMA_READ, struct.pack("=QQ", at, 8), flags=0)
            answered.append(twin.read()[3][16:])
        ident, _ = peer.expect(GET_INFO)
        peer.send(ident, GET_INFO, INFO)

    class Numbers:
        def read(self, address, count):
            return struct.pack("=Q", address)

    async def scene(client) -> None:
        while len(answered) < 10:
            await asyncio.sleep(0.001)
        await client.info()

    play(asks, scene, memory=Numbers())
    assert answered == [struct.pack("=Q", at) for at in range(10)]


def test_closing_ends_a_wait_for_interrupts() -> None:
    """And nothing of it stays in the loop, where the numbers may be those of others by then."""

    def script(peer) -> None:
        peer.handshake({})
        for _ in range(2):
            ident, _ = peer.expect(SET_IRQS)
            peer.send(ident, SET_IRQS)

    async def scene(client) -> None:
        async with AsyncInterrupts(client, 0, 1) as interrupts:
            task = asyncio.create_task(interrupts.wait())
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(task, 60) == {}
        assert await asyncio.wait_for(interrupts.wait(), 5) == {}

    play(script, scene)


def test_a_client_that_was_never_opened_can_be_closed() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        client = AsyncClient(ours)
        client.close()
        assert theirs.recv(1) == b""
        with pytest.raises(PeerDisconnectedError, match="this side has hung up"):
            await client.open()
        theirs.close()

    with no_leak():
        asyncio.run(main())


def test_opening_can_be_cancelled() -> None:
    async def main() -> None:
        server = Scene(lambda peer: peer.until_hung())
        client = AsyncClient(server.sock)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.open(), 0.05)
        assert isinstance(client.over, PeerDisconnectedError)
        with pytest.raises(PeerDisconnectedError):
            client.begin(calls.info())
        await asyncio.to_thread(server.close)

    with no_leak():
        asyncio.run(main())


def test_a_client_may_outlive_its_loop() -> None:
    with no_leak():
        server = Scene(lambda peer: peer.handshake({}))
        client = AsyncClient(server.sock)
        asyncio.run(client.open())
        client.close()
        client.close()
        server.close()


def test_client_and_server_share_a_loop(tmp_path) -> None:
    async def main() -> None:
        path = tmp_path / "edu.sock"
        device = Edu(dma_seconds=0)
        with contextlib.closing(device), AsyncServer(device) as server, listening(path) as sock:
            serving = asyncio.create_task(server.serve(sock))
            async with AsyncClient(path) as client:
                await client.region_write(0, 0x40000, bytes(range(256)))
                async with AsyncInterrupts(client, 0) as interrupts:
                    await client.region_write(0, 0x60, struct.pack("<I", 1))
                    assert await interrupts.wait() == {0: 1}
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(interrupts.wait(), 0.02)
                    await client.region_write(0, 0x64, struct.pack("<I", 1))
                await client.set_state("STOP_COPY")
                stream = bytearray()
                while await client.read_data(500, stream.extend) == 500:
                    pass
                await client.set_state("RESUMING")
                await asyncio.gather(
                    *(
                        client.write_data(bytes(stream[at : at + 99]))
                        for at in range(0, len(stream), 99)
                    )
                )
                await client.set_state("RUNNING")
                assert await client.region_read(0, 0x40000, 256) == bytes(range(256))
            server.stop()
            await asyncio.wait_for(serving, 60)

    with no_leak():
        asyncio.run(main())


def test_a_storm_of_cancelled_tasks(spec) -> None:
    """Cancelled at random, each call is answered rightly, cancelled, or the client reports why."""
    import random

    chance = random.Random(7)

    async def ask(client, at: int) -> None:
        try:
            async with asyncio.timeout(chance.choice([0, 0.0005, 0.002, 5])):
                assert await client.region_read(0, at, 8) == struct.pack("=Q", at)
        except TimeoutError:
            pass

    async def scene(client) -> None:
        for _ in range(30):
            await asyncio.gather(*(ask(client, chance.randrange(1 << 40)) for _ in range(40)))
        assert await client.region_read(0, 5, 8) == struct.pack("=Q", 5)
        assert not client._core.waiting

    play(echo, scene)
    assert issubclass(TimedOutError, ClientError)
