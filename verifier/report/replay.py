"""Traces run again on the live engine: a second opinion on what the prover reports.

Each device of a trace gets an engine of its own, with a device that fails where the trace states
it. What the engine then does is recorded and held against the trace, step by step.

- *Where a trace begins.* An engine begins in the initial state. If the trace begins elsewhere, the
  engine is brought there first, by requests, failures and events. If nothing leads there, that is
  a difference, at step 0.
- *Notes* (the device does something, data is read or written, a client connects) are nothing an
  engine does: they are skipped, and counted.
- *Sessions* are compared by which steps share one, not by number: a trace may begin in the middle
  of a device's life.
- *Arcs that no request asks for*, as in traces where requests are left out, are asked for one by
  one.
- *A trace may end in the middle of a request.* The engine then goes on, and nobody looks.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from errno import errorcode
from typing import Literal

from vfio_migration.model import Machine, Spec, SpecError, Step, Trace
from vfio_migration.model.errors import Mistake, closest, did_you_mean, it_has
from vfio_migration.runtime import ArcError, Engine, EngineError, Recorder, Situation
from vfio_migration.runtime.engine.errors import errno_name
from vfio_migration.verifier.report.scripted_device import ScriptedDevice, bring
from vfio_migration.verifier.solver.obligation import Example

Comparison = Literal["same", "differs", "skipped", "not compared"]
"""What became of one step: a note is skipped, and after a difference nothing is compared."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where engine and trace part.

    Attributes:
        step: The number of the step, counted from 1; 0 if it is already where the trace begins.
        trace: What the trace states happens, and where the device then is.
        engine: What the engine does instead.
    """

    step: int
    trace: str
    engine: str

    def __str__(self) -> str:
        return f"at step {self.step}: the trace has: {self.trace}; the engine: {self.engine}"


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of running a trace again.

    Attributes:
        trace: The trace.
        steps: What became of each of its steps.
        difference: The first difference, or None if the engine did the same.
    """

    trace: Trace
    steps: tuple[Comparison, ...]
    difference: Difference | None

    @property
    def agrees(self) -> bool:
        """The engine did the same."""
        return self.difference is None

    @property
    def compared(self) -> int:
        """How many steps were compared, the one that differs included."""
        return sum(step in ("same", "differs") for step in self.steps)

    @property
    def skipped(self) -> int:
        """How many notes were passed over on the way."""
        return self.steps.count("skipped")

    def __str__(self) -> str:
        if self.difference is not None:
            return f"the live engine differs {self.difference}"
        steps = f"{self.compared} step{'' if self.compared == 1 else 's'}"
        notes = f", {self.skipped} it takes no part in" if self.skipped else ""
        return f"the live engine does the same ({steps}{notes})"


def replay(trace: Trace, spec: Spec) -> Replay:
    """Run a trace again on live engines.

    Raises:
        SpecError: If the trace is none of this table: another name, unknown states, capabilities
            or errnos.
    """
    _check(trace, spec)
    differences = [
        found for device in range(len(trace.start)) if (found := _run_device(trace, spec, device))
    ]
    first = min(differences, key=lambda found: found.step, default=None)
    end = len(trace.steps) + 1 if first is None else first.step
    return Replay(trace, tuple(_compared(trace, end)), first)


def _compared(trace: Trace, end: int) -> Iterator[Comparison]:
    for number, step in enumerate(trace.steps, 1):
        if number > end:
            yield "not compared"
        elif number == end:
            yield "differs"
        else:
            yield "skipped" if step.kind == "note" else "same"


def second_opinion(example: Example, spec: Spec) -> str:
    """Return in one line what the live engine makes of a counterexample.

    A report calls this with `Verdict.example` and the table it was found in, before it shows the
    example. It never raises, and costs less than a millisecond.

    Returns:
        "the live engine does the same (4 steps)", or "the live engine differs at step 3: ...", or
        "the live engine cannot be asked: ...", or nothing if the example is no run of one device.
    """
    if example.trace is None or len(example.trace.start) != 1:
        return ""
    try:
        return str(replay(example.trace, spec))
    except SpecError as error:
        return f"the live engine cannot be asked: {error}"


