"""Small sources of our own in the shapes of Linux and libvfio-user, made from a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from vfio_migration.model import Machine, Spec

FAILED = "ERROR"
PLACES = {
    "linux": "drivers/vfio/vfio_main.c",
    "libvfio_user": "lib/migration.c",
    "vfio_user": "docs/interop/vfio-user.rst",
}
HEADER = "include/uapi/linux/vfio.h"

Cells = Mapping[tuple[str, str], str]


def whole(spec: Spec) -> Machine:
    return spec.machine(sum(row.value for row in spec.capabilities))


def cells(spec: Spec) -> dict[tuple[str, str], str]:
    """Return a next-step table in which the failed state stands for a refusal."""
    machine = whole(spec)
    return {
        (here.name, there.name): here.name
        if here == there
        else machine.next_step(here.name, there.name) or FAILED
        for here in machine.states
        for there in machine.states
    }


def _line(states: Iterable[str]) -> str:
    return f"\t *         {' -> '.join(states)}"


def linux_comment(spec: Spec) -> list[str]:
    """Write the comment above the table: arcs of every capability set, paths, what is blocked."""
    machine = whole(spec)
    arcs = {
        (arc.from_, arc.to): None
        for flags in spec.capability_sets()
        for arc in spec.machine(flags).arcs
    }
    paths = [
        (here.name, *machine.route(here.name, there.name).path)
        for here in machine.states
        for there in machine.states
    ]
    lines = ["\t/*", "\t * The driver takes these arcs:", *map(_line, arcs), "\t *"]
    lines += ["\t * More than one step has:", *(_line(path) for path in paths if len(path) > 2)]
    lines += ["\t *", "\t * These are blocked:"]
    return [*lines, *(_line((row.from_, row.to)) for row in spec.refusals), "\t */"]


def header_comment(spec: Spec) -> list[str]:
    """Write the comment above the states: arcs, each with a sentence, and what is not permitted."""
    lines = ["/*", " * The states of a test, and RUNNING -> HALTED in the middle of a sentence."]
    for arc in whole(spec).arcs:
        lines += [" *", f" * {arc.from_} -> {arc.to}", f" *   {arc.summary}"]
    if spec.refusals:
        lines += [" *", *(f" * {row.from_} -> {row.to}" for row in spec.refusals)]
        lines += [" *   These arcs are not", " *   permitted."]
    return [*lines, " *", " * any -> ERROR", " *   A failure.", " */"]


def linux(spec: Spec, steps: Cells | None = None) -> str:
    """Write the function of vfio_main.c, as far as it is read."""
    steps = cells(spec) if steps is None else steps
    lines = ["/* A next-step table of a test. */", "int next(int cur_fsm, int new_fsm)", "{"]
    lines += linux_comment(spec)
    lines.append("\tstatic const u8 vfio_from_fsm_table[STATES][STATES] = {")
    for here in spec.states:
        lines.append(f"\t\t[VFIO_DEVICE_STATE_{here.name}] = {{")
        for there in spec.states:
            step = steps[here.name, there.name]
            cell = f"[VFIO_DEVICE_STATE_{there.name}] = VFIO_DEVICE_STATE_{step},"
            lines.append(f"\t\t\t{cell}")
        lines.append("\t\t},")
    lines += ["\t};", "\tstatic const unsigned int state_flags_table[STATES] = {"]
    for row in spec.states:
        flags = " | ".join(f"VFIO_MIGRATION_{name}" for name in row.requires)
        flags = flags if row.settable else "~0U"
        lines.append(f"\t\t[VFIO_DEVICE_STATE_{row.name}] = {flags},")
    lines += ["\t};", "\treturn vfio_from_fsm_table[cur_fsm][new_fsm];", "}"]
    return "\n".join(lines) + "\n"


def header(spec: Spec) -> str:
    """Write the numbers of vfio.h, in a guard."""
    lines = ["#ifndef TEST_VFIO_H", "#define TEST_VFIO_H"]
    for row in spec.capabilities:
        bit = row.value.bit_length() - 1
        lines.append(f"#define VFIO_MIGRATION_{row.name} (1 << {bit})")
    lines += [*header_comment(spec), "enum vfio_device_mig_state {"]
    lines += [f"\tVFIO_DEVICE_STATE_{row.name} = {row.value}," for row in spec.states]
    lines += ["\tVFIO_DEVICE_STATE_NR,", "};", "#endif"]
    return "\n".join(lines) + "\n"


def libvfio_user(spec: Spec, unused: tuple[str, ...] = (), steps: Cells | None = None) -> str:
    """Write the tables of lib/migration.c; unused states have rows of zeros."""
    steps = cells(spec) if steps is None else steps
    arcs = {(arc.from_, arc.to) for arc in whole(spec).arcs}
    names = [*(row.name for row in spec.states), *unused]

    def state(name: str) -> str:
        return f"VFIO_USER_DEVICE_STATE_{name}"

    lines = ["static const char transitions[STATES] = {"]
    for here in names:
        bits = [f"(1 << {state(there)})" for there in names if (here, there) in arcs]
        lines.append(f"    [{state(here)}] = {' | '.join(bits) or '0'},")
    lines += ["};", "static const uint32_t", "next_state[STATES][STATES] = {"]
    for here in names:
        if here in (*unused, FAILED):
            lines.append(f"    [{state(here)}] = {{ {', '.join('0' for _ in names)} }},")
            continue
        lines.append(f"    [{state(here)}] = {{")
        for there in names:
            lines.append(f"        [{state(there)}] = {state(steps.get((here, there), FAILED))},")
        lines.append("    },")
    return "\n".join([*lines, "};", ""])


def _grid(rows: list[list[str]]) -> list[str]:
    """Write a table of reStructuredText; the first row is its head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def rule(mark: str) -> str:
        return "+" + "+".join(mark * (width + 2) for width in widths) + "+"

    lines = [rule("-")]
    for number, row in enumerate(rows):
        cells = (f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True))
        lines += ["|" + "|".join(cells) + "|", rule("-" if number else "=")]
    return lines


