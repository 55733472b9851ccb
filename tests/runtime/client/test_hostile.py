"""What a server that means harm can make a client hold, and whether any of it is left."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from pathlib import Path

import pytest
from client_support import (
    DMA_READ,
    DMA_WRITE,
    ERROR,
    GET_INFO,
    IO_FDS,
    REGION_INFO,
    REPLY,
    memfd,
)

from support.samples import sampled
from vfio_migration.runtime.client import ClientError, TimedOutError, calls

MIB = 1 << 20
INFO = struct.pack("=IIII", 16, 3, 9, 5)


def rss() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


class Zeroes:
    """Memory that is there, all of it, and remembers nothing."""

    reads = 0

    def read(self, address, count):
        self.reads += 1
        return bytes(count)

    def write(self, address, data):
        pass


@sampled(4)
@pytest.mark.parametrize("twin", [True, False])
def test_a_server_that_asks_for_memory_and_reads_none(foreign, twin) -> None:
    """2048 commands fit one read, and each has an answer of a MiB."""

    def script(peer) -> None:
        other = peer.twin({}) if twin else (peer.handshake({}), peer)[1]
        peer.expect(GET_INFO)
        for ident in range(20_000):
            other.send(ident & 0xFFFF, DMA_READ, struct.pack("=QQ", 0, MIB), flags=0)

    def hung(peer) -> None:
        peer.sock.settimeout(3)
        try:
            script(peer)
        except TimeoutError:
            peer.sock.settimeout(20)

    memory = Zeroes()
    client = foreign(hung, memory=memory)
    before = rss()
    with pytest.raises(TimedOutError):
        client.do(calls.info(), 1.0)
    assert rss() - before < 100 * MIB
    assert 1 <= memory.reads < 64


@sampled(2)
def test_a_server_that_sends_nonsense_and_reads_no_answers(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        peer.expect(GET_INFO)
        peer.sock.settimeout(1)
        try:
            while True:
                peer.raw(struct.pack("=HHIII", 1, 99, 16, 0, 0) * 4000)
        except TimeoutError:
            peer.sock.settimeout(20)

    client = foreign(script)
    before = rss()
    with pytest.raises(TimedOutError):
        client.do(calls.info(), 2.0)
    assert rss() - before < 50 * MIB


def test_a_server_that_reads_its_answers_late_gets_them_all(foreign) -> None:
    got = []

    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(GET_INFO)
        for one in range(60):
            peer.send(one, DMA_READ, struct.pack("=QQ", one, MIB), flags=0)
        time.sleep(0.2)
        for _ in range(60):
            answer = peer.read()
            got.append(struct.unpack_from("=Q", answer[3])[0])
            assert len(answer[3]) == 16 + MIB
        peer.send(ident, GET_INFO, INFO)

    assert foreign(script, memory=Zeroes()).info().num_irqs == 5
    assert got == list(range(60))


def test_an_answer_that_is_read_slowly_goes_on_while_nobody_waits(foreign) -> None:
    """The rest of an answer is sent although the server reports nothing any more."""
    whole = threading.Event()

    def script(peer) -> None:
        peer.handshake({})
        peer.send(1, DMA_READ, struct.pack("=QQ", 0, MIB), flags=0)
        peer.send(2, DMA_READ, struct.pack("=QQ", 0, MIB), flags=0)
        time.sleep(0.3)
        for _ in range(2):
            peer.read()
        whole.set()

    client = foreign(script, memory=Zeroes())
    if hasattr(client, "idle"):
        client.idle(1.0)
        assert whole.is_set()
    else:
        with client.answering_dma():
            assert whole.wait(60)


def test_memory_that_fails_is_answered(foreign, caplog) -> None:
    answers = []

    class Failing:
        def read(self, address, count):
            return {
                0: lambda: bytes(count + 1),
                1: lambda: "text",
                2: lambda: 1 // 0,
            }[address]()

        def write(self, address, data):
            raise OSError([None, errno.ENOSPC, -5, 1 << 40][address], "no")

    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(GET_INFO)
        for address in range(3):
            peer.send(address, DMA_READ, struct.pack("=QQ", address, 4), flags=0)
        for address in range(4):
            peer.send(address, DMA_WRITE, struct.pack("=QQ", address, 1) + b"x", flags=0)
        for _ in range(7):
            head = peer.exactly(16)
            answers.append(struct.unpack("=HHIII", head)[3:])
        peer.send(ident, GET_INFO, INFO)

    seen = []
    client = foreign(script, memory=Failing(), observers=[seen.append])
    assert client.info().num_irqs == 5
    assert [code for _, code in answers] == [
        *[errno.EREMOTEIO] * 3,
        errno.EFAULT,
        errno.ENOSPC,
        errno.EFAULT,
        errno.EFAULT,
    ]
    assert {flags for flags, _ in answers} == {REPLY | ERROR}
    assert len(caplog.records) == 3
    served = [one.errno for one in seen if one.what == "served"]
    assert served == ["EREMOTEIO"] * 3 + ["EFAULT", "ENOSPC", "EFAULT", "EFAULT"]


def test_a_watch_that_fails_fails_its_call_and_nothing_else(foreign, caplog) -> None:
    fails: set[str] = set()

    def watch(exchange) -> None:
        if exchange.what in fails:
            raise ZeroDivisionError(exchange.what)

    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 8})
        fd = memfd()
        try:
            while True:
                ident, _ = peer.expect(REGION_INFO)
                peer.send(1, DMA_READ, struct.pack("=QQ", 0, 4), flags=0)
                peer.read()
                body = struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0)
                peer.send(ident, REGION_INFO, body, fds=[fd])
        finally:
            os.close(fd)

    client = foreign(script, observers=[watch])
    for what in ("command", "reply"):
        fails = {what}
        with pytest.raises(ZeroDivisionError, match=what):
            client.region_info(0)
    fails = {"served", "gone"}
    client.region_info(0).close()
    assert client.over is None
    fails = {"gone"}
    client.close()
    assert len(caplog.records) == 2


def test_a_watch_that_fails_at_the_beginning(kind) -> None:
    from client_support import Scene, no_leak

    def watch(exchange) -> None:
        if exchange.what == "connected":
            raise ZeroDivisionError

    with no_leak():
        scene = Scene(lambda peer: peer.twin({}).until_hung())
        with pytest.raises(ZeroDivisionError):
            kind(scene.sock, observers=[watch])
        scene.close()


def test_a_sink_that_fails_fails_its_call_and_nothing_else(foreign) -> None:
    from client_support import MIG_READ

    def script(peer) -> None:
        peer.handshake({})
        asked = [peer.expect(MIG_READ)[0] for _ in range(2)]
        peer.raw(
            b"".join(
                struct.pack("=HHIIIII", one, MIG_READ, 28, REPLY, 0, 12, 4) + b"data"
                for one in asked
            )
        )
        peer.state(2)

    client = foreign(script)
    first = client.begin(calls.data_read(4, lambda data: 1 // 0))
    second = client.begin(calls.data_read(4, lambda data: None))
    with pytest.raises(ZeroDivisionError):
        client.finish(first)
    assert client.finish(second) == 4
    assert client.state() == "RUNNING"


def test_descriptors_of_what_nobody_wants(foreign) -> None:
    """Errors, nonsense, replies to nothing, calls that were abandoned: all are closed."""

    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 16})
        fds = [memfd() for _ in range(4)]
        asked = [peer.read()[:2] for _ in range(4)]
        info = struct.pack("=IIIIQQ", 32, 7, 0, 0, 4096, 0)
        peer.send(asked[0][0], REGION_INFO, flags=REPLY | ERROR, errno=5, fds=fds[:1])
        peer.send(0x4444, REGION_INFO, info, fds=fds[:1])
        peer.send(asked[1][0], REGION_INFO, info, fds=fds[:1])
        peer.send(asked[2][0], IO_FDS, struct.pack("=IIII", 16, 0, 0, 0), fds=fds)
        peer.state(2)
        peer.send(asked[3][0], REGION_INFO, info, fds=fds[:2])
        for fd in fds:
            os.close(fd)

    client = foreign(script)
    begun = [
        client.begin(calls.region_info(0)),
        client.begin(calls.region_info(0)),
        client.begin(calls.region_io_fds(0)),
        client.begin(calls.region_info(0)),
    ]
    for one in begun[1:3]:
        (one.pending if hasattr(one, "pending") else one).abandon()
    assert client.state() == "RUNNING"
    with pytest.raises(ClientError):
        client.finish(begun[0])
    with pytest.raises(ClientError):
        client.finish(begun[3])


def test_descriptors_of_a_message_that_does_not_end(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 16})
        ident, _ = peer.expect(REGION_INFO)
        fd = memfd()
        peer.raw(struct.pack("=HHIII", ident, REGION_INFO, 48, REPLY, 0) + bytes(8), [fd] * 3)
        os.close(fd)

    with pytest.raises(TimedOutError):
        foreign(script).do(calls.region_info(0), 0.2)


def test_a_server_that_reads_nothing(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})

    client = foreign(script)
    begun = [client.begin(calls.data_write(bytes(MIB))) for _ in range(20)]
    with pytest.raises(TimedOutError):
        client.do(calls.info(), 0.2)
    for one in begun:
        with pytest.raises(TimedOutError):
            client.finish(one)


@pytest.mark.exhaustive
def test_garbage_is_survived(kind) -> None:
    """Whatever a server sends, a client raises what is documented and leaves nothing behind."""
    import random

    from client_support import HEADER, Scene, no_leak

    chance = random.Random(20261125)

    def script(peer) -> None:
        peer.handshake({"max_msg_fds": 16, "write_multiple": True})
        fd = memfd()
        try:
            peer.sock.settimeout(2)
            for _ in range(40):
                body = chance.randbytes(chance.choice([0, 8, 16, 24, 32, chance.randrange(300)]))
                ident = chance.choice([0, 1, 2, 3, chance.randrange(1 << 16)])
                flags = chance.choice([0, 1, 1, 1, 0x21, 0x10, chance.randrange(1 << 32)])
                size = 16 + len(body) + chance.choice([0] * 9 + [1, -1, 1 << 24])
                head = HEADER.pack(ident, chance.randrange(20), size, flags, chance.randrange(200))
                peer.raw(head + body, [fd] * chance.choice([0] * 6 + [1, 2, 17]))
        finally:
            os.close(fd)

    asks = [
        calls.info(),
        calls.region_info(0),
        calls.region_io_fds(0),
        calls.get_state(),
        calls.region_read(0, 0, 8),
        calls.data_read(99, len),
        calls.reset(),
    ]
    with no_leak():
        for _ in range(60):
            scene = Scene(script)
            try:
                with kind(scene.sock, timeout_s=0.05) as client:
                    for call in chance.sample(asks, 3):
                        result = client.do(call)
                        if hasattr(result, "close"):
                            result.close()
            except ClientError:
                pass
            scene.sock.close()
            scene._thread.join(60)
