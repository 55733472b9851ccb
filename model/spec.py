"""The table in its typed form.

The classes below mirror the file format one to one: a section `[[states]]` is the field
`Spec.states`, a key of a row is a field of the row's class (`from` is spelled `from_` in Python).
They hold data and nothing else; what follows from the data (capability sets, contraction, paths)
is computed by `vfio_migration.model.machine`.

Everything is frozen, hashable and comparable. `load` builds a `Spec` from a file and checks it;
`dataclasses.replace` builds a variant without checks, which is how the verifier makes broken
tables.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vfio_migration.model.errors import Mistake, Named, SpecError

if TYPE_CHECKING:
    from vfio_migration.model.machine import Machine

Effect = Literal["none", "opens", "keeps", "closes"]
"""What an arc does to the data session."""

Transfer = Literal["none", "read", "write"]
"""What the client may do with migration data: read it (MIG_DATA_READ) or write it (_WRITE)."""

Condition = Literal[
    "value_unknown",
    "target_unsupported",
    "target_not_settable",
    "already_there",
    "no_way_out",
    "pair_refused",
    "no_path",
]
"""What a row of `[[requests]]` can ask about a request; `Machine.route` asks it."""

Role = Literal["none", "guest_dma", "peer_dma", "accept_peer_dma", "interrupt", "state_change"]
"""What an activity is to the code, whatever a table calls it; "none" is nothing it knows of."""

EventName = Literal["arc_failed", "arc_failed_for_good", "reset", "disconnect"]
"""What may move a device besides an arc."""

Direction = tuple[int, int]
"""A direction along one axis of the grid: (1, 0) is one column to the right."""

CapabilitySet = enum.Flag
"""A set of capabilities: a member of the `Flag` that `Spec.capability_type` makes of the table."""


class Row:
    """What every row of the table shares: how it is read from a file."""

    __slots__ = ()
    # Read by pydantic when a file is loaded: no coercion, no keys that nobody reads.
    __pydantic_config__: ClassVar[dict[str, object]] = {"strict": True, "extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability(Row):
    """An option a device may offer, with its bit in the migration flags."""

    name: str
    value: int
    mandatory: bool = False
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Row):
    """The capabilities that one interface knows: the universe of its capability sets."""

    name: str
    universe: tuple[str, ...]
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity(Row):
    """Something a device may do in some states and not in others.

    `role` is how the code asks for it; of each role but "none" a table has one activity at most.
    """

    name: str
    role: Role
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Row):
    """A column of the grid: which activities are permitted there.

    `off_grid` marks a value that has no neighbours (a device that failed).
    """

    name: str
    may: tuple[str, ...]
    off_grid: bool = False
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Session(Row):
    """A row of the grid: what is streamed there.

    `grows_while` names the activity that lets a session grow: while it is permitted, the end of the
    stream is temporary. `judged` states that closing the session is where its stream is accepted or
    refused.
    """

    name: str
    transfer: Transfer
    grows_while: str | None = None
    judged: bool = False
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEffect(Row):
    """What an arc between two rows of the grid does to the data session."""

    from_: str
    to: str
    effect: Effect
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd(Row):
    """How a client learns that there is nothing to read, and whether that may change."""

    kind: Literal["temporary", "final"]
    linux: str
    vfio_user: str
    precopy_info: bool
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Row):
    """A migration state: its number on the wire, what it requires, and its place on the grid.

    A state that is not `settable` can never be asked for.
    """

    name: str
    value: int
    requires: tuple[str, ...]
    operation: str
    session: str
    settable: bool = True
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arc(Row):
    """A step a device takes.

    `via` is empty for an arc of the table; an arc of a smaller capability set that joins several of
    them names the states it passes over, which that set lacks.
    """

    from_: str
    to: str
    summary: str
    source: str
    via: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.from_} -> {self.to}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(Row):
    """A pair of states that is refused by name, with the errno the client is answered."""

    from_: str
    to: str
    errno: str
    reason: str
    source: str

    def __str__(self) -> str:
        return f"{self.from_} -> {self.to}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRule(Row):
    """One row of the decision about a request: the first row that holds decides.

    `pair_refused` takes errno and reason from the `Refusal` that names the pair.
    """

    when: Condition
    outcome: Literal["refused", "nothing"]
    errno: str | None = None
    reason: str | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule(Row):
    """Which paths are allowed, of which the shortest is taken.

    States whose session is `guarded` may be inside a path "always", "never", or only if the
    "whole_path", both ends included, is guarded.
    """

    name: str
    in_force: bool
    guarded: str
    interior: Literal["always", "whole_path", "never"]
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep(Row):
    """The step that a request takes first, where it is not the one that the routing rule selects.

    It is stated of a device with every capability. If a table has such rows, smaller capability
    sets follow as Linux computes them: a step to a state that the set lacks is looked up again from
    there. The step need not be an arc, and the steps need not arrive.
    """

    from_: str
    to: str
    step: str
    source: str

    def __str__(self) -> str:
        return f"{self.from_} -> {self.to} by {self.step}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Row):
    """Something other than an arc that may move a device, and what becomes of the session.

    Without `to` the state stays as it is. `errno` is what a failed request is answered when the
    device names no error of its own. `drops` lists what of the client's is forgotten.
    """

    name: EventName
    to: str | None = None
    session: Literal["kept", "ended"]
    errno: str | None = None
    drops: tuple[str, ...] = ()
    summary: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Spec(Row):
    """A whole table. The order of its rows is kept: it is the order of pictures and listings."""

    name: str
    title: str
    initial: str
    capabilities: tuple[Capability, ...]
    profiles: tuple[Profile, ...]
    activities: tuple[Activity, ...]
    operations: tuple[Operation, ...]
    sessions: tuple[Session, ...]
    session_effects: tuple[SessionEffect, ...]
    stream_ends: tuple[StreamEnd, ...]
    states: tuple[State, ...]
    arcs: tuple[Arc, ...]
    refusals: tuple[Refusal, ...] = ()
    requests: tuple[RequestRule, ...]
    routing: tuple[RoutingRule, ...]
    next_steps: tuple[NextStep, ...] = ()
    events: tuple[Event, ...]

    # --- looking rows up ---

    def state(self, name: str) -> State:
        """Return the state called `name`; raise `UnknownNameError` if there is none."""
        return self._states[name]

    def capability(self, name: str) -> Capability:
        """Return the capability called `name`; raise `UnknownNameError` if there is none."""
        return self._capabilities[name]

    def profile(self, name: str | None = None) -> Profile:
        """Return the profile called `name`, by default the first; raise `UnknownNameError`."""
        if name is None:
            return self.profiles[0]
        return Named("profile", self.profiles)[name]

    def operation(self, name: str) -> Operation:
        """Return the column of the grid called `name`."""
        return self._operations[name]

    def session(self, name: str) -> Session:
        """Return the row of the grid called `name`."""
        return self._sessions[name]

    def event(self, name: EventName) -> Event:
        """Return what the table specifies for the event `name`."""
        return self._events[name]

    def routing_rule(self, name: str | None = None) -> RoutingRule:
        """Return the routing rule called `name`, by default the one in force."""
        if name is None:
            in_force = [row for row in self.routing if row.in_force]
            if not in_force:
                raise SpecError([Mistake("routing", None, "has no rule in force", None)])
            return in_force[0]
        return Named("routing rule", self.routing)[name]

    def refusal(self, from_: str, to: str) -> Refusal | None:
        """Return the row that refuses this pair by name, or None."""
        return self._refusals.get((from_, to))

    def effect(self, from_: str, to: str) -> Effect:
        """Return what stepping between these two states does to the data session.

        Raises `SpecError` for two sessions that no row of `[[session_effects]]` speaks of.
        """
        pair = (self.state(from_).session, self.state(to).session)
        effect = self._effects.get(pair)
        if effect is None:
            problem = f"moves from session {pair[0]} to {pair[1]}, which no arc does"
            raise SpecError([Mistake("step", f"{from_} -> {to}", problem, None)])
        return effect

    def permits(self, state: str, activity: str) -> bool:
        """Return whether a device may do `activity` while it is in `state`."""
        return activity in self.operation(self.state(state).operation).may

    def activity(self, role: Role) -> str | None:
        """Return what the table calls the activity with a role, or None if it has none."""
        return next((row.name for row in self.activities if row.role == role), None)

    def permits_role(self, state: str, role: Role) -> bool:
        """Return whether a device may do the activity with a role while it is in `state`."""
        activity = self.activity(role)
        return activity is not None and self.permits(state, activity)

    def stream_end(self, state: str) -> StreamEnd | None:
        """Return how the stream ends in `state`, or None where nothing is read."""
        row = self.session(self.state(state).session)
        if row.transfer != "read":
            return None
        grows = row.grows_while is not None and self.permits(state, row.grows_while)
        kind = "temporary" if grows else "final"
        return next((end for end in self.stream_ends if end.kind == kind), None)

    # --- the grid ---

    def position(self, state: str) -> tuple[int, int] | None:
        """Return (column, row) of `state` on the grid, from the top left, or None off the grid."""
        self.state(state)
        return self._positions[state]

    def direction(self, from_: str, to: str) -> Direction | None:
        """Return the direction of a step along one axis of the grid, or None if it is not one.

        Any distance along one axis counts: how far the next place is depends on the capability set.
        """
        here, there = self.position(from_), self.position(to)
        if here is None or there is None:
            return None
        dx, dy = there[0] - here[0], there[1] - here[1]
        if (dx == 0) == (dy == 0):
            return None
        return (dx > 0) - (dx < 0), (dy > 0) - (dy < 0)

    # --- capability sets ---

    @functools.cached_property
    def capability_type(self) -> type[enum.Flag]:
        """The `Flag` whose members are the table's capabilities. Equal tables share one."""
        return _flag_type(tuple((row.name, row.value) for row in self.capabilities))

    def capability_set(
        self, names: str | int | enum.Flag | Iterable[str] | None = None
    ) -> CapabilitySet:
        """Make a capability set of names ("STOP_COPY,P2P" or a list), a flags word, or a `Flag`.

        Without an argument it is the whole universe of the first profile. Raises `SpecError` for a
        name or bit the table does not have, and for a set that lacks a mandatory capability.
        """
        flags = self.capability_type
        if names is None:
            names = self.profile().universe
        if isinstance(names, str):
            names = [part.strip() for part in names.split(",") if part.strip()]
        result = flags(0)
        if isinstance(names, enum.Flag):
            names = int(names.value)
        if isinstance(names, int):
            known = sum(row.value for row in self.capabilities)
            if names < 0 or names & ~known:
                listed = ", ".join(f"{row.name} {row.value}" for row in self.capabilities)
                problem = "has bits that stand for no capability"
                raise SpecError([Mistake("flags", names, problem, f"there are {listed}")])
            result = flags(names)
        else:
            for name in names:
                result |= flags(self.capability(name).value)
        for row in self.capabilities:
            if row.mandatory and not result.value & row.value:
                raise SpecError(
                    [
                        Mistake(
                            "flags",
                            ",".join(self.names(result)),
                            f"lacks {row.name}, which every device that migrates must have",
                            f"add {row.name}",
                        )
                    ]
                )
        return result

    def names(self, capabilities: CapabilitySet) -> tuple[str, ...]:
        """Return the names in a capability set, in the order of the table."""
        return tuple(row.name for row in self.capabilities if capabilities.value & row.value)

    def capability_sets(self, profile: str | None = None) -> tuple[CapabilitySet, ...]:
        """Return every capability set of a profile, smallest flags word first."""
        universe = [self.capability(name) for name in self.profile(profile).universe]
        words = [sum(row.value for row in universe if row.mandatory)]
        for row in universe:
            if not row.mandatory:
                words += [word | row.value for word in words]
        return tuple(self.capability_type(word) for word in sorted(words))

    def supports(self, capabilities: CapabilitySet, state: str) -> bool:
        """Return whether a device with these capabilities has `state`."""
        word = int(capabilities.value)
        return all(word & self.capability(name).value for name in self.state(state).requires)

    def machine(self, capabilities: str | int | enum.Flag | Iterable[str] | None = None) -> Machine:
        """Return the table restricted to a capability set; computed once per set."""
        from vfio_migration.model.machine import Machine

        chosen = self.capability_set(capabilities)
        machine = self._machines.get(chosen)
        if machine is None:
            machine = self._machines.setdefault(chosen, Machine(self, chosen))
        return machine

    # --- indexes, computed once ---

    @functools.cached_property
    def _machines(self) -> dict[enum.Flag, Machine]:
        return {}

    @functools.cached_property
    def _states(self) -> Named[State]:
        return Named("state", self.states)

    @functools.cached_property
    def _capabilities(self) -> Named[Capability]:
        return Named("capability", self.capabilities)

    @functools.cached_property
    def _operations(self) -> Named[Operation]:
        return Named("operation", self.operations)

    @functools.cached_property
    def _sessions(self) -> Named[Session]:
        return Named("session", self.sessions)

    @functools.cached_property
    def _events(self) -> Named[Event]:
        return Named("event", self.events)

    @functools.cached_property
    def _positions(self) -> dict[str, tuple[int, int] | None]:
        columns = [row.name for row in self.operations if not row.off_grid]
        rows = [row.name for row in self.sessions]
        return {
            row.name: (columns.index(row.operation), rows.index(row.session))
            if row.operation in columns
            else None
            for row in self.states
        }

    @functools.cached_property
    def arcs_by_direction(self) -> Mapping[tuple[str, Direction], tuple[Arc, ...]]:
        """The arcs that leave a state in a direction of the grid, in the order of the table."""
        found: dict[tuple[str, Direction], list[Arc]] = {}
        for arc in self.arcs:
            direction = self.direction(arc.from_, arc.to)
            if direction is not None:
                found.setdefault((arc.from_, direction), []).append(arc)
        return {key: tuple(arcs) for key, arcs in found.items()}

    @functools.cached_property
    def _refusals(self) -> dict[tuple[str, str], Refusal]:
        return {(row.from_, row.to): row for row in self.refusals}

    @functools.cached_property
    def _effects(self) -> dict[tuple[str, str], Effect]:
        return {(row.from_, row.to): row.effect for row in self.session_effects}

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the rows only: the indexes are made again, and the `Flag` cannot be imported."""
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}


@functools.cache
def _flag_type(members: tuple[tuple[str, int], ...]) -> type[enum.Flag]:
    # By way of Any: mypy takes a call of `Flag` for the Named of a member.
    make: Any = enum.Flag
    made: type[enum.Flag] = make("Capabilities", members)
    return made
