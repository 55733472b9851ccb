"""What a device reports to be left: never more than before, and nothing only at the end (S3)."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from vfio_migration.runtime.kit import state_stream as format_
from vfio_migration.runtime.kit.state_stream import StreamWriter, stream_length
from vfio_migration.runtime.kit.tracked_memory import PAGE_SIZE, TrackedMemory

HEADER: Final = {"device": "x"}
PAGES: Final = 5
SECTIONS: Final = [(0, b"registers"), (1, b"")]


def memory(size: int = PAGES * PAGE_SIZE, *, tracked: bool = True) -> TrackedMemory:
    return TrackedMemory("ram", memoryview(bytearray(size)), tracked=tracked)


def writer(*memories: TrackedMemory) -> StreamWriter:
    return StreamWriter(HEADER, memories, lambda: SECTIONS)


def read(source: StreamWriter, size: int, *, still: bool) -> int:
    return sum(map(len, source.read(size, still=still)))


SHORT: Final = (PAGES - 1) * PAGE_SIZE + 100
"""A size whose last page is not a whole one."""

cuts = st.lists(st.integers(1, 3 * PAGE_SIZE), min_size=1, max_size=40)
sizes = st.lists(st.sampled_from([PAGE_SIZE, SHORT, 20 * PAGE_SIZE]), min_size=1, max_size=3)


def test_initial_bytes_never_rises_if_a_stream_is_read_one_byte_at_a_time() -> None:
    source = writer(memory(20 * PAGE_SIZE))
    before = source.info().initial
    while read(source, 1, still=False):
        now = source.info().initial
        assert now == before - 1
        before = now
    assert before == 0


@given(sizes, cuts, st.integers(1, 3))
@examples(60)
def test_initial_bytes_never_rises_however_a_stream_is_read(
    parts: list[int], reads: list[int], pages: int
) -> None:
    """Whatever changes meanwhile, it falls by what is read, and is 0 once all of it is out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_, "MAX_RUN", pages * PAGE_SIZE)
        memories = [memory(size) for size in parts]
        source = writer(*memories)
        before = source.info().initial
        for turn, size in enumerate(chain(reads, repeat(PAGE_SIZE))):
            if turn < len(reads):
                memories[0].write((turn * PAGE_SIZE) % memories[0].size, b"!")
            got = read(source, size, still=False)
            now = source.info().initial
            assert max(0, before - got) <= now <= before
            before = now
            if not before:
                break
        for one in memories:
            initial, *_again = one.left(format_.MAX_RUN)
            assert not initial.size


@given(sizes, cuts, st.sets(st.integers(0, PAGES - 2)), st.integers(1, 3))
@examples(60)
def test_what_is_left_is_what_is_read_until_the_end(
    parts: list[int], reads: list[int], changed: set[int], pages: int
) -> None:
    """From pre-copy, with pages that changed meanwhile, to the end of the stream, to the byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_, "MAX_RUN", pages * PAGE_SIZE)
        memories = [memory(size) for size in parts]
        assert stream_length(HEADER, memories, lambda: SECTIONS) == writer(*memories).left()
        source = writer(*memories)
        for size in reads[: len(reads) // 2]:
            read(source, size, still=False)
        for page in changed:
            offset = page * PAGE_SIZE
            if offset < memories[0].size:
                memories[0].write(offset, b"!")
        before = source.left()
        for size in chain(reads, repeat(PAGE_SIZE)):
            got = read(source, size, still=True)
            assert source.left() == before - got
            before -= got
            if got < size:
                break
        assert before == 0


@given(cuts)
@examples(30)
def test_dirty_bytes_are_what_is_read_again(reads: list[int]) -> None:
    ram = memory(SHORT)
    source = writer(ram)
    read(source, 1 << 20, still=False)
    ram.write(0, b"!")
    ram.write(SHORT - 1, b"!")
    before = source.info().dirty
    assert before == PAGE_SIZE + 100 + 2 * format_.FRAME.size
    for size in chain(reads, repeat(PAGE_SIZE)):
        got = read(source, size, still=False)
        assert source.info() == (0, before - got)
        before -= got
        if got < size:
            break
    assert before == 0


def read_without_memory_for_a_copy(source, monkeypatch) -> None:
    """Read from a stream, which fails."""

    def fail(_view: memoryview) -> int:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(format_, "crc32_of_memory", fail)
        with pytest.raises(MemoryError):
            source.read(1, still=False)


def test_data_that_could_not_be_read_is_still_initial_data(monkeypatch) -> None:
    """There was no memory for the copy: what is left is what was left before."""
    source = writer(memory())
    read(source, source.info().initial - PAGES * PAGE_SIZE - format_.FRAME.size, still=False)
    before = source.info()
    read_without_memory_for_a_copy(source, monkeypatch)
    assert source.info() == before
    assert read(source, 1 << 20, still=False) == before.initial


def test_memory_that_a_client_has_mapped_is_no_initial_data_but_is_left() -> None:
    source = writer(memory(tracked=False))
    assert source.info().initial < PAGE_SIZE < source.left()


def test_new_initial_data_comes_before_what_changes_after_it() -> None:
    """And what was left to read when it was announced is part of it."""
    ram = memory()
    source = writer(ram)
    read(source, 1 << 20, still=False)
    ram.write(0, b"!")
    ram.write(3 * PAGE_SIZE, b"!")
    source.announce()
    framed = PAGE_SIZE + format_.FRAME.size
    assert source.announced() == (2 * framed, 0, True)
    ram.write(PAGE_SIZE, b"!")
    assert source.announced() == (2 * framed, framed, False)
    assert source.info() == (0, 3 * framed)
    for left in (framed, 0):
        assert read(source, framed, still=False) == framed
        assert source.announced() == (left, framed, False)
    assert read(source, framed, still=False) == framed
    assert source.announced() == (0, 0, False)


@given(
    st.sets(st.integers(0, PAGES - 1)),
    st.sets(st.integers(0, PAGES - 1)),
    cuts,
    st.integers(1, 3),
)
@examples(60)
def test_what_was_announced_falls_to_nothing_before_the_rest_does(
    before: set[int], after: set[int], reads: list[int], pages: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(format_, "MAX_RUN", pages * PAGE_SIZE)
        ram = memory()
        source = writer(ram)
        read(source, 1 << 20, still=False)
        for page in before:
            ram.write(page * PAGE_SIZE, b"!")
        source.announce()
        for page in after:
            ram.write(page * PAGE_SIZE, b"!")
        initial, dirty, _ = source.announced()
        assert source.info() == (0, initial + dirty)
        for size in chain(reads, repeat(PAGE_SIZE)):
            got = read(source, size, still=False)
            was, initial, dirty = initial, *source.announced()[:2]
            assert initial == max(0, was - got)
            assert source.info() == (0, initial + dirty)
            if not got:
                break
        assert (initial, dirty) == (0, 0)


def test_an_announcement_in_the_first_pass_adds_nothing_to_it() -> None:
    source = writer(memory())
    before = source.info()
    source.announce()
    assert source.announced() == (*before, True)
    assert source.announced() == (*before, False)


def test_announced_data_that_could_not_be_read_is_still_announced(monkeypatch) -> None:
    ram = memory()
    source = writer(ram)
    read(source, 1 << 20, still=False)
    ram.write(0, b"!")
    source.announce()
    before = source.announced()[:2]
    read_without_memory_for_a_copy(source, monkeypatch)
    assert source.announced()[:2] == before
