"""The picture can be read: nothing stands on anything else, in any table."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from support.examples import examples
from support.readable_layout import assert_joined, assert_readable, crosses
from support.strategies import specs
from vfio_migration.diagrams import machine_graph
from vfio_migration.diagrams.machine.layout import lay_out


def test_the_machine_is_readable(machine):
    layout = lay_out(machine_graph(machine))
    assert_readable(layout)
    assert_joined(layout)


def test_the_machine_has_no_crossings(machine):
    """The grid needs none, and the leaping refusal goes around."""
    edges = lay_out(machine_graph(machine)).edges
    for one, two in combinations(edges, 2):
        for first in one.line.stretches:
            for second in two.line.stretches:
                assert not crosses(first, second), f"{one.edge} crosses {two.edge}"


def test_arcs_are_straight(machine):
    """Every arc of the table is a step on the grid, so every arc is one straight line."""
    for placed in lay_out(machine_graph(machine)).edges:
        if placed.edge.is_arc:
            assert len(placed.line.corners) == 2, str(placed.edge)


def test_states_are_on_the_grid_of_the_table(machine):
    spec = machine.spec
    boxes = {placed.node.name: placed.box for placed in lay_out(machine_graph(machine)).nodes}
    for one, two in combinations(machine.states, 2):
        places = spec.position(one.name), spec.position(two.name)
        if None in places:
            continue
        (c1, r1), (c2, r2) = places
        assert (c1 < c2, c1 == c2) == (
            boxes[one.name].x < boxes[two.name].x,
            boxes[one.name].x == boxes[two.name].x,
        )
        assert (r1 < r2, r1 == r2) == (
            boxes[one.name].y < boxes[two.name].y,
            boxes[one.name].y == boxes[two.name].y,
        )


def test_columns_and_rows_without_states_are_dropped(spec):
    graph = machine_graph(spec.machine("STOP_COPY"))
    assert [row.name for row in graph.columns] == ["running", "stopped"]
    assert [row.name for row in graph.rows] == ["saving", "none", "resuming"]
    assert [row.name for row in graph.off_grid] == ["failed"]
    layout = lay_out(graph)
    xs = sorted({placed.box.x for placed in layout.nodes})
    full = lay_out(machine_graph(spec.machine()))
    full_xs = sorted({placed.box.x for placed in full.nodes})
    assert [b - a for a, b in pairwise(xs)] == [b - a for a, b in pairwise(full_xs)][:1]


def test_texts_do_not_collide(machine):
    """By a wide guess at their size, for it depends on the font."""
    layout = lay_out(machine_graph(machine))
    boxes = []
    for text in layout.texts:
        width = len(text.text) * text.size * 0.56
        left = text.x - {"left": 0, "middle": width / 2, "right": width}[text.anchor]
        boxes.append((text.text, left, text.y - text.size, left + width, text.y))
    for one, two in combinations(boxes, 2):
        apart = one[1] >= two[3] or two[1] >= one[3] or one[2] >= two[4] or two[2] >= one[4]
        assert apart, (one[0], two[0])
    for text, left, top, right, bottom in boxes:
        for placed in layout.nodes:
            box = placed.box
            beside = (
                left >= box.right or right <= box.left or top >= box.bottom or bottom <= box.top
            )
            assert beside, (text, placed.node.name)


def test_badges_do_not_collide(machine, run):
    graphs = [
        machine_graph(machine, route)
        for start in machine.states
        for route in machine.options(start.name)
    ]
    if set(machine.names) == set(run.capabilities[0]):
        graphs.append(machine_graph(machine, trace=run))
    for graph in graphs:
        layout = lay_out(graph)
        assert_readable(layout)
        badges = [edge.badge for edge in layout.edges if edge.badge]
        for one, two in combinations(badges, 2):
            assert not one.overlaps(two)
        for badge in badges:
            assert not any(badge.overlaps(placed.box) for placed in layout.nodes)


def test_two_states_at_one_place_are_side_by_side(spec):
    from dataclasses import replace

    twin = replace(spec.state("STOP"), name="STOP_TWIN", value=8)
    arcs = [
        replace(spec.arcs[0], from_=one, to=two)
        for one, two in (("STOP", "STOP_TWIN"), ("STOP_TWIN", "STOP"))
    ]
    machine = replace(spec, states=(*spec.states, twin), arcs=(*spec.arcs, *arcs)).machine()
    layout = lay_out(machine_graph(machine))
    assert_readable(layout)
    assert_joined(layout)


@examples(60, suppress_health_check=[HealthCheck.too_slow])
@given(table=specs(), choice=st.integers(0, 1 << 16))
def test_any_table_is_readable(table, choice):
    """Arcs between any two places: what is not a step on the grid finds its way around."""
    sets = table.capability_sets()
    machine = table.machine(sets[choice % len(sets)])
    start = machine.states[choice % len(machine.states)].name
    target = table.states[choice // 7 % len(table.states)].name
    for graph in (machine_graph(machine), machine_graph(machine, machine.route(start, target))):
        layout = lay_out(graph)
        assert_readable(layout)
        assert_joined(layout)
        assert len(layout.edges) == len(graph.edges)


def test_the_checks_above_can_fail(whole):
    """Two edges moved onto one line, and a state onto an edge, are found."""
    from dataclasses import replace

    layout = lay_out(machine_graph(whole))
    doubled = replace(layout.edges[1], line=layout.edges[0].line)
    with pytest.raises(AssertionError, match="share a stretch"):
        assert_readable(replace(layout, edges=(*layout.edges, doubled)))
    x, y = layout.edges[0].line.longest[0]
    end = layout.edges[0].line.longest[1]
    moved = replace(layout.nodes[0].box, x=(x + end[0]) / 2, y=(y + end[1]) / 2 - 20, width=20)
    nodes = (replace(layout.nodes[0], box=moved), *layout.nodes[1:])
    with pytest.raises(AssertionError, match="passes through"):
        assert_readable(replace(layout, nodes=nodes))


def test_legend_explains_what_is_there_and_nothing_else(machine, run):
    routes = [machine.route("RUNNING", "STOP"), machine.route("RUNNING", "ERROR"), None]
    graphs = [machine_graph(machine, route) for route in routes]
    if set(machine.names) == set(run.capabilities[0]):
        graphs.append(machine_graph(machine, trace=run))
    for graph in graphs:
        there = {edge.kind for edge in graph.edges}
        there |= {"initial"} if any(node.initial for node in graph.nodes) else set()
        there |= {
            "failed_step" if mark.failed else "step" for edge in graph.edges for mark in edge.marks
        }
        entries = Counter(entry.kind for entry in graph.legend)
        assert entries == Counter(there)
        assert [sample.entry for sample in lay_out(graph).samples] == list(graph.legend)