# --- one device ---


@dataclass(slots=True)
class _Operation:
    """One thing asked of an engine, with the steps of the trace that it is to result in."""

    kind: Literal["request", "reset", "disconnect"]
    steps: list[tuple[int, Step]]
    target: str | int | None = None
    announced: bool = True

    @property
    def under_way(self) -> bool:
        """It is a request that has more to do."""
        last = self.steps[-1][1]
        here = last.state if last.kind == "request" else last.to
        going_on = last.kind in ("request", "arc") and here != self.target
        return self.announced and self.kind == "request" and going_on

    def goes_on_with(self, step: Step) -> bool:
        """Return whether a step belongs to it.

        A request for the present state is over at once, unless it is refused: that of ERROR is.
        """
        refused = step.kind == "refused" and self.steps[-1][1].kind == "request"
        return self.under_way or refused


@dataclass(slots=True)
class _Sessions:
    """Which number of the trace is which number of the engine."""

    engines: dict[int, int] = field(default_factory=dict)

    def same(self, trace: int | None, engine: int | None) -> bool:
        if trace is None or engine is None:
            return trace is engine
        if trace not in self.engines and engine not in self.engines.values():
            self.engines[trace] = engine
        return self.engines.get(trace) == engine


def _run_device(trace: Trace, spec: Spec, device: int) -> Difference | None:
    start = trace.start[device]
    begins = f"the device begins in {start}"
    scripted = ScriptedDevice()
    try:
        engine = Engine(spec, trace.capabilities[device], scripted)
    except SpecError as error:
        return Difference(0, begins, f"refuses this table: {error}")
    if not bring(engine, scripted, start):
        return Difference(0, begins, f"nothing leads from {spec.initial} to {start}")
    sessions = _Sessions()
    # A run of several devices that states nothing of any session does not follow them.
    follows = len(trace.start) == 1 or any(step.session is not None for step in trace.steps)
    ahead: Step | None = None
    for operation in _operations(trace, engine.machine, device):
        if ahead is not None:
            # The trace goes on to something else while the engine was not done yet.
            number, step = operation.steps[0]
            return Difference(number, _described(step), _described(ahead))
        try:
            found = _perform(engine, scripted, operation)
        except SpecError as error:
            number, step = operation.steps[0]
            return Difference(number, _described(step), f"cannot decide: {error}")
        count = len(operation.steps)
        for (number, step), did in itertools.zip_longest(operation.steps, found[:count]):
            if did is None:
                return Difference(number, _described(step), f"stays in {_place(engine.situation)}")
            alike = not follows or sessions.same(step.session, did.session)
            if not (_same(step, did, spec) and alike):
                return Difference(number, _described(step), _described(did))
        ahead = next(iter(found[count:]), None)
    return None


def _operations(trace: Trace, machine: Machine, device: int) -> list[_Operation]:
    """Cut the steps of a device into what is to be asked of its engine."""
    operations: list[_Operation] = []
    for number, step in enumerate(trace.steps, 1):
        if step.device != device or step.kind == "note":
            continue
        here = [(number, step)]
        if step.kind == "reset" or step.kind == "disconnect":
            operations.append(_Operation(step.kind, here))
        elif step.kind == "request":
            target = None if step.to is None else _name(step.to, machine.spec)
            operations.append(_Operation("request", here, target))
        elif _is_failed_event(step, machine):
            operations.append(_Operation("reset", here))
        elif operations and operations[-1].goes_on_with(step):
            operations[-1].steps += here
        else:
            operations.append(_Operation("request", here, step.to, announced=False))
    return operations


def _is_failed_event(step: Step, machine: Machine) -> bool:
    """Return whether a recorder noted a reset or a disconnect that failed: there is no such arc.

    It has no kind of its own for these, and the two lead to the same place.
    """
    return (
        step.kind == "arc_failed_for_good"
        and step.to == step.state
        and machine.arc(str(step.from_), str(step.to)) is None
    )


