"""Deciding obligations: solvers answer the queries, verdicts say what that means.

A claim speaks for its obligation only if the solver gives the expected answer, a proof counts only
if its witness is satisfiable, and an answer that is neither sat nor unsat is "unknown", never a
pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import z3

from vfio_migration.model import RoutingRule, Spec, SpecError
from vfio_migration.model.errors import Mistake, closest, did_you_mean
from vfio_migration.model.plan import Plans
from vfio_migration.model.wire import Wire
from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS, WEIGHT, WEIGHTS
from vfio_migration.verifier.obligations.table import variant_query
from vfio_migration.verifier.solver import smtlib, workers
from vfio_migration.verifier.solver.cvc5 import SecondSolver
from vfio_migration.verifier.solver.encoding import Encoding, scope
from vfio_migration.verifier.solver.explain import request_of
from vfio_migration.verifier.solver.missing_names import why_not
from vfio_migration.verifier.solver.obligation import (
    Disagreement,
    Example,
    Obligation,
    Outcome,
    Query,
    Verdict,
)
from vfio_migration.verifier.solver.solving import (
    Answer,
    CrossChecked,
    Solver,
    Solving,
    checked,
    new_solver,
)

__all__ = ["Answer", "Report", "Solver", "Solving", "Variant", "decide", "select", "verify"]

UNIT = 20
"""How much of a family is decided in one process, by the weights of the obligations: they share
what is built for them, and other processes have something to do meanwhile."""


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
    """Everything one run found.

    Attributes:
        spec: The table.
        profile: The profile whose capability sets were covered.
        verdicts: One for each obligation, in the catalogue's order.
        variants: Routing rules that are not in force, held against the table.
        seconds: Wall time of the whole.
        solver: Who decided.
        documents: The queries as SMT-LIB, if they were asked for.
    """

    spec: Spec
    profile: str
    verdicts: tuple[Verdict, ...]
    variants: tuple[Variant, ...]
    seconds: float
    solver: Solver = "z3"
    documents: tuple[smtlib.Document, ...] = field(default=(), repr=False)

    @property
    def outcome(self) -> Outcome:
        """Violated if anything is; otherwise unknown if anything is; otherwise proved."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if "violated" in outcomes:
            return "violated"
        return "unknown" if "unknown" in outcomes or not outcomes else "proved"


def select(only: Sequence[str] | None, claims: Sequence[Obligation] = ()) -> tuple[Obligation, ...]:
    """Return the obligations named, by identifier ("T4") or family ("T"); all without a name.

    Args:
        only: Identifiers or families.
        claims: Obligations of the user's own, which come after the built-in ones.

    Raises:
        SpecError: If a name stands for none, or a claim has the identifier of another obligation.
    """
    known = (*OBLIGATIONS, *claims)
    names = [obligation.id.upper() for obligation in known]
    for claim in claims:
        if names.count(claim.id.upper()) > 1:
            raise SpecError([Mistake("--claims", claim.id, "names two obligations", "rename one")])
    if not only:
        return known
    for name in only:
        if not any(_matches(name, obligation) for obligation in known):
            names = [obligation.id for obligation in known]
            hint = did_you_mean(closest(name, names)) or f"there are {', '.join(names)}"
            raise SpecError(
                [Mistake("--only", name, "there is no such obligation or family", hint)]
            )
    return tuple(
        obligation for obligation in known if any(_matches(name, obligation) for name in only)
    )


def _matches(name: str, obligation: Obligation) -> bool:
    return name.upper() in (obligation.id.upper(), _family(obligation).upper())


def _family(obligation: Obligation) -> str:
    return obligation.id.rstrip("0123456789")


