"""The graph as DOT, the language of Graphviz, with the place of everything written out.

`layout=nop2` tells any Graphviz to draw what stands there and to lay nothing out itself. States
and arcs are plain nodes and edges with readable names; headings and badges are nodes of class
"text" and "badge", the legend is in `cluster_legend`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from vfio_migration.diagrams.errors import needs
from vfio_migration.diagrams.graph import Edge, EdgeKind, Emphasis, Graph
from vfio_migration.diagrams.layout import (
    Layout,
    PlacedEdge,
    PlacedNode,
    Sample,
    badge_text,
    lay_out,
)
from vfio_migration.diagrams.palette import PALETTES, STYLES, Palette, Theme
from vfio_migration.diagrams.shapes import Box, Line, Point, Text

if TYPE_CHECKING:
    from graphviz import Digraph

FONT = "Helvetica"
NAME_SIZE = 13
CAPTION_SIZE = 10
ARROW = 0.75
_FADED = "48"  # the alpha of what is off the route


def to_dot(graph: Graph, theme: Theme = "light") -> str:
    """Return the DOT text of a graph. Raises `MissingDependency` without the graphviz package."""
    return _Writer(graph, lay_out(graph), PALETTES[theme]).source()


def identifier(name: str, value: int) -> str:
    """Return the DOT identifier of a state: its name, or its value if the name would need care.

    No name that is taken as it stands has a hyphen; all other identifiers here have one.
    """
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else f"state-{value}"


def edge_id(edge: Edge, ids: Mapping[str, str]) -> str:
    """Return the `id` of an edge in DOT and SVG. `ids` are the identifiers of the states."""
    start = ids[edge.from_] if edge.from_ is not None else "any"
    return f"{edge.kind}-{start}-{ids[edge.to]}"


class _Writer:
    def __init__(self, graph: Graph, layout: Layout, palette: Palette) -> None:
        with needs("graphviz"):
            import graphviz
        self.graphviz = graphviz
        self.layout = layout
        self.palette = palette
        self.ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}
        self.dot: Digraph = graphviz.Digraph(graph.name)
        self.dot.attr(
            "graph",
            layout="nop2",
            outputorder="edgesfirst",
            pad="0",
            # The page is a cluster of its own, which has a class and so a colour in each theme.
            bgcolor="transparent",
            # `class` is a word Python keeps for itself.
            **{"class": "vfio-migration"},
        )
        font = {"fontname": FONT, "fontsize": _number(CAPTION_SIZE), "fontcolor": palette.text}
        self.dot.attr("node", fixedsize="true", margin="0", **font)
        self.dot.attr("edge", arrowsize=_number(ARROW), **font)

    def source(self) -> str:
        layout = self.layout
        page = Box.between(0, 0, layout.width, layout.height)
        self._cluster(self.dot, "page", page, self.palette.page, self.palette.page)
        for index, band in enumerate(layout.bands):
            self._cluster(self.dot, f"band-{index}", band, self.palette.band, self.palette.band)
        self._cluster(self.dot, "frame", layout.frame, "transparent", self.palette.rule)
        for node in layout.nodes:
            self._state(node)
        for edge in layout.edges:
            self._edge(edge)
        for index, edge in enumerate(layout.edges):
            if edge.badge is not None:
                self._badge(f"badge-{index}", edge.badge, badge_text(edge.edge), edge.edge)
        for index, text in enumerate(layout.texts):
            self._text(f"text-{index}", text)
        with self.dot.subgraph(name="cluster_legend") as legend:
            self._cluster_attributes(
                legend, "legend", layout.legend, "transparent", self.palette.rule
            )
            for index, sample in enumerate(layout.samples):
                self._sample(legend, f"legend-{index}", sample)
        return str(self.dot.source)

    # --- clusters: what stands behind ---

    def _cluster(self, parent: Digraph, name: str, box: Box, fill: str, line: str) -> None:
        with parent.subgraph(name=f"cluster_{name}") as cluster:
            self._cluster_attributes(cluster, name, box, fill, line)

    def _cluster_attributes(
        self, cluster: Digraph, name: str, box: Box, fill: str, line: str
    ) -> None:
        corners = (*self._point((box.left, box.bottom)), *self._point((box.right, box.top)))
        cluster.attr(
            bb=",".join(map(_number, corners)),
            style="filled" if name == "page" else "filled,rounded",
            fillcolor=fill,
            color=line,
            id=name,
            **{"class": name.split("-")[0]},
        )

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
            tooltip=self._plain(node.summary),
            **self._place(placed.box),
            **{"class": _classes("state", node.emphasis, "initial" if node.initial else "")},
        )

    # --- edges ---

    def _edge(self, placed: PlacedEdge) -> None:
        edge = placed.edge
        if edge.from_ is None:
            tail = f"any-{self.ids[edge.to]}"
            self._point_node(self.dot, tail, placed.line.start, "any")
        else:
            tail = self.ids[edge.from_]
        self.dot.edge(
            tail,
            self.ids[edge.to],
            id=edge_id(edge, self.ids),
            tooltip=self._plain(edge.summary),
            **self._line(placed.line, edge.kind, edge.emphasis),
            **{"class": _classes("arc" if edge.is_arc else "", edge.kind, edge.emphasis)},
        )

    def _line(self, line: Line, kind: EdgeKind, emphasis: Emphasis) -> dict[str, str]:
        look = STYLES[kind]
        colour = self.palette.alarm if emphasis == "alarm" else self.palette.edge(kind)
        width = look.width
        if emphasis in ("strong", "alarm"):
            # Wider lines would close the gap of a double one.
            width += 0.3 if look.double else 0.9
        if emphasis == "dim":
            colour += _FADED
        head = 4.0 if look.head == "tee" else 10 * ARROW
        tail = 8 * ARROW if look.tail else 0.0
        points = line.shortened(tail, head).bezier()
        ends = [f"s,{self._pair(line.start)}"] if look.tail else []
        ends.append(f"e,{self._pair(line.end)}")
        return {
            "pos": " ".join([*ends, *map(self._pair, points)]),
            "color": f"{colour}:{colour}" if look.double else colour,
            "style": look.style,
            "penwidth": _number(width),
            "arrowhead": look.head,
            **({"arrowtail": look.tail, "dir": "both"} if look.tail else {}),
        }

    def _badge(
        self, name: str, box: Box, text: str, edge: Edge | None, failed: bool = False
    ) -> None:
        failed = failed or (edge is not None and any(mark.failed for mark in edge.marks))
        colour = self.palette.alarm if failed else self.palette.strong
        self.dot.node(
            name,
            label=self._plain(text),
            id=name,
            shape="box",
            style="filled,rounded",
            fillcolor=colour,
            color=self.palette.page,
            fontcolor=self.palette.badge_text,
            fontname=f"{FONT}-Bold",
            **self._place(box),
            **{"class": _classes("badge", "failed" if failed else "")},
        )

    # --- texts and the legend ---

    def _text(self, name: str, text: Text) -> None:
        # Graphviz puts the baseline of a label at the top of its node this far down, whatever the
        # font: the one vertical place it does not measure the font for.
        height = 2 * text.size
        top = text.y - 0.95 * text.size
        room = {
            "left": self.layout.width - text.x,
            "middle": 2 * min(text.x, self.layout.width - text.x),
            "right": text.x,
        }[text.anchor]
        width = min(room, len(text.text) * text.size)
        shift = {"left": width / 2, "middle": 0, "right": -width / 2}[text.anchor]
        justify = {"left": r"\l", "middle": "", "right": r"\r"}[text.anchor]
        bold = text.role in ("title", "heading")
        self.dot.node(
            name,
            label=self._plain(text.text) + justify,
            id=name,
            shape="plaintext",
            labelloc="t",
            fontname=f"{FONT}-Bold" if bold else FONT,
            fontsize=_number(text.size),
            fontcolor=self.palette.muted if text.role == "muted" else self.palette.text,
            **self._place(Box(text.x + shift, top + height / 2, width, height)),
            **{"class": _classes("text", text.role)},
        )

    def _sample(self, legend: Digraph, name: str, sample: Sample) -> None:
        box, kind = sample.box, sample.entry.kind
        if kind in ("step", "failed_step"):
            self._badge(name, Box(box.x, box.y, 18, 18), "n", None, failed=kind == "failed_step")
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
                **self._place(Box(box.x, box.y, 28, 14)),
                **{"class": "state initial legend"},
            )
        elif kind in STYLES:
            line = Line(((box.left, box.y), (box.right, box.y)))
            self._point_node(legend, f"{name}-a", line.start, "legend")
            self._point_node(legend, f"{name}-b", line.end, "legend")
            legend.edge(
                f"{name}-a",
                f"{name}-b",
                id=name,
                **self._line(line, kind, "normal"),
                **{"class": _classes("legend", kind)},
            )

    def _point_node(self, parent: Digraph, name: str, point: Point, role: str) -> None:
        place = self._place(Box(*point, 0.72, 0.72))
        parent.node(name, label="", shape="point", style="invis", **place, **{"class": role})

    # --- from the page's coordinates to Graphviz's, which count upwards ---

    def _point(self, point: Point) -> Point:
        return point[0], self.layout.height - point[1]

    def _pair(self, point: Point) -> str:
        return ",".join(map(_number, self._point(point)))

    def _place(self, box: Box) -> dict[str, str]:
        return {
            "pos": self._pair((box.x, box.y)),
            "width": _number(box.width / 72, 4),
            "height": _number(box.height / 72, 4),
        }

    def _plain(self, text: str) -> str:
        """Quote text that Graphviz must take as it stands."""
        escaped: str = self.graphviz.escape(text)
        return escaped


def _node_colours(emphasis: Emphasis, palette: Palette) -> tuple[str, str]:
    return {
        "normal": (palette.border, palette.node),
        "strong": (palette.strong, palette.strong_fill),
        "alarm": (palette.alarm, palette.alarm_fill),
        "dim": (palette.rule, palette.node),
    }[emphasis]


def _classes(*names: str) -> str:
    return " ".join(name for name in names if name and name != "normal")


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


def _number(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def pinned_texts(layout: Layout, ids: Iterable[str]) -> dict[str, list[Point]]:
    """Return, for each group of the SVG with a measured text, where the lines belong."""
    pins = {
        f"state-{name}": [(node.box.x, node.box.y - 3), (node.box.x, node.box.y + 12.5)]
        for name, node in zip(ids, layout.nodes, strict=True)
    }
    for index, edge in enumerate(layout.edges):
        if edge.badge is not None:
            pins[f"badge-{index}"] = [(edge.badge.x, edge.badge.y + 3.3)]
    for index, sample in enumerate(layout.samples):
        pins[f"legend-{index}"] = [(sample.box.x, sample.box.y + 3.3)]
    return pins
