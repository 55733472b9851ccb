"""A picture of a change: what is added and removed, by colour and without it."""

from __future__ import annotations

from itertools import combinations

import pytest

from support.readable_layout import assert_joined, assert_readable
from support.table_edits import apply, table_data
from vfio_migration.diagrams import change_graph, machine_graph, render, to_dot, to_mermaid
from vfio_migration.diagrams.drawing.palette import CHANGE_STYLES, SIGNS
from vfio_migration.diagrams.machine.layout import lay_out
from vfio_migration.model.edited import edits
from vfio_migration.model.history import forms, named
from vfio_migration.model.load import from_data

NAMES = [*(form.name for form in forms()), *(edit.name for edit in edits())]
PAIRS = [(edit.name, edit.base) for edit in edits()] + list(combinations(NAMES, 2))
SIGNED = {"added", "removed", "changed"}


@pytest.fixture(scope="module")
def pictures():
    """The picture of each pair of tables that come with the package, and its two machines."""
    machines = {name: named(name).machine() for name in NAMES}
    return [
        (change_graph(machines[new], machines[old]), machines[new], machines[old])
        for new, old in PAIRS
    ]


def arcs(machine) -> set[tuple[str, str]]:
    return {(arc.from_, arc.to) for arc in machine.arcs}


def refusals(machine) -> set[tuple[str, str]]:
    rows = machine.spec.refusals
    return {(r.from_, r.to) for r in rows if machine.supports(r.from_) and machine.supports(r.to)}


def test_what_is_drawn_as_added_and_removed_is_the_difference_of_the_two_machines(pictures):
    for graph, new, old in pictures:
        # A name that is not used any more has a successor: three proposals have a state of value 8.
        both = {row.name for row in new.states}, {row.name for row in old.states}
        heirs = {row.value: row.name for row in new.states if row.name not in both[1]}
        names = {
            row.name: row.name if row.name in both[0] else heirs.get(row.value, row.name)
            for row in old.states
        }
        for facts, kinds in (
            (arcs, ("moves", "opens", "keeps", "closes")),
            (refusals, ("refused",)),
        ):
            drawn = {
                change: {
                    (edge.from_, edge.to)
                    for edge in graph.edges
                    if edge.kind in kinds and edge.change == change
                }
                for change in CHANGE_STYLES
            }
            before = {(names[from_], names[to]) for from_, to in facts(old)}
            assert drawn["added"] == facts(new) - before
            assert drawn["removed"] == before - facts(new)
            assert drawn["same"] | drawn["changed"] == facts(new) & before
        states = {node.name: node.change for node in graph.nodes}
        both = both[0], set(names.values())
        assert {name for name, change in states.items() if change == "added"} == both[0] - both[1]
        assert {name for name, change in states.items() if change == "removed"} == both[1] - both[0]


def test_nothing_is_marked_where_nothing_differs(whole):
    graph = change_graph(whole, whole)
    assert {row.change for row in (*graph.nodes, *graph.edges)} == {"same"}
    assert graph.subtitle == "No state, arc, refusal or event differs."
    assert not SIGNED & {entry.kind for entry in graph.legend}


def test_every_picture_of_a_change_is_readable(pictures):
    for graph, _, _ in pictures:
        layout = lay_out(graph)
        assert_readable(layout)
        assert_joined(layout)
        badges = [edge.badge for edge in layout.edges if edge.badge]
        for one, two in combinations(badges, 2):
            assert not one.overlaps(two), graph.title


def test_changes_differ_without_colour():
    looks = [(look.style, look.double, look.width >= 1.8) for look in CHANGE_STYLES.values()]
    assert len(set(looks)) == len(CHANGE_STYLES)
    assert len(set(SIGNS.values())) == len(SIGNS)


def test_the_legend_explains_the_changes_that_are_there_and_no_others(pictures):
    for graph, _, _ in pictures:
        there = {row.change for row in (*graph.nodes, *graph.edges)} & SIGNED
        assert {entry.kind for entry in graph.legend} & SIGNED == there
        kinds = [entry.kind for entry in graph.legend]
        assert len(kinds) == len(set(kinds))
        # What an arc does to the session is not drawn, so it is not explained.
        assert not {"moves", "opens", "keeps", "closes"} & set(kinds)


def test_a_removed_arc_keeps_its_place_and_has_a_sign_in_every_format(read):
    graph = change_graph(named("stop-p2p").machine(), named("builtin").machine())
    svg = render(graph, "svg")
    texts = read.svg_texts(svg)
    assert texts.count(SIGNS["removed"]) == 2 + 1  # two arcs, and the legend
    assert texts.count(SIGNS["added"]) == 4 + 1 + 1  # four arcs, a state, and the legend
    assert b"RUNNING_P2P \xe2\x86\x92 STOP: arc without a data session, removed." in svg
    assert "RUNNING_P2P --> STOP : removed" in to_mermaid(graph)
    assert "class STOP_P2P added" in to_mermaid(graph)
    assert 'class="arc moves removed"' in to_dot(graph)


def test_a_place_without_a_state_between_two_others_is_drawn(read, whole):
    """The arc PRE_COPY_P2P -> STOP_COPY passes over it, which is what T1 complains of."""
    machine = named("stop-p2p").machine()
    for graph in (machine_graph(machine), change_graph(machine, whole)):
        [place] = graph.holes
        assert graph.columns[place[0]].name == "p2p accepting"
        assert graph.rows[place[1]].name == "saving"
        assert "no state" in read.svg_texts(render(graph, "svg"))
        assert "No state is p2p accepting and saving." in graph.description
    assert machine_graph(whole).holes == ()
    # Seen from the other side nothing is left out: the place itself is removed.
    assert change_graph(whole, machine).holes == ()


def test_a_state_with_another_name_or_value_is_changed_and_not_another_one(whole):
    text = str(table_data())
    renamed = from_data(eval(text.replace("'STOP'", "'HALT'")), "renamed")
    changes = {node.name: node.change for node in change_graph(renamed.machine(), whole).nodes}
    assert changes["HALT"] == "changed"
    assert "STOP" not in changes
    values = [{"section": "states", "row": "RESUMING", "key": "value", "value": 9}]
    other = from_data(apply({"set": values}, table_data()), "other")
    changes = {node.name: node.change for node in change_graph(other.machine(), whole).nodes}
    assert changes["RESUMING"] == "changed"
    assert set(changes.values()) == {"same", "changed"}
