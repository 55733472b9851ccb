"""A command that is sent again and again is answered anew each time and keeps nothing waiting."""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
import time

import pytest

from support import raw_client as raw
from support.edu_client import until
from support.raw_client import GET, PROBE, SET, RefusedError
from vfio_migration.runtime import ArcError
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.transport.channel import READ_TIMEOUT_S, Channel

STATE = struct.pack("=II", 16, GET | 2)


def move(value: int, fd: int = -1) -> bytes:
    return struct.pack("=IIIi", 16, SET | 2, value, fd)


def test_a_command_sent_again_gets_the_same_answer(serve) -> None:
    served = serve()
    with served.client() as client:
        for value in (1, 2):
            client.set_state(value)
            assert client.state == value
            assert client.feature(GET | 1, room=8) == struct.pack("=Q", 7)
        for _ in range(20):
            for value in (1, 2):
                client.set_state(value)
                assert client.state == value
                assert served.engine.situation.state == ("STOP" if value == 1 else "RUNNING")
            assert client.feature(GET | 1, room=8) == struct.pack("=Q", 7)


def test_a_state_that_somebody_else_asked_for_is_read_back(serve) -> None:
    served = serve()
    with served.client() as client:
        for state, value in (("STOP", 1), ("RUNNING", 2)) * 3:
            served.engine.set_state(state)
            assert client.state == value
            assert client.state == value


@pytest.mark.parametrize("warm", [0, 3])
def test_each_way_of_asking_has_its_own_answer(serve, warm) -> None:
    with serve().client() as client:
        for _ in range(warm):
            assert client.state == 2
        for argsz, size in ((8, 8), (15, 8), (16, 16), (17, 16), (4096, 16)) * 3:
            reply = client.ask(raw.FEATURE, struct.pack("=II", argsz, GET | 2))
            assert len(reply) == size
            assert struct.unpack_from("=II", reply) == (16, GET | 2)
        for body in (
            struct.pack("=II", 7, GET | 2),
            struct.pack("=II", 16, GET | SET | 2),
            struct.pack("=II", 16, GET | 77),
            struct.pack("=II", 16, GET | 2 | 1 << 19),
            struct.pack("=I", 16),
        ) * 2:
            with pytest.raises(RefusedError):
                client.ask(raw.FEATURE, body)
        for _ in range(3):
            assert client.ask(raw.FEATURE, STATE + b"more")[8:] == struct.pack("=Ii", 2, -1)
            assert len(client.ask(raw.FEATURE, struct.pack("=II", 8, PROBE | GET | 2))) == 8
            for fd in (-1, 7):  # `data_fd` is not looked at, and is repeated
                assert client.ask(raw.FEATURE, move(2, fd)) == move(2, fd)


def test_what_the_table_refuses_is_refused_again(serve) -> None:
    served = serve()
    with served.client() as client:
        client.set_state(6)
        client.set_state(3)
        for _ in range(3):
            with pytest.raises(RefusedError) as refused:
                client.set_state(6)  # was accepted before, but not from here
            assert refused.value.errno == errno.EINVAL
            assert client.state == 3
        client.set_state(2)
        client.set_state(6)
    assert served.server.counters.snapshot()["errors"] == {"EINVAL": 3}


def test_a_device_that_fails_is_answered_for(serve, caplog) -> None:
    class Fragile(Edu):
        fault: Exception | None = None

        def stop(self) -> None:
            if self.fault is not None:
                raise self.fault

    with serve(device := Fragile()).client() as client:
        for _ in range(2):
            client.set_state(1)
            client.set_state(2)
        for fault, number, state in (
            (ArcError("busy", errno="EBUSY", for_good=False), errno.EBUSY, 5),
            (LookupError("a mistake"), errno.EIO, 0),
        ):
            device.fault = fault
            with pytest.raises(RefusedError) as refused:
                client.set_state(1)
            assert refused.value.errno == number
            assert client.state == state
        device.fault = None
        client.reset()
        client.set_state(1)
        assert client.state == 1
    assert "a mistake" in [
        row.fields.get("why") for row in caplog.records if hasattr(row, "fields")
    ]


def test_a_command_without_a_reply_and_one_with_a_descriptor_are_served_as_any(serve) -> None:
    with serve().client() as client:
        for _ in range(3):
            assert client.state == 2
        for _ in range(3):
            client.send(raw.FEATURE, STATE, flags=0x10)
            wanted = client.send(raw.FEATURE, STATE)
            assert client.message()[0] == wanted
        read, write = os.pipe()
        for _ in range(3):
            reply = client.ask(raw.FEATURE, STATE, fds=[read])
            assert reply == client.ask(raw.FEATURE, STATE)
        os.close(read)

        def nobody_reads() -> bool:
            try:
                os.write(write, b"x")
            except BrokenPipeError:
                return True
            return False

        until(nobody_reads)  # the server closes what it was sent, behind the reply
        os.close(write)


