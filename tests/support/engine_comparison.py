"""The z3 transition relation of one device, enumerated, beside the live engine.

`Relation` asks the solver for every step it allows in a situation, one by one, until there is none
left: what it returns is all there is. `compare` puts the engine in every situation it can be in,
makes everything happen that can happen there, and returns each difference.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import z3

from vfio_migration.model import Spec
from vfio_migration.runtime import (
    ArcError,
    DeviceFailedError,
    Engine,
    Record,
    ReenteredError,
    RequestRefusedError,
    Situation,
)
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.systems.device import DeviceSystem

SESSIONS = 2
"""How many sessions there may have been where something is tried: a first life and a second."""

ASKED = ("request", "refused", "nothing")
OWN = ("read", "write", "act")
"""What the engine takes no part in; `untouched_by_own` shows that it could not tell."""


class Seen(NamedTuple):
    """What a client sees of a step: what happened, and where the device then is."""

    what: str
    state: str
    session: int | None


Run = tuple[Seen, ...]


class Point(NamedTuple):
    """A situation of the relation. Of a device at rest only what `alike` looks at."""

    state: str
    busy: bool
    target: str
    origin: str
    open: int
    session: int
    sessions: int
    set_out: int
    changes: int
    connected: bool

    def seen(self, what: str) -> Seen:
        return Seen(what, self.state, self.session or None)


class Move(NamedTuple):
    event: str
    asked: str | None
    then: Point


class Relation:
    """What z3 allows one device under one capability set."""

    def __init__(self, spec: Spec, word: int) -> None:
        self.encoding = Encoding(spec)
        self.system = DeviceSystem.of(self.encoding)
        assert tuple(self.system.sorts) == Point._fields
        self._now, self._then = self.system.situation(0), self.system.situation(1)
        self._event = self.system.event(0)
        self._asked = z3.Const("asked@0", self.encoding.state_sort)
        self._solver = z3.Solver()
        self._solver.add(self.system.facts, self.encoding.flags == word)
        self._moves: dict[Point, list[Move]] = {}
        self.asked_of_solver = 0

    def begins(self) -> list[Point]:
        """Every situation in which a run can begin."""
        found = []
        self._solver.push()
        self._solver.add(self.system.start(self._now))
        while self._solver.check() == z3.sat:
            point = self._read(self._solver.model(), self._now)
            found.append(_at_rest(point))
            self._solver.add(z3.Not(self._is(self._now, point)))
        self._solver.pop()
        return found

    def moves(self, now: Point) -> list[Move]:
        """Every step from a situation, but for those of `OWN`."""
        if now not in self._moves:
            self._moves[now] = list(self._enumerate(now))
        return self._moves[now]

    def _enumerate(self, now: Point) -> Iterator[Move]:
        system, solver = self.system, self._solver
        solver.push()
        solver.add(self._is(self._now, now), system.step(0))
        solver.add(z3.Not(system.is_event(self._event, *OWN)))
        while True:
            self.asked_of_solver += 1
            answer = solver.check()
            if answer != z3.sat:
                assert answer == z3.unsat
                break
            model = solver.model()
            index = model.eval(self._event, model_completion=True)
            then = self._read(model, self._then)
            same = [self._event == index, self._is(self._then, then)]
            event, asked = system.events[index.as_long()], None
            if event in ASKED:
                value = model.eval(self._asked, model_completion=True)
                asked = self.encoding.read_state(model, self._asked) or "no state"
                same.append(self._asked == value)
            yield Move(event, asked, then if then.busy else _at_rest(then))
            solver.add(z3.Not(z3.And(same)))
        solver.pop()

    def runs(self, now: Point, asked: str) -> dict[Run, Point]:
        """Every run that a request can lead to: what is seen of it, and where it ends."""
        found: dict[Run, Point] = {}
        for move in self.moves(now):
            if move.asked != asked:
                continue
            begun = now.seen("request")
            if move.event == "request":
                found |= {(begun, *run): end for run, end in self._onward(move.then)}
            elif move.event == "nothing":
                assert move.then == now
                found[begun,] = move.then
            else:
                found[begun, move.then.seen("refused")] = move.then
        return found

    def _onward(self, now: Point) -> Iterator[tuple[Run, Point]]:
        if not now.busy:
            yield (), now
            return
        for move in self.moves(now):
            seen = move.then.seen("refused" if move.event == "stuck" else move.event)
            yield from (((seen, *run), end) for run, end in self._onward(move.then))

    def _is(self, variables: Any, point: Point) -> z3.BoolRef:
        return z3.And(
            [variables[name] == self._value(value) for name, value in point._asdict().items()]
        )

    def _value(self, value: str | int | bool) -> Any:
        if isinstance(value, str):
            return self.encoding.state(value)
        return z3.BoolVal(value) if isinstance(value, bool) else z3.IntVal(value)

    def _read(self, model: z3.ModelRef, variables: Any) -> Point:
        values: list[Any] = []
        for name, sort in self.system.sorts.items():
            term = model.eval(variables[name], model_completion=True)
            if sort == self.encoding.state_sort:
                values.append(self.encoding.read_state(model, variables[name]) or "no state")
            else:
                values.append(z3.is_true(term) if sort == z3.BoolSort() else term.as_long())
        return Point(*values)


def _at_rest(point: Point) -> Point:
    """Forget what a request that is over left behind: `alike` proves that nothing depends on it."""
    return point._replace(target=point.state, origin=point.state, set_out=0, changes=0)


def alike(system: DeviceSystem, one: Any, other: Any) -> z3.BoolRef:
    """Two situations agree on everything but the leftovers of requests, and on changes."""
    seen = ("state", "busy", "open", "session", "sessions", "connected")
    request = ("target", "origin", "set_out")
    return z3.And(
        *(one[name] == other[name] for name in seen),
        z3.Implies(one["busy"], z3.And([one[name] == other[name] for name in request])),
    )


# --- the engine ---


@dataclass(frozen=True)
class Action:
    """Something done to an engine: with `fails`, the arc of this index raises `fault`."""

    what: str
    target: str | int | None = None
    fails: int | None = None
    fault: Callable[[], BaseException] | None = None
    name: str = ""

    def __str__(self) -> str:
        target = "" if self.target is None else f" {self.target}"
        return f"{self.what}{target}{self.name and f' ({self.name})'}"


FAULTS: dict[str, tuple[str, Callable[[], BaseException]]] = {
    "back": ("arc_failed", lambda: ArcError("made up")),
    "for good": ("arc_failed_for_good", lambda: ArcError("made up", for_good=True)),
    "an exception of its own": ("arc_failed_for_good", lambda: RuntimeError("made up")),
    "an interrupt": ("arc_failed_for_good", lambda: KeyboardInterrupt()),
}


class ReentrantDevice:
    """A device that fails as scripted, and asks its own engine to act whenever it is called."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.script: deque[Callable[[], BaseException] | None] = deque()

    def take(self, *_about: object) -> None:
        self._called()

    def reset(self, _to: Situation) -> None:
        self._called()

    def disconnect(self, _to: Situation, _drops: tuple[str, ...]) -> None:
        self._called()

    def _called(self) -> None:
        assert self.engine is not None
        before = self.engine.situation
        for act in (self.engine.reset, self.engine.disconnect):
            with contextlib.suppress(ReenteredError):
                act()
                raise AssertionError("the engine let a callback of its own act")
        assert self.engine.situation == before
        fault = self.script.popleft() if self.script else None
        if fault is not None:
            raise fault()


