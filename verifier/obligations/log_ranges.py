"""Ranges of DMA logging that change while logging is on: proposed, and not part of S6.

Today there is one START and its ranges are fixed. Here they may change at any time: the address
under watch is logged or not. A write that is not logged is nobody's to report; what was logged, and
not reported before its range was left out, is still to be reported. A logger either keeps its marks
over the change, or begins anew as START does. What else there is to it is in `dirty_log`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import z3

from vfio_migration.verifier.obligations.dirty_log import DmaLogSystem
from vfio_migration.verifier.solver.encoding import Encoding
from vfio_migration.verifier.solver.obligation import Example, Obligation, Query
from vfio_migration.verifier.solver.system import Event, Situation, Term

_RUN = ("write", "change", "report")
_WORDS = {
    "write": "DMA writes to the tracking page",
    "change": "the ranges change",
    "report": "a report covers a part of it",
    "received": "the client receives the report",
    "lost": "the report is not sent",
}


class KeptMarksSystem(DmaLogSystem):
    """A logger whose marks outlive a change of its ranges.

    The variables are those of `DmaLogSystem`, and:
        logged: The address is in the ranges.
    """

    events = (*DmaLogSystem.events, "change")
    keeps = True
    """Whether the marks outlive a change."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__(encoding)
        self.sorts = {**self.sorts, "logged": z3.BoolSort()}

    def transitions(self, now: Situation, choose: Callable[[str, z3.SortRef], Term]) -> list[Event]:
        """Besides what a logger does: the ranges change. Nothing else of a write is logged."""
        found = []
        for event in super().transitions(now, choose):
            if event.name == "write":
                updates = {
                    name: z3.If(now["logged"], value, now[name])
                    for name, value in event.updates.items()
                }
                found.append(replace(event, updates=updates))
            else:
                found.append(event)
        changes = {"logged": choose("logged", z3.BoolSort())}
        if not self.keeps:
            changes["marked"] = z3.BoolVal(False)
        return [*found, Event("change", z3.BoolVal(True), changes)]

    def example_of(
        self, _model: z3.ModelRef, _run: Sequence[Situation], events: Sequence[str]
    ) -> Example:
        """Return a run without its numbers, of which none matters."""
        return Example("; ".join(_WORDS[name] for name in events))


class NewStartSystem(KeptMarksSystem):
    """A logger for which a change is a START: nothing is marked after it."""

    keeps = False


def _queries(encoding: Encoding, *, keeps: bool) -> Iterator[Query]:
    system = (KeptMarksSystem if keeps else NewStartSystem)(encoding)
    yield from system.inductive(system.lemmas)
    yield from system.never("missed", system.missed, system.lemmas)
    order = [system.is_event(system.event(at), name) for at, name in enumerate(_RUN)]
    yield system.happens("reported-after-a-change", system.reported, len(_RUN), *order)


def _search(encoding: Encoding, *, keeps: bool) -> Sequence[Query]:
    system = (KeptMarksSystem if keeps else NewStartSystem)(encoding)
    return tuple(system.bounded(system.missed, len(_RUN)))


def _obligation(name: str, logger: str, *, keeps: bool) -> Obligation:
    return Obligation(
        name,
        f"Logging ranges change while logging is on, and {logger}: whatever was logged and not "
        "reported is reported.",
        "any number of writes, reports and changes of the ranges, any addresses and page sizes",
        "induction",
        "A page that was written and not reported is a page of guest memory that is lost.",
        lambda encoding: _queries(encoding, keeps=keeps),
        lambda encoding: _search(encoding, keeps=keeps),
    )


PROPOSED = (
    _obligation("R1", "the marks are kept", keeps=True),
    _obligation("R2", "a change begins anew, as START does", keeps=False),
)
"""Obligations of a proposal: no verdict about a table lists them."""

__all__ = ["PROPOSED", "KeptMarksSystem", "NewStartSystem"]
