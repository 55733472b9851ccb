"""A group of devices with peer-to-peer DMA between them, moved by a plan.

Two encodings of the same behaviour, both of what `Discipline` reads from the table of plans:

- `QuantifiedGroup`: any number of devices. They are an uninterpreted sort; where each is and
  what it is capable of are functions of it. A proof here is one for groups of every size.
- `FiniteGroup`: a small number of devices, for shortest runs that show a bad plan going wrong.

A running device may start peer-to-peer DMA to any other at any time, so a situation is unsafe as
soon as one may start it and another, stopped, may not accept it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import z3

from vfio_migration.model import Spec, Step, Trace
from vfio_migration.model.plan import Limit
from vfio_migration.model.spec import Role
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.system import Event, Situation, System, Term
from vfio_migration.verifier.solver.terms import all_of, any_of, equal
from vfio_migration.verifier.systems.plan import ACCEPTS, STARTS, Discipline, Sets
from vfio_migration.verifier.systems.plan_runs import begins, failed, taken


def may(encoding: Encoding, state: Term, role: Role) -> Formula:
    """A device in this state may do the activity with this role."""
    spec = encoding.spec
    names = [row.name for row in spec.states if spec.permits_role(row.name, role)]
    return encoding.one_of(state, names)


def meets(encoding: Encoding, one: Term, other: Term) -> Formula:
    """The first device may start peer-to-peer DMA, and the second is stopped: unsafe.

    A device that has failed is not a stopped one: nothing is guaranteed for it.
    """
    lost = encoding.spec.event("arc_failed_for_good").to
    failed = encoding.one_of(other, [lost] if lost is not None else [])
    refuses = all_of(z3.Not(may(encoding, other, ACCEPTS)), z3.Not(failed))
    return all_of(may(encoding, one, STARTS), refuses)


def too_many(spec: Spec, limit: Limit, devices: int) -> bool:
    """Say whether a group of so many devices exceeds a limit, whatever devices it has."""
    return _bit(spec, limit) == 0 and limit.count < devices


def _bit(spec: Spec, limit: Limit) -> int:
    """The bit of the capability that a limit speaks of; 0 of one that no device of a table has."""
    return next((row.value for row in spec.capabilities if row.name == limit.lacks), 0)


class QuantifiedGroup:
    """A group of any size, in the middle of one phase of a plan.

    Attributes:
        discipline: The plan, worked out.
        sort: The devices.
        flags: The capabilities of each.
    """

    def __init__(self, discipline: Discipline) -> None:
        self.discipline = discipline
        self.encoding = discipline.encoding
        self.sort = z3.DeclareSort("Device")
        self.flags = z3.Function("flags", self.sort, self.encoding.flags.sort())
        self.one, self.other = z3.Consts("one other", self.sort)
        self._applied: dict[tuple[int, int], tuple[Term, Term]] = {}
        self._among: dict[tuple[int, int, frozenset[tuple[int, frozenset[str]]]], Formula] = {}

    def of(self, function: z3.FuncDeclRef, device: Term) -> Term:
        """What a function has for a device: one term, made once."""
        key = function.get_id(), device.get_id()
        if key not in self._applied:
            self._applied[key] = device, function(device)
        return self._applied[key][1]

    def where(self, moment: str) -> z3.FuncDeclRef:
        """Where each device is at a moment."""
        return z3.Function(f"state@{moment}", self.sort, self.encoding.state_sort)

    @functools.cached_property
    def facts(self) -> Formula:
        """Every device has a capability set of the profile; the group is one the plan is for."""
        one = self.one
        capable = z3.ForAll(
            [one], any_of([self.flags(one) == word for word in self.encoding.machines])
        )
        return all_of(capable, *(self._limited(limit) for limit in self.discipline.plan.limits))

    def _limited(self, limit: Limit) -> Formula:
        """At most so many devices lack a capability; a group of one has no limit.

        Of one device more than the limit that all lack it, two are the same. Where it allows none,
        one that lacks it is the only device there is.
        """
        bit = _bit(self.encoding.spec, limit)
        devices = z3.Consts(
            [f"device{index}" for index in range(max(2, limit.count + 1))], self.sort
        )
        without = [self.flags(device) & bit == 0 for device in devices]
        same = [one == other for one, other in itertools.combinations(devices, 2)]
        premise = all_of(*without) if limit.count else without[0]
        return z3.ForAll(devices, z3.Implies(premise, z3.Or(same)))

    def in_states(self, where: z3.FuncDeclRef, device: Term, sets: Sets) -> Formula:
        """A device is in one of the states that its capability set has in `sets`."""
        state, flags = self.of(where, device), self.of(self.flags, device)
        key = state.get_id(), flags.get_id(), frozenset(sets.items())
        if key not in self._among:
            self._among[key] = any_of(
                [
                    all_of(flags == word, self.encoding.one_of(state, sorted(names)))
                    for word, names in sets.items()
                ]
            )
        return self._among[key]

    def unsafe(self, where: z3.FuncDeclRef, one: Term, other: Term) -> Formula:
        """Of two devices the first may start DMA to the second, which is stopped."""
        return all_of(
            one != other, meets(self.encoding, self.of(where, one), self.of(where, other))
        )

    def holds(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """The invariant of a phase: where devices are, and that none meets a stopped one."""
        one, other = self.one, self.other
        return all_of(
            z3.ForAll([one], self.in_states(where, one, self.discipline.reachable[phase])),
            z3.ForAll([one, other], z3.Not(self.unsafe(where, one, other))),
        )

    def broken(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """The invariant of a phase fails, of devices the solver picks."""
        first, second = z3.Consts("first second", self.sort)
        return z3.Or(
            z3.Not(self.in_states(where, first, self.discipline.reachable[phase])),
            self.unsafe(where, first, second),
        )

    def over(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """No move of the phase applies to any device."""
        one = self.one
        row = self.discipline.plan.phases[phase]
        rest = {
            word: self.discipline.rests(row, machine)
            for word, machine in self.discipline.machines()
        }
        return z3.ForAll([one], self.in_states(where, one, rest))

    def moves(self, now: z3.FuncDeclRef, then: z3.FuncDeclRef, phase: int) -> Formula:
        """One device takes one step of its move, or fails; all others stay where they are."""
        mover, one = z3.Const("mover", self.sort), self.one
        row = self.discipline.plan.phases[phase]
        encoding = self.encoding
        able = {word: self.of(self.flags, mover) == word for word in encoding.machines}
        cases = [
            all_of(
                able[word],
                equal(self.of(now, mover), encoding.state(here)),
                equal(self.of(then, mover), encoding.state(there)),
            )
            for word, machine in encoding.machines.items()
            for here, there in self.discipline.steps(row, machine).items()
        ]
        if self.discipline.failing and self.discipline.lost is not None:
            moving = any_of(
                [
                    all_of(able[word], equal(self.of(now, mover), encoding.state(here)))
                    for word, machine in encoding.machines.items()
                    for here in self.discipline.steps(row, machine)
                ]
            )
            lost = encoding.state(self.discipline.lost)
            cases.append(all_of(moving, then(mover) == lost))
        stay = z3.ForAll([one], z3.Or(one == mover, then(one) == now(one)))
        return all_of(any_of(cases), stay)

    def inductive(self) -> Iterator[Query]:
        """The invariant of each phase holds when it begins and survives every step of any device.

        Where a plan that comes after others begins is part of the invariant of its first phase.
        """
        discipline, plan = self.discipline, self.discipline.plan
        now, then = self.where("0"), self.where("1")
        tag = f"{plan.name}{'-failing' if discipline.failing else ''}"

        def step(name: str, *formulas: Formula) -> Query:
            text = f"the invariant of plan {plan.name} breaks"
            return Query(
                f"{tag}-{name}", "step", (self.facts, *formulas), "unsat", lambda _: Example(text)
            )

        if plan.before:
            begins = self.in_states(now, self.one, discipline.begins_anywhere)
            yield step("begins", z3.ForAll([self.one], begins), self.broken(now, 0))
        for index, phase in enumerate(plan.phases):
            held = self.holds(now, index)
            moves = self.moves(now, then, index)
            yield step(f"{phase.name}-kept", held, moves, self.broken(then, index))
            if index + 1 < len(plan.phases):
                over = self.over(now, index)
                yield step(f"{phase.name}-over", held, over, self.broken(now, index + 1))


class FiniteGroup(System):
    """A fixed number of devices that follow a plan; the variables are where each is."""

    def __init__(self, discipline: Discipline, size: int) -> None:
        encoding = discipline.encoding
        super().__init__(encoding)
        self.discipline = discipline
        self.size = size
        state = encoding.state_sort
        devices = range(size)
        self.sorts = {f"state{device}": state for device in devices} | {
            "phase": z3.IntSort(),
            **{f"flags{device}": encoding.flags.sort() for device in devices},
        }
        self.events = (
            "next_phase",
            *(f"{kind}{device}" for device in devices for kind in ("move", "fail")),
        )

    @functools.cached_property
    def facts(self) -> Formula:
        """Nothing besides what the steps say."""
        return z3.BoolVal(True)

    def start(self, now: Situation) -> Formula:
        """Every device is where the plan begins, or where those before it may leave it."""
        begins = [
            z3.And([self._among(now, device, begin) for device in range(self.size)])
            for begin in self.discipline.begins
        ]
        conditions = [now["phase"] == 0, any_of(begins), *self._limits(now)]
        pairs = itertools.permutations(range(self.size), 2)
        conditions += [
            z3.Not(meets(self.encoding, now[f"state{one}"], now[f"state{other}"]))
            for one, other in pairs
        ]
        return z3.And(conditions)

    def _among(self, now: Situation, device: int, sets: Sets) -> Formula:
        state, flags = now[f"state{device}"], now[f"flags{device}"]
        return any_of(
            [
                all_of(flags == word, self.encoding.one_of(state, sorted(names)))
                for word, names in sets.items()
            ]
        )

    def _limits(self, now: Situation) -> Iterator[Formula]:
        """The group is one the plan is for."""
        for limit in self.discipline.plan.limits:
            bit = _bit(self.encoding.spec, limit)
            without = [now[f"flags{device}"] & bit == 0 for device in range(self.size)]
            too_many = itertools.combinations(without, limit.count + 1) if self.size > 1 else ()
            yield from (z3.Not(all_of(*some)) for some in too_many)

    def transitions(
        self,
        now: Situation,
        choose: Callable[[str, z3.SortRef], Term],  # noqa: ARG002 - nothing is chosen
    ) -> list[Event]:
        """A device takes a step of its move, or fails; or the phase is over and the next begins."""
        events = []
        encoding, discipline = self.encoding, self.discipline
        phases = discipline.plan.phases
        for index, phase in enumerate(phases):
            resting = {word: discipline.rests(phase, m) for word, m in discipline.machines()}
            for device in range(self.size):
                state, flags = now[f"state{device}"], now[f"flags{device}"]
                for word, machine in discipline.machines():
                    for here, there in discipline.steps(phase, machine).items():
                        guard = all_of(
                            now["phase"] == index, flags == word, state == encoding.state(here)
                        )
                        events.append(
                            Event(f"move{device}", guard, {f"state{device}": encoding.state(there)})
                        )
                        if discipline.failing and discipline.lost is not None:
                            lost = encoding.state(discipline.lost)
                            events.append(Event(f"fail{device}", guard, {f"state{device}": lost}))
            if index + 1 < len(phases):
                rest = [self._among(now, device, resting) for device in range(self.size)]
                guard = all_of(now["phase"] == index, *rest)
                events.append(Event("next_phase", guard, {"phase": now["phase"] + 1}))
        return events

    def unsafe(self, _now: Situation, _event: Term, then: Situation) -> Formula:
        """A running device meets a stopped one."""
        return any_of(
            [
                meets(self.encoding, then[f"state{one}"], then[f"state{other}"])
                for one, other in itertools.permutations(range(self.size), 2)
            ]
        )

    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run as a trace of all devices."""
        encoding = self.encoding
        spec = encoding.spec

        def state(moment: int, device: int) -> str:
            return encoding.read_state(model, run[moment][f"state{device}"]) or "?"

        capabilities = tuple(
            spec.names(
                spec.capability_type(
                    model.eval(run[0][f"flags{device}"], model_completion=True).as_long()
                )
            )
            for device in range(self.size)
        )
        trace = Trace(
            spec=spec.name,
            capabilities=capabilities,
            start=tuple(state(0, device) for device in range(self.size)),
            steps=(),
            names=tuple(f"device {device}" for device in range(self.size)),
        )
        steps = []
        for moment, name in enumerate(events):
            phase = model.eval(run[moment + 1]["phase"], model_completion=True).as_long()
            if name == "next_phase":
                steps.append(begins(self.discipline, phase, state(moment + 1, 0)))
                continue
            device = int(name[4:])
            here, there = state(moment, device), state(moment + 1, device)
            machine = spec.machine(capabilities[device])
            step_of = failed if name.startswith("fail") else taken
            steps.append(step_of(self.discipline, phase, machine, device, here, there))
        meeting = next(self._meetings(model, run[-1]), None)
        text = f"plan {self.discipline.plan.name}, {self.size} devices: "
        text += "; ".join(map(trace.describe, steps))
        if meeting is not None:
            one, other = meeting
            note = (
                f"device {one} in {state(len(events), one)} may start DMA to device {other}, "
                f"stopped in {state(len(events), other)}"
            )
            text += f"; then {note}"
            steps.append(Step(kind="note", device=one, state=state(len(events), one), note=note))
        return Example(text, dataclasses.replace(trace, steps=tuple(steps), title=text))

    def _meetings(self, model: z3.ModelRef, now: Situation) -> Iterator[tuple[int, int]]:
        for one, other in itertools.permutations(range(self.size), 2):
            met = meets(self.encoding, now[f"state{one}"], now[f"state{other}"])
            if z3.is_true(model.eval(met, model_completion=True)):
                yield one, other
