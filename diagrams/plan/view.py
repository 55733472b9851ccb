"""The neutral form of a migration plan for one group of devices, before any format.

`vfio_migration.diagrams.plan.extract` makes one of the tables; text and pictures read nothing else.
It is frozen, holds plain values only, and keeps the order of the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from vfio_migration.diagrams.drawing.kinds import EdgeKind, Liveness
from vfio_migration.diagrams.machine.graph import Heading
from vfio_migration.model.plan import Holder, Side

SIDES: tuple[Side, ...] = get_args(Side)
"""The two sides, the one that is copied first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownState:
    """A state that some device of the group is in.

    Attributes:
        name: Its name in the table.
        value: Its value on the wire.
        operation: Its column of the grid.
        session: Its row of the grid.
        liveness: How much a device may do there.
        streams: Whether a data session is open there.
        summary: What it means.
    """

    name: str
    value: int
    operation: str
    session: str
    liveness: Liveness
    streams: bool
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One device on one side.

    Attributes:
        side: Which side; None in a run that knows no sides.
        device: Its number in the group, from 0; the other side has a device of the same number.
        label: What it is called: its socket, say.
        capabilities: What it offers, in the order of the table.
        state: Where it is before the first stage.
    """

    side: Side | None
    device: int
    label: str
    capabilities: tuple[str, ...]
    state: str

    @property
    def name(self) -> str:
        """What it is called where there is no room for its label."""
        return self.label if self.side is None else f"{self.side} {self.device + 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One step of one device.

    Attributes:
        lane: Whose, as a place in `PlanView.lanes`.
        from_: Where it is before.
        to: Where it is then.
        kind: What the step is to the data session, or "event" for one that is no arc.
        event: The event, if it is one.
        summary: What it means.
    """

    lane: int
    from_: str
    to: str
    kind: EdgeKind
    event: str | None
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A phase in which devices of one side move, or a transfer in which data flows.

    Attributes:
        number: Its place in the plan, from 1.
        name: What the table calls it.
        side: Which side moves; None for a transfer.
        plan: The plan it is a phase of; None for a transfer.
        transfer: How much is transferred; None for a phase.
        summary: What it is for.
        holder: Who holds the state, as the journal records from its beginning.
        hops: The steps, device by device. Those of different devices come in any order.
        flows: The numbers of the devices whose data flows.
        states_after: Where the device of each lane is afterwards.
        label: What it is numbered with in a picture; None for its number.
        failed: Whether something goes wrong in it.
    """

    number: int = 0
    name: str
    side: Side | None = None
    plan: str | None = None
    transfer: str | None = None
    summary: str
    holder: Holder
    hops: tuple[Hop, ...] = ()
    flows: tuple[int, ...] = ()
    states_after: tuple[str, ...]
    label: str | None = None
    failed: bool = False

    def path(self, lane: int) -> tuple[Hop, ...]:
        """Return the steps of one device."""
        return tuple(hop for hop in self.hops if hop.lane == lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A stage of the plan in which nothing happens to this group."""

    name: str
    side: Side | None
    plan: str | None
    transfer: str | None
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Downtime:
    """While some device of the guest may not change its state.

    Attributes:
        first: The number of the stage in which the first source device may no longer.
        last: The number of the stage after which every destination device may again; None if the
            plan ends before.
        activities: What it is that may not happen.
    """

    first: int
    last: int | None
    activities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """A migration plan for one group of devices.

    Attributes:
        name: The name of the migration.
        title: What it is, in a few words.
        summary: What it does.
        states: The states that occur, in the order of the table.
        operations: The operations of these states, in the order of the table.
        lanes: The devices: the source, then the destination, each in the order of the group.
        stages: What happens, in order.
        idle: The stages left out, in order.
        downtime: While the guest is not served; None if it always is.
        no_return: The number of the first stage from which nothing leads back to the source without
            a loss, whatever is killed; None if there is none.
        steps: What is listed in place of the stages, line by line.
    """

    name: str
    title: str
    summary: str
    states: tuple[ShownState, ...]
    operations: tuple[Heading, ...]
    lanes: tuple[Lane, ...]
    stages: tuple[Stage, ...]
    idle: tuple[Idle, ...]
    downtime: Downtime | None
    no_return: int | None
    steps: tuple[str, ...] = ()

    @property
    def sides(self) -> tuple[Side | None, ...]:
        """The sides there are, the one that is copied first."""
        return tuple(dict.fromkeys(lane.side for lane in self.lanes))

    @property
    def common(self) -> str:
        """What all devices offer, as a sentence; empty if they differ."""
        offers = {lane.capabilities for lane in self.lanes}
        return f"Each device has {', '.join(*offers)}." if len(offers) == 1 else ""

    @property
    def devices(self) -> int:
        """How many devices are migrated."""
        return len({lane.device for lane in self.lanes})

    def lane(self, side: Side | None, device: int) -> int:
        """Return the place of a device's lane."""
        return next(
            index
            for index, lane in enumerate(self.lanes)
            if (lane.side, lane.device) == (side, device)
        )

    @property
    def idle_names(self) -> str:
        """The stages left out, in a line."""
        return ", ".join(
            row.name if row.plan is None else f"{row.name} of {row.plan}" for row in self.idle
        )


def people(name: str) -> str:
    """Return a name of the table as people write it."""
    return name.replace("_", " ")
