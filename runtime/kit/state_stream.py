"""The migration stream of a device: framed, versioned, checked.

A stream is `MAGIC` and then frames, all numbers little-endian, whatever the host. A frame is a
header of 24 bytes (`FRAME`) and `length` bytes:

| field    | bytes | what it holds                                                       |
|----------|-------|---------------------------------------------------------------------|
| kind     | 1     | HELLO, MEMORY, SECTION or END                                       |
| reserved | 1     | 0                                                                   |
| block    | 2     | which memory, or which section                                      |
| length   | 4     | how many bytes follow                                               |
| position | 8     | MEMORY: where in it; END: the bytes of the stream before; else 0    |
| crc      | 4     | CRC-32 of the bytes that follow                                     |
| sequence | 4     | the number of the frame, from 0, modulo 2**32                       |

The first frame is HELLO: who saved this, as JSON. MEMORY fills a part of a memory and may come
again for the same part; the last one counts. SECTION is state that is not memory; here too the last
one counts. END states that all that came before is the whole state of the device. It carries a
BLAKE2b digest of all headers before it and of the contents of HELLO and SECTION frames. If a device
runs on after END (no table of ours allows that, but one may), more frames follow, and another END.

What is caught: anything cut off, left out, put in, swapped or repeated, and any damage to headers
or sections, by the digest; damage to memory by its CRC: all bursts of up to 32 bits, all others but
for one in four thousand million for each frame of at most `MAX_RUN` bytes. Nothing here is proof
against someone who means to deceive.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from vfio_migration.model import json_text
from vfio_migration.runtime.engine.errors import ArcError
from vfio_migration.runtime.files.checksum import crc32, crc32_of_memory
from vfio_migration.runtime.kit.errors import AnnouncedInfo, Part, PrecopyInfo
from vfio_migration.runtime.kit.tracked_memory import Left, Run, TrackedMemory

MAGIC: Final = b"VFIOMIG\x01"
"""The last byte is the version of the format."""

FRAME: Final = struct.Struct("<BBHIQII")
HEADER, MEMORY, SECTION, END = 1, 2, 3, 4

MAX_RUN: Final = 1 << 20
"""How many bytes of memory one frame holds at most."""
MAX_SECTION: Final = 1 << 24
"""How many bytes the sections of a stream may have together: they are kept until it is judged.
Memory is not: a large state belongs there."""
MAX_HEADER: Final = 1 << 16

_DIGEST: Final = 32


# What bytes of a stream are for: what was not streamed even once, new initial data, or again. In
# the order in which `TrackedMemory.left` returns them.
_FIRST, _RENEWED, _AGAIN = _KINDS = range(3)


class StreamRefusedError(ArcError):
    """A stream that cannot be taken over: the device stays as it is, resuming."""

    def __init__(self, why: str) -> None:
        super().__init__(why, errno="EINVAL")


Sections = Callable[[], Iterable[tuple[int, Part]]]


class StreamWriter:
    """One saving session: what is streamed, and how far.

    Args:
        header: Who saves; anything JSON can hold.
        memories: What is streamed by pages.
        sections: Returns the rest of the state, by number; asked once the device is stopped.
    """

    def __init__(
        self, header: Mapping[str, Any], memories: Sequence[TrackedMemory], sections: Sections
    ) -> None:
        self._memories = memories
        self._sections = sections
        self._digest = hashlib.blake2b(MAGIC, digest_size=_DIGEST)
        self._frames = 0
        self._bytes = 0
        # What is made and not read: bytes, and what they are for.
        self._ready: deque[tuple[memoryview, int]] = deque()
        self._ended = False
        self._is_renewed = False
        for memory in memories:
            memory.begin()
        self._put(MAGIC)
        self._frame(HEADER, 0, 0, _text(header))

    def close(self) -> None:
        """End the session."""
        self._ready.clear()
        for memory in self._memories:
            memory.end()

    def grows(self) -> None:
        """Take note that the device runs on: what was the end of the stream is none any more."""
        self._ended = False
        for memory in self._memories:
            if not memory.tracked:
                memory.again()

    def announce(self) -> None:
        """Call new initial data whatever is left to read now."""
        self._is_renewed = True
        self._ready = deque(
            (part, _RENEWED if kind == _AGAIN else kind) for part, kind in self._ready
        )
        for memory in self._memories:
            memory.renew()

    def read(self, size: int, *, still: bool) -> list[Part]:
        """Return the next bytes, fewer if there are no more.

        Args:
            size: How many.
            still: The device is stopped: all there is can be streamed, and its end. Memory is
                then handed out as it is, without a copy.
        """
        parts: list[Part] = []
        taken: list[tuple[memoryview, int]] = []
        try:
            while size > 0 and (self._ready or self._make(still)):
                part, kind = self._ready.popleft()
                if len(part) > size:
                    self._ready.appendleft((part[size:], kind))
                    part = part[:size]
                size -= len(part)
                parts.append(part)
                taken.append((part, kind))
        except BaseException:
            # Nobody gets them: anybody who reads again goes on where this would have begun.
            self._ready.extendleft(reversed(taken))
            raise
        return parts

    def info(self) -> PrecopyInfo:
        """Return what is left to read while the device runs.

        Headers of frames that are not made yet are counted: what is left only falls by reading.
        """
        left = self._by_kind()
        return PrecopyInfo(left[_FIRST], left[_RENEWED] + left[_AGAIN])

    def announced(self) -> AnnouncedInfo:
        """Return the same with what was announced as initial, and whether that is new."""
        left = self._by_kind()
        is_renewed, self._is_renewed = self._is_renewed, False
        initial = left[_FIRST] + left[_RENEWED]
        return AnnouncedInfo(initial, left[_AGAIN], is_renewed)

    def _by_kind(self) -> list[int]:
        """Return how many bytes are left to read of each kind."""
        found = [0 for _ in _KINDS]
        for part, kind in self._ready:
            found[kind] += len(part)
        for memory in self._memories:
            if memory.tracked:
                for kind, left in enumerate(memory.left(MAX_RUN)):
                    found[kind] += _framed(left)
        return found

    def left(self) -> int:
        """Return how many bytes are left to read if the device was stopped now."""
        waiting = sum(len(part) for part, _ in self._ready)
        if self._ended:
            return waiting
        lefts = [left for memory in self._memories for left in memory.left(MAX_RUN)]
        return waiting + sum(map(_framed, lefts)) + _ending(self._sections())

    def _make(self, still: bool) -> bool:
        """Make the next frame; return whether there was any to make."""
        if self._ended:
            return False
        for number, memory in enumerate(self._memories):
            run = memory.take(MAX_RUN) if still or memory.tracked else None
            if run is not None:
                view = memory.view[run.offset : run.offset + run.size]
                try:
                    # While the device runs its memory may change before these bytes are sent, and
                    # the checksum made of them now would be wrong.
                    content = view if still else memoryview(bytes(view))
                    self._frame(MEMORY, number, run.offset, content, _kind_of(run))
                except BaseException:
                    memory.untake(run)  # there was no memory for a copy, say
                    raise
                return True
        if not still:
            return False
        sections = list(self._sections())
        if (size := sum(len(data) for _, data in sections)) > MAX_SECTION:
            raise ValueError(
                f"the device saves {size} bytes besides its memories, and {MAX_SECTION} can be "
                "loaded; what is larger belongs into a memory (`private`)"
            )
        for number, data in sections:
            self._frame(SECTION, number, 0, data)
        self._frame(END, 0, self._bytes, self._digest.digest())
        self._ended = True
        return True

    def _frame(
        self, kind: int, block: int, position: int, content: Part, for_: int = _FIRST
    ) -> None:
        crc = crc32(content) if kind != MEMORY else crc32_of_memory(memoryview(content))
        sequence = self._frames & 0xFFFFFFFF
        header = FRAME.pack(kind, 0, block, len(content), position, crc, sequence)
        self._digest.update(header)
        if kind != MEMORY:
            self._digest.update(content)
        self._frames += 1
        self._put(header, for_)
        if len(content):
            self._put(content, for_)

    def _put(self, part: Part, for_: int = _FIRST) -> None:
        self._bytes += len(part)
        self._ready.append((memoryview(part), for_))


def stream_length(
    header: Mapping[str, Any], memories: Sequence[TrackedMemory], sections: Sections
) -> int:
    """Return how long the stream is that a session would have if it were opened now."""
    memory = sum(
        memory.size + FRAME.size * -(-memory.size // memory.run_size(MAX_RUN))
        for memory in memories
    )
    return len(MAGIC) + FRAME.size + len(_text(header)) + memory + _ending(sections())


def _kind_of(run: Run) -> int:
    if run.initial:
        return _FIRST
    return _RENEWED if run.renewed else _AGAIN


def _text(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _framed(left: Left) -> int:
    """Return how long the frames are that hold it."""
    return left.size + FRAME.size * left.runs


def _ending(sections: Iterable[tuple[int, Part]]) -> int:
    """Return how long the frames are that end a stream: these sections and END."""
    return sum(FRAME.size + len(data) for _, data in sections) + FRAME.size + _DIGEST


class StreamReader:
    """One resuming session: what has been written to it, and whether it is a whole state.

    Args:
        memories: Where memory goes. It goes there at once: until the stream is judged to be whole
            and right, nobody may use it.
        sections: The numbers of the sections that make a whole state.
        check: Called with what HELLO holds; raises `StreamRefusedError` if the device is another.
        optional: The numbers of the sections that may be left out: an older writer did not know
            them.

    Attributes:
        fault: Why this can never become a whole state, or None.
        written: How many bytes have been written.
    """

    def __init__(
        self,
        memories: Sequence[TrackedMemory],
        sections: Iterable[int],
        check: Callable[[object], object],
        optional: Iterable[int] = (),
    ) -> None:
        self.fault: str | None = None
        self.written = 0
        self._required = frozenset(sections)
        self._known = self._required | frozenset(optional)
        self._memories = memories
        self._check = check
        self._digest = hashlib.blake2b(digest_size=_DIGEST)
        self._expected = b""
        self._frames = 0
        self._sections: dict[int, bytes] = {}
        self._ended = False
        # What is being received: the magic, a header, or the content of a frame.
        self._head = bytearray()
        self._want = len(MAGIC)
        self._frame: tuple[int, int, int, int, int] | None = None
        self._content = bytearray()
        self._filled = 0
        self._crc = 0
        self._before = 0
        for memory in memories:
            memory.receive()

    def write(self, data: Part) -> None:
        """Take the next bytes.

        Raises:
            StreamRefusedError: They cannot belong to a stream that this device can take over, or
            some
                before them could not.
        """
        view = memoryview(data).cast("B")
        self.written += len(view)
        while len(view) and self.fault is None:
            try:
                view = view[self._take(view) :]
            except StreamRefusedError as refusal:
                self.fault = str(refusal)
            except BaseException as error:
                # Nobody knows how much of it was taken in, nor what has been looked at.
                self.fault = f"it could not be taken in: {type(error).__name__}"
                raise
        if self.fault is not None and len(data):
            raise StreamRefusedError(self.fault)

    def judge(self) -> dict[int, bytes]:
        """Return the sections of a whole stream. It can be asked again after more was written.

        Raises:
            StreamRefusedError: The stream is damaged, or not complete.
        """
        if self.fault is not None:
            raise StreamRefusedError(self.fault)
        if not self._ended or self._head or self._frame is not None:
            raise StreamRefusedError(f"the stream is incomplete: {self.written} bytes and no end")
        for memory in self._memories:
            if missing := memory.missing():
                raise StreamRefusedError(f"{missing} bytes of {memory.name} are not in the stream")
        if absent := sorted(self._required - self._sections.keys()):
            raise StreamRefusedError(f"section {absent[0]} is not in the stream")
        return self._sections

    def _take(self, view: memoryview) -> int:
        """Take some bytes; return how many."""
        if self._frame is not None:
            return self._take_content(view)
        used = min(len(view), self._want - len(self._head))
        self._head += view[:used]
        if len(self._head) == self._want:
            head, self._head = bytes(self._head), bytearray()
            if self._before == 0:
                self._begin(head)
            else:
                self._start_frame(head)
            self._before += len(head)
            self._take_content(view[used:used])  # a frame may have no content
        return used

    def _begin(self, head: bytes) -> None:
        if head[:-1] != MAGIC[:-1]:
            raise StreamRefusedError("this is not a migration stream")
        if head != MAGIC:
            raise StreamRefusedError(f"format {head[-1]}; this is read: {MAGIC[-1]}")
        self._digest.update(head)
        self._want = FRAME.size

    def _start_frame(self, head: bytes) -> None:
        kind, reserved, block, length, position, crc, sequence = FRAME.unpack(head)
        where = f"frame {self._frames}"
        if reserved or sequence != self._frames & 0xFFFFFFFF:
            raise StreamRefusedError(f"{where}: is damaged, or others are missing before it")
        if (self._frames == 0) != (kind == HEADER):
            raise StreamRefusedError(f"{where}: kind {kind} is out of place")
        bound = {
            HEADER: MAX_HEADER,
            MEMORY: MAX_RUN,
            SECTION: MAX_SECTION,
            END: _DIGEST,
        }.get(kind)
        if bound is None or length > bound or (kind == END and length != _DIGEST):
            raise StreamRefusedError(f"{where}: kind {kind} with {length} bytes")
        if kind == MEMORY:
            known = block < len(self._memories)
            if not known or position + length > self._memories[block].size:
                raise StreamRefusedError(f"{where}: memory {block} has no bytes at {position:#x}")
        elif block not in (self._known if kind == SECTION else (0,)):
            raise StreamRefusedError(f"{where}: there is no section {block}")
        elif position != (self._before if kind == END else 0):
            raise StreamRefusedError(f"{where}: position {position:#x}")
        if kind == SECTION:
            # The last one counts, and without another END nobody asks for the one before it.
            self._sections.pop(block, None)
            kept = sum(map(len, self._sections.values()))
            if kept + length > MAX_SECTION:
                raise StreamRefusedError(f"{where}: sections of {kept + length} bytes")
        if kind == END:
            self._expected = self._digest.digest()
        self._digest.update(head)
        self._ended = False
        self._frame = (kind, block, length, position, crc)
        self._content = bytearray()
        self._filled = self._crc = 0

    def _take_content(self, view: memoryview) -> int:
        if self._frame is None:
            return 0
        kind, block, length, position, crc = self._frame
        used = min(len(view), length - self._filled)
        piece = view[:used]
        self._crc = crc32(piece, self._crc)
        if kind == MEMORY:
            self._memories[block].put(position + self._filled, piece)
        else:
            self._content += piece
        self._filled += used
        self._before += used
        if self._filled == length:
            self._frame = None
            self._end_frame(kind, block, length, position, crc)
        return used

    def _end_frame(self, kind: int, block: int, length: int, position: int, crc: int) -> None:
        where = f"frame {self._frames}"
        self._frames += 1
        if crc != self._crc:
            raise StreamRefusedError(f"{where}: its {length} bytes are damaged")
        if kind == MEMORY:
            self._memories[block].arrived(position, length)
            return
        content, self._content = bytes(self._content), bytearray()
        self._digest.update(content)
        if kind == HEADER:
            self._header(content)
        elif kind == SECTION:
            self._sections[block] = content
        else:
            if content != self._expected:
                raise StreamRefusedError(f"{where}: the stream before it was damaged")
            self._ended = True

    def _header(self, content: bytes) -> None:
        try:
            found: object = json_text.parse(content)
        except json_text.JsonError as error:
            raise StreamRefusedError(f"the first frame is not readable: {error}") from error
        self._check(found)
