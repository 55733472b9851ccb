"""The strokes every picture is drawn with: boxes, lines, badges and texts, as DOT.

`layout=nop2` makes any Graphviz draw what is there and lay nothing out itself. A layout
counts from the top left corner; here its places become those of Graphviz, which count upwards.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from vfio_migration.diagrams.drawing.kinds import ARC_KINDS, Change, EdgeKind, Emphasis
from vfio_migration.diagrams.drawing.palette import CHANGE_STYLES, STYLES, Palette
from vfio_migration.diagrams.drawing.shapes import Box, Line, Point, Text
from vfio_migration.model.extras import from_extra

if TYPE_CHECKING:
    from graphviz import Digraph

FONT = "Helvetica"
TEXT_SIZE = 10
ARROW = 0.75
_FADED = "48"  # the alpha of what is off the route


class Pen:
    """Writes one page. Raises `MissingExtraError` without the graphviz package."""

    def __init__(
        self, name: str, width: float, height: float, palette: Palette, arrow: float = ARROW
    ) -> None:
        with from_extra():
            import graphviz
        self.graphviz = graphviz
        self.width = width
        self.height = height
        self.palette = palette
        self.arrow = arrow
        self.dot: Digraph = graphviz.Digraph(name)
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
        font = {"fontname": FONT, "fontsize": number(TEXT_SIZE), "fontcolor": palette.text}
        self.dot.attr("node", fixedsize="true", margin="0", **font)
        self.dot.attr("edge", arrowsize=number(arrow), **font)
        page = Box.between(0, 0, width, height)
        self.cluster(self.dot, "page", page, palette.page, palette.page)

    # --- clusters: what is behind ---

    def cluster(self, parent: Digraph, name: str, box: Box, fill: str, line: str) -> None:
        """Draw a box that is behind what is in it."""
        with parent.subgraph(name=f"cluster_{name}") as cluster:
            self.cluster_attributes(cluster, name, box, fill, line)

    def cluster_attributes(
        self, cluster: Digraph, name: str, box: Box, fill: str, line: str
    ) -> None:
        """Make a subgraph such a box."""
        corners = (*self.point((box.left, box.bottom)), *self.point((box.right, box.top)))
        cluster.attr(
            bb=",".join(map(number, corners)),
            style="filled" if name == "page" else "filled,rounded",
            fillcolor=fill,
            color=line,
            id=name,
            **{"class": name.split("-")[0]},
        )

    # --- lines, badges, texts ---

    def line(
        self, line: Line, kind: EdgeKind, emphasis: Emphasis, change: Change | None = None
    ) -> dict[str, str]:
        """Return the attributes of an edge of this kind along a line."""
        look = STYLES[kind]
        colour = self.palette.alarm if emphasis == "alarm" else self.palette.edge(kind)
        if change is not None:
            colour = self.palette.change(change)
            # An event or refusal that is as before keeps its own line.
            if change != "same" or kind in ARC_KINDS:
                look = replace(CHANGE_STYLES[change], head=look.head)
        width = look.width
        if emphasis in ("strong", "alarm"):
            # Wider lines would close the gap of a double one.
            width += 0.3 if look.double else 0.9
        if emphasis == "dim":
            colour += _FADED
        head = 4.0 if look.head == "tee" else 10 * self.arrow
        tail = 8 * self.arrow if look.tail else 0.0
        points = line.shortened(tail, head).bezier()
        ends = [f"s,{self.pair(line.start)}"] if look.tail else []
        ends.append(f"e,{self.pair(line.end)}")
        return {
            "pos": " ".join([*ends, *map(self.pair, points)]),
            "color": f"{colour}:{colour}" if look.double else colour,
            "style": look.style,
            "penwidth": number(width),
            "arrowhead": look.head,
            **({"arrowtail": look.tail, "dir": "both"} if look.tail else {}),
        }

    def badge(
        self,
        name: str,
        box: Box,
        text: str,
        failed: bool = False,
        change: Change | None = None,
        size: float = TEXT_SIZE,
    ) -> None:
        """Draw the number of a step, or the sign of a change; a failed step has cut corners."""
        colour = self.palette.alarm if failed else self.palette.strong
        if change is not None:
            colour = self.palette.change(change)
        self.dot.node(
            name,
            label=self.plain(text),
            id=name,
            shape="octagon" if failed else "box",
            style="filled" if failed else "filled,rounded",
            fillcolor=colour,
            color=self.palette.page,
            fontcolor=self.palette.badge_text,
            fontname=f"{FONT}-Bold",
            **({} if size == TEXT_SIZE else {"fontsize": number(size)}),
            **self.place(box),
            **{"class": classes("badge", "failed" if failed else "", change or "")},
        )

    def text(self, name: str, text: Text) -> None:
        """Draw one line of text."""
        # Graphviz puts the baseline of a label at the top of its node this far down, whatever the
        # font: the one vertical place it does not measure the font for.
        height = 2 * text.size
        top = text.y - 0.95 * text.size
        room = {
            "left": self.width - text.x,
            "middle": 2 * min(text.x, self.width - text.x),
            "right": text.x,
        }[text.anchor]
        width = min(room, len(text.text) * text.size)
        shift = {"left": width / 2, "middle": 0, "right": -width / 2}[text.anchor]
        justify = {"left": r"\l", "middle": "", "right": r"\r"}[text.anchor]
        bold = text.role in ("title", "heading")
        self.dot.node(
            name,
            label=self.plain(text.text) + justify,
            id=name,
            shape="plaintext",
            labelloc="t",
            fontname=f"{FONT}-Bold" if bold else FONT,
            fontsize=number(text.size),
            fontcolor=self.palette.muted if text.role == "muted" else self.palette.text,
            **self.place(Box(text.x + shift, top + height / 2, width, height)),
            **{"class": classes("text", text.role)},
        )

    def point_node(self, parent: Digraph, name: str, point: Point, role: str) -> None:
        """Put an invisible node where an edge begins or ends on the open page."""
        place = self.place(Box(*point, 0.72, 0.72))
        parent.node(name, label="", shape="point", style="invis", **place, **{"class": role})

    # --- from the page's coordinates to Graphviz's, which count upwards ---

    def sample_line(
        self, legend: Digraph, name: str, kind: EdgeKind, box: Box, change: Change | None = None
    ) -> None:
        """Draw a line of a kind in a legend."""
        line = Line(((box.left, box.y), (box.right, box.y)))
        self.point_node(legend, f"{name}-a", line.start, "legend")
        self.point_node(legend, f"{name}-b", line.end, "legend")
        legend.edge(
            f"{name}-a",
            f"{name}-b",
            id=name,
            **self.line(line, kind, "normal", change),
            **{"class": classes("legend", kind, change or "")},
        )

    def point(self, point: Point) -> Point:
        """Return a point as Graphviz counts."""
        return point[0], self.height - point[1]

    def pair(self, point: Point) -> str:
        """Return a point as Graphviz writes it."""
        return ",".join(map(number, self.point(point)))

    def place(self, box: Box) -> dict[str, str]:
        """Return the attributes that put a node where a box is."""
        return {
            "pos": self.pair((box.x, box.y)),
            "width": number(box.width / 72, 4),
            "height": number(box.height / 72, 4),
        }

    def plain(self, text: str) -> str:
        """Quote text that Graphviz must take as it is."""
        escaped: str = self.graphviz.escape(text)
        return escaped


def classes(*names: str) -> str:
    """Return the classes of a node or edge, those that say nothing left out."""
    return " ".join(name for name in names if name and name != "normal")


def number(value: float, digits: int = 2) -> str:
    """Return a number without the zeros at its end."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")