class Rig:
    """An engine, brought somewhere by a history of actions."""

    def __init__(
        self, make: Callable[..., Engine], spec: Spec, word: int, history: tuple[Action, ...]
    ) -> None:
        self.device = ReentrantDevice()
        self.device.engine = self.engine = make(spec, word, self.device)
        for action in history:
            self.act(action)

    def watched(self, action: Action) -> tuple[Run, tuple[str, Situation]]:
        """Do something, observed; return what is seen of it, and the end of it as `_end` has it."""
        records: list[Record] = []
        self.engine.add_observer(records.append)
        ended = self.act(action), self.engine.situation
        return tuple(seen for record in records if (seen := _seen(record)) is not None), ended

    def act(self, action: Action) -> str:
        """Do something; return how it ended for the one who asked."""
        blank = [None] * (action.fails or 0)
        self.device.script = deque([*blank, action.fault])
        try:
            if action.what == "request":
                assert action.target is not None
                self.engine.set_state(action.target)
            else:
                getattr(self.engine, action.what)()
        except RequestRefusedError:
            return "refused"
        except DeviceFailedError as error:
            return error.event.name
        except KeyboardInterrupt:
            return "arc_failed_for_good"
        return "done"


def _seen(record: Record) -> Seen | None:
    what: str | None = {
        ("request", "started"): "request",
        ("request", "refused"): "refused",
        ("arc", "completed"): "arc",
        ("reset", "completed"): "reset",
        ("disconnect", "completed"): "disconnect",
    }.get((record.kind, record.phase))
    if record.phase == "failed" and record.kind != "request":
        assert record.event is not None
        what = record.event.name
    return None if what is None else Seen(what, record.after.state, record.after.session)


