"""The plans a manager follows with a group of devices: a table too.

The verifier proves the plans marked sound for groups of any size; the coordinator executes them.
Both read the rows through the same questions: which move applies to a device, where does it lead,
and, when a migration was left in the middle, which side is to run.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vfio_migration.model.errors import Mistake, Named, SpecError
from vfio_migration.model.load import load, parse, read_bytes, typed
from vfio_migration.model.plan_checks import check_places, check_plans
from vfio_migration.model.spec import Row, Spec

if TYPE_CHECKING:
    from vfio_migration.model.machine import Machine

DEFAULT = "group_plan.toml"

Side = Literal["source", "destination"]
"""One of the two groups of a migration."""

Holder = Literal["source", "delivered", "destination"]
"""Who holds the state, by the record of a journal: the source; the source, and the destination,
which was delivered all of it; the destination. See [[migrations]] in the file."""

FIRST_HOLDER: Holder = "source"
"""Who holds it when a migration begins."""


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
        """Return whether a device with these capabilities is meant."""
        return capabilities.issuperset(self.needs) and capabilities.isdisjoint(self.lacks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit(Row):
    """At most `count` devices of the group may lack a capability.

    `unless` names the row of [[assertions]] under which there is no such limit.
    """

    lacks: str
    count: int
    unless: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertion(Row):
    """What the operator answers for, because nothing on the wire shows it.

    Attributes:
        name: What it is called in journals.
        option: The option of the command line that asserts it.
        summary: What is asserted.
        source: Where it is taken from.
    """

    name: str
    option: str
    summary: str
    source: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationStep(Row):
    """Phases of a plan for one side, or a transfer of the streams; never both.

    Attributes:
        side: Whose devices move.
        plan: The plan they follow.
        phases: Through which of its phases, in its order; none means all.
        transfer: In passes while the sources run, or the rest, to the final end of every stream.
        holder: What the journal records from here on of who holds the state; it is written before
            anything else of the step is done. None if nothing changes.
    """

    side: Side | None = None
    plan: str | None = None
    phases: tuple[str, ...] = ()
    transfer: Literal["passes", "rest"] | None = None
    holder: Holder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration(Row):
    """A whole migration, of all devices of the source into those of the destination.

    `fallback` names the one that is followed instead if a source refuses to go along before the
    streams are transferred to their end.
    """

    name: str
    fallback: str | None = None
    steps: tuple[MigrationStep, ...]
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover(Row):
    """Who is to run when a migration was left in the middle, and how this is brought about.

    Attributes:
        winner: The side that is to run.
        holders: What the journal may record of who holds the state.
        failed: Whether the row also holds if devices of the winner have failed.
        rolls_back: Whether the other side may have run since it was given the state.
        still: The sides of which no device may be found in a state that permits it anything. At
            this point nobody has asked it to run: if it runs, its server reset it.
        steps: What to do. If a step of the winner fails, the next row that holds is tried.
        summary: Why the winner is to run.
    """

    winner: Side
    holders: tuple[Holder, ...]
    failed: bool = False
    rolls_back: bool = False
    still: tuple[Side, ...] = ()
    steps: tuple[MigrationStep, ...]
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss(Row):
    """What is done when no handover is left: nobody holds the whole state any more.

    Attributes:
        winner: The side of which runs what is left.
        steps: What to do; a device that does not follow is passed over.
        summary: Why.
    """

    winner: Side
    steps: tuple[MigrationStep, ...]
    summary: str


@dataclass(frozen=True, kw_only=True)
class Plans(Row):
    """All plans, migrations and handovers, in the order of the file, and what follows the last."""

    plans: tuple[Plan, ...]
    assertions: tuple[Assertion, ...] = ()
    migrations: tuple[Migration, ...] = ()
    handovers: tuple[Handover, ...] = ()
    loss: Loss | None = None

    def plan(self, name: str) -> Plan:
        """Return the plan called `name`; raise `UnknownNameError` if there is none."""
        return self._plans[name]

    @functools.cached_property
    def _plans(self) -> Named[Plan]:
        return Named("plan", self.plans)

    def migration(self, name: str) -> Migration:
        """Return the migration called `name`; raise `UnknownNameError` as `plan` does."""
        return Named("migration", self.migrations)[name]

    def assertion(self, name: str) -> Assertion:
        """Return the assertion called `name`; raise `UnknownNameError` as `plan` does."""
        return Named("assertion", self.assertions)[name]

    def choose(self, name: str | None = None, *, pre_copy: bool = True) -> Migration:
        """Return the migration to follow: that of a name, else the first that will do.

        Args:
            name: Its name; None for the first of the file.
            pre_copy: Whether state may be transferred while the sources run.

        Raises:
            UnknownNameError: None has this name.
            SpecError: The file has none that will do.
        """
        if name is not None:
            return self.migration(name)
        for row in self.migrations:
            if pre_copy or all(step.transfer != "passes" for step in row.steps):
                return row
        without = "" if pre_copy else " that transfers nothing while the source runs"
        raise SpecError([Mistake("migrations", None, f"has no row{without}", "add one")])

    def leads(self, side: Side, winner: Side) -> tuple[MigrationStep, ...]:
        """Return what is done with a side that holds its state if `winner` is to run.

        Raises:
            SpecError: No handover states it.
        """
        for row in self.handovers:
            steps = tuple(step for step in row.steps if step.side == side)
            if row.winner == winner and steps:
                return steps
        problem = f'has no row with winner = "{winner}" and a step of the {side}'
        raise SpecError([Mistake("handovers", None, problem, "add one")])

    def takes_back(self, holder: Holder) -> tuple[MigrationStep, ...]:
        """Return what is done when a migration is given up and the source, which lives, goes on."""
        for row in self.handovers:
            if row.winner == "source" and holder in row.holders:
                return row.steps
        return ()

    def phases(self, step: MigrationStep) -> tuple[Phase, ...]:
        """Return the phases a step leads through: none if it transfers."""
        if step.plan is None:
            return ()
        phases = self.plan(step.plan).phases
        return tuple(row for row in phases if not step.phases or row.name in step.phases)


def state_before(plan: Plan, machine: Machine) -> str | None:
    """Return where a device with these capabilities is before a plan, or None if it is open."""
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


def exceeds(
    plan: Plan, group: Sequence[frozenset[str]], asserted: Collection[str] = ()
) -> Limit | None:
    """Return the limit that a group of devices, given by their capabilities, exceeds, or None.

    A group of one has no peers, and no limit.

    Args:
        plan: The plan.
        group: The capabilities of each device.
        asserted: The names of the assertions that the operator answers for.
    """
    for limit in plan.limits:
        if limit.unless is not None and limit.unless in asserted:
            continue
        if len(group) > 1 and sum(limit.lacks not in names for names in group) > limit.count:
            return limit
    return None


def deciding(
    plans: Plans,
    spec: Spec,
    holder: Holder,
    states: Mapping[Side, Sequence[str]],
    alive: Mapping[Side, bool],
) -> Iterator[Handover]:
    """Yield the handovers that hold, in the order in which they are to be tried.

    If none is left the state is lost.

    Args:
        plans: The rows.
        spec: The table they are for.
        holder: Who holds the state, as the journal of the migration says.
        states: Where the devices of each side are; of a winner that is not alive nothing is read.
            A state that is not known is empty.
        alive: Whether every device of a side is served by the process that served it when the
            migration began. Another process has a blank device.
    """
    lost = spec.event("arc_failed_for_good").to
    for row in plans.handovers:
        if holder in row.holders and alive[row.winner]:
            whole = all(state != lost for state in states[row.winner])
            found = [state for side in row.still for state in states[side] if state]
            still = not any(spec.operation(spec.state(state).operation).may for state in found)
            if (whole or row.failed) and still:
                yield row


def load_plans(spec: Spec, path: str | Path | None = None) -> Plans:
    """Read the plans for the groups of a table; without a path, those that come with the package.

    Raises:
        SpecError: If the file cannot be read or is wrong, with every mistake in it.
    """
    if path is None:
        return default_plans(spec)
    return loads_plans(spec, read_bytes(path), str(path))


def loads_plans(spec: Spec, text: str | bytes, origin: str | None = None) -> Plans:
    """Read plans from TOML text (UTF-8 if bytes); `origin` is the name it has in messages.

    Raises:
        SpecError: As `load_plans`.
    """
    return plans_from(spec, parse(text, origin), origin)


def plans_from(spec: Spec, data: Mapping[str, object], origin: str | None = None) -> Plans:
    """Make plans of plain data, as `tomllib` gives it.

    Raises:
        SpecError: As `load_plans`.
    """

    def check(data: Mapping[str, object]) -> list[Mistake]:
        return check_plans(data, spec) + check_places(data, spec)

    return typed(Plans, check, data, origin)


@functools.cache
def default_plans(spec: Spec) -> Plans:
    """Return the plans that come with the package, read once per table.

    That a table of the user's own, or a mutant, leaves a device no place to begin in is not refused
    here: it is for G5 to find.

    Raises:
        SpecError: If the table lacks names that the plans use.
    """
    text = pkgutil.get_data("vfio_migration.model", DEFAULT)
    assert text is not None, "the package is installed without its plans"
    # A table that is a part of the package's has no device with the capabilities that it lacks: the
    # moves that need them are nobody's, and every device is among those that lack them.
    names = spec if not _is_part(spec, load()) else load()
    return typed(Plans, lambda data: check_plans(data, names), parse(text, DEFAULT), DEFAULT)


def _is_part(spec: Spec, whole: Spec) -> bool:
    """Say whether a table has no capability and no state that another one does not have."""
    return all(
        {row.name for row in mine} <= {row.name for row in theirs}
        for mine, theirs in (
            (spec.capabilities, whole.capabilities),
            (spec.states, whole.states),
        )
    )
