"""Where in the table a counterexample points: its row, that row's source, its lines in the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vfio_migration.model import Spec, Step
from vfio_migration.verifier.solver.obligation import Example

_ROW = re.compile(r"([a-z_]+)\[(\d+)\]")
_HEADER = re.compile(r'\s*\[\[?\s*["\']?([A-Za-z0-9_-]+)["\']?\s*\]\]?\s*(#.*)?$')


def blamed(spec: Spec, example: Example) -> tuple[str, str] | None:
    """The row a counterexample points at, and in what way.

    Returns:
        "the row" that an example names; or "the routing rule", of a path that is to blame as a
        whole; or "the last step's row", of a run that ends badly. And the place, `arcs[3]`.
    """
    if example.row is not None:
        return "the row", example.row
    if example.trace is None or not example.trace.steps:
        return None
    steps = example.trace.steps
    one_device = len(example.trace.start) == 1
    if one_device and steps[-1].kind == "arc" and not repeats(example):
        rule = _index((row.in_force for row in spec.routing), wanted=True)
        return None if rule is None else ("the routing rule", f"routing[{rule}]")
    row = _followed(spec, steps[-1])
    return None if row is None else ("the last step's row", row)


def repeats(example: Example) -> bool:
    """The sentence of an example states no more than its steps do."""
    trace = example.trace
    # Of several devices the sentence specifies which is which.
    return (
        trace is not None
        and len(trace.start) == 1
        and all(str(step) in example.text for step in trace.steps)
    )


def _followed(spec: Spec, step: Step) -> str | None:
    found: int | None = None
    section = {"arc": "arcs", "refused": "refusals", "note": "operations"}.get(step.kind, "events")
    if section == "arcs":
        found = _index(((row.from_, row.to) for row in spec.arcs), (step.from_, step.to))
    elif section == "refusals":
        found = _index(((row.from_, row.to) for row in spec.refusals), (step.state, step.to))
    elif section == "operations":
        if any(step.note == f"the device: {row.name}" for row in spec.activities):
            operation = next((row.operation for row in spec.states if row.name == step.state), "")
            found = _index((row.name for row in spec.operations), operation)
    else:
        found = _index((row.name for row in spec.events), step.kind)
    return None if found is None else f"{section}[{found}]"


def _index(rows: Iterator[object], wanted: object) -> int | None:
    return next((index for index, row in enumerate(rows) if row == wanted), None)


def _row(spec: Spec, row: str) -> Any:
    """The row at a place, or None if it is none of this table's."""
    match = _ROW.fullmatch(row)
    rows = getattr(spec, match[1], ()) if match else ()
    return rows[int(match[2])] if match is not None and int(match[2]) < len(rows) else None


def source(spec: Spec, row: str) -> str:
    """The source of a row; empty if it is none of this table's."""
    found = _row(spec, row)
    return "" if found is None else str(found.source)


def described(spec: Spec, row: str, *, of_source: bool = False) -> str:
    """A row with its title and source; just its place if it is none of this table's.

    Args:
        spec: The table.
        row: The place of the row.
        of_source: The table was made of a source: nobody has the row, so its source comes first.
    """
    found = _row(spec, row)
    if found is None:
        return row
    title = found.name if hasattr(found, "name") else str(found)
    if of_source:
        return f"{found.source} ({title}; {row} of the table made of it)"
    return f"{row} ({title}; {found.source})"


def with_sources(spec: Spec, text: str) -> str:
    """A text about a table that was made of a source, the source of each row in its place."""
    return _ROW.sub(lambda found: source(spec, found[0]) or found[0], text)


def lines(text: str, row: str) -> tuple[int, int] | None:
    """The first and last line of a row in the text of a table, counted from 1.

    None where the text does not state it line by line: an inline array, or a row that is not there.
    """
    match = _ROW.fullmatch(row)
    if match is None:
        return _key(text, row)
    wanted, count, found = int(match[2]), -1, None
    last = 0
    for number, line, header in _scan(text):
        if header is None:
            if line.strip() and not line.lstrip().startswith("#"):
                last = number
            continue
        if found is not None:
            break
        if header == match[1]:
            count += 1
            if count == wanted:
                found = number
        last = number
    return None if found is None else (found, last)


def _key(text: str, key: str) -> tuple[int, int] | None:
    """The line of a key that is before every section (`initial`)."""
    for number, line, header in _scan(text):
        if header is not None:
            return None
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number, number
    return None


def _scan(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Each line with its number, and the name of the section if it is a header.

    What looks like a header inside a string of several lines or a list is none.
    """
    fence: str | None = None
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line) if fence is None and depth == 0 else None
        yield number, line, header[1] if header else None
        if header is None:
            fence, depth = _after(line, fence, depth)


def _after(line: str, fence: str | None, depth: int) -> tuple[str | None, int]:
    """What is open at the end of a line: a string of several lines, and how many lists."""
    at = 0
    while at < len(line):
        if fence is not None:
            if fence[0] == '"' and line[at] == "\\":
                at += 2
            elif line.startswith(fence, at):
                at += len(fence)
                fence = None
            else:
                at += 1
        elif line[at] == "#":
            break
        elif line.startswith(('"""', "'''"), at):
            fence = line[at : at + 3]
            at += 3
        elif line[at] in "\"'":
            fence = line[at]
            at += 1
        else:
            depth += {"[": 1, "]": -1}.get(line[at], 0)
            at += 1
    # A string of one line ends with it, whatever is wrong with it.
    return (fence if fence is not None and len(fence) == 3 else None), max(depth, 0)
