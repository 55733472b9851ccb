"""The names that Linux's header gives to what is in a table, and what cannot have one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from vfio_migration.generators import names
from vfio_migration.generators.compiled import Compiled
from vfio_migration.model import Machine, Mistake, SpecError

_MAX_INT: Final = (1 << 31) - 1
_MAX_FLAGS: Final = (1 << 32) - 1
_COLUMNS: Final = 100
_TAB: Final = 8


def state(name: str) -> str:
    """Return the constant of a state."""
    return f"VFIO_DEVICE_STATE_{names.constant(name)}"


def capability(name: str) -> str:
    """Return the constant of a capability."""
    return f"VFIO_MIGRATION_{names.constant(name)}"


def flags_of(machine: Machine) -> str:
    """Return the flags word of a capability set."""
    return " | ".join(map(capability, machine.names))


def check(compiled: Compiled) -> None:
    """Refuse a table of which something cannot be in Linux's header; raise `SpecError`."""
    mistakes = [
        Mistake(f"states.{row.name}.value", row.value, "does not fit an enumerator of C", None)
        for row in compiled.states
        if row.value > _MAX_INT
    ]
    if compiled.all_flags > _MAX_FLAGS:
        problem = "does not fit the 32 bits of a flags word in Linux"
        hint = "leave a capability out with --capabilities"
        mistakes.append(Mistake("capabilities", f"{compiled.all_flags:#x}", problem, hint))
    if mistakes:
        raise SpecError(mistakes)
    names.distinct(
        [
            ("count of the states", "NR", state("NR")),
            *(("state", row.name, state(row.name)) for row in compiled.states),
            *(("capability", row.name, capability(row.name)) for row in compiled.capabilities),
        ],
        "C",
    )


def number_assertions(compiled: Compiled) -> Iterator[str]:
    """Yield assertions that the numbers of the table are those of the header."""
    for row in compiled.capabilities:
        yield f"static_assert({capability(row.name)} == {row.value:#x});"
    for one in compiled.states:
        yield f"static_assert({state(one.name)} == {one.value});"


def wrapped(items: Sequence[str], indent: int = 1) -> str:
    """Return items as lines of an initializer, as long as the kernel has them.

    Args:
        items: Each without its comma.
        indent: How many tabs are before a line; they are not part of it.
    """
    lines = [""]
    for item in items:
        longer = f"{lines[-1]} {item},".lstrip()
        if len(longer) > _COLUMNS - _TAB * indent and lines[-1]:
            lines.append(f"{item},")
        else:
            lines[-1] = longer
    return "\n".join(lines)
