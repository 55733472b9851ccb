"""Compares what was read from a source with what its destination was given, for each migration.

How a stream is cut into messages means nothing, so what was read and what was written are compared
as wholes, when the destination ends its session with success: their lengths, and their CRC-32,
which is worked out from those of the messages, however either side has cut them.

A stream is compared only if all of it was seen. If its beginning was not, a message was lost, or
nobody said which source belongs to which destination, nothing is concluded, and that is counted.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from vfio_migration.model.conformance.observation import Observation


class Piece(NamedTuple):
    """The data of one message.

    Attributes:
        order: Its place among all commands of its device.
        size: How many bytes.
        crc: Their CRC-32, if it was recorded.
    """

    order: int
    size: int
    crc: int | None


class Wrong(NamedTuple):
    """What is wrong with a migration: which check it breaks, and why."""

    check: str
    reason: str
    allowed: tuple[str, ...] = ()


@dataclass(slots=True)
class Stream:
    """The data of one session.

    Attributes:
        pieces: What was read, or was written with success.
        refused: What was to be written, and was refused.
        ended: Its final end was read.
        certain: Everything of it was seen.
        over: Its session may have ended; data that comes all the same is of nobody knows which.
    """

    pieces: list[Piece] = field(default_factory=list)
    refused: list[Piece] = field(default_factory=list)
    ended: bool = False
    certain: bool = False
    over: bool = False

    def add(self, piece: Piece, *, accepted: bool = True) -> None:
        """Add a piece of data."""
        self.certain = self.certain and not self.over
        if piece.size:
            (self.pieces if accepted else self.refused).append(piece)

    def sorted(self) -> list[Piece]:
        """Return the pieces in the order in which they were asked for."""
        return sorted(self.pieces)

    @property
    def size(self) -> int:
        """How long it is."""
        return sum(one.size for one in self.pieces)


class StreamComparison:
    """Which device was given what.

    Attributes:
        compared: How many streams were compared.
        skipped: How many could not be, by the reason.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.skipped: Counter[str] = Counter()
        self._sources: dict[str, str] = {}
        # What goes out of a device, and what goes in; what was read stays known when it is closed.
        self._read: dict[str, Stream] = {}
        self._written: dict[str, Stream] = {}

    def takes_part(self, device: str, source: str | None) -> None:
        """A device is to be given the state of a source, as the event has it."""
        if source is not None:
            self._sources[device] = source

    def was_read(self, device: str, order: int, seen: Observation, *, final: bool) -> None:
        """Data was read; `final` states that nothing more will come."""
        stream = self._read.setdefault(device, Stream())
        stream.ended = stream.ended or final
        stream.add(Piece(order, seen.size or 0, seen.crc))

    def wrote(self, device: str, order: int, command: Observation, *, accepted: bool) -> None:
        """Data was written, or was refused."""
        stream = self._written.setdefault(device, Stream())
        stream.add(Piece(order, command.size or 0, command.crc), accepted=accepted)

    def doubt(self, device: str) -> None:
        """Something was not seen: what its streams hold is not certain."""
        for streams in (self._read, self._written):
            if device in streams:
                streams[device].certain = False

    def was_reset(self, device: str) -> None:
        """Its session has ended, and nothing was taken over."""
        self._written.pop(device, None)
        self.interrupted(device)

    def interrupted(self, device: str) -> None:
        """Whether its session goes on is not known."""
        for streams in (self._read, self._written):
            if device in streams:
                streams[device].over = True

    def moved(
        self, device: str, fates: set[tuple[bool, bool]], *, waiting: bool
    ) -> Iterator[Wrong]:
        """A request succeeded; yield what is wrong if that ended the session of a destination.

        Args:
            device: Which device.
            fates: What the request can have done to its session: closed it, opened another.
            waiting: Data was written whose reply has not come.
        """
        if len(fates) != 1:
            self.was_reset(device)
            return
        ((closes, opens),) = fates
        if waiting:
            self.doubt(device)
        written = self._written.get(device)
        if closes and written is not None:
            del self._written[device]
            yield from self._judge(device, written)
        if opens:
            self._read[device] = Stream(certain=True)
            self._written[device] = Stream(certain=True)

    def _judge(self, device: str, written: Stream) -> Iterator[Wrong]:
        source = self._sources.get(device)
        if not (written.pieces or written.refused or source):
            return
        read = None if source is None else self._read.get(source)
        why = _not_comparable(source, read, written)
        if why is None and read is not None and _same(read, written):
            self.compared += 1
            if not read.ended:
                reason = f"{source} was not read to the final end of its stream"
                yield Wrong("stream_truncated", reason, ("more reads, until one is short",))
            return
        if (refused := next(_never_written(written), None)) is not None:
            reason = (
                f"{refused.size} bytes that were to be written to it were refused, "
                "and were not written afterwards"
            )
            yield Wrong("write_refused", reason, ("an error",))
        elif why is not None:
            self.skipped[why] += 1
        else:
            assert source is not None
            assert read is not None
            self.compared += 1
            yield _difference(source, read, written)


