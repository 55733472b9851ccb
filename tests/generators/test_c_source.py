"""What the generated C is: small, freestanding, without a foreign symbol; and what stands in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support import compilers, generated
from support.odd_tables import TABLES
from support.samples import sampled
from vfio_migration.generators import c_files, compile_table, like_file
from vfio_migration.model import load
from vfio_migration.model.plan import Plans, applying, exceeds, load_plans

MAX_TABLE_BYTES = 64
"""The most that the constant tables of one capability set may have."""
FUNCTION = re.compile(
    r"^(?:static )?\w[\w *]*?\b(\w+)\((?:[^()]|\([^()]*\))*\)\n\{\n(.*?)^\}", re.S | re.M
)
LOOK = """\
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#define EXPORT_SYMBOL_GPL(name) extern int name ## _exported
enum vfio_device_mig_state {{ ZERO, SEVEN = 7 }};
enum {{ VFIO_USER_DEVICE_NUM_STATES = 8 }};
struct vfio_device {{ unsigned int migration_flags; }};
{like}
int main(void)
{{
{body}
    return 0;
}}
"""


@sampled(3)
@pytest.mark.parametrize("options", [("-O2",), ("-O3",), ("-Os",), ("-O0",)], ids=" ".join)
@pytest.mark.parametrize("plans", [None, load_plans(load())], ids=["alone", "plans"])
def test_it_needs_no_other_symbol(
    options: tuple[str, ...], plans: Plans | None, tmp_path: Path
) -> None:
    compiler = compilers.c_compiler("gcc")
    nm = compilers.tool("nm", "apt-get install binutils")
    generated.c_folder(tmp_path, generated.compiled_of("vfio-v2"), plans)
    words = [*compiler, *compilers.STRICT, "-ffreestanding", *options, "-c", "engine.c"]
    compilers.run([*words, "-o", "engine.o"], tmp_path)
    assert compilers.run([nm, "--undefined-only", "engine.o"], tmp_path).stdout == ""
    if options == ("-O2",) and plans is None:
        rows = [
            line.split()
            for line in compilers.run([nm, "-S", "engine.o"], tmp_path).stdout.splitlines()
        ]
        tables = {row[3]: int(row[1], 16) for row in rows if len(row) == 4 and row[2] == "r"}
        assert tables["cells"] == 4 * MAX_TABLE_BYTES
        # The rest are addresses of texts for logs, if the compiler looks those up.
        assert all(name == "cells" or name.startswith("CSWTCH") for name in tables)


def test_no_function_calls_itself_in_a_circle() -> None:
    files = c_files(generated.compiled_of("vfio-v2"), "engine", "a test", "0", load_plans(load()))
    bodies = dict(FUNCTION.findall(files["engine.c"]))
    assert {"engine_set_state", "fail", "unknown_at", "engine_plan_move"} <= set(bodies)
    calls = {
        name: {other for other in bodies if re.search(rf"\b{other}\(", body)}
        for name, body in bodies.items()
    }
    while calls:  # take away who calls nobody that is left
        leaves = {name for name, called in calls.items() if not called & set(calls)}
        assert leaves, f"a circle among {sorted(calls)}"
        calls = {name: called for name, called in calls.items() if name not in leaves}


def test_it_is_a_header_of_cplusplus_too(tmp_path: Path) -> None:
    compiler = compilers.tool("g++", "apt-get install g++")
    generated.c_folder(tmp_path, generated.compiled_of("vfio-v2"))
    compilers.written(tmp_path, {"user.cc": '#include "engine.h"\n'})
    compilers.run([compiler, "-Wall", "-Wextra", "-Werror", "-c", "user.cc"], tmp_path)


def test_its_numbers_are_those_of_the_header_of_linux(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    if not Path("/usr/include/linux/vfio.h").exists():
        pytest.skip("there is no <linux/vfio.h> here; apt-get install linux-libc-dev")
    generated.c_folder(tmp_path, generated.compiled_of("vfio-v2"))
    compilers.run([*compiler, "-std=c11", "-c", "engine_linux.c"], tmp_path)
    text = (tmp_path / "engine.h").read_text("utf-8")
    compilers.written(
        tmp_path, {"engine.h": text.replace("STATE_RESUMING = 4", "STATE_RESUMING = 9")}
    )
    with pytest.raises(AssertionError, match="RESUMING"):
        compilers.run([*compiler, "-std=c11", "-c", "engine_linux.c"], tmp_path)


def test_every_name_begins_with_the_prefix(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    nm = compilers.tool("nm", "apt-get install binutils")
    files = c_files(generated.compiled_of("vfio-v2"), "mine", "a test", "0", load_plans(load()))
    assert sorted(files) == ["mine.c", "mine.h"]
    compilers.written(tmp_path, files)
    compilers.run([*compiler, "-c", "mine.c"], tmp_path)
    names = compilers.run([nm, "--extern-only", "mine.o"], tmp_path).stdout.split()[2::3]
    assert len(names) > 15
    assert all(name.startswith("mine_") for name in names)
    defined = re.findall(r"^#define (\w+)", files["mine.h"], re.MULTILINE)
    assert all(name.startswith("MINE_") for name in defined)


def test_two_engines_fit_into_one_program(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    both = (
        '#include "one.h"\n#include "two.h"\nint main(void) { return ONE_STATES != TWO_STATES; }\n'
    )
    files = {"main.c": both}
    for prefix in ("one", "two"):
        files |= c_files(generated.compiled_of("vfio-v2"), prefix, "a test", "0")
    compilers.written(tmp_path, files)
    words = [*compiler, *compilers.STRICT, "main.c", "one.c", "two.c", "-o", "main"]
    compilers.run(words, tmp_path)
    compilers.run([tmp_path / "main"], tmp_path)


def test_the_stand_in_for_linux_answers_as_linux(
    linux_paths: dict[str, Any], tmp_path: Path
) -> None:
    compiler = compilers.c_compiler("gcc")
    (like,) = like_file(load(), "linux", None, "a test").values()
    like = re.sub(r"^#include .*\n", "", like, flags=re.MULTILINE)
    body = """\
    for (unsigned flags = 0; flags < 8; flags++)
        for (unsigned from = 0; from < 9; from++)
            for (unsigned to = 0; to < 9; to++) {
                struct vfio_device device = { flags };
                enum vfio_device_mig_state next = ZERO;
                int error = vfio_mig_get_next_state(&device, from, to, &next);
                printf("%u %u %u %d\\n", flags, from, to, error ? error : (int)next);
            }"""
    compilers.written(tmp_path, {"look.c": LOOK.format(like=like, body=body)})
    compilers.run([*compiler, "-std=gnu11", "-Wall", "-Werror", "look.c", "-o", "look"], tmp_path)
    values = {row.name: row.value for row in load().states}
    wanted = {(set_, from_, to): -22 for set_ in range(8) for from_ in range(9) for to in range(9)}
    for flags, rows in linux_paths.items():
        for from_, row in rows.items():
            for to, path in row.items():
                if path is not None:
                    step = values[path[0] if path else from_]
                    wanted[int(flags), values[from_], values[to]] = step
    lines = compilers.run([tmp_path / "look"], tmp_path).stdout.splitlines()
    got = {tuple(map(int, line.split()[:3])): int(line.split()[3]) for line in lines}
    assert got == wanted


def test_the_stand_in_for_libvfio_user_has_its_arcs_and_steps(tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    (like,) = like_file(load(), "libvfio-user", None, "a test").values()
    body = """\
    for (unsigned from = 0; from < 8; from++)
        for (unsigned to = 0; to < 8; to++)
            printf("%d %u\\n", (transitions[from] & (1 << to)) != 0, next_state[from][to]);"""
    compilers.written(tmp_path, {"look.c": LOOK.format(like=like, body=body)})
    compilers.run([*compiler, "-std=gnu11", "-Wall", "-Werror", "look.c", "-o", "look"], tmp_path)
    machine = load().machine("STOP_COPY,PRE_COPY")
    wanted = []
    values = {row.name: row.value for row in load().states}
    for from_ in values:
        for to in values:
            arc = machine.arc(from_, to) is not None
            path: tuple[str, ...] = ()
            if machine.supports(from_):
                route = machine.route(from_, to)
                path = () if route.refused else route.path or (from_,)
            wanted.append(f"{int(arc)} {values[path[0]] if path else 0}")
    assert compilers.run([tmp_path / "look"], tmp_path).stdout.splitlines() == wanted


PLANS_BODY = """\
#include <stdio.h>
#include "engine.h"
int main(void)
{{
    static const uint64_t sets[] = {{ {sets} }};
    for (unsigned plan = 0; plan < ENGINE_PLANS; plan++) {{
        for (unsigned phase = 0; phase <= engine_plan_phases(plan); phase++)
            for (unsigned set = 0; set < sizeof(sets) / sizeof(sets[0]); set++)
                for (uint32_t state = 0; state <= ENGINE_STATES; state++) {{
                    enum engine_state to = 0;
                    const enum engine_move move =
                        engine_plan_move(plan, phase, sets[set], state, &to);
                    printf("%u %s %u %u %d %d\\n", plan, engine_plan_phase_name(plan, phase),
                           (unsigned)sets[set], (unsigned)state, (int)move, (int)to);
                }}
        for (unsigned one = 0; one < 4; one++)
            for (unsigned two = 0; two < 4; two++) {{
                const uint64_t group[] = {{ sets[one], sets[two], sets[one] }};
                for (unsigned size = 1; size <= 3; size++)
                    printf("%d\\n", engine_plan_allows(plan, group, size));
            }}
    }}
    return 0;
}}
"""


@pytest.mark.parametrize("table", ["vfio-v2", "ninth-capability"])
def test_the_plans_in_c_are_those_of_the_tables(table: str, tmp_path: Path) -> None:
    compiler = compilers.c_compiler("gcc")
    compiled = generated.compiled_of(table)
    spec, plans = compiled.spec, load_plans(compiled.spec)
    generated.c_folder(tmp_path, compiled, plans)
    words = [int(machine.capabilities.value) for machine in compiled.machines]
    body = PLANS_BODY.format(sets=", ".join(map(str, words)))
    compilers.written(tmp_path, {"look.c": body})
    compilers.run([*compiler, "-Wall", "-Werror", "look.c", "engine.c", "-o", "look"], tmp_path)
    wanted = []
    for number, plan in enumerate(plan for plan in plans.plans if plan.sound):
        for at in range(len(plan.phases) + 1):
            phase = plan.phases[at] if at < len(plan.phases) else None
            for word in words:
                for value in range(len(compiled.states) + 1):
                    named = [row.name for row in compiled.states if row.value == value]
                    move = (
                        applying(phase, spec.machine(word), named[0]) if phase and named else None
                    )
                    kind = 0 if move is None else 2 if move.event else 1
                    to = spec.state(str(move.to)).value if move and move.to else 0
                    name = phase.name if phase else "unknown"
                    wanted.append(f"{number} {name} {word} {value} {kind} {to}")
        for one in words[:4]:
            for two in words[:4]:
                group = [frozenset(spec.machine(word).names) for word in (one, two, one)]
                wanted += [str(int(exceeds(plan, group[:size]) is None)) for size in (1, 2, 3)]
    assert compilers.run([tmp_path / "look"], tmp_path).stdout.splitlines() == wanted


def test_what_a_device_never_has_is_left_out() -> None:
    whole = c_files(generated.compiled_of("vfio-v2"), "engine", "a test", "0")
    part = c_files(compile_table(TABLES["vfio-v2"](), "STOP_COPY"), "engine", "a test", "0")
    assert whole["engine.c"].count("{ /* STOP_COPY") == 4
    assert part["engine.c"].count("{ /* STOP_COPY") == 1
    assert "ARC_RUNNING_TO_PRE_COPY" in whole["engine.h"]
    assert "ARC_RUNNING_TO_PRE_COPY" not in part["engine.h"]
    # A client can ask for any state, and logs name it.
    assert "STATE_PRE_COPY = 6" in part["engine.h"]
