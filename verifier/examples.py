"""What obligations about requests share: their terms, and telling a model in words and a trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import z3

from vfio_migration.verifier.encoding import Encoding, Term, path_trace
from vfio_migration.verifier.obligation import Example

Model: TypeAlias = z3.ModelRef | None
"""What `Query.explain` is given: a model, or None where the answer comes without one."""


def pair(encoding: Encoding) -> tuple[Term, Term]:
    """The two states of a request, for the solver to choose."""
    return encoding.variable("from"), encoding.variable("to")


def step_example(
    encoding: Encoding, from_: Term, to: Term, say: Callable[[str, str], str]
) -> Callable[[Model], Example]:
    """Explain a model that chose a capability set and two states."""

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        here, there = encoding.read_state(model, from_), encoding.read_state(model, to)
        assert here is not None
        assert there is not None
        text = say(here, there) + f" (capabilities {encoding.set_name(word)})"
        trace = None
        if encoding.machines[word].arc(here, there) is not None:
            trace = path_trace(encoding.spec, word, [here, there], text)
        return Example(text, trace, _row(encoding, here, there))

    return explain


def _row(encoding: Encoding, from_: str, to: str) -> str | None:
    """Where the table speaks of this pair."""
    spec = encoding.spec
    arcs = [(f"arcs[{i}]", row.from_, row.to) for i, row in enumerate(spec.arcs)]
    refusals = [(f"refusals[{i}]", row.from_, row.to) for i, row in enumerate(spec.refusals)]
    rows = (place for place, *ends in arcs + refusals if ends == [from_, to])
    return next(rows, None)


def request_example(
    encoding: Encoding, from_: Term, to: Term, say: Callable[[z3.ModelRef, str], str]
) -> Callable[[Model], Example]:
    """Explain a model that chose a capability set and a request: its path, and what `say` adds."""

    def explain(model: Model) -> Example:
        assert model is not None
        word = encoding.read_flags(model)
        here, there = encoding.read_state(model, from_), encoding.read_state(model, to)
        assert here is not None
        assert there is not None
        machine = encoding.machines[word]
        path = [here]
        while path[-1] != there and len(path) <= len(encoding.names):
            step = machine.next_step(path[-1], there)
            if step is None:
                break
            path.append(step)
        text = f"{' -> '.join(path)} (SET_STATE {there}, capabilities {encoding.set_name(word)})"
        remark = say(model, there)
        title = f"{text}: {remark}" if remark else text
        return Example(title, path_trace(encoding.spec, word, path, title, there))

    return explain


def landings(encoding: Encoding) -> dict[str, str]:
    """Where the table puts a device without a path: the place that says so, and the state."""
    spec = encoding.spec
    events = {f"events[{i}]": row.to for i, row in enumerate(spec.events) if row.to is not None}
    return {**events, "initial": spec.initial}


def file_name(place: str) -> str:
    """A place in the table as part of a file name: `arcs[3]` becomes `arcs-3`."""
    return place.replace("[", "-").rstrip("]")
