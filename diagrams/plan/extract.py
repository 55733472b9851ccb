"""From the tables, and the devices of a group, to the plan of their migration.

    >>> from vfio_migration.diagrams import Pair, migration_view, render
    >>> from vfio_migration.model import load
    >>> disk = Pair("/run/src/disk.sock", "/run/dst/disk.sock", ("STOP_COPY", "P2P"))
    >>> view = migration_view(load(), [disk])
    >>> svg = render(view, "svg")

What each device does is asked of the rows, move by move, as the coordinator asks it: which move of
a phase applies to a device where it is, and where one step of that move leads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from vfio_migration.diagrams.drawing.kinds import Liveness
from vfio_migration.diagrams.machine.extract import EFFECT_KIND
from vfio_migration.diagrams.machine.graph import Heading
from vfio_migration.diagrams.plan.view import (
    SIDES,
    Downtime,
    Hop,
    Idle,
    Lane,
    PlanView,
    ShownState,
    Stage,
)
from vfio_migration.model import Machine, Session, Spec
from vfio_migration.model.plan import (
    FIRST_HOLDER,
    Holder,
    Migration,
    MigrationStep,
    Phase,
    Plan,
    Plans,
    Side,
    applying,
    exceeds,
    load_plans,
    state_before,
    step,
)

Capabilities = str | int | tuple[str, ...] | None
"""A capability set as `Spec.capability_set` takes it; None is all that the first profile knows."""

_TRANSFERS = {
    "passes": "Carry over what the sources stream while they run, until little is left.",
    "rest": "Carry over the rest, to the final end of every stream.",
}


class PlanError(ValueError):
    """A group that a plan is not for, or that it does not bring to its end."""


@dataclass(frozen=True)
class Pair:
    """One device of a group: the one that is copied, and the one its copy is loaded into.

    Attributes:
        source: What the device that is copied is called: its socket, say.
        destination: What the device is called that the copy is loaded into.
        capabilities: What the source offers, as names or as a flags word.
        destination_capabilities: What the destination offers; by default the same.
        source_state: Where the source is; by default where the plan begins.
        destination_state: Where the destination is; by default where the plan begins.
    """

    source: str
    destination: str
    capabilities: Capabilities = None
    destination_capabilities: Capabilities = None
    source_state: str | None = None
    destination_state: str | None = None

    def label(self, side: Side) -> str:
        """Return what it is called on one side."""
        return self.source if side == "source" else self.destination

    def offers(self, side: Side) -> Capabilities:
        """Return the capabilities it has on one side."""
        if side == "destination" and self.destination_capabilities is not None:
            return self.destination_capabilities
        return self.capabilities

    def begins(self, side: Side) -> str | None:
        """Return where it is on one side, if that was stated."""
        return self.source_state if side == "source" else self.destination_state


def unnamed(group: Sequence[Capabilities]) -> list[Pair]:
    """Return devices with these capabilities, None for all, by names that say no more."""
    return [
        Pair(f"source-{number}.sock", f"destination-{number}.sock", capabilities)
        for number, capabilities in enumerate(group, 1)
    ]


def migration_view(
    spec: Spec,
    devices: Sequence[Pair],
    migration: str | Migration | None = None,
    plans: Plans | None = None,
    *,
    asserted: Collection[str] = (),
) -> PlanView:
    """Return the plan of a migration for these devices.

    Args:
        spec: The table.
        devices: The group, at least one device.
        migration: The migration, or its name; by default the first of the plans.
        plans: The plans it is made of; by default those that come with the package.
        asserted: The names of the assertions that the operator answers for.

    Raises:
        UnknownNameError: If no migration has this name, or a device a capability of another table.
        PlanError: If the group is not one the plans are for, or gets stuck in them.
    """
    if not devices:
        raise PlanError("a group of no devices has nothing to migrate")
    plans = load_plans(spec) if plans is None else plans
    chosen = migration if isinstance(migration, Migration) else plans.choose(migration)
    return _Walk(spec, plans, chosen, devices, asserted).view()


class _Walk:
    """One group on its way through a migration."""

    def __init__(
        self,
        spec: Spec,
        plans: Plans,
        migration: Migration,
        devices: Sequence[Pair],
        asserted: Collection[str],
    ) -> None:
        self.spec = spec
        self.asserted = asserted
        self.plans = plans
        self.migration = migration
        self.machines: list[Machine] = []
        self.lanes: list[Lane] = []
        for side in SIDES:
            for number, device in enumerate(devices):
                machine = spec.machine(device.offers(side))
                label = device.label(side)
                self.machines.append(machine)
                self.lanes.append(
                    Lane(
                        side=side,
                        device=number,
                        # Not every byte that a path may hold can be in a picture.
                        label="".join(
                            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in label
                        ),
                        capabilities=machine.names,
                        state=self._begins(device, side, machine),
                    )
                )
        self.at = [lane.state for lane in self.lanes]
        self.stages: list[Stage] = []
        self.idle: list[Idle] = []

    def _begins(self, device: Pair, side: Side, machine: Machine) -> str:
        """Return where a device is at first: as was stated, or where its first plan begins."""
        state = device.begins(side)
        first = next((row.plan for row in self.migration.steps if row.side == side), None)
        if state is None and first is not None:
            state = state_before(self.plans.plan(first), machine)
        state = self.spec.initial if state is None else self.spec.state(state).name
        if not machine.supports(state):
            names = ",".join(machine.names)
            raise PlanError(
                f"{device.label(side)}: {state} is not a state of a device with {names}"
            )
        return state

    def view(self) -> PlanView:
        holder: Holder = FIRST_HOLDER
        for row in self.migration.steps:
            holder = row.holder or holder
            for stage in self._stages(row, holder):
                self._keep(stage)
        names = {lane.state for lane in self.lanes}
        names |= {hop.to for stage in self.stages for hop in stage.hops}
        states = tuple(
            shown_state(self.spec, row.name) for row in self.spec.states if row.name in names
        )
        count = len(self.lanes) // len(SIDES)
        return PlanView(
            name=self.migration.name,
            title=f"Migration {self.migration.name}: {count} device{'s' * (count > 1)}",
            summary=self.migration.summary,
            states=states,
            operations=shown_operations(self.spec, states),
            lanes=tuple(self.lanes),
            stages=tuple(self.stages),
            idle=tuple(self.idle),
            downtime=self._downtime(),
            no_return=next((s.number for s in self.stages if self._is_final(s.holder)), None),
        )

    def _keep(self, stage: Stage) -> None:
        """Number a stage, or set it aside if nothing happens in it to this group."""
        if stage.hops or stage.flows:
            self.stages.append(replace(stage, number=len(self.stages) + 1))
        else:
            idle = Idle(
                name=stage.name,
                side=stage.side,
                plan=stage.plan,
                transfer=stage.transfer,
                summary=stage.summary,
            )
            self.idle.append(idle)

    # --- going ---

    def _stages(self, row: MigrationStep, holder: Holder) -> Iterator[Stage]:
        if row.transfer is not None:
            flows = tuple(self._flows())
            if row.transfer == "rest":
                self._all_flow(flows)
            yield Stage(
                name=row.transfer,
                transfer=row.transfer,
                summary=_TRANSFERS[row.transfer],
                holder=holder,
                flows=flows,
                states_after=tuple(self.at),
            )
        if row.side is None or row.plan is None:
            return
        plan = self.plans.plan(row.plan)
        lanes = [index for index, lane in enumerate(self.lanes) if lane.side == row.side]
        group = [frozenset(self.lanes[index].capabilities) for index in lanes]
        limit = exceeds(plan, group, self.asserted)
        if limit is not None:
            lacking = [
                self.lanes[index].label
                for index in lanes
                if limit.lacks not in self.lanes[index].capabilities
            ]
            raise PlanError(
                f"plan {plan.name} is for groups with at most {limit.count} "
                f"device{'s' * (limit.count != 1)} without {limit.lacks}, and "
                f"{len(lacking)} of the {row.side} lack it: {', '.join(lacking)}"
            )
        for phase in self.plans.phases(row):
            hops = [hop for lane in lanes for hop in self._hops(plan, phase, lane)]
            yield Stage(
                name=phase.name,
                side=row.side,
                plan=plan.name,
                summary=phase.summary,
                holder=holder,
                hops=tuple(hops),
                states_after=tuple(self.at),
            )

    def _flows(self) -> Iterator[int]:
        """Yield the devices whose source has something to stream that the destination takes."""
        for index, lane in enumerate(self.lanes):
            if lane.side == SIDES[0]:
                other = index + len(self.lanes) // len(SIDES)
                pair = [self._session(self.at[place]).transfer for place in (index, other)]
                if pair == ["read", "write"]:
                    yield lane.device

    def _all_flow(self, flows: Collection[int]) -> None:
        """Refuse a group of which somebody would be left behind: it was where nobody thought."""
        half = len(self.lanes) // len(SIDES)
        for device in range(half):
            if device not in flows:
                states_after = " and ".join(
                    f"{self.lanes[index].label} in {self.at[index]}"
                    for index in (device, half + device)
                )
                raise PlanError(f"{states_after}: nothing can be transferred between them")

    def _session(self, state: str) -> Session:
        return self.spec.session(self.spec.state(state).session)

    def _hops(self, plan: Plan, phase: Phase, lane: int) -> Iterator[Hop]:
        """Yield the steps a device takes in a phase, until no move applies to it."""
        machine = self.machines[lane]
        # A phase that leads through a state twice leads through it for ever.
        seen = {self.at[lane]}
        while (move := applying(phase, machine, self.at[lane])) is not None:
            here = self.at[lane]
            to = step(move, machine, here)
            if to is None or to in seen:
                raise PlanError(
                    f"{self.lanes[lane].label}: phase {phase.name} of plan {plan.name} does not "
                    f"lead on from {here}"
                )
            seen.add(to)
            self.at[lane] = to
            arc = None if move.event is not None else machine.arc(here, to)
            yield Hop(
                lane=lane,
                from_=here,
                to=to,
                kind="event" if arc is None else EFFECT_KIND[self.spec.effect(here, to)],
                event=None if arc is not None else move.event,
                summary=self.spec.event("reset").summary if arc is None else arc.summary,
            )

    # --- what is read off it ---

    def _is_final(self, holder: Holder) -> bool:
        """Return whether no row leads back to the source as it was: from here on it is too late."""
        back = [row for row in self.plans.handovers if row.winner == SIDES[0]]
        whole = [row for row in back if not row.rolls_back and not row.failed]
        return bool(self.plans.handovers) and not any(holder in row.holders for row in whole)

    def _downtime(self) -> Downtime | None:
        activities = tuple(
            dict.fromkeys(row.grows_while for row in self.spec.sessions if row.grows_while)
        )

        def serves(state: str) -> bool:
            return all(self.spec.permits(state, activity) for activity in activities)

        first = None
        last = None
        for stage in self.stages:
            if first is None and any(
                self.lanes[hop.lane].side == SIDES[0] and serves(hop.from_) and not serves(hop.to)
                for hop in stage.hops
            ):
                first = stage.number
            up = all(
                serves(state)
                for lane, state in zip(self.lanes, stage.states_after, strict=True)
                if lane.side == SIDES[1]
            )
            if not up:
                last = None
            elif last is None:
                last = stage.number
        if first is None:
            return None
        return Downtime(
            first=first,
            # A destination that was never stopped is no reason for a downtime to go on.
            last=None if last is None else max(first, last),
            activities=activities,
        )


def shown_state(spec: Spec, name: str) -> ShownState:
    """Return what is shown of a state of the table."""
    row = spec.state(name)
    operation = spec.operation(row.operation)
    liveness: Liveness = "some"
    if operation.off_grid:
        liveness = "off_grid"
    elif not operation.may:
        liveness = "none"
    elif len(operation.may) == len(spec.activities):
        liveness = "all"
    return ShownState(
        name=name,
        value=row.value,
        operation=operation.name,
        session=row.session,
        liveness=liveness,
        streams=spec.session(row.session).transfer != "none",
        summary=row.summary,
    )


def shown_operations(spec: Spec, states: Collection[ShownState]) -> tuple[Heading, ...]:
    """Return the operations of states, in the order of the table."""
    return tuple(
        Heading(name=row.name, summary=row.summary, source=row.source)
        for row in spec.operations
        if any(state.operation == row.name for state in states)
    )
