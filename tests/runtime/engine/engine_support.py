"""What the tests of the engine share: a device that fails on demand, and a second opinion.

`Oracle` states what the table demands. It reads the raw rows of the spec and shares no code with
the engine nor with `vfio_migration.model.machine`: contraction is done by taking states out one by
one instead of by following lines, routing by listing every path instead of by searching.
"""

from __future__ import annotations

import contextlib
import errno as errno_module
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from vfio_migration.model import Arc, Spec, State
from vfio_migration.runtime import (
    ArcError,
    Engine,
    Record,
    RequestFailedError,
    RequestRefusedError,
    Situation,
)

Call = tuple[object, ...]
Raiser = Callable[[], BaseException]


class ScriptedDevice:
    """Notes every call, and fails where the script has it.

    `script` holds what the coming calls raise, None for those that succeed; when it is used up all
    succeed. The device checks for itself that it is called in a sensible way: one call at a time,
    and each arc from where it is.
    """

    def __init__(self, start: str) -> None:
        self.where = start
        self.calls: list[Call] = []
        self.script: list[BaseException | None] = []
        self._inside = False

    def take(self, arc: Arc, session: int | None, effect: str) -> None:
        with self._call("take", arc.from_, arc.to, session, effect):
            assert arc.from_ == self.where
            self._follow_script(arc.from_)
            self.where = arc.to

    def reset(self, to: Situation) -> None:
        with self._call("reset", to):
            self._follow_script(self.where)
            self.where = to.state

    def disconnect(self, to: Situation, drops: tuple[str, ...]) -> None:
        with self._call("disconnect", to, drops):
            self._follow_script(self.where)
            assert to.state == self.where

    def _call(self, *call: object) -> ScriptedDevice:
        assert not self._inside, "called while it is being called"
        self.calls.append(call)
        return self

    def __enter__(self) -> None:
        self._inside = True

    def __exit__(self, *_: object) -> None:
        self._inside = False

    def _follow_script(self, back_to: str) -> None:
        fault = self.script.pop(0) if self.script else None
        if fault is None:
            return
        back = isinstance(fault, ArcError) and not fault.for_good
        # What it is afterwards if it failed for good, only the table knows: `Rig.sync`.
        self.where = back_to if back else "?"
        try:
            raise fault
        finally:
            del fault  # its traceback holds this frame: a cycle of the tests' own making


@dataclass
class Rig:
    """An engine, its device, and what an observer was notified."""

    engine: Engine
    device: ScriptedDevice
    records: list[Record] = field(default_factory=list)

    def sync(self) -> None:
        """Take a device that failed for good to where the table specifies it is."""
        self.device.where = self.engine.state

    def equal(self) -> dict[str, object]:
        """Everything an engine holds, and what its device was asked: what must be equal."""
        held = {name: getattr(self.engine, name) for name in Engine.__slots__ if name[:2] != "__"}
        return held | {"calls": tuple(self.device.calls)}


def rig(spec: Spec, capabilities: object, *, observed: bool = False) -> Rig:
    device = ScriptedDevice(spec.initial)
    made = Rig(Engine(spec, capabilities, device), device)  # type: ignore[arg-type]
    if observed:
        made.engine.add_observer(made.records.append)
    return made


def bring(made: Rig, state: str) -> None:
    """Drive an engine to a state by requests; where none leads, by failing for good."""
    spec = made.engine.machine.spec
    if not spec.state(state).settable:
        away = next(arc.to for arc in made.engine.machine.arcs if arc.from_ == made.engine.state)
        made.device.script = [ArcError(for_good=True)]
        with contextlib.suppress(RequestFailedError):
            made.engine.set_state(away)
        made.sync()
    else:
        made.engine.set_state(state)
    assert made.engine.state == state
    made.device.calls.clear()
    made.records.clear()


@dataclass(frozen=True)
class Way:
    """A way for a callback to fail."""

    name: str
    make: Raiser
    back: bool = False
    errno: str | None = None
    interrupt: bool = False

    def __str__(self) -> str:
        return self.name


WAYS = (
    Way("back", lambda: ArcError("busy"), back=True),
    Way("back, own errno", lambda: ArcError(errno="ENOSPC"), back=True, errno="ENOSPC"),
    Way("for good", lambda: ArcError(for_good=True)),
    Way(
        "for good, own errno",
        lambda: ArcError("dead", errno=errno_module.ENODEV, for_good=True),
        errno="ENODEV",
    ),
    Way("exception", lambda: ValueError("a slip")),
    Way("OSError", lambda: OSError(errno_module.ENOSPC, "disk full")),
    Way("interrupt", KeyboardInterrupt, interrupt=True),
)


