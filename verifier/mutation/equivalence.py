"""Two tables that differ in their rows and in nothing a client, a device or a proof can observe.

`behaviour` computes everything a table determines, but for the order in which things are listed
(the first profile, which is the default of commands, included): for each capability set its states,
arcs, next steps and the answer to every request; what a device may do and a client may stream in
each state; what each event does. All of it is finite, so comparing it cell by cell is a proof.

It is safe by construction against a field that is added to the table one day: a field is left out
of the comparison only if it is in `_COMPUTED` (what it determines is compared instead) or among
the labels of `vfio_migration.verifier.mutation.edits`. Every other field is compared as it is
written.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from vfio_migration.model import Machine, Spec, SpecError
from vfio_migration.verifier.mutation.edits import LABELS

_COMPUTED = frozenset(
    {
        "capabilities.value",  # flags words: profiles; on the wire: capabilities
        "capabilities.mandatory",  # profiles
        "profiles.universe",  # profiles
        "operations.may",  # states: may
        "operations.off_grid",  # lines of arcs: arcs
        "sessions.transfer",  # states: transfer
        "sessions.grows_while",  # states: end, which is temporary while that is permitted
        "sessions.judged",  # arcs: judged
        "session_effects.from_",  # arcs: session
        "session_effects.to",
        "session_effects.effect",
        "stream_ends.kind",  # states: end
        "stream_ends.precopy_info",
        "states.value",  # requests by value
        "states.requires",  # which machine has it
        "states.operation",  # states: may; arcs
        "states.session",  # states: transfer, end; arcs
        "states.settable",  # answers
        "arcs.from_",  # arcs
        "arcs.to",
        "refusals.from_",  # answers, steps
        "refusals.to",
        "refusals.errno",
        "requests.when",  # answers
        "requests.outcome",
        "requests.errno",
        "routing.in_force",  # answers, steps
        "routing.guarded",
        "routing.interior",
    }
)
"""The fields whose rows are compared by what they determine, and where that is."""

_LABELS = frozenset().union(*LABELS.values())
_NO_STATE = -1
"""A value that no state has: what a client may ask for beside the states."""


def equivalent(one: Spec, other: Spec) -> bool:
    """Return whether two tables cannot be distinguished by anything but their labels."""
    return behaviour(one) == behaviour(other)


def behaviour(spec: Spec) -> dict[str, Any]:
    """Return everything a table determines, as plain data; equal for equivalent tables."""
    words = {
        row.name: sorted(int(flags.value) for flags in spec.capability_sets(row.name))
        for row in spec.profiles
    }
    return {
        "profiles": words,
        "capabilities": {row.name: row.value for row in spec.capabilities},
        "machines": {
            word: _machine(spec.machine(word)) for word in sorted(set().union(*words.values()))
        },
        "rows": _rows(spec),
    }


def _rows(spec: Spec) -> dict[str, Any]:
    """Every field that nothing above stands for, as it is written."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if not isinstance(value, tuple):
            if f"spec.{field.name}" not in _LABELS:
                found[field.name] = value
            continue
        for row in value:
            kept = {
                f.name: getattr(row, f.name)
                for f in dataclasses.fields(row)
                if f"{field.name}.{f.name}" not in _COMPUTED | _LABELS
            }
            if kept:
                # By name, where there is one: the order of rows is a matter of pictures.
                found.setdefault(field.name, []).append((getattr(row, "name", ""), kept))
    return {
        name: sorted(value, key=lambda item: item[0]) if isinstance(value, list) else value
        for name, value in found.items()
    }


def _machine(machine: Machine) -> dict[str, Any]:
    spec = machine.spec
    names = [row.name for row in machine.states]
    targets = [row.name for row in spec.states]
    asked: list[str | int] = [*targets, _NO_STATE]
    return {
        "states": {row.name: _state(spec, row.name) for row in machine.states},
        "arcs": {
            (arc.from_, arc.to): (arc.via, *_effect(spec, arc.from_, arc.to))
            for arc in machine.arcs
        },
        "steps": {
            (from_, to): step
            for from_ in names
            for to in targets
            if (step := machine.next_step(from_, to)) is not None
        },
        "answers": {(from_, to): _answer(machine, from_, to) for from_ in names for to in asked},
    }


def _state(spec: Spec, name: str) -> dict[str, Any]:
    row = spec.state(name)
    session = spec.session(row.session)
    end = spec.stream_end(name)
    return {
        "value": row.value,
        "may": sorted(a.name for a in spec.activities if spec.permits(name, a.name)),
        "transfer": session.transfer,
        "end": None if end is None else (end.kind, end.precopy_info),
    }


def _effect(spec: Spec, from_: str, to: str) -> tuple[str, bool]:
    """What an arc does to the session that is open, if one is, and whether its stream is judged."""
    session = spec.session(spec.state(from_).session)
    try:
        effect: str = spec.effect(from_, to)
    except SpecError:
        return "undefined", False
    streams = session.transfer != "none"
    if effect in ("none", "keeps") and not streams:
        effect = "nothing to keep"
    return effect, session.judged and (streams or effect == "closes")


def _answer(machine: Machine, from_: str, to: str | int) -> tuple[str, ...]:
    try:
        route = machine.route(from_, to)
    except SpecError:
        return ("undefined",)
    if route.refused is not None:
        return "refused", route.refused.errno
    return "path", *route.path
