"""A picture in text is read back to the machine it is of: nothing is left out, nothing added."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.art_reader import BARRED, Art, read_art
from support.odd_tables import TABLES
from support.plan_walk import pairs
from vfio_migration.diagrams import (
    COMMENTS,
    change_graph,
    machine_graph,
    migration_view,
    render,
    text_lines,
)
from vfio_migration.diagrams.comment import room, wrapped
from vfio_migration.diagrams.machine.text import WIDTH
from vfio_migration.model import Machine, Step, Trace
from vfio_migration.model.history import named

NARROW = 60
"""Too narrow for four columns: all of it is a list."""
WIDTHS = (*{room(comment) for comment in (None, *COMMENTS)}, NARROW)
FORMATS = (False, True)
"""Whether it is ASCII alone."""


def art_of(graph, width: int = WIDTH, *, ascii_only: bool) -> Art:
    lines = text_lines(graph, width, ascii_only=ascii_only)
    assert max(map(len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)
    text = "\n".join(lines)
    assert text.isascii() or not ascii_only
    return read_art(text)


def edges_of(machine: Machine) -> set[tuple[str, str, str]]:
    """From the table alone."""
    edges = {(arc.from_, arc.to, "arc") for arc in machine.arcs}
    edges |= {
        (row.from_, row.to, "refused")
        for row in machine.spec.refusals
        if machine.supports(row.from_) and machine.supports(row.to)
    }
    failed, ended = machine.spec.event("arc_failed_for_good").to, machine.spec.event("reset").to
    return edges | {("", failed, "event"), (failed, ended, "event")}


@pytest.mark.parametrize(
    "name", ["vfio-v2", "ninth-state", "ninth-capability", "hold-capability", "small", "gaps"]
)
def test_every_capability_set_is_read_back_from_its_picture(name: str) -> None:
    spec = TABLES[name]()
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        for width in WIDTHS:
            for ascii_only in FORMATS:
                art = art_of(machine_graph(machine), width, ascii_only=ascii_only)
                assert art.states == {row.name: row.value for row in machine.states}
                assert set(art.edges) == edges_of(machine)
                assert art.effects == {
                    (arc.from_, arc.to): effect
                    for arc in machine.arcs
                    if (effect := spec.effect(arc.from_, arc.to)) != "none"
                }


@pytest.mark.parametrize("name", ["strange-names", "many-states", "strange-answers"])
def test_an_odd_table_is_read_back_too(name: str) -> None:
    machine = TABLES[name]().machine()
    art = art_of(machine_graph(machine), ascii_only=False)
    assert art.states == {row.name: row.value for row in machine.states}
    arcs = {edge[:2] for edge in art.edges if edge[2] == "arc"}
    assert arcs == {(arc.from_, arc.to) for arc in machine.arcs}


@pytest.mark.parametrize("ascii_only", FORMATS)
def test_the_steps_of_every_route_are_read_back(whole: Machine, ascii_only: bool) -> None:
    plain = edges_of(whole)
    for start in whole.states:
        for route in whole.options(start.name):
            art = art_of(machine_graph(whole, route), ascii_only=ascii_only)
            wanted = {(arc.from_, arc.to): str(n) for n, arc in enumerate(route.arcs, 1)}
            assert art.marks == wanted
            added = set(art.edges) - plain
            assert plain <= set(art.edges)
            assert added <= {(start.name, route.to, "refused")}


@pytest.mark.parametrize("ascii_only", FORMATS)
def test_the_steps_of_a_run_are_read_back(whole: Machine, run: Trace, ascii_only: bool) -> None:
    art = art_of(machine_graph(whole, trace=run), ascii_only=ascii_only)
    assert art.marks == {
        ("RUNNING", "RUNNING_P2P"): "2",
        ("RUNNING_P2P", "STOP"): "3!",
        ("RUNNING_P2P", "RUNNING"): "4",
        ("RUNNING", "PRE_COPY"): "5",
        ("PRE_COPY", "ERROR"): "6!",
        ("PRE_COPY", "PRE_COPY_P2P"): "8!",
        ("", "ERROR"): "8!",
        ("ERROR", "RUNNING"): "9",
    }


def test_a_step_for_which_there_is_no_room_is_in_the_list(whole: Machine) -> None:
    number = 40
    arc = Step(kind="arc", from_="RUNNING", to="RUNNING_P2P", state="RUNNING_P2P")
    back = Step(kind="arc", from_="RUNNING_P2P", to="RUNNING", state="RUNNING")
    trace = Trace(
        spec=whole.spec.name,
        capabilities=(whole.names,),
        start=("RUNNING",),
        steps=(arc, back) * number,
    )
    lines = text_lines(machine_graph(whole, trace=trace))
    assert read_art("\n".join(lines)).marks["RUNNING", "RUNNING_P2P"] == "*"
    assert [line for line in lines if line.startswith(f"{2 * number}. arc RUNNING_P2P")]


PAIRS = [("stop-p2p", "builtin"), ("builtin", "linux-6.1"), ("linux-6.1", "builtin")]


@pytest.mark.parametrize(("new", "old"), PAIRS)
@pytest.mark.parametrize("ascii_only", FORMATS)
def test_what_became_of_each_arc_is_read_back(new: str, old: str, ascii_only: bool) -> None:
    machines = named(new).machine(), named(old).machine()
    lines = text_lines(change_graph(*machines), ascii_only=ascii_only)
    listed: dict[str, set[tuple[str, str]]] = {"+": set(), "-": set()}
    for line in lines:
        words = line.replace("\N{MINUS SIGN}", "-").split()
        if words and words[0] in listed and "any" not in words:
            listed[words[0]].add((words[1], words[3]))
    arcs, before = ({(arc.from_, arc.to) for arc in machine.arcs} for machine in machines)
    refused = ({(row.from_, row.to) for row in m.spec.refusals} for m in machines)
    refusals, refusals_before = refused
    assert listed["+"] == (arcs - before) | (refusals - refusals_before)
    assert listed["-"] == (before - arcs) | (refusals_before - refusals)


def test_a_place_without_a_state_is_stated() -> None:
    machine = named("stop-p2p").machine()
    lines = text_lines(machine_graph(machine))
    assert "No state is p2p accepting and saving." in lines
    assert any("no state" in line for line in lines)
    art = read_art("\n".join(lines))
    assert ("PRE_COPY_P2P", "STOP_COPY", "arc") in art.edges


def test_without_a_title_and_a_legend_the_grid_is_left(whole: Machine) -> None:
    graph = replace(machine_graph(whole), title="", subtitle="", legend=())
    lines = text_lines(graph)
    assert "running" in lines[0]
    assert "refused (EINVAL)" in lines[-1]


# --- the reader itself ---


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("├──────►│ PRE", "│       │ PRE"),
        (f"{BARRED[0]}──────┤", "◄──────┤"),
        ("│ ▼", "│ │"),
        ("opens", "keeps"),
    ],
)
def test_a_picture_that_lies_is_noticed(whole: Machine, old: str, new: str) -> None:
    true = "\n".join(text_lines(machine_graph(whole)))
    assert old in true
    try:
        art = read_art(true.replace(old, new, 1))
    except AssertionError:
        return
    assert art != read_art(true)


# --- where it is put ---


@pytest.mark.parametrize("format_", ["text", "ascii"])
@pytest.mark.parametrize("comment", [None, *COMMENTS])
def test_a_wrapped_picture_fits_the_page(whole: Machine, format_, comment) -> None:
    text = render(machine_graph(whole), format_, comment=comment).decode()
    assert text.endswith("\n")
    for line in text.split("\n"):
        assert len(line) <= WIDTH
        assert line == line.rstrip()


def test_nothing_ends_a_comment_in_c_but_its_end() -> None:
    lines = wrapped(["a */ b", "/* c */", "/*/", "**/"], "c")
    assert lines[0] == "/*"
    assert lines[-1] == " */"
    for line in lines[1:-1]:
        assert "*/" not in line
        assert "/*" not in line


def test_a_literal_block_is_one(whole: Machine) -> None:
    core = pytest.importorskip("docutils.core")
    graph = machine_graph(whole)
    text = render(graph, "text", comment="rst").decode()
    (block,) = core.publish_doctree(text, settings_overrides={"halt_level": 2}).children
    assert block.tagname == "literal_block"
    assert block.astext() == "\n".join(text_lines(graph, room("rst")))


def test_a_fence_is_longer_than_what_is_in_it() -> None:
    assert wrapped(["a ```` b"], "md") == ["`````text", "a ```` b", "`````"]


@pytest.mark.parametrize("comment", [None, *COMMENTS])
def test_a_migration_is_written_in_ascii_too(spec, comment) -> None:
    view = migration_view(spec, pairs((7, 1)))
    text = render(view, "ascii", comment=comment).decode()
    assert text.isascii()
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert "->" in text