@dataclass(frozen=True)
class Outcome:
    """What the table demands of one request."""

    situation: Situation
    opened: int
    calls: tuple[Call, ...] = ()
    refused: tuple[str, str, str] | None = None
    failed: tuple[str, str, tuple[str, str]] | None = None


class Oracle:
    """What the table demands, read from its raw rows."""

    def __init__(self, spec: Spec, names: tuple[str, ...]) -> None:
        self.spec = spec
        self.states: dict[str, State] = {
            row.name: row for row in spec.states if set(row.requires) <= set(names)
        }
        self.arcs = self._contract()

    def effect(self, from_: str, to: str) -> str:
        rows = {row.name: row.session for row in self.spec.states}
        [effect] = [
            row.effect
            for row in self.spec.session_effects
            if (row.from_, row.to) == (rows[from_], rows[to])
        ]
        return effect

    def session_open(self, state: str) -> bool:
        [name] = [row.session for row in self.spec.states if row.name == state]
        [transfer] = [row.transfer for row in self.spec.sessions if row.name == name]
        return transfer != "none"

    def event(self, name: str, now: Situation) -> tuple[Situation, str | None]:
        [row] = [row for row in self.spec.events if row.name == name]
        state = now.state if row.to is None else row.to
        session = {"kept": now.session, "ended": None}[row.session]
        return Situation(state, session), row.errno

    def outcome(
        self,
        now: Situation,
        opened: int,
        target: str | int,
        fail_at: int | None = None,
        way: Way = WAYS[0],
    ) -> Outcome:
        decided = self.decide(now.state, target)
        if isinstance(decided, tuple):
            return Outcome(now, opened, refused=decided)
        calls: list[Call] = []
        here = now
        for index, to in enumerate(decided):
            effect = self.effect(here.state, to)
            session = opened + 1 if effect == "opens" else here.session
            calls.append(("take", here.state, to, session, effect))
            if index == fail_at:
                arc = (here.state, to)
                name = "arc_failed" if way.back else "arc_failed_for_good"
                then, errno = self.event(name, here)
                failed = (name, way.errno or errno or "EIO", arc)
                return Outcome(then, opened, tuple(calls), failed=failed)
            if effect == "opens":
                opened += 1
            here = Situation(to, None if effect == "closes" else session)
        return Outcome(here, opened, tuple(calls))

    def decide(self, from_: str, target: str | int) -> list[str] | tuple[str, str, str]:
        """Return the states stepped through, or (when, errno, reason) of the refusal."""
        name = target
        if isinstance(target, int):
            names = [row.name for row in self.spec.states if row.value == target]
            name = names[0] if names else target
        for row in self.spec.requests:
            errno, reason = row.errno, row.reason
            match row.when:
                case "value_unknown":
                    holds = isinstance(name, int)
                case "target_unsupported":
                    holds = name not in self.states
                case "target_not_settable":
                    holds = not self.states[name].settable
                case "already_there":
                    holds = name == from_
                case "no_way_out":
                    holds = all(arc[0] != from_ for arc in self.arcs)
                case "pair_refused":
                    pairs = [r for r in self.spec.refusals if (r.from_, r.to) == (from_, name)]
                    holds = bool(pairs)
                    if pairs:
                        errno, reason = pairs[0].errno, pairs[0].reason
                case "no_path":
                    holds = not self._paths(from_, str(name))
            if holds and row.outcome == "nothing":
                return []
            if holds:
                return (row.when, str(errno), str(reason))
        paths = self._paths(from_, str(name))
        shortest = [path for path in paths if len(path) == min(map(len, paths))]
        assert len(shortest) == 1, (from_, name, shortest)
        return list(shortest[0])

    def _paths(self, from_: str, to: str) -> list[tuple[str, ...]]:
        """Every path without a cycle that the routing rule in force allows."""
        [rule] = [row for row in self.spec.routing if row.in_force]

        def guarded(state: str) -> bool:
            return self.states[state].session == rule.guarded

        def allowed(path: tuple[str, ...]) -> bool:
            if rule.interior == "always" or not any(map(guarded, path[:-1])):
                return True
            return rule.interior == "whole_path" and all(map(guarded, (from_, *path)))

        return [path for path in self._walk((from_,), to) if allowed(path)]

    def _walk(self, done: tuple[str, ...], to: str) -> Iterator[tuple[str, ...]]:
        if done[-1] == to:
            yield done[1:]
            return
        for a, b in self.arcs:
            if a == done[-1] and b not in done:
                yield from self._walk((*done, b), to)

    def _contract(self) -> set[tuple[str, str]]:
        columns = [row.name for row in self.spec.operations]
        rows = [row.name for row in self.spec.sessions]
        at = {s.name: (columns.index(s.operation), rows.index(s.session)) for s in self.spec.states}

        def direction(a: str, b: str) -> tuple[int, int]:
            dx, dy = at[b][0] - at[a][0], at[b][1] - at[a][1]
            return (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)

        arcs = {(row.from_, row.to) for row in self.spec.arcs}
        for ended in [row.name for row in self.spec.states if row.name not in self.states]:
            arcs |= {
                (a, d)
                for a, b in arcs
                for c, d in arcs
                if b == c == ended and a != d and direction(a, b) == direction(c, d)
            }
            arcs = {arc for arc in arcs if ended not in arc}
        return arcs


