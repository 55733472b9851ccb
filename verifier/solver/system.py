"""Transition systems: variables, named events, and what can be asked about their runs.

A `System` is built from the table by a subclass: it states which variables there are, how a run
begins, and what each event does. From that come the kinds of query a proof about behaviour needs:

- *inductive*: a lemma holds at the start, and each event keeps it; so it holds in runs of any
  length.
- *never*: between a situation in which the lemmas hold and the next, something never happens.
- *bounded*: no run from the start of up to so many events ends badly; the first that does is a
  shortest trace.

Every event has a name of its own (the variable `event`), so a model reports which one fired.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import z3

from vfio_migration.model import Step, Trace
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.terms import all_of, any_of

Term: TypeAlias = z3.ExprRef
Situation: TypeAlias = Mapping[str, Term]
"""The variables at one moment, by name."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that can happen.

    Attributes:
        name: Its name.
        guard: When it can happen.
        updates: What it changes; every other variable stays as it is.
    """

    name: str
    guard: Formula
    updates: Mapping[str, Term] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lemma:
    """Something that holds in every situation a run can reach.

    Attributes:
        name: A short name.
        words: What it states, one sentence.
        formula: What it states, of a situation.
    """

    name: str
    words: str
    formula: Callable[[Situation], Formula]


Bad: TypeAlias = Callable[[Situation, Term, Situation], Formula]
"""A step that must never happen: the situation before, the event, the situation after."""


class System(abc.ABC):
    """A transition system over the table.

    Attributes:
        encoding: The table in z3.
        sorts: The variables: each name with its sort.
        events: The names of the events, in the order in which traces prefer them.
    """

    sorts: Mapping[str, z3.SortRef]
    events: Sequence[str]

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding

    # --- what a subclass defines ---

    @property
    @abc.abstractmethod
    def facts(self) -> Formula:
        """What holds throughout a run: which capability sets there are, and the table."""

    @abc.abstractmethod
    def start(self, now: Situation) -> Formula:
        """A run begins like this."""

    @abc.abstractmethod
    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """What can happen in a situation; `choose` makes a value that the solver picks."""

    @abc.abstractmethod
    def example_of(
        self, model: z3.ModelRef, run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return the run that a model describes."""

    # --- situations and steps ---

    def situation(self, moment: int | str) -> Situation:
        """The variables at one moment."""
        return {name: z3.Const(f"{name}@{moment}", sort) for name, sort in self.sorts.items()}

    def event(self, moment: int | str) -> Term:
        """Which event happens at one moment, by its index in `events`."""
        return z3.Const(f"event@{moment}", self._event_sort)

    @functools.cached_property
    def _event_sort(self) -> z3.SortRef:
        return z3.BitVecSort(max(1, (len(self.events) - 1).bit_length()))

    def is_event(self, term: Term, *names: str) -> Formula:
        """The event is one of these."""
        return any_of([term == self._event_value(name) for name in names])

    def _event_value(self, name: str) -> Term:
        return z3.BitVecVal(self.events.index(name), self._event_sort.size())

    @functools.cache  # noqa: B019 - a system lives as long as its encoding
    def step(self, moment: int) -> Formula:
        """One event happens between this moment and the next."""
        return self.relation(self.situation(moment), self.situation(moment + 1), moment)

    def relation(self, now: Situation, then: Situation, moment: int) -> Formula:
        """The event of this moment, with what is chosen at it, leads from one situation to another.

        Two relations of the same moment share event and choices: that compares two lives.
        """
        event = self.event(moment)

        def choose(name: str, sort: z3.SortRef) -> Term:
            return z3.Const(f"{name}@{moment}", sort)

        cases = []
        for transition in self.transitions(now, choose):
            changes = [
                then[name] == transition.updates.get(name, term) for name, term in now.items()
            ]
            cases.append(
                all_of(event == self._event_value(transition.name), transition.guard, *changes)
            )
        return any_of(cases)

    def enabled(self, now: Situation, moment: int) -> Formula:
        """The event of this moment, with what is chosen at it, can happen in a situation."""
        event = self.event(moment)

        def choose(name: str, sort: z3.SortRef) -> Term:
            return z3.Const(f"{name}@{moment}", sort)

        return any_of(
            [
                all_of(event == self._event_value(transition.name), transition.guard)
                for transition in self.transitions(now, choose)
            ]
        )

    # --- queries ---

    def inductive(self, lemmas: Sequence[Lemma]) -> Iterator[Query]:
        """The lemmas hold at the start, and together they survive every event."""
        begin, now, then = self.situation("start"), self.situation(0), self.situation(1)
        held = [lemma.formula(now) for lemma in lemmas]
        for lemma in lemmas:
            yield Query(
                f"begins-{lemma.name}",
                "step",
                (self.facts, self.start(begin), z3.Not(lemma.formula(begin))),
                "unsat",
                _explained(f"a run can begin without: {lemma.words}"),
            )
            yield Query(
                f"keeps-{lemma.name}",
                "step",
                (self.facts, self.step(0), *held, z3.Not(lemma.formula(then))),
                "unsat",
                _explained(f"an event can end: {lemma.words}"),
            )

    def never(self, name: str, bad: Bad, lemmas: Sequence[Lemma] = ()) -> Iterator[Query]:
        """From no situation in which the lemmas hold does a bad step lead on."""
        now, then = self.situation(0), self.situation(1)
        held = [lemma.formula(now) for lemma in lemmas]
        yield Query(
            f"never-{name}",
            "step",
            (self.facts, self.step(0), *held, bad(now, self.event(0), then)),
            "unsat",
            _explained(f"the lemmas do not rule out {name}"),
        )

    def run(self, length: int, *conditions: Formula) -> tuple[Formula, ...]:
        """The formulas of a run of so many events from the start."""
        return (
            self.facts,
            self.start(self.situation(0)),
            *(self.step(moment) for moment in range(length)),
            *conditions,
        )

    def bounded(self, bad: Bad, depth: int) -> Iterator[Query]:
        """No run of up to `depth` events ends with a bad step; shorter runs are asked first."""
        for length in range(1, depth + 1):
            last = length - 1
            wrong = bad(self.situation(last), self.event(last), self.situation(length))
            yield Query(
                f"within-{length}",
                "claim",
                self.run(length, wrong),
                "unsat",
                self.explaining(length),
            )

    def happens(self, name: str, wanted: Bad, length: int, *conditions: Formula) -> Query:
        """A witness: some run of this length from the start ends with a step like this.

        Without conditions on single events longer runs show as much, up to one that takes a device
        through every state more.
        """

        def query(events: int) -> Query:
            last = events - 1
            good = wanted(self.situation(last), self.event(last), self.situation(events))
            formulas = self.run(events, good, *conditions)
            explain = self.explaining(events)
            return Query(
                name, "witness", formulas, "sat", explain, within=events, impossible=anywhere
            )

        def anywhere() -> Query:
            step = wanted(self.situation(0), self.event(0), self.situation(1))
            text = _explained("it can happen")
            return Query(
                f"{name}-anywhere", "step", (self.facts, self.step(0), step), "unsat", text
            )

        def longer() -> Iterator[Query]:
            for events in range(length + 1, length + len(self.encoding.names) + 1):
                yield query(events)

        return query(length) if conditions else replace(query(length), instead=longer)

    def explaining(self, length: int) -> Callable[[z3.ModelRef | None], Example]:
        """Read a run of so many events from a model."""

        def explain(model: z3.ModelRef | None) -> Example:
            assert model is not None
            run = [self.situation(moment) for moment in range(length + 1)]
            fired = [
                self.events[model.eval(self.event(moment), model_completion=True).as_long()]
                for moment in range(length)
            ]
            return self.example_of(model, run, fired)

        return explain


def _explained(text: str) -> Callable[[z3.ModelRef | None], Example]:
    """Explain an answer with a fixed sentence."""
    return lambda _model: Example(text)


def run_of(
    encoding: Encoding,
    words: Sequence[int],
    start: Sequence[str],
    steps: Sequence[Step],
    text: str,
) -> Example:
    """Return a run as an example, its text that of the steps and the capabilities.

    Args:
        encoding: What the run was found with.
        words: The capabilities of each device.
        start: Where each device begins.
        steps: What happens.
        text: What is said of it, without the capabilities.
    """
    spec = encoding.spec
    text += f" (capabilities {' and '.join(dict.fromkeys(map(encoding.set_name, words)))})"
    return Example(
        text,
        Trace(
            spec=spec.name,
            capabilities=tuple(spec.names(spec.capability_type(word)) for word in words),
            start=tuple(start),
            steps=tuple(steps),
            title=text,
        ),
    )
