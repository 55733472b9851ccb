"""Hostile clients: how they send what `hostile_messages` makes up, and how they read or do not."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import descriptor_changes
from descriptor_catalogue import Use
from hostile_messages import MIB, Hostile, Outgoing

from support import raw_client as raw
from support.raw_client import HEADER

ROOM: Final = 1 << 16
TIMEOUT_S: Final = 30.0


class StuckError(Exception):
    """The server neither reads nor hangs up, though its replies are read."""


class Attacker:
    """One hostile connection.

    Args:
        path: The socket of the server.
        hostile: What it answers to commands of the server; None: nothing, ever.
        deaf: It reads nothing at all.
    """

    def __init__(self, path: Path, hostile: Hostile | None, *, deaf: bool = False) -> None:
        self.messages = 0
        self.answers = 0
        self.ended = False
        self._hostile, self._deaf = hostile, deaf
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(TIMEOUT_S)
        try:
            self._sock.connect(str(path))
        except OSError:
            self._sock.close()
            raise
        self._sock.setblocking(False)
        self._twin: socket.socket | None = None
        self._received: dict[socket.socket, bytearray] = {self._sock: bytearray()}

    def send(self, messages: Iterable[Outgoing], *, cut: int = ROOM) -> bool:
        """Send, `cut` bytes at a time; False once that is of no use any more."""
        pieces: list[tuple[bytes, tuple[int, ...]]] = []
        gathered = bytearray()
        for one in messages:
            self.messages += 1
            if one.fds:
                pieces += [(bytes(gathered), ()), (one.data, one.fds)]
                gathered = bytearray()
            else:
                gathered += one.data
        pieces.append((bytes(gathered), ()))
        for data, fds in pieces:
            for at in range(0, len(data), cut):
                if not self._send(data[at : at + cut], fds if at == 0 else ()):
                    return False
        self._listen()
        return not self.ended

    def receive_for(self, seconds: float) -> None:
        """Answer what the server asks for meanwhile."""
        until = time.monotonic() + seconds
        while not self.ended and (left := until - time.monotonic()) > 0:
            select.select([*self._received], [], [], left)
            self._listen()

    def finish(self) -> None:
        """Send nothing more and read to the end: the server has read all of it then."""
        if not self.ended:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.ended = True
        until = time.monotonic() + TIMEOUT_S
        while not self.ended:
            select.select([*self._received], [], [], 0.5)
            self._listen()
            if time.monotonic() > until:
                raise StuckError("the server does not hang up")
        self.hang_up()

    def hang_up(self) -> None:
        """Go away without a word."""
        self._sock.close()
        if self._twin is not None:
            self._twin.close()
        self.ended = True

    # --- inside ---

    def _send(self, data: bytes, fds: tuple[int, ...]) -> bool:
        until = time.monotonic() + (0.02 if self._deaf else TIMEOUT_S)
        while data and not self.ended:
            self._listen()
            try:
                sent = _give(self._sock, data, fds)
            except BlockingIOError:
                if time.monotonic() > until:
                    if self._deaf:
                        return False  # as it should be
                    raise StuckError("the server reads no more") from None
                reading = [] if self._deaf else [self._sock]
                select.select(reading, [self._sock], [], 0.02)
                continue
            except OSError:
                self.ended = True
                break
            data, fds = data[sent:], ()
        return not self.ended

    def _listen(self) -> None:
        if self._deaf or self.ended:
            return
        for sock in list(self._received):
            try:
                data, fds, _, _ = socket.recv_fds(sock, 1 << 18, 4, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                data, fds = b"", []
            if not data:
                self.ended = self.ended or sock is self._sock
                if sock is self._twin:
                    del self._received[sock]
                continue
            received = self._received[sock]
            received += data
            self._keep(fds)
            self._answer(sock, received)

    def _keep(self, fds: list[int]) -> None:
        for fd in fds:
            if self._twin is None and "socket:" in os.readlink(f"/proc/self/fd/{fd}"):  # noqa: PTH115
                self._twin = socket.socket(fileno=fd)
                self._twin.setblocking(False)
                self._received[self._twin] = bytearray()
            else:
                _change_region(fd)
                os.close(fd)

    def _answer(self, sock: socket.socket, received: bytearray) -> None:
        """Go through the messages of the server; answer its commands."""
        at = 0
        while len(received) - at >= HEADER.size:
            ident, command, size, flags, _ = HEADER.unpack_from(received, at)
            assert size >= HEADER.size, "the server sent garbage"
            if len(received) - at < size:
                break
            payload = bytes(received[at + HEADER.size : at + size])
            at += size
            if flags & 0xF == 0:
                assert command in (raw.DMA_READ, raw.DMA_WRITE)
                assert struct.unpack_from("=QQ", payload)[1] <= MIB
                if self._hostile is not None:
                    self.answers += 1
                    answer = self._hostile.answer(ident, command, payload)
                    self._out(sock, answer)
        del received[:at]

    def _out(self, sock: socket.socket, reported: Outgoing) -> None:
        """Send an answer if there is room; otherwise the server does not get it."""
        try:
            sent = _give(sock, reported.data, reported.fds)
        except BlockingIOError:
            return
        except OSError:
            self.ended = self.ended or sock is self._sock
            return
        if sent < len(reported.data):
            self.ended = True  # half an answer: nothing said after it would mean anything


def _change_region(fd: int) -> None:
    """Change all that can be changed about a descriptor that the server handed out."""
    for name in (
        "append",
        "nonblocking",
        "direct",
        "seek",
        "lock",
        "seal",
        "punch",
        "cut_for_good",
    ):
        descriptor_changes.attempt(name, fd)


def _give(sock: socket.socket, data: bytes, fds: tuple[int, ...]) -> int:
    # Without descriptors the short call: socket.send_fds takes three times as long.
    return socket.send_fds(sock, [data], fds) if fds else sock.send(data)


def attack(path: Path, hostile: Hostile) -> Attacker:
    """One hostile client from beginning to end; return it."""
    chance = hostile.chance
    manner = chance.choices(
        (
            *("reads to the end", "hangs up", "deaf", "cuts small", "answers nothing", "loads"),
            *("transfers", "memory", "interrupts"),
        ),
        (46, 8, 4, 4, 6, 12, 8, 16, 6),
    )[0]
    answering = manner != "answers nothing"
    client = Attacker(path, hostile if answering else None, deaf=manner == "deaf")
    try:
        _speak(client, hostile, manner)
    except BaseException:
        client.hang_up()
        raise
    if manner in ("hangs up", "deaf", "answers nothing"):
        client.hang_up()
    else:
        client.finish()
    hostile.maker.rest()
    return client


def _speak(client: Attacker, hostile: Hostile, manner: str) -> None:
    chance = hostile.chance
    if chance.random() < 0.95 and not client.send([hostile.version(honest=chance.random() < 0.95)]):
        return
    if manner == "deaf":
        for _ in range(400):
            if not client.send([hostile.greedy()]):
                return
        return
    if manner == "loads":
        for _ in range(3):
            if not client.send(hostile.migration()):
                return
        return
    if manner in ("memory", "interrupts"):
        use = Use.EVENT if manner == "interrupts" else Use.MEMORY
        name = chance.choice(hostile.maker.of(use))
        hostile.maker.change(hostile.change(name), name)
        make = hostile.interrupts if manner == "interrupts" else hostile.memory
        for _ in range(6):
            if not client.send(make(name)):
                return
        return
    if chance.random() < 0.3:
        name = chance.choice([*hostile.maker.fds])
        hostile.maker.change(hostile.change(name), name)
    if manner in ("transfers", "answers nothing"):
        for _ in range(6):
            if not client.send(hostile.transfer()):
                return
            client.receive_for(0.004)
            if not client.send([hostile.message() for _ in range(chance.choice((0, 3, 30)))]):
                return
        return
    cut = chance.choice((1, 3, 7, 15, 100)) if manner == "cuts small" else ROOM
    most = hostile.longest
    count = 20 if manner == "cuts small" else chance.choice((1, 10, most // 6, most // 2, most))
    while count > 0:
        batch = [hostile.message() for _ in range(min(count, chance.choice((1, 8, 64, 256))))]
        count -= len(batch)
        if not client.send(batch, cut=cut):
            return
    if chance.random() < 0.3:
        client.send([chance.choice((hostile.half, hostile.fatal))()])