def paired(records: list[Record]) -> None:
    """Assert that each record that starts something is followed by exactly one that ends it."""
    open_: list[Record] = []
    for record in records:
        assert record.after.state in {row.name for row in record.engine.machine.states}
        if record.kind == "attached":
            assert (record.phase, open_) == ("completed", [])
        elif record.phase == "started":
            assert record.kind == "arc" if open_ else record.kind != "arc"
            assert record.before == record.after
            open_.append(record)
        else:
            begun = open_.pop()
            about = ("kind", "before", "target", "arc", "effect", "session", "engine")
            assert [getattr(begun, key) for key in about] == [getattr(record, key) for key in about]
            assert record.phase != "refused" or record.kind == "request"
            assert (record.error is None) == (record.phase == "completed") == (record.errno is None)
    assert open_ == []


def at(spec: Spec, flags: int, state: str, *, observed: bool) -> Rig:
    made = rig(spec, flags, observed=observed)
    bring(made, state)
    return made


def sweep(
    oracle: Oracle, flags: int, state: str, targets: Iterable[str | int], *, observed: bool
) -> None:
    """Ask for every target, and fail in every way at every step: all must be as the oracle says."""
    for target in targets:
        made = at(oracle.spec, flags, state, observed=observed)
        start, opened = made.engine.situation, made.engine._opened
        decided = oracle.decide(state, target)
        expected = oracle.outcome(start, opened, target)
        before = made.equal()
        if isinstance(decided, tuple):
            with pytest.raises(RequestRefusedError) as refusal:
                made.engine.set_state(target)
            error = refusal.value
            assert made.equal() == before
            assert made.device.calls == []
            assert (error.when, error.errno, error.reason) == expected.refused
            assert error.from_ == state
            assert error.__cause__ is error.__context__ is None
            continue
        assert made.engine.set_state(target) == expected.situation == made.engine.situation
        assert made.engine._opened == expected.opened
        assert tuple(made.device.calls) == expected.calls
        paired(made.records)
        if not isinstance(target, int):
            for step in range(len(decided)):
                for way in WAYS:
                    made = at(oracle.spec, flags, state, observed=observed)
                    fail(made, oracle, target, step, way)


def fail(made: Rig, oracle: Oracle, target: str, step: int, way: Way) -> None:
    start = made.engine.situation
    expected = oracle.outcome(start, made.engine._opened, target, step, way)
    fault = way.make()
    made.device.script = [None] * step + [fault]
    assert expected.failed is not None
    name, errno, arc = expected.failed
    if way.interrupt:
        with pytest.raises(KeyboardInterrupt) as interrupt:
            made.engine.set_state(target)
        assert interrupt.value is fault
    else:
        with pytest.raises(RequestFailedError) as failure:
            made.engine.set_state(target)
        error = failure.value
        assert error.__cause__ is fault
        assert (error.event.name, error.errno) == (name, errno)
        assert (error.arc.from_, error.arc.to) == arc
        assert (error.from_, error.to) == (start.state, target)
        assert error.situation == expected.situation
    assert made.engine.situation == expected.situation
    assert made.engine._opened == expected.opened
    assert tuple(made.device.calls) == expected.calls
    paired(made.records)
    if made.records:
        inner, outer = made.records[-2:]
        assert (inner.kind, inner.phase, inner.errno, inner.error) == (
            "arc",
            "failed",
            errno,
            fault,
        )
        assert (outer.kind, outer.phase, outer.errno) == ("request", "failed", errno)
    # The engine is as usable as before: what it does next is again what the table specifies.
    made.sync()
    made.device.calls.clear()
    now, opened = made.engine.situation, made.engine._opened
    again = oracle.outcome(now, opened, target)
    if again.refused:
        with pytest.raises(RequestRefusedError):
            made.engine.set_state(target)
    else:
        assert made.engine.set_state(target) == again.situation
    assert tuple(made.device.calls) == again.calls
    assert made.engine.reset() == oracle.event("reset", again.situation)[0]
