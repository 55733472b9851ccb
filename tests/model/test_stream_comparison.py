"""What was read from a source and what its destination was given, held against each other."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.scripted_run import SPEC, Script, found_in, grades
from support.transfer_runs import CUTS, DATA, Migration, cut, migration
from vfio_migration.model.conformance.findings import Examination
from vfio_migration.model.conformance.observation import Observation
from vfio_migration.model.conformance.stream_comparison import crc32_joined

A, B, C, D = cut(DATA, *CUTS)


@given(st.binary(max_size=300), st.binary(max_size=5000))
def test_the_crc_of_two_pieces_in_a_row_is_that_of_zlib(one: bytes, two: bytes) -> None:
    joined = crc32_joined(zlib.crc32(one), zlib.crc32(two), len(two))
    assert joined == zlib.crc32(one + two)


@pytest.mark.parametrize("size", [1, 2, 255, 1 << 20, (1 << 20) + 7, 3 << 20])
def test_the_crc_is_right_for_long_pieces_too(size: int) -> None:
    data = bytes(size)
    assert crc32_joined(zlib.crc32(b"abc"), zlib.crc32(data), size) == zlib.crc32(b"abc" + data)


CUT = st.lists(st.integers(0, len(DATA)), max_size=6)


@given(CUT, CUT)
def test_how_either_side_cuts_the_stream_means_nothing(reads: list[int], writes: list[int]) -> None:
    run = Migration().reads(*cut(DATA, *reads)).writes(*cut(DATA, *writes)).closes()
    assert [one for one in grades(run.lines) if one[0] == "violation"] == []


@given(CUT, CUT, st.integers(0, len(DATA) - 1), st.sampled_from(["altered", "left out", "again"]))
def test_whatever_is_changed_on_the_way_is_found_however_it_is_cut(
    reads: list[int], writes: list[int], at: int, how: str
) -> None:
    given_ = {
        "altered": DATA[:at] + bytes([DATA[at] ^ 4]) + DATA[at + 1 :],
        "left out": DATA[:at] + DATA[at + 1 :],
        "again": DATA[: at + 1] + DATA[at:],
    }[how]
    run = Migration().reads(*cut(DATA, *reads))
    run.writes(*cut(given_, *(one for one in writes if one < len(given_)))).closes()
    check = {"altered": "altered", "left out": "truncated", "again": "doubled"}[how]
    found = [one for one in grades(run.lines) if one[0] == "violation"]
    assert found == [("violation", f"stream_{check}")]


def test_pieces_that_change_places_are_reordered_and_where_is_stated() -> None:
    [(_, finding)] = found_in(migration(A, C, B, D).lines)
    assert finding.check == "stream_reordered"
    assert finding.reason == (
        "it was given what was read from src, in another order from byte 1000 on"
    )
    assert finding.allowed == ("an error", "the 10240 bytes of src, in their order")
    assert finding.situations == ("RESUMING",)


def test_a_source_that_was_not_read_to_its_end_is_truncated_whatever_was_written() -> None:
    [(_, finding)] = found_in(migration(DATA, end=False).lines)
    assert (finding.check, finding.grade) == ("stream_truncated", "violation")
    assert finding.reason == "src was not read to the final end of its stream"


def test_a_failed_write_followed_by_a_successful_close_is_a_violation() -> None:
    run = migration(A, B).lines[:-2]
    more = Migration()
    more.lines, more.next = run, 900
    more.writes(C, errno="EINVAL").writes(D).closes()
    assert [one for one in grades(more.lines) if one[0] == "violation"] == [
        ("violation", "write_refused")
    ]


def test_a_failed_write_is_made_good_by_writing_the_same_again() -> None:
    run = Migration().reads(A, B).writes(A).writes(B, errno="EAGAIN").writes(B[:9], B[9:])
    assert grades(run.closes().lines) == []


def test_a_destination_that_refuses_what_is_too_much_is_right() -> None:
    run = Migration().reads(A, B).writes(A, B).writes(b"more", errno="ENOMEM").closes()
    assert grades(run.lines) == []


def test_a_stream_that_was_incomplete_may_be_completed_after_a_refusal() -> None:
    """Linux: RESUMING -> STOP with an incomplete stream is EINVAL, and the session lives on."""
    run = Migration().reads(A, B).writes(A)
    run.set("STOP", "EINVAL").get("RESUMING").writes(B).on("dst").set("STOP")
    assert grades(run.lines) == []


def test_of_a_group_each_destination_is_compared_with_its_own_source() -> None:
    def group(first: bytes, second: bytes) -> Migration:
        run = Migration(("s0", "d0"), ("s1", "d1"))
        run.reads(A, device="s0").reads(B, device="s1")
        run.writes(first, device="d0").writes(second, device="d1")
        return run.closes("d0").closes("d1")

    assert grades(group(A, B).lines) == []
    assert [check for _, check in grades(group(B, A).lines)] == [
        "stream_doubled",
        "stream_truncated",
    ]


def test_a_second_migration_is_compared_with_what_was_read_in_it() -> None:
    run = migration(DATA)
    run.on("src").set("STOP").set("STOP_COPY").reads(A).on("dst").set("RESUMING").writes(A).closes()
    assert grades(run.lines) == []
    run = migration(DATA)
    run.on("src").set("STOP").set("STOP_COPY").reads(A).on("dst").set("RESUMING").writes(B).closes()
    assert [check for _, check in grades(run.lines)] == ["stream_doubled"]


def skipped(run: Script) -> dict[str, int]:
    examination = Examination(SPEC)
    for line in run.lines:
        found = examination.observe(Observation.of(line, SPEC))
        assert not [one for one in found if one.grade == "violation"]
    return {
        what: count for what, count in examination.unrestricted.items() if what.startswith("stream")
    }


def test_what_cannot_be_compared_is_counted_and_nothing_is_concluded() -> None:
    assert skipped(migration(A, reported=False)) == {"streams whose source is not named": 1}
    run = Migration()
    run.lines = [line for line in migration(A).lines if line["device"] == "dst"]
    assert skipped(run) == {"streams whose source was not read": 1}
    run = migration(A)
    for line in run.lines:
        line.pop("crc", None)
    assert skipped(run) == {"streams without a CRC-32": 1}
    begun = [i for i, line in enumerate(run.lines) if line.get("state") == "STOP_COPY"]
    run = migration(A)
    del run.lines[begun[0] - 2 : begun[0] + 2]
    assert skipped(run) == {"streams that were not seen whole": 1}


def test_a_write_without_a_reply_leaves_the_stream_uncertain() -> None:
    run = Migration().reads(A, B).writes(A)
    run.add("command", id=99, command="MIG_DATA_WRITE", size=7, crc="0", no_reply=True)
    assert skipped(run.closes()) == {"streams that were not seen whole": 1}


def test_a_source_that_has_ended_when_its_destination_takes_over_is_still_compared() -> None:
    lines = migration(A, B, C).lines
    run = Migration()
    run.lines, run.next = lines[:-2], 900
    run.on("src").add("gone", by="client")
    assert [check for _, check in grades(run.closes().lines)] == ["stream_truncated"]


def test_a_destination_that_is_reset_is_not_judged() -> None:
    run = Migration().reads(DATA).writes(A)
    run.on("dst").reset()
    assert grades(run.lines) == []