def _not_comparable(source: str | None, read: Stream | None, written: Stream) -> str | None:
    """Return why nothing can be concluded, or None."""
    if source is None:
        return "streams whose source is not named"
    if read is None:
        return "streams whose source was not read"
    if not (read.certain and written.certain):
        return "streams that were not seen whole"
    if any(one.crc is None for one in (*read.pieces, *written.pieces)):
        return "streams without a CRC-32"
    return None


def _same(read: Stream, written: Stream) -> bool:
    return read.size == written.size and _crc(read.sorted()) == _crc(written.sorted())


def _never_written(stream: Stream) -> Iterator[Piece]:
    """Yield what was refused and not made good: as much was written with success afterwards."""
    for piece in stream.refused:
        again = sum(one.size for one in stream.pieces if one.order > piece.order)
        if again < piece.size:
            yield piece


def _difference(source: str, read: Stream, written: Stream) -> Wrong:
    """Return what the difference looks like."""
    gave, took = read.size, written.size
    allowed = ("an error", f"the {gave} bytes of {source}, in their order")
    if took < gave:
        reason = f"it was given {took} bytes, and {gave} were read from {source}"
        return Wrong("stream_truncated", reason, allowed)
    if took > gave:
        reason = f"it was given {took} bytes, and only {gave} were read from {source}"
        return Wrong("stream_doubled", reason, allowed)
    contents = [Counter((one.size, one.crc) for one in each.pieces) for each in (read, written)]
    at = _first_difference(read.sorted(), written.sorted())
    if contents[0] == contents[1]:
        reason = f"it was given what was read from {source}, in another order from byte {at} on"
        return Wrong("stream_reordered", reason, allowed)
    reason = f"it was given other bytes than were read from {source}, after byte {at}"
    return Wrong("stream_altered", reason, allowed)


def _first_difference(read: list[Piece], written: list[Piece]) -> int:
    """Return up to which byte both are the same, as far as both are cut there."""
    prefixes = dict(_prefixes(written))
    same = 0
    for size, crc in _prefixes(read):
        if size in prefixes:
            if prefixes[size] != crc:
                break
            same = size
    return same


def _prefixes(pieces: Iterable[Piece]) -> Iterator[tuple[int, int]]:
    """Yield the length and the CRC-32 of all up to each cut."""
    size = crc = 0
    for piece in pieces:
        size, crc = size + piece.size, crc32_joined(crc, piece.crc or 0, piece.size)
        yield size, crc


def _crc(pieces: Iterable[Piece]) -> int:
    crc = 0
    for _, crc in _prefixes(pieces):  # noqa: B007 - the last one is that of all
        pass
    return crc


# --- CRC-32 ---------------------------------------------------------------------------------------

_POLYNOMIAL = 0xEDB88320
"""Of the CRC-32 that `zlib.crc32` computes, with the lowest bit first."""

_Matrix = tuple[int, ...]
"""What a CRC becomes, bit by bit: entry n is what bit n alone becomes."""


def crc32_joined(first: int, second: int, size: int) -> int:
    """Return the CRC-32 of two pieces of data in a row, given that of each.

    Args:
        first: That of the first piece.
        second: That of the second piece.
        size: How many bytes the second piece has.
    """
    # A CRC is linear: that of the whole is that of the first piece with as many zero bytes behind
    # it as the second is long, combined with that of the second.
    return _times(_zeros(size), first) ^ second


def _times(matrix: _Matrix, vector: int) -> int:
    found = at = 0
    while vector:
        if vector & 1:
            found ^= matrix[at]
        vector >>= 1
        at += 1
    return found


@functools.lru_cache(maxsize=1024)
def _zeros(size: int) -> _Matrix:
    """Return what as many zero bytes make of a CRC."""
    found: _Matrix = tuple(1 << bit for bit in range(32))
    for power in range(size.bit_length()):
        if size >> power & 1:
            step = _power(power)
            found = tuple(_times(step, row) for row in found)
    return found


@functools.lru_cache(maxsize=64)
def _power(power: int) -> _Matrix:
    """Return what 2**power zero bytes make of a CRC."""
    if power:
        half = _power(power - 1)
        return tuple(_times(half, row) for row in half)
    # One zero bit shifts the register, and takes the polynomial off where a one falls out.
    bit: _Matrix = (_POLYNOMIAL, *(1 << at for at in range(31)))
    for _ in range(3):  # 2, 4, 8 bits
        bit = tuple(_times(bit, row) for row in bit)
    return bit
