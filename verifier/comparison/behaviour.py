"""What a client sees of a device that follows a table with one capability set.

A device is at a `Position`. An `Action` is what a client does: ask for a state by its value,
reset the device, disconnect. An action has one `Outcome` if nothing fails, and further ones for
each arc that may fail and for each way to fail that the table knows. What of an outcome a client
can distinguish is `Behaviour.seen` and `Behaviour.answer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from vfio_migration.model import Arc, CapabilitySet, Event, Spec, SpecError
from vfio_migration.runtime.engine.program import Program

Kind = Literal["done", "refused", "failed", "undecided"]
"""How an action ends. Undecided: the table has no row for this request."""

Session = Literal["none", "same", "new", "ended"]
"""What became of the data session that was open before an action."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a device is: its state, and whether a data session is open."""

    state: str
    open: bool


@dataclass(frozen=True, slots=True)
class Action:
    """What a client does: a request for the state with this value, or an event."""

    value: int | None = None
    event: Literal["reset", "disconnect"] | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """What fails: the arc at this place of the path, or an event (`arc` is None)."""

    arc: int | None
    for_good: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an action ends, and where the device then is.

    Attributes:
        kind: How.
        position: Where.
        session: What became of the data session.
        errno: What a refused request is answered; None otherwise, since a device that fails
            may name an error of its own.
        fault: What failed.
        arcs: The arcs the device was asked to take, the one that failed included.
    """

    kind: Kind
    position: Position
    session: Session
    errno: str | None = None
    fault: Fault | None = None
    arcs: tuple[Arc, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client can observe of a position.

    Attributes:
        value: The state, by its value on the wire.
        open: Whether a data session is open.
        transfer: What is streamed.
        end: Which end of the stream a client meets there.
        may: What the device may do, of the activities that both tables know.
    """

    value: int
    open: bool
    transfer: str
    end: str | None
    may: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client can observe of an outcome."""

    kind: Kind
    errno: str | None
    session: Session
    seen: Seen


class Behaviour:
    """A table with one capability set, as a client meets it.

    Args:
        spec: The table.
        capabilities: The capability set.
        activities: The activities that are compared; all of the table by default.

    Raises:
        SpecError: The table does not hold together for this set, so that no engine runs it.
    """

    def __init__(
        self, spec: Spec, capabilities: CapabilitySet, activities: frozenset[str] | None = None
    ) -> None:
        self.spec = spec
        self.machine = spec.machine(capabilities)
        Program.of(self.machine)
        known = frozenset(row.name for row in spec.activities)
        self.activities = known if activities is None else activities & known
        self._outcomes: dict[tuple[Position, Action], tuple[Outcome, ...]] = {}

    @cached_property
    def start(self) -> Position:
        """Where a device begins."""
        return Position(self.spec.initial, open=False)

    @cached_property
    def values(self) -> frozenset[int]:
        """The values of the states that this capability set has."""
        return frozenset(row.value for row in self.machine.states)

    @cached_property
    def positions(self) -> tuple[Position, ...]:
        """Every position that can be reached, failures included, nearest first."""
        found = {self.start: None}
        queue = [self.start]
        for position in queue:  # grows while it is read
            for action in actions(self.values):
                for outcome in self.outcomes(position, action):
                    if outcome.position not in found:
                        found[outcome.position] = None
                        queue.append(outcome.position)
        return tuple(found)

    def seen(self, position: Position) -> Seen:
        """Return what a client can observe of a position."""
        row = self.spec.state(position.state)
        end = self.spec.stream_end(position.state)
        may = self.activities.intersection(self.spec.operation(row.operation).may)
        transfer = self.spec.session(row.session).transfer
        kind = None if end is None else end.kind
        return Seen(row.value, position.open, transfer, kind, may)

    def answer(self, outcome: Outcome) -> Answer:
        """Return what a client can observe of an outcome."""
        seen = self.seen(outcome.position)
        return Answer(outcome.kind, outcome.errno, outcome.session, seen)

    def outcomes(self, position: Position, action: Action) -> tuple[Outcome, ...]:
        """Return every way an action can end; the one without a failure is the first."""
        key = (position, action)
        if key not in self._outcomes:
            made = self._events if action.event else self._requests
            self._outcomes[key] = tuple(dict.fromkeys(made(position, action)))
        return self._outcomes[key]

    def _requests(self, position: Position, action: Action) -> Iterator[Outcome]:
        assert action.value is not None
        kept: Session = "same" if position.open else "none"
        try:
            route = self.machine.route(position.state, action.value)
        except SpecError:
            yield Outcome("undecided", position, kept)
            return
        if route.refused is not None:
            yield Outcome("refused", position, kept, route.refused.errno)
            return
        here, session = position, kept
        failures: list[Outcome] = []
        for place, arc in enumerate(route.arcs):
            taken = route.arcs[: place + 1]
            for for_good in (False, True):
                event = self.spec.event("arc_failed_for_good" if for_good else "arc_failed")
                end, became = _after(event, here, session, position)
                fault = Fault(place, for_good)
                failures.append(Outcome("failed", end, became, None, fault, taken))
            effect = self.spec.effect(arc.from_, arc.to)
            is_open = effect == "opens" or (here.open and effect != "closes")
            if effect == "opens":
                session = "new"
            elif not is_open:
                session = "ended" if position.open else "none"
            here = Position(arc.to, is_open)
        yield Outcome("done", here, session, arcs=route.arcs)
        yield from failures

    def _events(self, position: Position, action: Action) -> Iterator[Outcome]:
        assert action.event is not None
        kept: Session = "same" if position.open else "none"
        end, session = _after(self.spec.event(action.event), position, kept, position)
        yield Outcome("done", end, session)
        event = self.spec.event("arc_failed_for_good")
        end, session = _after(event, position, kept, position)
        yield Outcome("failed", end, session, None, Fault(None, for_good=True))


def actions(values: frozenset[int]) -> tuple[Action, ...]:
    """Return what a client can do that asks for these values."""
    requests = tuple(Action(value) for value in sorted(values))
    return (*requests, Action(event="reset"), Action(event="disconnect"))


def _after(
    event: Event, here: Position, session: Session, start: Position
) -> tuple[Position, Session]:
    """Return where an event leads from `here`, and what became of the session of `start`."""
    state = here.state if event.to is None else event.to
    if event.session == "kept":
        return Position(state, here.open), session
    return Position(state, open=False), "ended" if start.open else "none"


__all__ = ["Action", "Answer", "Behaviour", "Fault", "Outcome", "Position", "Seen", "actions"]
