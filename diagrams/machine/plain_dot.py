"""The graph as a small DOT text that any Graphviz lays out: for manuals that draw their figures.

The rows of the grid are ranks and its columns are groups, which Graphviz keeps straight. There is
no font and no colour in it: kinds of lines differ in their style and their ends. All of it is
ASCII, as long as the names of the table are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vfio_migration.diagrams.drawing.kinds import EdgeKind
from vfio_migration.diagrams.machine.dot import identifier
from vfio_migration.diagrams.machine.graph import Edge, Graph, Node

Place = tuple[int, int]

_ANY = "any-state"


@dataclass(frozen=True, slots=True)
class PlainLine:
    """How a kind of edge is drawn without a colour.

    Attributes:
        attributes: In the terms of Graphviz.
        look: In words.
    """

    attributes: str
    look: str


PLAIN_LINES: dict[EdgeKind, PlainLine] = {
    "moves": PlainLine("", "thin line"),
    "opens": PlainLine("dir=both, arrowtail=dot", "line with a dot at its beginning"),
    "keeps": PlainLine("style=bold", "thick line"),
    "closes": PlainLine("style=dashed", "dashed line"),
    "refused": PlainLine("style=dotted, arrowhead=tee", "dotted line with a bar at its end"),
    "fails": PlainLine("style=dotted", "dotted line with an arrow"),
    "event": PlainLine("style=dashed, arrowhead=vee", "dashed line with an open arrow"),
}
"""The lines of each kind of edge: no two alike."""


def plain_dot(graph: Graph) -> str:
    """Return the DOT text of a machine, a route, a run or a change."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    ids = {node.name: _quoted(identifier(node.name, node.value)) for node in graph.nodes}
    yield from (f"// {line}" for line in graph.title.split("\n"))
    yield f"digraph {_quoted(graph.name)} {{"
    yield "\tnode [shape=box, style=rounded];"
    yield "\tranksep=0.6; nodesep=0.8;"
    yield ""
    rows: dict[int | None, list[Node]] = {}
    for node in sorted(graph.nodes, key=lambda node: node.place or (0, 0)):
        rows.setdefault(None if node.place is None else node.place[1], []).append(node)
    for index, row in enumerate(graph.rows):
        yield f"\tsubgraph {_quoted(row.name)} {{ rank=same;"
        nodes = rows.get(index, [])
        yield from (f"\t\t{_state(node, ids, graph)}" for node in nodes)
        if len(nodes) > 1:
            # Nothing else keeps a row in its order.
            order = " -> ".join(ids[node.name] for node in nodes)
            yield f"\t\t{order} [style=invis];"
        yield "\t}"
    yield from _off_grid(graph, rows.get(None, []), ids)
    yield ""
    places = {node.name: node.place for node in graph.nodes}
    yield from (f"\t{_edge(edge, ids, places)}" for edge in graph.edges)
    yield "}"


def _off_grid(graph: Graph, nodes: list[Node], ids: dict[str, str]) -> Iterator[str]:
    """Put what is off the grid below it, each state under one that it leads to."""
    starts_anywhere = any(edge.from_ is None for edge in graph.edges)
    if nodes or starts_anywhere:
        yield "\t{ rank=max;"
        yield from (f"\t\t{_state(node, ids, graph)}" for node in nodes)
        if starts_anywhere:
            yield f'\t\t"{_ANY}" [label="any state", shape=plaintext];'
        yield "\t}"
    names = {node.name for node in nodes}
    for edge in graph.edges:
        if edge.from_ in names and edge.to not in names:
            # An edge that leads up would put its beginning above the grid.
            yield f"\t{ids[edge.to]} -> {ids[edge.from_]} [style=invis];"


def _state(node: Node, ids: dict[str, str], graph: Graph) -> str:
    requires = f", {' + '.join(node.requires)}" if node.requires else ""
    attributes = [f"label={_quoted(node.name, f'({node.value}{requires})')}"]
    if node.place is not None:
        attributes.append(f"group={_quoted(graph.columns[node.place[0]].name)}")
    if node.initial:
        attributes.append('style="rounded,bold"')
    return f"{ids[node.name]} [{', '.join(attributes)}];"


def _edge(edge: Edge, ids: dict[str, str], places: Mapping[str, Place | None]) -> str:
    start = f'"{_ANY}"' if edge.from_ is None else ids[edge.from_]
    look = PLAIN_LINES[edge.kind].attributes
    attributes = [look] if look else []
    if edge.events:
        attributes.append("constraint=false")
    start_place, end = places.get(edge.from_ or ""), places[edge.to]
    if start_place and end and start_place[1] == end[1] and start_place[0] > end[0]:
        attributes.append("weight=0")  # or Graphviz may turn the row around
    words = [mark.label for mark in edge.marks]
    words = [", ".join(words)] if words else []
    if edge.change not in (None, "same"):
        words.append(str(edge.change))
    if edge.events:
        words.append(edge.event_text)
    if words:
        attributes.append(f"label={_quoted(*words)}")
    return f"{start} -> {ids[edge.to]}" + (f" [{', '.join(attributes)}];" if attributes else ";")


def _quoted(*lines: str) -> str:
    """Return lines as a string of DOT, in which a backslash escapes."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