def test_many_at_once_and_pieces_of_one(serve) -> None:
    with serve().client() as client:
        for value in (1, 2, 1, 2):
            client.set_state(value)
        many = [client.send(raw.FEATURE, move(1 + at % 2)) for at in range(40)]
        many.append(client.send(raw.FEATURE, STATE))
        assert [client.message()[0] for _ in many] == many
        message = raw.HEADER.pack(9, raw.FEATURE, 24, 0, 0) + STATE
        for cut in range(1, len(message)):
            client.sock.sendall(message[:cut])
            time.sleep(0.0005)
            client.sock.sendall(message[cut:])
            assert client.message()[:2] == (9, raw.FEATURE)
        # What does not fit what is read at once, behind something that does.
        data = os.urandom(3000)
        for _ in range(3):
            client.write(0, 0x40000, data)
            assert client.read(0, 0x40000, 3000) == data
            assert client.state == 2


@pytest.mark.parametrize("size", [1, 1000, 4096, 1 << 20])
def test_a_stream_is_read_to_its_end_and_no_further(serve, size) -> None:
    served = serve(MemoryDevice(size=1 << 16))
    served.device.block("bar2").write(0, os.urandom(1 << 16))
    streams = []
    with served.client() as client:
        for _ in range(2):
            client.set_state(3)
            stream, sizes = b"", []
            while not sizes or sizes[-1] == size:
                stream += client.mig_read(size)
                sizes.append(len(stream) - sum(sizes))
                if size == 1 and len(sizes) == 2000:
                    break
            streams.append(stream)
            if size > 1:
                assert client.mig_read(size) == b""
            client.set_state(2)
            for _ in range(2):
                with pytest.raises(RefusedError) as refused:
                    client.mig_read(size)
                assert refused.value.errno == errno.EINVAL
        if size > 1:
            client.set_state(4)
            client.mig_write(streams[1])
            client.set_state(1)
    assert streams[0] == streams[1]


def test_each_command_is_counted(serve) -> None:
    served = serve()
    with served.client() as client:
        counters = served.server.counters
        until(lambda: counters.bytes_out)  # VERSION
        came, went = counters.bytes_in, counters.bytes_out
        for value in range(100):
            client.set_state(1 + value % 2)
            assert client.state == 1 + value % 2
        assert counters.bytes_in - came == 100 * (32 + 24)
        until(lambda: counters.bytes_out - went == 100 * (32 + 32))
    times = counters.snapshot()["commands"]["DEVICE_FEATURE"]
    assert times["count"] == 200
    assert 0 < times["mean_us"] <= times["max_us"] < 10_000_000


# --- a client that keeps sending keeps nothing else waiting ---


@pytest.mark.parametrize("pause", [None, 0, 0.001, 0.05])
def test_the_server_ends_while_a_client_asks(serve, pause) -> None:
    """Whether it asks all the time, now and then, or has just asked for the last time."""
    served = serve()
    ended = threading.Event()

    def ask() -> None:
        with served.client() as client:
            try:
                while not ended.is_set():
                    assert client.state == 2
                    if pause is None:
                        ended.wait()
                    time.sleep(pause or 0)
            except (EOFError, OSError):
                pass

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: served.server.counters.snapshot()["commands"].get("DEVICE_FEATURE"))
    served.server.stop()
    until(lambda: not served.path.exists())
    ended.set()
    thread.join(60)
    assert not thread.is_alive()


def test_the_counters_are_logged_while_a_client_asks(serve, caplog) -> None:
    caplog.set_level(logging.INFO)
    served = serve()
    with served.client() as client:
        served.server.log_counters()
        deadline = time.monotonic() + 60
        while "counters" not in caplog.text:
            assert client.state == 2
            assert time.monotonic() < deadline


def test_what_is_due_is_done_while_a_client_asks(serve) -> None:
    """By the device itself, and after a command that has just begun it."""
    served = serve(MemoryDevice(size=1 << 16))
    with served.client() as client:
        for value in (1, 2, 1, 2):
            client.set_state(value)
        client.write(0, 0x08, struct.pack("<Q", 1 << 24))
        client.set_state(1)
        client.set_state(2)
        begun = served.device.changes
        deadline = time.monotonic() + 60
        while served.device.changes < begun + 100:
            assert client.state == 2
            assert time.monotonic() < deadline


def test_a_read_that_waited_in_vain_is_the_last_until_the_next_command(serve, monkeypatch) -> None:
    """One read waits for its whole time, then the server sleeps until it is woken."""
    reads: list[float] = []
    read = Channel.read

    def watched(self, *, wait=False, **options):
        begun = time.monotonic()
        try:
            return read(self, wait=wait, **options)
        finally:
            if wait:
                reads.append(time.monotonic() - begun)

    monkeypatch.setattr(Channel, "read", watched)
    with serve().client() as client:
        for _ in range(3):
            assert client.state == 2

        def no_more_reads() -> bool:
            count = len(reads)
            time.sleep(0.3)
            return len(reads) == count

        until(no_more_reads)
        assert reads[-1] >= READ_TIMEOUT_S
        assert client.state == 2


def test_a_device_that_a_repeated_command_starts_does_what_is_due(serve) -> None:
    """Nothing more comes from the client, and the device has something to do by itself."""
    device = MemoryDevice(size=1 << 16, rate=1 << 26)
    with serve(device).client() as client:
        for _ in range(4):
            client.set_state(1)
            before = device.changes
            client.set_state(2)
            until(lambda before=before: device.changes > before)
        client.set_state(1)
