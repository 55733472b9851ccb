"""Several threads, and callbacks that call back. No timing is asserted; joins have a limit only so
that a deadlock fails the test instead of hanging it."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from engine_support import Oracle, ScriptedDevice, paired, rig

from support.samples import sampled
from vfio_migration.model import Spec
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

LIMIT = 60


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Switch threads as often as Python can, so that races are met."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Threads:
    """Threads that start together; what any of them raises fails the test."""

    def __init__(self, *jobs: Callable[[], object]) -> None:
        self._barrier = threading.Barrier(len(jobs))
        self._raised: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(job,), daemon=True) for job in jobs
        ]

    def _run(self, job: Callable[[], object]) -> None:
        try:
            self._barrier.wait(LIMIT)
            job()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self._raised.append(error)

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "deadlock"
        if self._raised:
            raise self._raised[0]


class Careful(ScriptedDevice):
    """Fails now and then, by its own dice; its superclass asserts that calls never overlap."""

    def __init__(self, start: str, seed: int) -> None:
        super().__init__(start)
        self._dice = random.Random(seed)

    def _follow_script(self, back_to: str) -> None:
        if self._dice.random() < 0.2:
            self.script = [ArcError(for_good=self._dice.random() < 0.3)]
        super()._follow_script(back_to)
        self.script = []


@sampled(2)
@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_requests_are_taken_one_after_another(spec: Spec, seed: int, observed: bool) -> None:
    device = Careful(spec.initial, seed)
    recorder = Recorder()
    engine = Engine(spec, None, device, observers=[recorder] if observed else [])
    oracle = Oracle(spec, engine.machine.names)
    settable = [row.name for row in spec.states]
    done = False

    # A device that failed for good must be reported where it is before the next arc; under the
    # engine's lock that is in its next callback. An arc from where the table put it states where
    # that was.
    take = device.take

    def found(arc, session, effect):  # type: ignore[no-untyped-def]
        if device.where == "?":
            device.where = arc.from_
        take(arc, session, effect)

    device.take = found  # type: ignore[method-assign]
    device.disconnect = lambda to, drops: None  # type: ignore[method-assign]

    def ask(number: int) -> None:
        dice = random.Random(seed * 100 + number)
        for _ in range(150):
            try:
                match dice.randrange(12):
                    case 0:
                        engine.reset()
                    case 1:
                        engine.disconnect()
                    case _:
                        engine.set_state(dice.choice(settable))
            except (RequestRefusedError, DeviceFailedError):
                pass

    def read() -> None:
        while not done:
            now = engine.situation
            assert (now.session is not None) == oracle.session_open(now.state), now
            assert engine.options()[0].from_ in oracle.states

    def ask_all() -> None:
        nonlocal done
        try:
            Threads(*[lambda number=number: ask(number) for number in range(6)]).run()  # type: ignore[misc]
        finally:
            done = True

    Threads(ask_all, read, read).run()
    assert len(device.calls) > 300
    if observed:
        assert_serial(recorder, engine, oracle)


def assert_serial(recorder: Recorder, engine: Engine, oracle: Oracle) -> None:
    """Assert that what was recorded could have been done by one thread."""
    state, numbers = engine.machine.spec.initial, set()
    previous: int | None = None
    trace = recorder.trace()
    assert recorder.dropped == 0
    for step in trace.steps:
        if step.kind == "arc":
            assert (state, step.to) == (step.from_, step.state)
            assert (step.from_, step.to) in oracle.arcs
        elif step.kind in ("request", "refused", "arc_failed", "disconnect"):
            assert step.state == state
        if step.session is not None and step.session != previous:
            assert step.session not in numbers
            numbers.add(step.session)
        previous = step.session
        state = step.state
    assert state == engine.state
    assert numbers == set(range(1, engine._opened + 1))


class Gate(NullDevice):
    """Stops inside its first arc until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.arcs: list[str] = []

    def take(self, arc: object, *_: object) -> None:
        self.arcs.append(str(arc))
        self.entered.set()
        assert self.leave.wait(LIMIT)


def test_reading_never_waits(spec: Spec) -> None:
    device = Gate()
    engine = Engine(spec, None, device)
    thread = threading.Thread(target=engine.set_state, args=("STOP_COPY",), daemon=True)
    thread.start()
    assert device.entered.wait(LIMIT)
    # The other thread is inside the device and stays there until this one has read everything.
    assert engine.situation == Situation("RUNNING")
    assert (engine.state, engine.session) == ("RUNNING", None)
    assert engine.options() == engine.machine.options("RUNNING")
    assert engine.observers == ()
    assert "RUNNING" in repr(engine)
    device.leave.set()
    thread.join(LIMIT)
    assert engine.situation == Situation("STOP_COPY", 1)


