"""Observers: what they are reported, that they change nothing, and the one that makes a trace."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
from engine_support import ScriptedDevice, bring, paired, rig

from vfio_migration.model import Spec, Trace
from vfio_migration.runtime import (
    ArcError,
    DeviceFailedError,
    Engine,
    NullDevice,
    Record,
    Recorder,
    ReenteredError,
    RequestFailedError,
    RequestRefusedError,
    Situation,
)

LOGGER = "vfio_migration.runtime.engine.engine"
RECORDS = 25  # of `run`, and how many places there are in it for an observer to fail
ROOM = 50  # more records than a recorder holds that keeps five steps of one device


def brief(records: list[Record]) -> list[str]:
    words = []
    for record in records:
        about = record.arc or record.target or ""
        words.append(f"{record.kind} {record.phase} {about}".strip())
    return words


def test_what_an_observer_is_notified_of(spec: Spec) -> None:
    reports: list[Record] = []
    engine = Engine(spec, "STOP_COPY", ScriptedDevice("RUNNING"), observers=[reports.append])
    engine.set_state("STOP_COPY")
    engine.set_state("STOP_COPY")
    with pytest.raises(RequestRefusedError):
        engine.set_state(99)
    engine.disconnect()
    engine.reset()
    assert brief(reports) == [
        "attached completed",
        "request started STOP_COPY",
        "arc started RUNNING -> STOP",
        "arc completed RUNNING -> STOP",
        "arc started STOP -> STOP_COPY",
        "arc completed STOP -> STOP_COPY",
        "request completed STOP_COPY",
        "request started STOP_COPY",
        "request completed STOP_COPY",
        "request started 99",
        "request refused 99",
        "disconnect started",
        "disconnect completed",
        "reset started",
        "reset completed",
    ]
    paired(reports)
    opening = reports[4]
    assert (opening.effect, opening.session) == ("opens", 1)
    assert (opening.before, opening.after) == (Situation("STOP"), Situation("STOP"))
    assert reports[5].after == Situation("STOP_COPY", 1)
    assert reports[6].before == Situation("RUNNING")
    assert reports[10].errno == "EINVAL"
    assert isinstance(reports[10].error, RequestRefusedError)
    assert reports[12].event == spec.event("disconnect")
    assert reports[14].event == spec.event("reset")
    assert all(record.engine is engine for record in reports)
    assert [record.at for record in reports] == sorted(record.at for record in reports)
    assert 0 < reports[-1].at <= time.perf_counter_ns()


def test_a_failure_is_reported_inside_and_outside(spec: Spec) -> None:
    made = rig(spec, "STOP_COPY", observed=True)
    fault = ArcError(errno="EBUSY")
    made.device.script = [None, fault]
    with pytest.raises(RequestFailedError) as failure:
        made.engine.set_state("STOP_COPY")
    inner, outer = made.records[-2:]
    assert (inner.kind, inner.phase, inner.error) == ("arc", "failed", fault)
    assert (inner.effect, inner.session, inner.errno) == ("opens", 1, "EBUSY")
    assert (outer.kind, outer.phase, outer.error) == ("request", "failed", failure.value)
    assert inner.event == outer.event == spec.event("arc_failed")
    assert (outer.before, outer.after) == (Situation("RUNNING"), Situation("STOP"))


def test_what_is_read_in_an_observer_is_what_the_record_states(spec: Spec) -> None:
    seen: list[bool] = []

    def look(record: Record) -> None:
        engine = record.engine
        seen.append(engine.situation == record.after)
        seen.append((engine.state, engine.session) == (record.after.state, record.after.session))
        seen.append(bool(engine.options()) and bool(repr(engine)))

    engine = Engine(spec, None, NullDevice(), observers=[look])
    for target in ("STOP_COPY", "RUNNING", "RESUMING", "PRE_COPY"):
        engine.set_state(target)
    assert len(seen) > 30
    assert all(seen)


def test_observers_come_and_go(spec: Spec) -> None:
    first: list[Record] = []
    second: list[Record] = []
    notify_first, notify_second = first.append, second.append
    engine = Engine(spec, None, NullDevice(), observers=(one for one in [notify_first]))
    engine.set_state("STOP_COPY")
    engine.add_observer(notify_second)
    assert engine.observers == (notify_first, notify_second)
    engine.remove_observer(notify_first)
    engine.remove_observer(notify_first)
    count = len(first)
    engine.set_state("STOP")
    assert len(first) == count
    assert second[0].after == Situation("STOP_COPY", 1)
    assert engine.observers == (notify_second,)
    paired(second)


# --- observers that misbehave ---


def run(engine: Engine, device: ScriptedDevice) -> list[object]:
    """A run with every kind of record in it; what came of each step."""
    outcomes: list[object] = []
    steps: list[tuple[list[BaseException | None], Callable[[], object]]] = [
        ([], lambda: engine.set_state("STOP_COPY")),
        ([], lambda: engine.set_state("PRE_COPY")),
        ([ArcError("stuck")], lambda: engine.set_state("STOP")),
        ([], engine.disconnect),
        ([ArcError(for_good=True)], lambda: engine.set_state("RUNNING")),
        ([ValueError()], engine.reset),
        ([], engine.reset),
    ]
    for script, step in steps:
        device.script = script
        try:
            outcomes.append(step())
        except (RequestRefusedError, DeviceFailedError) as error:
            outcomes.append((type(error), str(error)))
        except KeyboardInterrupt:
            outcomes.append(KeyboardInterrupt)
        device.where = engine.state
    return outcomes


def faultless(spec: Spec) -> tuple[list[object], list[Record], list[object]]:
    made = rig(spec, None, observed=True)
    outcomes = run(made.engine, made.device)
    return outcomes, made.records, list(made.device.calls)


def test_the_run_has_every_kind_of_record_in_it(spec: Spec) -> None:
    _, records, _ = faultless(spec)
    assert len(records) == RECORDS
    kinds = {(record.kind, record.phase) for record in records}
    action = {
        (k, p) for k in ("request", "arc", "reset") for p in ("started", "completed", "failed")
    }
    more = {("request", "refused"), ("attached", "completed")}
    assert kinds == action | more | {("disconnect", "started"), ("disconnect", "completed")}


@pytest.mark.parametrize("index", range(RECORDS))
def test_an_observer_that_raises_changes_nothing(
    spec: Spec, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes, records, calls = faultless(spec)
    left = index

    def bad(_: Record) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ZeroDivisionError("a slip of the observer")

    before: list[Record] = []
    after: list[Record] = []
    device = ScriptedDevice("RUNNING")
    notify = (before.append, bad, after.append)
    engine = Engine(spec, None, device, observers=notify)
    assert run(engine, device) == outcomes
    assert device.calls == calls
    assert brief(before) == brief(after) == brief(records)
    assert engine.observers == (notify[0], notify[2])
    [entry] = caplog.records
    assert (entry.name, entry.levelno) == (LOGGER, logging.ERROR)
    assert "is removed" in entry.getMessage()
    assert "ZeroDivisionError: a slip of the observer" in caplog.text, "with its traceback"


@pytest.mark.parametrize("index", range(1, RECORDS))
def test_an_interrupt_in_an_observer_is_raised_when_all_is_done(spec: Spec, index: int) -> None:
    outcomes, records, calls = faultless(spec)
    left = index

    def interrupted(_: Record) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    made = rig(spec, None, observed=True)
    made.engine.add_observer(interrupted)
    came = run(made.engine, made.device)
    assert [a == b for a, b in zip(came, outcomes, strict=True)].count(False) == 1
    assert came.count(KeyboardInterrupt) == 1
    assert made.device.calls == calls
    assert brief(made.records) == brief(records)
    assert len(made.engine.observers) == 1


def test_an_interrupt_while_attaching_is_raised(spec: Spec) -> None:
    def interrupted(_: Record) -> None:
        raise KeyboardInterrupt

    engine = Engine(spec, None, NullDevice())
    with pytest.raises(KeyboardInterrupt):
        engine.add_observer(interrupted)
    assert engine.observers == ()
    assert engine.set_state("STOP") == Situation("STOP")


def test_a_log_that_raises_changes_nothing(spec: Spec) -> None:
    class Bad(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            raise RuntimeError("the disk is full")

    handler = Bad()
    logging.getLogger(LOGGER).addHandler(handler)
    try:
        engine = Engine(spec, None, NullDevice(), observers=[lambda record: 1 // 0])
        assert engine.set_state("STOP") == Situation("STOP")
    finally:
        logging.getLogger(LOGGER).removeHandler(handler)


@pytest.mark.parametrize(
    "act",
    [
        lambda engine: engine.set_state("STOP"),
        lambda engine: engine.set_state(999),
        lambda engine: engine.reset(),
        lambda engine: engine.disconnect(),
        lambda engine: engine.add_observer(print),
        lambda engine: engine.remove_observer(print),
    ],
    ids=["set_state", "refused", "reset", "disconnect", "add_observer", "remove_observer"],
)
def test_an_observer_cannot_act(spec: Spec, act: Callable[[Engine], object]) -> None:
    refused: list[ReenteredError] = []

    def meddle(record: Record) -> None:
        with pytest.raises(ReenteredError) as error:
            act(record.engine)
        refused.append(error.value)

    outcomes, records, calls = faultless(spec)
    made = rig(spec, None, observed=True)
    made.engine.add_observer(meddle)
    assert run(made.engine, made.device) == outcomes
    assert made.device.calls == calls
    assert brief(made.records) == brief(records)
    assert len(refused) == len(records)
    assert meddle in made.engine.observers


# --- the recorder ---


def replay(spec: Spec, trace: Trace) -> tuple[Engine, Trace]:
    """Run a trace of one device again: same requests, same failures."""
    recorder = Recorder()
    device = ScriptedDevice(trace.start[0])
    engine = Engine(spec, trace.capabilities[0], device, observers=[recorder])
    steps = list(trace.steps)
    while steps:
        step = steps.pop(0)
        device.where = engine.state
        act: Callable[[], object]
        device.script = []
        if step.kind == "request":
            assert step.to is not None
            act = (lambda to: lambda: engine.set_state(to))(step.to)
            while steps and steps[0].kind.startswith("arc") and "no arc" not in str(steps[0].note):
                arc = steps.pop(0)
                good = arc.kind == "arc_failed_for_good"
                fault = ArcError(str(arc.note), errno=arc.errno, for_good=good)
                device.script.append(None if arc.kind == "arc" else fault)
            if steps and steps[0].kind == "refused":
                steps.pop(0)
        elif step.kind == "arc_failed_for_good":
            what, message = str(step.note).removeprefix("no arc, but ").split(" failed: ")
            device.script = [ArcError(message, errno=step.errno)]
            act = engine.reset if what == "reset" else engine.disconnect
        else:
            act = engine.reset if step.kind == "reset" else engine.disconnect
        with contextlib.suppress(RequestRefusedError, DeviceFailedError):
            act()
    return engine, recorder.trace()


def recorded(spec: Spec, maxlen: int = 10_000) -> tuple[Engine, Recorder]:
    recorder = Recorder(maxlen)
    device = ScriptedDevice("RUNNING")
    engine = Engine(spec, None, device, observers=[recorder])
    run(engine, device)
    device.script = [ArcError("no ear", errno="EPIPE")]
    with pytest.raises(DeviceFailedError):
        engine.disconnect()
    device.where = engine.reset().state
    engine.set_state("PRE_COPY_P2P")
    with pytest.raises(RequestRefusedError):
        engine.set_state(4711)
    return engine, recorder


def test_a_trace_holds_the_run(spec: Spec) -> None:
    engine, recorder = recorded(spec)
    trace = recorder.trace("A run of everything.")
    assert (trace.spec, trace.start, trace.title) == (
        "vfio-v2",
        ("RUNNING",),
        "A run of everything.",
    )
    assert trace.capabilities == (("STOP_COPY", "P2P", "PRE_COPY"),)
    assert [str(step) for step in trace.steps] == [
        "SET_STATE STOP_COPY",
        "arc RUNNING -> RUNNING_P2P",
        "arc RUNNING_P2P -> STOP",
        "arc STOP -> STOP_COPY",
        "SET_STATE PRE_COPY",
        "refused (EINVAL): a stopped saving session cannot go back to pre-copying; leave it for "
        "STOP first",
        "SET_STATE STOP",
        "arc STOP_COPY -> STOP fails (EIO): stuck",
        "the client disconnects",
        "SET_STATE RUNNING",
        "arc STOP_COPY -> STOP fails for good (EIO): ArcError",
        "arc ERROR -> ERROR fails for good (EIO): no arc, but reset failed: ValueError",
        "reset",
        "arc RUNNING -> ERROR fails for good (EPIPE): no arc, but disconnect failed: no ear",
        "reset",
        "SET_STATE PRE_COPY_P2P",
        "arc RUNNING -> RUNNING_P2P",
        "arc RUNNING_P2P -> PRE_COPY_P2P",
        "SET_STATE 4711",
        "refused (EINVAL): no state has this value",
    ]
    assert [step.session for step in trace.steps] == ([None] * 3 + [1] * 7 + [None] * 7 + [2] * 3)
    last = trace.steps[-1]
    assert (last.state, last.session) == (engine.state, engine.session)
    assert Trace.from_json(trace.to_json()) == trace


def test_a_trace_replays_to_the_same_situation(spec: Spec) -> None:
    engine, recorder = recorded(spec)
    again, trace = replay(spec, recorder.trace())
    assert again.situation == engine.situation
    assert trace == recorder.trace()


@pytest.mark.parametrize("maxlen", range(1, 22))
def test_a_trace_is_no_longer_than_it_may_be(spec: Spec, maxlen: int) -> None:
    _, whole = recorded(spec)
    _, recorder = recorded(spec, maxlen)
    trace, full = recorder.trace(), whole.trace()
    assert len(trace.steps) <= maxlen
    assert recorder.dropped + len(trace.steps) == len(full.steps) == 20
    assert trace.steps == full.steps[recorder.dropped :], "the newest are kept"
    if trace.steps:
        assert trace.steps[0].kind not in ("arc", "arc_failed", "refused"), "whole requests"
    where = full.steps[recorder.dropped - 1].state if recorder.dropped else "RUNNING"
    assert trace.start == (where,)
    assert whole.dropped == 0


def test_what_is_kept_does_not_grow(spec: Spec) -> None:
    recorder = Recorder(5)
    engine = Engine(spec, None, NullDevice(), observers=[recorder])
    for _ in range(500):
        engine.set_state("STOP_COPY")
        engine.set_state("RUNNING")
        engine.disconnect()
    assert len(recorder._records) < ROOM
    assert len(recorder.trace().steps) <= 5
    assert recorder.dropped + len(recorder.trace().steps) == 500 * 9


def test_several_devices_share_a_trace(spec: Spec) -> None:
    recorder = Recorder()
    engines = [Engine(spec, flags, NullDevice(), observers=[recorder]) for flags in (1, 7)]
    engines[1].set_state("RUNNING_P2P")
    engines[0].set_state("STOP")
    engines[1].set_state("STOP")
    trace = recorder.trace()
    assert trace.capabilities == (("STOP_COPY",), ("STOP_COPY", "P2P", "PRE_COPY"))
    assert trace.start == ("RUNNING", "RUNNING")
    arcs = [(step.device, str(step)) for step in trace.steps if step.kind == "arc"]
    assert arcs == [
        (1, "arc RUNNING -> RUNNING_P2P"),
        (0, "arc RUNNING -> STOP"),
        (1, "arc RUNNING_P2P -> STOP"),
    ]


def test_requests_that_overlap_are_dropped_whole(spec: Spec) -> None:
    # The second device is asked while the first takes its arc, as two threads would have it.
    recorder = Recorder(4)
    other = Engine(spec, 1, NullDevice())

    class Nested(NullDevice):
        def take(self, *_: object) -> None:
            other.set_state("STOP")
            other.set_state("RUNNING")

    whole = Recorder()
    engine = Engine(spec, 1, Nested(), observers=[recorder, whole])
    other.add_observer(recorder)
    other.add_observer(whole)
    engine.set_state("STOP")
    assert [(step.device, step.kind) for step in whole.trace().steps] == [
        (0, "request"),
        (1, "request"),
        (1, "arc"),
        (1, "request"),
        (1, "arc"),
        (0, "arc"),
    ]
    trace = recorder.trace()
    # Of 0 the request is gone, and so is its arc, which came after steps that are kept.
    assert [(step.device, step.kind) for step in trace.steps] == [
        (1, "request"),
        (1, "arc"),
        (1, "request"),
        (1, "arc"),
    ]
    assert trace.start == ("STOP", "RUNNING")
    assert recorder.dropped == 2


def test_a_recorder_that_joins_late_starts_there(spec: Spec) -> None:
    made = rig(spec, None)
    bring(made, "RESUMING")
    recorder = Recorder()
    with pytest.raises(ValueError, match="given to no engine yet"):
        recorder.trace()
    made.engine.add_observer(recorder)
    assert recorder.trace().start == ("RESUMING",)
    made.engine.set_state("STOP")
    assert [step.state for step in recorder.trace().steps] == ["RESUMING", "STOP"]


def test_one_trace_is_of_one_table(spec: Spec, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder()
    Engine(spec, None, NullDevice(), observers=[recorder])
    stranger = Engine(replace(spec, name="other"), None, NullDevice(), observers=[recorder])
    assert stranger.observers == ()
    assert "a trace of the table vfio-v2 cannot hold a device that runs other" in caplog.text
    assert recorder.trace().start == ("RUNNING",)


@pytest.mark.parametrize("maxlen", [0, -1])
def test_a_recorder_keeps_something(maxlen: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        Recorder(maxlen)


def test_what_a_recorder_keeps_of_a_failure_holds_no_frames(spec: Spec) -> None:
    class Mark:
        pass

    recorder = Recorder()
    device = ScriptedDevice("RUNNING")
    engine = Engine(spec, None, device, observers=[recorder])
    fault = ArcError("stuck")
    fault.mark = Mark()  # type: ignore[attr-defined]
    mark = weakref.ref(fault.mark)  # type: ignore[attr-defined]
    device.script = [fault]
    with pytest.raises(RequestFailedError):
        engine.set_state("STOP")
    device.script = []
    del fault
    gc.collect()
    assert mark() is None
    assert recorder.trace().steps[-1].note == "stuck"


def test_an_engine_that_lost_its_observers_is_as_one_that_never_had_any(spec: Spec) -> None:
    records: list[Record] = []
    engine = Engine(spec, None, NullDevice(), observers=[records.append])
    observer = engine.observers[0]
    engine.remove_observer(observer)
    assert engine._notify is None
    engine.add_observer(observer)
    engine.set_state("STOP")
    assert brief(records)[-1] == "request completed STOP"
