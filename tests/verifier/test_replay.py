"""Traces run again on the live engine: those it agrees with, and each way not to agree."""

from __future__ import annotations

import dataclasses
import random
from typing import Any, get_args

import pytest

from support.samples import sample, sampled
from support.table_edits import BROKEN, broken, spec_of, table_data
from vfio_migration.model import Spec, SpecError, Step, Trace, load
from vfio_migration.model.trace import StepKind
from vfio_migration.runtime import ArcError, Engine, EngineError, Recorder
from vfio_migration.verifier import Example, verify
from vfio_migration.verifier.mutation.edits import mutants
from vfio_migration.verifier.report.replay import Replay, replay, second_opinion

ALL = ("STOP_COPY", "P2P", "PRE_COPY")
SETS = (("STOP_COPY",), ("STOP_COPY", "P2P"), ALL)


def trace(*steps: Step, start: str = "RUNNING", names: tuple[str, ...] = ALL) -> Trace:
    return Trace(spec="vfio-v2", capabilities=(names,), start=(start,), steps=steps)


def step(kind: Any, state: str, **about: Any) -> Step:
    return Step(kind=kind, state=state, **about)


def arc(from_: str, to: str, session: int | None = None) -> Step:
    return step("arc", to, from_=from_, to=to, session=session)


STOP_IT = (
    step("request", "RUNNING", to="STOP"),
    arc("RUNNING", "RUNNING_P2P"),
    arc("RUNNING_P2P", "STOP"),
)


class Clumsy:
    """A device that fails every now and then, reproducibly."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def take(self, *_about: object) -> None:
        self._perhaps()

    def reset(self, *_about: object) -> None:
        self._perhaps()

    def disconnect(self, *_about: object) -> None:
        self._perhaps()

    def _perhaps(self) -> None:
        kind = self.random.randrange(8)
        if kind == 0:
            raise ArcError("once", errno="EBUSY")
        if kind == 1:
            raise ArcError("for good", for_good=True)
        if kind == 2:
            raise RuntimeError("what is this")


def recorded(spec: Spec, seed: int, names: tuple[str, ...], maxlen: int = 10_000) -> Trace:
    chance = random.Random(seed)
    recorder = Recorder(maxlen)
    engine = Engine(spec, names, Clumsy(seed), observers=[recorder])
    for _ in range(60):
        try:
            match chance.randrange(12):
                case 0 | 1 | 2:
                    engine.reset()
                case 3:
                    engine.disconnect()
                case 4:
                    engine.set_state(chance.randrange(8, 100))
                case _:
                    engine.set_state(chance.randrange(8))
        except EngineError:
            pass
    return recorder.trace()


@pytest.mark.parametrize("seed", range(12))
def test_what_an_engine_did_another_does_again(spec: Spec, seed: int):
    """Failing arcs, resets and disconnects, refusals, errnos of the device's own: all of it."""
    run = recorded(spec, seed, SETS[seed % 3])
    assert len(run.steps) > 60
    again = replay(Trace.from_json(run.to_json()), spec)
    assert again.agrees, again.difference
    assert again.compared == len(run.steps)


def test_these_runs_hold_every_kind_of_step(spec: Spec):
    runs = [recorded(spec, seed, SETS[seed % 3]) for seed in range(12)]
    kinds = {one.kind for run in runs for one in run.steps}
    assert kinds == set(get_args(StepKind)) - {"note"}
    notes = {str(one.note).partition(":")[0] for run in runs for one in run.steps}
    assert {"no arc, but reset failed", "no arc, but disconnect failed"} <= notes


@pytest.mark.parametrize("seed", range(6))
def test_a_run_of_which_the_beginning_is_lost_is_replayed_from_where_it_begins(spec, seed):
    """It begins anywhere, ERROR included, with session numbers far from 1."""
    run = recorded(spec, seed, ALL, maxlen=25)
    again = replay(run, spec)
    assert again.agrees, again.difference


@pytest.mark.parametrize("start", ["RUNNING_P2P", "STOP", "STOP_COPY", "RESUMING", "ERROR"])
def test_a_trace_may_begin_in_any_state(spec: Spec, start: str):
    assert replay(trace(step("reset", "RUNNING"), start=start), spec).agrees


