"""The stream format: every cut, every flipped bit, every order."""

from __future__ import annotations

import json
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from vfio_migration.runtime.kit import state_stream as format_
from vfio_migration.runtime.kit.state_stream import (
    END,
    FRAME,
    HEADER,
    MAGIC,
    SECTION,
    StreamReader,
    StreamRefusedError,
    StreamWriter,
)
from vfio_migration.runtime.kit.tracked_memory import TrackedMemory

HEADER_FIELDS = {"device": "x"}


def memory(size: int = 3 * 4096, *, name: str = "ram", tracked: bool = True) -> TrackedMemory:
    return TrackedMemory(name, memoryview(bytearray(size)), tracked=tracked)


def writer(*memories: TrackedMemory, state: bytes = b"state") -> StreamWriter:
    return StreamWriter(HEADER_FIELDS, memories, lambda: [(0, state), (1, b"")])


def reader(*memories: TrackedMemory) -> StreamReader:
    return StreamReader(memories, (0, 1), lambda reported: None)


def drain(source: StreamWriter, *, still: bool = True, size: int = 1 << 20) -> bytes:
    out = b""
    while True:
        got = b"".join(bytes(part) for part in source.read(size, still=still))
        out += got
        if len(got) < size:
            return out


def whole() -> bytes:
    source = memory()
    source.view[:] = random.Random(1).randbytes(source.size)
    return drain(writer(source))


