"""Linux: `vfio_mig_get_next_state` of drivers/vfio/vfio_main.c, and include/uapi/linux/vfio.h.

What is read are the two tables of the function, not the code below them: a state that a capability
set lacks is skipped by looking the target up again from there, as that code has done since the
tables exist.
"""

from __future__ import annotations

import re
from typing import Final

from vfio_migration.model.sources.c_source import CFile, text_of
from vfio_migration.model.sources.facts import Cell, Header, NextSteps, Place, wrong
from vfio_migration.model.sources.prose import listed

TABLE: Final = "vfio_from_fsm_table"
_FLAGS: Final = "state_flags_table"
_STATE: Final = "VFIO_DEVICE_STATE_"
_FLAG: Final = "VFIO_MIGRATION_"
ENUM: Final = "vfio_device_mig_state"
# What no device can have: the state cannot be asked for.
_NEVER: Final = re.compile(r"~\s*0[uU]?[lL]*")
_BIT: Final = re.compile(r"\(?\s*1[uU]?\s*<<\s*(\d+)\s*\)?")


def next_steps(file: CFile, failed: str) -> NextSteps:
    """Read the next-step table and the capabilities each state requires.

    Args:
        file: vfio_main.c, or vfio.c before Linux 6.0.
        failed: The name of the failed state, which requires what no device has.

    Raises:
        SpecError: The file holds no such tables, or in a form that is not read.
    """
    cells: dict[tuple[str, str], Cell] = {}
    rows: dict[str, Place] = {}
    for name, row, place in file.cells(file.array(TABLE)):
        here = without_prefix(name, _STATE, place)
        rows[here] = place
        if row.type != "initializer_list":
            raise file.refuse(row, "is not a row of cells")
        for target, value, at in file.cells(row):
            there = without_prefix(target, _STATE, at)
            step = without_prefix(file.identifier(value), _STATE, at)
            cells[here, there] = Cell(step, at)
    required: dict[str, tuple[tuple[str, ...], Place]] = {}
    for name, value, place in file.cells(file.array(_FLAGS)):
        state = without_prefix(name, _STATE, place)
        never = _NEVER.fullmatch(text_of(value)) is not None
        if never != (state == failed):
            problem = f"is what {state} requires" if never else f"is not ~0U, as {failed} requires"
            raise file.refuse(value, problem)
        flags = () if never else tuple(file.alternatives(value))
        names = (without_prefix(file.identifier(flag), _FLAG, place) for flag in flags)
        required[state] = tuple(names), place
    complete(file, cells, rows)
    if missing := [state for state in rows if state not in required]:
        at = file.place(file.array(_FLAGS))
        raise wrong(at, missing[0], f"has no cell in {_FLAGS}, which makes its flags 0")
    if more := [state for state in required if state not in rows]:
        raise wrong(required[more[0]][1], more[0], f"has flags, but no row in {TABLE}")
    above = file.comment_above(file.array(TABLE))
    prose = None if above is None else listed(*above, every_set=True)
    return NextSteps(cells, rows, required, skips=True, prose=prose)


def header(file: CFile) -> Header:
    """Read the values of states and capabilities.

    Raises:
        SpecError: The file does not define them, or in a form that is not read.
    """
    states: dict[str, tuple[int, Place]] = {}
    tags = file.enumerators(ENUM)
    for index, (name, value, place, written) in enumerate(tags):
        if name == f"{_STATE}NR" and index == len(tags) - 1 and not written:
            continue  # the number of states, and no state
        states[without_prefix(name, _STATE, place)] = value, place
    capabilities: dict[str, tuple[int, Place]] = {}
    for name, node, place in file.definitions(_FLAG):
        bit = _BIT.fullmatch(text_of(node).strip())
        if bit is None or name.removeprefix(_FLAG) in capabilities:
            raise file.refuse(node, f"is not a plain bit, or defines {name} again")
        capabilities[name.removeprefix(_FLAG)] = 1 << int(bit[1]), place
    above = file.comment_above(file.enum(ENUM))
    prose = None if above is None else listed(*above, every_set=False)
    return Header(states, capabilities, prose)


def without_prefix(name: str, prefix: str, place: Place) -> str:
    """Return the name of a state or capability as a table has it."""
    if not name.startswith(prefix) or name == prefix:
        raise wrong(place, name, f"does not begin with {prefix}, so it is not a name of this table")
    return name.removeprefix(prefix)


def complete(file: CFile, cells: dict[tuple[str, str], Cell], rows: dict[str, Place]) -> None:
    """Refuse a table with a hole: C would fill it with zero."""
    if not rows:
        raise wrong(file.path, None, "holds a next-step table without a row")
    for here, place in rows.items():
        for there in rows:
            if (here, there) not in cells:
                raise wrong(place, f"{here} -> {there}", "has no cell; C makes it 0")
    for (here, there), cell in cells.items():
        for name in (there, cell.next):
            if name not in rows:
                raise wrong(cell.place, f"{here} -> {there}", f"names {name}, which has no row")


__all__ = ["ENUM", "TABLE", "complete", "header", "next_steps", "without_prefix"]
