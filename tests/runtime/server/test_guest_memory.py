"""Memory of the guest: maps, DMA by descriptor and by message, DMA logging."""

from __future__ import annotations

import errno
import gc
import json
import os
import socket
import struct
import threading
import time

import pytest

from support import raw_client as raw
from support.edu_client import (
    BUFFER,
    dma,
    dma_done,
    until,
)
from support.open_descriptors import opened
from support.raw_client import GET, SET, Client, RefusedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.protocol import Limits


@pytest.mark.parametrize("shared", [True, False])
def test_dma_reaches_memory_by_descriptor_and_by_message(serve, shared) -> None:
    served = serve(Edu(dma_seconds=0))
    with served.client() as client:
        memory = os.memfd_create("guest")
        os.ftruncate(memory, 1 << 16)
        client.memory = bytearray(1 << 16)
        client.dma_map(0, 1 << 16, fd=memory if shared else None)
        what = os.urandom(4096)
        client.write(0, BUFFER, what)
        dma(client, BUFFER, 0x2000, 4096, from_device=True)
        until(lambda: dma_done(client))
        seen = os.pread(memory, 4096, 0x2000) if shared else bytes(client.memory[0x2000:0x3000])
        assert seen == what
        client.write(0, BUFFER, bytes(4096))
        dma(client, 0x2001, BUFFER + 3, 1001, from_device=False)
        until(lambda: dma_done(client))
        assert client.read(0, BUFFER + 3, 1001) == what[1 : 1 + 1001]
        assert bool(client.dma_commands) != shared
        os.close(memory)


def test_a_client_that_takes_little_at_a_time_gets_little(serve) -> None:
    served = serve(Edu(dma_seconds=0))
    with served.client(capabilities={"max_data_xfer_size": 1000}) as client:
        client.memory = bytearray(1 << 16)
        client.dma_map(0, 1 << 16)
        what = os.urandom(4096)
        for at in range(0, 4096, 1024):
            client.write(0, BUFFER + at, what[at : at + 1024])
        dma(client, BUFFER, 0, 4096, from_device=True)
        until(lambda: dma_done(client))
        assert client.memory[:4096] == what
        assert [count for _, _, count in client.dma_commands] == [1000, 1000, 1000, 1000, 96]


def test_commands_are_answered_while_memory_is_waited_for(serve) -> None:
    """QEMU replies to DMA only after its processor has got what it waits for."""
    served = serve(Edu(dma_seconds=0))
    with served.client() as client:
        client.memory = bytearray(b"guest" * 1000)
        client.dma_map(0, 4096)
        seen = []

        def during() -> None:
            seen.append(client.read(0, 0x00, 4))
            seen.append(client.state)
            client.write(0, 0x04, struct.pack("<I", 1))
            seen.append(client.read(7, 0, 2))

        client.during_dma = during
        dma(client, 0, BUFFER, 100, from_device=False)
        until(lambda: dma_done(client))
        assert seen == [b"\xed\x00\x00\x01", 2, b"\x34\x12"]
        assert client.read(0, BUFFER, 10) == b"guestguest"


def test_what_moves_the_device_waits_until_the_transfer_is_over(serve) -> None:
    served = serve(Edu(dma_seconds=0))
    with served.client() as client:
        client.memory = bytearray(b"guest" * 1000)
        client.dma_map(0, 4096)
        put_off = []

        def during() -> None:
            put_off.append(client.send(raw.FEATURE, struct.pack("=IIIi", 16, SET | 2, 1, -1)))
            put_off.append(client.send(raw.REGION_READ, struct.pack("=QII", BUFFER, 0, 5)))

        client.during_dma = during
        dma(client, 0, BUFFER, 100, from_device=False)
        until(lambda: dma_done(client))
        client.reply(put_off[0])
        # The transfer came first, as the client's commands did not.
        assert client.reply(put_off[1])[16:] == b"guest"
        assert client.state == 1


def test_a_client_that_waits_for_what_cannot_be_done_is_not_kept_waiting(serve) -> None:
    served = serve(Edu(dma_seconds=0), blocked_timeout_s=0.1, timeout_s=120.0)
    with served.client() as client:
        client.memory = bytearray(8192)
        client.dma_map(0, 4096)
        begun = []

        def during() -> None:
            begun.append(time.monotonic())
            client.reset()
            begun.append(time.monotonic())

        client.during_dma = during
        dma(client, 0, BUFFER, 100, from_device=False)
        until(lambda: dma_done(client))
        assert begun[1] - begun[0] < 60
        assert client.state == 2


