"""DMA logging: which pages of the guest the device has written.

The rule is the one proved of `vfio_migration.verifier.obligations.dirty_log` (obligation S6):
writes mark whole tracking pages; a report covers any range in pages of any other size, sets every
bit from that of the first reported address of a marked page to that of the last, and forgets a
marked page only if it covered all of it. So a report may report too much and never too little.

The log has a bound, `log_chunks` of the table of the connection. Beyond it nothing is
distinguished: all that is logged is reported as written, by every report until logging ends.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.protocol.layout import LIMITS, WIRE

MAX_BITMAP: Final = LIMITS["max_data_xfer_size"].value - 24
"""How many bytes of bitmap one report may have: with the 24 before it, the data of one message."""

_SMALLEST: Final = 12
_LARGEST: Final = 30
_CHUNK: Final = 15  # pages per chunk of the log, as a power of two
_IN_CHUNK: Final = (1 << _CHUNK) - 1
_EMPTY: Final = bytes(1 << (_CHUNK - 3))
_MAX_CHUNKS: Final = WIRE.bound("log_chunks")
_SOMETHING: Final = re.compile(rb"[^\0]")
_SET_BYTES: Final = re.compile(rb"\xff+|[^\0\xff]", re.DOTALL)


class DirtyLog:
    """The pages written since they were last reported.

    Attributes:
        on: Whether writes are logged.
        page_size: The size of a tracking page; what it was when logging was last on.
    """

    def __init__(self) -> None:
        self.on = False
        self.page_size = 1 << _SMALLEST
        self._shift = _SMALLEST
        self._ranges: tuple[tuple[int, int], ...] = ()
        # One bit a page, in chunks that are made when something in them is first written.
        self._chunks: dict[int, bytearray] = {}
        self._overflowed = False

    def start(self, page_size: int, ranges: Iterable[tuple[int, int]] = ()) -> int:
        """Log writes to `ranges` of (iova, length), to all of memory if there are none.

        Returns:
            The size of the tracking pages: `page_size`, or the nearest that is kept.

        Raises:
            CommandError: Logging is on already, or a range or the page size makes no sense.
        """
        if self.on:
            raise CommandError("DMA is logged already", occasion="logging_on")
        wanted = tuple(ranges)
        for iova, length in wanted:
            if length <= 0 or iova < 0 or iova + length > 1 << 64:
                raise CommandError(f"no range: {iova:#x}+{length:#x}", occasion="argument_invalid")
        if page_size <= 0 or page_size & (page_size - 1):
            message = f"page size {page_size:#x} is not a power of two"
            raise CommandError(message, occasion="argument_invalid")
        self._shift = min(max(page_size.bit_length() - 1, _SMALLEST), _LARGEST)
        self.page_size = 1 << self._shift
        self._ranges = tuple((iova, iova + length) for iova, length in wanted)
        self._chunks.clear()
        self._overflowed = False
        self.on = True
        return self.page_size

    def stop(self) -> None:
        """Log nothing any more and forget all; nothing happens if logging is off."""
        self.on = False
        self._ranges = ()
        self._chunks.clear()
        self._overflowed = False

    def wrote(self, iova: int, size: int) -> None:
        """Take note of a write."""
        if not self.on or size <= 0:
            return
        end = iova + size
        if not self._ranges:
            self._mark(iova, end)
        for first, last in self._ranges:
            if first < end and iova < last:
                self._mark(max(first, iova), min(last, end))

    def report(self, iova: int, length: int, page_size: int, *, room: int | None = None) -> bytes:
        """Return the bitmap of a range, one bit per `page_size`, and forget what it covers.

        If it is longer than `room`, nobody will see it: it is all zeroes, and nothing is forgotten.

        Bit n % 64 of u64 n // 64 stands for the page n of the range. What lies outside of the
        ranges that are logged is reported clean.

        Raises:
            CommandError: Logging is off, the range or the page size makes no sense, or the bitmap
                would be longer than `MAX_BITMAP`.
        """
        if not self.on:
            raise CommandError("DMA is not logged", occasion="logging_off")
        if page_size <= 0 or page_size & (page_size - 1):
            message = f"page size {page_size:#x} is not a power of two"
            raise CommandError(message, occasion="argument_invalid")
        end = iova + length
        if length <= 0 or iova < 0 or end > 1 << 64:
            raise CommandError(f"no range: {iova:#x}+{length:#x}", occasion="argument_invalid")
        pages = -(-length // page_size)
        words = -(-pages // 64)
        if words * 8 > MAX_BITMAP:
            raise CommandError(f"a bitmap of {words * 8} bytes", occasion="over_bound")
        if room is not None and words * 8 > room:
            return bytes(words * 8)
        if self._overflowed:
            return _host_order(self._report_all(iova, end, page_size, words * 8))
        if page_size == self.page_size and iova % page_size == 0:
            return _host_order(self._report_alike(iova >> self._shift, end, words * 8))
        bitmap = bytearray(words * 8)
        for page in list(self._marked(iova >> self._shift, (end - 1) >> self._shift)):
            first = page << self._shift
            last = first + self.page_size - 1
            low = (max(first, iova) - iova) // page_size
            high = (min(last, end - 1) - iova) // page_size
            _set(bitmap, low, high)
            if iova <= first and last < end:
                number, bit = page >> _CHUNK, page & _IN_CHUNK
                self._chunks[number][bit >> 3] &= ~(1 << (bit & 7))
        self._drop_empty(iova >> self._shift, (end - 1) >> self._shift)
        return _host_order(bitmap)

    def unreport(self, iova: int, length: int, page_size: int, bitmap: Part) -> None:
        """Mark the pages of a report that nobody got, to be reported again.

        Where its pages are larger than those that are tracked, more of them are marked than were
        before: a log may report too much. Nothing happens if logging is off.

        Args:
            iova: Where the range began.
            length: How long it was.
            page_size: What one bit means.
            bitmap: What `report` returned.
        """
        if not self.on:
            return
        bits = _host_order(bytearray(bitmap))
        for low, high in _runs(bits):
            self._mark(iova + low * page_size, min(iova + high * page_size, iova + length))

    def _report_alike(self, first: int, end: int, size: int) -> bytearray:
        """Report in tracking pages, from a border of one: the bits are the log's own."""
        last = (end - 1) >> self._shift
        chunks = range(first >> _CHUNK, (last >> _CHUNK) + 1)
        kept = b"".join(bytes(self._chunks.get(number, _EMPTY)) for number in chunks)
        bits = int.from_bytes(kept, "little") >> (first & _IN_CHUNK)
        bits &= (1 << (last - first + 1)) - 1
        # The last page may be covered in part.
        covered = last if end & (self.page_size - 1) == 0 else last - 1
        page = first
        while page <= covered:
            stop = min(covered, page | _IN_CHUNK)
            if (chunk := self._chunks.get(page >> _CHUNK)) is not None:
                _clear(chunk, page & _IN_CHUNK, stop & _IN_CHUNK)
            page = stop + 1
        self._drop_empty(first, last)
        return bytearray(bits.to_bytes(size, "little"))

    def _report_all(self, iova: int, end: int, page_size: int, size: int) -> bytearray:
        """Report all that is logged as written, and forget nothing."""
        bitmap = bytearray(size)
        for first, stop in self._ranges or ((iova, end),):
            # Whole tracking pages, as they are when a write in them is marked.
            low = max(iova, first >> self._shift << self._shift)
            high = min(end, -(-stop >> self._shift) << self._shift)
            if low < high:
                _set(bitmap, (low - iova) // page_size, (high - 1 - iova) // page_size)
        return bitmap

    def _drop_empty(self, first: int, last: int) -> None:
        """Drop the chunks of these pages in which nothing is marked."""
        for number in self._touched(first >> _CHUNK, last >> _CHUNK):
            chunk = self._chunks.get(number)
            if chunk is not None and chunk.count(0) == len(chunk):
                del self._chunks[number]

    def _touched(self, low: int, high: int) -> Iterable[int]:
        """Return numbers of chunks, those from `low` to `high` among them.

        Whichever is fewer: the chunks there are, or those the range could touch.
        """
        return range(low, high + 1) if high - low < len(self._chunks) else sorted(self._chunks)

    def _mark(self, iova: int, end: int) -> None:
        page, last = iova >> self._shift, (end - 1) >> self._shift
        while page <= last:
            number = page >> _CHUNK
            chunk = self._chunks.get(number)
            if chunk is None:
                if len(self._chunks) >= _MAX_CHUNKS:
                    self._overflowed = True
                    self._chunks.clear()
                if self._overflowed:
                    return
                chunk = self._chunks[number] = bytearray(_EMPTY)
            stop = min(last, page | _IN_CHUNK)
            _set(chunk, page & _IN_CHUNK, stop & _IN_CHUNK)
            page = stop + 1

    def _marked(self, first: int, last: int) -> Iterator[int]:
        """Yield the marked pages from `first` to `last`."""
        low, high = first >> _CHUNK, last >> _CHUNK
        for number in self._touched(low, high):
            chunk = self._chunks.get(number)
            if chunk is None or not low <= number <= high:
                continue
            begin = max(0, first - (number << _CHUNK)) >> 3
            end = (min(last - (number << _CHUNK), _IN_CHUNK) >> 3) + 1
            for match in _SOMETHING.finditer(bytes(memoryview(chunk)[begin:end])):
                at = (number << _CHUNK) + ((begin + match.start()) << 3)
                byte = match.group()[0]
                for bit in range(8):
                    if byte >> bit & 1 and first <= at + bit <= last:
                        yield at + bit


def _runs(bits: bytes) -> Iterator[tuple[int, int]]:
    """Yield the first and the one after the last of bits that are set, for each row of them.

    A row that goes on from one byte to the next may come in pieces.
    """
    for match in _SET_BYTES.finditer(bits):
        at = match.start() << 3
        if match[0][0] == 0xFF:
            yield at, match.end() << 3
            continue
        byte, low = match[0][0], 0
        while byte >> low:
            low += ((byte >> low) & -(byte >> low)).bit_length() - 1
            rest = byte >> low
            high = low + (~rest & (rest + 1)).bit_length() - 1
            yield at + low, at + high
            low = high


def _set(bits: bytearray, low: int, high: int) -> None:
    """Set the bits from `low` to `high`, both included."""
    begin, end = low >> 3, high >> 3
    left, right = 0xFF & (0xFF << (low & 7)), 0xFF >> (7 - (high & 7))
    if begin == end:
        bits[begin] |= left & right
        return
    bits[begin] |= left
    bits[end] |= right
    if end - begin > 1:
        bits[begin + 1 : end] = b"\xff" * (end - begin - 1)


def _clear(bits: bytearray, low: int, high: int) -> None:
    """Clear the bits from `low` to `high`, both included."""
    begin, end = low >> 3, high >> 3
    left, right = 0xFF & (0xFF << (low & 7)), 0xFF >> (7 - (high & 7))
    if begin == end:
        bits[begin] &= ~(left & right)
        return
    bits[begin] &= ~left
    bits[end] &= ~right
    if end - begin > 1:
        bits[begin + 1 : end] = bytes(end - begin - 1)


def _host_order(bitmap: bytearray) -> bytes:
    """Return a bitmap as u64s in the byte order of the host, as all of vfio-user is."""
    if sys.byteorder == "little":
        return bytes(bitmap)
    words = array("Q", bytes(bitmap))
    words.byteswap()
    return words.tobytes()
