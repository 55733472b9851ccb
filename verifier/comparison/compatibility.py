"""Deciding a definition of compatibility by explicit-state search over both tables.

A pair is a position of a device that follows OLD and one of a device that follows NEW. A pair is
good if for every outcome that NEW may show there OLD has an answer, and the pair that follows is
good again: the greatest such set is computed, as for a simulation. Where failures are tolerated
there may be several pairs that can follow (the known states that an unknown one may stand for); one
good one is enough.

A pair that is not good has a rank: how many actions it takes to show it, however the devices are
taken for each other. So the distinguishing sequence that is made of the ranks is a shortest one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from vfio_migration.model import Arc, CapabilitySet, Mistake, Spec, SpecError
from vfio_migration.model.spec import Effect
from vfio_migration.verifier.comparison.behaviour import (
    Action,
    Behaviour,
    Outcome,
    Position,
    actions,
)
from vfio_migration.verifier.comparison.definitions import Definition


@dataclass(frozen=True)
class Pairing:
    """A device that follows NEW, and what somebody who knows only OLD takes it for.

    Attributes:
        old: OLD with the capabilities that OLD knows.
        new: NEW with the capabilities that the device offers.
        common: OLD knows all of them.
    """

    old: Behaviour
    new: Behaviour
    common: bool

    def __str__(self) -> str:
        """Name the capabilities."""
        names = ",".join(self.new.machine.names)
        return names if self.common else f"{names} ({','.join(self.old.machine.names)} to OLD)"


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a distinguishing sequence.

    Attributes:
        before: Where both devices are: OLD, NEW.
        action: What the client does.
        old: Every outcome OLD may show, those with failures only if they are compared.
        new: The outcome that NEW shows.
        matched: The outcome of OLD that a client cannot distinguish from it; None in the last step,
            and where the client takes the device for one in another state than it is in.
    """

    before: tuple[Position, Position]
    action: Action
    old: tuple[Outcome, ...]
    new: Outcome
    matched: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Distinguishing:
    """A shortest sequence of actions that shows a difference; without steps both start apart."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a definition holds of one pairing, with a sequence that shows it if not."""

    definition: Definition
    pairing: Pairing
    distinguishing: Distinguishing | None

    @property
    def holds(self) -> bool:
        """The definition holds."""
        return self.distinguishing is None


def pairings(old: Spec, new: Spec) -> tuple[Pairing, ...]:
    """Pair each capability set of NEW with what OLD knows of it, smallest flags word first.

    Raises:
        SpecError: OLD demands capabilities that no device of NEW has.
    """
    known = sum(row.value for row in old.capabilities)
    sets: dict[int, CapabilitySet] = {
        int(flags.value): flags
        for profile in new.profiles
        for flags in new.capability_sets(profile.name)
    }
    both = frozenset(row.name for row in old.activities) & {row.name for row in new.activities}
    found = []
    for word in sorted(sets):
        try:
            of_old: enum.Flag = old.capability_set(word & known)
        except SpecError:
            continue  # a client of OLD takes this device for one that cannot migrate
        sides = Behaviour(old, of_old, both), Behaviour(new, sets[word], both)
        found.append(Pairing(*sides, common=word & known == word))
    if not found:
        names = ", ".join(row.name for row in old.capabilities if row.mandatory)
        problem = f"has no capability set that a client of OLD can use: it demands {names}"
        raise SpecError([Mistake("NEW", new.name, problem, None)])
    return tuple(found)


def decide(definition: Definition, pairing: Pairing) -> Decision | None:
    """Decide a definition for one pairing; None if it does not speak of that pairing.

    Raises:
        SpecError: A table does not hold together for a capability set.
    """
    if definition.client is None:
        if not pairing.common:
            return None  # no driver written for OLD offers such a set
        return Decision(definition, pairing, _new_arc(pairing))
    return Decision(definition, pairing, _Search(definition, pairing).run())


# --- clients --------------------------------------------------------------------------------------

_Pair = tuple[Position, Position]


@dataclass(frozen=True, slots=True)
class _Move:
    """An outcome of NEW, and the pairs of which one must be good for it to pass."""

    action: Action
    outcome: Outcome
    candidates: tuple[_Pair, ...]