def test_a_client_that_goes_away_in_the_middle_of_a_transfer(serve, caplog) -> None:
    caplog.set_level("INFO")
    served = serve(Edu(dma_seconds=0))
    client = served.client()
    client.dma_map(0, 4096)
    dma(client, 0, BUFFER, 100, from_device=False)
    assert client.message()[1] == raw.DMA_READ
    client.close()
    with served.client() as client:
        assert client.state == 2
        assert client.read(0, 0, 4) == b"\xed\x00\x00\x01"
        ended = [row for row in caplog.records if getattr(row, "event", None) == "disconnected"]
        assert [row.fields["why"] for row in ended] == ["the client closed its end"]


def test_a_device_whose_transfer_was_cut_off_is_closed_whole(serve) -> None:
    """No error that the server kept holds the buffer that was being written from."""
    gc.collect()
    gc.disable()  # which would find such an error some time
    try:
        served = serve(Edu(dma_seconds=0))
        [fd] = {memory.fd for memory in served.device._kit_owned}
        inode = os.fstat(fd).st_ino
        with served.client() as client:
            client.dma_map(0, 4096)
            dma(client, BUFFER, 0, 100, from_device=True)
            while client.message()[1] != raw.DMA_WRITE:
                pass
        until(lambda: served.server.client is None)
        served.stop()
        left = [int(one.split()[0]) for one in opened() if "bar0" in one]
        assert inode not in [os.fstat(one).st_ino for one in left]
    finally:
        gc.enable()


def test_work_under_way_waits_for_its_part_of_the_memory(serve) -> None:
    """A client that comes back maps its memory bit by bit."""
    served = serve(Edu(dma_seconds=0.05))
    with served.client() as client:
        client.dma_map(0, 1 << 20)
        client.write(0, BUFFER, b"late")
        dma(client, BUFFER, 0x8000, 4, from_device=True)
    with served.client() as client:
        client.memory = bytearray(1 << 16)
        client.dma_map(0, 0x8000)
        time.sleep(0.2)
        assert not dma_done(client)
        assert client.read(0, BUFFER, 4) == b"late"
        client.dma_map(0x8000, 0x8000)
        until(lambda: dma_done(client))
        assert client.memory[0x8000:0x8004] == b"late"
        assert not client.read(7, 6, 2)[1] & 0x20
        # What a driver starts by now finds memory, or nobody.
        dma(client, BUFFER, 1 << 20, 4, from_device=True)
        until(lambda: dma_done(client))
        assert client.read(7, 6, 2)[1] & 0x20


def test_the_twin_socket_carries_the_servers_commands(serve) -> None:
    served = serve(Edu(dma_seconds=0))
    reported = {**raw.CAPABILITIES, "twin_socket": {"supported": True}}
    with served.client(capabilities=reported) as client:
        assert client.agreed["twin_socket"] == {"supported": True, "fd_index": 0}
        [end] = client.fds
        twin = Client(sock=socket.socket(fileno=os.dup(end)), version=False)
        twin.memory = bytearray(b"twins" * 1000)

        def answer() -> None:
            ident, command, _, _, payload = twin.message()
            twin.answer(ident, command, payload)

        thread = threading.Thread(target=answer)
        thread.start()
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 100, from_device=False)
        until(lambda: dma_done(client))
        thread.join()
        assert client.read(0, BUFFER, 10) == b"twinstwins"
        assert not client.dma_commands
        twin.close()


def test_what_is_wrong_on_the_twin_socket_is_answered_there(serve) -> None:
    """On the other one the client would take it for the reply to a command of its own."""
    reported = {**raw.CAPABILITIES, "twin_socket": {"supported": True}}
    with (
        serve().client(capabilities=reported) as client,
        Client(sock=socket.socket(fileno=os.dup(client.fds[0])), version=False) as twin,
    ):
        for _ in range(3):
            with pytest.raises(RefusedError) as refused:
                twin.ask(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0))
            assert refused.value.errno == errno.EINVAL
        assert client.state == 2
        # Anybody who reads no replies there is served no more, until he does.
        count = 4096 * 20
        flood = threading.Thread(
            target=twin.sock.sendall, args=(raw.HEADER.pack(1, 4, 16, 0, 0) * count,)
        )
        flood.start()
        for _ in range(count):
            assert twin.message()[:4] == (1, 4, 0x21, errno.EINVAL)
        flood.join()
        assert client.state == 2


