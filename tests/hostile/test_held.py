"""The most that a client can make a server hold, each kind by itself, and that it is let go."""

from __future__ import annotations

import array
import contextlib
import os
import random
import select
import socket
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest
from hostile_server import MIB, Watched, bound

from support import raw_client as raw
from support.raw_client import CAPABILITIES, HEADER, SET, Client, RefusedError

BOUND = bound()
SOON = 60


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> Iterator[Watched]:
    with Watched("edu", tmp_path_factory.mktemp("held")) as server:
        yield server


@pytest.fixture(scope="module")
def roomy(tmp_path_factory) -> Iterator[Watched]:
    """A server of the other device, whose memory is read a megabyte at a time."""
    with Watched("memory", tmp_path_factory.mktemp("held")) as server:
        yield server


@pytest.fixture
def held(request) -> Iterator[Callable[..., None]]:
    """Holds what the server has against the parts of the bound, and looks after it at the end."""
    name = "roomy" if "roomy" in request.fixturenames else "watched"
    watched: Watched = request.getfixturevalue(name)
    before = watched.calm().resident
    watched.forget_the_peak()

    def hold(*parts: str) -> None:
        allowed = sum(BOUND[part] for part in (*parts, "left over")) + MIB
        grown = watched.calm().peak - before
        print(f"\n{grown >> 10} KiB of {allowed >> 10} KiB")
        assert grown < allowed

    yield hold
    watched.check()


def stuff(sock: socket.socket, data: bytes, seconds: float = 0.3) -> int:
    """Send until the other side reads no more for a while; return how much it took."""
    sock.setblocking(False)
    view, sent = memoryview(data), 0
    while len(view) and select.select([], [sock], [], seconds)[1]:
        try:
            done = sock.send(view[: 1 << 18])
        except BlockingIOError:
            continue
        except OSError:
            break
        sent += done
        view = view[done:]
    return sent


def message(number: int, body: bytes = b"", ident: int = 1, flags: int = 0) -> bytes:
    return HEADER.pack(ident, number, 16 + len(body), flags, 0) + body


def state(value: int) -> bytes:
    return message(raw.FEATURE, struct.pack("=IIIi", 16, SET | 2, value, -1))


def test_replies_that_nobody_reads(roomy, held) -> None:
    with Client(roomy.path) as client:
        read = message(raw.REGION_READ, struct.pack("=QII", 0, 2, MIB))
        stuff(client.sock, read * 40 + message(raw.MIG_WRITE, bytes(MIB))[:-1])
        held("replies", "messages read ahead", "the message")


def test_commands_that_ask_for_little(watched, held) -> None:
    with Client(watched.path) as client:
        sent = stuff(
            client.sock, message(raw.GET_INFO, struct.pack("=IIII", 16, 0, 0, 0)) * 200_000
        )
        assert sent < 6_400_000
        held("replies", "messages read ahead", "the message")


def test_a_flood_on_the_twin_while_replies_wait(roomy, held) -> None:
    """Replies nobody asked for are passed over, but not while nothing is done at all."""
    reported = {**CAPABILITIES, "twin_socket": {"supported": True}}
    with Client(roomy.path, capabilities=reported) as client:
        twin = socket.socket(fileno=client.fds.pop())
        read = message(raw.REGION_READ, struct.pack("=QII", 0, 2, MIB))
        stuff(client.sock, read * 40)
        roomy.calm()
        flood = message(raw.DMA_READ, ident=9, flags=1) * (64 << 10)
        sent = sum(stuff(twin, flood) for _ in range(5))
        twin.close()
        assert sent < 2 * MIB
        held("replies", "messages read ahead", "the message")


@pytest.mark.exhaustive
def test_maps_interrupts_and_a_log(watched, held) -> None:
    with Client(watched.path) as client:
        client.feature(SET | 6, struct.pack("=QII", 4096, 0, 0))
        for first in range(0, 65536, 256):
            maps = [
                message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, at << 40, 1 << 39))
                for at in range(first, first + 256)
            ]
            client.sock.sendall(b"".join(maps))
            for at in range(256):
                _, _, flags, code, _ = client.message()
                assert (flags, code) == ((0x21, 28) if first + at == 65535 else (1, 0))
        held("maps", "messages read ahead", "the message")


@pytest.mark.exhaustive
def test_descriptors_until_there_are_no_more(watched, held) -> None:
    """The limit of the process is reached first: the client is notified of it, no more."""
    with Client(watched.path) as client:
        memory = os.memfd_create("guest")
        os.ftruncate(memory, 4096)
        taken = 0
        with contextlib.suppress(RefusedError):
            for taken in range(30_000):
                client.dma_map(taken << 12, 4096, fd=memory)
        assert 200 < taken < 30_000
        os.close(memory)
        held("maps", "messages read ahead", "the message")


