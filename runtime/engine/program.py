"""What an engine looks up instead of deciding: the table, compiled for one capability set.

A `Program` holds, for each state and each request that is accepted there, the moves to make, and
what each event leads to. It is made once per machine, by asking `Machine.route` for every pair of
states, and shared by all engines that run that machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, get_args
from weakref import WeakKeyDictionary

from vfio_migration.model import Arc, Event, Machine, Mistake, SpecError
from vfio_migration.model.spec import Effect, EventName


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a device is: two situations that are equal cannot be distinguished by a client.

    Attributes:
        state: The name of its state.
        session: The number of its open data session, or None. Numbers count from 1 and no two
            sessions of one engine have the same.
    """

    state: str
    session: int | None = None


Move: TypeAlias = tuple[Arc, Effect, Situation | None]
"""An arc, what it does to the data session, and where it leads from a situation without a session.

The last is None if the arc opens a session: that situation has a number nobody knows beforehand.
A plain tuple, because Python unpacks those faster than named ones.
"""


class Program:
    """The table compiled for one machine. Get it with `Program.of`.

    Attributes:
        initial: The situation of a device that has just been made.
        moves: Per present state, per target (by name and by value on the wire), the moves to make.
            A request that is not here is refused, or names its target in a way that must be looked
            up first: ask `Machine.route`.
        events: What may move a device besides an arc.
    """

    __slots__ = ("events", "initial", "moves")

    def __init__(self, machine: Machine) -> None:
        spec = machine.spec
        mistakes: list[Mistake] = []
        # A loaded table has passed these checks; one made with `dataclasses.replace` need not have.
        if not machine.supports(spec.initial):
            mistakes.append(_unsupported("initial", spec.initial, machine))
        for index, row in enumerate(spec.events):
            if row.to is not None and not machine.supports(row.to):
                mistakes.append(_unsupported(f"events[{index}].to", row.to, machine))
        names = {row.name for row in spec.events}
        mistakes += [
            Mistake("events", None, f'has no row with name = "{name}"', None)
            for name in get_args(EventName)
            if name not in names
        ]
        if mistakes:
            raise SpecError(mistakes)
        self.initial = Situation(spec.initial)
        self.events: dict[EventName, Event] = {row.name: row for row in spec.events}
        self.moves: dict[str, dict[object, tuple[Move, ...]]] = {
            state.name: {} for state in machine.states
        }
        for state in machine.states:
            for target in machine.states:
                try:
                    route = machine.route(state.name, target.name)
                except SpecError:
                    # The table does not state what becomes of this request; asking again when it is
                    # made gives its caller that error.
                    continue
                if route.refused is None:
                    moves = tuple(_move(machine, arc) for arc in route.arcs)
                    self.moves[state.name][target.name] = moves
                    self.moves[state.name][target.value] = moves

    @classmethod
    def of(cls, machine: Machine) -> Program:
        """Return the program of `machine`, compiled at the first call.

        Raises:
            SpecError: If the initial state or the end of an event is a state this machine lacks.
        """
        program = _programs.get(machine)
        if program is None:
            program = _programs.setdefault(machine, cls(machine))
        return program


# Weak, and no program refers to its machine: a table that nobody uses any more is forgotten.
_programs: WeakKeyDictionary[Machine, Program] = WeakKeyDictionary()


def after(event: Event, now: Situation) -> Situation:
    """Return where `event` leads from `now`: its row in the table, read word by word."""
    return Situation(
        now.state if event.to is None else event.to,
        now.session if event.session == "kept" else None,
    )


def _move(machine: Machine, arc: Arc) -> Move:
    effect = machine.spec.effect(arc.from_, arc.to)
    return arc, effect, None if effect == "opens" else Situation(arc.to)


def _unsupported(place: str, state: str, machine: Machine) -> Mistake:
    return Mistake(
        place, state, f"is a state that a device with {','.join(machine.names)} lacks", None
    )
