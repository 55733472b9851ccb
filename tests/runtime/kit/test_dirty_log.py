"""DMA logging against a simple second opinion: a set of addresses."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.kit import dirty_log
from vfio_migration.runtime.kit.dirty_log import MAX_BITMAP, DirtyLog
from vfio_migration.runtime.kit.errors import CommandError
from vfio_migration.runtime.protocol.layout import LIMITS
from vfio_migration.runtime.protocol.messages.features import DmaLoggingReport

SPACE = 1 << 19
BASE = 0xFFFF_FFFF_FFF0_0000  # near the end of all addresses, where sums go wrong

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, SPACE - 1), st.integers(1, 9000)),
        st.tuples(st.just("report"), st.integers(0, SPACE - 1), st.integers(1, SPACE)),
    ),
    max_size=25,
)


def bits(bitmap: bytes, count: int) -> list[int]:
    words = struct.unpack(f"={len(bitmap) // 8}Q", bitmap)
    return [words[number // 64] >> (number % 64) & 1 for number in range(count)]


@pytest.mark.parametrize("base", [0, BASE])
@given(steps=steps, tracked=st.sampled_from([12, 13, 16]), asked=st.sampled_from([8, 12, 14, 17]))
def test_it_never_reports_too_little(
    base: int, steps: list[tuple[str, int, int]], tracked: int, asked: int
) -> None:
    log = DirtyLog()
    assert log.start(1 << tracked) == 1 << tracked
    unreported: set[int] = set()  # in units of 256 bytes, which divide all page sizes
    marked: set[int] = set()  # what may be reported at most: whole tracking pages
    for what, at, size in steps:
        size = min(size, SPACE - at)
        if what == "write":
            log.wrote(base + at, size)
            unreported |= set(range(at >> 8, ((at + size - 1) >> 8) + 1))
            marked |= set(range(at >> tracked, ((at + size - 1) >> tracked) + 1))
            continue
        at &= ~0xFF  # a report begins where units do; any page boundary would be one
        page = 1 << asked
        count = -(-size // page)
        bitmap = log.report(base + at, size, page)
        assert len(bitmap) == 8 * -(-count // 64)
        recorded = bits(bitmap, len(bitmap) * 8)
        assert not any(recorded[count:]), "bits outside of the range are zero"
        for unit in list(unreported):
            if at <= unit << 8 < at + size:
                assert recorded[((unit << 8) - at) // page]
                unreported.discard(unit)
        for number in range(count):
            first, last = at + number * page, min(at + (number + 1) * page, at + size) - 1
            if recorded[number]:
                pages = set(range(first >> tracked, (last >> tracked) + 1))
                assert pages & marked
        first, last = at >> tracked, (at + size) >> tracked
        covered = {p for p in marked if at <= p << tracked and (p + 1) << tracked <= at + size}
        marked -= covered
        assert first <= last


def test_a_page_reported_in_part_is_not_forgotten() -> None:
    log = DirtyLog()
    log.start(1 << 16)
    log.wrote(0x1F000, 1)
    assert not any(log.report(0x0, 0x10000, 4096))
    assert any(log.report(0x10000, 0x8000, 4096)), "too much may be reported"
    assert any(log.report(0x18000, 0x8000, 4096))
    assert any(log.report(0x10000, 0x10000, 4096))
    assert not any(log.report(0x10000, 0x10000, 4096))


def test_only_ranges_asked_for_are_logged() -> None:
    log = DirtyLog()
    log.start(4096, [(0x1000, 0x1000), (0x8000, 0x2000)])
    log.wrote(0, 0x10000)
    assert bits(log.report(0, 0x10000, 4096), 16) == [0, 1, 0, 0, 0, 0, 0, 0, 1, 1] + [0] * 6


@pytest.mark.parametrize(("hint", "taken"), [(1, 4096), (4096, 4096), (1 << 40, 1 << 30)])
def test_the_page_size_is_a_hint(hint: int, taken: int) -> None:
    assert DirtyLog().start(hint) == taken


def test_pages_are_those_of_4_kib_until_logging_is_on() -> None:
    assert DirtyLog().page_size == 4096


def test_the_longest_bitmap_fills_a_message_with_what_is_before_it() -> None:
    longest = DmaLoggingReport(0, 4096, 4096, bytes(MAX_BITMAP)).pack()
    assert len(longest) == LIMITS["max_data_xfer_size"].value


def test_a_write_of_nothing_marks_nothing() -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(1, 0)
    assert not any(log.report(0, 4096, 4096))


def test_a_report_in_larger_pages_has_one_bit_for_each_of_them() -> None:
    """Also where it begins at a border of one."""
    log = DirtyLog()
    log.start(4096)
    log.wrote(5 * 4096, 1)
    assert bits(log.report(0, 16 * 4096, 4 * 4096), 4) == [0, 1, 0, 0]
    assert not any(log.report(0, 16 * 4096, 4096))


def test_what_makes_no_sense_is_refused() -> None:
    log = DirtyLog()
    cases = [
        (lambda: log.report(0, 4096, 4096), "logging_off"),
        (lambda: log.start(0), "argument_invalid"),
        (lambda: log.start(4097), "argument_invalid"),
        (lambda: log.start(4096, [(0, 0)]), "argument_invalid"),
        (lambda: log.start(4096, [(1, (1 << 64) - 0)]), "argument_invalid"),
        (lambda: log.start(4096, [((1 << 64) - 4096, 8192)]), "argument_invalid"),
        (lambda: log.start(4096, [(-4096, 8192)]), "argument_invalid"),
    ]
    for act, occasion in cases:
        with pytest.raises(CommandError) as refusal:
            act()
        assert refusal.value.occasion == occasion
        assert not log.on
    log.start(4096)
    cases = [
        (lambda: log.start(4096), "logging_on"),
        (lambda: log.report(0, 0, 4096), "argument_invalid"),
        (lambda: log.report(0, 4096, 3), "argument_invalid"),
        (lambda: log.report(0, 4096, 5), "argument_invalid"),
        (lambda: log.report(-4096, 8192, 4096), "argument_invalid"),
        (lambda: log.report((1 << 64) - 4096, 8192, 4096), "argument_invalid"),
        (lambda: log.report(1, 1 << 64, 1 << 62), "argument_invalid"),
        (lambda: log.report(0, MAX_BITMAP * 8 * 4096 + 1, 4096), "over_bound"),
        (lambda: log.report(0, 1 << 64, 1), "over_bound"),
    ]
    for act, occasion in cases:
        with pytest.raises(CommandError) as refusal:
            act()
        assert refusal.value.occasion == occasion
    with pytest.raises(CommandError, match=f"a bitmap of {MAX_BITMAP + 8} bytes"):
        log.report(0, MAX_BITMAP * 8 * 4096 + 1, 4096)
    log.wrote(0, 4096)
    log.stop()
    log.stop()
    log.start(4096)
    assert not any(log.report(0, 4096, 4096)), "a new start begins anew"


def test_reports_of_much_memory_are_quick() -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(0, 1 << 34)
    bitmap = log.report(0, 1 << 34, 4096)
    assert bitmap == b"\xff" * len(bitmap)
    assert not any(log.report(0, 1 << 34, 4096))


def test_what_nobody_sees_is_not_forgotten() -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(0, 1)
    assert not any(log.report(0, 128 * 4096, 4096, room=15))
    assert bits(log.report(0, 128 * 4096, 4096, room=16), 1) == [1]
    log.wrote(0, 1)
    assert bits(log.report(0, 128 * 4096, 4096, room=1000), 1) == [1]
    assert not any(log.report(0, 128 * 4096, 4096, room=16))


@given(steps=steps, tracked=st.sampled_from([12, 13, 16]), asked=st.sampled_from([8, 12, 14, 17]))
def test_what_a_lost_report_contained_is_reported_again(
    steps: list[tuple[str, int, int]], tracked: int, asked: int
) -> None:
    """Every report is lost: nothing is forgotten, and nothing added where pages are alike."""
    log, calm = DirtyLog(), DirtyLog()
    log.start(1 << tracked)
    calm.start(1 << tracked)
    for what, at, size in steps:
        size = min(size, SPACE - at)
        if what == "write":
            log.wrote(BASE + at, size)
            calm.wrote(BASE + at, size)
            continue
        if asked == tracked:
            at &= -1 << asked
        bitmap = log.report(BASE + at, size, 1 << asked)
        log.unreport(BASE + at, size, 1 << asked, bitmap)
    page = 1 << tracked
    recorded = log.report(BASE, SPACE, page)
    expected = calm.report(BASE, SPACE, page)
    found, wanted = bits(recorded, SPACE // page), bits(expected, SPACE // page)
    assert all(not must or is_ for is_, must in zip(found, wanted, strict=True))
    if asked == tracked:
        assert found == wanted


def test_a_lost_report_of_a_log_that_was_stopped_brings_nothing_back() -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(0, 1)
    bitmap = log.report(0, 4096, 4096)
    log.stop()
    log.unreport(0, 4096, 4096, bitmap)
    log.start(4096)
    assert log.report(0, 4096, 4096) == bytes(8)


FAR = 1 << 27
"""How far apart two writes must be to be kept in different pieces of the log, in pages of 4 KiB."""


def test_a_log_that_is_full_reports_all_that_is_logged(monkeypatch) -> None:
    """It may report too much, never too little; and it keeps no more than its bound."""
    monkeypatch.setattr(dirty_log, "_MAX_CHUNKS", 8)
    log = DirtyLog()
    log.start(4096, [(0, 100 * FAR)])
    for number in range(8):
        log.wrote(number * FAR, 1)
    assert bits(log.report(0, 8 * 4096, 4096), 8) == [1, 0, 0, 0, 0, 0, 0, 0]
    log.wrote(0, 1)
    log.wrote(8 * FAR, 1)
    for _ in range(3):
        log.wrote(50 * FAR, 1)
        assert len(log._chunks) <= 8
        for at in (0, FAR, 8 * FAR, 50 * FAR, 99 * FAR + 4096):
            assert bits(log.report(at, 8 * 4096, 4096), 8) == [1] * 8
            assert bits(log.report(at + 5, 8 * 4096, 1 << 16), 2)[0] == 1
        assert not any(log.report(100 * FAR, 64 * 4096, 4096)), "what is not logged is clean"
    log.stop()
    log.start(4096)
    assert not any(log.report(0, 64 * 4096, 4096))


def test_pieces_of_the_log_in_which_nothing_is_marked_are_not_kept() -> None:
    log = DirtyLog()
    log.start(4096)
    for number in range(100):
        log.wrote(number * FAR, 1)
    for number in range(50):
        assert any(log.report(number * FAR, FAR, 4096))
    for number in range(50, 100):
        assert any(log.report(number * FAR, FAR, 1 << 16))
    assert not log._chunks


def test_the_bound_of_the_log_is_the_tables() -> None:
    row = load_wire().holding("log_chunks")
    assert (row.full, load_wire().bound("log_chunks")) == ("widened", dirty_log._MAX_CHUNKS)


@pytest.mark.parametrize("base", [0, 1 << 20, BASE])
def test_a_lost_report_marks_the_pages_it_had_and_no_others(base: int) -> None:
    log = DirtyLog()
    log.start(4096)
    for page in (2, 3, 9, 17):
        log.wrote(base + page * 4096, 1)
    bitmap = log.report(base, 20 * 4096, 4096)
    assert not any(log.report(base, 32 * 4096, 4096))
    log.unreport(base, 20 * 4096, 4096, bitmap)
    found = bits(log.report(base, 32 * 4096, 4096), 32)
    assert [page for page, is_set in enumerate(found) if is_set] == [2, 3, 9, 17]


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_last_page_of_which_a_part_is_reported_is_not_forgotten(page: int) -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(page * 4096, 1)
    for length in (page * 4096 + 256, page * 4096 + 4096):
        assert bits(log.report(0, length, 4096), page + 1)[page] == 1
    assert not any(log.report(0, 4 * 4096, 4096))


def test_a_log_that_is_full_reports_whole_pages_of_its_ranges_and_no_more(monkeypatch) -> None:
    monkeypatch.setattr(dirty_log, "_MAX_CHUNKS", 1)
    log = DirtyLog()
    log.start(4096, [(FAR + 256, 4096), (5 * FAR, 2 * 4096)])
    log.wrote(FAR + 256, 1)
    log.wrote(5 * FAR, 1)
    for start, pages in ((FAR, 2), (5 * FAR, 2)):
        found = bits(log.report(start - 4096, 6 * 4096, 4096), 6)
        assert found == [0] + [1] * pages + [0] * (5 - pages)
        assert bits(log.report(start - 8192, 6 * 8192, 8192), 6)[1] == 1


def test_pages_on_both_sides_of_a_report_stay_marked_where_they_are() -> None:
    log = DirtyLog()
    log.start(4096)
    log.wrote(0, 101 * 4096)
    assert all(bits(log.report(3 * 4096, 95 * 4096, 4096), 95))
    found = bits(log.report(0, 128 * 4096, 4096), 128)
    assert [page for page, is_set in enumerate(found) if is_set] == [0, 1, 2, 98, 99, 100]
