"""Earlier and smaller forms of the state machine, by name: what `history.toml` lists.

A form is the table without some capabilities. It is computed, so that no fact occurs twice.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vfio_migration.model.edited import edited, edits
from vfio_migration.model.load import load, parse, to_data, typed
from vfio_migration.model.machine import contracted_arcs
from vfio_migration.model.spec import Profile, Row, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Row):
    """One form: its name, and the capabilities it knows."""

    name: str
    universe: tuple[str, ...]
    title: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms(Row):
    """The listing."""

    forms: tuple[Form, ...]


@functools.cache
def forms() -> tuple[Form, ...]:
    """Return every form that comes with the package."""
    text = pkgutil.get_data("vfio_migration.model", "history.toml")
    assert text is not None, "the package is installed without its listing of forms"
    return typed(Forms, lambda _data: [], parse(text), "history.toml").forms


@functools.cache
def named(name: str) -> Spec | None:
    """Return the form or proposal called `name` as a table, or None if none is."""
    for edit in edits():
        if edit.name == name:
            base = named(edit.base)
            assert base is not None, f"{name} is made of {edit.base}, which is not there"
            return edited(edit, to_data(base))
    for form in forms():
        if form.name == name:
            whole = load()
            if set(form.universe) == {row.name for row in whole.capabilities}:
                return whole
            made = without(whole, {row.name for row in whole.capabilities} - set(form.universe))
            return replace(made, name=form.name, title=form.title)
    return None


def without(spec: Spec, capabilities: Iterable[str]) -> Spec:
    """Return a table without some capabilities, and without the states that require them."""
    removed = frozenset(capabilities)
    states = tuple(row for row in spec.states if not removed.intersection(row.requires))
    kept = frozenset(row.name for row in states)
    columns = frozenset(row.operation for row in states)
    # What is joined here was one arc for anybody who knew no more; there is nothing it passes over.
    arcs = tuple(replace(arc, via=()) for arc in contracted_arcs(spec, kept))
    moves = {(spec.state(arc.from_).session, spec.state(arc.to).session) for arc in arcs}
    return replace(
        spec,
        capabilities=tuple(row for row in spec.capabilities if row.name not in removed),
        profiles=tuple(_profiles(spec, removed)),
        # A column without a state would be between its neighbours.
        operations=tuple(row for row in spec.operations if row.name in columns),
        session_effects=tuple(row for row in spec.session_effects if (row.from_, row.to) in moves),
        states=states,
        arcs=arcs,
        refusals=tuple(row for row in spec.refusals if {row.from_, row.to} <= kept),
    )


def _profiles(spec: Spec, removed: frozenset[str]) -> Iterator[Profile]:
    """Yield the profiles that know nothing of what is gone, or else what is left of the first."""
    whole = [row for row in spec.profiles if not removed.intersection(row.universe)]
    for row in whole or spec.profiles[:1]:
        yield replace(row, universe=tuple(name for name in row.universe if name not in removed))


__all__ = ["Form", "forms", "named", "without"]