def test_it_arrives() -> None:
    source, target = memory(), memory()
    source.view[:] = random.Random(1).randbytes(source.size)
    sink = reader(target)
    sink.write(drain(writer(source)))
    assert sink.judge() == {0: b"state", 1: b""}
    assert target.view == source.view


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=6), st.integers(1, 9000))
def test_segmentation_does_not_matter(cuts: list[int], size: int) -> None:
    stream = whole()
    source = memory()
    source.view[:] = random.Random(1).randbytes(source.size)
    assert drain(writer(source), size=size) == stream
    sink, at, turn = reader(memory()), 0, 0
    while at < len(stream):
        sink.write(stream[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
    sink.judge()


def refused(stream: bytes) -> bool:
    sink = reader(memory())
    try:
        sink.write(stream)
        sink.judge()
    except StreamRefusedError:
        return True
    return False


def test_every_cut_is_refused_and_can_be_made_good() -> None:
    stream = whole()
    for cut in range(len(stream)):
        sink = reader(memory())
        sink.write(stream[:cut])
        with pytest.raises(StreamRefusedError, match="incomplete"):
            sink.judge()
        if cut % 97 == 0:
            sink.write(stream[cut:])
            sink.judge()


def test_every_flipped_bit_is_refused() -> None:
    stream = whole()
    places = [
        *range(200),
        *range(200, len(stream) - 200, 61),
        *range(len(stream) - 200, len(stream)),
    ]
    for place in places:
        for bit in range(8):
            bad = bytearray(stream)
            bad[place] ^= 1 << bit
            assert refused(bytes(bad)), (place, bit)


def frames(stream: bytes) -> list[bytes]:
    found, at = [], len(MAGIC)
    while at < len(stream):
        length = FRAME.unpack_from(stream, at)[3]
        found.append(stream[at : at + FRAME.size + length])
        at += FRAME.size + length
    return found


@given(st.randoms(use_true_random=False))
@examples(200)
def test_frames_left_out_put_in_or_swapped_are_refused(rng: random.Random) -> None:
    stream = whole()
    all_ = frames(stream)
    edited = list(all_)
    one, other = rng.randrange(len(all_)), rng.randrange(len(all_))
    match rng.randrange(4):
        case 0:
            del edited[one]
        case 1:
            edited.insert(one, all_[other])
        case 2:
            edited[one], edited[other] = edited[other], edited[one]
        case _:
            edited[one] = all_[other]
    bad = MAGIC + b"".join(edited)
    assert bad == stream or refused(bad)


def test_a_stream_in_which_each_frame_alone_is_right_is_refused_by_the_digest_of_its_end() -> None:
    """Another section, with a checksum of its own that is right: only the digest notices it."""
    edited = frames(whole())
    index = next(at for at, frame in enumerate(edited) if frame[0] == SECTION)
    kind, reserved, block, length, position, _, sequence = FRAME.unpack_from(edited[index])
    other = bytes(length)
    assert edited[index][FRAME.size :] != other
    crc = zlib.crc32(other)
    edited[index] = FRAME.pack(kind, reserved, block, length, position, crc, sequence) + other
    sink = reader(memory())
    sink.write(MAGIC + b"".join(edited[:-1]))
    with pytest.raises(StreamRefusedError, match="the stream before it was damaged"):
        sink.write(edited[-1])


@given(st.binary(max_size=400))
def test_garbage_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    assert refused(data)
    assert refused(MAGIC + data)
    assert refused(whole() + data) == bool(data)


def frame(kind: int, content: bytes, number: int, **more: int) -> bytes:
    import zlib

    values = {"block": 0, "length": len(content), "position": 0} | more
    crc = zlib.crc32(content)
    return (
        FRAME.pack(kind, 0, values["block"], values["length"], values["position"], crc, number)
        + content
    )


def test_bounds_are_kept() -> None:
    header = MAGIC + frame(HEADER, b"{}", 0)
    deep = b"[" * 50_000
    for bad in (
        MAGIC + frame(HEADER, b"", 0, length=format_.MAX_HEADER + 1),
        MAGIC + frame(HEADER, deep, 0),
        MAGIC + frame(HEADER, b"\xff{", 0),
        header + frame(SECTION, b"", 1, length=format_.MAX_SECTION + 1),
        header + frame(SECTION, b"", 1, block=2),
        header + frame(format_.MEMORY, b"x", 1, block=1),
        header + frame(format_.MEMORY, b"x", 1, position=3 * 4096),
        header + frame(format_.MEMORY, b"x", 1, position=(1 << 64) - 1),
        header + frame(END, b"short", 1),
        header + frame(99, b"", 1),
        header + frame(HEADER, b"{}", 1),
        frame(HEADER, b"{}", 0),
        MAGIC[:-1] + b"\x02" + frame(HEADER, b"{}", 0),
    ):
        with pytest.raises(StreamRefusedError):
            reader(memory()).write(bad)
    for bad in (header + frame(SECTION, b"", 1, length=format_.MAX_SECTION),):
        sink = reader(memory())
        sink.write(bad)
        with pytest.raises(StreamRefusedError, match="incomplete"):
            sink.judge()


def test_the_sections_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_, "MAX_SECTION", 100)
    header = MAGIC + frame(HEADER, b"{}", 0)
    sink = reader(memory())
    # One that comes again takes the place of the one before.
    sink.write(header + frame(SECTION, bytes(60), 1) + frame(SECTION, bytes(80), 2))
    sink.write(frame(SECTION, bytes(20), 3, block=1))
    with pytest.raises(StreamRefusedError, match="sections of 101 bytes"):
        sink.write(frame(SECTION, bytes(81), 4))


def test_a_fault_stays() -> None:
    sink = reader(memory())
    stream = bytearray(whole())
    stream[40] ^= 1
    with pytest.raises(StreamRefusedError) as first:
        sink.write(bytes(stream))
    sink.write(b"")
    for act in (lambda: sink.write(b"more"), sink.judge):
        with pytest.raises(StreamRefusedError, match=str(first.value)):
            act()


def test_memory_that_was_never_sent_is_missed() -> None:
    class Forgetful(TrackedMemory):
        def take(self, limit: int) -> object:
            self._cursor = max(self._cursor, 1)
            return super().take(limit)

    source = Forgetful("ram", memoryview(bytearray(3 * 4096)))
    sink = reader(memory())
    sink.write(drain(writer(source)))
    with pytest.raises(StreamRefusedError, match="4096 bytes of ram"):
        sink.judge()


def test_a_section_that_was_never_sent_is_missed() -> None:
    sink = reader()
    sink.write(drain(StreamWriter(HEADER_FIELDS, (), lambda: [(0, b"")])))
    with pytest.raises(StreamRefusedError, match="section 1"):
        sink.judge()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 20 * 4096 - 600), st.integers(1, 600)),
            st.tuples(st.just("read"), st.integers(1, 40_000), st.just(0)),
        ),
        max_size=30,
    )
)
def test_no_change_is_lost_in_any_order(steps: list[tuple[str, int, int]]) -> None:
    source = memory(20 * 4096)
    open_ = memory(4096, name="open", tracked=False)
    session = writer(source, open_)
    stream, initial = b"", session.info().initial
    for number, (what, one, other) in enumerate(steps, 1):
        if what == "write":
            source.write(one, bytes([number % 256]) * other)
            open_.view[number] = number % 256
        else:
            got = b"".join(bytes(part) for part in session.read(one, still=False))
            stream += got
            info = session.info()
            assert info.initial <= initial
            initial = info.initial
            assert (len(got) < one) <= (sum(info) == 0)
    stream += drain(session)
    target, open_target = memory(20 * 4096), memory(4096, name="open", tracked=False)
    sink = reader(target, open_target)
    sink.write(stream)
    sink.judge()
    assert target.view == source.view
    assert open_target.view == open_.view
    assert drain(session) == b""


