"""The plans a manager follows with a group of devices: a table too.

The verifier proves the plans marked sound for groups of any size; the coordinator executes them.
Both read the rows through the same two questions: which move applies to a device, and where does
it lead.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vfio_migration.model.errors import Mistake, SpecError, UnknownName, closest, did_you_mean
from vfio_migration.model.spec import Row, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vfio_migration.model.machine import Machine

DEFAULT = "group_plan.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move(Row):
    """What one device does in a phase, if it meets the conditions."""

    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    may: str | None = None
    failed: bool = False
    to: str | None = None
    event: str | None = None

    def meets(self, capabilities: frozenset[str]) -> bool:
        """Say whether a device with these capabilities is meant."""
        return capabilities.issuperset(self.needs) and capabilities.isdisjoint(self.lacks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Row):
    """At most `count` devices of the group may lack a capability."""

    lacks: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Row):
    """Devices move in any order; the phase is over when no move applies to any."""

    name: str
    moves: tuple[Move, ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Row):
    """A discipline for a group, phase by phase."""

    name: str
    sound: bool
    before: tuple[Move, ...] = ()
    after: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    phases: tuple[Phase, ...]
    summary: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Plans(Row):
    """All plans, in the order of the file."""

    plans: tuple[Plan, ...]

    def plan(self, name: str) -> Plan:
        """Return the plan called `name`; raise `UnknownName` with a suggestion if there is none."""
        for row in self.plans:
            if row.name == name:
                return row
        raise UnknownName("plan", name, closest(name, [row.name for row in self.plans]))


def standing(plan: Plan, machine: Machine) -> str | None:
    """Return where a device with these capabilities stands before a plan, or None if it is open."""
    names = frozenset(machine.names)
    return next((move.to for move in plan.before if move.meets(names)), None)


def applying(phase: Phase, machine: Machine, state: str) -> Move | None:
    """Return the move of a phase that applies to a device in `state`, or None if it has none to do.

    A device where its move leads has nothing to do, and so has a failed one that no move means.
    """
    spec = machine.spec
    names = frozenset(machine.names)
    failed = state == spec.event("arc_failed_for_good").to
    for move in phase.moves:
        meant = move.meets(names) and move.failed == failed
        if meant and (move.may is None or spec.permits(state, move.may)):
            return None if move.to == state else move
    return None


def step(move: Move, machine: Machine, state: str) -> str | None:
    """Return the state one step of a move leads to, or None if there is no such step."""
    if move.event is not None:
        return machine.spec.event("reset").to
    return None if move.to is None else machine.next_step(state, move.to)


def admits(plan: Plan, groups: list[frozenset[str]]) -> Limit | None:
    """Return the limit that a group of devices, given by their capabilities, exceeds, or None.

    A group of one has no peers, and no limit.
    """
    for limit in plan.limits:
        if len(groups) > 1 and sum(limit.lacks not in names for names in groups) > limit.count:
            return limit
    return None


def load_plans(spec: Spec, path: str | Path | None = None) -> Plans:
    """Read the plans for the groups of a table; without a path, those that come with the package.

    Raises:
        SpecError: If the file cannot be read or is wrong, with every mistake in it.
    """
    origin = DEFAULT if path is None else str(path)
    try:
        text = (
            (resources.files("vfio_migration.model") / DEFAULT).read_bytes()
            if path is None
            else Path(path).read_bytes()
        )
    except OSError as error:
        mistake = Mistake("file", origin, f"cannot be read: {error.strerror}", None)
        raise SpecError([mistake]) from error
    plans = _read(text, origin)
    mistakes = list(_mistakes(plans, spec))
    if mistakes:
        raise SpecError(mistakes, origin)
    return plans


def _read(text: bytes, origin: str) -> Plans:
    from pydantic import TypeAdapter, ValidationError

    try:
        data = tomllib.loads(text.decode("utf-8"))
        return TypeAdapter(Plans).validate_json(json.dumps(data))
    except ValidationError as error:
        mistakes = [
            Mistake(_place(detail["loc"]), None, detail["msg"].lower(), None)
            for detail in error.errors(include_url=False)
        ]
        raise SpecError(mistakes, origin) from None
    except (ValueError, TypeError) as error:
        raise SpecError([Mistake("not TOML", None, str(error), None)], origin) from None


def _place(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).lstrip(".")


def _mistakes(plans: Plans, spec: Spec) -> Iterator[Mistake]:
    known: Mapping[str, list[str]] = {
        "state": [row.name for row in spec.states],
        "capability": [row.name for row in spec.capabilities],
        "activity": [row.name for row in spec.activities],
        "plan": [row.name for row in plans.plans],
        "event": ["reset"],
    }

    def refer(place: str, kind: str, name: str | None) -> Iterator[Mistake]:
        if name is not None and name not in known[kind]:
            hint = did_you_mean(closest(name, known[kind]))
            yield Mistake(place, name, f"is no {kind}", hint)

    seen: dict[str, int] = {}
    for number, plan in enumerate(plans.plans):
        at = f"plans[{number}]"
        if plan.name in seen:
            yield Mistake(
                f"{at}.name", plan.name, f"stands already in plans[{seen[plan.name]}]", None
            )
        seen.setdefault(plan.name, number)
        if bool(plan.before) == bool(plan.after):
            yield Mistake(at, plan.name, "must say either before or after", "give one of the two")
        for index, name in enumerate(plan.after):
            yield from refer(f"{at}.after[{index}]", "plan", name)
        for index, limit in enumerate(plan.limits):
            yield from refer(f"{at}.limits[{index}].lacks", "capability", limit.lacks)
        moves = [(f"{at}.before[{index}]", move) for index, move in enumerate(plan.before)]
        moves += [
            (f"{at}.phases[{phase}].moves[{index}]", move)
            for phase, row in enumerate(plan.phases)
            for index, move in enumerate(row.moves)
        ]
        for place, move in moves:
            for key, names in (("needs", move.needs), ("lacks", move.lacks)):
                for index, name in enumerate(names):
                    yield from refer(f"{place}.{key}[{index}]", "capability", name)
            yield from refer(f"{place}.to", "state", move.to)
            yield from refer(f"{place}.may", "activity", move.may)
            yield from refer(f"{place}.event", "event", move.event)
            if (move.to is None) == (move.event is None):
                yield Mistake(place, None, "must lead somewhere", "give either to or event")


@functools.cache
def default_plans(spec: Spec) -> Plans:
    """Return the plans that come with the package, read once per table."""
    return load_plans(spec)
