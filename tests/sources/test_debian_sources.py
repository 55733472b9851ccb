"""The sources of Linux as Debian packages them are read as the tables that they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support import c_sources
from vfio_migration.model import Spec, load
from vfio_migration.model.history import named
from vfio_migration.model.machine import decisions
from vfio_migration.model.sources.read import Reading, read

SOURCES = Path(os.environ.get("VFIO_MIGRATION_SOURCES", ""))
MAIN = c_sources.PLACES["linux"]


def reading(*paths: Path) -> Reading:
    return read(map(str, paths), load())


def answers(spec: Spec) -> dict[object, object]:
    """What becomes of every request, of every capability set."""
    return {
        (spec.names(flags), *request): (route.path, route.refused and route.refused.errno)
        for flags in spec.capability_sets()
        for request, route in decisions(spec.machine(flags)).items()
    }


def steps(spec: Spec) -> dict[object, object]:
    """Every cell of every capability set, those of states that the set lacks among them."""
    names = [row.name for row in spec.states]
    return {
        (spec.names(flags), here, there): spec.machine(flags).next_step(here, there)
        for flags in spec.capability_sets()
        for here in names
        for there in names
    }


@pytest.mark.parametrize(
    ("tree", "form", "cells", "arcs"),
    [("linux-6.12", "builtin", 256, 15), ("linux-6.1", "linux-6.1", 72, 8)],
)
def test_a_tree_is_the_table_in_every_cell_arc_and_sentence(
    tree: str, form: str, cells: int, arcs: int
) -> None:
    found = reading(SOURCES / tree)
    spec = named(form)
    assert spec is not None
    assert len(steps(spec)) == cells
    assert steps(found.spec) == steps(spec)
    assert answers(found.spec) == answers(spec)
    assert len(spec.arcs) == arcs
    assert {str(arc) for arc in found.spec.arcs} == {str(arc) for arc in spec.arcs}
    assert (found.findings, found.changed, found.spec.next_steps) == ((), (), ())


def test_the_header_that_programs_are_compiled_with_states_the_same() -> None:
    found = reading(SOURCES / "linux-6.12" / MAIN, SOURCES / "linux/vfio.h")
    assert {row.name: row.value for row in found.spec.states} == {
        row.name: row.value for row in load().states
    }
    assert found.findings == ()


def test_each_cell_with_each_wrong_value_is_that_change_with_its_line(tmp_path: Path) -> None:
    names = [row.name for row in load().states]
    settable = [name for name in names if name != c_sources.FAILED]
    right = c_sources.cells(load())
    lines = (SOURCES / "linux-6.12" / MAIN).read_text("utf-8").splitlines(keepends=True)
    path = tmp_path / "vfio_main.c"
    tried = 0
    for here in settable:
        row = lines.index(f"\t\t[VFIO_DEVICE_STATE_{here}] = {{\n")
        for there in settable:
            cell = f"\t\t\t[VFIO_DEVICE_STATE_{there}] = VFIO_DEVICE_STATE_"
            at = next(n for n in range(row, row + 12) if lines[n].startswith(cell))
            for step in set(names) - {right[here, there]}:
                patched = [*lines[:at], f"{cell}{step},\n", *lines[at + 1 :]]
                path.write_text("".join(patched), "utf-8")
                found = reading(path)
                assert [(one.place, one.value) for one in found.changed] == [
                    (f"{path}:{at + 1}", f"{here} -> {there}")
                ]
                made = found.spec.machine()
                if here != there:
                    wanted = None if step == c_sources.FAILED else step
                    assert made.next_step(here, there) == wanted
                tried += 1
    assert tried == 343
