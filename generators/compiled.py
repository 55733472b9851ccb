"""A table, compiled: what every request leads to, as one number a cell.

A *cell* answers one question: a device with a capability set is in one state and is asked for
another; what is the next step? It is

- accepted: the index of the state to step to, and above it what that does to the data session. If
  that is the state the device is in, there is nothing to do;
- refused: `Compiled.refused` and the number of a `Refusal` row.

States are numbered by their values on the wire. Where those are 0, 1, 2, ... the number of a state
is its value, and nothing needs to be looked up.

A device asks for the next step again in each state on its way. That it so follows the route which
`Machine.route` gives for the whole holds for any table: a row of `[[requests]]` refuses by the
target alone, or by arcs and refusals that a way which is open does not meet. The answers that are
made with each engine show it for the table at hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from vfio_migration.generators.refusing import PRESENT_STATE_REASON
from vfio_migration.model import (
    Capability,
    Event,
    Machine,
    Mistake,
    Refused,
    Spec,
    SpecError,
    State,
)
from vfio_migration.model.spec import Effect, EventName
from vfio_migration.runtime.engine.errors import default_errno

MAX_CELLS: Final = 1 << 20
"""How many cells are written out; the table of the package has 256."""

EFFECTS: Final[tuple[Effect, ...]] = ("none", "opens", "keeps", "closes")
"""What an arc does to the data session, by its number in a cell."""

PRESENT_STATE: Final = "present_state"
"""Of a state in which no device with these capabilities is; not a request of anybody, but a mistake
of the program that asks."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a cell refuses.

    Attributes:
        name: What it is called: the condition of the row of `[[requests]]`, numbered if several
            refusals have the same.
        when: That condition, or `PRESENT_STATE`.
        errno: The name of the error the client is answered.
        reason: Why, in words.
    """

    name: str
    when: str
    errno: str
    reason: str


@dataclass(frozen=True)
class Compiled:
    """A table, compiled for the subsets of some of its capabilities.

    Attributes:
        spec: The table.
        capabilities: The capabilities a device may have, in the order of their bits.
        machines: One a capability set, in the order of their flags words.
        states: All states, in the order of their values.
        refusals: Why cells refuse; the number of one is its index.
        cells: Per capability set, present state and target.
        unknown: Per capability set and present state, the cell of a target that no state has.
        index_bits: How many bits of an accepted cell are the state.
        refused: What is added to the number of a refusal to make a cell.
        digest: The SHA-256 of the rows of the table. Comments and the layout of the file do not
            count.
    """

    spec: Spec
    capabilities: tuple[Capability, ...]
    machines: tuple[Machine, ...]
    states: tuple[State, ...]
    refusals: tuple[Refusal, ...]
    cells: tuple[tuple[tuple[int, ...], ...], ...]
    unknown: tuple[tuple[int, ...], ...]
    index_bits: int
    refused: int
    digest: str

    @property
    def bits(self) -> int:
        """How many bits a cell has: 8 or 16."""
        return 8 if self.refused == 0x80 else 16

    @property
    def contiguous(self) -> bool:
        """Whether the number of a state is its value."""
        return [row.value for row in self.states] == list(range(len(self.states)))

    @property
    def mandatory(self) -> int:
        """The bits that every flags word has."""
        return sum(row.value for row in self.capabilities if row.mandatory)

    @property
    def all_flags(self) -> int:
        """The bits that a flags word may have."""
        return sum(row.value for row in self.capabilities)

    @property
    def one_unknown(self) -> int | None:
        """The cell of an unknown target, if it is the same wherever a device can be."""
        present = self.refused + len(self.refusals) - 1
        found = {cell for row in self.unknown for cell in row if cell != present}
        return found.pop() if len(found) == 1 else None

    def index(self, state: str) -> int:
        """Return the number of a state."""
        return [row.name for row in self.states].index(state)

    def event(self, name: EventName) -> Event:
        """Return the row of an event."""
        return self.spec.event(name)

    def errno_of(self, name: EventName) -> str:
        """Return the error that is answered after an event, where no callback names another."""
        return self.event(name).errno or default_errno()

    def arcs(self) -> tuple[tuple[str, str], ...]:
        """Return the two ends of each arc that some capability set has."""
        found: dict[tuple[str, str], None] = {}
        for machine in reversed(self.machines):
            for arc in machine.arcs:
                found.setdefault((arc.from_, arc.to))
        return tuple(found)

    def drops(self) -> tuple[str, ...]:
        """Return what a disconnect makes forget."""
        return self.event("disconnect").drops

    def disconnect_moves(self) -> bool:
        """Return whether a device must be notified of a disconnect, for it moves."""
        row = self.event("disconnect")
        return row.to is not None or row.session == "ended"

    def shifts(self) -> tuple[tuple[int, int, int], ...]:
        """Return how the number of a capability set is made of a flags word.

        It is the sum of `(flags >> shift & mask) << place` for each (shift, mask, place).
        """
        optional = [row.value.bit_length() - 1 for row in self.capabilities if not row.mandatory]
        runs: list[list[int]] = []
        for bit in optional:
            if runs and runs[-1][-1] == bit - 1:
                runs[-1].append(bit)
            else:
                runs.append([bit])
        place, found = 0, []
        for run in runs:
            found.append((run[0], (1 << len(run)) - 1, place))
            place += len(run)
        return tuple(found)


def compile_table(spec: Spec, capabilities: str | int | None = None) -> Compiled:
    """Compile a table.

    Args:
        spec: The table.
        capabilities: What a device may have, as `Spec.capability_set` takes it; None for all that
            the table has. Sets are the subsets of it that have what is mandatory.

    Raises:
        SpecError: The capabilities are wrong, or the cells would be too many.
    """
    word = sum(row.value for row in spec.capabilities)
    if capabilities is not None:
        word = int(spec.capability_set(capabilities).value)
    rows = sorted((row for row in spec.capabilities if row.value & word), key=lambda row: row.value)
    states = tuple(sorted(spec.states, key=lambda row: row.value))
    optional = sum(not row.mandatory for row in rows)
    size = (1 << optional) * len(states) * len(states)
    if size > MAX_CELLS:
        problem = f"make {size} cells: {1 << optional} capability sets of {len(states)} states"
        hint = f"there may be {MAX_CELLS}; leave out what the device never has"
        raise SpecError([Mistake("--capabilities", _names(rows), problem, hint)])
    machines = tuple(spec.machine(flags) for flags in _words(rows))
    _check_events(spec, machines)
    return _compile(spec, tuple(rows), machines, states)


def _names(rows: Iterable[Capability]) -> str:
    return ",".join(row.name for row in rows)


def _words(rows: Sequence[Capability]) -> list[int]:
    words = [sum(row.value for row in rows if row.mandatory)]
    for row in rows:
        if not row.mandatory:
            words += [word | row.value for word in words]
    return sorted(words)


def _check_events(spec: Spec, machines: Iterable[Machine]) -> None:
    """Refuse a table in which an event leads where a device cannot be, as the engine does."""
    for machine in machines:
        places = [("initial", spec.initial)]
        places += [(f"events[{at}].to", row.to) for at, row in enumerate(spec.events) if row.to]
        for place, state in places:
            if not machine.supports(state):
                problem = f"is a state that a device with {','.join(machine.names)} lacks"
                raise SpecError([Mistake(place, state, problem, None)])


def _compile(
    spec: Spec,
    capabilities: tuple[Capability, ...],
    machines: tuple[Machine, ...],
    states: tuple[State, ...],
) -> Compiled:
    unknown_value = next(n for n in range(len(states) + 1) if n not in {s.value for s in states})
    found = {key: at for at, key in enumerate(_refusal_keys(spec, machines, unknown_value))}

    def number(refused: Refused) -> int:
        return found[refused.when, refused.errno, refused.reason]

    order = {row.name: index for index, row in enumerate(states)}
    answers: list[list[list[tuple[str, int, int]]]] = []
    for machine in machines:
        matrix = []
        for here in states:
            line = []
            for target in [*(row.value for row in states), unknown_value]:
                if not machine.supports(here.name):
                    line.append(("present", 0, 0))
                    continue
                route = machine.route(here.name, target)
                if route.refused is not None:
                    line.append(("refused", number(route.refused), 0))
                elif not route.arcs:
                    line.append(("step", order[here.name], 0))
                else:
                    arc = route.arcs[0]
                    effect = EFFECTS.index(spec.effect(arc.from_, arc.to))
                    line.append(("step", order[arc.to], effect))
            matrix.append(line)
        answers.append(matrix)
    refusals = tuple(_named(found))
    index_bits = max((len(states) - 1).bit_length(), 1)
    small = index_bits + 2 <= 7 and len(refusals) <= 0x80
    refused = 0x80 if small else 0x8000

    def cell(answer: tuple[str, int, int]) -> int:
        kind, value, effect = answer
        if kind == "present":
            return refused + len(refusals) - 1
        return refused + value if kind == "refused" else effect << index_bits | value

    cells = tuple(
        tuple(tuple(cell(answer) for answer in line[:-1]) for line in matrix) for matrix in answers
    )
    unknown = tuple(tuple(cell(line[-1]) for line in matrix) for matrix in answers)
    return Compiled(
        spec,
        capabilities,
        machines,
        states,
        refusals,
        cells,
        unknown,
        index_bits,
        refused,
        table_digest(spec),
    )


def _refusal_keys(
    spec: Spec, machines: Iterable[Machine], unknown_value: int
) -> list[tuple[str, str, str]]:
    """Return condition, errno and reason of every refusal, in the order of `[[requests]]`."""
    order: list[str] = [row.when for row in spec.requests]
    routes = (
        machine.route(here.name, target)
        for machine in machines
        for here in machine.states
        for target in (*(row.value for row in spec.states), unknown_value)
    )
    keys = {
        (route.refused.when, route.refused.errno, route.refused.reason): None
        for route in routes
        if route.refused is not None
    }
    return sorted(keys, key=lambda key: order.index(key[0]))


def _named(found: Iterable[tuple[str, str, str]]) -> Iterator[Refusal]:
    seen: dict[str, int] = {}
    for when, errno, reason in found:
        seen[when] = seen.get(when, 0) + 1
        name = when if seen[when] == 1 else f"{when}_{seen[when]}"
        yield Refusal(name, when, errno, reason)
    yield Refusal(
        PRESENT_STATE,
        PRESENT_STATE,
        "EINVAL",
        PRESENT_STATE_REASON,
    )


def table_digest(spec: Spec) -> str:
    """Return the SHA-256 of the rows of a table, in hexadecimal."""
    text = json.dumps(asdict(spec), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
