"""T10 and T11: what becomes of a request, as the rows of `[[requests]]` decide it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import z3

from vfio_migration.verifier.solver.encoding import Encoding, Formula, Term
from vfio_migration.verifier.solver.explain import Model, asked_trace, decided, pair
from vfio_migration.verifier.solver.obligation import Example, Query

_SETS_OUT, _NOTHING, _REFUSED = (z3.BitVecVal(value, 2) for value in range(3))


def answer(encoding: Encoding, from_: Term, to: Term) -> z3.BitVecRef:
    """What becomes of a request: the outcome of the first row that holds, or it sets out."""
    decided = _SETS_OUT
    for row in reversed(encoding.spec.requests):
        outcome = _NOTHING if row.outcome == "nothing" else _REFUSED
        decided = z3.If(encoding.holds(row.when, from_, to), outcome, decided)
    return decided


def one_answer(encoding: Encoding) -> Iterator[Query]:
    """T10: each request is refused, a no-op or sets out, exactly when it must."""
    from_, to = pair(encoding)
    answered = answer(encoding, from_, to)
    asked = z3.And(encoding.universe, encoding.next_facts, encoding.supported(from_))
    open_ = z3.And(
        encoding.supported(to), encoding.settable(to), z3.Not(encoding.refused(from_, to))
    )
    arrives = encoding.follow(from_, to)[-1] == to

    def request(name: str, wrong: Formula, remark: str) -> Query:
        return Query(name, "claim", (asked, wrong), "unsat", _explain(encoding, from_, to, remark))

    yield request(
        "not-refused",
        z3.And(z3.Not(open_), answered != _REFUSED),
        "no device can be asked for that, and yet it is not refused",
    )
    yield request(
        "present-state",
        z3.And(open_, from_ == to, answered != _NOTHING),
        "the device is there already, and yet this is not a success",
    )
    yield request(
        "elsewhere",
        z3.And(open_, from_ != to, answered == _NOTHING),
        "the answer is success, and the device is not there",
    )
    yield request(
        "refused-needlessly",
        z3.And(open_, arrives, answered == _REFUSED),
        "there is a path, and nothing speaks against it",
    )
    yield request(
        "sets-out-for-nowhere",
        z3.And(z3.Not(arrives), answered == _SETS_OUT),
        "there is no path",
    )
    for index, row in enumerate(encoding.spec.next_steps):
        if row.from_ == row.to != row.step:
            # Linux compares the states before it asks for a step; the caller first is led away.
            text = f"{row.from_} -> {row.step} (SET_STATE {row.to}): the device is there already"
            away = _fixed(Example(text, None, f"next_steps[{index}]"))
            yield Query(f"moves-away-{index}", "claim", (z3.BoolVal(True),), "unsat", away)
    for name, outcome in (("refused", _REFUSED), ("success", _NOTHING), ("sets-out", _SETS_OUT)):
        explain = _explain(encoding, from_, to, "")
        yield Query(name, "witness", (asked, answered == outcome), "sat", explain)


def no_request_for_failure(encoding: Encoding) -> Iterator[Query]:
    """T11: a request for the state that devices fail into is refused, wherever the device is."""
    spec = encoding.spec
    from_, to = pair(encoding)
    landing = spec.event("arc_failed_for_good").to
    failed = encoding.one_of(to, [] if landing is None else [landing])
    answered = answer(encoding, from_, to)
    asked = z3.And(encoding.universe, encoding.next_facts, encoding.supported(from_), failed)
    remark = "only a failure leads there, and yet it can be asked for"
    explain = _explain(encoding, from_, to, remark)
    yield Query("failure-by-request", "claim", (asked, answered != _REFUSED), "unsat", explain)
    idle = "" if landing else "arc_failed_for_good leads nowhere in this table"
    shown = _explain(encoding, from_, to, "")
    yield Query(
        "failure-refused", "witness", (asked, answered == _REFUSED), "sat", shown, idle=idle
    )


def _fixed(example: Example) -> Callable[[Model], Example]:
    return lambda _model: example


def _explain(encoding: Encoding, from_: Term, to: Term, remark: str) -> Callable[[Model], Example]:
    """Describe what the table makes of the request a model chose."""
    spec = encoding.spec

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        here = encoding.read_state(model, from_) or "?"
        unknown = max(row.value for row in spec.states) + 1
        target = encoding.read_state(model, to) or unknown
        route = decided(encoding, word, here, target)
        answer = route or f"{here} -> {target}: no row of [[requests]] decides"
        text = f"{answer} (capabilities {encoding.set_name(word)})"
        title = f"{text}: {remark}" if remark else text
        return Example(title, asked_trace(encoding, word, here, target, title))

    return explain