def test_a_state_only_failing_leads_to_is_reached_by_failing(spec: Spec):
    """RUNNING_P2P cannot be asked for in this table: but a request can fail there."""
    states = tuple(
        dataclasses.replace(row, settable=row.name not in ("RUNNING_P2P", "ERROR"))
        for row in spec.states
    )
    shy = dataclasses.replace(spec, states=states)
    names = ("STOP_COPY", "P2P")
    there = (step("request", "RUNNING_P2P", to="STOP"), arc("RUNNING_P2P", "STOP"))
    assert replay(trace(*there, start="RUNNING_P2P", names=names), shy).agrees


def test_a_start_nothing_leads_to_is_a_difference_at_step_0(spec: Spec):
    found = replay(trace(*STOP_IT, start="RUNNING_P2P", names=("STOP_COPY",)), spec)
    assert found.difference is not None
    assert found.difference.step == 0
    assert found.difference.engine == "nothing leads from RUNNING to RUNNING_P2P"
    assert found.compared == 0
    assert set(found.steps) == {"not compared"}


def test_a_table_the_engine_refuses_is_a_difference_at_step_0(spec: Spec):
    events = tuple(
        dataclasses.replace(row, to="RUNNING_P2P") if row.name == "reset" else row
        for row in spec.events
    )
    wrong = dataclasses.replace(spec, events=events)
    found = replay(trace(step("reset", "RUNNING_P2P"), names=("STOP_COPY",)), wrong)
    assert found.difference is not None
    assert found.difference.step == 0
    assert "refuses this table: events[2].to" in found.difference.engine


def test_notes_are_skipped_and_counted(spec: Spec):
    note = step("note", "RUNNING", note="the device: start_dma")
    found = replay(trace(STOP_IT[0], note, *STOP_IT[1:], note), spec)
    assert found.steps == ("same", "skipped", "same", "same", "skipped")
    assert (found.compared, found.skipped) == (3, 2)
    assert str(found) == "the live engine does the same (3 steps, 2 it takes no part in)"


def test_a_trace_may_end_in_the_middle_of_a_request(spec: Spec):
    assert replay(trace(*STOP_IT[:2]), spec).agrees
    assert replay(trace(STOP_IT[0]), spec).agrees


def test_requests_by_value_are_the_same_as_by_name(spec: Spec):
    assert replay(trace(dataclasses.replace(STOP_IT[0], to=1), *STOP_IT[1:]), spec).agrees
    refused = step("refused", "RUNNING", errno="EINVAL")
    assert replay(trace(step("request", "RUNNING", to=99), refused), spec).agrees


def test_arcs_that_no_request_asks_for_are_asked_for_one_by_one(spec: Spec):
    steps = (arc("RUNNING", "PRE_COPY", 1), arc("PRE_COPY", "RUNNING"), *STOP_IT)
    assert replay(trace(*steps), spec).agrees
    assert not replay(trace(arc("RUNNING", "STOP")), spec).agrees


def test_devices_of_one_trace_have_an_engine_each(spec: Spec):
    def of(device: int, *steps: Step) -> list[Step]:
        return [dataclasses.replace(one, device=device) for one in steps]

    first, second = of(0, *STOP_IT), of(1, *STOP_IT)
    mixed = [one for pair in zip(first, second, strict=True) for one in pair]
    both = Trace(
        spec="vfio-v2", capabilities=(ALL, ALL), start=("RUNNING", "RUNNING"), steps=tuple(mixed)
    )
    assert replay(both, spec).agrees
    wrong = dataclasses.replace(mixed[3], state="STOP")
    found = replay(dataclasses.replace(both, steps=(*mixed[:3], wrong, *mixed[4:])), spec)
    assert found.difference is not None
    assert found.difference.step == 4
    assert found.steps == ("same", "same", "same", "differs", "not compared", "not compared")
    assert second_opinion(Example("two", both), spec) == ""


PRE_COPY = (step("request", "RUNNING", to="PRE_COPY"), arc("RUNNING", "PRE_COPY", 1))
FAILS = {"from_": "RUNNING", "to": "PRE_COPY"}


