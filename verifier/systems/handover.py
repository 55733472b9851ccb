"""A whole migration and every recovery from it, place by place: what a device does at each.

A migration and a handover are programs of one kind: steps that move the devices of one side through
phases of a plan, that transfer the streams, and that write down who holds the state. A `Place` is
one such thing to do. Anybody who executes them may be killed at any place, and so may each device's
server; then the rows of `[[handovers]]` decide who is to run.

Of a device it counts where it is and whether it *holds* its state: a device of the source does
until it fails, one of the destination as soon as its stream is whole. A destination may judge
nothing: it accepts to leave RESUMING whatever it was given, and is then where one that holds
its state is, without holding it. Or it refuses what it was given, be it whole, and then refuses
it again. Within a place every device moves by itself. So where devices may be at a place, whatever
was killed on the way there, is a set per capability set; `Journey.reachable` works them out.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from vfio_migration.model import Machine
from vfio_migration.model.plan import (
    FIRST_HOLDER,
    Handover,
    Holder,
    Migration,
    MigrationStep,
    Phase,
    Plan,
    Plans,
    Side,
    applying,
)
from vfio_migration.model.plan import step as step_of
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.systems.plan import Discipline

SIDES: tuple[Side, ...] = get_args(Side)

Device = tuple[str, bool | None]
"""Where a device is, and whether it holds its state; None: it has refused what it was given."""

Reachable = dict[Side, dict[int, frozenset[Device]]]
"""Per side and capability set, what a device that is alive may be."""

Transition = Literal["arc", "fails", "reset", "loaded", "refuses", "given up"]
"""What a device does at a place; "given up": it does not follow, and is reset without its maps."""


@dataclass(frozen=True, slots=True)
class Place:
    """One thing to do.

    Attributes:
        program: The migration or handover it is of, for a reader.
        row: The handover, or None in a migration.
        kind: Write down who holds the state, move a phase, transfer, or be done.
        side: Whose devices do something.
        plan: The plan of a phase.
        phase: The phase.
        transfer: What is transferred.
        holder: What is written down.
        begins: The step begins here.
        midway: Part of the streams was transferred, and the rest is yet to be.
        after_rest: How many places of a migration lie between this one and the transfer of the
            rest, which is 0 itself; None before it.
    """

    program: str
    row: Handover | None
    kind: Literal["mark", "phase", "transfer", "end"]
    side: Side | None = None
    plan: Plan | None = None
    phase: Phase | None = None
    transfer: Literal["passes", "rest"] | None = None
    holder: Holder | None = None
    begins: bool = False
    midway: bool = False
    after_rest: int | None = None

    def __str__(self) -> str:
        what = {
            "mark": f"write down: {self.holder}",
            "phase": f"{self.side} {self.plan.name if self.plan else ''}: "
            f"{self.phase.name if self.phase else ''}",
            "transfer": f"transfer: {self.transfer}",
            "end": "end",
        }[self.kind]
        return f"{self.program}, {what}"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where the whole is.

    Attributes:
        place: The number of the place, or None while nobody coordinates.
        holder: What the journal records.
        degraded: A handover decided for which devices may have failed: nothing is whole since.
    """

    place: int | None
    holder: Holder
    degraded: bool


