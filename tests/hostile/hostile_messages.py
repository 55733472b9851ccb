"""What hostile clients say: messages that are right, nearly right, and not right at all.

Everything comes from one `random.Random`: the same seed gives the same messages, descriptors and
cuts. Nothing of ours is used to make them, so that a mistake of ours is not made twice.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from descriptor_catalogue import Use
from descriptor_changes import FOR
from descriptor_maker import ROWS, DescriptorMaker

from support import raw_client as raw
from support.raw_client import GET, HEADER, PROBE, SET

_One = TypeVar("_One")
MIB = 1 << 20
COMMANDS = (*range(1, 14), 15, 16, 17, 18, 19)
FEATURES = (1, 2, 6, 7, 8, 9, 12)
EDGES = (
    *(0, 1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 40, 255, 256, 4095, 4096, 4097, 65535, 65536),
    *(MIB - 1, MIB, MIB + 1, MIB + 16, MIB + 32, MIB + 33, 1 << 28, 1 << 31, (1 << 32) - 1),
)
WIDE_EDGES = (*EDGES, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1)
STATES = range(8)
SHORT = 600
"""So many messages a client sends at most without anything special, in a test of some thousands."""
# Registers of edu and of memory, and what an edu is reported to do by them.
REGISTERS = (0x00, 0x04, 0x08, 0x10, 0x18, 0x20, 0x24, 0x60, 0x64, 0x80, 0x88, 0x90, 0x98, 0x40000)


class Chance(random.Random):
    """A source of chance whose choices take a quarter of the time, and are as even as makes sense.

    Most of what a test process does is to choose; the bias is less than one in 2**20.
    """

    def choice(self, among: Sequence[_One]) -> _One:
        """Return one of them."""
        return among[int(self.random() * len(among))]

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Return a number from 0 or `start` on that is below the last argument."""
        assert step == 1, "nobody needs steps"
        low, high = (0, start) if stop is None else (start, stop)
        return low + int(self.random() * (high - low))


class Outgoing(NamedTuple):
    """Bytes to be sent, and the descriptors that go with the first of them."""

    data: bytes
    fds: tuple[int, ...] = ()
    fatal: bool = False


