"""Deciding obligations: z3 answers the queries, verdicts say what that means.

A claim speaks for its obligation only if the solver gives the expected answer, a proof counts only
if its witness is satisfiable, and an answer that is neither sat nor unsat is "unknown", never a pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    timeout: float | None = None,
    progress: Callable[[Verdict], None] = lambda _: None,
) -> Report:
    """Decide obligations about a table.

    Args:
        spec: The table.
        profile: Whose capability sets to cover; by default the first profile's.
        only: Identifiers or families; all by default.
        timeout: Seconds a single query may take; a query over it is unknown.
        progress: Called with each verdict as it is found.
    """
    begun = time.perf_counter()
    chosen = select(only)
    encoding = Encoding(spec, profile)
    verdicts = []
    for obligation in chosen:
        verdict = decide(obligation, encoding, timeout)
        progress(verdict)
        verdicts.append(verdict)
    variants: tuple[Variant, ...] = ()
    if any(obligation.id == "T4" for obligation in chosen):
        variants = tuple(
            _variant(encoding, rule, timeout) for rule in spec.routing if not rule.in_force
        )
    return Report(spec, encoding.profile, tuple(verdicts), variants, time.perf_counter() - begun)


def decide(obligation: Obligation, encoding: Encoding, timeout: float | None = None) -> Verdict:
    """Decide one obligation."""
    begun = time.perf_counter()
    witness: Example | None = None
    count = 0

    def verdict(
        outcome: Outcome, example: Example | None = None, reason: str | None = None
    ) -> Verdict:
        return Verdict(
            id=obligation.id,
            statement=obligation.statement,
            outcome=outcome,
            method=obligation.method,
            seconds=time.perf_counter() - begun,
            witness=witness if outcome == "proved" else None,
            example=example,
            reason=reason,
            queries=count,
        )

    pending: list[str] = []
    for query, answer, model, reason in answers(obligation.queries(encoding), timeout):
        count += 1
        if answer == "unknown":
            # Go on: another query may still refute, which says more than "unknown".
            pending.append(f"{query.name}: the solver gave up ({reason})")
        elif query.role == "claim" and answer != query.expect:
            return verdict("violated", query.explain(model))
        elif query.role == "witness" and answer != query.expect:
            pending.append(f"{query.name}: the premise never happens, so a proof would say nothing")
        elif query.role == "witness" and witness is None:
            witness = query.explain(model)
    if pending:
        return verdict("unknown", reason="; ".join(pending))
    if witness is None:
        return verdict("unknown", reason="there is no witness")
    return verdict("proved")


def answers(
    queries: Iterable[Query], timeout: float | None = None
) -> Iterator[tuple[Query, str, z3.ModelRef | None, str]]:
    """Put queries to z3 one by one: the query, the answer, the model if there is one, the reason.

    Queries that begin with the same formula share a solver, which reads it once.
    """
    solver: z3.Solver | None = None
    common: z3.BoolRef | None = None
    for query in queries:
        first, *rest = query.formulas
        if solver is None or common is None or not first.eq(common):
            solver = z3.Solver()
            if timeout is not None:
                solver.set("timeout", max(1, round(timeout * 1000)))
            solver.add(first)
            common = first
        solver.push()
        solver.add(*rest)
        answer = str(solver.check())
        model = solver.model() if answer == "sat" else None
        if model is not None and query.shorter:
            model = _shortest(solver, query.shorter) or model
        reason = solver.reason_unknown() if answer == "unknown" else ""
        yield query, answer, model, reason
        solver.pop()


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
