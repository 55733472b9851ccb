"""Distinguishing sequences run on live engines: a second opinion on the search.

One engine runs NEW, with a device that fails where the sequence states it. Another one runs OLD,
once for each outcome that OLD may show in the last step: none may be what NEW showed. Where a
    client
takes an unknown state for a known one, the engine of OLD is brought to the known one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from vfio_migration.model import Arc, SpecError
from vfio_migration.model.spec import Effect
from vfio_migration.runtime import ArcError, Engine, EngineError, Situation
from vfio_migration.runtime.engine.errors import RequestRefusedError
from vfio_migration.verifier.comparison.behaviour import (
    Action,
    Answer,
    Behaviour,
    Fault,
    Kind,
    Outcome,
    Position,
    Session,
)
from vfio_migration.verifier.comparison.compatibility import Decision
from vfio_migration.verifier.report.scripted_device import ScriptedDevice, bring


@dataclass(slots=True)
class _Device(ScriptedDevice):
    """A scripted device that remembers which arcs it was asked for."""

    taken: list[Arc] = field(default_factory=list)

    def take(self, arc: Arc, _session: int | None, _effect: Effect, /) -> None:
        """Remember the arc; take it, or fail."""
        self.taken.append(arc)
        self._next()


def confirm(decision: Decision) -> str | None:
    """Run the sequence of a decision on live engines; return what they do otherwise, or None."""
    if decision.distinguishing is None:
        return None
    old, new = decision.pairing.old, decision.pairing.new
    steps = decision.distinguishing.steps
    shown: Answer | None = None
    try:
        live = _Live(new)
        for number, step in enumerate(steps, 1):
            shown, differs = live.act(step.action, step.new)
            if differs:
                return f"NEW, step {number}: {differs}"
        if not steps:
            same = old.seen(old.start) == new.seen(new.start)
            return "both start in the same way" if same else None
        last = steps[-1]
        for outcome in last.old:
            # From the last place on at which the client took one state for another.
            begin = max((n for n, s in enumerate(steps[:-1], 1) if s.matched is None), default=0)
            live = _Live(old, steps[begin].before[0] if begin else None)
            for step in steps[begin:-1]:
                assert step.matched is not None
                if differs := live.act(step.action, step.matched)[1]:
                    return f"OLD: {differs}"
            answer, differs = live.act(last.action, outcome)
            if differs:
                return f"OLD, last step: {differs}"
            if answer == shown:
                return "OLD, last step: does the same as NEW"
    except (SpecError, LookupError) as error:
        return str(error)
    return None


class _Live:
    """An engine that follows one table, and what a client can observe of it."""

    def __init__(self, behaviour: Behaviour, start: Position | None = None) -> None:
        self.behaviour = behaviour
        self.device = _Device()
        self.engine = Engine(behaviour.spec, behaviour.machine.capabilities, self.device)
        if start is not None and not bring(self.engine, self.device, start.state):
            raise LookupError(f"no engine of OLD could be brought to {start.state}")

    def act(self, action: Action, expected: Outcome) -> tuple[Answer, str | None]:
        """Do what a client does; return what it can observe, and how that is not as expected."""
        before = self.engine.situation
        self.device.taken.clear()
        self.device.script = deque(_script(expected.fault))
        kind, errno = self._take(action)
        self.device.script.clear()
        after = self.engine.situation
        position = Position(after.state, after.session is not None)
        session = _session(before, after)
        taken = tuple(self.device.taken)
        found = Outcome(kind, position, session, errno, expected.fault, taken)
        problem = None if found == expected else f"the engine: {found}; the search: {expected}"
        return self.behaviour.answer(found), problem

    def _take(self, action: Action) -> tuple[Kind, str | None]:
        try:
            if action.value is not None:
                self.engine.set_state(action.value)
            elif action.event == "reset":
                self.engine.reset()
            else:
                self.engine.disconnect()
        except RequestRefusedError as error:
            return "refused", error.errno
        except EngineError:
            return "failed", None
        except SpecError:
            return "undecided", None
        return "done", None


def _script(fault: Fault | None) -> Sequence[ArcError | None]:
    if fault is None:
        return ()
    return (*[None] * (fault.arc or 0), ArcError(for_good=fault.for_good))


def _session(before: Situation, after: Situation) -> Session:
    if after.session is None:
        return "none" if before.session is None else "ended"
    return "same" if before.session == after.session else "new"


__all__ = ["confirm"]