def _titled(title: str, mark: str) -> list[str]:
    return ["", title, mark * len(title), ""]


def vfio_user(spec: Spec, unused: Mapping[str, int] | None = None) -> str:
    """Write the sections of vfio-user.rst that are read; states that are not used have values."""
    states = [[f"VFIO_DEVICE_STATE_{r.name}", str(r.value), r.summary] for r in spec.states]
    for name, value in (unused or {}).items():
        states.append([f"VFIO_DEVICE_STATE_{name}", str(value), "(not used in vfio-user)"])
    flags = [[str(r.value.bit_length() - 1), f"VFIO_MIGRATION_{r.name}"] for r in spec.capabilities]
    lines = _titled("A protocol of a test", "=") + _titled("Features", "-")
    lines += _titled("``VFIO_DEVICE_FEATURE_MIGRATION``", '"')
    nested = _grid([["Bit", "Definition"], *flags])
    outer = [["flags", "0", "8"]] + [["", line, ""] for line in nested]
    width = max(len(row[1]) for row in outer)
    rule = f"+-------+{'-' * (width + 2)}+---+"
    lines += [rule, f"| {'Name':<5} | {'Offset':<{width}} | S |", rule.replace("-", "=")]
    lines += [f"| flags | {'0':<{width}} | 8 |", rule]
    lines += [f"|       | {line:<{width}} |   |" for line in nested] + [rule]
    lines += _titled("``VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE``", '"')
    lines += _grid([["Name", "State", "Description"], *states])
    lines += [*_titled("Direct State Transitions", '"'), "These arcs have to be there."]
    for arc in whole(spec).arcs:
        lines += ["", f"* ``{arc.from_} -> {arc.to}``: {arc.summary}", "  ``STOP`` is a state."]
    for row in spec.refusals:
        lines += ["", f"The ``{row.from_} -> {row.to}`` transition is explicitly not", "allowed."]
    lines += [*_titled("Complex State Transitions", '"'), "The rules:", ""]
    lines += ["* Select the shortest path.", ""]
    lines += ["* The path cannot have saving group states as interior arcs, only start/end"]
    return "\n".join([*lines, "  states.", "", "After that, nothing.", ""])


def tree(folder: Path, text: str, kind: str = "linux", numbers: str | None = None) -> Path:
    """Put a source where a tree has it; return the folder."""
    for place, content in ((PLACES[kind], text), (HEADER, numbers)):
        if content is not None:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(content, "utf-8")
    return folder
