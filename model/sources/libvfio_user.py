"""libvfio-user: `transitions` and `next_state` of lib/migration.c, which must agree.

A state whose row and column refuse everything is not used, and left out.
"""

from __future__ import annotations

from typing import Final

from vfio_migration.model.sources.c_source import CFile, text_of
from vfio_migration.model.sources.facts import Cell, NextSteps, Place, wrong
from vfio_migration.model.sources.linux import complete, without_prefix

TABLE: Final = "next_state"
ARCS: Final = "transitions"
_STATE: Final = "VFIO_USER_DEVICE_STATE_"


def next_steps(file: CFile, failed: str) -> NextSteps:
    """Read the next-step table, and hold it against the table of transitions.

    Args:
        file: lib/migration.c.
        failed: The name of the failed state, which the library writes as 0 too.

    Raises:
        SpecError: The tables are not there, in a form that is not read, or contradict each other.
    """
    cells: dict[tuple[str, str], Cell] = {}
    rows: dict[str, Place] = {}
    zeros: list[str] = []
    for name, row, place in file.cells(file.array(TABLE)):
        here = without_prefix(name, _STATE, place)
        rows[here] = place
        if row.type != "initializer_list":
            raise file.refuse(row, "is not a row of cells")
        if file.is_all_zero(row):
            zeros.append(here)
            continue
        for target, value, at in file.cells(row):
            there = without_prefix(target, _STATE, at)
            cells[here, there] = Cell(without_prefix(file.identifier(value), _STATE, at), at)
    for here in zeros:
        for there in rows:
            cells[here, there] = Cell(failed, rows[here])
    complete(file, cells, rows)
    _agree(cells, _transitions(file), failed)
    unused = {
        state
        for state in rows
        if state != failed
        and all(cells[state, other].next == failed for other in rows)
        and all(cells[other, state].next == failed for other in rows)
    }
    return NextSteps(
        {pair: cell for pair, cell in cells.items() if not unused.intersection(pair)},
        {state: place for state, place in rows.items() if state not in unused},
        required=None,
        skips=False,
    )


def _transitions(file: CFile) -> dict[tuple[str, str], Place]:
    found: dict[tuple[str, str], Place] = {}
    for name, value, place in file.cells(file.array(ARCS)):
        here = without_prefix(name, _STATE, place)
        if text_of(value) == "0":
            continue
        for bit in file.alternatives(value):
            at = file.place(bit)
            found[here, without_prefix(file.bit(bit), _STATE, at)] = at
    return found


def _agree(
    cells: dict[tuple[str, str], Cell], transitions: dict[tuple[str, str], Place], failed: str
) -> None:
    for (here, there), cell in cells.items():
        is_arc = cell.next == there and there not in (here, failed)
        if is_arc and (here, there) not in transitions:
            problem = f"is a step of {TABLE}, and no transition of {ARCS}"
            raise wrong(cell.place, f"{here} -> {there}", problem)
    for (here, there), place in transitions.items():
        if (here, there) not in cells:
            raise wrong(place, f"{here} -> {there}", f"is a transition of no state of {TABLE}")
        if cells[here, there].next != there:
            problem = f"is a transition, but {TABLE} steps to {cells[here, there].next}"
            raise wrong(place, f"{here} -> {there}", problem)


__all__ = ["ARCS", "TABLE", "next_steps"]
