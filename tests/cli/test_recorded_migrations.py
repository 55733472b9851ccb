"""Migrations as `migrate --record` writes them down, held by `check-trace`, and what is changed in
them on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.migration_harness import Harness

Line = dict[str, Any]


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, lines: list[Line]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def writes(lines: list[Line], device: str) -> list[list[Line]]:
    """Return each write of data into a device with its reply."""
    found = []
    for line in lines:
        if line.get("device") == device and line.get("command") == "MIG_DATA_WRITE":
            if line["what"] == "command":
                found.append([line])
            else:
                next(one for one in found if one[0]["id"] == line["id"] and len(one) == 1).append(
                    line
                )
    return [one for one in found if one[0]["size"]]


def left_out(lines: list[Line], pieces: list[list[Line]]) -> list[Line]:
    return [line for line in lines if not any(line is one for one in pieces[-1])]


def doubled(lines: list[Line], pieces: list[list[Line]]) -> list[Line]:
    at = next(i for i, line in enumerate(lines) if line is pieces[0][1])
    return [*lines[: at + 1], *pieces[0], *lines[at + 1 :]]


def altered(lines: list[Line], pieces: list[list[Line]]) -> list[Line]:
    pieces[0][0]["crc"] = "00000001"
    return lines


def refused(lines: list[Line], pieces: list[list[Line]]) -> list[Line]:
    pieces[-1][1]["errno"] = "EINVAL"
    return lines


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (left_out, "stream_truncated"),
        (doubled, "stream_doubled"),
        (altered, "stream_altered"),
        (refused, "write_refused"),
    ],
)
def test_what_is_changed_between_source_and_destination_is_found_in_the_recording(
    pair: Harness, cli: Any, change: Callable[..., list[Line]], check: str
) -> None:
    assert cli("migrate", "s0", "d0", "--record", "run.jsonl").status == 0
    lines = lines_of(Path("run.jsonl"))
    write(Path("run.jsonl"), change(lines, writes(lines, "d0")))
    ran = cli("check-trace", "run.jsonl", "--json")
    answer = json.loads(ran.out)
    assert (ran.status, answer["violation"]["check"]) == (1, check)
    assert answer["violation"]["device"] == "d0"
    wrong = [one for one in answer["findings"] if one["grade"] == "violation"]
    assert [one["check"] for one in wrong] == [check]


def test_the_recording_of_a_group_states_which_belong_together_and_all_streams_are_compared(
    two: Harness, cli: Any
) -> None:
    assert cli("migrate", "s0", "d0", "s1", "d1", "--record", "run.jsonl").status == 0
    lines = lines_of(Path("run.jsonl"))
    reported = [(one["device"], one["role"], one["pair"]) for one in lines if one.get("pair")]
    assert reported == [
        ("s0", "source", "d0"),
        ("d0", "destination", "s0"),
        ("s1", "source", "d1"),
        ("d1", "destination", "s1"),
    ]
    ran = cli("check-trace", "run.jsonl", "--strict")
    assert ran.status == 0, ran.out
    assert "streams compared 2" in ran.out
    # What each was given is taken for what the other was given.
    for line in lines:
        if line.get("role") == "destination":
            line["pair"] = {"s0": "s1", "s1": "s0"}[line["pair"]]
    write(Path("run.jsonl"), lines)
    assert cli("check-trace", "run.jsonl").status == 1


def test_a_recording_that_pairs_nobody_is_not_compared_and_states_it(
    pair: Harness, cli: Any
) -> None:
    assert cli("migrate", "s0", "d0", "--record", "run.jsonl").status == 0
    lines = [line for line in lines_of(Path("run.jsonl")) if "pair" not in line]
    altered(lines, writes(lines, "d0"))
    write(Path("run.jsonl"), lines)
    ran = cli("check-trace", "run.jsonl")
    assert ran.status == 0, ran.out
    assert "streams whose source is not named 1" in ran.out
