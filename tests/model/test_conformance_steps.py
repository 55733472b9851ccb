"""What an engine said of its device, held against the table: logs of servers, and traces."""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.recorded_runs import sweep
from support.samples import sampled
from support.table_edits import BROKEN, broken, spec_of
from vfio_migration.model import SpecError, Step, Trace, load
from vfio_migration.model.conformance.followed import Violation
from vfio_migration.model.conformance.log import LogConformance
from vfio_migration.model.conformance.trace import check_trace
from vfio_migration.runtime import ArcError, Engine, EngineError, Recorder
from vfio_migration.verifier import verify
from vfio_migration.verifier.report.replay import replay
from vfio_migration.verifier.report.scripted_device import ScriptedDevice

Line = dict[str, Any]
SPEC = load()
WORDS = [int(one.value) for one in SPEC.capability_sets()]
STATES = [row.name for row in SPEC.states]


def first_wrong(lines: list[Line], **options: Any) -> tuple[int, Violation] | None:
    conformance = LogConformance(SPEC, **options)
    for index, line in enumerate(lines):
        violation = conformance.observe(line)
        if violation is not None:
            return index, violation
    return None


def reports(event: str, what: str = "", outcome: str = "completed", **about: Any) -> Line:
    return {"event": event, "what": what, "outcome": outcome} | about


SERVING = {
    "event": "serving",
    "flags": "STOP_COPY,P2P,PRE_COPY",
    "spec": "vfio-v2",
    "state": "RUNNING",
}
QUIESCED = reports("transition", "RUNNING -> RUNNING_P2P", state="RUNNING_P2P")
STOPPED = reports("transition", "RUNNING_P2P -> STOP", state="STOP")
SAVES = reports("transition", "RUNNING -> PRE_COPY", state="PRE_COPY", session=1)
GIVES_UP = reports("transition", "PRE_COPY -> RUNNING", state="RUNNING")


def breaks(*lines: Line) -> Violation:
    """The last line is the first that is wrong."""
    found = first_wrong([SERVING, *lines])
    assert found is not None, "every step is allowed"
    assert found[0] == len(lines), found
    return found[1]


def test_an_arc_that_is_none() -> None:
    wrong = breaks(
        QUIESCED, reports("transition", "RUNNING_P2P -> STOP_COPY", state="STOP_COPY", session=1)
    )
    assert wrong.reason == "there is no such arc with STOP_COPY,P2P,PRE_COPY"
    assert wrong.allowed == (
        "RUNNING_P2P -> RUNNING",
        "RUNNING_P2P -> STOP",
        "RUNNING_P2P -> PRE_COPY_P2P",
    )
    assert wrong.situations == ("RUNNING_P2P with no session",)


def test_an_arc_of_another_capability_set() -> None:
    joined = reports("transition", "RUNNING -> STOP", state="STOP")
    assert "no such arc with" in breaks(joined).reason
    assert first_wrong([SERVING | {"flags": "STOP_COPY"}, joined]) is None
    # Without the line that states it, any set that fits.
    assert first_wrong([joined]) is None
    assert first_wrong([joined, reports("transition", "STOP -> RUNNING_P2P", state="RUNNING_P2P")])


def test_arcs_out_of_order() -> None:
    wrong = breaks(STOPPED)
    assert wrong.reason == "it begins in RUNNING_P2P, and the device is in RUNNING"


def test_an_arc_that_ends_elsewhere() -> None:
    assert breaks(QUIESCED | {"state": "STOP"}).row == "[[arcs]] RUNNING -> RUNNING_P2P"


def test_sessions() -> None:
    assert (
        breaks(SAVES | {"session": None}).reason == "it opens a data session, and none is reported"
    )
    wrong = breaks(SAVES, GIVES_UP, SAVES)
    assert wrong.reason == "it opens a data session, and 1 is the number of an earlier one"
    assert wrong.row == "[[session_effects]] none -> saving"
    quiesces = reports("transition", "PRE_COPY -> PRE_COPY_P2P", state="PRE_COPY_P2P", session=2)
    assert breaks(SAVES, quiesces).allowed == ("session 1",)
    assert breaks(SAVES, GIVES_UP | {"session": 1}).allowed == ("no session",)


