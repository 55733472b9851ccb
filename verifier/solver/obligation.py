"""What the verifier is asked and what it answers.

An `Obligation` is data: an identifier, one sentence, what it ranges over, how it is proved, and
the `Query`s that decide it. A query is a formula with the answer that is expected of a solver, so
the same queries are decided by z3, written out as SMT-LIB and decided by a second solver.

There are exactly three outcomes. Nothing turns "unknown" into one of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from vfio_migration.model import Trace

if TYPE_CHECKING:
    import z3

    from vfio_migration.verifier.solver.encoding import Encoding

Outcome = Literal["proved", "violated", "unknown"]
Method = Literal["symbolic", "exhaustive", "induction", "k-induction", "bounded", "quantified"]
Role = Literal["claim", "step", "witness"]


@dataclass(frozen=True, slots=True)
class Example:
    """What a solver's model reports, in words and, where it is a run, as a trace.

    Attributes:
        text: One sentence.
        trace: The run, or None.
        row: The place in the table that is to blame or to thank (`arcs[3]`), or None.
    """

    text: str
    trace: Trace | None = None
    row: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a solver.

    A claim holds if the answer is the expected one; `explain` reads a model that speaks against it.
    A step of an induction is a claim whose failure refutes nothing: the situation it begins in may
    be one that no run reaches. Then `Obligation.search` looks for a run that does.
    A witness must be satisfiable; `explain` reads the model that shows the premise hold.

    Attributes:
        name: Unique within its obligation; names the SMT-LIB file.
        role: Claim or witness.
        formulas: What is asserted.
        expect: The answer that supports the obligation.
        explain: From a model (or None where the answer has none) to words and a trace.
        shorter: Bounds on the length of an example, tightest first: the first that can be met is,
            so that the example shown is a shortest one.
        lacking: Of a witness that the table lacks names for: which, and where to declare them.
        instead: Of a witness: others that show as much, to be asked while this one cannot be met. A
            smaller table may need more events, or have no case of the kind that shows most.
        within: Of a witness that is a run: of how many steps. That none of so many is found does
            not show that there is none.
        impossible: Of a witness that is a run: asks whether its last step can happen in any
            situation, whether or not a run leads there. If not, the premise never happens.
        idle: Of a witness: what the table shows of why the premise can never happen in it. If the
            witness cannot be met, this is what is said, and the obligation holds of nothing.
    """

    name: str
    role: Role
    formulas: tuple[z3.BoolRef, ...]
    expect: Literal["sat", "unsat"]
    explain: Callable[[z3.ModelRef | None], Example]
    shorter: tuple[z3.BoolRef, ...] = ()
    lacking: str = ""
    instead: Callable[[], Iterable[Query]] | None = None
    within: int | None = None
    impossible: Callable[[], Query] | None = None
    idle: str = ""


@dataclass(frozen=True, slots=True)
class Obligation:
    """What must hold of a table, and how it is proved.

    Attributes:
        id: Family letter and number, "T4".
        statement: What must hold, one English sentence.
        ranges_over: What it is quantified over.
        method: How it is proved.
        why: Why a user should care that it holds.
        queries: From the encoding of a table to the queries that decide it.
        search: From the encoding to claims about runs from the start, shortest first, to be asked
            if a step of the induction fails; None where every claim is asked of all there is.
        title: The statement in a few words, for a line of a list and the head of a picture.
        not_shown: What a reader might take it for and a proof of it does not show, in sentences.
    """

    id: str
    statement: str
    ranges_over: str
    method: Method
    why: str
    queries: Callable[[Encoding], Iterable[Query]] = field(repr=False)
    search: Callable[[Encoding], Iterable[Query]] | None = field(default=None, repr=False)
    title: str = field(default="", kw_only=True)
    not_shown: str = field(default="", kw_only=True, repr=False)

    @property
    def heading(self) -> str:
        """The title; of a claim without one the statement."""
        return self.title or self.statement


@dataclass(frozen=True, slots=True)
class Disagreement:
    """Two solvers that answer one query differently: one of them is wrong, or its reader is.

    Attributes:
        query: The name of the query.
        z3: What z3 reports.
        cvc5: What cvc5 reports.
        text: The query, as SMT-LIB.
        file: Where the text was written, or None.
    """

    query: str
    z3: str
    cvc5: str
    text: str = field(repr=False)
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found about one obligation.

    Attributes:
        id: The obligation.
        statement: Its sentence.
        title: Its title.
        outcome: Proved, violated or unknown.
        method: How it was decided.
        seconds: Wall time.
        witness: That the premise happens, in words; None unless proved.
        example: For a violation, what breaks it; its trace is a shortest one.
        reason: For unknown, why.
        queries: How many queries were decided.
        disagreements: The queries about which two solvers disagree. None of them counts for or
            against the obligation.
    """

    id: str
    statement: str
    outcome: Outcome
    method: Method
    seconds: float
    witness: Example | None = None
    example: Example | None = None
    reason: str | None = None
    queries: int = 0
    disagreements: tuple[Disagreement, ...] = ()
    title: str = ""

    @property
    def run(self) -> Trace | None:
        """The run that breaks it, headed by what it breaks; None if there is none."""
        if self.example is None or self.example.trace is None:
            return None
        name = f"{self.id} violated: {self.title}" if self.title else f"{self.id} violated"
        return replace(self.example.trace, heading=name)
