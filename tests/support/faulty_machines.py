"""Machines that deviate from a behaviour: the families that a complete suite has to find.

Each is driven as a device is: `make` an input, read what a client sees. None knows the suite.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vfio_migration.model.suite import Behaviour, Input, Output

Place = tuple[str, int]
"""A state, and which of several hidden states behind its name it is."""


@dataclass
class Faulty:
    """A device: what it does, by place and input. `lives` counts resets, or reconnections.

    Attributes:
        about: What is wrong with it, for messages.
        moves: Where an input leads, and what a client sees.
        later: What holds instead once it was reset, or reconnected, so often; None for no change.
        changes_at: The kind of input that is counted, and how often.
        lies: In which state GET answers another one, at the how many-th time; None for never.
    """

    about: str
    moves: dict[tuple[Place, Input], tuple[Place, Output]]
    initial: Place
    later: dict[tuple[Place, Input], tuple[Place, Output]] | None = None
    changes_at: tuple[str, int] = ("reset", 1)
    lies: tuple[str, int, str] | None = None
    asked: dict[str, int] = field(default_factory=dict)
    here: Place = ("", 0)
    lives: int = 0

    def start(self) -> None:
        self.here, self.lives, self.asked = self.initial, 0, {}

    def make(self, given: Input) -> Output:
        moves = self.moves
        if self.later is not None and self.lives >= self.changes_at[1]:
            moves = self.later
        self.here, seen = moves[self.here, given]
        if given.kind == self.changes_at[0]:
            self.lives += 1
        if self.lies is not None:
            state, time, other = self.lies
            self.asked[seen.state] = self.asked.get(seen.state, 0) + 1
            if seen.state == state and self.asked[state] == time:
                return replace_state(seen, other)
        return seen


def replace_state(seen: Output, state: str) -> Output:
    return seen._replace(state=state)


def right(tested: Behaviour) -> dict[tuple[Place, Input], tuple[Place, Output]]:
    return {
        ((state, 0), one): ((seen.state, 0), seen)
        for (state, one), seen in tested.moves.items()
        if state in tested.states
    }


def good(tested: Behaviour) -> Faulty:
    return Faulty("nothing", right(tested), (tested.initial, 0))


def single_faults(tested: Behaviour) -> Iterator[Faulty]:
    """One input of one state leads elsewhere, or is answered otherwise."""
    for (state, one), seen in tested.moves.items():
        if state not in tested.states:
            continue
        wrong = [replace_state(seen, other) for other in tested.states if other != seen.state]
        wrong.append(seen._replace(errno=None if seen.errno else "EIO"))
        if one.kind == "set":
            flipped = () if seen.session else ("opens",)
            wrong.append(seen._replace(session=flipped))
        if seen.end:
            wrong.append(seen._replace(end="final" if seen.end == "temporary" else "temporary"))
        for other in wrong:
            moves = right(tested)
            moves[(state, 0), one] = ((other.state, 0), other)
            yield Faulty(f"{state}, {one}: {other}", moves, (tested.initial, 0))


def lies_once(tested: Behaviour) -> Iterator[Faulty]:
    """The state is moved rightly; GET answers wrongly, once."""
    for state, other in itertools.permutations(tested.states, 2):
        for time in (1, 2, 7):
            yield replace(good(tested), about=f"{state} as {other}", lies=(state, time, other))


def clones(tested: Behaviour, chance: random.Random, number: int) -> Iterator[Faulty]:
    """A state has a hidden twin, which one way leads to, and which does one thing otherwise."""
    ways = [(key, seen) for key, seen in tested.moves.items() if key[0] in tested.states]
    for _ in range(number):
        (before, leads), seen = chance.choice(ways)
        wrong_input = chance.choice(tested.inputs)
        wrong_state = chance.choice(tested.states)
        true = tested.moves[seen.state, wrong_input]
        if wrong_state == true.state:
            continue
        moves = right(tested)
        for one in tested.inputs:
            there = tested.moves[seen.state, one]
            moves[(seen.state, 1), one] = ((there.state, 0), there)
        wrong = replace_state(true, wrong_state)
        moves[(seen.state, 1), wrong_input] = ((wrong_state, 0), wrong)
        moves[(before, 0), leads] = ((seen.state, 1), seen)
        about = (
            f"{seen.state} as {before}, {leads} reaches it: {wrong_input} leads to {wrong_state}"
        )
        yield Faulty(about, moves, (tested.initial, 0))


def second_lives(tested: Behaviour, chance: random.Random, number: int) -> Iterator[Faulty]:
    """A machine with a single fault, which it has only after a reset or a reconnection."""
    every = list(single_faults(tested))
    for _ in range(number):
        fault = chance.choice(every)
        at = (chance.choice(["reset", "reconnect"]), chance.choice([1, 2]))
        yield Faulty(f"after {at}: {fault.about}", right(tested), fault.initial, fault.moves, at)


def random_machines(tested: Behaviour, chance: random.Random, number: int) -> Iterator[Faulty]:
    """A machine with one more state, all of whose moves are random; the rest is right."""
    for _ in range(number):
        moves = right(tested)
        name = chance.choice(tested.states)
        for one in tested.inputs:
            there = chance.choice(tested.states)
            moves[(name, 1), one] = ((there, 0), replace_state(tested.moves[name, one], there))
        ways = [key for key, (place, _) in moves.items() if place == (name, 0) and key[0][1] == 0]
        if not ways:
            continue
        key = chance.choice(ways)
        moves[key] = ((name, 1), moves[key][1])
        if all(moves[(name, 1), one][1] == tested.moves[name, one] for one in tested.inputs):
            continue  # by chance it is the same machine
        yield Faulty(f"{name} is another after {key}", moves, (tested.initial, 0))
