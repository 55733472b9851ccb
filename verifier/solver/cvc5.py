"""cvc5, the second solver: it reads the SMT-LIB text of a query and shares no code with z3.

`SecondSolver` needs cvc5 (extra "cvc5"); importing this module does not.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from vfio_migration.model.extras import from_extra

OPTIONS = {"decision": "internal"}
"""Measured over the whole catalogue: decided in 16 s with this, in 25 s without."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What cvc5 answers: sat, unsat or unknown, and for unknown the reason."""

    answer: str
    reason: str = ""


class SecondSolver:
    """cvc5, new for each query: no query can lean on another.

    Raises:
        MissingExtraError: If cvc5 is not installed.
    """

    def __init__(self) -> None:
        with from_extra():
            self._cvc5: Any = importlib.import_module("cvc5")

    @property
    def version(self) -> str:
        """The version of cvc5."""
        return str(self._cvc5.__version__)

    def decide(self, text: str, timeout: float | None = None) -> Decision:
        """Decide the one query of an SMT-LIB text."""
        cvc5 = self._cvc5
        solver = cvc5.Solver(cvc5.TermManager())
        for option, value in OPTIONS.items():
            solver.setOption(option, value)
        if timeout is not None:
            solver.setOption("tlimit-per", str(max(1, round(timeout * 1000))))
        parser = cvc5.InputParser(solver)
        # Given which answer to expect, cvc5 would answer another with an error.
        lines = (line for line in text.splitlines() if not line.startswith("(set-info :status"))
        parser.setStringInput(cvc5.InputLanguage.SMT_LIB_2_6, "\n".join(lines), "query")
        output = []
        try:
            symbols = parser.getSymbolManager()
            while not (command := parser.nextCommand()).isNull():
                output.append(str(command.invoke(solver, symbols)).strip())
        except RuntimeError as error:
            return Decision("unknown", f"it cannot read the query: {' '.join(str(error).split())}")
        return _decision([line for line in output if line], timeout)


def _decision(output: list[str], timeout: float | None) -> Decision:
    """Make sense of what was printed: one answer, and nothing else."""
    if output in (["sat"], ["unsat"]):
        return Decision(output[0])
    reason = "; ".join(output) or "it gave no answer"
    if timeout is not None and "TIMEOUT" in reason:
        reason = f"timeout: {timeout:g} s"
    return Decision("unknown", reason)