def test_failures() -> None:
    failed = reports("transition", "RUNNING -> RUNNING_P2P", "failed", state="RUNNING", errno="EIO")
    request = reports(
        "request", "RUNNING -> STOP", "failed", state="RUNNING", errno="EIO", target="STOP"
    )
    assert first_wrong([SERVING, failed, request]) is None
    assert breaks(request).reason == "no arc has failed"
    wrong = breaks(failed, QUIESCED)
    assert wrong.reason == "arc RUNNING -> RUNNING_P2P has failed, and its request not yet"
    other = request | {"what": "RUNNING -> PRE_COPY", "target": "PRE_COPY"}
    assert breaks(failed, other).reason == (
        "its path does not lead to arc RUNNING -> RUNNING_P2P, which failed"
    )
    wrong = breaks(failed | {"state": "STOP"})
    assert wrong.allowed == ("RUNNING with no session", "ERROR with no session")


def test_refusals() -> None:
    refused = reports(
        "request", "RUNNING -> ERROR", "refused", state="RUNNING", errno="EINVAL", target="ERROR"
    )
    assert first_wrong([SERVING, refused]) is None
    assert breaks(refused | {"errno": "EIO"}).allowed == ("refused (EINVAL)",)
    assert breaks(refused | {"state": "ERROR"}).row == "[[requests]] target_not_settable"
    legal = refused | {"what": "RUNNING -> STOP", "target": "STOP"}
    wrong = breaks(legal)
    assert wrong.reason == "the table accepts this request"
    assert wrong.allowed == ("RUNNING -> RUNNING_P2P -> STOP",)
    number = refused | {"what": "RUNNING -> ?", "target": 77}
    assert first_wrong([SERVING, number]) is None
    nothing = reports("request", "RUNNING -> RUNNING", state="RUNNING", target="RUNNING")
    assert first_wrong([SERVING, nothing]) is None
    assert breaks(nothing | {"what": "RUNNING -> STOP", "target": "STOP"})


def test_events() -> None:
    assert first_wrong([SERVING, SAVES, reports("reset", "PRE_COPY", state="RUNNING")]) is None
    assert breaks(SAVES, reports("reset", "PRE_COPY", state="PRE_COPY")).row == "[[events]] reset"
    assert breaks(SAVES, reports("reset", "PRE_COPY", state="RUNNING", session=1))
    assert breaks(SAVES, reports("reset", "RUNNING", state="RUNNING"))
    ended = reports("disconnect", "PRE_COPY", state="PRE_COPY", session=1)
    assert first_wrong([SERVING, SAVES, ended, {"event": "connected", "state": "PRE_COPY"}]) is None
    assert breaks(SAVES, ended | {"session": None}).row == "[[events]] disconnect"
    wrong = breaks(SAVES, ended, {"event": "connected", "state": "RUNNING"})
    assert wrong.reason == "nothing has moved it since it was in PRE_COPY"
    assert first_wrong([SERVING, reports("reset", "RUNNING", "failed", state="ERROR")]) is None
    assert breaks(reports("reset", "RUNNING", "failed", state="RUNNING"))


def test_a_server_begins_with_a_device_that_was_just_made() -> None:
    assert first_wrong([SERVING | {"state": "STOP"}])
    # A second server in the same file: another device, whose sessions count anew.
    assert first_wrong([SERVING, SAVES, SERVING, SAVES]) is None
    given = SPEC.capability_set("STOP_COPY")
    assert "given" in first_wrong([SERVING], capabilities=given)[1].reason


