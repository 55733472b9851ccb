"""A picture is laid out for the page of a manual: as wide as it, with type that can be read."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pygraphviz
import pytest

from support import readable_plan
from support.plan_walk import NAMES, pairs
from support.readable_layout import assert_joined, assert_readable
from vfio_migration.diagrams import (
    Page,
    TooNarrowError,
    alternative,
    caption,
    change_graph,
    machine_graph,
    migration_view,
    render,
    run_view,
)
from vfio_migration.diagrams.drawing.page import SMALLEST
from vfio_migration.diagrams.drawing.palette import BAR_STYLES, CHANGE_LOOKS, LOOKS, STYLES
from vfio_migration.diagrams.machine.layout import lay_out
from vfio_migration.diagrams.machine.plain_dot import PLAIN_LINES, plain_dot
from vfio_migration.diagrams.plan.layout import lay_out_plan
from vfio_migration.diagrams.words import _BARS
from vfio_migration.model import Step, Trace, load
from vfio_migration.model.history import named

DATA = Path(__file__).resolve().parents[1] / "data"
SVG = "{http://www.w3.org/2000/svg}"
COLUMN = 455.0
"""The width of the text of a printed manual, in points."""
SCREEN = 552.0
"""The 736 pixels of a page on a screen, in points."""
WIDTHS = [COLUMN, SCREEN]


def pictures(machine):
    """The machine, a route, a refusal, and a change."""
    first, last = machine.states[1], machine.states[-1]
    return [
        machine_graph(machine),
        machine_graph(machine, machine.route(first.name, last.name)),
        machine_graph(machine, machine.route("STOP_COPY", "ERROR")),
        change_graph(machine, named("starts-in-stop").machine("STOP_COPY")),
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_a_machine_is_readable_on_a_page(machine, width):
    for graph in pictures(machine):
        layout = lay_out(graph, Page(width=width))
        assert layout.width == pytest.approx(width)
        assert_readable(layout)
        assert_joined(layout)
        assert len(layout.edges) == len(graph.edges)
        assert all(text.size >= SMALLEST for text in layout.texts)


@pytest.mark.parametrize("name", ["ninth_state", "hold_capability", "ninth_capability"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_of_somebody_else_is_readable_on_a_page(name, width):
    spec = load(DATA / f"{name}.toml")
    machine = spec.machine(sum(row.value for row in spec.capabilities))
    layout = lay_out(machine_graph(machine), Page(width=width))
    assert_readable(layout)
    assert_joined(layout)
    assert layout.width == pytest.approx(width)


def test_a_grid_with_more_columns_than_rows_is_turned_where_it_then_fits_better():
    spec = load(DATA / "hold_capability.toml")
    graph = machine_graph(spec.machine(15))
    turned, wide = (lay_out(graph, Page(width=width)) for width in (500, 1200))
    columns = [len({placed.box.x for placed in layout.nodes}) for layout in (turned, wide)]
    assert columns == [3, 4]
    assert [text.text for text in turned.texts if "→" in text.text] == ["session →"]
    assert turned.measures.name > lay_out(graph, Page(width=455)).measures.name


@pytest.mark.parametrize("drawn", ["machine", "live", "offline"])
def test_no_type_is_smaller_than_can_be_read(spec, drawn):
    graph = machine_graph(spec.machine())
    picture = graph if drawn == "machine" else migration_view(spec, pairs((7, 7)), drawn)
    for width in (380.0, COLUMN, SCREEN):
        svg = render(picture, "svg", "light", Page(width=width)).decode()
        sizes = {float(size) for size in re.findall(r'font-size="([\d.]+)"', svg)}
        assert min(sizes) >= SMALLEST
        assert ET.fromstring(svg).get("width") == f"{width:g}pt"


def test_what_is_too_narrow_states_what_is_needed(machine):
    graph = machine_graph(machine)
    with pytest.raises(TooNarrowError, match="a page of 60 points is too narrow") as caught:
        lay_out(graph, Page(width=60))
    needed = caught.value.needed
    assert lay_out(graph, Page(width=needed)).width == pytest.approx(needed)
    with pytest.raises(TooNarrowError):
        lay_out(graph, Page(width=needed - 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [(7,), (3, 7), (7, 7, 7), (1, 7, 3)], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_migration_is_readable_on_a_page_strip_by_strip(spec, name, group, width):
    view = migration_view(spec, pairs(group), name)
    layout = lay_out_plan(view, Page(width=width))
    assert layout.width == pytest.approx(width)
    readable_plan.assert_readable(layout)
    readable_plan.assert_joined(layout)
    assert [column.stage for column in layout.columns] == list(view.stages)
    assert sorted(str(hop.hop) for hop in layout.hops) == sorted(
        str(hop) for stage in view.stages for hop in stage.hops
    )
    strips = len(layout.groups) // 2
    assert strips > 1
    # A strip goes on with every device where the last one left it.
    for lane in range(len(view.lanes)):
        bars = [bar.state.name for bar in layout.bars if bar.lane == lane]
        hops = [hop.to for stage in view.stages for hop in stage.path(lane)]
        assert [name for name, _ in itertools.groupby(bars)] == [view.lanes[lane].state, *hops]
        assert len(bars) == len(hops) + strips


def test_downtime_is_shaded_on_each_strip_it_reaches(spec):
    view = migration_view(spec, pairs((7, 7)))
    layout = lay_out_plan(view, Page(width=COLUMN))
    assert view.downtime is not None
    down = range(view.downtime.first, view.downtime.last + 1)
    for column in layout.columns:
        overlapped = any(
            box.left - 0.1 <= column.box.left < box.right and box.overlaps(column.groups[0])
            for box in layout.downtime
        )
        assert overlapped == (column.stage.number in down)
    assert len(layout.downtime) == 2


def test_the_parts_of_a_picture_can_be_left_out(spec):
    graph = machine_graph(spec.machine(), spec.machine().route("RUNNING", "STOP_COPY"))
    view = migration_view(spec, pairs((7,)))
    for picture, title, step in (
        (graph, graph.title.split("\n")[0], graph.steps[0]),
        (view, view.title, "1. quiesce: "),
    ):
        whole = render(picture, "dot").decode()
        assert title in whole
        for page, absent in (
            (Page(title=False), title),
            (Page(legend=False), "arc that closes the data session"),
            (Page(steps=False), step),
        ):
            assert absent in whole
            assert absent not in render(picture, "dot", page=page).decode()
        bare = render(picture, "dot", page=Page(title=False, legend=False, steps=False)).decode()
        assert "cluster_legend" not in bare


# --- in words ---


def test_a_caption_has_the_legend_where_the_picture_has_none(machine):
    graph = machine_graph(machine)
    assert caption(graph) == f"{graph.title}. {graph.subtitle}\n"
    words = caption(graph, Page(legend=False))
    assert words.count("\n") == 1
    for entry in graph.legend:
        assert entry.text in words
    for kind in {edge.kind for edge in graph.edges}:
        assert LOOKS[kind] in words.lower()


def test_the_alternative_text_names_every_state_and_every_edge(machine):
    for graph in pictures(machine):
        text = alternative(graph)
        assert text.count("\n") == 1
        for node in graph.nodes:
            assert node.name in text
        for edge in graph.edges:
            start = "any state" if edge.events else edge.from_
            assert f"{start} to {edge.to}" in text


def test_the_alternative_text_of_a_migration_names_every_stage(spec):
    view = migration_view(spec, pairs((7, 3)))
    text = alternative(view)
    for stage in view.stages:
        assert f"Stage {stage.number}, {stage.name}" in text
    assert f"point of no return is before stage {view.no_return}" in text
    legend = caption(view, Page(legend=False))
    assert "bar with square corners: stopped" in legend


# --- without colour ---


def test_everything_is_distinguished_without_colour():
    """How a bar is drawn, what fails, and each line of a plain text differ in shape."""
    assert len(set(BAR_STYLES.values())) == len(BAR_STYLES) == len(set(_BARS.values()))
    assert len({row.attributes for row in PLAIN_LINES.values()}) == len(PLAIN_LINES)
    for looks in (LOOKS, CHANGE_LOOKS, {key: row.look for key, row in PLAIN_LINES.items()}):
        assert len(set(looks.values())) == len(looks)
    assert set(LOOKS) == set(PLAIN_LINES) == set(STYLES)


def test_a_failed_step_has_a_shape_of_its_own(whole, run):
    dot = pygraphviz.AGraph(string=render(machine_graph(whole, trace=run), "dot").decode())
    shapes = {
        node.attr["shape"]: "failed" in node.attr["class"]
        for node in dot.nodes()
        if node.attr["class"].startswith("badge")
    }
    assert shapes == {"octagon": True, "box": False}
    alarmed = [node for node in dot.nodes() if "state alarm" in node.attr["class"]]
    assert alarmed
    assert all("diagonals" in node.attr["style"] for node in alarmed)


# --- plain DOT ---


def test_plain_dot_has_the_same_edges_and_leaves_the_rest_to_graphviz(machine):
    for graph in pictures(machine):
        text = plain_dot(graph)
        assert not re.search(r"color|font|pos=|layout=|html", text)
        read = pygraphviz.AGraph(string=text)
        looks = {kind: row.attributes for kind, row in PLAIN_LINES.items()}
        drawn = sorted(
            (str(edge[0]), str(edge[1])) for edge in read.edges() if edge.attr["style"] != "invis"
        )
        assert drawn == sorted((edge.from_ or "any-state", edge.to) for edge in graph.edges)
        for edge in graph.edges:
            line = f'"{edge.from_ or "any-state"}" -> "{edge.to}"'
            (found,) = [
                row
                for row in text.split("\n")
                if row.strip().startswith(line) and "invis" not in row and looks[edge.kind] in row
            ]
            assert found


def test_plain_dot_is_drawn_with_the_rows_and_columns_of_the_grid(machine):
    graph = machine_graph(machine)
    read = pygraphviz.AGraph(string=plain_dot(graph))
    read.layout(prog="dot")
    at = {
        node.name: tuple(map(float, read.get_node(node.name).attr["pos"].split(",")))
        for node in graph.nodes
    }
    for one, two in itertools.permutations([row for row in graph.nodes if row.place], 2):
        if one.place[1] == two.place[1]:
            assert at[one.name][1] == at[two.name][1]
            assert (at[one.name][0] < at[two.name][0]) == (one.place[0] < two.place[0])
        elif one.place[1] < two.place[1]:
            assert at[one.name][1] > at[two.name][1]


def test_a_name_with_quotes_or_of_another_script_is_plain_too(spec):
    states = tuple(
        replace(row, name='Ü"\\N') if row.name == "RUNNING" else row for row in spec.states
    )
    graph = machine_graph(spec.machine())
    nodes = tuple(replace(node, name='Ü"\\N') if node.initial else node for node in graph.nodes)
    edges = tuple(
        replace(
            edge,
            from_='Ü"\\N' if edge.from_ == "RUNNING" else edge.from_,
            to='Ü"\\N' if edge.to == "RUNNING" else edge.to,
        )
        for edge in graph.edges
    )
    assert states
    read = pygraphviz.AGraph(string=plain_dot(replace(graph, nodes=nodes, edges=edges)))
    assert read.get_node("state-2").attr["label"] == 'Ü"\\\\N\\n(2)'


# --- a run of several devices ---


@pytest.fixture
def meeting(spec) -> Trace:
    """Two devices, of which one is stopped while the other runs; one arc fails."""
    whole, small = spec.machine().names, spec.machine("STOP_COPY").names
    return Trace(
        spec=spec.name,
        capabilities=(whole, small),
        start=("RUNNING", "RUNNING"),
        title="plan save, 2 devices: " + "a sentence of many lines, " * 12,
        names=("device 0", "device 1"),
        steps=(
            Step(kind="note", state="RUNNING", note='phase "stop" begins'),
            Step(kind="request", to="STOP", state="RUNNING", device=1),
            Step(kind="arc", from_="RUNNING", to="STOP", state="STOP", device=1),
            Step(kind="arc", from_="RUNNING", to="RUNNING_P2P", state="RUNNING_P2P"),
            Step(
                kind="arc_failed_for_good",
                from_="RUNNING_P2P",
                to="STOP",
                state="ERROR",
                errno="EIO",
            ),
            Step(kind="reset", state="RUNNING"),
            Step(kind="refused", to="RESUMING", state="STOP", device=1, errno="EINVAL"),
            Step(kind="note", state="RUNNING", note="device 0 may start DMA to device 1"),
        ),
    )


def test_a_run_of_several_devices_is_a_time_line(spec, meeting):
    view = run_view(spec, meeting)
    assert view.title == "A run of 2 devices"
    assert [stage.label for stage in view.stages] == ["1", "2–3", "4–5", "6", "7", "8"]  # noqa: RUF001
    assert [stage.failed for stage in view.stages] == [False, False, True, False, True, True]
    assert [
        (hop.lane, hop.from_, hop.to, hop.kind) for stage in view.stages for hop in stage.hops
    ] == [
        (1, "RUNNING", "STOP", "moves"),
        (0, "RUNNING", "RUNNING_P2P", "moves"),
        (0, "RUNNING_P2P", "ERROR", "fails"),
        (0, "ERROR", "RUNNING", "event"),
        (1, "STOP", "STOP", "refused"),
    ]
    for page in (Page(), Page(width=COLUMN), Page(width=SCREEN)):
        layout = lay_out_plan(view, page)
        readable_plan.assert_readable(layout)
        readable_plan.assert_joined(layout)
        lines = " ".join(text.text for text in layout.texts)
        assert "8. device 0 may start DMA to device 1" in lines
    assert render(view, "svg")
    assert render(view, "json")
    mermaid = render(view, "mmd").decode().split("\n")
    assert "    Note over device1,device2: 4–5." in mermaid  # noqa: RUF001
    text = render(view, "text").decode()
    assert "  device 1, in RUNNING\n  STOP_COPY\n\n1. phase" in text


def test_a_run_is_called_by_its_heading_or_by_a_title_that_a_line_holds(spec, meeting):
    assert run_view(spec, replace(meeting, heading="G1, violated")).title == "G1, violated"
    assert run_view(spec, replace(meeting, title="Both run")).title == "Both run"
    alone = replace(
        meeting, capabilities=meeting.capabilities[:1], start=("RUNNING",), steps=(), names=()
    )
    graph = machine_graph(spec.machine(), trace=alone)
    assert graph.title.split("\n")[1] == "A run from RUNNING"


def test_a_run_of_another_table_is_refused(spec, meeting):
    with pytest.raises(ValueError, match="NOWHERE: no state of vfio-v2"):
        run_view(spec, replace(meeting, start=("NOWHERE", "RUNNING"), steps=()))
    jump = Step(kind="arc", from_="RUNNING", to="RESUMING", state="RESUMING")
    with pytest.raises(ValueError, match="step 1: RUNNING -> RESUMING is not an arc of"):
        run_view(spec, replace(meeting, steps=(jump,)))