def verify(
    spec: Spec,
    *,
    plans: Plans | None = None,
    wire: Wire | None = None,
    profile: str | None = None,
    only: Sequence[str] | None = None,
    claims: Sequence[Obligation] = (),
    timeout: float | None = None,
    total_timeout: float | None = None,
    solver: Solver = "z3",
    jobs: int | None = None,
    export: smtlib.Origin | None = None,
    progress: Callable[[Verdict], None] = lambda _: None,
) -> Report:
    """Decide obligations about a table.

    Args:
        spec: The table.
        plans: The plans for groups; by default those that come with the package.
        wire: The table of the connection; by default the one that comes with the package.
        profile: Whose capability sets to cover; by default those of all profiles.
        only: Identifiers or families; all by default.
        claims: Obligations of the user's own, decided after the built-in ones.
        timeout: Seconds a single query may take; a query over it is unknown.
        total_timeout: Seconds that all of it may take; what is not decided by then is unknown.
            Without child processes it is looked at between two obligations only.
        solver: Who decides.
        jobs: How many child processes work at once; None decides everything in this process, and
            so does any number where forking is impossible or other threads run. The outcomes are
            the same; which of several witnesses is found may differ between the two.
        export: Return the queries as SMT-LIB, with this in their heads.
        progress: Called with each verdict when it is found and all before it are.
    """
    begun = time.perf_counter()
    chosen = select(only, claims)
    rules = [rule for rule in spec.routing if not rule.in_force]
    run = _Run(
        spec=spec,
        plans=plans,
        wire=wire,
        profile=profile,
        chosen=chosen,
        claims=frozenset(claim.id for claim in claims),
        rules=tuple(rules) if any(obligation.id == "T4" for obligation in chosen) else (),
        timeout=timeout,
        solver=solver,
        second=None if solver == "z3" else SecondSolver(),
        export=export,
    )
    results: Generator[tuple[int, _Found | Variant | workers.Missing], None, None]
    if jobs is not None and workers.can_fork():
        results = workers.spread(run.units(), run.work_in_child, jobs, total_timeout)
    else:
        results = run.here(total_timeout)
    found: dict[int, _Found] = {}
    variants: dict[int, Variant] = {}
    shown = 0
    # Closed at once, whatever happens here: that ends the children.
    with contextlib.closing(results):
        for index, result in results:
            if index >= len(chosen):
                variants[index] = run.variant_of(index, result)
                continue
            found[index] = run.found_of(index, result)
            while shown in found:
                progress(found[shown].verdict)
                shown += 1
    in_order = [found[index] for index in sorted(found)]
    return Report(
        spec=spec,
        profile=",".join(row.name for row in scope(spec, profile)),
        verdicts=tuple(one.verdict for one in in_order),
        variants=tuple(variants[index] for index in sorted(variants)),
        seconds=time.perf_counter() - begun,
        solver=solver,
        documents=tuple(itertools.chain.from_iterable(one.documents for one in in_order)),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What a process sends back about an obligation."""

    verdict: Verdict
    documents: tuple[smtlib.Document, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One call of `verify`. Its tasks are the obligations, then the rules that are not in force."""

    spec: Spec
    plans: Plans | None
    wire: Wire | None
    profile: str | None
    chosen: tuple[Obligation, ...]
    claims: frozenset[str]
    rules: tuple[RoutingRule, ...]
    timeout: float | None
    solver: Solver
    second: SecondSolver | None
    export: smtlib.Origin | None

    @property
    def tasks(self) -> int:
        return len(self.chosen) + len(self.rules)

    def units(self) -> list[workers.Unit]:
        """Neighbours of one family to a process, up to `UNIT`, and all rules to another.

        The heaviest come first: what is begun last decides when all is done.
        """
        units: list[workers.Unit] = []
        for _, group in itertools.groupby(
            range(len(self.chosen)), lambda index: _family(self.chosen[index])
        ):
            members: list[int] = []
            for index in group:
                if members and self._weight([*members, index]) > UNIT:
                    units.append(tuple(members))
                    members = []
                members.append(index)
            units.append(tuple(members))
        units.sort(key=self._weight, reverse=True)
        rules = tuple(range(len(self.chosen), self.tasks))
        return [*units, rules] if rules else units

    def _weight(self, members: Sequence[int]) -> int:
        return sum(WEIGHTS.get(self.chosen[index].id, WEIGHT) for index in members)

    def here(
        self, total_timeout: float | None
    ) -> Generator[tuple[int, _Found | Variant | workers.Missing], None, None]:
        """Do every task in this process."""
        begun = time.monotonic()
        everything = range(self.tasks)
        found = self.work(tuple(everything))
        for index in everything:
            if total_timeout is not None and time.monotonic() - begun > total_timeout:
                reason = f"not begun within the {total_timeout:g} s of the total timeout"
                yield index, workers.Missing(reason)
            else:
                yield index, next(found)

    def work_in_child(self, unit: workers.Unit) -> Iterator[_Found | Variant]:
        """Do tasks in a process of their own."""
        if not self.claims:
            # z3 can leave out its checks of our calls, as under `python -O`: a tenth of the time.
            # They stay for claims, where a wrong call must be reported and not crash.
            z3.z3.Z3_DEBUG = False
        yield from self.work(unit)

    def work(self, unit: workers.Unit) -> Iterator[_Found | Variant]:
        """Do tasks that share an encoding and its solvers."""
        encoding = Encoding(self.spec, self.profile, plans=self.plans, wire=self.wire)
        solving = (
            Solving(self.timeout)
            if self.second is None
            else CrossChecked(self.second, self.solver, self.timeout)
        )
        for index in unit:
            if index < len(self.chosen):
                yield self._decided(self.chosen[index], encoding, solving)
            else:
                yield _variant(encoding, self.rules[index - len(self.chosen)], self.timeout)

    def _decided(self, obligation: Obligation, encoding: Encoding, solving: Solving) -> _Found:
        try:
            taken: dict[str, Query] = {}
            verdict = decide(obligation, encoding, solving, taken)
            if self.export is None:
                return _Found(verdict)
            queries = [taken.get(query.name, query) for query in obligation.queries(encoding)]
            if verdict.outcome != "proved" and obligation.search is not None:
                queries += obligation.search(encoding)
            return _Found(verdict, smtlib.documents(obligation, queries, self.export))
        except MemoryError:
            return self.unknown(obligation, "there is not enough memory")
        except SpecError as error:
            if obligation.id in self.claims:
                raise
            # A table may lack what an obligation speaks of, as group_plan.toml speaks of P2P.
            reason = f"it cannot be asked of this table: {why_not(self.spec, error)}"
            return self.unknown(obligation, reason)
        except Exception as error:
            if obligation.id not in self.claims:
                raise
            problem = f"cannot be asked: {type(error).__name__}: {error}"
            raise SpecError([Mistake("--claims", obligation.id, problem, None)]) from error

    def unknown(self, obligation: Obligation, reason: str) -> _Found:
        """Nothing is known about this obligation."""
        return _Found(
            Verdict(
                id=obligation.id,
                statement=obligation.statement,
                title=obligation.heading,
                outcome="unknown",
                method=obligation.method,
                seconds=0.0,
                reason=reason,
            )
        )

    def found_of(self, index: int, result: _Found | Variant | workers.Missing) -> _Found:
        """What a task about an obligation came to."""
        if isinstance(result, workers.Missing):
            return self.unknown(self.chosen[index], result.reason)
        assert isinstance(result, _Found)
        return result

    def variant_of(self, index: int, result: _Found | Variant | workers.Missing) -> Variant:
        """What a task about a rule came to."""
        if isinstance(result, workers.Missing):
            rule = self.rules[index - len(self.chosen)]
            return Variant(rule, (), 0, 0.0, result.reason)
        assert isinstance(result, Variant)
        return result


def decide(
    obligation: Obligation,
    encoding: Encoding,
    solving: Solving | None = None,
    taken: dict[str, Query] | None = None,
) -> Verdict:
    """Decide one obligation.

    Args:
        obligation: The obligation.
        encoding: The table.
        solving: Who is asked.
        taken: Filled with the witnesses that were found in place of others, by name.
    """
    solving = solving or Solving()
    begun = time.perf_counter()
    witness: Example | None = None
    pending: list[str] = []
    disagreements: list[Disagreement] = []
    count = 0

    def verdict(outcome: Outcome, example: Example | None = None) -> Verdict:
        return Verdict(
            id=obligation.id,
            statement=obligation.statement,
            title=obligation.heading,
            outcome=outcome,
            method=obligation.method,
            seconds=time.perf_counter() - begun,
            witness=witness if outcome == "proved" else None,
            example=example,
            reason="; ".join(pending) if outcome == "unknown" else None,
            queries=count,
            disagreements=tuple(disagreements),
        )

    failed_steps: list[str] = []
    for query in obligation.queries(encoding):
        answer = solving.ask(query)
        count += 1
        if query.role == "witness" and answer.answer == "unsat":
            longest = query.within
            for other in query.instead() if query.instead is not None else ():
                answer = solving.ask(other)
                count += 1
                longest = other.within
                if answer.answer != "unsat":
                    query = other
                    break
            else:
                query = dataclasses.replace(query, within=longest)
                if query.idle:
                    query = dataclasses.replace(query, expect="unsat")
            if taken is not None:
                taken[query.name] = query
        if answer.answer == "unknown":
            # Go on: another query may still refute, which states more than "unknown".
            pending.append(f"{query.name}: {answer.reason}")
            if answer.disagreement is not None:
                # An answer is kept for every query of these formulas, whatever their names.
                found = dataclasses.replace(answer.disagreement, query=query.name)
                disagreements.append(found)
        elif answer.answer != query.expect:
            if query.role == "claim":
                return verdict("violated", answer.example)
            if query.role == "step":
                failed_steps.append(query.name)
            else:
                pending.append(f"{query.name}: {query.lacking or _not_seen(query, solving)}")
        elif query.role == "witness" and witness is None:
            witness = answer.example or Example(f"nothing: {query.idle}")
    if failed_steps and obligation.search is not None:
        for query in obligation.search(encoding):
            answer = solving.ask(query)
            count += 1
            if answer.answer == "unknown":
                pending.append(f"{query.name}: {answer.reason}")
                if answer.disagreement is not None:
                    disagreements.append(answer.disagreement)
            elif answer.answer != query.expect:
                return verdict("violated", answer.example)
    if failed_steps:
        pending.append(
            f"the induction fails ({', '.join(failed_steps)}), but no run found breaks it"
        )
    if witness is None and not pending:
        pending.append("there is no witness")
    return verdict("unknown" if pending else "proved")


def _not_seen(query: Query, solving: Solving) -> str:
    """What is known of a premise for which no witness was found."""
    if query.within is not None and (
        query.impossible is None or solving.ask(query.impossible()).answer != "unsat"
    ):
        return (
            f"the premise does not happen within {query.within} steps; longer runs were not tried"
        )
    return "the premise never happens, so a proof shows nothing"


def _variant(encoding: Encoding, rule: RoutingRule, timeout: float | None) -> Variant:
    """List every cell in which the table's path breaks a rule that is not in force."""
    begun = time.perf_counter()
    query, from_, to = variant_query(encoding, rule)
    solver = new_solver(timeout)
    solver.add(*query.formulas)
    cells = []
    while (answer := checked(solver, timeout)) == "sat":
        model = solver.model()
        word, here, there = request_of(encoding, model, from_, to)
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
        unknown=solver.reason_unknown() if answer == "unknown" else None,
    )
