"""What clients saw, held against the specification: real runs hold, and changed ones are caught.

`Answers` is a second checker, which shares no code with the first: whatever is changed in a run,
both name the same line, or none.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.explicit_answers import Answers, Anybody
from support.recorded_runs import cases, lines_of, sweep
from support.recording_mutations import values, without
from support.samples import sample, sampled
from support.scripted_run import SPEC, Line, Script, first_wrong, place, place_of_violation
from support.table_edits import table_data

WORDS = [int(one.value) for one in SPEC.capability_sets()]
STATES = [row.name for row in SPEC.states]
SETS = [list(SPEC.names(SPEC.capability_set(word))) for word in WORDS]
ANSWERS = Answers(table_data())
ANYBODY = Anybody(table_data())

# --- real runs, and what is changed in them ---


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """All states x all requests x all failing arcs, for each capability set."""
    place = tmp_path_factory.mktemp("runs")
    for word in WORDS:
        sweep(SPEC, word, place / f"{word}.jsonl")
    return {word: place / f"{word}.jsonl" for word in WORDS}


@sampled(4)
@pytest.mark.parametrize("word", WORDS)
def test_real_runs_hold(runs: dict[int, Path], word: int) -> None:
    lines = lines_of(runs[word])[1:]
    assert len(lines) > 1000
    assert first_wrong(lines) is None
    assert first_wrong(lines, capabilities=SPEC.capability_set(word)) is None
    assert ANSWERS.first_wrong([line for line in lines if line["what"] != "note"]) is None


def distinct(runs: dict[int, Path], word: int) -> list[list[Line]]:
    """The cases of a run, each with what comes before all of them; those alike only once."""
    before, found = cases(runs[word])
    # What is read and written before the first case is for the device.
    before = before[: 2 + next(i for i, line in enumerate(before) if "flags" in line)][:5]
    once = {repr([_plain(line) for line in case]): case for case in found}
    return [[*before, *case] for case in once.values()]


def _plain(line: Line) -> Line:
    return {key: value for key, value in line.items() if key not in ("id", "time")}


@pytest.mark.exhaustive
@pytest.mark.parametrize("word", sample(WORDS, 4))
def test_every_change_is_caught_where_it_can_be(runs: dict[int, Path], word: int) -> None:
    """Whatever one line states instead: it is caught at the line where the oracle catches it."""
    caught = allowed = 0
    for case in distinct(runs, word):
        for what, lines in itertools.chain(values(case, STATES, SETS), without(case)):
            expected = ANSWERS.first_wrong(lines)
            assert place(lines) == expected, what
            caught += expected is not None
            allowed += expected is None
    assert caught > 2 * allowed


@sampled(3)
@pytest.mark.parametrize("word", WORDS)
def test_a_command_or_a_reply_too_few_or_too_many(runs: dict[int, Path], word: int) -> None:
    for case in distinct(runs, word)[::5]:
        for index, line in enumerate(case):
            rest = [*case[:index], *case[index + 1 :]]
            again = [*case[: index + 1], line, *case[index + 1 :]]
            if line["what"] == "command":
                assert place(rest) == index  # where its reply is now
            elif line["what"] == "reply":
                # Nobody knows what came of it, which is no violation.
                assert place(rest) is None
                assert place(again) == index + 1


# --- anything at all ---

ERRNO = st.sampled_from([None, None, None, "EINVAL", "EIO"])
READ = st.sampled_from([0, 3, 10, 11, "EINVAL", "EIO"])
STEP = st.one_of(
    st.tuples(st.just("set"), st.sampled_from([*STATES, 99]), ERRNO),
    st.tuples(st.just("get"), st.sampled_from(STATES), st.none()),
    st.tuples(st.just("read"), st.sampled_from([0, 10]), READ),
    st.tuples(st.just("write"), st.sampled_from([0, 10]), ERRNO),
    st.tuples(st.just("reset"), st.none(), ERRNO),
    st.tuples(st.just("gone"), st.none(), st.none()),
    st.tuples(st.just("flags"), st.sampled_from(SETS), st.none()),
)


@given(steps=st.lists(STEP, max_size=12))
@examples(600)
def test_anything_is_judged_as_the_oracle_does(steps: list[Any]) -> None:
    run = made_of(steps)
    assert place(run.lines) == ANSWERS.first_wrong(run.lines)


@given(steps=st.lists(STEP, max_size=12))
@examples(600)
def test_a_violation_is_what_the_oracle_of_the_text_does_not_allow(steps: list[Any]) -> None:
    run = made_of(steps)
    found, strict = place_of_violation(run.lines), place(run.lines)
    assert found == ANYBODY.first_wrong(run.lines)
    # Nobody is held to more than our own server is.
    assert found is None or (strict is not None and strict <= found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("word", WORDS)
def test_every_change_is_a_violation_where_the_oracle_of_the_text_states_it(
    runs: dict[int, Path], word: int
) -> None:
    caught = allowed = 0
    for case in distinct(runs, word)[::7]:
        for what, lines in itertools.chain(values(case, STATES, SETS), without(case)):
            expected = ANYBODY.first_wrong(lines)
            assert place_of_violation(lines) == expected, what
            caught += expected is not None
            allowed += expected is None
    assert caught
    assert allowed


def made_of(steps: list[Any]) -> Script:
    run = Script()
    for kind, one, two in steps:
        match kind:
            case "set":
                run.set(one, two)
            case "get":
                run.get(one)
            case "read":
                run.read(one, two)
            case "write":
                run.write(one, two)
            case "reset":
                run.reset(two)
            case "flags":
                run.flags(one)
            case _:
                run.add("gone").add("connected")
    return run


@given(word=st.sampled_from(WORDS), seed=st.randoms(use_true_random=False))
@examples(150)
def test_no_walk_of_a_device_is_ever_a_violation(word: int, seed: Any) -> None:
    """A device made up by the oracle: whatever it answers, it is allowed to."""
    run = Script()
    at = ANSWERS._new(word, "RUNNING")
    for _ in range(30):
        table = ANSWERS.tables[word]
        transfer = table.transfer[at.state]
        match seed.choice(("set", "set", "set", "get", "read", "write", "reset", "gone")):
            case "set":
                target = seed.choice([*STATES, 99])
                end = seed.choice(ANSWERS._requests(at, target))
                at = end.at
                errno = end.errno or seed.choice(["EIO", "EINVAL"])
                run.set(target, None if end.success else errno)
            case "get":
                run.get(at.state)
            case "read":
                got = seed.choice((0, 5, 10)) if transfer == "read" and not at.ended else 0
                run.read(10, got if transfer == "read" else "EINVAL")
                at = next(ANSWERS._read(at, 10, got if transfer == "read" else "EINVAL"))
            case "write":
                run.write(5, None if transfer == "write" else "EINVAL")
                at = at._replace(fed=at.fed or transfer == "write")
            case "reset":
                run.reset()
                at = ANSWERS._lands(at, "reset")
            case _:
                run.add("gone").add("connected")
    run.holds()
