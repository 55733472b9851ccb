"""What a plan makes of each device, and an explicit search of small groups that follow it.

Within a phase each device moves by itself, whatever the others do, and a phase ends when all of
them rest. So the situations that a group can be in while a phase of a plan with `before` lasts are
exactly those in which each device is in one of the states `Discipline.reachable` has for it;
for a plan that comes after others they are among those.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from vfio_migration.model import Machine, Mistake, SpecError
from vfio_migration.model.plan import Phase, Plan, Plans, applying, exceeds, state_before
from vfio_migration.model.plan import step as step_of
from vfio_migration.model.spec import Role
from vfio_migration.verifier.solver.encoding import Encoding

STARTS: Final[Role] = "peer_dma"
ACCEPTS: Final[Role] = "accept_peer_dma"
"""The roles of the two activities that meet."""

Sets = dict[int, frozenset[str]]
"""Per capability set, states a device may be in."""


class Discipline:
    """What a plan makes of each device, worked out for every capability set.

    Attributes:
        encoding: The table in z3.
        plan: The plan.
        failing: Arcs may fail for good at any time.
        words: The capability sets a device may have, by flags word; by default all.
        found: Where devices are found when the plan begins, if the plan itself does not state.
        lost: Where a device lands whose arc failed for good.
    """

    def __init__(
        self,
        encoding: Encoding,
        plan: Plan,
        *,
        failing: bool = False,
        words: Collection[int] | None = None,
        found: Sets | None = None,
    ) -> None:
        self.encoding = encoding
        self.plan = plan
        self.failing = failing
        self.words = encoding.machines.keys() if words is None else words
        self.found = found
        self.lost = encoding.spec.event("arc_failed_for_good").to

    @classmethod
    def plans(cls, encoding: Encoding) -> Plans:
        """The plans for this table.

        Raises:
            SpecError: If the table lacks names that the plans use, or the activities that meet:
                without these it would seem that no device ever accepts what another starts.
        """
        plans = encoding.plans
        unknown = [role for role in (STARTS, ACCEPTS) if encoding.spec.activity(role) is None]
        if unknown:
            problem = "there is no such role in this table"
            raise SpecError([Mistake("family G", role, problem, None) for role in unknown])
        return plans

    @classmethod
    def marked(cls, encoding: Encoding, *, sound: bool, after: bool) -> list[Plan]:
        """The plans marked sound or not, that come after others or not."""
        rows = cls.plans(encoding).plans
        return [plan for plan in rows if plan.sound == sound and bool(plan.after) == after]

    # --- one device ---

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

    def rests(self, phase: Phase, machine: Machine) -> frozenset[str]:
        """The states in which no move of the phase applies."""
        names = [row.name for row in machine.states]
        return frozenset(name for name in names if applying(phase, machine, name) is None)

    def strays(self, phase: Phase, machine: Machine) -> list[str]:
        """The states from which a move, once begun, does not go on to where it leads.

        A manager that asked for the state gets there all the same, or is refused half-way: what is
        proved of the plan would not be what the manager does.
        """
        return [
            row.name
            for row in machine.states
            if (move := applying(phase, machine, row.name)) is not None
            and move.to is not None
            and not self._arrives(phase, machine, row.name, move.to)
        ]

    def _arrives(self, phase: Phase, machine: Machine, here: str, to: str) -> bool:
        for _ in machine.states:
            move = applying(phase, machine, here)
            if here == to or move is None or move.to != to:
                return here == to
            onward = step_of(move, machine, here)
            if onward is None:
                return False
            here = onward
        return here == to

    def stuck(self, phase: Phase, machine: Machine) -> list[str]:
        """The states in which a move applies but has no next step."""
        resting = self.rests(phase, machine)
        moving = self.steps(phase, machine)
        names = [row.name for row in machine.states]
        return [name for name in names if name not in resting and name not in moving]

    # --- where devices are ---

    @functools.cached_property
    def begins(self) -> list[Sets]:
        """Where devices are when the plan begins: the group is in one of these situations.

        For a plan that comes after others there is one for each of their phases.
        """
        if self.found is not None:
            return [self.found]
        if self.plan.before:
            begin = {
                word: frozenset(
                    filter(machine.supports, filter(None, [state_before(self.plan, machine)]))
                )
                for word, machine in self.machines()
            }
            return [begin]
        plans = self.plans(self.encoding)
        left = [
            Discipline(self.encoding, plans.plan(name), failing=True, words=self.words)
            for name in self.plan.after
        ]
        return [phase for plan in left for phase in plan.reachable]

    @functools.cached_property
    def begins_anywhere(self) -> Sets:
        """Per capability set, where a device may be when the plan begins."""
        return {
            word: frozenset().union(*(begin[word] for begin in self.begins))
            for word, _ in self.machines()
        }

    @functools.cached_property
    def reachable(self) -> list[Sets]:
        """Where devices may be while each phase lasts.

        The first phase begins where the plan begins; each later one with what no move of the phase
        before applied to any more.
        """
        result: list[Sets] = []
        entering = self.begins_anywhere
        for phase in self.plan.phases:
            during = {
                word: self._closed(entering[word], self.steps(phase, machine))
                for word, machine in self.machines()
            }
            result.append(during)
            entering = self._resting(phase, during)
        return result

    @functools.cached_property
    def ends(self) -> Sets:
        """Where devices may be when the plan is over."""
        return self._resting(self.plan.phases[-1], self.reachable[-1])

    def machines(self) -> list[tuple[int, Machine]]:
        """The capability sets a device may have."""
        return [item for item in self.encoding.machines.items() if item[0] in self.words]

    def _resting(self, phase: Phase, during: Sets) -> Sets:
        return {
            word: during[word] & self.rests(phase, machine) for word, machine in self.machines()
        }

    def _closed(self, names: frozenset[str], steps: dict[str, str]) -> frozenset[str]:
        reached = set(names)
        while True:
            moving = {name for name in reached if name in steps}
            grown = {steps[name] for name in moving}
            if self.failing and self.lost is not None and moving:
                grown.add(self.lost)
            if grown <= reached:
                return frozenset(reached)
            reached |= grown


# --- explicit search ---

Where = tuple[str, ...]
"""Where each device of a group is."""


def shortest_meeting(discipline: Discipline, size: int) -> int | None:
    """Search breadth first: after how many events can a running device meet a stopped one?

    Every group the plan is for is tried. None if it never happens.
    """
    spec = discipline.encoding.spec
    starts = {row.name for row in spec.states if spec.permits_role(row.name, STARTS)}
    stopped = {row.name for row in spec.states if not spec.permits_role(row.name, ACCEPTS)}
    stopped.discard(discipline.lost or "")

    def unsafe(where: Where) -> bool:
        return any(
            one in starts and other in stopped for one, other in itertools.permutations(where, 2)
        )

    lengths = (_search(discipline, group, unsafe) for group in groups(discipline, size))
    return min((length for length in lengths if length is not None), default=None)


def groups(discipline: Discipline, size: int) -> Iterable[tuple[Machine, ...]]:
    """Yield every group of so many devices that the plan is for, whatever their order."""
    machines = [machine for _, machine in discipline.machines()]
    for group in itertools.combinations_with_replacement(machines, size):
        if exceeds(discipline.plan, [frozenset(machine.names) for machine in group]) is None:
            yield group


def _search(
    discipline: Discipline, group: Sequence[Machine], unsafe: Callable[[Where], bool]
) -> int | None:
    phases = discipline.plan.phases
    steps = [[discipline.steps(phase, machine) for machine in group] for phase in phases]
    rests = [[discipline.rests(phase, machine) for machine in group] for phase in phases]
    words = [int(machine.capabilities.value) for machine in group]
    begins = {
        where
        for begin in discipline.begins
        for where in itertools.product(*(begin[word] for word in words))
    }
    level = {(0, where) for where in begins if not unsafe(where)}
    seen = set(level)
    length = 0
    lost = [discipline.lost] if discipline.failing and discipline.lost is not None else []
    while level:
        length += 1
        grown: set[tuple[int, Where]] = set()
        for phase, where in level:
            for device, name in enumerate(where):
                onward = steps[phase][device].get(name)
                for there in () if onward is None else (onward, *lost):
                    grown.add((phase, (*where[:device], there, *where[device + 1 :])))
            at_rest = all(name in rests[phase][device] for device, name in enumerate(where))
            if at_rest and phase + 1 < len(phases):
                grown.add((phase + 1, where))
        if any(unsafe(where) for _, where in grown):
            return length
        level = grown - seen
        seen |= grown
    return None