@pytest.mark.parametrize(
    ("steps", "number", "engine"),
    [
        ((STOP_IT[0], arc("RUNNING", "STOP")), 2, "arc RUNNING -> RUNNING_P2P"),
        ((*STOP_IT, arc("STOP", "RUNNING")), 4, "arc STOP -> RUNNING_P2P"),
        ((*STOP_IT[:2], step("reset", "RUNNING")), 3, "arc RUNNING_P2P -> STOP"),
        ((PRE_COPY[0], arc("RUNNING", "PRE_COPY")), 2, "PRE_COPY with session 1"),
        ((*PRE_COPY, step("reset", "RUNNING", session=1)), 3, "RUNNING with no session"),
        ((*PRE_COPY, step("reset", "STOP")), 3, "RUNNING with no session"),
        ((step("request", "RUNNING", to="ERROR"), *STOP_IT), 2, "refused (EINVAL)"),
        (
            (STOP_IT[0], step("refused", "RUNNING", to="STOP", errno="EINVAL")),
            2,
            "arc RUNNING -> RUNNING_P2P",
        ),
        (
            (step("request", "RUNNING", to=9), step("refused", "RUNNING", errno="EPERM")),
            2,
            "refused (EINVAL)",
        ),
        (
            (PRE_COPY[0], step("arc_failed", "RUNNING", errno="EIO", session=1, **FAILS)),
            2,
            "RUNNING with no session",
        ),
        (
            (PRE_COPY[0], step("arc_failed_for_good", "RUNNING", **FAILS)),
            2,
            "ERROR with no session",
        ),
        ((step("request", "RUNNING", to="RUNNING"), step("refused", "RUNNING")), 2, "stays in"),
    ],
)
def test_the_first_difference_is_named(spec: Spec, steps: Any, number: int, engine: str):
    found = replay(trace(*steps), spec)
    assert found.difference is not None
    assert found.difference.step == number
    assert engine in found.difference.engine
    assert found.steps[number - 1] == "differs"
    assert set(found.steps[: number - 1]) <= {"same"}
    assert f"differs at step {number}: " in second_opinion(Example("", trace(*steps)), spec)


def test_a_session_may_have_another_number_but_not_that_of_an_earlier_one(spec: Spec):
    def two(first: int, second: int) -> Replay:
        begun = step("request", "RUNNING", to="PRE_COPY")
        back = step("reset", "RUNNING")
        opened = (arc("RUNNING", "PRE_COPY", first), arc("RUNNING", "PRE_COPY", second))
        return replay(trace(begun, opened[0], back, begun, opened[1]), spec)

    assert two(1, 2).agrees
    assert two(7, 9).agrees
    difference = two(1, 1).difference
    assert difference is not None
    assert difference.step == 5


@pytest.mark.exhaustive  # in `make test` are those of family D (test_device.py)
def test_every_counterexample_of_a_broken_table_can_be_asked_about():
    """No trace of families T and D makes replay raise; what differs is listed here.

    D8 is about a request that turns out half-way to lead nowhere, stepped as Linux does; the
    engine looks ahead and refuses it at once. T7 is about a table the engine refuses.
    """
    differs = {}
    for path in sorted(BROKEN.glob("[dt]*.toml")):
        edit, data = broken(path)
        try:
            spec = spec_of(data)
        except SpecError:
            continue  # load refuses it by now: nothing to replay
        (verdict,) = verify(spec, only=[edit["breaks"]]).verdicts
        assert verdict.example is not None
        opinion = second_opinion(verdict.example, spec)
        if opinion and not opinion.startswith("the live engine does the same"):
            differs[path.stem] = opinion.partition(":")[0]
    assert differs == {
        "d8-refused-half-way": "the live engine differs at step 2",
        "t7-reset-to-unsupported": "the live engine differs at step 0",
    }


CONTRADICTIONS = [
    "arc-added:STOP_COPY->PRE_COPY_P2P",  # its own refusal stays: only an unchecked table has this
    "arc-added:RUNNING->ERROR",
    "arc-added:STOP->ERROR",
    "arc-added:ERROR->RUNNING",
    "refusal-added:RUNNING->STOP",
    "refusal-added:STOP->RUNNING",
    "refusal-added:PRE_COPY->STOP_COPY",
    "settable:states[5].settable=false",
]


