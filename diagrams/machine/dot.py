"""The graph as DOT, the language of Graphviz, with the place of everything written out.

`layout=nop2` makes any Graphviz draw what is there and lay nothing out itself. States
and arcs are plain nodes and edges with readable names; headings and badges are nodes of class
"text" and "badge", the legend is in `cluster_legend`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from vfio_migration.diagrams.drawing.kinds import Emphasis
from vfio_migration.diagrams.drawing.palette import PALETTES, STYLES, Palette, Theme
from vfio_migration.diagrams.drawing.pen import Pen, classes
from vfio_migration.diagrams.drawing.shapes import Box
from vfio_migration.diagrams.drawing.svg import Drawing, Group
from vfio_migration.diagrams.machine.graph import Edge, Graph
from vfio_migration.diagrams.machine.layout import (
    Layout,
    PlacedEdge,
    PlacedNode,
    Sample,
    badge_text,
    lay_out,
)

if TYPE_CHECKING:
    from graphviz import Digraph

NAME_SIZE = 13
CAPTION_SIZE = 10


def to_dot(graph: Graph, theme: Theme = "light") -> str:
    """Return the DOT text; raise `MissingExtraError` without the graphviz package."""
    return draw(graph, theme).dot


def draw(graph: Graph, theme: Theme = "light") -> Drawing:
    """Return a graph, drawn. Raises `MissingExtraError` without the graphviz package."""
    layout = lay_out(graph)
    ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}
    return Drawing(
        dot=_Writer(graph, layout, PALETTES[theme]).source(),
        title=graph.title,
        description=graph.description,
        height=layout.height,
        groups=_groups(layout, ids),
    )


def identifier(name: str, value: int) -> str:
    """Return the DOT identifier of a state: its name, or its value if the name would need care.

    No name that is taken as it is has a hyphen; all other identifiers here have one.
    """
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"state-{value}"


def edge_id(edge: Edge, ids: Mapping[str, str]) -> str:
    """Return the `id` of an edge in DOT and SVG. `ids` are the identifiers of the states."""
    start = ids[edge.from_] if edge.from_ is not None else "any"
    return f"{edge.kind}-{start}-{ids[edge.to]}"


class _Writer(Pen):
    def __init__(self, graph: Graph, layout: Layout, palette: Palette) -> None:
        super().__init__(graph.name, layout.width, layout.height, palette)
        self.layout = layout
        self.ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}

    def source(self) -> str:
        layout = self.layout
        for index, band in enumerate(layout.bands):
            self.cluster(self.dot, f"band-{index}", band, self.palette.band, self.palette.band)
        self.cluster(self.dot, "frame", layout.frame, "transparent", self.palette.rule)
        for node in layout.nodes:
            self._state(node)
        for edge in layout.edges:
            self._edge(edge)
        for index, edge in enumerate(layout.edges):
            if edge.badge is not None:
                failed = any(mark.failed for mark in edge.edge.marks)
                self.badge(f"badge-{index}", edge.badge, badge_text(edge.edge), failed)
        for index, text in enumerate(layout.texts):
            self.text(f"text-{index}", text)
        with self.dot.subgraph(name="cluster_legend") as legend:
            self.cluster_attributes(
                legend, "legend", layout.legend, "transparent", self.palette.rule
            )
            for index, sample in enumerate(layout.samples):
                self._sample(legend, f"legend-{index}", sample)
        return str(self.dot.source)

    # --- states ---

    def _state(self, placed: PlacedNode) -> None:
        node, palette = placed.node, self.palette
        border, fill = _node_colours(node.emphasis, palette)
        faded = node.emphasis == "dim"
        text, muted = (palette.muted, palette.muted) if faded else (palette.text, palette.muted)
        self.dot.node(
            self.ids[node.name],
            label=_two_lines(
                (node.name, NAME_SIZE, text, "B"), (node.caption, CAPTION_SIZE, muted, "")
            ),
            id=f"state-{self.ids[node.name]}",
            shape="box",
            style="filled,rounded",
            fillcolor=fill,
            color=border,
            penwidth="2.6" if node.initial else "1.2",
            tooltip=self.plain(node.summary),
            **self.place(placed.box),
            **{"class": classes("state", node.emphasis, "initial" if node.initial else "")},
        )

    # --- edges ---

    def _edge(self, placed: PlacedEdge) -> None:
        edge = placed.edge
        if edge.from_ is None:
            tail = f"any-{self.ids[edge.to]}"
            self.point_node(self.dot, tail, placed.line.start, "any")
        else:
            tail = self.ids[edge.from_]
        self.dot.edge(
            tail,
            self.ids[edge.to],
            id=edge_id(edge, self.ids),
            tooltip=self.plain(edge.summary),
            **self.line(placed.line, edge.kind, edge.emphasis),
            **{"class": classes("arc" if edge.is_arc else "", edge.kind, edge.emphasis)},
        )

    # --- texts and the legend ---

    def _sample(self, legend: Digraph, name: str, sample: Sample) -> None:
        box, kind = sample.box, sample.entry.kind
        if kind in ("step", "failed_step"):
            self.badge(name, Box(box.x, box.y, 18, 18), "n", kind == "failed_step")
        elif kind == "initial":
            legend.node(
                name,
                label="",
                id=name,
                shape="box",
                style="filled,rounded",
                fillcolor=self.palette.node,
                color=self.palette.border,
                penwidth="2.6",
                **self.place(Box(box.x, box.y, 28, 14)),
                **{"class": "state initial legend"},
            )
        elif kind in STYLES:
            self.sample_line(legend, name, kind, box)


def _node_colours(emphasis: Emphasis, palette: Palette) -> tuple[str, str]:
    return {
        "normal": (palette.border, palette.node),
        "strong": (palette.strong, palette.strong_fill),
        "alarm": (palette.alarm, palette.alarm_fill),
        "dim": (palette.rule, palette.node),
    }[emphasis]


def _two_lines(*lines: tuple[str, float, str, str]) -> str:
    """Return an HTML label of lines: text, size, colour, and a tag around it if any."""
    cells = []
    for text, size, colour, tag in lines:
        # Graphviz reads backslashes before it reads the markup: \N would become the node's name.
        words = escape(text, quote=True).replace("\\", "\\\\")
        if tag:
            words = f"<{tag}>{words}</{tag}>"
        cells.append(f'<TR><TD><FONT POINT-SIZE="{size}" COLOR="{colour}">{words}</FONT></TD></TR>')
    table = '<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1.5">'
    return f"<{table}{''.join(cells)}</TABLE>>"


def _groups(layout: Layout, ids: Mapping[str, str]) -> dict[str, Group]:
    """Return what is known of the groups of the SVG, and where measured texts belong."""
    groups = {}
    for placed in layout.nodes:
        node, box = placed.node, placed.box
        groups[f"state-{ids[node.name]}"] = Group(
            title=f"{node.name}: {node.summary}",
            data={"state": node.name, "value": str(node.value)},
            pins=[(box.x, box.y - 3), (box.x, box.y + 12.5)],
        )
    for index, edge in enumerate(layout.edges):
        groups[edge_id(edge.edge, ids)] = Group(
            title=f"{edge.edge}: {_meaning(edge.edge)}",
            data={"from": edge.edge.from_ or "", "to": edge.edge.to, "kind": edge.edge.kind},
        )
        if edge.badge is not None:
            groups[f"badge-{index}"] = Group(data={}, pins=[(edge.badge.x, edge.badge.y + 3.3)])
    for index, sample in enumerate(layout.samples):
        groups[f"legend-{index}"] = Group(data={}, pins=[(sample.box.x, sample.box.y + 3.3)])
    return groups


def _meaning(edge: Edge) -> str:
    if edge.kind == "refused":
        return f"refused ({edge.errno}), {edge.summary}"
    return edge.summary