class Hostile:
    """A source of messages.

    Args:
        chance: Where everything comes from.
        maker: Where descriptors to be sent along are made.
        stream: An honest migration stream, to be spoiled.
        longest: How many messages a client sends at most, unless it has something special to do.
    """

    def __init__(
        self, chance: Chance, maker: DescriptorMaker, stream: bytes, *, longest: int = SHORT
    ) -> None:
        self.chance = chance
        self.longest = longest
        self.maker = maker
        self.stream = stream
        self._at = 0  # how much of the stream was written
        self._ident = 0
        self._kinds: list[Callable[[], tuple[int, bytes, tuple[int, ...]]]] = [
            *[self._feature] * 6,
            *[self._mig_read, self._mig_write] * 2,
            *[self._region_read, self._region_write, self._write_multi, self._registers],
            *[self._dma_map, self._dma_map, self._dma_unmap, self._set_irqs, self._set_irqs],
            *[self._ask, self._reset, self._wrong_way],
        ]

    # --- messages ---

    def version(self, *, honest: bool | None = None) -> Outgoing:
        """A VERSION; an honest one is always taken."""
        chance = self.chance
        reported = {
            "max_msg_fds": chance.choice((0, 1, 8, 16)),
            "max_data_xfer_size": chance.choice((0, 1, 1000, MIB, 1 << 40)),
            "max_dma_maps": chance.choice((0, 3, 65535)),
            "write_multiple": True,
            "precopy_info": chance.random() < 0.5,
            "twin_socket": {"supported": chance.random() < 0.3},
        }
        text = json.dumps({"capabilities": reported}).encode() + b"\0"
        if honest is False or (honest is None and chance.random() < 0.1):
            text = self._bomb()
        body = struct.pack("=HH", 0, chance.choice((0, 0, 7))) + text
        return Outgoing(self._head(raw.VERSION, body))

    def message(self) -> Outgoing:
        """Anything: right, or spoiled in one way."""
        chance = self.chance
        number, body, fds = chance.choice(self._kinds)()
        how = chance.random()
        if how < 0.55:
            return Outgoing(self._head(number, body, chance.choice((0, 0, 0, 0x10))), fds)
        if how < 0.57:
            return self.version()
        if how < 0.60:
            return Outgoing(
                self._head(chance.choice(COMMANDS), body, chance.choice((1, 0x21))), fds
            )
        if how < 0.62:
            return Outgoing(self._head(chance.randrange(1 << 16), body, self._number(32)), fds)
        if how < 0.70:
            body = body[: chance.randrange(len(body) + 1)]
        elif how < 0.78:
            body += chance.randbytes(chance.choice((1, 4, 8, 16, 40, 300)))
        elif how < 0.90:
            body = self._spoiled(body)
        elif how < 0.94:
            fds = self._some(chance.choice((1, 1, 1, 2, 2, 2, 15, 16)))
        elif how < 0.97:
            # A reply to a command the server may be waiting with, or to none.
            return Outgoing(self._reply(chance.randrange(20), chance.choice((11, 12)), body), fds)
        elif how < 1 - 1 / self.longest:
            body = struct.pack("=QQ", 0, 0) + chance.randbytes(chance.randrange(64))
            number = chance.choice(COMMANDS)
        else:
            return self.fatal(number, body)
        return Outgoing(self._head(number, body), fds)

    def fatal(self, number: int = raw.FEATURE, body: bytes = b"") -> Outgoing:
        """A message after which nothing can be read any more."""
        chance = self.chance
        if chance.random() < 0.2:
            return Outgoing(self._head(number, body), self._some(17), fatal=True)
        sizes = (0, 1, 15, MIB + 33, MIB + 4096, 1 << 31, (1 << 32) - 1)
        head = HEADER.pack(self._next(), number, chance.choice(sizes), 0, 0)
        return Outgoing(head + body, fatal=True)

    def migration(self) -> list[Outgoing]:
        """The device made to take in the honest stream: whole, or spoiled in one place."""
        chance, stream = self.chance, self.stream
        if chance.random() < 0.7:
            at = chance.randrange(len(stream))
            stream = stream[:at] + self._spoiled(stream[at : at + 64]) + stream[at + 64 :]
        if chance.random() < 0.2:
            stream = stream[: chance.randrange(len(stream))]
        step = chance.choice((100, 1000, 4096, 65536))
        ends = [chance.choice((1, 2, 2)), chance.choice(STATES)]
        return [
            *map(self._state, (1, 4)),
            *(
                Outgoing(
                    self._head(
                        raw.MIG_WRITE, struct.pack("=II", 8 + len(piece), len(piece)) + piece
                    )
                )
                for piece in (stream[at : at + step] for at in range(0, len(stream), step))
            ),
            *map(self._state, ends),
        ]

    def _write(self, piece: bytes) -> Outgoing:
        size = struct.pack("=II", 8 + len(piece), len(piece))
        return Outgoing(self._head(raw.MIG_WRITE, size + piece))

    def transfer(self) -> list[Outgoing]:
        """An edu made to reach for memory that only messages lead to."""
        reported = [Outgoing(self._head(raw.RESET, b""))]
        for address, size in ((0, 0x10000), (0x10000, 1 << 27)):
            body = struct.pack("=IIQQQ", 32, 3, 0, address, size)
            reported.append(Outgoing(self._head(raw.DMA_MAP, body)))
        if self.chance.random() < 0.3:
            body = struct.pack("=IIQII", 4096, SET | 6, 4096, 0, 0)
            reported.append(Outgoing(self._head(raw.FEATURE, body)))
        number, body, _ = self._registers(sane=self.chance.random() < 0.8)
        reported.append(Outgoing(self._head(number, body)))
        return reported

    def memory(self, name: str) -> list[Outgoing]:
        """An edu made to use what is called memory of the guest, over and over."""
        chance, fd = self.chance, self.maker.fds[name]
        reported = [Outgoing(self._head(raw.RESET, b""))]
        for flags in chance.sample((3, 3, 7, 11), k=2):
            for size in (0x10000, 0x1000):
                offset = chance.choice((0, 0, 0x1000, 0xF000, 1 << 21, 1 << 41))
                body = struct.pack("=IIQQQ", 32, flags, offset, 0, size)
                reported.append(Outgoing(self._head(raw.DMA_MAP, body), (fd,)))
            for _ in range(6):
                number, body, _ = self._registers(sane=True)
                reported.append(Outgoing(self._head(number, body)))
                reported.append(Outgoing(self._head(*self._region_read()[:2])))
            if chance.random() < 0.5:
                body = struct.pack("=IIQQ", 24, 2, 0, 0)
                reported.append(Outgoing(self._head(raw.DMA_UNMAP, body)))
        return reported

    def interrupts(self, name: str) -> list[Outgoing]:
        """A device made to signal a descriptor, over and over."""
        fd = self.maker.fds[name]
        index = self.chance.choice((0, 0, 1, 2))
        trigger = struct.pack("=IIIII", 20, 0x21, index, 0, 1)
        return [
            Outgoing(self._head(raw.SET_IRQS, struct.pack("=IIIII", 20, 0x24, index, 0, 1)), (fd,)),
            Outgoing(self._head(raw.SET_IRQS, struct.pack("=IIIII", 20, 0x14, 0, 0, 1)), (fd,)),
            *(Outgoing(self._head(raw.SET_IRQS, trigger)) for _ in range(200)),
        ]

    def change(self, name: str) -> str:
        """Return what is done to a descriptor while the server has it."""
        return self.chance.choice(FOR[ROWS[name].use])

    def _state(self, value: int) -> Outgoing:
        return Outgoing(self._head(raw.FEATURE, struct.pack("=IIIi", 16, SET | 2, value, -1)))

    def half(self) -> Outgoing:
        """A message that is never finished."""
        number = self.chance.choice(COMMANDS)
        size = self.chance.choice((17, 48, 4096, MIB))
        whole = HEADER.pack(self._next(), number, size, 0, 0) + bytes(min(size, 70000) - 16)
        return Outgoing(whole[: self.chance.randrange(1, len(whole))], self._some(1))

    def greedy(self) -> Outgoing:
        """A command with a reply of up to 1 MiB."""
        if self.chance.random() < 0.5:
            body = struct.pack("=II", MIB + 8, MIB)
            return Outgoing(self._head(raw.MIG_READ, body))
        offset = self.chance.choice((0, 0x40000))
        size = MIB if self.chance.random() < 0.02 else 4096
        return Outgoing(self._head(raw.REGION_READ, struct.pack("=QII", offset, 0, size)))

    def answer(self, ident: int, command: int, payload: bytes) -> Outgoing:
        """A reply to DMA_READ or DMA_WRITE of the server: right, wrong, or an error."""
        chance = self.chance
        address, count = struct.unpack_from("=QQ", payload)
        body = struct.pack("=QQ", address, count)
        if command == raw.DMA_READ:
            body += bytes(count)
        how = chance.random()
        if how < 0.3:
            return Outgoing(HEADER.pack(ident, command, 16 + len(body), 1, 0) + body)
        if how < 0.5:
            return Outgoing(self._reply(ident, command, body[: chance.randrange(len(body) + 1)]))
        if how < 0.6:
            return Outgoing(self._reply(ident, command, body + chance.randbytes(9)), self._some(1))
        if how < 0.7:
            return Outgoing(HEADER.pack(ident, command, 16, 0x21, self._number(32)))
        if how < 0.8:
            return Outgoing(self._reply(ident, chance.choice(COMMANDS), body))
        if how < 0.9:
            return Outgoing(self._reply(ident + 1 & 0xFFFF, command, body))
        return Outgoing(self._reply(ident, command, struct.pack("=QQ", self._number(64), 1 << 40)))

    # --- the commands ---

    def _feature(self) -> tuple[int, bytes, tuple[int, ...]]:
        chance = self.chance
        if chance.random() < 0.35:
            body = struct.pack("=IIIi", 16, SET | 2, chance.choice(STATES), -1)
            return raw.FEATURE, body, ()
        index = chance.choice(FEATURES) if chance.random() < 0.9 else self._number(16)
        flags = index & 0xFFFF
        flags |= chance.choice((GET, SET, SET, PROBE | GET, PROBE | SET, 0, GET | SET))
        if chance.random() < 0.1:
            flags |= chance.choice((GET | SET | PROBE, 1 << 19, 1 << 31))
        data = b""
        if index == 6:
            ranges = [
                (self._number(64), self._number(64)) for _ in range(chance.choice((0, 1, 2, 256)))
            ]
            count = len(ranges) if chance.random() < 0.8 else self._number(32)
            data = struct.pack("=QII", self._page_size(), count, 0)
            data += b"".join(struct.pack("=QQ", *one) for one in ranges)
        elif index == 8:
            data = struct.pack("=QQQ", self._number(64), self._number(64), self._page_size())
        elif index == 2:
            data = struct.pack("=Ii", self._number(32), -1)
        room = chance.choice((8, 8 + len(data), 4096, MIB + 32, (1 << 32) - 1, self._number(32)))
        return raw.FEATURE, struct.pack("=II", room, flags) + data, ()

    def _mig_read(self) -> tuple[int, bytes, tuple[int, ...]]:
        size = self.chance.choice((0, 1, 16, 4096, 4096, self._number(32)))
        argsz = 8 + size if self.chance.random() < 0.9 else self._number(32)
        return raw.MIG_READ, struct.pack("=II", argsz & 0xFFFFFFFF, size), ()

    def _mig_write(self) -> tuple[int, bytes, tuple[int, ...]]:
        """The next piece of the honest stream, whole or spoiled."""
        chance = self.chance
        if chance.random() < 0.1:
            self._at = 0
        size = chance.choice((0, 1, 8, 24, 500, 5000, 20000))
        piece = self.stream[self._at : self._at + size]
        self._at = (self._at + size) % (len(self.stream) + 1)
        if chance.random() < 0.3:
            piece = self._spoiled(piece)
        return raw.MIG_WRITE, struct.pack("=II", 8 + len(piece), len(piece)) + piece, ()

    def _region(self) -> tuple[int, int, int]:
        chance = self.chance
        region = chance.choice((0, 0, 0, 2, 6, 7, 7, 8, 9, self._number(32)))
        offset = chance.choice((*REGISTERS, 0, 0x3FFFC, self._number(64)))
        return offset, region, chance.choice((1, 2, 4, 4, 8, 64, 300))

    def _region_read(self) -> tuple[int, bytes, tuple[int, ...]]:
        offset, region, size = self._region()
        if self.chance.random() < 0.2:
            size = self.chance.choice((0, 4096, MIB + 1, self._number(32)))
        return raw.REGION_READ, struct.pack("=QII", offset, region, size), ()

    def _region_write(self) -> tuple[int, bytes, tuple[int, ...]]:
        offset, region, size = self._region()
        data = self.chance.randbytes(size)
        return raw.REGION_WRITE, struct.pack("=QII", offset, region, size) + data, ()

    def _registers(self, *, sane: bool = False) -> tuple[int, bytes, tuple[int, ...]]:
        """Have an edu do DMA to an address that may be mapped; if `sane`, one that makes sense."""
        chance = self.chance
        out = chance.random() < 0.5
        guest, count = chance.choice((0, 0x1000, 0x2001, 0x10000)), chance.choice((1, 100, 4096))
        if not sane and chance.random() < 0.5:
            guest, count = self._number(64), self._number(64)
        where = (0x40000, guest) if out else (guest, 0x40000)
        values = (*where, count, chance.choice((3, 7)) if out else chance.choice((1, 5)))
        one = struct.Struct("=QII8s")
        writes = b"".join(
            one.pack(register, 0, 8, struct.pack("=Q", value))
            for register, value in zip((0x80, 0x88, 0x90, 0x98), values, strict=True)
        )
        return raw.WRITE_MULTI, struct.pack("=Q", 4) + writes, ()

    def _write_multi(self) -> tuple[int, bytes, tuple[int, ...]]:
        count = self.chance.choice((0, 1, 3, 100))
        sizes = self.chance.choices((0, 1, 4, 8, 9), (9, 9, 9, 9, 1), k=count)
        one = struct.Struct("=QII8s")
        writes = b"".join(one.pack(*self._region()[:2], size, b"\1" * 8) for size in sizes)
        reported = count if self.chance.random() < 0.9 else self._number(64)
        return raw.WRITE_MULTI, struct.pack("=Q", reported) + writes, ()

    def _dma_map(self) -> tuple[int, bytes, tuple[int, ...]]:
        chance = self.chance
        address, size = chance.choice(
            (
                (0, 0x10000),
                (0x1000, 0x1000),
                (0x10000, 1 << 28),
                (self._number(64), self._number(64)),
            )
        )
        fds: tuple[int, ...] = ()
        if chance.random() < 0.5:
            fds = (self._one(Use.MEMORY),) if chance.random() < 0.7 else self._some(1)
        offset = 0 if chance.random() < 0.8 else self._number(64)
        flags = chance.choice((3, 3, 3, 1, 2, 0, 7, 11, 15, self._number(32)))
        return raw.DMA_MAP, struct.pack("=IIQQQ", 32, flags, offset, address, size), fds

    def _dma_unmap(self) -> tuple[int, bytes, tuple[int, ...]]:
        row = self.chance.choice(
            (
                (0, 0, 0x10000),
                (0, 0x1000, 0x1000),
                (0, 0x10000, 1 << 28),
                (2, 0, 0),
                (2, 1, 1),
                (self._number(32), self._number(64), self._number(64)),
            )
        )
        return raw.DMA_UNMAP, struct.pack("=IIQQ", 24, *row), ()

    def _set_irqs(self) -> tuple[int, bytes, tuple[int, ...]]:
        chance = self.chance
        kind, action = chance.choice((1, 2, 4, 4, 4)), chance.choice((8, 16, 32, 32))
        index, start = chance.choice((0, 0, 1, 1, 2, 3, 4, 5)), chance.choice((0, 0, 0, 1))
        count = chance.choice((0, 1, 1, 1, 2, 16, self._number(32)))
        fds: tuple[int, ...] = ()
        if kind == 4 and count <= 16 and chance.random() < 0.8:
            events = chance.random() < 0.7
            fds = self._several(Use.EVENT, count) if events else self._some(count)
        data = bytes(chance.choices((0, 1, 255), k=min(count, 3000))) if kind == 2 else b""
        flags = kind | action if chance.random() < 0.9 else self._number(32)
        body = struct.pack("=IIIII", 20 + len(data), flags, index, start, count)
        return raw.SET_IRQS, body + data, fds

    def _ask(self) -> tuple[int, bytes, tuple[int, ...]]:
        chance = self.chance
        number = chance.choice((raw.GET_INFO, raw.REGION_INFO, raw.IO_FDS, raw.IRQ_INFO))
        length = 32 if number == raw.REGION_INFO else 16
        argsz = chance.choice((length, length, 64, 4096, 0, self._number(32)))
        index = chance.choice((*range(10), self._number(32)))
        return number, struct.pack("=IIII", argsz, 0, index, 0).ljust(length, b"\0"), ()

    def _reset(self) -> tuple[int, bytes, tuple[int, ...]]:
        return raw.RESET, b"", ()

    def _wrong_way(self) -> tuple[int, bytes, tuple[int, ...]]:
        body = struct.pack("=QQ", self._number(64), 4)
        return self.chance.choice((raw.DMA_READ, raw.DMA_WRITE)), body + b"1234", ()

    # --- pieces ---

    def _next(self) -> int:
        self._ident = (self._ident + 1) & 0xFFFF
        return self._ident

    def _head(self, number: int, body: bytes, flags: int = 0) -> bytes:
        return HEADER.pack(self._next(), number, 16 + len(body), flags, 0) + body

    def _reply(self, ident: int, number: int, body: bytes) -> bytes:
        return HEADER.pack(ident, number, 16 + len(body), 1, 0) + body

    def _number(self, bits: int) -> int:
        edge = self.chance.choice(WIDE_EDGES if bits == 64 else EDGES)
        if self.chance.random() < 0.3:
            edge = self.chance.getrandbits(bits)
        return edge & ((1 << bits) - 1)

    def _page_size(self) -> int:
        return self.chance.choice(
            (4096, 4096, 1, 2, 0, 3, 1 << 12, 1 << 21, 1 << 63, (1 << 64) - 1)
        )

    def _some(self, count: int) -> tuple[int, ...]:
        """Return any descriptors."""
        return tuple(self.chance.choices([*self.maker.fds.values()], k=count))

    def _several(self, use: Use, count: int) -> tuple[int, ...]:
        """Return descriptors that are sent for a use."""
        names = self.chance.choices(self.maker.of(use), k=count)
        return tuple(self.maker.fds[name] for name in names)

    def _one(self, use: Use) -> int:
        return self._several(use, 1)[0]

    def _spoiled(self, data: bytes) -> bytes:
        if not data:
            return data
        spoiled = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 2, 8))):
            spoiled[self.chance.randrange(len(spoiled))] = self.chance.choice((0, 1, 127, 128, 255))
        return bytes(spoiled)

    def _bomb(self) -> bytes:
        """Version data that nobody should read."""
        return self.chance.choice(_BOMBS)