@sampled(2)
@pytest.mark.parametrize("id_", sample(CONTRADICTIONS, 4))
def test_where_rows_contradict_each_other_the_run_shown_is_what_the_engine_does(id_: str):
    """An arc that a row refuses to let anybody ask for: no trace claims that it is taken."""
    (mutant,) = (one for one in mutants(load()) if one.id == id_)
    verdicts = [v for v in verify(mutant.table, only=["T"]).verdicts if v.outcome == "violated"]
    assert verdicts
    opinions = {v.id: second_opinion(v.example, mutant.table) for v in verdicts if v.example}
    assert all(
        text.startswith("the live engine does the same") for text in opinions.values() if text
    )
    assert any(opinions.values())


def test_an_example_that_is_no_run_has_no_second_opinion(spec: Spec):
    assert second_opinion(Example("only words"), spec) == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"spec": "vfio-v3"}, 'spec: "vfio-v3": is the name of another table'),
        ({"start": (), "capabilities": (), "steps": ()}, "start: is empty"),
        (
            {"start": ("RUNING",)},
            'start[0]: "RUNING": there is no such state in this table; did you mean',
        ),
        (
            {"capabilities": (("STOP_COPY", "P2PP"),)},
            'capabilities[0]: "P2PP": there is no such capability',
        ),
        ({"capabilities": ((),)}, "capabilities[0]: "),
        ({"steps": (step("reset", "RUNING"),)}, 'steps[0].state: "RUNING": there is no such state'),
        (
            {"steps": (step("request", "STOP", to="HALT"),)},
            'steps[0].to: "HALT": there is no such state',
        ),
        ({"steps": (step("request", "STOP"),)}, "steps[0].to: is missing from a request"),
        ({"steps": (arc("RUNING", "STOP"),)}, 'steps[0].from: "RUNING": there is no such state'),
        (
            {"steps": (step("arc_failed", "STOP", errno="EI0"),)},
            'steps[0].errno: "EI0": is not an err',
        ),
        ({"steps": (step("refused", "STOP", errno="errorcode"),)}, "steps[0].errno"),
    ],
)
def test_a_trace_that_is_none_of_this_table_is_wrong_input(spec, wrong, message):
    made = dataclasses.replace(trace(*STOP_IT), **wrong)
    with pytest.raises(SpecError) as error:
        replay(made, spec)
    assert message in str(error.value)
    assert second_opinion(Example("", made), spec).startswith(
        "the live engine cannot be asked: "
    ) or (not made.start)


def test_it_is_the_table_that_is_replayed_and_not_a_copy(spec: Spec):
    """The trace of a broken table is right there, and wrong on the real one."""
    edit, data = broken(BROKEN / "d12-reset-to-stop.toml")
    there = spec_of(data)
    (verdict,) = verify(there, only=[edit["breaks"]]).verdicts
    assert verdict.example is not None
    assert verdict.example.trace is not None
    assert replay(verdict.example.trace, there).agrees
    assert not replay(verdict.example.trace, spec_of(table_data())).agrees
    assert spec.name == there.name


def test_a_run_of_several_devices_need_not_follow_sessions(spec: Spec) -> None:
    """The provers of streams and groups show where devices are, and no session."""
    steps = (
        Step(kind="arc", device=0, from_="RUNNING", to="PRE_COPY", state="PRE_COPY"),
        Step(kind="arc", device=1, from_="STOP", to="RESUMING", state="RESUMING"),
    )
    both = (("STOP_COPY", "PRE_COPY"),) * 2
    trace = Trace(spec=spec.name, capabilities=both, start=("RUNNING", "STOP"), steps=steps)
    assert replay(trace, spec).agrees
    # One that does is held to it, and so is a run of one device.
    reports = (dataclasses.replace(steps[0], session=1), steps[1])
    assert not replay(dataclasses.replace(trace, steps=reports), spec).agrees
    alone = Trace(spec=spec.name, capabilities=both[:1], start=("RUNNING",), steps=steps[:1])
    assert not replay(alone, spec).agrees
