"""A group of devices with peer-to-peer DMA between them, moved by a plan.

Two encodings of the same behaviour, both read from the table of plans:

- `QuantifiedGroup`: any number of devices. They are an uninterpreted sort; where each stands and
  what it is capable of are functions of it. A proof here is one for groups of every size.
- `FiniteGroup`: a small number of devices, for shortest runs that show a bad plan going wrong.

A running device may start peer-to-peer DMA to any other at any time, so a situation is unsafe as
soon as one may start it and another, standing stopped, may not accept it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import z3

from vfio_migration.model import Machine, Step, Trace
from vfio_migration.model.plan import Phase, Plan, Plans, applying, default_plans, standing
from vfio_migration.model.plan import step as step_of
from vfio_migration.model.trace import StepKind
from vfio_migration.verifier.encoding import Encoding, Formula, any_of
from vfio_migration.verifier.obligation import Example
from vfio_migration.verifier.system import Event, Situation, System, Term

STARTS, ACCEPTS = "start_p2p_dma", "accept_p2p_dma"
"""The two activities that meet, by their names in [[activities]]."""


class Discipline:
    """What a plan makes of each device, worked out for every capability set.

    Attributes:
        encoding: The table in z3.
        plan: The plan.
        failing: Arcs may fail for good at any time.
    """

    def __init__(self, encoding: Encoding, plan: Plan, *, failing: bool = False) -> None:
        self.encoding = encoding
        self.plan = plan
        self.failing = failing
        self.lost = encoding.spec.event("arc_failed_for_good").to

    @classmethod
    def plans(cls, encoding: Encoding) -> Plans:
        """The plans for this table."""
        return encoding.once("plans", lambda: default_plans(encoding.spec))

    def steps(self, phase: Phase, machine: Machine) -> dict[str, str]:
        """Per state of a device to which a move of the phase applies, where its next step leads."""
        found = {}
        for row in machine.states:
            move = applying(phase, machine, row.name)
            if move is not None:
                onward = step_of(move, machine, row.name)
                if onward is not None:
                    found[row.name] = onward
        return found

    def stuck(self, phase: Phase, machine: Machine) -> list[str]:
        """The states in which a move applies but has no next step."""
        return [
            row.name
            for row in machine.states
            if (move := applying(phase, machine, row.name)) is not None
            and step_of(move, machine, row.name) is None
        ]

    @functools.cached_property
    def stands(self) -> list[dict[int, frozenset[str]]]:
        """Per phase and capability set, the states a device may stand in while the phase lasts.

        The first phase begins where the plan begins; each later one with what no move of the phase
        before applied to any more.
        """
        result: list[dict[int, frozenset[str]]] = []
        entering = {word: self.begins(word) for word in self.encoding.machines}
        for phase in self.plan.phases:
            during = {
                word: self._closed(entering[word], self.steps(phase, machine))
                for word, machine in self._machines()
            }
            result.append(during)
            entering = {
                word: frozenset(
                    name for name in during[word] if applying(phase, machine, name) is None
                )
                for word, machine in self._machines()
            }
        self._left = entering
        return result

    @property
    def ends(self) -> dict[int, frozenset[str]]:
        """Per capability set, the states a device may stand in when the plan is over."""
        assert self.stands is not None
        return self._left

    def _machines(self) -> list[tuple[int, Machine]]:
        return list(self.encoding.machines.items())

    def begins(self, word: int) -> frozenset[str]:
        """Where a device with this capability set may stand when the plan begins."""
        machine = self.encoding.machines[word]
        begin = standing(self.plan, machine)
        if begin is not None:
            return frozenset([begin])
        before = [
            Discipline(self.encoding, self.plans(self.encoding).plan(name), failing=True)
            for name in self.plan.after
        ]
        return frozenset().union(*(phase[word] for plan in before for phase in plan.stands))

    def _closed(self, names: frozenset[str], steps: dict[str, str]) -> frozenset[str]:
        reached = set(names)
        while grown := {steps[name] for name in reached if name in steps} - reached:
            reached |= grown
        if self.failing and self.lost is not None:
            reached.add(self.lost)
        return frozenset(reached)


def shortest_meeting(discipline: Discipline, size: int) -> int | None:
    """Search breadth first: after how many events can a running device meet a stopped one?

    Every mixture of capability sets is tried. None if it never happens.
    """
    spec = discipline.encoding.spec
    starts = {row.name for row in spec.states if spec.permits(row.name, STARTS)}
    stopped = {row.name for row in spec.states if not spec.permits(row.name, ACCEPTS)}
    stopped.discard(discipline.lost or "")

    def unsafe(where: tuple[str, ...]) -> bool:
        return any(
            one in starts and other in stopped for one, other in itertools.permutations(where, 2)
        )

    best: int | None = None
    machines = discipline.encoding.machines.values()
    for group in itertools.combinations_with_replacement(machines, size):
        found = _search(discipline, group, unsafe)
        best = found if best is None else best if found is None else min(best, found)
    return best


def _search(
    discipline: Discipline,
    group: Sequence[Machine],
    unsafe: Callable[[tuple[str, ...]], bool],
) -> int | None:
    phases = discipline.plan.phases
    steps = [[discipline.steps(phase, machine) for machine in group] for phase in phases]
    words = [int(machine.capabilities.value) for machine in group]
    begins = itertools.product(*(sorted(discipline.begins(word)) for word in words))
    level = {(0, where) for where in begins if not unsafe(where)}
    seen = set(level)
    length = 0
    while level:
        length += 1
        grown: set[tuple[int, tuple[str, ...]]] = set()
        for phase, where in level:
            moving = False
            for device, name in enumerate(where):
                onward = steps[phase][device].get(name)
                if onward is None:
                    continue
                moving = True
                lost = [discipline.lost] if discipline.failing and discipline.lost else []
                for there in (onward, *lost):
                    grown.add((phase, (*where[:device], there, *where[device + 1 :])))
            if not moving and phase + 1 < len(phases):
                grown.add((phase + 1, where))
        if any(unsafe(where) for _, where in grown):
            return length
        level = grown - seen
        seen |= grown
    return None


def may(encoding: Encoding, state: Term, activity: str) -> Formula:
    """A device in this state may do this."""
    spec = encoding.spec
    names = [row.name for row in spec.states if spec.permits(row.name, activity)]
    return encoding.one_of(state, names)


def meets(encoding: Encoding, one: Term, other: Term) -> Formula:
    """The first device may start peer-to-peer DMA, and the second stands stopped: unsafe.

    A device that has failed is not a stopped one: nothing is promised of it, and nothing to it.
    """
    lost = encoding.spec.event("arc_failed_for_good").to
    failed = encoding.one_of(other, [lost] if lost is not None else [])
    refuses = z3.And(z3.Not(may(encoding, other, ACCEPTS)), z3.Not(failed))
    return z3.And(may(encoding, one, STARTS), refuses)


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

    def where(self, moment: str) -> z3.FuncDeclRef:
        """Where each device stands at a moment."""
        return z3.Function(f"state@{moment}", self.sort, self.encoding.state_sort)

    @functools.cached_property
    def facts(self) -> Formula:
        """Every device has a capability set of the profile; the group is one the plan is for."""
        one, other = self.one, self.other
        capable = z3.ForAll(
            [one], any_of([self.flags(one) == word for word in self.encoding.machines])
        )
        limits = []
        for limit in self.discipline.plan.limits:
            bit = self.encoding.spec.capability(limit.lacks).value
            assert limit.count == 1, "the quantified encoding of a limit is for one device"
            both = z3.And(self.flags(one) & bit == 0, self.flags(other) & bit == 0)
            limits.append(z3.ForAll([one, other], z3.Implies(both, one == other)))
        return z3.And(capable, *limits)

    def stands(
        self, where: z3.FuncDeclRef, device: Term, sets: dict[int, frozenset[str]]
    ) -> Formula:
        """A device stands in one of the states that its capability set has in `sets`."""
        return any_of(
            [
                z3.And(
                    self.flags(device) == word,
                    self.encoding.one_of(where(device), sorted(names)),
                )
                for word, names in sets.items()
            ]
        )

    def unsafe(self, where: z3.FuncDeclRef, one: Term, other: Term) -> Formula:
        """Of two devices the first may start DMA to the second, which stands stopped."""
        return z3.And(one != other, meets(self.encoding, where(one), where(other)))

    def holds(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """The invariant of a phase: where devices stand, and that none meets a stopped one."""
        one, other = self.one, self.other
        return z3.And(
            z3.ForAll([one], self.stands(where, one, self.discipline.stands[phase])),
            z3.ForAll([one, other], z3.Not(self.unsafe(where, one, other))),
        )

    def broken(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """The invariant of a phase fails, of devices the solver picks."""
        first, second = z3.Consts("first second", self.sort)
        return z3.Or(
            z3.Not(self.stands(where, first, self.discipline.stands[phase])),
            self.unsafe(where, first, second),
        )

    def over(self, where: z3.FuncDeclRef, phase: int) -> Formula:
        """No move of the phase applies to any device."""
        one = self.one
        row = self.discipline.plan.phases[phase]
        rest = {
            word: frozenset(
                state.name for state in machine.states if applying(row, machine, state.name) is None
            )
            for word, machine in self.encoding.machines.items()
        }
        return z3.ForAll([one], self.stands(where, one, rest))

    def moves(self, now: z3.FuncDeclRef, then: z3.FuncDeclRef, phase: int) -> Formula:
        """One device takes one step of its move, or fails; all others stay where they are."""
        mover, one = z3.Const("mover", self.sort), self.one
        row = self.discipline.plan.phases[phase]
        encoding = self.encoding
        cases = [
            z3.And(
                self.flags(mover) == word,
                now(mover) == encoding.state(here),
                then(mover) == encoding.state(there),
            )
            for word, machine in encoding.machines.items()
            for here, there in self.discipline.steps(row, machine).items()
        ]
        if self.discipline.failing and self.discipline.lost is not None:
            moving = any_of(
                [
                    z3.And(self.flags(mover) == word, now(mover) == encoding.state(here))
                    for word, machine in encoding.machines.items()
                    for here in self.discipline.steps(row, machine)
                ]
            )
            lost = encoding.state(self.discipline.lost)
            cases.append(z3.And(moving, then(mover) == lost))
        stay = z3.ForAll([one], z3.Or(one == mover, then(one) == now(one)))
        return z3.And(any_of(cases), stay)


class FiniteGroup(System):
    """A fixed number of devices that follow a plan; the variables are where each stands."""

    def __init__(self, encoding: Encoding, plan: Plan, size: int, *, failing: bool = False) -> None:
        super().__init__(encoding)
        self.discipline = Discipline(encoding, plan, failing=failing)
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
        """Every device stands where the plan begins, or where those before it may leave it."""
        conditions = [now["phase"] == 0]
        for device in range(self.size):
            choices = []
            for word in self.encoding.machines:
                names = sorted(self.discipline.begins(word))
                choices.append(
                    z3.And(
                        now[f"flags{device}"] == word,
                        self.encoding.one_of(now[f"state{device}"], names),
                    )
                )
            conditions.append(any_of(choices))
        pairs = itertools.permutations(range(self.size), 2)
        conditions += [
            z3.Not(meets(self.encoding, now[f"state{one}"], now[f"state{other}"]))
            for one, other in pairs
        ]
        return z3.And(conditions)

    def happenings(
        self,
        now: Situation,
        choose: Callable[[str, z3.SortRef], Term],  # noqa: ARG002 - nothing is chosen
    ) -> list[Event]:
        """A device takes a step of its move, or fails; or the phase is over and the next begins."""
        events = []
        encoding = self.encoding
        done = []
        for index, phase in enumerate(self.discipline.plan.phases):
            for device in range(self.size):
                state, flags = now[f"state{device}"], now[f"flags{device}"]
                rest = []
                for word, machine in encoding.machines.items():
                    steps = self.discipline.steps(phase, machine)
                    for here, there in steps.items():
                        guard = z3.And(
                            now["phase"] == index, flags == word, state == encoding.state(here)
                        )
                        events.append(
                            Event(f"move{device}", guard, {f"state{device}": encoding.state(there)})
                        )
                        if self.discipline.failing and self.discipline.lost is not None:
                            lost = encoding.state(self.discipline.lost)
                            events.append(Event(f"fail{device}", guard, {f"state{device}": lost}))
                    names = [
                        row.name
                        for row in machine.states
                        if applying(phase, machine, row.name) is None
                    ]
                    rest.append(z3.And(flags == word, encoding.one_of(state, names)))
                done.append((index, any_of(rest)))
        last = len(self.discipline.plan.phases) - 1
        for index in range(last):
            rests = [formula for phase, formula in done if phase == index]
            guard = z3.And(now["phase"] == index, *rests)
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

    def tell(self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]) -> Example:
        """Tell a run as a trace of all devices."""
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
        steps = []
        for moment, name in enumerate(events):
            if name == "next_phase":
                phase = model.eval(run[moment + 1]["phase"], model_completion=True).as_long()
                begun = self.discipline.plan.phases[phase].name
                steps.append(
                    Step(kind="note", state=state(moment + 1, 0), note=f'phase "{begun}" begins')
                )
                continue
            device = int(name[4:])
            here, there = state(moment, device), state(moment + 1, device)
            kind = self._kind(name, here, there)
            steps.append(Step(kind=kind, device=device, from_=here, to=there, state=there))
        meeting = next(self._meetings(model, run[-1]), None)
        text = f"plan {self.discipline.plan.name}, {self.size} devices: " + "; ".join(
            f"device {step.device}: {step}" if step.kind != "note" else str(step) for step in steps
        )
        if meeting is not None:
            one, other = meeting
            note = (
                f"device {one} in {state(len(events), one)} may start DMA to device {other}, "
                f"stopped in {state(len(events), other)}"
            )
            text += f"; then {note}"
            steps.append(Step(kind="note", device=one, state=state(len(events), one), note=note))
        trace = Trace(
            spec=spec.name,
            capabilities=capabilities,
            start=tuple(state(0, device) for device in range(self.size)),
            steps=tuple(steps),
            title=text,
        )
        return Example(text, trace)

    def _kind(self, name: str, here: str, there: str) -> StepKind:
        if name.startswith("fail"):
            return "arc_failed_for_good"
        return "reset" if here == self.discipline.lost and there != here else "arc"

    def _meetings(self, model: z3.ModelRef, now: Situation) -> Iterator[tuple[int, int]]:
        for one, other in itertools.permutations(range(self.size), 2):
            met = meets(self.encoding, now[f"state{one}"], now[f"state{other}"])
            if z3.is_true(model.eval(met, model_completion=True)):
                yield one, other
