"""Tables read from C: the same table comes out, and no form that is not read is read wrongly."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support import c_sources
from support.samples import sample
from vfio_migration.model import Spec, SpecError, from_data, load
from vfio_migration.model.history import named
from vfio_migration.model.machine import decisions
from vfio_migration.model.sources.read import read

FORMS = ("builtin", "linux-6.1", "linux-5.18-without-p2p", "vfio-user")


def form(name: str) -> Spec:
    spec = named(name)
    assert spec is not None
    return spec


def table(*paths: Path) -> Spec:
    return from_data(read(map(str, paths), load()))


def answers(spec: Spec, flags: tuple[str, ...]) -> dict[tuple[str, str], object]:
    return {
        request: (route.path, route.refused and route.refused.errno)
        for request, route in decisions(spec.machine(flags)).items()
    }


def same(one: Spec, two: Spec) -> bool:
    """Say whether both answer every request alike, with every capability set."""
    sets = [one.names(flags) for flags in one.capability_sets()]
    return all(answers(one, names) == answers(two, names) for names in sets)


@pytest.mark.parametrize("name", FORMS)
def test_the_kernels_shape_of_a_table_is_read_as_that_table(tmp_path: Path, name: str) -> None:
    spec = form(name)
    made = table(c_sources.tree(tmp_path, c_sources.linux(spec), "linux", c_sources.header(spec)))
    assert same(made, spec)
    assert {(arc.from_, arc.to) for arc in made.arcs} == {(a.from_, a.to) for a in spec.arcs}
    assert {str(row) for row in made.refusals} == {str(row) for row in spec.refusals}
    assert {row.name: row.value for row in made.states} == {r.name: r.value for r in spec.states}


def test_the_librarys_shape_of_a_table_is_read_as_that_table(tmp_path: Path) -> None:
    spec = form("vfio-user")
    text = c_sources.libvfio_user(spec, unused=("RUNNING_P2P", "PRE_COPY_P2P"))
    made = table(c_sources.tree(tmp_path, text, "libvfio_user"))
    assert same(made, spec)
    assert {row.name for row in made.operations} == {row.operation for row in made.states}


def test_each_fact_names_the_line_it_is_from(tmp_path: Path) -> None:
    spec = load()
    made = table(c_sources.tree(tmp_path, c_sources.linux(spec), "linux", c_sources.header(spec)))
    for row in (*made.arcs, *made.refusals):
        assert f"[VFIO_DEVICE_STATE_{row.to}]" in line_at(row.source)
    for state in made.states:
        for place in state.source.split("; "):
            assert f"VFIO_DEVICE_STATE_{state.name}" in line_at(place)


def line_at(place: str) -> str:
    file, _, line = place.rpartition(":")
    return Path(file).read_text("utf-8").splitlines()[int(line) - 1]


def test_values_are_those_of_the_header(tmp_path: Path) -> None:
    spec = form("linux-6.1")
    numbers = c_sources.header(spec).replace("RUNNING_P2P = 5", "RUNNING_P2P = 9")
    numbers = numbers.replace("P2P (1 << 1)", "P2P (1 << 6)").replace("VFIO_DEVICE_STATE_NR,", "")
    made = table(c_sources.tree(tmp_path, c_sources.linux(spec), "linux", numbers))
    assert made.state("RUNNING_P2P").value == 9
    assert made.capability("P2P").value == 1 << 6


# --- one cell is changed ---


def patches() -> list[tuple[str, str, str]]:
    """Every cell with every wrong value; the failed state is no cell of its own."""
    names = [row.name for row in load().states]
    settable = [name for name in names if name != c_sources.FAILED]
    right = c_sources.cells(load())
    return [
        (here, there, step)
        for here in settable
        for there in settable
        for step in names
        if step != right[here, there]
    ]


@pytest.mark.parametrize(("here", "there", "step"), sample(patches(), apart=7, spread=True))
def test_a_changed_cell_is_that_change_or_is_named(
    tmp_path: Path, here: str, there: str, step: str
) -> None:
    steps = c_sources.cells(load()) | {(here, there): step}
    text = c_sources.linux(load(), steps)
    lines = text.splitlines()
    row = lines.index(f"\t\t[VFIO_DEVICE_STATE_{here}] = {{")
    line = lines.index(f"\t\t\t[VFIO_DEVICE_STATE_{there}] = VFIO_DEVICE_STATE_{step},", row) + 1
    path = tmp_path / "vfio_main.c"
    path.write_text(text, "utf-8")
    places: list[str] = []
    try:
        found = c_sources.cells(table(path))
    except SpecError as error:
        places = [mistake.place for mistake in error.mistakes]
        found = steps
    assert found == steps
    assert not places or f"{path}:{line}" in places


# --- the form is changed ---

STOP_ROW = "\t\t[VFIO_DEVICE_STATE_STOP] = {\n"
CELL = "\t\t\t[VFIO_DEVICE_STATE_STOP] = VFIO_DEVICE_STATE_STOP,\n"
FLAGS = "\tstatic const unsigned int state_flags_table[STATES] = {\n"
P2P = "VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,"


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


MUTATIONS: dict[str, Callable[[str], str]] = {
    "range": swap(CELL, CELL.replace("STATE_STOP]", "STATE_STOP ... VFIO_DEVICE_STATE_RUNNING]")),
    "position": swap(CELL, "\t\t\tVFIO_DEVICE_STATE_STOP,\n"),
    "number": swap("= VFIO_DEVICE_STATE_STOP,", "= 1,"),
    "number as index": swap(CELL, "\t\t\t[1] = VFIO_DEVICE_STATE_STOP,\n"),
    "sum": swap("= VFIO_DEVICE_STATE_STOP,", "= VFIO_DEVICE_STATE_STOP + 0,"),
    "cast": swap("= VFIO_DEVICE_STATE_STOP,", "= (u8)VFIO_DEVICE_STATE_STOP,"),
    "condition": swap("= VFIO_DEVICE_STATE_STOP,", "= X ? VFIO_DEVICE_STATE_STOP : 0,"),
    "call": swap("= VFIO_DEVICE_STATE_STOP,", "= STEP(VFIO_DEVICE_STATE_STOP),"),
    "macro of a cell": swap(CELL, "\t\t\tCELL(STOP, STOP),\n"),
    "macro without comma": swap(CELL, "\t\t\tCELL(STOP, STOP)\n"),
    "macro of a row": swap(STOP_ROW, "\t\tROW(STOP)\n" + STOP_ROW),
    "macro as a name": lambda text: "#define VFIO_DEVICE_STATE_STOP 2\n" + text,
    "macro with arguments": lambda text: "#define VFIO_DEVICE_STATE_STOP(x) 2\n" + text,
    "ifdef around a cell": swap(CELL, f"#ifdef X\n{CELL}#endif\n"),
    "if 0 around a cell": swap(CELL, f"#if 0\n{CELL}#endif\n"),
    "else": swap(CELL, f"#ifdef X\n{CELL}#else\n{CELL}#endif\n"),
    "include": swap(CELL, '#include "cells.h"\n'),
    "table under a condition": lambda text: f"#ifdef X\n{text}#endif\n",
    "table in one of two branches": lambda text: f"#if X\nint x;\n#else\n{text}#endif\n",
    "two tables": lambda text: text + text.replace("int next", "int other"),
    "renamed table": lambda text: text.replace("vfio_from_fsm_table", "vfio_fsm"),
    "renamed flags": lambda text: text.replace("state_flags_table", "flags_table"),
    "not const": swap("static const u8", "static u8"),
    "flags not const": swap("static const unsigned", "static unsigned"),
    "cell missing": swap(CELL, ""),
    "cell in a comment": swap(CELL, f"/* {CELL.strip()} */\n"),
    "cell in a line comment": swap(CELL, f"// {CELL.strip()}\n"),
    "cell twice": swap(CELL, CELL + CELL),
    "row twice": swap(STOP_ROW, f"{STOP_ROW}{CELL}\t\t}},\n{STOP_ROW}"),
    "row begun as another": swap(STOP_ROW, STOP_ROW.replace("_STOP]", "_RUNNING]")),
    "two designators": swap(
        STOP_ROW, f"\t\t[VFIO_DEVICE_STATE_STOP][VFIO_DEVICE_STATE_STOP] = 1,\n{STOP_ROW}"
    ),
    "field": swap(CELL, "\t\t\t.stop = VFIO_DEVICE_STATE_STOP,\n"),
    "unknown state": swap("= VFIO_DEVICE_STATE_STOP,", "= VFIO_DEVICE_STATE_HALT,"),
    "unknown prefix": swap("= VFIO_DEVICE_STATE_STOP,", "= MIG_STATE_STOP,"),
    "row of an unknown state": lambda text: text.replace("STATE_RUNNING_P2P", "STATE_QUIESCED"),
    "string": swap("= VFIO_DEVICE_STATE_STOP,", '= "STOP",'),
    "no bracket": swap("[VFIO_DEVICE_STATE_STOP] =", "VFIO_DEVICE_STATE_STOP] ="),
    "no end": lambda text: text[: text.index(FLAGS)],
    "flags of no capability": swap(P2P, "VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P3P,"),
    "flags as a number": swap(P2P, "3,"),
    "flags as a sum": swap(P2P, P2P.replace("|", "+")),
    "flags as an intersection": swap(P2P, P2P.replace("|", "&")),
    "flags of none": swap(P2P, "0,"),
    "flags missing": swap(f"\t\t[VFIO_DEVICE_STATE_RUNNING_P2P] = {P2P}\n", ""),
    "failed state needs nothing": swap("~0U", "0U"),
    "another never": swap(P2P, "~0U,"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_form_that_is_not_read_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vfio_main.c"
    path.write_text(MUTATIONS[name](c_sources.linux(load())), "utf-8")
    with pytest.raises(SpecError) as caught:
        table(path)
    place = caught.value.mistakes[0].place
    # Where there is nothing, there is no line.
    absent = name in ("renamed table", "renamed flags", "no end")
    file, line = re.fullmatch(r"(.*?)(:\d+)?", place).groups()
    assert (file, line is None) == (str(path), absent)


EQUAL: dict[str, Callable[[str], str]] = {
    "parentheses": swap("= VFIO_DEVICE_STATE_STOP,", "= (VFIO_DEVICE_STATE_STOP),"),
    "comment in a cell": swap("= VFIO_DEVICE_STATE_STOP,", "= /* x */ VFIO_DEVICE_STATE_STOP,"),
    "comment between": swap(CELL, f"/* a cell */\n{CELL}// it was\n"),
    "one line": lambda text: re.sub(r",\n\t+", ", ", text),
    "Windows lines": lambda text: text.replace("\n", "\r\n"),
    "another size": lambda text: text.replace("[STATES]", "[8]"),
    "other macros": lambda text: "#define STATES 8\n#if X\n#define Y 1\n#endif\n" + text,
}


@pytest.mark.parametrize("name", EQUAL)
def test_a_form_that_means_the_same_is_read_the_same(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vfio_main.c"
    path.write_text(EQUAL[name](c_sources.linux(load())), "utf-8")
    assert same(table(path), load())


HEADERS: dict[str, Callable[[str], str]] = {
    "value of a sum": swap("STATE_STOP = 1", "STATE_STOP = 0 + 1"),
    "macro as a name": swap("enum", "#define VFIO_DEVICE_STATE_STOP 7\nenum"),
    "condition": swap(
        "\tVFIO_DEVICE_STATE_STOP = 1,\n", "#if 0\n\tVFIO_DEVICE_STATE_STOP = 1,\n#endif\n"
    ),
    "two enums": lambda text: text + text.replace("TEST_VFIO_H", "OTHER"),
    "bit as a product": swap("(1 << 1)", "(1 * 2)"),
    "bit twice": lambda text: text + "#define VFIO_MIGRATION_P2P (1 << 6)\n",
    "a state more": swap("\tVFIO_DEVICE_STATE_NR", "\tVFIO_DEVICE_STATE_HALT = 8"),
    "a state more, without a value": swap("STATE_NR", "STATE_HALT"),
    "a state less": swap("\tVFIO_DEVICE_STATE_STOP = 1,\n", ""),
    "other names": lambda text: text.replace("VFIO_DEVICE_STATE_STOP =", "DEVICE_STATE_STOP ="),
    "enum under a condition": swap("enum", "#ifdef X\n#endif\n#if Y\nenum"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    numbers = HEADERS[name](c_sources.header(load()))
    with pytest.raises(SpecError):
        table(c_sources.tree(tmp_path, c_sources.linux(load()), "linux", numbers))


LIBRARY: dict[str, Callable[[str], str]] = {
    "a transition more": swap(
        "[VFIO_USER_DEVICE_STATE_RESUMING] = (1",
        "[VFIO_USER_DEVICE_STATE_RESUMING] = (1 << VFIO_USER_DEVICE_STATE_RUNNING) | (1",
    ),
    "a transition less": swap("(1 << VFIO_USER_DEVICE_STATE_RUNNING) | ", ""),
    "positions": lambda text: text.replace("    [VFIO_USER_DEVICE_STATE_STOP] = (", "    ("),
    "two bits": swap("(1 << VFIO_USER_DEVICE_STATE_RUNNING)", "(3 << VFIO_USER_DEVICE_STATE_STOP)"),
    "a binary number": swap("(1 << VFIO_USER_DEVICE_STATE_RUNNING)", "0b100"),
    "no transitions": lambda text: text.replace("transitions", "moves"),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_tables_of_the_library_that_disagree_are_refused(tmp_path: Path, name: str) -> None:
    text = c_sources.libvfio_user(form("vfio-user"))
    with pytest.raises(SpecError):
        table(c_sources.tree(tmp_path, LIBRARY[name](text), "libvfio_user"))


# --- what is given ---


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["absent.c"], "cannot be read"),
        (["empty"], "is a folder without any file that is read"),
        (["vfio.h"], "hold no next-step table"),
        (["vfio_main.c", "vfio_main.c"], "so does another source"),
        (["other.c"], "holds no table vfio_from_fsm_table or next_state"),
    ],
)
def test_what_is_given_and_is_no_source_is_named(
    tmp_path: Path, monkeypatch, sources: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("vfio.h").write_text(c_sources.header(load()), "utf-8")
    Path("vfio_main.c").write_text(c_sources.linux(load()), "utf-8")
    Path("other.c").write_text("int main(void) { return 0; }\n", "utf-8")
    with pytest.raises(SpecError, match=says):
        table(*map(Path, sources))
