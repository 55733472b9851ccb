"""Tables read from sources: the same one comes out, and no form is read as what it is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from support import c_sources
from support.samples import sample, sampled
from vfio_migration.model import CapabilitySet, Spec, SpecError, bounds, from_data, load, loads
from vfio_migration.model.history import named
from vfio_migration.model.machine import decisions
from vfio_migration.model.sources import files
from vfio_migration.model.sources.files import is_source
from vfio_migration.model.sources.read import Reading, read, table_text

Pair: TypeAlias = tuple[str, str]

FORMS = ("builtin", "linux-6.1", "linux-5.18-without-p2p", "vfio-user")


def form(name: str) -> Spec:
    spec = named(name)
    assert spec is not None
    return spec


def reading(*paths: Path) -> Reading:
    return read(map(str, paths), load())


def table(*paths: Path) -> Spec:
    return from_data(reading(*paths).data)


def answers(spec: Spec, flags: tuple[str, ...]) -> dict[tuple[str, str], object]:
    return {
        request: (route.path, route.refused and route.refused.errno)
        for request, route in decisions(spec.machine(flags)).items()
    }


def same(one: Spec, two: Spec) -> bool:
    """Return whether both answer every request alike, with every capability set."""
    sets = [one.names(flags) for flags in one.capability_sets()]
    return all(answers(one, names) == answers(two, names) for names in sets)


@pytest.mark.parametrize("name", FORMS)
def test_the_kernels_shape_of_a_table_is_read_as_that_table(tmp_path: Path, name: str) -> None:
    spec = form(name)
    found = reading(
        c_sources.tree(tmp_path, c_sources.linux(spec), "linux", c_sources.header(spec))
    )
    made = found.spec
    assert same(made, spec)
    assert (found.findings, found.changed, made.next_steps) == ((), (), ())
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


def swap(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


# --- one cell is changed ---


def patches() -> list[tuple[str, str, str]]:
    """Every cell with every wrong value; the failed state is not a cell of its own."""
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


def patched(path: Path, here: str, there: str, step: str) -> str:
    """Write a source with one cell changed; return where that cell is."""
    text = c_sources.linux(load(), c_sources.cells(load()) | {(here, there): step})
    path.write_text(text, "utf-8")
    lines = text.splitlines()
    row = lines.index(f"\t\t[VFIO_DEVICE_STATE_{here}] = {{")
    line = lines.index(f"\t\t\t[VFIO_DEVICE_STATE_{there}] = VFIO_DEVICE_STATE_{step},", row)
    return f"{path}:{line + 1}"


def looked_up(steps: c_sources.Cells, spec: Spec, flags: CapabilitySet) -> dict[Pair, str | None]:
    """Look every step up as Linux does, for a device with these capabilities."""
    found: dict[Pair, str | None] = {}
    names = [row.name for row in spec.machine(flags).states if row.name != c_sources.FAILED]
    for here, there in itertools.permutations(names, 2):
        step = steps[here, there]
        for _ in spec.states:
            if step != c_sources.FAILED and not spec.supports(flags, step):
                step = steps[step, there]
        ends = spec.supports(flags, step) and step != c_sources.FAILED
        found[here, there] = step if ends else None
    return found


@sampled(4)
@pytest.mark.parametrize(("here", "there", "step"), sample(patches(), apart=7, spread=True))
def test_a_changed_cell_is_exactly_that_change_with_its_line(
    tmp_path: Path, here: str, there: str, step: str
) -> None:
    path = tmp_path / "vfio_main.c"
    place = patched(path, here, there, step)
    found = reading(path)
    assert [mistake.place for mistake in found.changed] == [place]
    made = from_data(found.data)
    for flags in made.capability_sets():
        wanted = looked_up(c_sources.cells(load()) | {(here, there): step}, load(), flags)
        machine = made.machine(flags)
        assert {pair: machine.next_step(*pair) for pair in wanted} == wanted
    if here == there:
        assert [(row.from_, row.to, row.step) for row in made.next_steps] == [(here, there, step)]


def test_a_cell_of_the_failed_state_that_is_not_a_refusal_is_refused_with_its_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "vfio_main.c"
    for state in (row.name for row in load().states if row.settable):
        for pair in ((c_sources.FAILED, state), (state, c_sources.FAILED)):
            place = patched(path, *pair, "STOP")
            with pytest.raises(SpecError, match="neither left nor asked for") as caught:
                table(path)
            assert [mistake.place for mistake in caught.value.mistakes] == [place]


def test_a_table_with_next_steps_of_its_own_is_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "vfio_main.c"
    patched(path, "RUNNING", "STOP", "STOP_COPY")
    found = reading(path)
    assert [str(row) for row in found.spec.next_steps] == ["RUNNING -> STOP by STOP_COPY"]
    assert loads(table_text(found, load())) == found.spec


# --- sentences are held against the table ---

SENTENCES: dict[str, tuple[Callable[[str], str], str]] = {
    "an arc that is none": (
        swap("\t *         RUNNING -> RUNNING_P2P\n", "\t *         RUNNING -> STOP_COPY\n"),
        "lists the arc RUNNING -> STOP_COPY, but the table steps to RUNNING_P2P",
    ),
    "an arc that is not listed": (
        swap("\t *         RUNNING -> RUNNING_P2P\n", ""),
        "does not list RUNNING -> RUNNING_P2P, which is an arc of the table",
    ),
    "another path": (
        swap("STOP_COPY -> STOP -> RESUMING", "STOP_COPY -> RUNNING -> RESUMING"),
        "lists the path STOP_COPY -> RUNNING -> RESUMING, but the table goes "
        "STOP_COPY -> STOP -> RESUMING",
    ),
    "a path that is not listed": (
        swap("\t *         STOP_COPY -> STOP -> RESUMING\n", ""),
        "does not list the path STOP_COPY -> STOP -> RESUMING of the table",
    ),
    "a refusal that is not listed": (
        swap("\t *         STOP_COPY -> PRE_COPY\n", ""),
        "does not list STOP_COPY -> PRE_COPY as refused, as the table has it",
    ),
    "a refusal that is none": (
        swap("These are blocked:\n", "These are blocked:\n\t *         STOP -> PRE_COPY\n"),
        "lists STOP -> PRE_COPY as refused, but the table steps to RUNNING_P2P",
    ),
    "an unknown state": (
        swap("\t *         RUNNING -> PRE_COPY\n", "\t *         RUNNING -> PER_COPY\n"),
        "PER_COPY is not a state of the table",
    ),
    "an arc of the header that is none": (
        swap(" * STOP -> RESUMING\n", " * RUNNING -> RESUMING\n"),
        "lists the arc RUNNING -> RESUMING, but the table steps to RUNNING_P2P",
    ),
    "an arc of the header that is refused": (
        swap("not\n *   permitted", "taken"),
        "lists the arc STOP_COPY -> PRE_COPY, but the table refuses it",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_that_contradicts_the_table_is_named_with_both_places(
    tmp_path: Path, name: str
) -> None:
    change, problem = SENTENCES[name]
    texts = [c_sources.linux(load()), c_sources.header(load())]
    for number, text in enumerate(texts):
        with contextlib.suppress(AssertionError):
            texts[number] = change(text)
    found = reading(c_sources.tree(tmp_path, texts[0], "linux", texts[1]))
    assert same(found.spec, load())
    named = {one.problem: one for one in found.findings}
    assert problem in named
    finding = named[problem]
    assert "VFIO_DEVICE_STATE_" in line_at(str(finding.other))
    assert " -> " in line_at(str(finding.place)) or line_at(str(finding.place)).endswith("/*")


# --- the text of vfio-user ---

TEXT = c_sources.vfio_user(form("vfio-user"), {"RUNNING_P2P": 5, "PRE_COPY_P2P": 7})


def text(folder: Path, content: str) -> Path:
    path = folder / "vfio-user.rst"
    path.write_text(content, "utf-8")
    return path


def test_the_text_of_vfio_user_is_read_as_that_table(tmp_path: Path) -> None:
    found = reading(c_sources.tree(tmp_path, TEXT, "vfio_user"))
    spec = form("vfio-user")
    assert same(found.spec, spec)
    assert {str(row) for row in found.spec.arcs} == {str(row) for row in spec.arcs}
    assert {str(row) for row in found.spec.refusals} == {str(row) for row in spec.refusals}
    assert (found.findings, found.changed, found.spec.next_steps) == ((), (), ())
    for row in (*found.spec.arcs, *found.spec.refusals):
        assert f"``{row.from_} -> {row.to}``" in line_at(row.source)
    for state in found.spec.states:
        assert f"VFIO_DEVICE_STATE_{state.name} " in line_at(state.source)


def test_an_arc_that_the_text_no_longer_lists_is_a_change_of_its_line(tmp_path: Path) -> None:
    ended = re.sub(r"\* ``PRE_COPY -> STOP_COPY``.*\n.*\n", "", TEXT)
    found = reading(text(tmp_path, ended))
    assert "PRE_COPY -> STOP_COPY" not in {str(row) for row in found.spec.arcs}
    assert [mistake.value for mistake in found.changed] == ["PRE_COPY -> STOP_COPY"]
    assert found.spec.machine().route("PRE_COPY", "STOP_COPY").path[0] == "RUNNING"


TEXTS: dict[str, Callable[[str], str]] = {
    "renamed section of arcs": swap("Direct State Transitions", "Direct Transitions"),
    "renamed section of rules": swap("Complex State Transitions", "Rules"),
    "no section of flags": swap("``VFIO_DEVICE_FEATURE_MIGRATION``", "``VFIO_MIGRATION_FLAGS``"),
    "two sections": lambda text: text + text[text.index("Direct State") :],
    "another rule": swap("Select the shortest path.", "Select the safest path."),
    "one rule more": swap("* Select", "* Avoid the stopped states.\n\n* Select"),
    "one rule less": swap("* Select the shortest path.\n", ""),
    "an arc without quotes": swap("``STOP -> RUNNING``", "STOP -> RUNNING"),
    "another arrow": swap("``STOP -> RUNNING``", "``STOP => RUNNING``"),
    "an arc of three": swap("``STOP -> RUNNING``", "``STOP -> RUNNING -> PRE_COPY``"),
    "an arc twice": swap("``STOP -> RUNNING``", "``STOP -> RUNNING``, ``STOP -> RUNNING``"),
    "an arc of an unused state": swap("``STOP -> RUNNING``", "``STOP -> RUNNING_P2P``"),
    "an arc of an unknown state": swap("``STOP -> RUNNING``", "``STOP -> HALTED``"),
    "an arc that is refused too": swap("``STOP_COPY -> PRE_COPY`` tr", "``STOP -> RUNNING`` tr"),
    "a sentence that forbids nothing": swap("is explicitly not\nallowed", "is of use"),
    "an item without an arc": swap("* ``STOP -> RUNNING``", "* Starting"),
    "a value that is no number": swap(" | 6     |", " | six   |"),
    "a state without a description": swap("Name                   ", "Name | "),
    "a state that the base lacks": swap("STATE_RESUMING ", "STATE_REVIVING "),
    "a flag without a bit": swap("| 2   | VFIO_MIGRATION_PRE", "| two | VFIO_MIGRATION_PRE"),
    "no flag": swap("VFIO_MIGRATION_PRE_COPY", "VFIO_MIGRATION_PER_COPY"),
    "no state of a device that failed": lambda text: re.sub(
        r"\|[^\n]*STATE_ERROR [^\n]*\n[^\n]*\n", "", text
    ),
    "no states": lambda text: text.replace("VFIO_DEVICE_STATE_", "DEVICE_STATE_"),
    "not UTF-8": lambda text: text + "\udcff",
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_is_not_read_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    path = tmp_path / "vfio-user.rst"
    path.write_bytes(TEXTS[name](TEXT).encode("utf-8", "surrogateescape"))
    with pytest.raises(SpecError) as caught:
        table(path)
    assert caught.value.mistakes[0].place.startswith(str(path))


# --- the form is changed ---

STOP_ROW = "\t\t[VFIO_DEVICE_STATE_STOP] = {\n"
CELL = "\t\t\t[VFIO_DEVICE_STATE_STOP] = VFIO_DEVICE_STATE_STOP,\n"
FLAGS = "\tstatic const unsigned int state_flags_table[STATES] = {\n"
P2P = "VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,"


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
    "comment in a designator": swap(CELL, CELL.replace("[", "[/* x */ ")),
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


def test_a_tree_or_a_file_of_a_commit_is_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    of_linux = c_sources.linux(load())
    c_sources.tree(tmp_path, of_linux, "linux", c_sources.header(load()))
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(["git", *who, *words], check=True)
    patched(tmp_path / c_sources.PLACES["linux"], "RUNNING", "STOP", "STOP_COPY")
    found = read(["git:HEAD"], load())
    assert same(found.spec, load())
    assert found.spec.arcs[0].source.startswith("git:HEAD:drivers/vfio/vfio_main.c:")
    assert same(read([f"git:HEAD:{c_sources.PLACES['linux']}"], load()).spec, load())
    assert [str(row) for row in table(Path()).next_steps] == ["RUNNING -> STOP by STOP_COPY"]
    for name, message in (
        ("git:", "names no commit"),
        ("git:--all", "names no commit"),
        ("git:absent", "is not a commit"),
        ("git:HEAD:absent.c", "is not a file of that commit"),
    ):
        with pytest.raises(SpecError, match=message):
            read([name], load())


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["absent.c"], "cannot be read"),
        (["empty"], "is a folder without any file that is read"),
        (["vfio.h"], "hold no next-step table"),
        (["vfio_main.c", "vfio_main.c"], "so does another source"),
        (["other.c"], "holds no table vfio_from_fsm_table or next_state"),
    ],
)
def test_what_is_given_and_is_no_source_is_named(
    tmp_path: Path, monkeypatch, sources: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("vfio.h").write_text(c_sources.header(load()), "utf-8")
    Path("vfio_main.c").write_text(c_sources.linux(load()), "utf-8")
    Path("other.c").write_text("int main(void) { return 0; }\n", "utf-8")
    with pytest.raises(SpecError, match=message):
        table(*map(Path, sources))


@pytest.mark.parametrize("name", ["vfio_main.c", "vfio_main.c.orig", "vfio.h", "x.rst", "git:HEAD"])
def test_a_path_is_that_of_a_source_by_its_ending(name: str) -> None:
    assert is_source(name)
    assert not is_source(f"{name.removeprefix('git:')}.toml")


# --- what a stranger gives ---


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vfio_from_fsm_table", c_sources.linux(load())),
        ("state_flags_table", c_sources.linux(load())),
        ("next_state", c_sources.libvfio_user(load())),
        ("transitions", c_sources.libvfio_user(load())),
        ("vfio_device_mig_state", c_sources.header(load())),
    ],
)
@pytest.mark.parametrize("tail", ["", " /* and a comment {", ' "text'])
def test_a_file_that_ends_inside_a_table_is_refused_as_that(
    tmp_path: Path, name: str, text: str, tail: str
) -> None:
    begins = re.search(rf"\b{name}\b[^;{{]*{{", text)
    assert begins is not None
    line = text[: begins.start()].count("\n") + 1
    end = text.index("};", begins.end())
    cut, whole = tmp_path / "cut.c", tmp_path / "vfio_main.c"
    cut.write_text(text[: (begins.end() + end) // 2] + tail, "utf-8")
    whole.write_text(c_sources.linux(load()), "utf-8")
    paths = [whole, cut] if name == "vfio_device_mig_state" else [cut]
    message = f'"{name}": begins here, and the file ends inside'
    with pytest.raises(SpecError, match=message) as found:
        table(*paths)
    assert found.value.mistakes[0].place == f"{cut}:{line}"


def test_braces_in_comments_and_texts_do_not_make_a_whole_table_a_cut_one(tmp_path: Path) -> None:
    text = "/* vfio_from_fsm_table = { */ char c = '{', *s = \"next_state {\"; // transitions {\n"
    path = tmp_path / "vfio_main.c"
    path.write_text(text + c_sources.linux(load()), "utf-8")
    assert same(table(path), load())


def test_a_cell_without_a_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vfio_main.c"
    cell = "[VFIO_DEVICE_STATE_RUNNING] = VFIO_DEVICE_STATE_RUNNING_P2P,"
    empty = swap(cell, "[VFIO_DEVICE_STATE_RUNNING] = ,")(c_sources.linux(load()))
    path.write_text(empty, "utf-8")
    with pytest.raises(SpecError, match=r'STATE_RUNNING\] =": lacks something here: identifier'):
        table(path)


def test_a_pipe_with_a_name_is_not_waited_for_and_one_of_a_shell_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "vfio_main.c"
    os.mkfifo(pipe)
    with pytest.raises(SpecError, match="is a named pipe"):
        table(pipe)
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as file:
        file.write(c_sources.linux(load()).encode())  # less than a pipe holds
    try:
        assert same(table(Path(f"/dev/fd/{reader}")), load())
    finally:
        os.close(reader)


def test_a_name_that_is_not_text_gets_one_mistake(tmp_path: Path) -> None:
    path = tmp_path / "new\nline.c"
    path.write_text(c_sources.linux(load()), "utf-8")
    with pytest.raises(SpecError, match="has a character that cannot be printed") as found:
        table(path)
    assert len(found.value.mistakes) == 1


def test_what_is_too_large_for_a_source_is_not_called_a_table(tmp_path: Path) -> None:
    path = tmp_path / "vfio_main.c"
    path.write_text(c_sources.linux(load()) + " " * bounds.MAX_TABLE_BYTES, "utf-8")
    with pytest.raises(SpecError, match="so this is not a source of the migration states"):
        table(path)


def test_a_colon_inside_the_braces_of_a_revision_is_part_of_it() -> None:
    for name, parts in (
        ("HEAD", ("HEAD", "")),
        ("HEAD:a/b.c", ("HEAD", "a/b.c")),
        ("HEAD@{2026-12-01 10:00:00}", ("HEAD@{2026-12-01 10:00:00}", "")),
        ("HEAD@{10:00}:a:b.c", ("HEAD@{10:00}", "a:b.c")),
        ("HEAD^{/fix: it}:a.c", ("HEAD^{/fix: it}", "a.c")),
    ):
        assert files._split(name) == parts
