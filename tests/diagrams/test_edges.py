"""What is drawn is what the machine can do: no edge more, none fewer, in every format."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from vfio_migration.diagrams import machine_graph, render, to_dot, to_json, to_mermaid, trace_graphs
from vfio_migration.model import Step

EFFECT = {"moves": "none", "opens": "opens", "keeps": "keeps", "closes": "closes"}


def wanted(machine) -> set[tuple[str, str, str]]:
    """From the machine alone: its arcs by effect, its refusals, and the two ways of ERROR."""
    spec = machine.spec
    kinds = {effect: kind for kind, effect in EFFECT.items()}
    edges = {(a.from_, a.to, kinds[spec.effect(a.from_, a.to)]) for a in machine.arcs}
    edges |= {
        (row.from_, row.to, "refused")
        for row in spec.refusals
        if machine.supports(row.from_) and machine.supports(row.to)
    }
    return edges | {("", "ERROR", "fails"), ("ERROR", "RUNNING", "event")}


def test_dot_shows_the_machine(machine, read):
    dot = to_dot(machine_graph(machine))
    assert read.dot_edges(dot) == wanted(machine)
    assert read.dot_states(dot) == {row.name for row in machine.states}


def test_svg_shows_the_machine(machine, read):
    assert read.svg_edges(render(machine_graph(machine), "svg")) == wanted(machine)


def test_json_shows_the_machine(machine, read):
    assert read.json_edges(to_json(machine_graph(machine))) == wanted(machine)


def test_mermaid_shows_the_machine(machine, read):
    pairs = {(start, to) for start, to, _ in wanted(machine)}
    assert read.mermaid_edges(to_mermaid(machine_graph(machine))) == pairs


def test_the_arcs_drawn_are_the_arcs_routes_take(machine, read):
    """Not the list of arcs but every answer to a request: what the engine can step along."""
    taken = {
        (arc.from_, arc.to)
        for start in machine.states
        for route in machine.options(start.name)
        for arc in route.arcs
    }
    drawn = read.dot_edges(to_dot(machine_graph(machine)))
    assert {(start, to) for start, to, kind in drawn if kind in EFFECT} == taken


def test_contracted_arcs_state_what_they_pass_over(spec):
    graph = machine_graph(spec.machine("STOP_COPY,PRE_COPY"))
    via = {(edge.from_, edge.to): edge.via for edge in graph.edges if edge.via}
    assert via == {
        ("RUNNING", "STOP"): ("RUNNING_P2P",),
        ("STOP", "RUNNING"): ("RUNNING_P2P",),
        ("PRE_COPY", "STOP_COPY"): ("PRE_COPY_P2P",),
    }


def test_every_picture_of_every_route_keeps_all_edges(machine, read):
    """Highlighting adds at most the refusal it is about."""
    plain = wanted(machine)
    for start in machine.states:
        for route in machine.options(start.name):
            edges = read.json_edges(to_json(machine_graph(machine, route)))
            assert edges - plain <= {(start.name, route.to, "refused")}
            assert plain <= edges


# --- a route ---


def test_route_is_numbered_in_order(whole):
    graph = machine_graph(whole, whole.route("RUNNING", "STOP_COPY"))
    marks = {edge.marks[0].label: (edge.from_, edge.to) for edge in graph.edges if edge.marks}
    assert marks == {
        "1": ("RUNNING", "RUNNING_P2P"),
        "2": ("RUNNING_P2P", "STOP"),
        "3": ("STOP", "STOP_COPY"),
    }
    strong = {node.name for node in graph.nodes if node.emphasis == "strong"}
    assert strong == {"RUNNING", "RUNNING_P2P", "STOP", "STOP_COPY"}
    assert {edge.emphasis for edge in graph.edges if not edge.marks} == {"dim"}


def test_refused_route_shows_its_reason(whole, read):
    route = whole.route("STOP_COPY", "PRE_COPY")
    graph = machine_graph(whole, route)
    (alarm,) = [edge for edge in graph.edges if edge.emphasis == "alarm"]
    assert (alarm.from_, alarm.to, alarm.kind) == ("STOP_COPY", "PRE_COPY", "refused")
    shown = " ".join(read.svg_texts(render(graph, "svg")))
    assert f"Refused (EINVAL): {route.refused.reason}." in shown


@pytest.mark.parametrize("target", ["ERROR", 77])
def test_refusal_without_a_row_of_its_own(whole, target):
    """ERROR is on the picture, so a refusal is drawn to it; no state has the value 77."""
    graph = machine_graph(whole, whole.route("RUNNING", target))
    alarms = [(edge.from_, edge.to) for edge in graph.edges if edge.emphasis == "alarm"]
    assert alarms == ([("RUNNING", "ERROR")] if target == "ERROR" else [])
    assert graph.subtitle.startswith("Refused (EINVAL): ")


def test_nothing_to_do(whole):
    graph = machine_graph(whole, whole.route("STOP", "STOP"))
    assert graph.subtitle == "Nothing to do: the device is in this state already."
    assert not any(edge.marks for edge in graph.edges)


def test_a_route_of_another_machine_is_not_drawn(spec, whole):
    route = whole.route("RUNNING", "STOP")
    with pytest.raises(ValueError, match="RUNNING -> RUNNING_P2P is not an arc"):
        machine_graph(spec.machine("STOP_COPY"), route)
    with pytest.raises(ValueError, match="PRE_COPY is not a state"):
        machine_graph(spec.machine("STOP_COPY"), whole.route("PRE_COPY", "STOP"))


# --- a run ---


def marks(graph) -> dict[str, set[tuple[str | None, str, bool]]]:
    found: dict[str, set[tuple[str | None, str, bool]]] = {}
    for edge in graph.edges:
        for mark in edge.marks:
            found.setdefault(mark.label, set()).add((edge.from_, edge.to, mark.failed))
    return found


def test_run_is_drawn_over_the_same_layout(whole, run):
    graph = machine_graph(whole, trace=run)
    assert marks(graph) == {
        "2": {("RUNNING", "RUNNING_P2P", False)},
        "3": {("RUNNING_P2P", "STOP", True)},
        "4": {("RUNNING_P2P", "RUNNING", False)},  # the reset, not the arc of that name
        "5": {("RUNNING", "PRE_COPY", False)},
        "6": {("PRE_COPY", "ERROR", True)},
        "8": {("PRE_COPY", "PRE_COPY_P2P", True), (None, "ERROR", True)},
        "9": {("ERROR", "RUNNING", False)},
    }
    by_label = {m.label: edge for edge in graph.edges for m in edge.marks}
    assert by_label["4"].events == ("reset",)
    assert by_label["3"].emphasis == "alarm"
    assert by_label["2"].emphasis == "strong"
    assert [node.place for node in graph.nodes] == [
        node.place for node in machine_graph(whole).nodes
    ]
    assert len(graph.steps) == len(run.steps)


def test_every_step_is_listed_in_the_picture(whole, run, read):
    texts = " ".join(read.svg_texts(render(machine_graph(whole, trace=run), "svg")))
    assert "What can go wrong" in texts
    assert "8. arc PRE_COPY → PRE_COPY_P2P fails for good (EIO), now ERROR" in texts


def test_devices_are_distinguished(spec, whole, run):
    two = replace(
        run,
        capabilities=run.capabilities * 2,
        start=("RUNNING", "STOP"),
        steps=(
            Step(kind="arc", from_="RUNNING", to="PRE_COPY", state="PRE_COPY"),
            Step(kind="arc", device=1, from_="STOP", to="RESUMING", state="RESUMING"),
        ),
    )
    (graph,) = trace_graphs(spec, two)
    assert marks(graph) == {
        "1a": {("RUNNING", "PRE_COPY", False)},
        "2b": {("STOP", "RESUMING", False)},
    }
    assert set(marks(machine_graph(whole, trace=two, device=1))) == {"2"}
    mixed = replace(two, capabilities=(whole.names, ("STOP_COPY",)))
    first, second = trace_graphs(spec, mixed)
    assert (first.capabilities, second.capabilities) == (whole.names, ("STOP_COPY",))
    with pytest.raises(ValueError, match="device 1 of the run has STOP_COPY"):
        machine_graph(whole, trace=mixed)


def test_a_run_that_does_not_fit_is_refused(whole, run):
    leap = Step(kind="arc", from_="RUNNING", to="RESUMING", state="RESUMING")
    with pytest.raises(ValueError, match="step 1: RUNNING -> RESUMING is not an arc"):
        machine_graph(whole, trace=replace(run, steps=(leap,)))
    with pytest.raises(ValueError, match="no device 3"):
        machine_graph(whole, trace=run, device=3)
    with pytest.raises(ValueError, match="not both"):
        machine_graph(whole, whole.route("STOP", "STOP"), run)
    lost = Step(kind="note", state="NOWHERE", note="?")
    with pytest.raises(ValueError, match="NOWHERE: no state"):
        machine_graph(whole, trace=replace(run, steps=(lost,)))


# --- other tables ---


def test_ninth_state_is_drawn_with_no_code_change(ninth_state, read):
    """A column, a state and two arcs that the code has never learned of."""
    machine = ninth_state.machine()
    graph = machine_graph(machine)
    dot = to_dot(graph)
    assert read.dot_edges(dot) == wanted(machine)
    assert "STOP_P2P" in read.dot_states(dot)
    assert [row.name for row in graph.columns][-1] == "deep stopped"
    assert next(node.place for node in graph.nodes if node.name == "STOP_P2P") == (3, 1)
    texts = read.svg_texts(render(graph, "svg"))
    assert {"STOP_P2P", "8", "deep stopped"} <= set(texts)
    assert read.svg_edges(render(graph, "svg")) == wanted(machine)
    assert ("STOP", "STOP_P2P") in read.mermaid_edges(to_mermaid(graph))


def test_events_come_from_the_table(spec, read):
    """Where reset leads elsewhere, and a disconnect somewhere, the picture states it."""
    events = [
        replace(row, to={"reset": "STOP", "disconnect": "STOP"}.get(row.name, row.to))
        for row in spec.events
    ]
    graph = machine_graph(replace(spec, events=tuple(events)).machine())
    drawn = [
        (edge.from_, edge.to, edge.events)
        for edge in graph.edges
        if edge.kind in ("fails", "event")
    ]
    assert drawn == [
        (None, "ERROR", ("arc_failed_for_good",)),
        ("ERROR", "STOP", ("reset", "disconnect")),
    ]


def test_a_table_without_a_state_off_the_grid(spec, read):
    states = tuple(row for row in spec.states if row.name != "ERROR")
    events = tuple(replace(row, to=None if row.to == "ERROR" else row.to) for row in spec.events)
    machine = replace(spec, states=states, events=events).machine()
    edges = read.dot_edges(to_dot(machine_graph(machine)))
    assert edges == wanted(machine) - {("", "ERROR", "fails"), ("ERROR", "RUNNING", "event")} | {
        ("", "RUNNING", "event")
    }


def test_names_that_dot_and_mermaid_have_other_plans_for(spec, read):
    """Ports, records, quotes, markup, reserved words: all arrive as text."""
    odd = {"RUNNING": "end", "STOP": 'a:b"<i>&|{x}', "STOP_COPY": "größe; #1", "RESUMING": "\\N"}

    def rename(row):
        changed = {}
        for field in ("name", "from_", "to"):
            if getattr(row, field, None) in odd:
                changed[field] = odd[getattr(row, field)]
        return replace(row, **changed)

    spec = replace(
        spec,
        initial="end",
        states=tuple(map(rename, spec.states)),
        arcs=tuple(map(rename, spec.arcs)),
        refusals=tuple(map(rename, spec.refusals)),
        events=tuple(replace(row, to=odd.get(row.to, row.to)) for row in spec.events),
    )
    graph = machine_graph(spec.machine("STOP_COPY"))
    svg = render(graph, "svg")
    assert set(odd.values()) <= set(read.svg_texts(svg))
    assert {(edge.from_ or "", edge.to, edge.kind) for edge in graph.edges} == read.svg_edges(svg)
    lines = to_mermaid(graph).split("\n")
    assert not [line for line in lines if re.search(r'end -->|a:b"|; #1', line)]
    assert '    state "a:b#quot;#lt;i#gt;&|#123;x#125;<br/>1" as state_1' in lines
