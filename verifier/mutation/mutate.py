"""Mutation of the table: is every single edit caught by an obligation, or proved to change nothing?

Each mutant (`vfio_migration.verifier.mutation.edits`) is a table with one edit. In this order:

1. Family T, which is about the rows, is tried on it: in the order of the catalogue, T9 last, as it
   asks a question for every row. The first obligation that is violated has killed it.
2. Its behaviour is compared with the original's, cell by cell. If they are equal, it is equivalent:
   what obligations about behaviour say of one they state of the other.
3. The other families are tried on it, in the order of the catalogue. The first obligation that is
   violated has killed it.
4. If no file with this edit can be loaded, nobody can use it: "load" has killed it.
5. Otherwise it has survived: there is an edit that no obligation speaks of.

An exception of ours kills nothing: a mutant that no other obligation kills and that can be loaded
is then "broken". A mutant that a solver gave up on, and nothing else kills, is "unknown". Both are
failures, as a survivor is.

The original is asked everything first. A query that an edit leaves as it was, word for word, has
the answer it had; only the others are put to the solver.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vfio_migration.model import Mistake, Spec, SpecError, from_data
from vfio_migration.model.errors import closest, did_you_mean
from vfio_migration.verifier.mutation.edits import KINDS, Mutant, mutants
from vfio_migration.verifier.mutation.equivalence import behaviour
from vfio_migration.verifier.prove import Answer, Solving, decide, select
from vfio_migration.verifier.solver import workers
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query

Outcome = Literal["killed", "equivalent", "survived", "unknown", "broken"]
OUTCOMES: tuple[Outcome, ...] = ("killed", "equivalent", "survived", "unknown", "broken")

LOAD = "load"
"""What has killed a mutant that no file can hold."""

_ROWS = "T"
"""The family about the rows of the table; all others are about what they determine."""

_LAST = ("T9",)
"""The obligations that are tried after all others of their family."""

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
        reason: For unknown and broken, why.
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
        spec: The table.
        fates: One per mutant, in the order in which the mutants are made.
        tried: The obligations, in the order of the catalogue.
        full: Every obligation was tried on every mutant.
        seconds: Wall time.
    """

    spec: Spec
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
        kinds: The kinds of edit; all by default.
        against: The obligations or families to try; all by default.
        full: Go on after the first obligation that kills.
        jobs: How many processes; by default as many as there are processors. The result does not
            depend on it.
        timeout: Seconds a single query may take.
        progress: Called with how many mutants are done, and how many there are.

    Raises:
        SpecError: If there is no such kind or obligation, or the table itself is not proved.
    """
    begun = time.perf_counter()
    check_kinds(kinds)
    made = mutants(spec, kinds)
    chosen = select(against)
    trial = _Trial(spec, made, chosen, full, timeout)
    jobs = jobs or workers.processors()
    run = trial.spread(jobs) if jobs > 1 and workers.can_fork() else trial.here()
    fates: dict[int, Fate] = {}
    for index, fate in run:
        fates[index] = fate
        progress(len(fates), len(made))
    return Survey(
        spec,
        tuple(fate for _, fate in sorted(fates.items())),
        tuple(obligation.id for obligation in chosen),
        full,
        time.perf_counter() - begun,
    )


def check_kinds(kinds: Sequence[str] | None) -> None:
    """Refuse names that are no kinds of edit.

    Raises:
        SpecError: If one is.
    """
    known = [kind.name for kind in KINDS]
    for name in kinds or ():
        if name not in known:
            hint = did_you_mean(closest(name, known)) or f"there are {', '.join(known)}"
            raise SpecError([Mistake("--only", name, "is not a kind of edit", hint)])


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


class _Trial:
    """The mutants of a table, and what they are held against.

    Raises:
        SpecError: If the table itself is not proved: then every mutant would seem to be caught.
    """

    def __init__(
        self,
        spec: Spec,
        made: Sequence[Mutant],
        obligations: Sequence[Obligation],
        full: bool,
        timeout: float,
    ) -> None:
        self.mutants = made
        rows = [obligation for obligation in obligations if obligation.id.startswith(_ROWS)]
        self.about_rows = sorted(rows, key=lambda obligation: obligation.id in _LAST)
        self.about_behaviour = [each for each in obligations if each not in rows]
        self.full = full
        self.timeout = timeout
        self.behaviour = behaviour(spec)
        # Without a limit: it would start threads, and a process with threads is not to be forked.
        self._original = _Remembering(None, {})
        encoding = Encoding(spec)
        for obligation in (*self.about_rows, *self.about_behaviour):
            verdict = decide(obligation, encoding, self._original)
            if verdict.outcome != "proved":
                problem = f"is not a table to mutate: {obligation.id} is {verdict.outcome} of it"
                raise SpecError(
                    [Mistake("table", spec.name, problem, "run `vfio-migration verify` first")]
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

    def fate(self, mutant: Mutant) -> Fate:
        """Try one mutant."""
        found = _Found()
        try:
            self._try(mutant.spec, found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not pass for a kill
            found.broken = f"{type(error).__name__}: {error}"
        if found.killers:
            return _fate(mutant, "killed", tuple(found.killers), found.broken)
        if found.equivalent:
            return _fate(mutant, "equivalent")
        if not can_be_loaded(mutant.spec):
            return _fate(mutant, "killed", (LOAD,))
        if found.broken is not None:
            return _fate(mutant, "broken", reason=found.broken)
        if found.unknown:
            return _fate(mutant, "unknown", reason="; ".join(found.unknown))
        return _fate(mutant, "survived")

    def _try(self, spec: Spec, found: _Found) -> None:
        encoding = Encoding(spec)
        solving = _Remembering(self.timeout, self._original.answers)
        for obligations in (self.about_rows, self.about_behaviour):
            for obligation in obligations:
                verdict = decide(obligation, encoding, solving)
                if verdict.outcome == "violated":
                    found.killers.append(obligation.id)
                    if not self.full:
                        return
                elif verdict.outcome == "unknown":
                    found.unknown.append(f"{obligation.id}: {verdict.reason}")
            if obligations is self.about_rows and behaviour(spec) == self.behaviour:
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
    mutant: Mutant, outcome: Outcome, by: tuple[str, ...] = (), reason: str | None = None
) -> Fate:
    return Fate(mutant.id, mutant.kind, mutant.sentence, outcome, by, reason)


# --- what can be loaded ---


def can_be_loaded(spec: Spec) -> bool:
    """Return whether a file that holds this table is accepted."""
    try:
        from_data(as_data(spec))
    except SpecError:
        return False
    return True


def as_data(spec: Spec) -> dict[str, Any]:
    """Return a table as the plain data of a file."""
    return {key: _plain(value) for key, value in dataclasses.asdict(spec).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        # What is in no file: keys that are left out, and what is computed.
        kept = {k: v for k, v in value.items() if v is not None and (k, v) != ("via", ())}
        return {key.rstrip("_"): _plain(item) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
