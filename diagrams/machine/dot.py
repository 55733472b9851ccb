"""The graph as DOT, the language of Graphviz, with the place of everything written out.

`layout=nop2` makes any Graphviz draw what is there and lay nothing out itself. States
and arcs are plain nodes and edges with readable names; headings and badges are nodes of class
"text" and "badge", the legend is in `cluster_legend`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from vfio_migration.diagrams.drawing.kinds import Change, Emphasis
from vfio_migration.diagrams.drawing.page import WHOLE, Page
from vfio_migration.diagrams.drawing.palette import (
    CHANGE_STYLES,
    PALETTES,
    SIGNS,
    STYLES,
    Palette,
    Theme,
)
from vfio_migration.diagrams.drawing.pen import Pen, classes, number
from vfio_migration.diagrams.drawing.shapes import Box
from vfio_migration.diagrams.drawing.svg import Drawing, Group, Rules, line_rules
from vfio_migration.diagrams.machine.graph import Edge, Graph, Node
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


def to_dot(graph: Graph, theme: Theme = "light") -> str:
    """Return the DOT text; raise `MissingExtraError` without the graphviz package."""
    return draw(graph, theme).dot


def draw(graph: Graph, theme: Theme = "light", page: Page = WHOLE) -> Drawing:
    """Return a graph, drawn for a page.

    Raises:
        MissingExtraError: The graphviz package is not installed.
        TooNarrowError: The page is too narrow for type that can be read.
    """
    layout = lay_out(graph, page)
    ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}
    return Drawing(
        dot=_Writer(graph, layout, PALETTES[theme]).source(),
        title=graph.title,
        description=graph.description,
        height=layout.height,
        groups=_groups(layout, ids),
        rules=functools.partial(_rules, graph),
    )


def _rules(graph: Graph, palette: Palette) -> Rules:
    """Return the colours of what only some machines have: holes, and changes."""
    rules: dict[str, Mapping[str, str]] = {}
    if graph.holes:
        rules[".hole path"] = {"stroke": palette.muted}
        rules[".hole text"] = {"fill": palette.muted}
    for change in CHANGE_STYLES:
        if not any(node.change is not None for node in graph.nodes):
            break
        colour = palette.change(change)
        rules[f".state.{change} path"] = {"stroke": colour}
        rules[f".badge.{change} path"] = {"fill": colour}
        rules |= line_rules(f".edge.{change}", colour)
    return rules


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
        super().__init__(graph.name, layout.width, layout.height, palette, layout.measures.arrow)
        self.layout = layout
        self.ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}

    def source(self) -> str:
        layout = self.layout
        for index, band in enumerate(layout.bands):
            self.cluster(self.dot, f"band-{index}", band, self.palette.band, self.palette.band)
        self.cluster(self.dot, "frame", layout.frame, "transparent", self.palette.rule)
        for index, hole in enumerate(layout.holes):
            self._hole(f"hole-{index}", hole)
        for node in layout.nodes:
            self._state(node)
        for edge in layout.edges:
            self._edge(edge)
        for index, edge in enumerate(layout.edges):
            if edge.badge is not None:
                failed = any(mark.failed for mark in edge.edge.marks)
                steps = badge_text(edge.edge, layout.measures.labels)
                self._badge(f"badge-{index}", edge.badge, steps, failed, edge.edge.change)
        for node in layout.nodes:
            change = node.node.change
            if change is not None and SIGNS[change]:
                name = f"sign-{self.ids[node.node.name]}"
                self._badge(name, self.layout.corner(node), SIGNS[change], change=change)
        for index, text in enumerate(layout.texts):
            self.text(f"text-{index}", text)
        if layout.legend is not None:
            self._legend(layout.legend)
        return str(self.dot.source)

    def _legend(self, box: Box) -> None:
        with self.dot.subgraph(name="cluster_legend") as legend:
            self.cluster_attributes(legend, "legend", box, "transparent", self.palette.rule)
            for index, sample in enumerate(self.layout.samples):
                self._sample(legend, f"legend-{index}", sample)

    def _badge(
        self, name: str, box: Box, text: str, failed: bool = False, change: Change | None = None
    ) -> None:
        self.badge(name, box, text, failed, change, self.layout.measures.digit)

    # --- states ---

    def _state(self, placed: PlacedNode) -> None:
        node, palette, measures = placed.node, self.palette, self.layout.measures
        border, fill = _node_colours(node.emphasis, palette)
        is_changed = node.change is not None and node.change != "same"
        if node.change is not None:
            border = palette.change(node.change)
        faded = node.emphasis == "dim"
        text, muted = (palette.muted, palette.muted) if faded else (palette.text, palette.muted)
        self.dot.node(
            self.ids[node.name],
            label=_two_lines(
                (node.name, measures.name, text, "B"), (node.caption, measures.caption, muted, "")
            ),
            id=f"state-{self.ids[node.name]}",
            shape="box",
            style=_node_style(node),
            fillcolor=fill,
            color=border,
            penwidth="2.6" if node.initial else "2" if is_changed else "1.2",
            tooltip=self.plain(node.summary),
            **self.place(placed.box),
            **{
                "class": classes(
                    "state", node.emphasis, "initial" if node.initial else "", node.change or ""
                )
            },
        )

    def _hole(self, name: str, box: Box) -> None:
        """Draw a place without a state; an arc that passes over it stays in sight."""
        self.dot.node(
            name,
            label="no state",
            id=name,
            shape="box",
            style="rounded,dashed",
            color=self.palette.muted,
            fontcolor=self.palette.muted,
            fontsize=number(self.layout.measures.caption),
            penwidth="1",
            **self.place(box),
            **{"class": "hole"},
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
            **self.line(placed.line, edge.kind, edge.emphasis, edge.change),
            **{
                "class": classes(
                    "arc" if edge.is_arc else "", edge.kind, edge.emphasis, edge.change or ""
                )
            },
        )

    # --- texts and the legend ---

    def _sample(self, legend: Digraph, name: str, sample: Sample) -> None:
        box, kind = sample.box, sample.entry.kind
        if kind in ("step", "failed_step"):
            side = self.layout.measures.badge
            self._badge(name, Box(box.x, box.y, side, side), "n", kind == "failed_step")
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
                **self.place(Box(box.x, box.y, 2 * box.height, box.height)),
                **{"class": "state initial legend"},
            )
        elif kind in CHANGE_STYLES:
            self.sample_line(legend, name, "moves", box, kind)
            if SIGNS[kind]:
                self._badge(f"{name}-sign", _sample_sign(box), SIGNS[kind], change=kind)
        elif kind in STYLES:
            is_change = any(node.node.change is not None for node in self.layout.nodes)
            self.sample_line(legend, name, kind, box, "same" if is_change else None)


def _sample_sign(box: Box) -> Box:
    side = box.height * 15 / 14
    return Box(box.left + side / 2 + 0.5, box.y, side, side)


def _node_style(node: Node) -> str:
    """Return how the frame of a state is drawn: where something failed is seen without colour."""
    if node.emphasis == "alarm":
        return "filled,diagonals"
    return "filled,rounded,dashed" if node.change == "removed" else "filled,rounded"


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
    m = layout.measures
    for placed in layout.nodes:
        node, box = placed.node, placed.box
        groups[f"state-{ids[node.name]}"] = Group(
            title=f"{node.name}: {node.summary}",
            data={"state": node.name, "value": str(node.value)},
            pins=[(box.x, box.y - 3 * m.name / 13), (box.x, box.y + 12.5 * m.drop)],
        )
        corner = layout.corner(placed)
        sign = (corner.x, corner.y + 0.33 * m.digit)
        groups[f"sign-{ids[node.name]}"] = Group(data={}, pins=[sign])
    for index, box in enumerate(layout.holes):
        groups[f"hole-{index}"] = Group(data={}, pins=[(box.x, box.y + 3.3)])
    for index, edge in enumerate(layout.edges):
        groups[edge_id(edge.edge, ids)] = Group(
            title=f"{edge.edge}: {_meaning(edge.edge)}",
            data={"from": edge.edge.from_ or "", "to": edge.edge.to, "kind": edge.edge.kind},
        )
        if edge.badge is not None:
            middle = (edge.badge.x, edge.badge.y + 0.33 * m.digit)
            groups[f"badge-{index}"] = Group(data={}, pins=[middle])
    for index, sample in enumerate(layout.samples):
        down = 0.33 * m.digit
        middle = (sample.box.x, sample.box.y + down)
        groups[f"legend-{index}"] = Group(data={}, pins=[middle])
        box = _sample_sign(sample.box)
        groups[f"legend-{index}-sign"] = Group(data={}, pins=[(box.x, box.y + down)])
    return groups


def _meaning(edge: Edge) -> str:
    if edge.kind == "refused":
        return f"refused ({edge.errno}), {edge.summary}"
    return edge.summary
