"""Deciding obligations: z3 answers the queries, verdicts say what that means.

A claim speaks for its obligation only if the solver gives the expected answer, a proof counts only
if its witness is satisfiable, and an answer that is neither sat nor unsat is "unknown", never a
pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import z3

from vfio_migration.model import RoutingRule, Spec, SpecError
from vfio_migration.model.errors import Mistake, closest, did_you_mean
from vfio_migration.verifier.catalogue import obligations
from vfio_migration.verifier.encoding import Encoding
from vfio_migration.verifier.obligation import Example, Obligation, Outcome, Query, Verdict
from vfio_migration.verifier.table import variant_query


@dataclass(frozen=True, slots=True)
class Variant:
    """A routing rule that is not in force, held against the table as T4 holds the one that is.

    Attributes:
        rule: The rule.
        cells: Each request whose path it forbids: flags word, state, target, path.
        compared: How many cells there are (capability sets x states x states).
        seconds: Wall time.
        unknown: Why the solver gave up, or None.
    """

    rule: RoutingRule
    cells: tuple[tuple[int, str, str, tuple[str, ...]], ...]
    compared: int
    seconds: float
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run found."""

    spec: Spec
    profile: str
    verdicts: tuple[Verdict, ...]
    variants: tuple[Variant, ...]
    seconds: float

    @property
    def outcome(self) -> Outcome:
        """Violated if anything is; otherwise unknown if anything is; otherwise proved."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if "violated" in outcomes:
            return "violated"
        return "unknown" if "unknown" in outcomes or not outcomes else "proved"


def select(only: Sequence[str] | None) -> tuple[Obligation, ...]:
    """Return the obligations named, by identifier ("T4") or family ("T"); all without a name.

    Raises:
        SpecError: If a name stands for none.
    """
    known = tuple(obligations())
    if not only:
        return known
    for name in only:
        if not any(_matches(name, obligation) for obligation in known):
            names = [obligation.id for obligation in known]
            hint = did_you_mean(closest(name, names)) or f"there are {', '.join(names)}"
            raise SpecError([Mistake("--only", name, "is no obligation or family", hint)])
    return tuple(
        obligation for obligation in known if any(_matches(name, obligation) for name in only)
    )


def _matches(name: str, obligation: Obligation) -> bool:
    wanted = name.upper()
    return obligation.id == wanted or obligation.id.rstrip("0123456789") == wanted


def verify(
    spec: Spec,
    *,
    profile: str | None = None,
    only: Sequence[str] | None = None,
    claims: Sequence[Obligation] = (),
    timeout: float | None = None,
    progress: Callable[[Verdict], None] = lambda _: None,
) -> Report:
    """Decide obligations about a table.

    Args:
        spec: The table.
        profile: Whose capability sets to cover; by default the first profile's.
        only: Identifiers or families; all by default.
        claims: Obligations of the user's own, decided after the built-in ones.
        timeout: Seconds a single query may take; a query over it is unknown.
        progress: Called with each verdict as it is found.
    """
    begun = time.perf_counter()
    chosen = (*select(only), *claims)
    encoding = Encoding(spec, profile)
    solving = Solving(timeout)
    verdicts = []
    for obligation in chosen:
        verdict = decide(obligation, encoding, solving)
        progress(verdict)
        verdicts.append(verdict)
    variants: tuple[Variant, ...] = ()
    if any(obligation.id == "T4" for obligation in chosen):
        variants = tuple(
            _variant(encoding, rule, timeout) for rule in spec.routing if not rule.in_force
        )
    return Report(spec, encoding.profile, tuple(verdicts), variants, time.perf_counter() - begun)


def decide(obligation: Obligation, encoding: Encoding, solving: Solving | None = None) -> Verdict:
    """Decide one obligation."""
    solving = solving or Solving()
    begun = time.perf_counter()
    witness: Example | None = None
    pending: list[str] = []
    count = 0

    def verdict(outcome: Outcome, example: Example | None = None) -> Verdict:
        return Verdict(
            id=obligation.id,
            statement=obligation.statement,
            outcome=outcome,
            method=obligation.method,
            seconds=time.perf_counter() - begun,
            witness=witness if outcome == "proved" else None,
            example=example,
            reason="; ".join(pending) if outcome == "unknown" else None,
            queries=count,
        )

    failed_steps: list[str] = []
    for query in obligation.queries(encoding):
        answer = solving.ask(query)
        count += 1
        if answer.answer == "unknown":
            # Go on: another query may still refute, which says more than "unknown".
            pending.append(f"{query.name}: the solver gave up ({answer.reason})")
        elif answer.answer != query.expect:
            if query.role == "claim":
                return verdict("violated", answer.example)
            if query.role == "step":
                failed_steps.append(query.name)
            else:
                pending.append(f"{query.name}: the premise never happens, so a proof says nothing")
        elif query.role == "witness" and witness is None:
            witness = answer.example
    if failed_steps and obligation.search is not None:
        for query in obligation.search(encoding):
            answer = solving.ask(query)
            count += 1
            if answer.answer == "unknown":
                pending.append(f"{query.name}: the solver gave up ({answer.reason})")
            elif answer.answer != query.expect:
                return verdict("violated", answer.example)
    if failed_steps:
        pending.append(
            f"the induction fails ({', '.join(failed_steps)}), but no run found breaks it"
        )
    if witness is None and not pending:
        pending.append("there is no witness")
    return verdict("unknown" if pending else "proved")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver said to a query: sat, unsat or unknown, the example if any, or the reason."""

    answer: str
    example: Example | None = None
    reason: str = ""


