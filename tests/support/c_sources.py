"""Small sources of our own in the shapes of Linux and libvfio-user, made from a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vfio_migration.model import Machine, Spec

FAILED = "ERROR"
PLACES = {"linux": "drivers/vfio/vfio_main.c", "libvfio_user": "lib/migration.c"}
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


def linux(spec: Spec, steps: Cells | None = None) -> str:
    """Write the function of vfio_main.c, as far as it is read."""
    steps = cells(spec) if steps is None else steps
    lines = ["/* A next-step table of a test. */", "int next(int cur_fsm, int new_fsm)", "{"]
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
    lines.append("enum vfio_device_mig_state {")
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


def tree(folder: Path, text: str, kind: str = "linux", numbers: str | None = None) -> Path:
    """Put a source where a tree has it; return the folder."""
    for place, content in ((PLACES[kind], text), (HEADER, numbers)):
        if content is not None:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            (folder / place).write_text(content, "utf-8")
    return folder
