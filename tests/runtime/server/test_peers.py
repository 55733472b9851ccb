"""Peers that are not honest, a device that has a mistake, and what QEMU states."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from pathlib import Path

import pytest

from support import raw_client as raw
from support.edu_client import (
    eventfd,
    rss,
)
from support.raw_client import HEADER, RefusedError
from support.samples import sample
from vfio_migration.runtime.kit.devices import Edu

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 1000,
        HEADER.pack(1, 16, 15, 0, 0),
        HEADER.pack(1, 16, 0xFFFFFFFF, 0, 0),
        HEADER.pack(1, 99, 16, 0, 0),
        HEADER.pack(1, 16, 16, 7, 0),
        HEADER.pack(1, 16, 16, 1, 0),
        HEADER.pack(1, 1, 20, 0, 0) + struct.pack("=HH", 7, 0),
        HEADER.pack(1, 1, 22, 0, 0) + struct.pack("=HH", 0, 0) + b"{{",
        HEADER.pack(1, 16, 4000, 0, 0) + b"too little",
    ],
)
@pytest.mark.parametrize("greeted", [True, False])
def test_garbage_ends_nothing_but_its_own_connection(serve, garbage, greeted) -> None:
    served = serve()
    with served.client(version=greeted) as client:
        client.sock.sendall(garbage)
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(65536):
            pass
    with served.client() as client:
        assert client.state == 2


@pytest.mark.parametrize("clients", sample([30, 150], 2))
def test_random_messages_end_nothing(serve, clients: int) -> None:
    import random

    chance = random.Random(20261122)
    served = serve()
    for _ in range(clients):
        with served.client() as client:
            for _ in range(60):
                size = chance.choice([0, 4, 8, 16, 20, 24, 32, 40, chance.randrange(200)])
                body = chance.randbytes(size) if chance.random() < 0.5 else bytes(size)
                fds = [client.sock.fileno()] * chance.choice([0, 0, 0, 1, 2, 16, 17])
                flags = chance.choice([0, 0, 0, 0x10, 1, 0x21, chance.randrange(1 << 32)])
                try:
                    client.send(chance.randrange(20), body, fds=fds, flags=flags)
                except (BrokenPipeError, ConnectionResetError):
                    break
    with served.client() as client:
        client.reset()
        assert client.state == 2


def test_a_client_that_reads_nothing_costs_no_more_than_its_replies(serve) -> None:
    served = serve()
    with served.client() as client:
        body = struct.pack("=QII", 0, 0, 1 << 20)
        before = rss()
        client.sock.settimeout(0.3)

        def send_on() -> None:
            for _ in range(100_000):
                client.send(raw.REGION_READ, body)

        with pytest.raises(TimeoutError):
            send_on()
        assert rss() - before < 64 << 20
    with served.client() as client:
        assert client.state == 2


def test_a_device_with_a_mistake_is_answered_for(serve, caplog) -> None:
    class Mistaken(Edu):
        def bar_read(self, bar: int, offset: int, size: int) -> int:
            raise LookupError("a mistake")

    with serve(Mistaken()).client() as client:
        with pytest.raises(RefusedError) as refused:
            client.read(0, 0, 4)
        assert refused.value.errno == errno.EREMOTEIO
        assert client.state == 2
    assert "a mistake" in [
        row.fields.get("why") for row in caplog.records if hasattr(row, "fields")
    ]


def test_the_messages_of_qemu_while_it_starts_up_are_answered(serve) -> None:
    """The client's half of tests/data/qemu-11-realize.jsonl."""
    served = serve()
    text = (DATA / "qemu-11-realize.jsonl").read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    ours = [line for line in lines if line["from"] == "client"]
    memory = os.memfd_create("guest")
    os.ftruncate(memory, 64 << 20)
    served_replies = 0
    with served.client(version=False) as client:
        for line in ours:
            message = bytes.fromhex(line["message"])
            ident, command, size, flags, _ = HEADER.unpack_from(message)
            if flags & 0xF == 1:
                continue
            fds = [
                memory if command == raw.DMA_MAP else eventfd() for _ in range(line["descriptors"])
            ]
            rights = socket.SCM_RIGHTS
            packed = struct.pack(f"={len(fds)}i", *fds)
            ancillary = [(socket.SOL_SOCKET, rights, packed)] if fds else []
            assert client.sock.sendmsg([message], ancillary) == size
            for fd in fds:
                if fd != memory:
                    os.close(fd)
            if flags & 0x10:
                continue
            payload = client.reply(ident)
            served_replies += 1
            if command == raw.REGION_READ:
                assert len(payload) == len(message) - 16 + struct.unpack_from("=I", message, 28)[0]
            else:
                assert len(payload) <= len(message) - 16, line["what"]
            assert len(client.fds) <= 1
            client.close_fds()
    assert served_replies > 30
    os.close(memory)