class Solving:
    """z3 at work on one encoding.

    Queries that begin with the same formula share a solver, which reads it once. A query asked
    before, as the lemmas of several obligations are, is not asked again.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._solvers: dict[int, tuple[z3.BoolRef, z3.Solver]] = {}
        self._asked: dict[tuple[int, ...], tuple[Query, Answer]] = {}

    def ask(self, query: Query) -> Answer:
        """Put one query to the solver."""
        # Formulas are shared: equal ones have the same id as long as one of them is kept, as here.
        key = tuple(formula.get_id() for formula in query.formulas)
        if key not in self._asked:
            self._asked[key] = (query, self._ask(query))
        return self._asked[key][1]

    def _ask(self, query: Query) -> Answer:
        first, *rest = query.formulas
        solver = self._solver(first)
        solver.push()
        try:
            solver.add(*rest)
            answer = str(solver.check())
            if answer == "unknown":
                return Answer(answer, reason=solver.reason_unknown())
            if answer != "sat" and (query.role != "claim" or answer == query.expect):
                return Answer(answer)
            model = solver.model() if answer == "sat" else None
            if model is not None and query.shorter:
                model = _shortest(solver, query.shorter) or model
            wanted = query.role == "witness" or answer != query.expect
            return Answer(answer, query.explain(model) if wanted else None)
        finally:
            solver.pop()

    def _solver(self, first: z3.BoolRef) -> z3.Solver:
        if first.get_id() not in self._solvers:
            solver = z3.Solver()
            if self._timeout is not None:
                solver.set("timeout", max(1, round(self._timeout * 1000)))
            solver.add(first)
            self._solvers[first.get_id()] = (first, solver)
        return self._solvers[first.get_id()][1]


def _shortest(solver: z3.Solver, bounds: Sequence[z3.BoolRef]) -> z3.ModelRef | None:
    """Return a model under the first bound that can be met."""
    for bound in bounds:
        if solver.check(bound) == z3.sat:
            return solver.model()
    return None


def _variant(encoding: Encoding, rule: RoutingRule, timeout: float | None) -> Variant:
    """List every cell in which the table's path breaks a rule that is not in force."""
    begun = time.perf_counter()
    query, from_, to = variant_query(encoding, rule)
    solver = z3.Solver()
    if timeout is not None:
        solver.set("timeout", max(1, round(timeout * 1000)))
    solver.add(*query.formulas)
    cells = []
    while (answer := solver.check()) == z3.sat:
        model = solver.model()
        word = encoding.read_flags(model)
        here, there = encoding.read_state(model, from_), encoding.read_state(model, to)
        assert here is not None
        assert there is not None
        cells.append((word, here, there, encoding.machines[word].route(here, there).path))
        solver.add(
            z3.Or(
                encoding.flags != word,
                from_ != encoding.state(here),
                to != encoding.state(there),
            )
        )
    return Variant(
        rule=rule,
        cells=tuple(sorted(cells)),
        compared=len(encoding.machines) * len(encoding.names) ** 2,
        seconds=time.perf_counter() - begun,
        unknown=solver.reason_unknown() if answer == z3.unknown else None,
    )