def _perform(engine: Engine, device: ScriptedDevice, operation: _Operation) -> list[Step]:
    """Ask an operation of the engine; return what it does."""
    spec = engine.machine.spec
    arcs = [step for _, step in operation.steps if step.kind in _ARCS]
    device.script = deque(_fault(step, spec) for step in arcs)
    recorder = Recorder()
    engine.add_observer(recorder)
    try:
        with contextlib.suppress(EngineError):
            if operation.kind == "reset":
                engine.reset()
            elif operation.kind == "disconnect":
                engine.disconnect()
            elif operation.target is not None:
                engine.set_state(operation.target)
    finally:
        engine.remove_observer(recorder)
    return list(recorder.trace().steps[0 if operation.announced else 1 :])


_ARCS = ("arc", "arc_failed", "arc_failed_for_good")


def _fault(step: Step, spec: Spec) -> ArcError | None:
    if step.kind not in ("arc_failed", "arc_failed_for_good"):
        return None
    # An errno that is the table's is for the engine to find; a device names only what differs.
    named = None if step.errno == spec.event(step.kind).errno else step.errno
    return ArcError(errno=named, for_good=step.kind == "arc_failed_for_good")


def _same(step: Step, did: Step, spec: Spec) -> bool:
    """Compare all but the session; what the trace leaves out is not compared."""
    return (
        step.kind == did.kind
        and step.state == did.state
        and step.from_ in (None, did.from_)
        and (step.to is None or _name(step.to, spec) == did.to)
        and step.errno in (None, did.errno)
    )


def _name(state: str | int, spec: Spec) -> str | int:
    """Return the name of a state that is given by name or by value; the value if none has it."""
    return next((row.name for row in spec.states if row.value == state), state)


def _described(step: Step) -> str:
    return f"{step}, in {_place(Situation(step.state, step.session))}"


def _place(situation: Situation) -> str:
    session = situation.session
    return f"{situation.state} with {'no session' if session is None else f'session {session}'}"


# --- what a trace must be ---


def _check(trace: Trace, spec: Spec) -> None:
    """Raise `SpecError` with everything that makes this no trace of this table."""
    if trace.spec != spec.name:
        hint = f"the table read is {spec.name}; name the right one with --spec"
        raise SpecError([Mistake("spec", trace.spec, "is the name of another table", hint)])
    if not trace.start:
        raise SpecError([Mistake("start", None, "is empty: a run of no device", None)])
    mistakes: list[Mistake] = []
    known = [row.name for row in spec.states]

    def wrong(place: str, value: object, problem: str, hint: str | None) -> None:
        mistakes.append(Mistake(place, value, problem, hint))

    def state(place: str, name: str | int | None) -> None:
        if isinstance(name, str) and name not in known:
            hint = did_you_mean(closest(name, known)) or it_has(known)
            wrong(place, name, "there is no such state in this table", hint)

    for device, names in enumerate(trace.capabilities):
        try:
            spec.capability_set(names)
        except SpecError as error:
            for one in error.mistakes:
                wrong(f"capabilities[{device}]", one.value, one.problem, one.hint)
        state(f"start[{device}]", trace.start[device])
    for index, step in enumerate(trace.steps):
        place = f"steps[{index}]"
        state(f"{place}.from", step.from_)
        state(f"{place}.to", step.to)
        state(f"{place}.state", step.state)
        if step.kind == "request" and step.to is None:
            wrong(f"{place}.to", None, "is missing from a request", "name the state asked for")
        if step.errno is not None and not _is_errno(step.errno):
            near = did_you_mean(closest(step.errno, errorcode.values()))
            wrong(f"{place}.errno", step.errno, "is not an errno of this system", near)
    if mistakes:
        raise SpecError(mistakes)


def _is_errno(name: str) -> bool:
    try:
        return errno_name(name) == name
    except ValueError:
        return False