def test_a_log_may_begin_in_the_middle() -> None:
    keeps = reports("transition", "PRE_COPY -> PRE_COPY_P2P", state="PRE_COPY_P2P", session=7)
    assert first_wrong([keeps]) is None
    assert first_wrong([{"event": "connected", "state": "PRE_COPY"}, keeps]) is None
    assert first_wrong([keeps | {"session": None}])
    given = SPEC.capability_set("STOP_COPY")
    assert first_wrong([{"event": "connected", "state": "PRE_COPY"}], capabilities=given)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            reports("transition", "RUNNING -> STOPP", state="STOP"),
            'what: "STOPP": there is no such state',
        ),
        (reports("transition", "RUNNING", state="STOP"), "is not a step from one state to another"),
        (
            reports("transition", "RUNNING -> STOP", "refused", state="STOP"),
            "is nothing a transition",
        ),
        (reports("transition", "RUNNING -> STOP"), "state: is missing"),
        (reports("transition", "RUNNING -> STOP", state="STOP", session="1"), "is not a number"),
        (reports("request", "RUNNING -> ?", "refused", state="RUNNING", target=None), "target"),
        (SERVING | {"spec": "mine"}, 'spec: "mine": is the name of another table'),
        ({"event": "reset"}, "outcome: is missing"),
    ],
)
def test_a_damaged_line_is_named(line: Line, message: str) -> None:
    with pytest.raises(SpecError) as error:
        LogConformance(SPEC).observe(line)
    assert message in str(error.value)


# --- the logs of real servers ---


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Line]]:
    place = tmp_path_factory.mktemp("logs")
    return {
        word: [json.loads(line) for line in sweep(SPEC, word, place / "run").lines]
        for word in WORDS
    }


