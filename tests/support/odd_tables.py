"""Tables that a generator may stumble over: each loads, and all but the first are unusual."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from support.table_edits import spec_of, table_data
from vfio_migration.model import Spec, load
from vfio_migration.model.edited import find

DATA = Path(__file__).resolve().parents[1] / "data"

HARD_TO_QUOTE = 'prefix_é "such" \\ ??/ */ // @sets@ {} PREFIX_'
"""A reason with what means something to a template, a compiler or a formatter."""

RENAMED = {
    "STOP": "int",
    "RUNNING": "self",
    "STOP_COPY": "None",
    "RESUMING": "mro",
    "RUNNING_P2P": "A-B",
    "PRE_COPY": "class",
    "PRE_COPY_P2P": "PREFIX_ok",
    "ERROR": "Error",
}


def strange_names() -> Spec:
    """Words of C, Rust and Python as names of states."""
    return spec_of(_renamed(table_data(), RENAMED))


def markup() -> Spec:
    """Names and texts that would end a script, a style sheet, an attribute or a comment.

    No file gives a state such a name: it is made without checks, as a program may.
    """
    data = table_data()
    for section in ("states", "arcs", "operations", "sessions", "activities", "refusals"):
        for row in data[section]:
            for key in ("summary", "source", "reason"):
                if key in row:
                    row[key] = f"</script></style>--><b onclick='alert(6)'>{row[key]}"
    data["title"] = "</title><script>alert(7)</script>"
    spec = spec_of(data)
    hostile = {
        "STOP": "</script><script>alert(1)</script>",
        "RUNNING": '"><img src=x onerror=alert(2)>',
        "STOP_COPY": "</style><svg onload=alert(3)>",
        "RESUMING": "<!-- <script> ]]> -->",
        "RUNNING_P2P": "' onclick='alert(4)",
        "PRE_COPY": "&lt;b&gt; \\u003c",
        "PRE_COPY_P2P": "javascript:alert(5)",
        "ERROR": "__proto__",
    }

    def renamed(row: Any) -> Any:
        keys = [key for key in ("from_", "to") if getattr(row, key) is not None]
        return replace(row, **{key: hostile[getattr(row, key)] for key in keys})

    return replace(
        spec,
        initial=hostile[spec.initial],
        states=tuple(replace(row, name=hostile[row.name]) for row in spec.states),
        arcs=tuple(map(renamed, spec.arcs)),
        refusals=tuple(map(renamed, spec.refusals)),
        events=tuple(
            replace(row, to=None if row.to is None else hostile[row.to]) for row in spec.events
        ),
    )


def gaps() -> Spec:
    """Values with gaps between them, in another order than the rows, and a bit far up."""
    data = table_data()
    for row in data["states"]:
        row["value"] = 1000 - 7 * row["value"] * row["value"]
    find(data, "capabilities", "PRE_COPY")["value"] = 1 << 40
    return spec_of(data)


def strange_answers() -> Spec:
    """Refusals with errors of their own, decided in another order; events that move otherwise."""
    data = table_data()
    order = [
        "no_way_out",
        "already_there",
        "pair_refused",
        "value_unknown",
        "target_not_settable",
        "target_unsupported",
        "no_path",
    ]
    data["requests"].sort(key=lambda row: order.index(row["when"]))
    find(data, "requests", "value_unknown")["errno"] = "ERANGE"
    find(data, "requests", "no_way_out")["errno"] = "ENODEV"
    find(data, "requests", "target_unsupported").update(errno="ENOTSUP", reason=HARD_TO_QUOTE)
    find(data, "refusals", ["STOP_COPY", "PRE_COPY"])["errno"] = "EBUSY"
    failed = find(data, "events", "arc_failed")
    failed["session"] = "ended"
    failed["to"] = "STOP"
    failed["errno"] = "EAGAIN"
    find(data, "events", "arc_failed_for_good")["errno"] = "ENXIO"
    find(data, "events", "reset")["session"] = "kept"
    ended = find(data, "events", "disconnect")
    ended["to"] = "STOP"
    ended["session"] = "ended"
    return spec_of(data)


def accepting() -> Spec:
    """A request for what the device lacks is answered with success, and nothing is done."""
    data = table_data()
    row = find(data, "requests", "target_unsupported")
    row["outcome"] = "nothing"
    del row["errno"]
    return spec_of(data)


def many_states() -> Spec:
    """More than thirty-two states, most of them around one: cells of 16 bits."""
    data = table_data()
    usual = find(data, "operations", "stopped")
    for number in range(26):
        name = f"DEEP_{number}"
        data["operations"].insert(-1, {**usual, "name": f"deep_{number}"})
        data["states"].append(
            {
                **find(data, "states", "STOP"),
                "name": name,
                "value": 8 + number,
                "operation": f"deep_{number}",
            }
        )
        for pair in (("STOP", name), (name, "STOP")):
            data["arcs"].append(
                {"from": pair[0], "to": pair[1], "summary": "Deeper.", "source": "test"}
            )
    return spec_of(data)


def _renamed(data: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    data = copy.deepcopy(data)
    data["initial"] = names[data["initial"]]
    for row in data["states"]:
        row["name"] = names[row["name"]]
    for section in ("arcs", "refusals"):
        for row in data[section]:
            row["from"], row["to"] = names[row["from"]], names[row["to"]]
    for row in data["events"]:
        if "to" in row:
            row["to"] = names[row["to"]]
    return data


TABLES = {
    "vfio-v2": load,
    "ninth-state": lambda: load(DATA / "ninth_state.toml"),
    "ninth-capability": lambda: load(DATA / "ninth_capability.toml"),
    "hold-capability": lambda: load(DATA / "hold_capability.toml"),
    "small": lambda: load(DATA / "small.toml"),
    "strange-names": strange_names,
    "gaps": gaps,
    "strange-answers": strange_answers,
    "accepting": accepting,
    "many-states": many_states,
}
"""How each table is made, by its name."""
