"""Putting queries to solvers: z3 in this process, cvc5 beside it or in its place.

`Solving` asks z3. `CrossChecked` has cvc5 decide the SMT-LIB text of the same query; where the two
answer differently, that is a disagreement, which speaks neither for an obligation nor against it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import z3

from vfio_migration.verifier.solver import smtlib
from vfio_migration.verifier.solver.cvc5 import SecondSolver
from vfio_migration.verifier.solver.obligation import Disagreement, Example, Query

Solver = Literal["z3", "cvc5", "both"]
"""Who decides: z3, cvc5 (z3 then only finds the examples), or both, which must agree."""

SOLVERS: tuple[Solver, ...] = ("z3", "cvc5", "both")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a query.

    Attributes:
        answer: "sat", "unsat" or "unknown".
        example: The example, if the answer has one.
        reason: For unknown, who gave up and why.
        disagreement: For unknown, that two solvers disagree.
    """

    answer: str
    example: Example | None = None
    reason: str = ""
    disagreement: Disagreement | None = None


class Solving:
    """z3 at work on one encoding.

    Queries that begin with the same formula share a solver, which reads it once. A query asked
    before, as the lemmas of several obligations are, is not asked again.
    """

    def __init__(self, timeout: float | None = None) -> None:
        self.timeout = timeout
        self._solvers: dict[int, tuple[z3.BoolRef, z3.Solver]] = {}
        self._asked: dict[tuple[object, ...], tuple[Query, Answer]] = {}

    def ask(self, query: Query) -> Answer:
        """Put one query to the solver."""
        # Formulas are shared: equal ones have the same id as long as one of them is kept, as here.
        ids = tuple(formula.get_id() for formula in query.formulas)
        key = (query.role, query.expect, *ids)
        asked = self._asked.get(key)
        # What another query states of the same answer is not what this one does.
        if asked is None or (asked[1].example and asked[0].explain is not query.explain):
            asked = self._asked[key] = (query, self._ask(query))
        return asked[1]

    def _ask(self, query: Query) -> Answer:
        first, *rest = query.formulas
        solver = self._solver(first)
        solver.push()
        try:
            try:
                solver.add(*rest)
                answer = checked(solver, self.timeout)
            except z3.Z3Exception as error:
                # "out of memory", "max. memory exceeded": z3 states it by raising.
                return Answer("unknown", reason=f"z3 gave up ({_message(error)})")
            if answer == "unknown":
                return Answer(answer, reason=f"z3 gave up ({self._why(solver)})")
            if answer != "sat" and (query.role != "claim" or answer == query.expect):
                return Answer(answer)
            model = solver.model() if answer == "sat" else None
            if model is not None and query.shorter:
                model = _shortest(solver, self.timeout, query.shorter) or model
            return Answer(answer, query.explain(model) if _explains(query, answer) else None)
        finally:
            solver.pop()

    def _why(self, solver: z3.Solver) -> str:
        reason = str(solver.reason_unknown())
        if reason in ("timeout", "canceled") and self.timeout is not None:
            return f"timeout: {self.timeout:g} s"
        return reason

    def _solver(self, first: z3.BoolRef) -> z3.Solver:
        if first.get_id() not in self._solvers:
            solver = new_solver(self.timeout)
            solver.add(first)
            self._solvers[first.get_id()] = (first, solver)
        return self._solvers[first.get_id()][1]


class CrossChecked(Solving):
    """cvc5 at work on the SMT-LIB text of each query, alone or beside z3."""

    def __init__(self, second: SecondSolver, solver: Solver, timeout: float | None = None) -> None:
        super().__init__(timeout)
        self._second = second
        self._both = solver == "both"

    def _ask(self, query: Query) -> Answer:
        text = smtlib.text(query.formulas)
        theirs = self._second.decide(text, self.timeout)
        if theirs.answer == "unknown":
            return Answer("unknown", reason=f"cvc5 gave up ({theirs.reason})")
        if not self._both and not _explains(query, theirs.answer):
            return Answer(theirs.answer)
        ours = super()._ask(query)
        if ours.answer == "unknown":
            if self._both:
                return ours
            example = Example(f"cvc5 answers {theirs.answer}; {ours.reason} and does not know why")
            return Answer(theirs.answer, example)
        if ours.answer != theirs.answer:
            return Answer(
                "unknown",
                reason=f"z3 reports {ours.answer} and cvc5 reports {theirs.answer}",
                disagreement=Disagreement(query.name, ours.answer, theirs.answer, text),
            )
        return ours


def _explains(query: Query, answer: str) -> bool:
    """This answer has an example."""
    return query.role == "witness" or answer != query.expect


def new_solver(timeout: float | None) -> z3.Solver:
    """Make a z3 solver that gives each query so many seconds."""
    solver = z3.Solver()
    if timeout is not None:
        solver.set("timeout", _milliseconds(timeout))
    return solver


def _milliseconds(timeout: float) -> int:
    return max(1, round(timeout * 1000))


def checked(solver: z3.Solver, timeout: float | None, *assumptions: z3.BoolRef) -> str:
    """Let z3 decide.

    Raises:
        KeyboardInterrupt: If z3 was interrupted. It catches the signal itself and answers
            "unknown", often with the same reason as when its time is up.
    """
    begun = time.perf_counter()
    answer = str(solver.check(*assumptions))
    if answer == "unknown":
        reason = solver.reason_unknown()
        took = (time.perf_counter() - begun) * 1000
        early = timeout is None or took < 0.9 * _milliseconds(timeout)
        if reason == "interrupted from keyboard" or (reason == "canceled" and early):
            raise KeyboardInterrupt
    return answer


def _message(error: z3.Z3Exception) -> str:
    value = error.value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shortest(
    solver: z3.Solver, timeout: float | None, bounds: Sequence[z3.BoolRef]
) -> z3.ModelRef | None:
    """Return a model under the first bound that can be met."""
    for bound in bounds:
        if checked(solver, timeout, bound) == "sat":
            return solver.model()
    return None