class _Search:
    def __init__(self, definition: Definition, pairing: Pairing) -> None:
        self.definition = definition
        self.old = pairing.old
        self.new = pairing.new
        values = pairing.old.values
        if definition.client == "every":
            rows = (*pairing.old.spec.states, *pairing.new.spec.states)
            used = frozenset(row.value for row in rows)
            values = used | {max(used) + 1}  # and one that stands for no state
        self.actions = actions(values)

    def run(self) -> Distinguishing | None:
        start = (self.old.start, self.new.start)
        if self.old.seen(start[0]) != self.new.seen(start[1]):
            return Distinguishing(())
        moves = self._reachable(start)
        ranks: dict[_Pair, int] = {}
        chosen: dict[_Pair, _Move] = {}
        rank = 1
        while found := dict(self._refuted(moves, ranks)):
            for pair, move in found.items():
                ranks[pair], chosen[pair] = rank, move
            rank += 1
        if start not in ranks:
            return None
        return Distinguishing(tuple(self._steps(start, ranks, chosen)))

    def _reachable(self, start: _Pair) -> dict[_Pair, tuple[_Move, ...]]:
        found: dict[_Pair, tuple[_Move, ...]] = {}
        queue = [start]
        for pair in queue:  # grows while it is read
            if pair not in found:
                found[pair] = tuple(self._moves(pair))
                queue += [pair for move in found[pair] for pair in move.candidates]
        return found

    @staticmethod
    def _refuted(
        moves: dict[_Pair, tuple[_Move, ...]], ranks: dict[_Pair, int]
    ) -> Iterator[tuple[_Pair, _Move]]:
        for pair, of_pair in moves.items():
            if pair not in ranks:
                for move in of_pair:
                    if all(candidate in ranks for candidate in move.candidates):
                        yield pair, move
                        break

    def _moves(self, pair: _Pair) -> Iterator[_Move]:
        for action in self.actions:
            of_old = self._outcomes(self.old, pair[0], action)
            asks = self.definition.client != "polite" or action.event is not None
            if asks or of_old[0].kind == "done":
                for outcome in self._outcomes(self.new, pair[1], action):
                    yield _Move(action, outcome, tuple(self._candidates(pair, of_old, outcome)))

    def _outcomes(
        self, behaviour: Behaviour, position: Position, action: Action
    ) -> tuple[Outcome, ...]:
        outcomes = behaviour.outcomes(position, action)
        return outcomes[:1] if self.definition.failures == "none" else outcomes

    def _candidates(
        self, pair: _Pair, of_old: Iterable[Outcome], outcome: Outcome
    ) -> Iterator[_Pair]:
        for other in of_old:
            if self._alike(pair, other, outcome):
                yield other.position, outcome.position
        if outcome.kind == "failed" and self.definition.failures == "tolerated":
            yield from self._tolerated(pair, outcome)

    def _alike(self, pair: _Pair, other: Outcome, outcome: Outcome) -> bool:
        """Return whether a client cannot distinguish these outcomes."""
        if self._unknown(pair[1]) and (other.position, outcome.position) == pair:
            # Both stay where they are, which the client has taken for the same place before.
            return (other.kind, other.errno, other.session) == (
                outcome.kind,
                outcome.errno,
                outcome.session,
            )
        return self.old.answer(other) == self.new.answer(outcome)

    def _tolerated(self, pair: _Pair, outcome: Outcome) -> Iterator[_Pair]:
        there = outcome.position
        if self._unknown(there):
            transfer = self.new.seen(there).transfer
            for known in self.old.positions:
                if (known.open, self.old.seen(known).transfer) == (there.open, transfer):
                    yield known, there
        elif self.new.spec.operation(self.new.spec.state(there.state).operation).off_grid:
            failed = self.old.outcomes(pair[0], Action(event="reset"))[-1].position
            if self.old.seen(failed) == self.new.seen(there):
                yield failed, there

    def _unknown(self, position: Position) -> bool:
        return self.new.seen(position).value not in self.old.values

    def _steps(
        self, pair: _Pair, ranks: dict[_Pair, int], chosen: dict[_Pair, _Move]
    ) -> Iterator[Step]:
        while True:
            move = chosen[pair]
            of_old = self._outcomes(self.old, pair[0], move.action)
            if not move.candidates:
                yield Step(pair, move.action, of_old, move.outcome)
                return
            # The one that can be distinguished last: all others are distinguished before.
            following = max(move.candidates, key=lambda candidate: ranks[candidate])
            matched = (
                other
                for other in of_old
                if other.position == following[0] and self._alike(pair, other, move.outcome)
            )
            yield Step(pair, move.action, of_old, move.outcome, next(matched, None))
            pair = following


# --- drivers --------------------------------------------------------------------------------------


def _new_arc(pairing: Pairing) -> Distinguishing | None:
    """Return a shortest sequence after which NEW asks its driver for an arc that OLD lacks."""
    known = set(arcs(pairing.old))
    new = pairing.new
    before: dict[Position, tuple[Step, ...]] = {new.start: ()}
    queue = [new.start]
    for position in queue:  # grows while it is read
        for action in actions(new.values):
            for outcome in new.outcomes(position, action):
                step = Step((position, position), action, (), outcome)
                if any(_ends(new, taken) not in known for taken in outcome.arcs):
                    return Distinguishing((*before[position], step))
                if outcome.position not in before:
                    before[outcome.position] = (*before[position], step)
                    queue.append(outcome.position)
    return None


def arcs(behaviour: Behaviour) -> Iterator[tuple[int, int, Effect]]:
    """Yield the arcs a driver has to take: the values of their ends, and the effect."""
    for arc in behaviour.machine.arcs:
        yield _ends(behaviour, arc)


def _ends(behaviour: Behaviour, arc: Arc) -> tuple[int, int, Effect]:
    spec = behaviour.spec
    values = spec.state(arc.from_).value, spec.state(arc.to).value
    return *values, spec.effect(arc.from_, arc.to)


__all__ = ["Decision", "Distinguishing", "Pairing", "Step", "arcs", "decide", "pairings"]
