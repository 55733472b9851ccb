"""Mutation of a table: is every single edit caught by an obligation, or proved to change nothing?

Each mutant is a table with one edit. Those of the table of states and arcs are of
`vfio_migration.verifier.mutation.edits`; in this order:

1. Family T, which is about the rows, is tried on it: in the order of the catalogue, T9 last, as it
   asks a question for every row. The first obligation that is violated has killed it.
2. Its behaviour is compared with the original's, cell by cell. If they are equal, it is equivalent:
   what obligations about behaviour say of one they state of the other.
3. The other families are tried on it, in the order of the catalogue. The first obligation that is
   violated has killed it.
4. If no file with this edit can be loaded, nobody can use it: "load" has killed it.
5. If the table states what no specification does, and an obligation is to hold whatever is chosen
   there, it is "argued": the reason is with the mutant.
6. Otherwise it has survived: there is an edit that no obligation speaks of.

An exception of ours kills nothing: a mutant that no other obligation kills and that can be loaded
is then "broken". A mutant that a solver gave up on, and nothing else kills, is "unknown". Both are
failures, as a survivor is.

Of the table of the connection (`vfio_migration.verifier.mutation.wire_edits`) what cannot be loaded
is found first: most edits of a name are of that kind. Then comes what a solver proves to be
answered alike, and then the obligations that are about the connection, listings before the rest.

The original is asked everything first. A query that an edit leaves as it was, word for word, has
the answer it had; only the others are put to the solver.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from vfio_migration.model import Mistake, Spec, SpecError
from vfio_migration.model.wire import Wire
from vfio_migration.verifier.mutation.mutants import Mutant, Table
from vfio_migration.verifier.mutation.subjects import Subject, states_subject, wire_subject
from vfio_migration.verifier.prove import Answer, Solving, decide
from vfio_migration.verifier.solver import workers
from vfio_migration.verifier.solver.obligation import Example, Query

Outcome = Literal["killed", "equivalent", "argued", "survived", "unknown", "broken"]
OUTCOMES: tuple[Outcome, ...] = (
    *("killed", "equivalent", "argued"),
    *("survived", "unknown", "broken"),
)

LOAD = "load"
"""What has killed a mutant that no file can hold."""

TIMEOUT = 10.0
"""Seconds a single query about a mutant may take, by default."""

UNIT = 6
"""How many mutants one process tries before the next takes over."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a mutant.

    Attributes:
        id: Which mutant.
        kind: Its kind.
        sentence: Its edit.
        outcome: What became of it.
        by: The obligations that are violated by it, in the order in which they were tried (the
            first only, unless all were), or `LOAD`.
        reason: For argued, unknown and broken, why.
    """

    id: str
    kind: str
    sentence: str
    outcome: Outcome
    by: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """What became of all mutants of a table.

    Attributes:
        name: The name of the table.
        title: Its title.
        kinds: Every kind of edit there is for such a table, with what it does.
        fates: One per mutant, in the order in which the mutants are made.
        tried: The obligations, in the order of the catalogue.
        full: Every obligation was tried on every mutant.
        seconds: Wall time.
    """

    name: str
    title: str
    kinds: Mapping[str, str]
    fates: tuple[Fate, ...]
    tried: tuple[str, ...]
    full: bool
    seconds: float

    def of(self, outcome: Outcome) -> tuple[Fate, ...]:
        """The mutants with this outcome."""
        return tuple(fate for fate in self.fates if fate.outcome == outcome)

    @property
    def caught(self) -> bool | None:
        """Nothing survives and nothing broke; None if only a solver that gave up is in doubt."""
        if self.of("survived") or self.of("broken"):
            return False
        return None if self.of("unknown") else True

    @property
    def kills(self) -> dict[str, int]:
        """How many mutants each obligation was the first to kill; `LOAD` comes last."""
        firsts = [fate.by[0] for fate in self.of("killed")]
        return {name: firsts.count(name) for name in (*self.tried, LOAD)}

    @property
    def violations(self) -> dict[str, int]:
        """How many mutants violate each obligation; complete only if the survey is full."""
        return {name: sum(name in fate.by for fate in self.fates) for name in self.tried}

    def by_kind(self) -> dict[str, dict[Outcome, int]]:
        """Per kind of edit: how many mutants had which outcome."""
        counts: dict[str, dict[Outcome, int]] = {}
        for fate in self.fates:
            of_kind = counts.setdefault(fate.kind, dict.fromkeys(OUTCOMES, 0))
            of_kind[fate.outcome] += 1
        return counts


def mutate(
    spec: Spec,
    *,
    wire: Wire | None = None,
    kinds: Sequence[str] | None = None,
    against: Sequence[str] | None = None,
    full: bool = False,
    jobs: int | None = None,
    timeout: float = TIMEOUT,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Survey:
    """Try every mutant of a table.

    Args:
        spec: The table; every obligation that is tried must be proved of it.
        wire: The table of the connection, to mutate this one in place of `spec`.
        kinds: The kinds of edit; all by default.
        against: The obligations or families to try; by default all that are about the table.
        full: Go on after the first obligation that kills.
        jobs: How many processes; by default as many as there are processors. The result does not
            depend on it.
        timeout: Seconds a single query may take.
        progress: Called with how many mutants are done, and how many there are.

    Raises:
        SpecError: If there is no such kind or obligation, or the table itself is not proved.
    """
    if wire is None:
        return _survey(states_subject(spec, against), kinds, full, jobs, timeout, progress)
    return _survey(wire_subject(spec, wire, against), kinds, full, jobs, timeout, progress)


def _survey(
    subject: Subject[Table],
    kinds: Sequence[str] | None,
    full: bool,
    jobs: int | None,
    timeout: float,
    progress: Callable[[int, int], None],
) -> Survey:
    begun = time.perf_counter()
    made = subject.mutants_of(kinds)
    trial = _Trial(subject, made, full, timeout)
    jobs = jobs or workers.processors()
    run = trial.spread(jobs) if jobs > 1 and workers.can_fork() else trial.here()
    fates: dict[int, Fate] = {}
    for index, fate in run:
        fates[index] = fate
        progress(len(fates), len(made))
    return Survey(
        subject.name,
        subject.title,
        subject.kinds,
        tuple(fate for _, fate in sorted(fates.items())),
        tuple(obligation.id for obligation in subject.chosen),
        full,
        time.perf_counter() - begun,
    )


# --- one mutant ---


class _Remembering(Solving):
    """z3 at work on a mutant, or on the original before it.

    Queries that were answered before are not asked again. Neither are witnesses: whether the
    premise of an obligation still happens refutes nothing. No example is made: a kill is an answer
    of the solver, and a run of a table that no file can hold may not be one that can be reported.
    """

    def __init__(self, timeout: float | None, known: Mapping[_Key, Answer]) -> None:
        super().__init__(timeout)
        self.known = known
        self.answers: dict[_Key, Answer] = {}

    def ask(self, query: Query) -> Answer:
        """Put one query to the solver, unless its answer is known."""
        if query.role == "witness":
            return Answer(query.expect, _NO_EXAMPLE)
        # As in `Solving`, which keeps the formulas, and so their ids.
        key = tuple(formula.get_id() for formula in query.formulas)
        if key in self.known:
            return self.known[key]
        silent = dataclasses.replace(query, explain=lambda _: _NO_EXAMPLE, shorter=())
        self.answers[key] = super().ask(silent)
        return self.answers[key]


_Key = tuple[int, ...]
_NO_EXAMPLE = Example("")


class _Trial(Generic[Table]):
    """The mutants of a table, and what they are held against.

    Raises:
        SpecError: If the table itself is not proved: then every mutant would seem to be caught.
    """

    def __init__(
        self, subject: Subject[Table], made: Sequence[Mutant[Table]], full: bool, timeout: float
    ) -> None:
        self.subject = subject
        self.mutants = made
        self.full = full
        self.timeout = timeout
        # Without a limit: it would start threads, and a process with threads is not to be forked.
        self._original = _Remembering(None, {})
        encoding = subject.encode(subject.original)
        for obligation in (*subject.first, *subject.then):
            verdict = decide(obligation, encoding, self._original)
            if verdict.outcome != "proved":
                problem = f"is not a table to mutate: {obligation.id} is {verdict.outcome} of it"
                raise SpecError(
                    [Mistake("table", subject.name, problem, "run `vfio-migration verify` first")]
                )

    def here(self) -> Iterator[tuple[int, Fate]]:
        """Try every mutant in this process."""
        for index, mutant in enumerate(self.mutants):
            yield index, self.fate(mutant)

    def spread(self, jobs: int) -> Generator[tuple[int, Fate], None, None]:
        """Try every mutant in processes forked from this one, which know what it was answered."""
        count = len(self.mutants)
        units = [tuple(range(at, min(at + UNIT, count))) for at in range(0, count, UNIT)]
        run = workers.spread(units, lambda unit: (self.fate(self.mutants[i]) for i in unit), jobs)
        for index, result in run:
            if isinstance(result, workers.Missing):
                yield index, _fate(self.mutants[index], "broken", reason=result.reason)
            else:
                yield index, result

    def fate(self, mutant: Mutant[Table]) -> Fate:
        """Try one mutant."""
        if self.subject.loaded_first and not self.subject.loads(mutant.table):
            return _fate(mutant, "killed", (LOAD,))
        found = _Found()
        try:
            self._try(mutant.table, found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not pass for a kill
            found.broken = f"{type(error).__name__}: {error}"
        if found.killers:
            return _fate(mutant, "killed", tuple(found.killers), found.broken)
        if found.equivalent:
            return _fate(mutant, "equivalent")
        if not self.subject.loads(mutant.table):
            return _fate(mutant, "killed", (LOAD,))
        if found.broken is not None:
            return _fate(mutant, "broken", reason=found.broken)
        if found.unknown:
            return _fate(mutant, "unknown", reason="; ".join(found.unknown))
        argument = self.subject.argued(mutant)
        if argument is not None:
            return _fate(mutant, "argued", reason=argument)
        return _fate(mutant, "survived")

    def _try(self, table: Table, found: _Found) -> None:
        encoding = self.subject.encode(table)
        solving = _Remembering(self.timeout, self._original.answers)
        for obligations in (self.subject.first, self.subject.then):
            for obligation in obligations:
                verdict = decide(obligation, encoding, solving)
                if verdict.outcome == "violated":
                    found.killers.append(obligation.id)
                    if not self.full:
                        return
                elif verdict.outcome == "unknown":
                    found.unknown.append(f"{obligation.id}: {verdict.reason}")
            if obligations is self.subject.first and self.subject.equivalent(table):
                found.equivalent = True
                if not self.full:
                    return


@dataclass(slots=True)
class _Found:
    """What is known of a mutant so far."""

    killers: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    equivalent: bool = False
    broken: str | None = None


def _fate(
    mutant: Mutant[Any], outcome: Outcome, by: tuple[str, ...] = (), reason: str | None = None
) -> Fate:
    return Fate(mutant.id, mutant.kind, mutant.sentence, outcome, by, reason)
