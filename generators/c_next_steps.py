"""The next steps of one capability set in the two shapes that Linux has them in.

`vfio_mig_get_next_state()` (drivers/vfio/vfio_main.c) holds a comment, with the arcs a driver has
to have and what a request is led through, and an array that is written out by names. Both are
written here from the table, for any table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from vfio_migration.generators import names
from vfio_migration.generators.c_engine import comment
from vfio_migration.model import Machine

ARRAY: Final = "vfio_from_fsm_table"
SIZE: Final = "VFIO_DEVICE_NUM_STATES"
PREFIX: Final = "VFIO_DEVICE_STATE_"
"""What Linux calls the array, its size, and what the names of states begin with."""

_LISTED: Final = " *         "
_WIDTH: Final = 78


def next_steps_comment(machine: Machine) -> str:
    """Return the arcs, the ways of several steps and the refusals, as a comment in C."""
    return "\n".join(["/*", *_comment(machine), " */"]) + "\n"


def next_steps_array(machine: Machine) -> str:
    """Return the next steps as the definition of an array in C.

    A request that is refused has the state in which a device is that has failed for good: nobody
    can ask for it.

    Raises:
        SpecError: Two states become one name in C.
    """
    names.distinct([("states", row.name, _constant(row.name)) for row in machine.states], "C")
    failed = machine.spec.event("arc_failed_for_good").to
    lines = [f"static const u8 {ARRAY}[{SIZE}][{SIZE}] = {{"]
    for start in machine.states:
        lines.append(f"\t[{_constant(start.name)}] = {{")
        for target in machine.states:
            route = machine.route(start.name, target.name)
            step = failed if route.refused is not None else next(iter(route.path), start.name)
            value = "0" if step is None else _constant(step)
            lines.append(f"\t\t[{_constant(target.name)}] = {value},")
        lines.append("\t},")
    lines.append("};")
    return "\n".join(lines) + "\n"


def _comment(machine: Machine) -> Iterator[str]:
    yield from _wrapped(f"A device with {', '.join(machine.names)} has these arcs:")
    yield from (_listed(arc.from_, arc.to) for arc in machine.arcs)
    states = [row.name for row in machine.states]
    routes = [machine.route(start, target) for start in states for target in states]
    ways = [route for route in routes if len(route.arcs) > 1]
    if ways:
        yield " *"
        yield " * A request for a state that is further away is led through others:"
        yield from (_listed(route.from_, *route.path) for route in ways)
    by_reason: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for route in routes:
        if route.refused is not None:
            why = (route.refused.errno, route.refused.reason)
            by_reason.setdefault(why, []).append((route.from_, str(route.to)))
    for (errno, reason), pairs in by_reason.items():
        yield " *"
        yield from _wrapped(f"Refused ({errno}), {reason}:")
        yield from (_listed(*pair) for pair in _shortened(pairs, len(machine.states)))


def _shortened(pairs: list[tuple[str, str]], states: int) -> list[tuple[str, str]]:
    """Return pairs of states; those of one state with all others, or with any, as one."""
    starts, targets = ({pair[end] for pair in pairs} for end in (0, 1))
    if len(targets) == 1 and len(starts) == states:
        return [("any state", pairs[0][1])]
    if len(starts) == 1 and len(targets - starts) == states - 1 == len(pairs):
        return [(pairs[0][0], "any other state")]
    return pairs


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        comment(text), _WIDTH, initial_indent=" * ", subsequent_indent=" * ", break_long_words=False
    )


def _listed(*states: str) -> str:
    return _LISTED + " -> ".join(states)


def _constant(state: str) -> str:
    return f"{PREFIX}{names.constant(state)}"
