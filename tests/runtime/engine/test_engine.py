"""The engine's interface: how it is asked, what it answers, what it refuses to be made of."""

from __future__ import annotations

import copy
import dataclasses
import enum
import gc
import pickle
import signal
import threading
import weakref
from dataclasses import replace

import pytest
from engine_support import ScriptedDevice, bring, rig

from vfio_migration.model import Spec, SpecError, UnknownNameError, load
from vfio_migration.runtime import (
    ArcError,
    DeviceFailedError,
    Engine,
    NullDevice,
    Record,
    RequestFailedError,
    RequestRefusedError,
    Situation,
)
from vfio_migration.runtime.engine.program import Program


class SilentDevice:
    """A device without the optional callback."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def take(self, arc: object, session: object, effect: object) -> None:
        self.calls.append(str(arc))

    def reset(self, to: Situation) -> None:
        self.calls.append("reset")


@pytest.mark.parametrize(
    "capabilities",
    [None, "STOP_COPY,P2P,PRE_COPY", 7, ["PRE_COPY", "P2P", "STOP_COPY"], load().capability_set()],
)
def test_capabilities_are_given_in_any_way_the_spec_takes(
    spec: Spec, capabilities: str | int | enum.Flag | list[str] | None
) -> None:
    engine = Engine(spec, capabilities, NullDevice())
    assert engine.machine is spec.machine("STOP_COPY,P2P,PRE_COPY")
    assert repr(engine) == "<Engine vfio-v2 STOP_COPY,P2P,PRE_COPY: RUNNING>"


@pytest.mark.parametrize("capabilities", ["P2P", "STOP_COPY,PRECOPY", 8, -1, 0])
def test_capabilities_that_are_none_are_refused(spec: Spec, capabilities: str | int) -> None:
    with pytest.raises(SpecError):
        Engine(spec, capabilities, NullDevice())


def test_it_begins_in_the_initial_state_without_a_session(spec: Spec) -> None:
    engine = Engine(spec, "STOP_COPY", device := NullDevice())
    assert engine.situation == Situation(spec.initial, None)
    assert (engine.state, engine.session) == (spec.initial, None)
    assert engine.device is device
    assert engine.observers == ()


def test_a_target_is_a_name_a_value_or_a_row(spec: Spec) -> None:
    class Value(enum.IntEnum):
        STOP = spec.state("STOP").value

    targets = ["STOP", spec.state("STOP").value, spec.state("STOP"), Value.STOP]
    for target in [*targets, copy.deepcopy(spec.state("STOP"))]:
        engine = Engine(spec, "STOP_COPY", NullDevice())
        assert engine.set_state(target) == Situation("STOP")


@pytest.mark.parametrize("observed", [False, True])
def test_a_row_is_refused_as_its_name_is(spec: Spec, observed: bool) -> None:
    made = rig(spec, "STOP_COPY", observed=observed)
    with pytest.raises(RequestRefusedError) as refusal:
        made.engine.set_state(spec.state("PRE_COPY"))
    assert (refusal.value.to, refusal.value.when) == ("PRE_COPY", "target_unsupported")


@pytest.mark.parametrize("observed", [False, True])
def test_a_name_that_is_none_is_the_callers_slip(spec: Spec, observed: bool) -> None:
    made = rig(spec, None, observed=observed)
    recorded, before = len(made.records), made.equal()
    with pytest.raises(UnknownNameError, match='did you mean "STOP_COPY"'):
        made.engine.set_state("STOPCOPY")
    assert made.equal() == before
    assert len(made.records) == recorded
    with pytest.raises(TypeError):
        made.engine.set_state(["STOP"])  # type: ignore[arg-type]
    assert made.equal() == before
    assert made.engine.set_state("STOP").state == "STOP"


def test_options_state_what_can_be_done_and_why_not_that(spec: Spec) -> None:
    made = rig(spec, "STOP_COPY,PRE_COPY")
    bring(made, "STOP_COPY")
    options = {str(route.to): route for route in made.engine.options()}
    assert list(options) == [row.name for row in spec.states]
    for name, route in options.items():
        other = rig(spec, "STOP_COPY,PRE_COPY")
        bring(other, "STOP_COPY")
        if route.refused is None:
            assert other.engine.set_state(name).state == name
            assert [call[2] for call in other.device.calls] == list(route.path)
        else:
            with pytest.raises(RequestRefusedError) as refusal:
                other.engine.set_state(name)
            assert refusal.value.route == route
    refused = options["PRE_COPY"].refused
    assert refused is not None
    assert "leave it for STOP first" in refused.reason


def test_sessions_are_numbered_and_kept_along_the_saving_states(spec: Spec) -> None:
    engine = Engine(spec, None, NullDevice())
    seen = [engine.set_state(to).session for to in ("PRE_COPY", "STOP_COPY", "RUNNING")]
    seen += [engine.set_state(to).session for to in ("RESUMING", "STOP_COPY", "RESUMING")]
    assert seen == [1, 1, None, 2, 3, 4]
    assert repr(engine) == "<Engine vfio-v2 STOP_COPY,P2P,PRE_COPY: RESUMING session 4>"


def test_a_number_that_was_only_offered_is_offered_again(spec: Spec) -> None:
    made = rig(spec, None)
    made.device.script = [ArcError()]
    with pytest.raises(RequestFailedError):
        made.engine.set_state("PRE_COPY")
    assert made.engine.set_state("PRE_COPY").session == 1
    assert made.engine.reset().session is None
    assert made.engine.set_state("PRE_COPY").session == 2
    assert [call[3] for call in made.device.calls if call[0] == "take"] == [1, 1, 2]


def test_a_situation_does_not_change(spec: Spec) -> None:
    engine = Engine(spec, None, NullDevice())
    then = engine.situation
    with pytest.raises(dataclasses.FrozenInstanceError):
        then.state = "STOP"  # type: ignore[misc]
    engine.set_state("STOP")
    assert then == Situation("RUNNING")
    assert pickle.loads(pickle.dumps(then)) == then


def test_properties_cannot_be_assigned(spec: Spec) -> None:
    engine = Engine(spec, None, NullDevice())
    for name in ("state", "session", "situation", "machine", "device", "observers"):
        with pytest.raises(AttributeError):
            setattr(engine, name, None)


def test_a_device_need_not_care_about_disconnects(spec: Spec) -> None:
    device = SilentDevice()
    engine = Engine(spec, None, device)
    engine.set_state("STOP")
    assert engine.disconnect() == Situation("STOP")
    assert engine.reset() == Situation("RUNNING")
    assert device.calls == ["RUNNING -> RUNNING_P2P", "RUNNING_P2P -> STOP", "reset"]


@pytest.mark.parametrize("change", [{"to": "RUNNING"}, {"session": "ended"}])
def test_it_must_care_where_a_disconnect_moves_it(spec: Spec, change: dict[str, str]) -> None:
    variant = with_event(spec, "disconnect", **change)
    with pytest.raises(TypeError, match=r"SilentDevice has no disconnect\(\)"):
        Engine(variant, None, SilentDevice())
    engine = Engine(variant, None, device := ScriptedDevice(spec.initial))
    engine.set_state("STOP_COPY")
    device.where = change.get("to", "STOP_COPY")
    there = Situation(device.where, 1 if "to" in change else None)
    assert engine.disconnect() == there
    assert device.calls[-1] == ("disconnect", there, ("dma_maps", "interrupts"))


def with_event(spec: Spec, name: str, **change: object) -> Spec:
    rows = [replace(row, **change) if row.name == name else row for row in spec.events]
    return replace(spec, events=tuple(rows))


def test_events_are_read_from_the_table(spec: Spec) -> None:
    # Each row of a variant that differs from the real table changes what the engine does.
    back = with_event(spec, "arc_failed", to="STOP", session="ended", errno="EAGAIN")
    dead = with_event(back, "arc_failed_for_good", to="RESUMING", session="kept", errno="ENXIO")
    variant = with_event(dead, "reset", to=None, session="kept")
    for fault, situation, errno in [
        (ArcError(), Situation("STOP"), "EAGAIN"),
        (ArcError(for_good=True), Situation("RESUMING", 1), "ENXIO"),
    ]:
        made = rig(variant, None)
        bring(made, "PRE_COPY")
        assert made.engine.reset() == Situation("PRE_COPY", 1)
        made.device.script = [fault]
        with pytest.raises(RequestFailedError) as failure:
            made.engine.set_state("RUNNING")
        assert (failure.value.situation, failure.value.errno) == (situation, errno)


def test_a_row_without_errno_is_answered_by_the_taxonomy(spec: Spec) -> None:
    made = rig(with_event(spec, "arc_failed", errno=None), None)
    made.device.script = [ArcError()]
    with pytest.raises(RequestFailedError) as failure:
        made.engine.set_state("STOP")
    assert failure.value.errno == "EIO"


@pytest.mark.parametrize("observed", [False, True])
def test_effects_are_read_from_the_table(spec: Spec, observed: bool) -> None:
    # A wrong table is run as it stands, so that a counterexample of the prover can be re-run.
    rows = {
        (row.from_, row.to): replace(row, effect="opens") if row.effect == "keeps" else row
        for row in spec.session_effects
    }
    wrong = replace(spec, session_effects=tuple(rows.values()))
    engine = rig(wrong, None, observed=observed).engine
    assert [engine.set_state(to).session for to in ("PRE_COPY", "STOP_COPY")] == [1, 3]
    rows["none", "none"] = replace(rows["none", "none"], effect="opens")
    wrong = replace(spec, session_effects=tuple(rows.values()))
    assert rig(wrong, 1, observed=observed).engine.set_state("STOP") == Situation("STOP", 1)
    never = [replace(row, effect="none") for row in rows.values()]
    wrong = replace(spec, session_effects=tuple(never))
    assert rig(wrong, 1, observed=observed).engine.set_state("STOP_COPY").session is None
    unclosed = [replace(r, effect="none") if r.effect == "closes" else r for r in never]
    opening = [replace(r, effect="opens") if r.to == "saving" else r for r in unclosed]
    wrong = replace(spec, session_effects=tuple(opening))
    engine = rig(wrong, 1, observed=observed).engine
    assert [engine.set_state(to).session for to in ("STOP_COPY", "STOP", "RUNNING")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda spec: replace(spec, initial="PRE_COPY"), "initial"),
        (lambda spec: with_event(spec, "reset", to="RUNNING_P2P"), "events[2].to"),
        (lambda spec: replace(spec, events=spec.events[:2]), "events"),
        (lambda spec: replace(spec, session_effects=()), "step"),
    ],
)
def test_a_table_that_does_not_hold_together_makes_no_engine(
    spec: Spec, edit: object, place: str
) -> None:
    with pytest.raises(SpecError) as error:
        Engine(edit(spec), "STOP_COPY", NullDevice())  # type: ignore[operator]
    assert error.value.mistakes[0].place == place


@pytest.mark.parametrize("observed", [False, True])
def test_a_request_the_table_is_silent_about_changes_nothing(spec: Spec, observed: bool) -> None:
    silent = [row for row in spec.requests if row.when not in ("no_way_out", "no_path")]
    made = rig(replace(spec, requests=tuple(silent)), None, observed=observed)
    bring(made, "ERROR")
    before = made.equal()
    with pytest.raises(SpecError, match="has no path"):
        made.engine.set_state("STOP")
    assert made.equal() == before
    assert made.engine.reset() == Situation("RUNNING")


def test_where_the_table_is_silent_about_one_request_the_others_are_served(spec: Spec) -> None:
    silent = [row for row in spec.requests if row.when not in ("target_not_settable", "no_path")]
    engine = Engine(replace(spec, requests=tuple(silent)), None, NullDevice())
    with pytest.raises(SpecError, match="has no path"):
        engine.set_state("ERROR")
    assert engine.set_state("STOP") == Situation("STOP")


def test_engines_of_one_machine_share_what_is_compiled() -> None:
    spec = replace(load(), name="mine")
    programs = {
        id(Engine(spec, flags, NullDevice())._moves) for flags in (1, 1, "STOP_COPY", 3, 5, 7)
    }
    assert len(programs) == 4
    for state, targets in Program.of(spec.machine(7)).moves.items():
        for row in spec.states:
            assert targets.get(row.name) is targets.get(row.value), (state, row.name)
    machine = weakref.ref(spec.machine(1))
    assert Program.of(spec.machine(1)) is Program.of(spec.machine(1))
    del spec
    gc.collect()
    assert machine() is None, "a table nobody uses is forgotten"


def test_strange_values_leave_nothing_behind(spec: Spec) -> None:
    made = rig(spec, None)
    program = made.engine._program.moves
    size = {state: len(targets) for state, targets in program.items()}
    for value in range(1000, 3000):
        with pytest.raises(RequestRefusedError):
            made.engine.set_state(value)
    assert {state: len(targets) for state, targets in program.items()} == size
    assert made.device.calls == []


def test_a_failed_request_leaves_no_cycle_behind(spec: Spec) -> None:
    class Mark:
        pass

    for observed in (False, True):
        for name in ("set_state", "reset", "disconnect"):
            made = rig(spec, None, observed=observed)
            mark = Mark()
            fault = ValueError(mark)
            ended = weakref.ref(mark)
            made.device.script = [fault]
            gc.disable()
            try:
                getattr(made.engine, name)(*(["STOP"] if name == "set_state" else []))
            except DeviceFailedError:
                pass
            finally:
                del fault, mark
                made.records.clear()
                assert ended() is None, (observed, name)
                gc.enable()


class Alarm(BaseException):
    """What the signal handler of the tests below raises."""


@pytest.fixture
def alarm() -> object:
    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("act", ["set_state", "reset", "disconnect"])
def test_an_interrupted_wait_leaves_the_engine_usable(spec: Spec, act: str) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(NullDevice):
        def take(self, *_: object) -> None:
            entered.set()
            leave.wait(60)

    engine = Engine(spec, "STOP_COPY", Slow())
    thread = threading.Thread(target=engine.set_state, args=("STOP",), daemon=True)
    thread.start()
    assert entered.wait(60)
    with pytest.raises(Alarm):  # noqa: PT012 - whether it rings before or while waiting is the same
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        getattr(engine, act)(*(["RUNNING"] if act == "set_state" else []))
    assert engine.situation == Situation("RUNNING"), "the request under way is not disturbed"
    leave.set()
    thread.join(60)
    assert engine.situation == Situation("STOP")
    other = threading.Thread(target=engine.set_state, args=("RUNNING",), daemon=True)
    other.start()
    other.join(60)
    assert engine.situation == Situation("RUNNING"), "the lock is free"


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("observed", [False, True])
def test_an_interrupt_in_the_device_is_for_good_and_goes_on(spec: Spec, observed: bool) -> None:
    class Interrupted(ScriptedDevice):
        def take(self, *_: object) -> None:
            signal.raise_signal(signal.SIGALRM)

    engine = Engine(spec, None, Interrupted("RUNNING"))
    failed: list[Record] = []
    if observed:
        engine.add_observer(lambda record: failed.append(record) if record.errno else None)
    with pytest.raises(Alarm) as interrupt:
        engine.set_state("PRE_COPY")
    assert interrupt.value.__cause__ is None
    for record in failed:
        assert record.error is interrupt.value, "what is recorded is what the caller gets"
    assert [record.kind for record in failed] == (["arc", "request"] if observed else [])
    assert engine.situation == Situation("ERROR")
    assert engine.reset() == Situation("RUNNING")


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("act", ["set_state", "reset", "disconnect"])
def test_interrupts_anywhere_leave_a_sound_engine(spec: Spec, act: str, observed: bool) -> None:
    # Rings at whatever instruction comes; whichever it is, what must hold afterwards is the same.
    def ask(engine: Engine) -> None:
        for _ in range(10_000):  # no more: an alarm that rings in a callback of Python's is lost
            if act == "set_state":
                engine.set_state("STOP_COPY")
                engine.set_state("RUNNING")
            else:
                getattr(engine, act)()

    engine = Engine(spec, None, NullDevice())
    rung = 0
    gc.disable()
    try:
        for turn in range(60):
            if observed:
                engine.add_observer(lambda record: None)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + turn * 1e-6)
                ask(engine)
            except Alarm:
                rung += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert engine._busy is False
            session = engine.situation.session
            row = spec.session(spec.state(engine.state).session)
            assert (session is not None) == (row.transfer != "none")
            thread = threading.Thread(target=engine.reset, daemon=True)
            thread.start()
            thread.join(60)
            assert not thread.is_alive(), "another thread gets its turn"
            assert engine.situation == Situation("RUNNING")
    finally:
        gc.enable()
    assert rung > 30


@pytest.mark.parametrize("fails", [False, True])
def test_a_device_that_is_being_reset_is_where_it_was_until_its_callback_is_done(
    spec: Spec, fails: bool
) -> None:
    """Another thread must not read that it runs while the device is half-way."""
    seen: list[Situation] = []

    class Reads(NullDevice):
        def reset(self, to: Situation) -> None:
            seen.append(engine.situation)
            if fails:
                raise ArcError("stuck")

    engine = Engine(spec, None, Reads())
    before = engine.set_state("STOP_COPY")
    if fails:
        with pytest.raises(DeviceFailedError):
            engine.reset()
    else:
        engine.reset()
    assert seen == [before]
    assert engine.situation != before