class Journey:
    """The places of all migrations and handovers, and where devices may be at each.

    Attributes:
        encoding: The table in z3.
        plans: The rows.
        places: All places, those of one program after the other.
        lost: Where a device lands whose arc failed for good.
    """

    def __init__(self, encoding: Encoding, plans: Plans) -> None:
        self.encoding = encoding
        self.spec = encoding.spec
        self.plans = plans
        self.lost = self.spec.event("arc_failed_for_good").to
        self.places: list[Place] = []
        self.starts: list[int] = []
        self.decided: list[int] = []
        for migration in plans.migrations:
            self.starts.append(len(self.places))
            places = list(self._places(f"migration {migration.name}", migration))
            transfers = [index for index, place in enumerate(places) if place.kind == "transfer"]
            between = range(min(transfers, default=0), max(transfers, default=0))
            rests = [index for index, place in enumerate(places) if place.transfer == "rest"]
            rest = max(rests, default=len(places))
            self.places += [
                replace(
                    place,
                    midway=index in between,
                    after_rest=index - rest if index >= rest else None,
                )
                for index, place in enumerate(places)
            ]
        for index, row in enumerate(plans.handovers):
            self.decided.append(len(self.places))
            self.places += self._places(f"handover {index} to the {row.winner}", row)
        self._discipline = {
            plan.name: Discipline(encoding, plan, failing=True) for plan in plans.plans
        }

    @classmethod
    def of(cls, encoding: Encoding) -> Journey:
        """The journey of this encoding, made once."""
        return encoding.once(cls.__name__, lambda: cls(encoding, Discipline.plans(encoding)))

    def _places(self, program: str, rows: Migration | Handover) -> Iterator[Place]:
        row = rows if isinstance(rows, Handover) else None
        for step in rows.steps:
            if step.holder is not None:
                yield Place(program, row, "mark", holder=step.holder)
            if step.transfer is not None:
                side: Side = "destination"
                yield Place(program, row, "transfer", side, transfer=step.transfer)
            yield from self._phases(program, row, step)
        yield Place(program, row, "end")

    def _phases(self, program: str, row: Handover | None, step: MigrationStep) -> Iterator[Place]:
        for index, phase in enumerate(self.plans.phases(step)):
            plan = self.plans.plan(str(step.plan))
            yield Place(program, row, "phase", step.side, plan, phase, begins=index == 0)

    # --- what the table specifies for a device ---

    @functools.cached_property
    def acting(self) -> frozenset[str]:
        """The states in which a device does anything at all."""
        spec = self.spec
        return frozenset(r.name for r in spec.states if spec.operation(r.operation).may)

    @functools.cached_property
    def writing(self) -> frozenset[str]:
        """The states in which a device takes a stream in."""
        spec = self.spec
        return frozenset(r.name for r in spec.states if spec.session(r.session).transfer == "write")

    @functools.cached_property
    def final(self) -> frozenset[str]:
        """The states in which the end of the stream is final."""
        ends = {row.name: self.spec.stream_end(row.name) for row in self.spec.states}
        return frozenset(name for name, end in ends.items() if end and end.kind == "final")

    @functools.cached_property
    def retired(self) -> frozenset[str]:
        """The states of a device that does nothing and streams nothing."""
        spec = self.spec
        idle = (r for r in spec.states if spec.session(r.session).transfer == "none")
        return frozenset(r.name for r in idle) - self.acting

    # --- what a device does at a place ---

    def winner(self, place: Place) -> Side:
        """The side that is to run when the program is over."""
        return "destination" if place.row is None else place.row.winner

    def needed(self, spot: Spot, side: Side) -> bool:
        """Without a device of this side the program is left; of the other side it is passed over.

        A migration needs both sides until the destination holds the state alone.
        """
        place = self.places[self._number(spot)]
        if place.row is not None:
            return side == place.row.winner
        return spot.holder != "destination" or side == "destination"

    def transitions(
        self, spot: Spot, side: Side, machine: Machine, device: Device
    ) -> list[tuple[Transition, Device]]:
        """What a device of a side may do next; none if it has nothing to do, or refuses to."""
        place = self.places[self._number(spot)]
        state, holds = device
        if side != place.side:
            return []
        if place.kind == "transfer":
            # Passes leave every stream incomplete: the source can still change.
            loads = place.transfer == "rest" and state in self.writing and holds is False
            return [("loaded", (state, True))] if loads else []
        assert place.phase is not None
        move = applying(place.phase, machine, state)
        to = self.onward(spot, machine, state)
        if move is None or to is None:
            return []
        if move.event is not None:
            return [("reset", (to, False))]
        found: list[tuple[Transition, Device]] = []
        if holds is not None:  # whatever it was given: it may judge nothing
            found.append(("arc", (to, holds and to not in self.writing)))
        if holds and state in self.writing:
            found.append(("refuses", (state, None)))
        if not self.needed(spot, side) and state in self.acting | self.writing:
            found.append(("given up", (to, False)))
        if self.lost is not None:
            found.append(("fails", (self.lost, False)))
        return found

    def onward(self, spot: Spot, machine: Machine, state: str) -> str | None:
        """Where the next step of a device leads at a phase, or None if it takes none."""
        phase = self.places[self._number(spot)].phase
        move = applying(phase, machine, state) if phase is not None else None
        return None if move is None else step_of(move, machine, state)

    def tears(self, spot: Spot, transition: Transition, before: str, after: str) -> bool:
        """Return whether a device gives up a session of whose stream part was transferred.

        The rest would be that of another session, and no device can make one state of the two. One
        that failed needs no rest.
        """
        spec = self.spec
        streams = spec.session(spec.state(before).session).transfer != "none"
        keeps = transition in ("fails", "refuses", "loaded")
        if not (streams and self.places[self._number(spot)].midway) or keeps:
            return False
        if transition == "arc":
            return spec.effect(before, after) != "keeps"
        return True

    def passes(self, spot: Spot, side: Side, machine: Machine, device: Device) -> bool:
        """Return whether a device of a side lets the program go on to its next place."""
        place = self.places[self._number(spot)]
        if side != place.side:
            return True
        state, holds = device
        if place.kind == "transfer":
            return bool(holds) or place.transfer == "passes"
        assert place.phase is not None
        if applying(place.phase, machine, state) is not None:
            return False
        if state != self.lost or not self.needed(spot, side):
            return True
        # What failed is reset on the way, if that is what the handover is for.
        after = self.places[self._number(spot) + 1]
        return place.row is not None and place.row.failed and after.side == side

    def unwritten(self, spot: Spot) -> bool:
        """Return whether it is known, but not recorded, that the destination has the whole state.

        If the coordinator is killed then, and the source too, nobody knows it any more. Right
        after the transfer it cannot be otherwise: there it is written down.
        """
        place = self.places[self._number(spot)]
        in_time = 1 if place.kind == "mark" else 0
        known = place.after_rest is not None and place.after_rest > in_time
        return known and spot.holder == FIRST_HOLDER

    def begins_rest(self, spot: Spot) -> bool:
        """Return whether the rest is transferred next: it is of what the source holds then."""
        onward = self.after(spot)
        return onward is not None and self.places[self._number(onward)].after_rest == 0

    def records_delivery(self, spot: Spot) -> bool:
        """Return whether it is written down that the destination was given the whole state."""
        return self.places[self._number(spot)].holder not in (None, FIRST_HOLDER)

    def fits(self, place: Place, side: Side, word: int) -> frozenset[str]:
        """Where a device may be when a handover begins a plan with its side.

        The plan is proved safe, and to arrive, from there. What a migration follows is proved as a
        plan of its own.
        """
        names = frozenset(row.name for row in self.encoding.machines[word].states)
        if place.row is None or not place.begins or side != place.side:
            return names
        assert place.plan is not None
        assert place.phase is not None
        index = place.plan.phases.index(place.phase)
        return self._discipline[place.plan.name].reachable[index][word]

    def right(self, spot: Spot, side: Side, word: int, device: Device) -> bool:
        """Return whether what a device may be at a place is what the place is for."""
        place = self.places[self._number(spot)]
        state, holds = device
        if place.kind == "end":
            if side == self.winner(place):
                return state == self.spec.initial and (bool(holds) or spot.degraded)
            return state in self.retired
        if place.kind == "transfer":
            if place.row is not None:
                return False  # what another had read before, and in which pairs, is lost with it
            if side == "destination":
                return state in self.writing
            return state in (self.acting if place.transfer == "passes" else self.final)
        return state in self.fits(place, side, word)

    # --- where the whole goes ---

    def after(self, spot: Spot) -> Spot | None:
        """Where it goes on when a place is done; None at an end."""
        place = self.places[self._number(spot)]
        if place.kind == "end":
            return None
        return Spot(self._number(spot) + 1, place.holder or spot.holder, spot.degraded)

    def down(self, spot: Spot) -> Spot:
        """Anybody who coordinated is killed, or gives up."""
        return Spot(None, spot.holder, spot.degraded)

    def choices(self, spot: Spot) -> list[tuple[int, Handover, Spot]]:
        """The handovers that the journal lets be chosen, and where each begins."""
        return [
            (index, row, Spot(self.decided[index], spot.holder, spot.degraded or row.failed))
            for index, row in enumerate(self.plans.handovers)
            if spot.holder in row.holders
        ]

    def _number(self, spot: Spot) -> int:
        assert spot.place is not None
        return spot.place

    # --- where devices may be ---

    @functools.cached_property
    def begins(self) -> Reachable:
        """The source runs, and holds its state; the destination is blank, and runs or is stopped.

        It is stopped where an earlier migration was given up: where handovers lead the loser.
        """
        initial = self.spec.initial
        leads = {
            self._discipline[str(step.plan)]
            for row in self.plans.handovers
            for step in row.steps
            if step.side not in (None, row.winner)
        }
        return {
            "source": {word: frozenset({(initial, True)}) for word in self.encoding.machines},
            "destination": {
                word: frozenset(
                    (name, False)
                    for name in {initial}.union(*(one.ends[word] for one in leads)) - {self.lost}
                )
                for word in self.encoding.machines
            },
        }

    @property
    def begun(self) -> list[Spot]:
        """Where migrations begin."""
        return [Spot(start, FIRST_HOLDER, False) for start in self.starts]

    @functools.cached_property
    def reachable(self) -> dict[Spot, Reachable]:
        """At every spot that can be reached, what devices may be."""
        found: dict[Spot, Reachable] = {}
        todo = [(spot, self.begins) for spot in self.begun]
        while todo:
            spot, arriving = todo.pop()
            known = found.get(spot)
            merged = self._closed(spot, arriving if known is None else _union(known, arriving))
            if merged == known:
                continue
            found[spot] = merged
            todo += self._onward(spot, merged)
        return found

    def _onward(self, spot: Spot, reachable: Reachable) -> Iterator[tuple[Spot, Reachable]]:
        if spot.place is None:
            for _, row, begun in self.choices(spot):
                yield begun, self._chosen(row, reachable)
            return
        yield self.down(spot), reachable
        onward = self.after(spot)
        if onward is not None:
            yield onward, self.passing(spot, reachable)

    def passing(self, spot: Spot, reachable: Reachable) -> Reachable:
        """Of what devices may be at a place, what lets the program go on."""
        machines = self.encoding.machines
        if self.places[self._number(spot)].kind == "mark":
            return reachable
        return {
            side: {
                word: frozenset(
                    device for device in devices if self.passes(spot, side, machines[word], device)
                )
                for word, devices in reachable[side].items()
            }
            for side in SIDES
        }

    def _chosen(self, row: Handover, reachable: Reachable) -> Reachable:
        return {
            side: {
                word: frozenset(
                    device
                    for device in devices
                    if row.failed or side != row.winner or device[0] != self.lost
                )
                for word, devices in reachable[side].items()
            }
            for side in SIDES
        }

    def _closed(self, spot: Spot, reachable: Reachable) -> Reachable:
        if spot.place is None or self.places[spot.place].kind in ("mark", "end"):
            return reachable
        return {
            side: {
                word: self._reached(spot, side, word, devices)
                for word, devices in reachable[side].items()
            }
            for side in SIDES
        }

    def _reached(
        self, spot: Spot, side: Side, word: int, devices: Iterable[Device]
    ) -> frozenset[Device]:
        reached = set(devices)
        todo = list(reached)
        while todo:
            device = todo.pop()
            for _, then in self.transitions(spot, side, self.encoding.machines[word], device):
                if then not in reached:
                    reached.add(then)
                    todo.append(then)
        return frozenset(reached)


