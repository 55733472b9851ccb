"""Comments that list arcs: read, and held against the table beside them.

A line of nothing but states with arrows between them is an arc, or a path if there are more than
two. The lines that follow each other are a group. It is refused what is called "blocked" in the
line above a group, or "not permitted" in the paragraph below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from vfio_migration.model.machine import Machine
from vfio_migration.model.sources.facts import Finding, NextSteps, Place, Prose
from vfio_migration.model.spec import Spec

_ARROWS: Final = re.compile(r"[\s*/]*([A-Z][A-Z0-9_]*(?: -> [A-Z][A-Z0-9_]*)+)[\s*/]*")
_REFUSED: Final = re.compile(r"\b(blocked|not permitted|not allowed)\b")


def listed(text: str, place: Place, *, every_set: bool) -> Prose | None:
    """Return what a comment lists, or None if it lists nothing.

    Args:
        text: The comment.
        place: Where it begins.
        every_set: It lists the arcs of all capability sets together.
    """
    lines = text.splitlines()
    arcs: dict[tuple[str, str], Place] = {}
    refused: dict[tuple[str, str], Place] = {}
    paths: dict[tuple[str, ...], Place] = {}
    for first, group in _groups(lines):
        is_refused = _is_refused(lines, first, first + len(group))
        for offset, states in enumerate(group):
            at = Place(place.file, place.line + first + offset)
            if len(states) > 2:
                paths.setdefault(states, at)
            else:
                (refused if is_refused else arcs).setdefault((states[0], states[1]), at)
    return Prose(arcs, refused, paths, place, every_set) if arcs or refused or paths else None


def _groups(lines: list[str]) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
    group: list[tuple[str, ...]] = []
    for number, line in enumerate([*lines, ""]):
        found = _ARROWS.fullmatch(line)
        if found is not None:
            group.append(tuple(found[1].split(" -> ")))
        elif group:
            yield number - len(group), group
            group = []


def _is_refused(lines: list[str], first: int, end: int) -> bool:
    above = lines[first - 1] if first else ""
    below: list[str] = []
    for line in lines[end:]:
        if not line.strip(" \t*/") or _ARROWS.fullmatch(line):
            break
        below.append(line.strip(" \t*/"))
    return _REFUSED.search(f"{above} {' '.join(below)}") is not None


def findings(prose: Prose, spec: Spec, steps: NextSteps) -> Iterator[Finding]:
    """Yield each disagreement of the sentences of a source with its table.

    Args:
        prose: The sentences.
        spec: The table that was made of the source.
        steps: The cells of the source, each with its place.
    """
    whole = spec.machine(sum(row.value for row in spec.capabilities))
    for named, place in _named(prose):
        if unknown := [state for state in named if state not in steps.rows]:
            first = next(iter(steps.rows.values()))
            yield Finding(place, first, f"{unknown[0]} is not a state of the table")
    yield from _arcs(prose, spec, whole, steps)
    yield from _refusals(prose, whole, steps)
    yield from _paths(prose, whole, steps)


def _named(prose: Prose) -> Iterator[tuple[tuple[str, ...], Place]]:
    for of_one_kind in (prose.arcs, prose.refused, prose.paths):
        yield from of_one_kind.items()


def _known(steps: NextSteps, states: tuple[str, ...]) -> bool:
    return all(state in steps.rows for state in states)


def _arcs(prose: Prose, spec: Spec, whole: Machine, steps: NextSteps) -> Iterator[Finding]:
    sets = spec.capability_sets() if prose.every_set else (whole.capabilities,)
    found = {
        pair
        for flags in sets
        for pair in steps.cells
        if pair[0] != pair[1] and spec.machine(flags).next_step(*pair) == pair[1]
    }
    for pair, place in prose.arcs.items():
        if _known(steps, pair) and pair not in found:
            step = whole.next_step(*pair)
            does = "refuses it" if step is None else f"steps to {step}"
            problem = f"lists the arc {pair[0]} -> {pair[1]}, but the table {does}"
            yield Finding(place, steps.cells[pair].place, problem)
    for pair in steps.cells:
        if pair in found and pair not in prose.arcs:
            how = "lists as refused" if pair in prose.refused else "does not list"
            problem = f"{how} {pair[0]} -> {pair[1]}, which is an arc of the table"
            yield Finding(prose.refused.get(pair, prose.place), steps.cells[pair].place, problem)


def _refusals(prose: Prose, whole: Machine, steps: NextSteps) -> Iterator[Finding]:
    for pair, place in prose.refused.items():
        step = whole.next_step(*pair) if _known(steps, pair) else None
        if step is not None and step != pair[1]:
            problem = f"lists {pair[0]} -> {pair[1]} as refused, but the table steps to {step}"
            yield Finding(place, steps.cells[pair].place, problem)
    for row in whole.spec.refusals:
        pair = row.from_, row.to
        if pair not in prose.refused and pair not in prose.arcs:
            problem = f"does not list {pair[0]} -> {pair[1]} as refused, as the table has it"
            yield Finding(prose.place, steps.cells[pair].place, problem)


def _paths(prose: Prose, whole: Machine, steps: NextSteps) -> Iterator[Finding]:
    if not prose.paths:
        return
    ends: set[tuple[str, str]] = set()
    for path, place in prose.paths.items():
        if not _known(steps, path):
            continue
        pair = path[0], path[-1]
        ends.add(pair)
        taken = _taken(whole, *pair)
        if taken != path:
            does = f"goes {' -> '.join(taken)}" if taken else "does not lead there"
            problem = f"lists the path {' -> '.join(path)}, but the table {does}"
            yield Finding(place, steps.cells[pair].place, problem)
    for pair, cell in steps.cells.items():
        taken = _taken(whole, *pair)
        if len(taken) > 2 and pair not in ends:
            problem = f"does not list the path {' -> '.join(taken)} of the table"
            yield Finding(prose.place, cell.place, problem)


def _taken(whole: Machine, here: str, there: str) -> tuple[str, ...]:
    arcs = whole.follow(here, there) if whole.next_step(here, there) is not None else None
    return (here, *(arc.to for arc in arcs)) if arcs else ()


__all__ = ["findings", "listed"]