def test_a_device_that_runs_on_after_the_end_gets_another_end() -> None:
    source, target = memory(), memory()
    session, sink = writer(source), reader(target)
    sink.write(drain(session))
    sink.judge()
    session.grows()
    assert drain(session, still=False) == b""
    source.write(4096, b"late")
    sink.write(drain(session, still=False))
    with pytest.raises(StreamRefusedError, match="incomplete"):
        sink.judge()
    sink.write(drain(session))
    sink.judge()
    assert target.view == source.view


def test_what_is_read_while_it_runs_is_a_copy() -> None:
    source = memory()
    session = writer(source)
    parts = session.read(1 << 20, still=False)
    source.write(0, b"changed")
    sink = reader(memory())
    for part in parts:
        sink.write(part)
    assert session.info().dirty == 4096 + FRAME.size


def test_what_is_read_at_the_end_is_not() -> None:
    source = memory()
    parts = writer(source).read(1 << 20, still=True)
    assert any(isinstance(part, memoryview) and part.obj is source.view.obj for part in parts)


def test_the_format_is_what_it_states() -> None:
    """Byte by byte, so that a change of the format is noticed; its number is in MAGIC."""
    stream = drain(writer(state=b"S"))
    assert [one.hex() for one in frames(stream)] == [
        "010000000e000000000000000000000000754e59000000007b22646576696365223a2278227d",
        "03000000010000000000000000000000c3ef60200100000053",
        "030001000000000000000000000000000000000002000000",
        "04000000200000005f000000000000009300e21f03000000"
        "49705bd731bed0afa119de2f8f80da3f974c7b9b33abac4093a1c03b9396443d",
    ]
    assert stream[:8] == b"VFIOMIG\x01"


def test_nothing_is_streamed_that_could_not_be_loaded() -> None:
    source = StreamWriter({}, [], lambda: [(1, bytes(format_.MAX_SECTION)), (2, b"x")])
    assert source.read(1, still=False)
    with pytest.raises(ValueError, match="16777217 bytes besides its memories"):
        source.read(1 << 20, still=True)
    source = StreamWriter({}, [], lambda: [(1, bytes(format_.MAX_SECTION - 1)), (2, b"x")])
    target = StreamReader([], [1, 2], lambda _reported: None)
    while parts := source.read(1 << 20, still=True):
        for part in parts:
            target.write(part)
    assert len(target.judge()[1]) == format_.MAX_SECTION - 1


def test_a_read_that_fails_can_be_made_again() -> None:
    """What it had taken before the device failed to save is not lost."""
    fails = [RuntimeError("not now")]

    def sections() -> list[tuple[int, bytes]]:
        if fails:
            raise fails.pop()
        return [(0, b"state")]

    plain = StreamWriter({}, [memory()], lambda: [(0, b"state")])
    source = StreamWriter({}, [memory()], sections)
    got = b"".join(source.read(40, still=True))
    with pytest.raises(RuntimeError, match="not now"):
        source.read(1 << 20, still=True)
    assert got + drain(source) == drain(plain)


@pytest.mark.parametrize("again", [False, True])
def test_memory_that_could_not_be_framed_is_not_lost(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page taken and not sent would be one that the destination never learns of."""

    def full(_content: memoryview) -> int:
        raise MemoryError

    source, target = memory(), memory()
    source.view[:] = random.Random(1).randbytes(source.size)
    saving, loading = writer(source), reader(target)
    if again:
        loading.write(drain(saving, still=False))
        source.write(4096, b"changed")
    with monkeypatch.context() as patch:
        patch.setattr(format_, "crc32_of_memory", full)
        with pytest.raises(MemoryError):
            saving.read(1 << 20, still=False)
    loading.write(drain(saving))
    assert loading.judge() == {0: b"state", 1: b""}
    assert target.view == source.view


def test_what_could_not_be_taken_in_is_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is written after it, and whatever was to be looked at when it failed."""

    def fails(*_what: object) -> None:
        raise OSError(28, "there is no memory left")

    stream, target = whole(), memory()
    looks = StreamReader([target], (0, 1), fails)
    takes = reader(target)
    monkeypatch.setattr(target, "put", fails)
    for loading in (looks, takes):
        with pytest.raises(OSError, match="no memory left"):
            loading.write(stream)
    monkeypatch.undo()
    head = len(MAGIC) + FRAME.size + len(json.dumps(HEADER_FIELDS, separators=(",", ":")))
    for loading in (looks, takes):
        for rest in (stream[head:], stream):
            with pytest.raises(StreamRefusedError):
                loading.write(rest)
            with pytest.raises(StreamRefusedError):
                loading.judge()