def _nested(opening: bytes, closing: bytes, count: int) -> bytes:
    return b'{"capabilities":' + opening * count + b"1" + closing * count + b"}\0"


_BOMBS: Sequence[bytes] = (
    b"",
    b"\0",
    b"{",
    b"[" * 4096,
    b'{"a":' * 800,
    _nested(b"[", b"]", 250),
    _nested(b'{"x":', b"}", 250),
    b'{"capabilities":' + b"9" * 4000 + b"}\0",
    b'{"capabilities":{"max_msg_fds":' + b"9" * 4000 + b"}}\0",
    b'{"capabilities":{"max_msg_fds":1e999}}\0',
    b'{"capabilities":{"max_msg_fds":-1}}\0',
    b'{"capabilities":{"max_msg_fds":true}}\0',
    b'{"capabilities":{"max_msg_fds":NaN}}\0',
    b'{"capabilities":{"pgsizes":18446744073709551616}}\0',
    b'{"capabilities":{"twin_socket":{"supported":true,"fd_index":-1}}}\0',
    b'{"capabilities":{"twin_socket":[]}}\0',
    b'{"capabilities":{"x":1,"x":2}}\0',
    b'{"capabilities":null}\0',
    b'{"capabilities":{"max_msg_fds":"\\ud800"}}\0',
    b'{"\\ud800":{"\\u0000":1}}\0{}',
    b'{"capabilities":{}}' + b" " * 4077,
    b'{"capabilities":{}}' + b" " * 4078,
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}\0",
    b"null\0",
    b'"' + b"a" * 4090 + b'"\0',
    bytes(4096),
    b"{}" + b"\0" * 5000,
)