@sampled(4)
@pytest.mark.parametrize("word", WORDS)
def test_the_log_of_every_run_holds(logs: dict[int, list[Line]], word: int) -> None:
    lines = logs[word]
    assert {line["event"] for line in lines} >= {
        "serving",
        "transition",
        "request",
        "reset",
        "disconnect",
    }
    assert first_wrong(lines) is None
    assert first_wrong(lines[1:]) is None
    assert first_wrong(lines[len(lines) // 2 :]) is None
    for other in WORDS:
        given = SPEC.capability_set(other)
        assert (first_wrong(lines[1:], capabilities=given) is None) == (other == word)


def changes(line: Line) -> Iterator[tuple[str, Line]]:
    for state in STATES:
        if state != line["state"]:
            yield "state", line | {"state": state}
    if line.get("session") is not None:
        if line["session"] > 1:
            yield "session", line | {"session": line["session"] - 1}
        yield "session", {key: value for key, value in line.items() if key != "session"}
    else:
        yield "session", line | {"session": 10_000}
    for outcome in ("completed", "failed", "refused"):
        known = line["event"] == "request" or outcome != "refused"
        if outcome != line["outcome"] and known:
            yield f"outcome {outcome}", {"errno": "EINVAL"} | line | {"outcome": outcome}
    if line["event"] in ("transition", "request"):
        from_, _, to = line["what"].partition(" -> ")
        for state in STATES:
            if state not in (from_, to):
                yield "from", line | {"what": f"{state} -> {to}"}
                yield (
                    "to",
                    line
                    | {"what": f"{from_} -> {state}"}
                    | ({"target": state} if line["event"] == "request" else {}),
                )
    else:
        for state in STATES:
            if state != line["what"]:
                yield "what", line | {"what": state}
    if line["outcome"] == "refused":
        yield "errno", line | {"errno": "EIO"}


@sampled(4)
@pytest.mark.parametrize("word", WORDS)
def test_every_change_of_a_log_is_caught(logs: dict[int, list[Line]], word: int) -> None:
    """But for a state that is refused as well, and requests that have the same path so far."""
    lines = logs[word]
    conformance = LogConformance(SPEC)
    for index, line in enumerate(lines):
        if line["event"] in ("transition", "request", "reset", "disconnect"):
            for what, other in changes(line):
                # What a change does shows at once or soon: the device is reset in every case.
                rest = [other, *lines[index + 1 : index + 20]]
                trial = copied(conformance)
                wrong = any(trial.observe(one) is not None for one in rest)
                assert wrong or allowed(what, line, other, word), (what, line, other)
        assert conformance.observe(line) is None


def copied(conformance: LogConformance) -> LogConformance:
    other = copy.copy(conformance)
    other.steps = copy.copy(conformance.steps)
    other.steps._used = set(other.steps._used)
    other.steps._trail = deque(other.steps._trail, other.steps._trail.maxlen)
    return other


def allowed(what: str, line: Line, other: Line, word: int) -> bool:
    if what == "to" and line["event"] == "request":
        machine = SPEC.machine(word)
        from_ = line["what"].partition(" -> ")[0]
        was, is_ = machine.route(from_, line["target"]), machine.route(from_, other["target"])
        if line["outcome"] == "refused":
            return was.refused is not None and is_.refused is not None
        return line["outcome"] == "failed" and is_.path[:1] == was.path[:1]
    if what == "from" and line["event"] == "request" and line["outcome"] == "failed":
        # Two requests, one after the other, that look like one; or one that looks like two.
        one, two = (each["what"].partition(" -> ")[0] for each in (line, other))
        route = SPEC.machine(word).route
        return two in route(one, line["target"]).path or one in route(two, line["target"]).path
    return False


@pytest.mark.parametrize("word", WORDS)
def test_a_line_too_few(logs: dict[int, list[Line]], word: int) -> None:
    """A transition that is missing is missed; what changes nothing can be left out."""
    lines = logs[word]
    for index, line in enumerate(lines):
        rest = [*lines[max(0, index - 12) : index], *lines[index + 1 : index + 12]]
        if line["event"] == "transition":
            assert first_wrong(rest, capabilities=SPEC.capability_set(word)), line
        elif line["event"] == "request" and line["outcome"] != "failed":
            assert first_wrong(rest) is None


# --- traces ---


def recorded(word: int, steps: list[tuple[Any, ...]]) -> Trace:
    device, recorder = ScriptedDevice(), Recorder()
    engine = Engine(SPEC, word, device, observers=[recorder])
    for target, faults in steps:
        device.script.clear()
        device.script.extend(
            None if fault is None else ArcError(for_good=fault) for fault in faults
        )
        try:
            if target in ("reset", "disconnect"):
                getattr(engine, target)()
            else:
                engine.set_state(target)
        except EngineError:
            pass
    return recorder.trace()


ASK = st.sampled_from([*STATES, 99, "reset", "disconnect"])
FAULTS = st.lists(st.sampled_from([None, None, None, True, False]), max_size=4)
WALK = st.lists(st.tuples(ASK, FAULTS), min_size=1, max_size=8)


@given(word=st.sampled_from(WORDS), walk=WALK)
@examples(200)
def test_what_an_engine_does_is_allowed(word: int, walk: list[Any]) -> None:
    assert check_trace(recorded(word, walk), SPEC) is None


@given(word=st.sampled_from(WORDS), walk=WALK, data=st.data())
@examples(500)
def test_a_change_is_judged_as_by_the_live_engine(word: int, walk: list[Any], data: Any) -> None:
    """A second opinion: the engine, which does what the trace asks and is compared."""
    trace = recorded(word, walk)
    index = data.draw(st.integers(0, len(trace.steps) - 1))
    step = trace.steps[index]
    key = data.draw(st.sampled_from(["state", "session", "to", "from_", "errno", "kind"]))
    about = {name: getattr(step, name) for name in Step.__dataclass_fields__}
    values = {
        "session": st.sampled_from([None, 1, 2]),
        "errno": st.sampled_from([None, "EIO", "EINVAL"]),
        "kind": st.sampled_from(["arc", "arc_failed", "arc_failed_for_good"]),
    }
    value = data.draw(values.get(key, st.sampled_from(STATES)))
    if key in ("to", "from_", "kind") and (step.to is None or step.from_ is None):
        return
    if key == "errno" and step.errno is None:
        return  # it is looked at where there is one
    changed = Step(**(about | {key: value}))
    steps = (*trace.steps[:index], changed, *trace.steps[index + 1 :])
    other = Trace(spec=SPEC.name, capabilities=trace.capabilities, start=trace.start, steps=steps)
    opinion = replay(other, SPEC)
    assert (check_trace(other, SPEC) is None) == opinion.agrees, (changed, str(opinion))


def test_an_arc_behind_a_request_for_the_present_state_belongs_to_none() -> None:
    steps = (
        Step(kind="request", to="RUNNING", state="RUNNING"),
        Step(kind="arc_failed_for_good", from_="RUNNING", to="STOP", state="ERROR", errno="EIO"),
    )
    trace = Trace(spec=SPEC.name, capabilities=(("STOP_COPY",),), start=("RUNNING",), steps=steps)
    assert check_trace(trace, SPEC) is None
    assert replay(trace, SPEC).agrees


def test_the_first_step_that_is_wrong_is_named() -> None:
    trace = recorded(7, [("STOP_COPY", []), ("RUNNING", [])])
    steps = list(trace.steps)
    steps[3] = Step(kind="arc", from_="STOP", to="RUNNING_P2P", state="RUNNING_P2P")
    other = Trace(
        spec=SPEC.name, capabilities=trace.capabilities, start=trace.start, steps=tuple(steps)
    )
    number, wrong = check_trace(other, SPEC)
    assert (number, wrong.device) == (4, "device 0")
    assert wrong.reason == (
        "it is not a step on the path of the request: RUNNING -> RUNNING_P2P -> STOP -> STOP_COPY"
    )
    assert wrong.allowed == ("arc STOP -> STOP_COPY",)


def test_a_request_that_is_not_over_or_refused() -> None:
    trace = recorded(7, [("STOP", [])])
    cut = Trace(
        spec=SPEC.name, capabilities=trace.capabilities, start=trace.start, steps=trace.steps[:2]
    )
    assert check_trace(cut, SPEC) is None
    reset = Step(kind="reset", state="RUNNING")
    more = Trace(
        spec=SPEC.name,
        capabilities=trace.capabilities,
        start=trace.start,
        steps=(*cut.steps, reset),
    )
    number, wrong = check_trace(more, SPEC)
    assert (number, wrong.allowed) == (
        3,
        ("arc RUNNING_P2P -> STOP", "arc RUNNING_P2P -> STOP fails"),
    )
    refused = (Step(kind="request", to="ERROR", state="RUNNING"), reset)
    more = Trace(spec=SPEC.name, capabilities=trace.capabilities, start=trace.start, steps=refused)
    number, wrong = check_trace(more, SPEC)
    assert (number, wrong.allowed) == (2, ("refused (EINVAL)",))
    assert wrong.row == "[[requests]] target_not_settable"


@sampled(6)
@pytest.mark.parametrize("path", sorted(BROKEN.glob("d*.toml")), ids=lambda path: path.stem)
def test_a_counterexample_is_allowed_by_its_own_table(path: Path) -> None:
    """What a broken table guarantees wrongly it does all the same: the live engine agrees."""
    edit, data = broken(path)
    table = spec_of(data)
    for verdict in verify(table, only=[edit["breaks"]]).verdicts:
        if verdict.example is not None and verdict.example.trace is not None:
            trace = verdict.example.trace
            agrees = len(trace.start) > 1 or replay(trace, table).agrees
            assert (check_trace(trace, table) is None) == agrees, path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": "mine"}, "another table"),
        ({"capabilities": (("STOPCOPY",),)}, "capabilities[0]"),
        ({"start": ("STOPP",)}, 'start[0]: "STOPP"'),
        (
            {"capabilities": (("STOP_COPY",),), "start": ("PRE_COPY",)},
            "is not a state of a device with",
        ),
        ({"steps": (Step(kind="arc", state="STOP"),)}, "steps[0].to: is missing"),
        ({"steps": (Step(kind="note", state="X"),)}, 'steps[0].state: "X"'),
    ],
)
def test_a_trace_of_something_else(change: Line, message: str) -> None:
    about = {"spec": "vfio-v2", "capabilities": (("STOP_COPY",),), "start": ("STOP",), "steps": ()}
    with pytest.raises(SpecError) as error:
        check_trace(Trace(**(about | change)), SPEC)
    assert message in str(error.value)


def test_an_arc_without_an_effect_leaves_the_session_as_it_is() -> None:
    """In a table that leaves a session open, as the live engine does."""
    _, data = broken(BROKEN / "d2-leaving-closes-nothing.toml")
    table = spec_of(data)
    device, recorder = ScriptedDevice(), Recorder()
    engine = Engine(table, 1, device, observers=[recorder])
    for target in ("STOP_COPY", "RUNNING", "STOP_COPY"):
        engine.set_state(target)
    assert recorder.trace().steps[-3].session == 1
    assert check_trace(recorder.trace(), table) is None
