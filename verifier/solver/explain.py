"""What obligations about requests share: their terms, and a model in words and as a trace."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TypeAlias

import z3

from vfio_migration.model import Route, SpecError, Trace
from vfio_migration.verifier.solver.encoding import Encoding, Term, path_trace
from vfio_migration.verifier.solver.obligation import Example

Model: TypeAlias = z3.ModelRef | None
"""What `Query.explain` is given: a model, or None where the answer comes without one."""


def pair(encoding: Encoding) -> tuple[Term, Term]:
    """The two states of a request, for the solver to choose."""
    return encoding.variable("from"), encoding.variable("to")


def request_of(encoding: Encoding, model: Model, from_: Term, to: Term) -> tuple[int, str, str]:
    """The capability set and the two states of the request that a model chose."""
    assert model is not None
    here, there = encoding.read_state(model, from_), encoding.read_state(model, to)
    assert here is not None
    assert there is not None
    return encoding.read_flags(model), here, there


def step_example(
    encoding: Encoding, from_: Term, to: Term, describe: Callable[[str, str], str]
) -> Callable[[Model], Example]:
    """Explain a model that chose a capability set and two states."""

    def explain(model: Model) -> Example:
        word, here, there = request_of(encoding, model, from_, to)
        text = describe(here, there)
        is_arc = encoding.machines[word].arc(here, there) is not None
        route = decided(encoding, word, here, there) if is_arc else None
        if route is not None and route.refused is not None:
            # The table contradicts itself: it has an arc that no request leads along.
            text += f"; {refusing(encoding, route)} refuses SET_STATE {there} all the same"
        text += f" (capabilities {encoding.set_name(word)})"
        trace = asked_trace(encoding, word, here, there, text) if is_arc else None
        return Example(text, trace, _row(encoding, here, there))

    return explain


def decided(encoding: Encoding, word: int, from_: str, to: str | int) -> Route | None:
    """What becomes of a request; None if no row of the table decides it."""
    try:
        return encoding.machines[word].route(from_, to)
    except SpecError:
        return None


def asked_trace(
    encoding: Encoding,
    word: int,
    from_: str,
    to: str | int,
    title: str,
    path: list[str] | None = None,
) -> Trace:
    """The trace of a request as one who decides it before setting out takes it: the live engine.

    `path` is shown of a request that no row decides: the next steps, as far as they
        lead.
    """
    route = decided(encoding, word, from_, to)
    if route is None:
        return path_trace(encoding.spec, word, path or [from_], title, str(to))
    trace = path_trace(encoding.spec, word, [from_, *route.path], title)
    asked, *rest = trace.steps
    steps = [dataclasses.replace(asked, to=to), *rest]
    if route.refused is not None:
        errno = route.refused.errno
        steps.append(dataclasses.replace(asked, kind="refused", to=to, errno=errno))
    return dataclasses.replace(trace, steps=tuple(steps))


def refusing(encoding: Encoding, route: Route) -> str:
    """The place of the row that refuses a request."""
    spec, refused = encoding.spec, route.refused
    assert refused is not None
    if refused.when == "pair_refused":
        pairs = [(row.from_, row.to) for row in spec.refusals]
        return f"refusals[{pairs.index((route.from_, str(route.to)))}]"
    return f"requests[{[row.when for row in spec.requests].index(refused.when)}]"


def arc_rows(encoding: Encoding, word: int, from_: str, to: str) -> list[str]:
    """The rows that make up an arc of a capability set, each with its place: several if joined."""
    rows = {(row.from_, row.to): f"arcs[{i}] ({row})" for i, row in enumerate(encoding.spec.arcs)}
    arc = encoding.machines[word].arc(from_, to)
    stops = (from_, *(arc.via if arc else ()), to)
    return [rows[pair] for pair in itertools.pairwise(stops) if pair in rows]


def _row(encoding: Encoding, from_: str, to: str) -> str | None:
    """Where the table speaks of this pair."""
    spec = encoding.spec
    arcs = [(f"arcs[{i}]", row.from_, row.to) for i, row in enumerate(spec.arcs)]
    refusals = [(f"refusals[{i}]", row.from_, row.to) for i, row in enumerate(spec.refusals)]
    rows = (place for place, *ends in arcs + refusals if ends == [from_, to])
    return next(rows, None)


def request_example(
    encoding: Encoding, from_: Term, to: Term, describe: Callable[[z3.ModelRef, str], str]
) -> Callable[[Model], Example]:
    """Explain a model that chose a capability set and a request: its path and a remark."""

    def explain(model: Model) -> Example:
        word, here, there = request_of(encoding, model, from_, to)
        machine = encoding.machines[word]
        path = [here]
        while path[-1] != there and path[-1] not in path[:-1]:
            step = machine.next_step(path[-1], there)
            if step is None:
                break
            path.append(step)
        text = f"{' -> '.join(path)} (SET_STATE {there}, capabilities {encoding.set_name(word)})"
        remark = _remark(encoding, word, path, describe(model, there))
        title = f"{text}: {remark}" if remark else text
        row = written_step(encoding, path, there)
        if row is not None:
            return Example(title, asked_trace(encoding, word, here, there, title, path), row)
        if path[-1] != there and (row := _row(encoding, path[-1], there)) is not None:
            title += f"; {row} refuses {path[-1]} -> {there}" if row.startswith("ref") else ""
        return Example(title, asked_trace(encoding, word, here, there, title, path), row)

    return explain


def _remark(encoding: Encoding, word: int, path: list[str], remark: str) -> str:
    """What is wrong with a path: what can be seen of it, or else what the obligation states."""
    machine = encoding.machines[word]
    if path[-1] in path[:-1]:
        return f"it comes back to {path[-1]} and never ends"
    for from_, to in itertools.pairwise(path):
        if machine.arc(from_, to) is None:
            return f"{from_} -> {to} is not an arc, so no driver takes it"
    return remark


def written_step(encoding: Encoding, path: list[str], target: str) -> str | None:
    """The row of `[[next_steps]]` that a path follows: the first, or one about its target."""
    rows = {(row.from_, row.to): i for i, row in enumerate(encoding.spec.next_steps)}
    found = (rows[here, target] for here in path if (here, target) in rows)
    others = (i for (_, to), i in rows.items() if to == target)
    index = next(found, None)
    index = next(others, None) if index is None else index
    return None if index is None else f"next_steps[{index}]"


def landings(encoding: Encoding) -> dict[str, str]:
    """Where the table puts a device without a path: the place that states it, and the state."""
    spec = encoding.spec
    events = {f"events[{i}]": row.to for i, row in enumerate(spec.events) if row.to is not None}
    return {**events, "initial": spec.initial}


def file_name(place: str) -> str:
    """A place in the table as part of a file name: `arcs[3]` becomes `arcs-3`."""
    return place.replace("[", "-").rstrip("]")
