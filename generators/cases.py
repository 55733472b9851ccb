"""Which requests are answered, by the engine of this package and by each generated one.

All of them: every capability set, every state in which a device of it can be found, every target,
every failing step and way of failing; targets that no state has, flags words that no device has;
every reset and disconnect; and a long walk, in which sessions are counted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from vfio_migration.generators.compiled import Compiled
from vfio_migration.model import Arc, Machine
from vfio_migration.model.spec import Effect
from vfio_migration.runtime.engine import (
    ArcError,
    Engine,
    EngineError,
    RequestFailedError,
    RequestRefusedError,
    Situation,
)

OWN_ERRNO: Final = "ENOSPC"
"""What a device that names an error of its own names."""

WAYS: Final = ("back", "for good", "back, own errno", "for good, own errno", "in another way")
"""How a callback fails, by number."""

WALK_STEPS: Final = 500
SEED: Final = 2026


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that a device is brought to a place by.

    Attributes:
        target: The value asked for; None for a reset.
        step: Which arc fails, counted from 1; 0: none.
        way: How it fails, of `WAYS`.
    """

    target: int | None
    step: int = 0
    way: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device can be found, and how it is brought there from the beginning."""

    flags: int
    moves: tuple[Move, ...]


@dataclass(frozen=True, slots=True)
class Cases:
    """What is asked.

    Attributes:
        flags: Flags words: those of the capability sets, and others.
        states: Present states that a single step is asked of, some that no state has among them.
        targets: Targets, some that no state has among them.
        places: Where devices can be found.
    """

    flags: tuple[int, ...]
    states: tuple[int, ...]
    targets: tuple[int, ...]
    places: tuple[Place, ...]


class ScriptedDevice:
    """A device that fails where the script has it, and states what it is asked."""

    def __init__(self) -> None:
        self.step = 0
        self.way = 0
        self.taken = 0
        self.notes = ""

    def fail_at(self, step: int, way: int) -> None:
        """Fail the arc of this number (0: none), and a reset or disconnect if it is not 0."""
        self.step, self.way, self.taken, self.notes = step, way, 0, ""

    def take(self, arc: Arc, session: int | None, effect: Effect) -> None:
        """Take an arc, or fail."""
        self.taken += 1
        self.notes += f" / take {arc} {effect} {session or 0}"
        if self.taken == self.step:
            self._fail()

    def reset(self, to: Situation) -> None:
        """Be reset, or fail."""
        self.notes += f" / reset {to.state}"
        if self.step:
            self._fail()

    def disconnect(self, to: Situation, drops: tuple[str, ...]) -> None:
        """Be notified, or fail."""
        bits = (1 << len(drops)) - 1
        self.notes += f" / disconnect {to.state} {bits}"
        if self.step:
            self._fail()

    def _fail(self) -> None:
        if self.way == 4:
            raise RuntimeError(WAYS[4])
        errno = OWN_ERRNO if self.way >= 2 else None
        raise ArcError("as asked", errno=errno, for_good=self.way % 2 == 1)


def make(compiled: Compiled, place: Place) -> tuple[Engine, ScriptedDevice]:
    """Return a device that is at a place."""
    device = ScriptedDevice()
    engine = Engine(compiled.spec, place.flags, device)
    for move in place.moves:
        do(engine, device, move)
    return engine, device


def do(engine: Engine, device: ScriptedDevice, move: Move) -> EngineError | None:
    """Make one move; return what the engine raised."""
    device.fail_at(move.step, move.way)
    try:
        if move.target is None:
            engine.reset()
        else:
            engine.set_state(move.target)
    except (RequestRefusedError, RequestFailedError) as error:
        return error
    return None


def find_cases(compiled: Compiled) -> Cases:
    """Return what is asked of the engines of a table."""
    values = [row.value for row in compiled.states]
    words = [int(machine.capabilities.value) for machine in compiled.machines]
    absent = absent_values(set(values))
    return Cases(
        flags=(*words, *other_words(compiled, set(words))),
        states=(*values, absent[0], absent[-1]),
        targets=(*values, *absent),
        places=tuple(
            place for machine in compiled.machines for place in _places(compiled, machine)
        ),
    )


def absent_values(values: set[int]) -> list[int]:
    """Return some values that no state has: the next ones, and where a narrower type would wrap."""
    around = {value + step for value in values for step in (-1, 1)}
    wrapped = {256 + min(values), 65536 + max(values), (1 << 31) - 1, 1 << 31, (1 << 32) - 1}
    return sorted(
        value for value in around | wrapped if 0 <= value < 1 << 32 and value not in values
    )


def other_words(compiled: Compiled, words: set[int]) -> list[int]:
    """Return flags words of no device: without what is mandatory, and with bits of nothing."""
    known = compiled.all_flags
    free = next(1 << bit for bit in range(64) if not known >> bit & 1)
    lacking = {word & ~row.value for row in compiled.capabilities for word in words}
    more = {word | bit for word in words for bit in (free, 1 << 63)}
    return sorted((lacking | more | {0}) - words)


def _places(compiled: Compiled, machine: Machine) -> list[Place]:
    """Return where devices of a capability set can be found, nearest first."""
    flags = int(machine.capabilities.value)
    targets = [row.value for row in machine.states if row.settable]
    moves = [Move(target) for target in targets]
    moves += [Move(target, 1, way) for target in targets for way in (0, 1)]
    moves.append(Move(None))
    first = Place(flags, ())
    seen: set[tuple[str, bool]] = set()
    found: list[Place] = []
    ahead = deque([first])
    while ahead:
        place = ahead.popleft()
        engine, _ = make(compiled, place)
        situation = (engine.state, engine.session is not None)
        if situation in seen:
            continue
        seen.add(situation)
        found.append(place)
        ahead += [Place(flags, (*place.moves, move)) for move in moves]
    return found
