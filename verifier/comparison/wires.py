"""Two tables of the connection compared: whether the sides of OLD and of NEW work together.

What a table adds may need an option of its own, which VERSION agrees on only if both sides name it.
So two things make it compatible both ways, and both are decided here. What needs no such option is
the same in both. And as long as no option is agreed on that one of them lacks, the servers of both
answer every message, in every situation, alike: a solver finds no message of which that is not so.
A client sends nothing that needs an option which was not agreed on: it is not allowed to.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import z3

from vfio_migration.model import Spec
from vfio_migration.model.spec import Row
from vfio_migration.model.wire import Wire
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.solver.obligation import Example, Query
from vfio_migration.verifier.solver.solving import Answer, Solving
from vfio_migration.verifier.systems.connection import ConnectionSystem
from vfio_migration.verifier.systems.connection_answers import Answers

_SECTIONS: Final = (
    "header", "words", "flags", "choices", "limits", "options", "holdings", "commands", "features",
    "answers",
)  # fmt: skip
_OUTCOMES: Final = ("error", "closes", "ignored")


@dataclass(frozen=True, slots=True)
class WireComparison:
    """OLD and NEW compared.

    Attributes:
        names: What they are called in messages.
        added: The rows that NEW adds, each in words.
        removed: The rows that it removes.
        changed: What of that needs no option, and what is not as it was.
        answer: What the solver answered: is there a message that the two answer differently?
    """

    names: tuple[str, str]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    answer: Answer

    @property
    def compatible(self) -> bool | None:
        """Each side of the one works with each side of the other; None if it is not known."""
        if self.changed or self.answer.answer == "sat":
            return False
        return True if self.answer.answer == "unsat" else None


def compare_wires(
    old: Wire, new: Wire, spec: Spec, names: tuple[str, str] = ("OLD", "NEW")
) -> WireComparison:
    """Compare two tables of the connection over one table of states."""
    added, removed = (
        tuple(_called(section, row) for section, row in _only_in(one, other))
        for one, other in ((new, old), (old, new))
    )
    changed = tuple(_changes(_common(old, new), _common(new, old)))
    return WireComparison(names, added, removed, changed, differing(old, new, spec))


def lines(comparison: WireComparison) -> Iterator[str]:
    """Yield a comparison as text."""
    verdict = {True: "compatible both ways", False: "not compatible", None: "unknown"}
    yield f"{' to '.join(comparison.names)}: {verdict[comparison.compatible]}"
    yield ""
    yield from (f"  added: {words}" for words in comparison.added)
    yield from (f"  removed: {words}" for words in comparison.removed)
    yield from (f"  changed: {words}" for words in comparison.changed)
    if comparison.answer.answer == "unsat":
        yield "  With no option but those that both have every message is answered alike: proved."
    elif comparison.answer.example is not None:
        yield f"  answered differently: {comparison.answer.example.text}"
    else:
        yield f"  whether each message is answered alike is unknown: {comparison.answer.reason}"


def to_data(comparison: WireComparison) -> dict[str, Any]:
    """Return a comparison as `diff --json` prints it."""
    example = comparison.answer.example
    return {
        "old": comparison.names[0],
        "new": comparison.names[1],
        "compatible": comparison.compatible,
        "changes": [
            *({"kind": "added", "what": words} for words in comparison.added),
            *({"kind": "removed", "what": words} for words in comparison.removed),
            *({"kind": "changed", "what": words} for words in comparison.changed),
        ],
        "distinguishing": None if example is None else example.text,
    }


def _only_in(one: Wire, other: Wire) -> Iterator[tuple[str, Row]]:
    """Yield the rows of one table that the other does not have at all."""
    for section in _SECTIONS:
        there = {_key(row) for row in getattr(other, section)}
        for row in getattr(one, section):
            if _key(row) not in there:
                yield section, row


def _common(wire: Wire, other: Wire) -> Wire:
    """Return a table without the options that the other does not have."""
    for name in {row.name for row in wire.options} - {row.name for row in other.options}:
        wire = wire.without(name)
    return wire


def _changes(old: Wire, new: Wire) -> Iterator[str]:
    for section, row in _only_in(old, new):
        yield f"{_called(section, row)} is removed, and needed no option"
    for section, row in _only_in(new, old):
        yield f"{_called(section, row)} needs no option that OLD lacks"
    for section in _SECTIONS:
        rows = {_key(row): row for row in getattr(new, section)}
        for row in getattr(old, section):
            other = rows.get(_key(row))
            if other is not None and _meaning(other) != _meaning(row):
                yield f"{_called(section, row)} is not what it was"


def _key(row: Any) -> tuple[str, str]:
    """Return what a row is known by."""
    return str(getattr(row, "word", "")), str(getattr(row, "name", None) or row.when)


def _meaning(row: Any) -> Row:
    """Return a row without what only people read."""
    texts = {name: "" for name in ("summary", "source", "reason") if hasattr(row, name)}
    kept: Row = replace(row, **texts)
    return kept


def _called(section: str, row: Any) -> str:
    word, name = _key(row)
    needs = getattr(row, "needs", None)
    about = f" of {word}" if word else f", which needs {needs}" if needs else ""
    return f"[[{section}]] {name}{about}"


def differing(old: Wire, new: Wire, spec: Spec) -> Answer:
    """Ask for a message that is answered differently with no option but those that both have."""
    encoding, moment = Encoding(spec, wire=new), 0
    system = ConnectionSystem.of(encoding)
    both = {row.name for row in old.options} & {row.name for row in new.options}
    now = dict(system.situation(moment))
    for row in old.holdings:
        now.setdefault(f"keeps_{row.name}", z3.Int(f"keeps_{row.name}"))
    for option in {row.name for row in (*old.options, *new.options)} - both:
        now[f"has_{option}"] = z3.BoolVal(False)
    sides = [Answers(encoding, wire) for wire in (old, new)]
    message = sides[0].message(moment)
    verdicts = [side.verdict(now, message) for side in sides]
    errnos = [side.errno(now, moment) for side in sides]
    same = [
        sides[0].comes_to(verdicts[0], outcome) == sides[1].comes_to(verdicts[1], outcome)
        for outcome in _OUTCOMES
    ]

    def explain(model: z3.ModelRef | None) -> Example:
        assert model is not None
        number = model.eval(message.number, model_completion=True).as_long()
        row = new.command(number) or old.command(number)
        name = f"command {number}" if row is None else row.name
        codes = [model.eval(term, model_completion=True).as_long() for term in errnos]
        answers = [errno.errorcode.get(code, "served") for code in codes]
        where = encoding.read_state(model, now["state"])
        return Example(f"{name} in {where}: {answers[0]} by OLD, {answers[1]} by NEW")

    formulas = (
        z3.And(system.facts, encoding.supported(now["state"])),
        z3.Not(z3.And(*same, errnos[0] == errnos[1])),
    )
    # One that only the change concerns shows most.
    plain = (z3.Or(errnos[0] == 0, errnos[1] == 0),)
    return Solving().ask(Query("differing", "claim", formulas, "unsat", explain, shorter=plain))
