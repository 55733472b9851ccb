"""The evidence for the engine in C: a program that asks it everything, and where it is built.

The answers it is to give are in `vfio_migration.generators.answers`.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfio_migration.generators import linux_names, names
from vfio_migration.generators.answers import ANSWERS_FILE
from vfio_migration.generators.c_engine import prefixed, state
from vfio_migration.generators.cases import OWN_ERRNO, SEED, WALK_STEPS, Cases, find_cases
from vfio_migration.generators.compiled import Compiled
from vfio_migration.runtime.engine.errors import errno_number


def c_evidence(compiled: Compiled, prefix: str, command: str) -> dict[str, str]:
    """Return the program, the assertions against Linux's header and a makefile, by their names."""
    cases = find_cases(compiled)
    values = _case_values(compiled, cases) | {
        "command": command,
        "answers": ANSWERS_FILE,
        "header": f"{prefix}.h",
        "engine": prefix,
        "assertions": "\n".join(_assertions(compiled)),
    }
    return {
        name: prefixed(names.filled(template, values), prefix)
        for name, template in (
            (f"{prefix}_evidence.c", "evidence.c.in"),
            (f"{prefix}_linux.c", "linux_check.c.in"),
            ("evidence.mk", "evidence.mk.in"),
        )
    }


def _case_values(compiled: Compiled, cases: Cases) -> dict[str, str]:
    moves: list[str] = []
    places: list[str] = []
    for place in cases.places:
        first = len(moves)
        for move in place.moves:
            reset = "true" if move.target is None else "false"
            moves.append(f"{{ {reset}, {move.target or 0}u, {move.step}, {move.way} }},")
        places.append(f"{{ UINT64_C({place.flags}), {first}, {len(moves)} }},")
    return {
        "own_errno": str(errno_number(OWN_ERRNO)),
        "flags": ", ".join(f"UINT64_C({word})" for word in cases.flags),
        "set_words": ", ".join(
            f"UINT64_C({int(machine.capabilities.value)})" for machine in compiled.machines
        ),
        "from_states": ", ".join(f"{value}u" for value in cases.states),
        "targets": _wrapped(f"{value}u" for value in cases.targets),
        "moves": "\n".join(moves) or "{ false, 0u, 0, 0 },",
        "places": "\n".join(places),
        "seed": f"{SEED}u",
        "walk_steps": str(WALK_STEPS),
    }


def _wrapped(items: Iterable[str], per_line: int = 8) -> str:
    listed = list(items)
    lines = [listed[at : at + per_line] for at in range(0, len(listed), per_line)]
    return ",\n".join(", ".join(line) for line in lines)


def _assertions(compiled: Compiled) -> Iterable[str]:
    """Yield what holds of the numbers of the header; newer ones are behind their flag."""
    for row in compiled.capabilities:
        constant = linux_names.capability(row.name)
        yield f"#ifdef {constant}"
        name = names.constant(row.name)
        yield f'_Static_assert(PREFIX_CAPABILITY_{name} == {constant}, "{row.name}");'
        yield "#endif"
    for one in compiled.states:
        needed = [f"defined({linux_names.capability(name)})" for name in one.requires]
        yield f"#if {' && '.join(needed) or '1'}"
        constant = linux_names.state(one.name)
        yield f'_Static_assert((int){state(one.name)} == (int){constant}, "{one.name}");'
        yield "#endif"
