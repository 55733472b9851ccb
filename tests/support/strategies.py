"""Hypothesis strategies for tables and traces.

`tables` draws the data of small valid tables (what `tomllib` would give), `specs` loads them;
`traces` draws traces that are well formed, `plain` any data a TOML or JSON file may hold.
"""

from __future__ import annotations

import datetime
from typing import Any, get_args

from hypothesis import strategies as st

from vfio_migration.model import Spec, Step, Trace, from_data
from vfio_migration.model.spec import Condition
from vfio_migration.model.trace import StepKind

SOURCE = {"summary": "Drawn.", "source": "drawn"}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a small valid table: a grid with some places taken, and arcs that connect them all."""
    columns = [f"op{index}" for index in range(draw(st.integers(2, 4)))]
    rows = [f"row{index}" for index in range(draw(st.integers(1, 3)))]
    optional = [f"OPT{index}" for index in range(draw(st.integers(0, 2)))]
    every_place = [(column, row) for column in columns for row in rows]
    places = draw(st.lists(st.sampled_from(every_place), min_size=2, max_size=7, unique=True))
    names = [f"S{index}" for index in range(len(places))]
    needs = [[], *(draw(_some_of(optional)) for _ in names[1:])]
    pairs = [(from_, to) for from_ in names for to in names if from_ != to]
    arcs = draw(_some_of(pairs))
    for index in range(1, len(names)):
        # A tree of arcs, each with its way back, connects whatever else was drawn.
        other = names[draw(st.integers(0, index - 1))]
        arcs += [
            pair for pair in ((names[index], other), (other, names[index])) if pair not in arcs
        ]
    arcs = draw(st.permutations(arcs))
    refused = [pair for pair in draw(_some_of(pairs)) if pair not in arcs]
    states = [
        {"name": name, "value": value, "requires": ["BASE", *requires]}
        | {"operation": column, "session": row, **SOURCE}
        for value, (name, requires, (column, row)) in enumerate(
            zip(names, needs, places, strict=True)
        )
    ]
    fails = {}
    if draw(st.booleans()):
        fails = {"to": "BROKEN"}
        columns = [*columns, "broken"]
        states.append(
            {"name": "BROKEN", "value": 99, "requires": [], "settable": False}
            | {"operation": "broken", "session": rows[0], **SOURCE}
        )
    return {
        "name": "drawn",
        "title": "A table drawn at random",
        "initial": "S0",
        "capabilities": [
            {"name": name, "value": 1 << bit, "mandatory": name == "BASE", **SOURCE}
            for bit, name in enumerate(["BASE", *optional])
        ],
        "profiles": [{"name": "all", "universe": ["BASE", *optional], **SOURCE}],
        "activities": [{"name": "work", "role": "state_change", **SOURCE}],
        "operations": [
            {"name": name, "may": ["work"], "off_grid": name == "broken", **SOURCE}
            for name in columns
        ],
        "sessions": [
            {"name": name, "transfer": draw(st.sampled_from(["none", "read", "write"])), **SOURCE}
            for name in rows
        ],
        "session_effects": [
            {"from": from_, "to": to, "effect": "keeps", "source": "drawn"}
            for from_ in rows
            for to in rows
        ],
        "stream_ends": [
            {"kind": kind, "linux": "?", "vfio_user": "?", "precopy_info": False, **SOURCE}
            for kind in ("temporary", "final")
        ],
        "states": states,
        "arcs": [{"from": from_, "to": to, **SOURCE} for from_, to in arcs],
        "refusals": [
            {"from": from_, "to": to, "errno": "EINVAL", "reason": "drawn", "source": "drawn"}
            for from_, to in refused
        ],
        "requests": [_request(when) for when in draw(st.permutations(get_args(Condition)))],
        "routing": [
            {
                "name": "drawn",
                "in_force": True,
                "guarded": draw(st.sampled_from(rows)),
                "interior": draw(st.sampled_from(["always", "whole_path", "never"])),
                **SOURCE,
            }
        ],
        "events": [
            {"name": "arc_failed", "session": "kept", "errno": "EIO", **SOURCE},
            {"name": "arc_failed_for_good", "session": "ended", "errno": "EIO", **SOURCE, **fails},
            {"name": "reset", "to": "S0", "session": "ended", **SOURCE},
            {"name": "disconnect", "session": "kept", **SOURCE},
        ],
    }


def specs() -> st.SearchStrategy[Spec]:
    """Draw small valid tables, loaded."""
    return tables().map(from_data)


def _some_of(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    if not values:
        return st.just([])
    return st.lists(st.sampled_from(values), max_size=12, unique=True)


def _request(when: str) -> dict[str, str]:
    if when == "pair_refused":
        return {"when": when, "outcome": "refused", "source": "drawn"}
    if when == "already_there":
        return {"when": when, "outcome": "nothing", "source": "drawn"}
    row = {"when": when, "outcome": "refused", "errno": "EINVAL", "reason": "drawn"}
    return row | {"source": "drawn"}


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Draw a trace that is well formed; it need not follow any table."""
    text = st.text(max_size=8)
    devices = draw(st.integers(1, 3))
    numbers = st.integers(0, 1 << 70)
    steps = st.builds(
        Step,
        kind=st.sampled_from(get_args(StepKind)),
        device=st.integers(0, devices - 1),
        from_=st.none() | text,
        to=st.none() | text | numbers,
        state=text,
        session=st.none() | numbers,
        errno=st.none() | text,
        note=st.none() | text,
    )
    return Trace(
        spec=draw(text),
        title=draw(text),
        capabilities=tuple(draw(st.tuples(text, text)) for _ in range(devices)),
        start=tuple(draw(text) for _ in range(devices)),
        names=tuple(draw(text) for _ in range(devices)) if draw(st.booleans()) else (),
        steps=tuple(draw(st.lists(steps, max_size=6))),
    )


def plain() -> st.SearchStrategy[Any]:
    """Draw any data that a TOML file can hold, huge numbers and odd texts included."""
    scalars = (
        st.booleans()
        | st.integers()
        | st.sampled_from([1 << 64, -(1 << 64), 10**4000, -(10**4000)])
        | st.floats()
        | st.text(st.characters(), max_size=8)
        | st.sampled_from(["RUNNING", "STOP", "saving", "EINVAL", "P2P", "\ud800", "\x1b[31m", ""])
        | st.dates()
        | st.times()
        | st.datetimes(timezones=st.none() | st.just(datetime.UTC))
    )
    keys = st.sampled_from(["name", "from", "from_", "value", "via", "states"]) | st.text(
        max_size=4
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )
