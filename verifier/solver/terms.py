"""Formulas made without the questions that z3's Python functions ask of their arguments.

`z3.And` and `z3.Or` take anything and make one sort of it; where every argument is a formula
already, that is most of the time they take. What is made here is the same, to the last node.
"""

from __future__ import annotations

from collections.abc import Sequence

import z3
from z3.z3core import Z3_mk_and, Z3_mk_eq, Z3_mk_or


def any_of(formulas: Sequence[z3.BoolRef]) -> z3.BoolRef:
    """A disjunction; false if there is nothing to choose from."""
    if not formulas:
        return z3.BoolVal(False)
    arguments = (z3.Ast * len(formulas))(*[formula.ast for formula in formulas])
    context = z3.main_ctx()
    return z3.BoolRef(Z3_mk_or(context.ref(), len(formulas), arguments), context)


def all_of(*formulas: z3.BoolRef) -> z3.BoolRef:
    """A conjunction."""
    arguments = (z3.Ast * len(formulas))(*[formula.ast for formula in formulas])
    context = z3.main_ctx()
    return z3.BoolRef(Z3_mk_and(context.ref(), len(formulas), arguments), context)


def equal(one: z3.ExprRef, other: z3.ExprRef) -> z3.BoolRef:
    """Two terms of one sort are equal."""
    context = z3.main_ctx()
    return z3.BoolRef(Z3_mk_eq(context.ref(), one.ast, other.ast), context)