def wait_for_memory(watched: Watched, **reported: object) -> Client:
    """Return a client that the device waits for, in the middle of a transfer."""
    client = Client(watched.path, capabilities={**CAPABILITIES, **reported})
    client.reset()
    client.dma_map(0, 1 << 16)
    for register, value in ((0x80, 0), (0x88, 0x40000), (0x90, 4096), (0x98, 1)):
        client.write(0, register, struct.pack("<Q", value), posted=True)
    return client


def test_commands_that_are_put_off(watched, held) -> None:
    """Each a megabyte: the wait is cut short, and what came is answered."""
    with wait_for_memory(watched) as client:
        assert client.message()[1] == raw.DMA_READ
        write = message(raw.MIG_WRITE, struct.pack("=II", 8, MIB) + bytes(MIB))
        client.sock.settimeout(SOON)
        for _ in range(5):
            client.sock.sendall(write)
        held("commands put off", "the message", "messages read ahead")
        for _ in range(5):
            assert client.message()[3] == 22
        assert client.state == 2


def test_small_commands_that_are_put_off_keep_nothing_but_themselves(watched, held) -> None:
    """Each comes in one piece with a megabyte of something that is refused."""
    with wait_for_memory(watched) as client:
        assert client.message()[1] == raw.DMA_READ
        client.sock.settimeout(SOON)
        junk = message(99, bytes(MIB))
        for _ in range(100):
            client.sock.sendall(junk + state(1))
        held("commands put off", "the message", "messages read ahead")
        for _ in range(200):
            client.message()
        assert client.state == 1


def test_memory_of_the_guest_given_in_small_pieces(watched, held) -> None:
    """Of each piece only what was asked for is kept, and not what came before it."""
    with wait_for_memory(watched, max_data_xfer_size=16) as client:
        client.sock.settimeout(SOON)
        junk = message(99, bytes(MIB), flags=0x10)
        for piece in range(256):
            ident, command, _, _, payload = client.message()
            assert command == raw.DMA_READ
            client.sock.sendall(junk + message(raw.DMA_READ, payload + bytes(16), ident, 1))
            if piece == 200:
                held("the message", "messages read ahead", "replies")
        assert client.state == 2


def test_a_state_that_is_too_long(watched, held) -> None:
    """Of a stream its sections are kept: 16 MiB in all."""
    frame = struct.Struct("<BBHIQII")
    with Client(watched.path) as client:
        client.reset()
        client.set_state(3)
        stream = client.mig_read(MIB)
        length = struct.unpack_from("<I", stream, 8 + 4)[0]
        handshake = stream[: 8 + frame.size + length]
        client.set_state(4)
        client.mig_write(handshake)
        section = bytes(16 * MIB)
        for number, block in enumerate((1, 1, 1, 0), 1):
            head = frame.pack(3, 0, block, len(section), 0, zlib.crc32(section), number)
            if block == 0:
                with pytest.raises(RefusedError):
                    client.mig_write(head)
                break
            client.mig_write(head)
            for at in range(0, len(section), MIB):
                client.mig_write(section[at : at + MIB])
        held("state taken in", "the message", "messages read ahead")
        client.reset()


@pytest.mark.exhaustive
def test_a_thousand_descriptors_on_their_way(watched, held) -> None:
    """Sixteen with each byte of messages that never end."""
    chance = random.Random(3)
    event = os.eventfd(0)
    for _ in range(100):
        with Client(watched.path) as client:
            data = message(raw.SET_IRQS, struct.pack("=IIIII", 20, 0x24, 2, 0, 16))
            for at in range(chance.randrange(1, len(data))):
                rights = array.array("i", [event] * 16)
                try:
                    client.sock.sendmsg(
                        [data[at : at + 1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    )
                except OSError:
                    break
    os.close(event)
    held("the message")


@pytest.mark.exhaustive
def test_the_largest_commands(watched, held) -> None:
    with Client(watched.path) as client:
        count = (MIB // 24) - 1
        writes = struct.pack("=QII8s", 0x04, 0, 4, b"\1" * 8) * count
        for _ in range(2):
            reply = client.ask(raw.WRITE_MULTI, struct.pack("=Q", count) + writes)
            assert struct.unpack("=Q", reply) == (count,)
        client.write(0, 0, bytes(MIB))
        assert len(client.read(0, 0, MIB)) == MIB
        held("the message", "replies", "messages read ahead")
