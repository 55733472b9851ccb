"""G7: one side runs on with the whole state, no matter who is killed. Groups of any size.

The devices of each side are an uninterpreted sort; whether each is alive, where it is and
whether it holds its state are functions of it. At every spot of a `Journey` an invariant states
where devices may be, and how the two sides relate; z3 shows that nothing that can
happen at
the spot breaks it: a step of any device, a failing arc, a killed server, the end of the place, the
end of the coordinator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal

import z3

from vfio_migration.model.plan import Handover, Side
from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term
from vfio_migration.verifier.solver.explain import Model
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import all_of, any_of
from vfio_migration.verifier.systems.handover import SIDES, Device, Journey, Spot
from vfio_migration.verifier.systems.handover_arrival import stranded
from vfio_migration.verifier.systems.handover_runs import (
    accepting_run,
    deciding_runs,
    shortest,
    stranding,
    undisturbed,
)

Part = Literal[
    "both-run", "runs-without-its-state", "made-of-two", "not-where-it-is-to-be", "given-up"
]
"""A part of what G7 states."""

Role = Literal["one", "other", "mover"]
"""Which device is spoken of: any, any other, or the one that something happens to."""

OTHER: dict[Side, Side] = {"source": "destination", "destination": "source"}


class Crowd:
    """The devices of a side at one moment, however many there are.

    Attributes:
        alive: Whether a device is served by the process it always was.
        state: Where a device is.
        holds: Whether a device holds its state.
        refused: Whether it has refused what it was given, and will again.
        ran: One of them has acted since the other side was given the state.
    """

    def __init__(self, encoding: Encoding, side: Side, moment: str) -> None:
        self.encoding = encoding
        self.sort = z3.DeclareSort(side.capitalize())
        self.flags = z3.Function(f"flags_{side}", self.sort, encoding.flags.sort())
        self.alive = self._function(f"alive_{side}@{moment}", z3.BoolSort())
        self.state = self._function(f"state_{side}@{moment}", encoding.state_sort)
        self.holds = self._function(f"holds_{side}@{moment}", z3.BoolSort())
        self.refused = self._function(f"refused_{side}@{moment}", z3.BoolSort())
        self.ran = z3.Bool(f"ran_{side}@{moment}")

    def _function(self, name: str, sort: z3.SortRef) -> z3.FuncDeclRef:
        return z3.Function(name, self.sort, sort)

    @functools.cache  # noqa: B019 - a crowd lives as long as its proof
    def device(self, role: Role) -> Term:
        """A device of this side."""
        return z3.Const(f"{role}_{self.sort}", self.sort)

    def every(self, formula: Formula, *roles: Role) -> Formula:
        """A formula holds of every device in these roles."""
        return z3.ForAll([self.device(role) for role in roles or ("one",)], formula)

    @functools.cache  # noqa: B019
    def able(self, role: Role, word: int) -> Formula:
        """A device has this capability set."""
        return self.flags(self.device(role)) == word

    @functools.cache  # noqa: B019
    def in_states(self, role: Role, names: frozenset[str]) -> Formula:
        """A device is in one of these states."""
        return self.encoding.one_of(self.state(self.device(role)), sorted(names))

    @functools.cache  # noqa: B019
    def there(self, role: Role) -> Formula:
        """A device is alive."""
        return self.alive(self.device(role))

    @functools.cache  # noqa: B019
    def kept(self, role: Role) -> Formula:
        """A device holds its state."""
        return self.holds(self.device(role))

    def runs(self, role: Role, acting: frozenset[str]) -> Formula:
        """A device acts on the state that is migrated."""
        return all_of(self.there(role), self.kept(role), self.in_states(role, acting))

    @functools.cached_property
    def whole(self) -> Formula:
        """Every device holds its state."""
        return self.every(all_of(self.there("one"), self.kept("one")))

    def among(self, role: Role, sets: Mapping[int, frozenset[Device]]) -> Formula:
        """A device is what its capability set has in `sets`."""
        return any_of([self.is_one_of(role, word, devices) for word, devices in sets.items()])

    @functools.cache  # noqa: B019
    def is_one_of(self, role: Role, word: int, devices: frozenset[Device]) -> Formula:
        """A device has this capability set and is one of these."""
        kept, refused = self.kept(role), self.refused(self.device(role))
        cases = []
        for held, holds, refuses in (
            (True, kept, z3.Not(refused)),
            (False, z3.Not(kept), z3.Not(refused)),
            (None, z3.Not(kept), refused),
        ):
            names = frozenset(name for name, what in devices if what is held)
            if names:
                cases.append(all_of(holds, refuses, self.in_states(role, names)))
        return all_of(self.able(role, word), any_of(cases))


class Moment:
    """Both sides at one moment.

    Attributes:
        crowds: The sides.
        rolled_back: A handover decided that rolls back what the destination did.
        known: The journal has recorded that the destination was given the whole state. That it
            accepts what it was given proves nothing.
    """

    def __init__(self, encoding: Encoding, name: str) -> None:
        self.crowds = {side: Crowd(encoding, side, name) for side in SIDES}
        self.rolled_back = z3.Bool(f"rolled_back@{name}")
        self.known = z3.Bool(f"known@{name}")


class HandoverProof:
    """The two groups of a migration, of any size, and what is claimed of them at every spot.

    `without` leaves parts of the claim out, so that it is seen what each of them is for.
    """

    def __init__(self, journey: Journey, without: Collection[Part] = ()) -> None:
        self.journey = journey
        self.without = frozenset(without)
        self.encoding = journey.encoding
        self.now, self.then = Moment(self.encoding, "0"), Moment(self.encoding, "1")
        crowds = self.now.crowds.values()
        capable = [
            crowd.every(any_of([crowd.able("one", word) for word in self.encoding.machines]))
            for crowd in crowds
        ]
        self.facts = all_of(*capable)
        """Every device has a capability set of the profile."""

    # --- the invariant ---

    @functools.cache  # noqa: B019 - a proof lives as long as its queries
    def invariant(self, spot: Spot, now: Moment) -> Formula:
        """What holds at a spot."""
        acting, writing = self.journey.acting, self.journey.writing
        source, destination = now.crowds["source"], now.crowds["destination"]
        begun, resumed = source.runs("one", acting), destination.runs("one", acting)
        parts = [self._all_among(now, self.journey.reachable[spot])]
        # Never do both sides run.
        both = all_of(begun, resumed)
        pair = [source.device("one"), destination.device("one")]
        if "both-run" not in self.without:
            parts.append(z3.ForAll(pair, z3.Not(both)))
        # Anybody who runs has run.
        parts.append(destination.every(z3.Implies(resumed, destination.ran)))
        place = None if spot.place is None else self.journey.places[spot.place]
        if spot.holder != "source" or (place is not None and place.after_rest is not None):
            # What the destination was given is what the source still holds.
            parts += [z3.Not(source.ran), source.every(z3.Not(begun))]
        if spot.degraded:
            return all_of(*parts)
        row = None if place is None else place.row
        if row is not None and row.rolls_back:
            parts.append(now.rolled_back)
        if spot.holder != "destination":
            parts.append(z3.Implies(destination.ran, now.rolled_back))
        if spot.holder != "source":
            parts.append(now.known)
        elif place is not None and row is None:
            parts.append(z3.Not(now.known))
        if spot.holder == "source" or (row is not None and row.winner == "source"):
            # The destination is given up only where it does not hold the whole state, or where
            # nobody knows that it does.
            parts.append(z3.Not(all_of(now.known, destination.whole)))
        # Nobody runs while another is still being loaded.
        loading = all_of(destination.there("other"), destination.in_states("other", writing))
        parts.append(
            destination.every(z3.Not(all_of(resumed, loading)), "one", "other"),
        )
        return all_of(*parts)

    def _all_among(
        self, now: Moment, reachable: Mapping[Side, Mapping[int, frozenset[Device]]]
    ) -> Formula:
        """Every device that is alive is what it may be."""
        return all_of(
            *[
                crowd.every(z3.Implies(crowd.there("one"), crowd.among("one", reachable[side])))
                for side, crowd in now.crowds.items()
            ]
        )

    # --- what happens ---

    @functools.cache  # noqa: B019
    def _same(self, side: Side) -> Formula:
        """A device stays what it is."""
        now, then = self.now.crowds[side], self.then.crowds[side]
        one = now.device("one")
        return all_of(
            now.alive(one) == then.alive(one),
            now.state(one) == then.state(one),
            now.holds(one) == then.holds(one),
            now.refused(one) == then.refused(one),
        )

    def _happens(self, spot: Spot, side: Side) -> Formula:
        """A device does what it has to do at a place, or fails, or its server is killed."""
        now, then = self.now.crowds[side], self.then.crowds[side]
        mover, reachable = now.device("mover"), self.journey.reachable[spot][side]
        moves = any_of(
            [
                all_of(
                    now.is_one_of("mover", word, frozenset({device})),
                    then.is_one_of("mover", word, frozenset({after})),
                )
                for word, machine in self.encoding.machines.items()
                for device in sorted(reachable[word], key=str)
                for _, after in self.journey.transitions(spot, side, machine, device)
            ]
        )
        moved = all_of(now.there("mover"), then.there("mover"), moves)
        killed = all_of(
            z3.Not(then.there("mover")),
            then.state(mover) == now.state(mover),
            then.holds(mover) == now.holds(mover),
            then.refused(mover) == now.refused(mover),
        )
        one, other = now.device("one"), OTHER[side]
        return all_of(
            z3.Or(moved, killed),
            now.every(z3.Or(one == mover, self._same(side))),
            self.now.crowds[other].every(self._same(other)),
            then.ran == z3.Or(now.ran, then.runs("mover", self.journey.acting)),
            self.then.crowds[other].ran == self.now.crowds[other].ran,
            self.then.rolled_back == self.now.rolled_back,
            self.then.known == self.now.known,
        )

    def _torn(self, spot: Spot, side: Side) -> Formula:
        """The device that moves gives up a session that was transferred in part."""
        if "made-of-two" in self.without:
            return z3.BoolVal(False)
        now, then, journey = self.now.crowds[side], self.then.crowds[side], self.journey
        return any_of(
            [
                all_of(
                    then.there("mover"),
                    now.is_one_of("mover", word, frozenset({device})),
                    then.is_one_of("mover", word, frozenset({after})),
                )
                for word, machine in self.encoding.machines.items()
                for device in sorted(journey.reachable[spot][side][word], key=str)
                for what, after in journey.transitions(spot, side, machine, device)
                if journey.tears(spot, what, device[0], after[0])
            ]
        )

    def _amiss(self, spot: Spot, side: Side) -> Formula:
        """The device that moves starts and must not: it holds nothing, or is left behind."""
        if "runs-without-its-state" in self.without:
            return z3.BoolVal(False)
        if spot.degraded or (side == "destination" and spot.holder == "source"):
            return z3.BoolVal(False)  # the latter is blank, and runs nothing that is migrated
        now, then = self.now.crowds, self.then.crowds[side]
        mover = then.device("mover")
        behind = now["source"].ran
        if side == "source":
            behind = all_of(now["destination"].ran, z3.Not(self.now.rolled_back))
        return all_of(
            then.there("mover"),
            then.in_states("mover", self.journey.acting),
            then.state(mover) != now[side].state(mover),
            z3.Or(z3.Not(then.kept("mover")), behind),
        )

    def _leaves(self, spot: Spot) -> Formula:
        """The program goes on, or is left: the invariant of where that leads does not hold."""
        now, then, journey = self.now.crowds, self.then.crowds, self.journey
        same = {side: then[side].ran == now[side].ran for side in SIDES}
        known = self.then.known == self.now.known
        left = z3.Not(self.invariant(journey.down(spot), self.then))
        cases = [all_of(known, *same.values(), left)]
        onward = journey.after(spot)
        if onward is not None:
            if journey.begins_rest(spot):
                same["source"] = z3.Not(then["source"].ran)
            if journey.records_delivery(spot):
                known = self.then.known
            over = self._all_among(self.now, journey.passing(spot, journey.reachable[spot]))
            goes_on = z3.Not(self.invariant(onward, self.then))
            cases.append(all_of(over, known, *same.values(), goes_on))
        unchanged = [now[side].every(self._same(side)) for side in SIDES]
        return all_of(*unchanged, self.then.rolled_back == self.now.rolled_back, any_of(cases))

    def _wrong(self, spot: Spot, side: Side) -> Formula:
        """A device is not what the place is for."""
        if "not-where-it-is-to-be" in self.without:
            return z3.BoolVal(False)
        wrong = {
            word: frozenset(one for one in devices if not self.journey.right(spot, side, word, one))
            for word, devices in self.journey.reachable[spot][side].items()
        }
        crowd = self.now.crowds[side]
        return all_of(crowd.there("mover"), crowd.among("mover", wrong))

    # --- who is to run ---

    def chosen(self, row: Handover) -> Formula:
        """A row holds, as far as the devices decide that."""
        crowd, lost = self.now.crowds[row.winner], self.journey.lost
        failed = crowd.in_states("one", frozenset({lost} if lost and not row.failed else ()))
        fit = crowd.every(all_of(crowd.there("one"), z3.Not(failed)))
        return all_of(fit, *(self._is_stopped(side) for side in row.still))

    def _is_stopped(self, side: Side) -> Formula:
        """No device of a side is found in a state that permits it anything."""
        crowd = self.now.crowds[side]
        runs = all_of(crowd.there("one"), crowd.in_states("one", self.journey.acting))
        return crowd.every(z3.Not(runs))

    def passed_over(self, row: Handover) -> Formula:
        """A row does not hold, or failed when tried: then a device does not hold its state."""
        return z3.Or(z3.Not(self.chosen(row)), z3.Not(self.now.crowds[row.winner].whole))

    def _unjust(self, row: Handover | None) -> Formula:
        """A side is known to hold the whole state, and what decides gives it up: a row, or none."""
        if "given-up" in self.without:
            return z3.BoolVal(False)
        sides: tuple[Side, ...] = SIDES
        if row is not None and not row.failed:
            sides = ("destination",) if row.rolls_back else ()
        whole = {side: self.now.crowds[side].whole for side in SIDES}
        whole["destination"] = all_of(self.now.known, whole["destination"])
        return any_of([whole[side] for side in sides])

    # --- queries ---

    def queries(self) -> Iterator[Query]:
        """The invariant holds at the start, survives everything, and implies the statement."""
        for start in self.journey.begun:
            wrong = z3.Not(self.invariant(start, self.now))
            yield self._step(f"{_name(start)}-begins", "a migration begins", self._start, wrong)
        for spot in self.journey.reachable:
            if spot.place is None:
                yield from self._decisions(spot)
                continue
            kept = self.invariant(spot, self.then)
            breaks = [
                all_of(
                    self._happens(spot, side),
                    z3.Or(z3.Not(kept), self._amiss(spot, side), self._torn(spot, side)),
                )
                for side in SIDES
            ]
            breaks += [self._wrong(spot, side) for side in SIDES]
            if self.journey.unwritten(spot):
                breaks.append(self.now.crowds["destination"].whole)
            breaks.append(self._leaves(spot))
            place = self.journey.places[spot.place]
            held = self.invariant(spot, self.now)
            yield self._step(_name(spot), str(place), held, any_of(breaks))

    def _step(self, name: str, text: str, *formulas: Formula) -> Query:
        words = f"the invariant breaks: {text}"
        return Query(name, "step", (self.facts, *formulas), "unsat", lambda _: Example(words))

    @property
    def _start(self) -> Formula:
        """The destination has run nothing, and nothing was rolled back."""
        begins, crowds = self.journey.begins, self.now.crowds
        devices = [crowds[side].every(crowds[side].among("one", begins[side])) for side in SIDES]
        nothing = [crowds["destination"].ran, self.now.rolled_back, self.now.known]
        return all_of(*devices, *map(z3.Not, nothing))

    def _decisions(self, spot: Spot) -> Iterator[Query]:
        """Every row that may decide leads on, and gives up nothing that is whole."""
        held, name = self.invariant(spot, self.now), _name(spot)
        earlier: list[Formula] = []
        then, now = self.then, self.now
        unchanged = [now.crowds[side].every(self._same(side)) for side in SIDES]
        unchanged += [now.crowds[side].ran == then.crowds[side].ran for side in SIDES]
        unchanged.append(now.known == then.known)
        for index, row, begun in self.journey.choices(spot):
            rolled_back = then.rolled_back == (
                z3.BoolVal(True) if row.rolls_back else now.rolled_back
            )
            breaks = all_of(*unchanged, rolled_back, z3.Not(self.invariant(begun, then)))
            if not spot.degraded:
                breaks = z3.Or(breaks, self._unjust(row))
            text = f"handover {index} decides"
            chosen = self.chosen(row)
            yield self._step(f"{name}-row-{index}", text, held, *earlier, chosen, breaks)
            earlier.append(self.passed_over(row))
        if not spot.degraded:
            text = "no handover decides"
            yield self._step(f"{name}-lost", text, held, *earlier, self._unjust(None))


def _name(spot: Spot) -> str:
    where = "down" if spot.place is None else f"place-{spot.place}"
    return f"{where}-{spot.holder}{'-degraded' if spot.degraded else ''}"


def handovers(encoding: Encoding) -> Iterator[Query]:
    """G7: that migrations arrive, the proof, and a run in which each row decides."""
    journey = Journey.of(encoding.widest())
    for migration, arrives, run in undisturbed(journey):
        # A search decides this too: where nobody disturbs it, a migration is one run.
        name = f"migration-{migration}-arrives"
        known = z3.Bool(name) if arrives else z3.BoolVal(False)
        yield Query(name, "claim", (known,), "sat", _explained(run))
    # A run that breaks the obligation states more than who does not get on: it is searched for
    # first.
    yield from _arriving(journey, "step")
    yield from HandoverProof(journey).queries()
    judged = Example("every destination judges its stream")
    accepted = accepting_run(journey)
    formula = z3.BoolVal(False) if accepted is None else z3.Bool("a destination judges nothing")
    yield Query(
        "judges-nothing",
        "witness",
        (formula,),
        "sat",
        _explained(accepted or judged),
        lacking="" if accepted else judged.text,
    )
    found = deciding_runs(journey)
    for index, row in enumerate(journey.plans.handovers):
        name = f"row-{index}-decides"
        text = f"handover {index} to the {row.winner} never decides"
        if row.failed and journey.lost is None:
            text += ": it is for failed devices, and arc_failed_for_good leads nowhere here"
        never = Example(text)
        # A search has found the run; the variable only gives the query a formula of its own.
        formula = z3.Bool(name) if index in found else z3.BoolVal(False)
        lacks = "" if index in found else never.text
        explain = _explained(found.get(index, never))
        yield Query(name, "witness", (formula,), "sat", explain, lacking=lacks)


def handovers_search(encoding: Encoding) -> Iterator[Query]:
    """The shortest run that breaks the obligation, if there is one; then who does not get on."""
    journey = Journey.of(encoding.widest())
    found = shortest(journey)
    if found is not None:
        yield Query("run", "claim", (z3.Bool("a run breaks it"),), "unsat", _explained(found))
    yield from _arriving(journey, "claim")


def _arriving(journey: Journey, role: Literal["claim", "step"]) -> Iterator[Query]:
    for index in range(len(journey.plans.handovers)):
        name = f"handover-{index}-arrives"
        lost = stranded(journey, index)
        known = z3.BoolVal(False) if lost else z3.Bool(name)
        example = Example("it arrives" if lost is None else lost.text)
        if lost is not None and role == "claim":
            example = stranding(journey, lost)
        yield Query(name, role, (known,), "sat", _explained(example))


def _explained(example: Example) -> Callable[[Model], Example]:
    """Explain an answer that a search has found."""
    return lambda _model: example