def _union(one: Reachable, other: Reachable) -> Reachable:
    return {
        side: {word: one[side][word] | other[side][word] for word in one[side]} for side in SIDES
    }


def followed(plans: Plans) -> list[Plan]:
    """What each side of each migration goes through, as a plan: its phases, one after the other."""
    found = []
    for migration, side in itertools.product(plans.migrations, SIDES):
        plan = _plan(plans, f"migration-{migration.name}-{side}", migration, side)
        found += [] if plan is None else [plan]
    return found


def handed_over(encoding: Encoding) -> list[Discipline]:
    """What each side of each handover goes through, from wherever its devices may be found."""
    journey = Journey.of(encoding)
    found = []
    for (index, row), side in itertools.product(enumerate(journey.plans.handovers), SIDES):
        plan = _plan(journey.plans, f"handover-{index}-{side}", row, side)
        begun = [s for s in journey.reachable if s.place == journey.decided[index]]
        reachable = {
            word: frozenset(state for s in begun for state, _ in journey.reachable[s][side][word])
            for word in encoding.machines
        }
        if plan is not None:
            found.append(Discipline(encoding, plan, failing=True, found=reachable))
    return found


def _plan(plans: Plans, name: str, row: Migration | Handover, side: Side) -> Plan | None:
    steps = [step for step in row.steps if step.side == side]
    parts = [plans.plan(str(step.plan)) for step in steps]
    if not parts:
        return None
    phases: list[Phase] = []
    for part, step in zip(parts, steps, strict=True):
        phases += (_renamed(phase, f"{part.name}-{phase.name}") for phase in plans.phases(step))
    return Plan(
        name=name,
        sound=True,
        before=parts[0].before if isinstance(row, Migration) else (),
        limits=tuple(dict.fromkeys(limit for part in parts for limit in part.limits)),
        phases=tuple(phases),
        summary=row.summary,
        source=parts[0].source,
    )


def _renamed(phase: Phase, name: str) -> Phase:
    return Phase(name=name, moves=phase.moves, summary=phase.summary)