# --- both ---


@dataclass
class Comparison:
    """What came of comparing: how much was tried, and what differed.

    Attributes:
        tried: How many things were made to happen.
        points: How many situations at rest they were tried in.
        differences: What was tried and where: the runs only the engine and only the relation knows.
    """

    tried: int
    points: int
    differences: dict[tuple[str, Point], tuple[set[Run], set[Run]]]


def compare(
    model: Spec,
    word: int,
    engine: Spec | None = None,
    make: Callable[..., Engine] = Engine,
) -> Comparison:
    """Compare the relation of a table with engines, which may run another: then it must be seen."""
    running = engine or model
    relation = Relation(model, word)
    (start,) = relation.begins()
    histories: dict[Point, tuple[Action, ...]] = {start: ()}
    queue = deque([start])
    result = Comparison(0, 0, {})
    while queue:
        now = queue.popleft()
        result.points += 1
        here = histories[now]
        for title, allowed, actions in _situations(relation, running, word, now):
            done: dict[Run, Action] = {}
            for action in actions:
                result.tried += 1
                run, ended = Rig(make, running, word, here).watched(action)
                done.setdefault(run, action)
                unobserved = Rig(make, running, word, here)
                for end in (ended, (unobserved.act(action), unobserved.engine.situation)):
                    if end != _end(run):
                        result.differences[f"the end of {title}", now] = ({run}, set())
            if set(done) != set(allowed):
                only = set(done) - set(allowed), set(allowed) - set(done)
                result.differences[title, now] = only
            for run, end in allowed.items():
                few = end.sessions <= SESSIONS and abs(end.open) <= SESSIONS
                if run in done and end not in histories and few:
                    histories[end] = (*here, done[run])
                    queue.append(end)
    return result


def _situations(
    relation: Relation, spec: Spec, word: int, now: Point
) -> Iterator[tuple[str, dict[Run, Point], list[Action]]]:
    """Yield what can be tried: a title, what the relation allows, what to do to the engine."""
    longest = len(spec.states)
    for row in spec.states:
        route = None
        with contextlib.suppress(Exception):
            route = spec.machine(word).route(now.state, row)
        arcs = longest if route is None else len(route.arcs)
        actions = [Action("request", name) for name in (row.name, row.value)]
        actions += [
            Action("request", row.name, index, fault, f"{how} at arc {index + 1}")
            for index in range(arcs)
            for how, (_, fault) in FAULTS.items()
        ]
        yield f"request {row.name}", relation.runs(now, row.name), actions
    unknown = [value for value in (len(spec.states), 99, 2**32 - 1, -1) if _unknown(spec, value)]
    actions = [Action("request", value) for value in unknown]
    yield "request for a value no state has", relation.runs(now, "no state"), actions
    for event in ("reset", "disconnect"):
        yield event, _event(relation, now, event), [Action(event)]
        failing = [Action(event, None, 0, fault, how) for how, (_, fault) in FAULTS.items()]
        yield f"{event} that fails", _event(relation, now, f"{event}_failed"), failing


def _unknown(spec: Spec, value: int) -> bool:
    return all(row.value != value for row in spec.states)


def _event(relation: Relation, now: Point, event: str) -> dict[Run, Point]:
    """What a reset or a disconnect leads to; after a disconnect a client comes back at once."""
    found = {}
    for move in relation.moves(now):
        if move.event == event:
            end = move.then
            if not end.connected:
                (back,) = relation.moves(end)
                assert back.event == "connect"
                assert back.then == end._replace(connected=True)
                end = back.then
            seen = "arc_failed_for_good" if event.endswith("_failed") else event
            found[move.then.seen(seen),] = end
    return found


def _end(run: Run) -> tuple[str, Situation]:
    """What the one who asked must be reported after a run, and where the engine must be."""
    what, state, session = run[-1]
    fine = what in ("request", "arc", "reset", "disconnect")
    return "done" if fine else what, Situation(state, session)