def test_a_client_that_wants_no_reply_gets_no_twin_socket(serve) -> None:
    reported = {**raw.CAPABILITIES, "twin_socket": {"supported": True}}
    with serve().client(version=False) as client:
        text = json.dumps({"capabilities": reported}).encode() + b"\0"
        client.send(raw.VERSION, bytes(4) + text, flags=0x10)
        assert client.state == 2
        time.sleep(0.05)
        assert client.state == 2, "it was not sent away for the twin socket it never had"


def test_written_pages_are_logged_and_reported(serve) -> None:
    served = serve(Edu(dma_seconds=0))
    with served.client() as client:
        client.memory = bytearray(1 << 16)
        client.dma_map(0, 1 << 16)
        ask = struct.pack("=QQQ", 0, 1 << 16, 4096)
        with pytest.raises(RefusedError):
            client.feature(GET | 8, ask)
        client.feature(SET | 6, struct.pack("=QIIQQ", 4096, 1, 0, 0, 1 << 16))
        with pytest.raises(RefusedError):
            client.feature(SET | 6, struct.pack("=QII", 4096, 0, 0))
        dma(client, BUFFER, 0x3000, 1, from_device=True)
        until(lambda: dma_done(client))
        assert client.feature(GET | 8, ask) == ask + struct.pack("=Q", 1 << 3)
        assert client.feature(GET | 8, ask) == ask + struct.pack("=Q", 0)
        client.feature(SET | 7)
        with pytest.raises(RefusedError):
            client.feature(GET | 8, ask)


def test_a_report_that_does_not_fit_is_not_lost(serve) -> None:
    """The client learns from argsz how much room it takes, and asks again."""
    served = serve(Edu(dma_seconds=0))
    with served.client() as client:
        client.memory = bytearray(1 << 16)
        client.dma_map(0, 1 << 16)
        client.feature(SET | 6, struct.pack("=QII", 4096, 0, 0))
        dma(client, BUFFER, 0x3000, 1, from_device=True)
        until(lambda: dma_done(client))
        ask = struct.pack("=QQQ", 0, 1 << 16, 4096)
        for room in (0, 24, 31):
            reply = client.ask(raw.FEATURE, struct.pack("=II", 8 + room, GET | 8) + ask)
            assert struct.unpack("=II", reply) == (8 + 32, GET | 8)
        assert client.feature(GET | 8, ask, room=32) == ask + struct.pack("=Q", 1 << 3)


@pytest.mark.parametrize("limit", [1 << 20, 4096])
def test_the_longest_report_is_sent_and_a_longer_one_refused(serve, caplog, limit) -> None:
    with serve(limits=Limits(max_data_xfer_size=limit)).client() as client:
        client.feature(SET | 6, struct.pack("=QII", 4096, 0, 0))
        most = (limit - 24) * 8 * 4096
        ask = struct.pack("=QQQ", 0, most, 4096)
        assert len(client.feature(GET | 8, ask, room=limit)) == limit
        with pytest.raises(RefusedError) as refused:
            client.feature(GET | 8, struct.pack("=QQQ", 0, most + 1, 4096), room=2 << 20)
        assert refused.value.errno == errno.E2BIG
    assert not [row for row in caplog.records if row.exc_info]


def test_no_more_is_asked_for_than_the_server_takes(serve) -> None:
    """Else its own limit would end the connection when the reply comes."""
    served = serve(Edu(dma_seconds=0), limits=Limits(max_data_xfer_size=1000))
    with served.client() as client:
        client.memory = bytearray(b"guest" * 1000)
        client.dma_map(0, 4096)
        dma(client, 0, BUFFER, 2500, from_device=False)
        until(lambda: dma_done(client))
        assert [count for _, _, count in client.dma_commands] == [1000, 1000, 500]
        assert client.read(0, BUFFER, 10) == b"guestguest"


def test_maps_that_make_no_sense_are_refused(serve) -> None:
    with serve().client() as client:
        client.dma_map(0, 8192)
        for expected, act in (
            (errno.EEXIST, lambda: client.dma_map(4096, 4096)),
            (errno.EINVAL, lambda: client.dma_map(1 << 20, 0)),
            (errno.EINVAL, lambda: client.dma_map((1 << 64) - 4096, 8192)),
            (errno.EINVAL, lambda: client.dma_map(1 << 20, 4096, flags=0)),
            (errno.EINVAL, lambda: client.dma_map(1 << 20, 4096, flags=7)),
            (errno.ENOENT, lambda: client.dma_unmap(0, 4096)),
            (errno.EINVAL, lambda: client.dma_unmap(0, 8192, 2)),
        ):
            with pytest.raises(RefusedError) as refused:
                act()
            assert refused.value.errno == expected
        client.dma_unmap(0, 0, 2)
        client.dma_map(0, 4096)
