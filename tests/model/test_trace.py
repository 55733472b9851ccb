"""Traces go to JSON and back unchanged, and what is no trace is refused with its place."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.strategies import plain, traces
from vfio_migration.model import SpecError, Step, Trace

EXAMPLE = Trace(
    spec="vfio-v2",
    title="A device is stopped.",
    capabilities=(("STOP_COPY",), ("STOP_COPY", "P2P")),
    start=("RUNNING", "RUNNING"),
    steps=(
        Step(kind="request", device=1, to="STOP", state="RUNNING"),
        Step(kind="arc", device=1, from_="RUNNING", to="RUNNING_P2P", state="RUNNING_P2P"),
        Step(kind="refused", to=9, state="RUNNING", errno="EINVAL", note="no such value"),
        Step(kind="reset", state="RUNNING", session=None),
    ),
)


def test_the_example_as_text() -> None:
    data = json.loads(EXAMPLE.to_json())
    assert data["format"] == 1
    assert data["steps"][1] == {
        "kind": "arc",
        "device": 1,
        "from": "RUNNING",
        "to": "RUNNING_P2P",
        "state": "RUNNING_P2P",
    }
    assert Trace.from_json(EXAMPLE.to_json()) == EXAMPLE
    assert Trace.from_json(EXAMPLE.to_json().encode()) == EXAMPLE


@given(traces())
def test_round_trip(trace: Trace) -> None:
    text = trace.to_json()
    assert Trace.from_json(text) == trace
    assert Trace.from_json(text).to_json() == text
    assert hash(Trace.from_data(trace.to_data())) == hash(trace)
    assert [str(step) for step in Trace.from_json(text).steps] == [str(s) for s in trace.steps]


def edit(**changes):
    return EXAMPLE.to_data() | changes


def edit_step(index: int, **changes):
    data = EXAMPLE.to_data()
    data["steps"][index] |= changes
    return data


def without(key: str, step: int | None = None):
    data = EXAMPLE.to_data()
    del (data if step is None else data["steps"][step])[key]
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "trace: 3: is not an object"),
        ([], "trace: []: is not an object"),
        ({}, "format: is missing"),
        (edit(format=2), "format: 2: is not a trace format that is known; this version reads 1"),
        (
            edit(format=True),
            "format: true: is not a trace format that is known; this version reads 1",
        ),
        (edit(format=None), "format: is not a trace format that is known; this version reads 1"),
        (edit(spec=3), "spec: 3: is not a string"),
        (without("spec"), "spec: is missing"),
        (without("steps") | {"step": []}, 'steps: is missing; is "step" meant to be it?'),
        (edit(colour="red"), "colour: is a key that nothing reads"),
        (edit(start="RUNNING"), 'start: "RUNNING": is not a list'),
        (edit(start=["RUNNING", 3]), "start[1]: 3: is not a string"),
        (edit(start=["RUNNING"]), "start: has 1 devices where capabilities has 2"),
        (edit(capabilities=[["P2P"], "P2P"]), 'capabilities[1]: "P2P": is not a list'),
        (edit(capabilities=[["P2P", 3], []]), "capabilities[0][1]: 3: is not a string"),
        (edit(steps={}), "steps: {}: is not a list"),
        (edit(steps=[1]), "steps[0]: 1: is not an object"),
        (
            edit_step(0, kind="requests"),
            'steps[0].kind: "requests": is not a kind of step; did you mean "request"?',
        ),
        (
            edit_step(0, kind="xyzzy"),
            'steps[0].kind: "xyzzy": is not a kind of step; take one of request, arc, refused, '
            "arc_failed, arc_failed_for_good, reset, disconnect, note",
        ),
        (without("kind", 0), "steps[0].kind: is missing"),
        (without("state", 2), "steps[2].state: is missing"),
        (edit_step(1, state=None), "steps[1].state: is not a string"),
        (edit_step(1, device="1"), 'steps[1].device: "1": is not a whole number'),
        (edit_step(1, device=True), "steps[1].device: true: is not a whole number"),
        (
            edit_step(1, device=2),
            "steps[1].device: 2: is not a device of this trace; the trace has 2, counted from 0",
        ),
        (
            edit_step(1, device=-1),
            "steps[1].device: -1: is not a device of this trace; the trace has 2, counted from 0",
        ),
        (edit_step(1, session=1.5), "steps[1].session: 1.5: is not a whole number"),
        (edit_step(1, to=[]), "steps[1].to: []: is neither a state nor a number"),
        (edit_step(1, to=True), "steps[1].to: true: is neither a state nor a number"),
        (edit_step(1, errno=22), "steps[1].errno: 22: is not a string"),
        (
            edit_step(1, sesion=1),
            'steps[1].sesion: is a key that nothing reads; did you mean "session"?',
        ),
        (
            edit_step(1, from_="STOP"),
            'steps[1].from_: is a key that nothing reads; did you mean "from"?',
        ),
    ],
)
def test_what_is_no_trace(data: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Trace.from_data(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: is not valid JSON: Expecting value"),
        ('{\n"format": }', "line 2, column 11: is not valid JSON: Expecting value"),
        (b"\xff{}", "byte 0: is not valid JSON: it is not UTF-8"),
        ("[" * 100_000, "trace: is nested too deeply to be a trace"),
        ('{"format": ' + "9" * 5000 + "}", "trace: has a number that is too long to read"),
    ],
)
def test_what_is_no_json(text: str | bytes, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Trace.from_json(text)
    assert str(caught.value) == message


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_text_is_a_trace_or_refused(text: str | bytes) -> None:
    with pytest.raises(SpecError):
        Trace.from_json(text)


@given(traces(), st.data())
@examples(200)
def test_any_edit_is_a_trace_or_refused(trace: Trace, data: st.DataObject) -> None:
    edited = trace.to_data()
    target = data.draw(st.sampled_from([edited, *edited["steps"]]))
    key = data.draw(st.sampled_from([*target, "extra"]))
    if data.draw(st.booleans()):
        target.pop(key, None)
    else:
        target[key] = data.draw(plain())
    try:
        read = Trace.from_data(edited)
    except SpecError:
        return
    assert Trace.from_json(read.to_json()) == read


def test_steps_read_well() -> None:
    assert [str(step) for step in EXAMPLE.steps] == [
        "SET_STATE STOP",
        "arc RUNNING -> RUNNING_P2P",
        "refused (EINVAL): no such value",
        "reset",
    ]


def test_devices_may_have_names_and_notes_then_state_whom_they_are_about() -> None:
    steps = (
        Step(kind="arc", device=1, from_="STOP", to="RESUMING", state="RESUMING"),
        Step(kind="note", state="STOP", note="the journal has: both"),
    )
    sets = (("STOP_COPY",),) * 2
    plain = Trace(spec="vfio-v2", capabilities=sets, start=("STOP", "STOP"), steps=steps)
    named = dataclasses.replace(plain, names=("source", "destination"))
    assert Trace.from_json(named.to_json()) == named
    assert "names" not in plain.to_data()
    assert [plain.describe(step) for step in steps] == [
        "device 1: arc STOP -> RESUMING",
        "device 0: the journal has: both",
    ]
    assert [named.describe(step) for step in steps] == [
        "destination: arc STOP -> RESUMING",
        "the journal has: both",
    ]
    with pytest.raises(SpecError, match="names: has 1 names for 2 devices"):
        Trace.from_data(named.to_data() | {"names": ["source"]})