@pytest.mark.parametrize(
    ("waiting", "situation", "arcs"),
    [
        (lambda engine: engine.set_state("STOP"), Situation("STOP"), 1),
        (lambda engine: engine.set_state("STOP_COPY"), Situation("STOP_COPY", 1), 2),
        (lambda engine: engine.reset(), Situation("RUNNING"), 1),
        (lambda engine: engine.disconnect(), Situation("STOP"), 1),
    ],
    ids=["same", "onward", "reset", "disconnect"],
)
def test_a_request_that_waited_is_decided_where_its_turn_finds_it(
    spec: Spec, waiting: Callable[[Engine], Situation], situation: Situation, arcs: int
) -> None:
    device = Gate()
    engine = Engine(spec, "STOP_COPY", device)
    answers: list[Situation] = []
    first = threading.Thread(target=engine.set_state, args=("STOP",), daemon=True)
    second = threading.Thread(target=lambda: answers.append(waiting(engine)), daemon=True)
    first.start()
    assert device.entered.wait(LIMIT)
    second.start()
    assert answers == []
    device.leave.set()
    first.join(LIMIT)
    second.join(LIMIT)
    assert answers == [situation]
    assert len(device.arcs) == arcs


@pytest.mark.usefixtures("eager_switching")
def test_of_many_equal_requests_one_moves_the_device(spec: Spec) -> None:
    for _ in range(30):
        made = rig(spec, None)
        Threads(*[lambda made=made: made.engine.set_state("STOP_COPY")] * 6).run()  # type: ignore[misc]
        assert len(made.device.calls) == 3
        assert made.engine.situation == Situation("STOP_COPY", 1)


@pytest.mark.usefixtures("eager_switching")
def test_observers_may_come_and_go_meanwhile(spec: Spec) -> None:
    engine = Engine(spec, None, NullDevice())
    recorded: list[list[Record]] = [[] for _ in range(200)]

    def watch() -> None:
        for records in recorded:
            notify = records.append
            engine.add_observer(notify)
            engine.remove_observer(notify)

    def ask() -> None:
        for _ in range(300):
            engine.set_state("STOP_COPY")
            engine.reset()

    Threads(watch, ask, ask).run()
    for records in recorded:
        assert records[0].kind == "attached"
        paired(records)


# --- callbacks that call back ---

ACTS: dict[str, Callable[[Engine], object]] = {
    "set_state": lambda engine: engine.set_state("STOP"),
    "same state": lambda engine: engine.set_state(engine.state),
    "refused": lambda engine: engine.set_state(999),
    "reset": lambda engine: engine.reset(),
    "disconnect": lambda engine: engine.disconnect(),
    "add_observer": lambda engine: engine.add_observer(print),
    "remove_observer": lambda engine: engine.remove_observer(print),
}


class ReentrantDevice(NullDevice):
    """Does something in each of its callbacks."""

    def __init__(self) -> None:
        self.act: Callable[[], object] = lambda: None

    def take(self, *_: object) -> None:
        self.act()

    def reset(self, _: Situation) -> None:
        self.act()

    def disconnect(self, *_: object) -> None:
        self.act()


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("callback", ["take", "reset", "disconnect"])
@pytest.mark.parametrize("act", ACTS)
def test_a_device_that_calls_back_is_refused(
    spec: Spec, act: str, callback: str, observed: bool
) -> None:
    device = ReentrantDevice()
    engine = Engine(spec, "STOP_COPY", device)
    if observed:
        engine.add_observer(lambda record: None)
    caught: list[ReenteredError] = []

    def meddle() -> None:
        before = engine.situation
        with pytest.raises(ReenteredError) as error:
            ACTS[act](engine)
        caught.append(error.value)
        assert engine.situation == before
        assert (engine.state, engine.session, len(engine.options())) == ("RUNNING", None, 8)

    device.act = meddle
    call = {"take": lambda: engine.set_state("STOP")}.get(callback, getattr(engine, callback, None))
    assert call is not None
    assert call().state == ("STOP" if callback == "take" else "RUNNING")
    [error] = caught
    assert error.method == (act if act in dir(Engine) else "set_state")
    assert isinstance(error, RuntimeError)
    # Once more from another thread: the lock has been let go as often as it was taken.
    device.act = lambda: None
    Threads(lambda: engine.set_state("RUNNING"), engine.reset).run()
    assert engine.situation == Situation("RUNNING")


def test_a_device_that_does_not_catch_that_has_failed(spec: Spec) -> None:
    device = ReentrantDevice()
    engine = Engine(spec, "STOP_COPY", device)
    device.act = engine.reset
    with pytest.raises(RequestFailedError) as failure:
        engine.set_state("STOP")
    assert isinstance(failure.value.__cause__, ReenteredError)
    assert failure.value.event.name == "arc_failed_for_good"
    assert engine.situation == Situation("ERROR")


def test_a_callback_may_act_on_another_engine(spec: Spec) -> None:
    other = Engine(spec, "STOP_COPY", NullDevice())
    device = ReentrantDevice()
    device.act = lambda: other.set_state("STOP")
    engine = Engine(spec, "STOP_COPY", device, observers=[lambda record: other.reset()])
    assert engine.set_state("STOP") == Situation("STOP")
    assert other.situation == Situation("RUNNING")
