"""The time line of a migration as DOT, with the place of everything written out.

A bar is the node `bar-LANE-N`, a step an edge between two bars of a lane, a stream an edge from a
bar of the source to one of the destination; headings are nodes of class "text".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from vfio_migration.diagrams.drawing.kinds import Liveness
from vfio_migration.diagrams.drawing.page import SMALLEST, WHOLE, Page
from vfio_migration.diagrams.drawing.palette import (
    BAR_STYLES,
    PALETTES,
    STYLES,
    Palette,
    Theme,
)
from vfio_migration.diagrams.drawing.pen import FONT, Pen, classes, number
from vfio_migration.diagrams.drawing.shapes import Box, Line
from vfio_migration.diagrams.drawing.svg import Drawing, Group, Rules, line_rules
from vfio_migration.diagrams.plan.layout import (
    Column,
    PlacedBar,
    PlacedFlow,
    PlacedHop,
    PlanLayout,
    PlanSample,
    lay_out_plan,
)
from vfio_migration.diagrams.plan.measures import FULL
from vfio_migration.diagrams.plan.text import render as plan_text
from vfio_migration.diagrams.plan.view import PlanView, ShownState

if TYPE_CHECKING:
    from graphviz import Digraph

_SHADE = "59"  # the alpha of the downtime, which lies over the lanes


def draw_plan(view: PlanView, theme: Theme = "light", page: Page = WHOLE) -> Drawing:
    """Return a plan, drawn for a page.

    Raises:
        MissingExtraError: The graphviz package is not installed.
        TooNarrowError: The page is too narrow for type that can be read.
    """
    layout = lay_out_plan(view, page)
    writer = _Writer(view, layout, PALETTES[theme])
    return Drawing(
        dot=writer.source(),
        title=view.title,
        description=plan_text(view, 100),
        height=layout.height,
        groups=writer.groups,
        rules=_rules,
    )


def _rules(palette: Palette) -> Rules:
    rules = {
        ".side path": {"fill": palette.band, "stroke": palette.rule},
        ".transfer path": {"fill": palette.strong_fill, "stroke": palette.strong_fill},
        ".downtime path": {"fill": palette.shade, "stroke": palette.shade},
        ".held polygon": {"fill": palette.band, "stroke": palette.rule},
        ".held text": {"fill": palette.text},
        ".bar text": {"fill": palette.text},
    }
    for liveness in get_args(Liveness):
        fill, border = palette.bar_colours(liveness)
        shapes = ("path", "polygon")
        rules |= {f".bar.{liveness} {shape}": {"fill": fill, "stroke": border} for shape in shapes}
    rules[".bar.off_grid polyline"] = {"stroke": palette.alarm}
    rules[".bar.streams path"] = {"stroke": palette.keeps}
    rules[".bar.streams polygon"] = {"stroke": palette.keeps}
    return {
        **rules,
        **line_rules(".edge.flow", palette.strong),
        **line_rules(".edge.rule", palette.rule),
        **line_rules(".edge.no_return", palette.alarm),
    }


def _numbered(name: str) -> Iterator[str]:
    """Yield a name for the first part of something, and one for each part after it."""
    yield name
    for count in itertools.count(1):
        yield f"{name}-{count}"


def _inner(box: Box) -> Box:
    """Return the box of the bar in a sample."""
    return Box(box.x, box.y, box.width - 6, box.height)


class _Writer(Pen):
    def __init__(self, view: PlanView, layout: PlanLayout, palette: Palette) -> None:
        name = f"migration-{view.name}"
        super().__init__(name, layout.width, layout.height, palette, layout.measures.head)
        self.view = view
        self.layout = layout
        self.groups: dict[str, Group] = {}
        # A bar is named by its lane and its place there: no name depends on the bars of others.
        self.bars: list[str] = []
        counts: dict[int, int] = {}
        for bar in layout.bars:
            counts[bar.lane] = counts.get(bar.lane, -1) + 1
            self.bars.append(f"bar-{bar.lane}-{counts[bar.lane]}")

    def source(self) -> str:
        layout, palette = self.layout, self.palette
        for index, group in enumerate(layout.groups):
            self.cluster(self.dot, f"side-{index}", group, palette.band, palette.rule)
        for name, box in zip(_numbered("downtime"), layout.downtime, strict=False):
            self._shade(self.dot, name, box)
        for column in layout.columns:
            if column.stage.flows:
                self._transfer(column)
        for index, bracket in enumerate(layout.brackets):
            self._stroke(self.dot, f"bracket-{index}", bracket, "rule", "rule")
        for column in layout.columns:
            self._column(column)
        # Before the edges, which would name them in another order.
        for name, bar in zip(self.bars, layout.bars, strict=True):
            self._bar(name, bar)
        for flow in layout.flows:
            self._flow(flow)
        for hop in layout.hops:
            self._hop(hop)
        if layout.no_return is not None:
            self._stroke(self.dot, "no_return", layout.no_return, "no_return", "no_return")
        for index, held in enumerate(layout.journal):
            self._held(f"held-{index}", held.holder, held.box)
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

    # --- what is behind ---

    def _transfer(self, column: Column) -> None:
        top, bottom = column.groups[0].top, column.groups[-1].bottom
        box = Box.between(column.box.left, top + 1, column.box.right, bottom - 1)
        fill = self.palette.strong_fill
        self.cluster(self.dot, f"transfer-{column.stage.number}", box, fill, fill)

    def _shade(self, parent: Digraph, name: str, box: Box) -> None:
        colour = self.palette.shade
        self.cluster(parent, name, box, colour + _SHADE, colour + _SHADE)

    def _column(self, column: Column) -> None:
        name = f"stage-{column.stage.number}"
        x = column.box.left
        for index, group in enumerate(column.groups):
            line = Line(((x, group.top + 3), (x, group.bottom - 3)))
            self._stroke(self.dot, f"{name}-{index}", line, "rule", "rule")
        digit = self.layout.measures.label
        text = column.stage.label or str(column.stage.number)
        self.badge(name, column.badge, text, column.stage.failed, size=digit)
        self.groups[name] = Group(
            title=f"{column.stage.number}. {column.stage.name}: {column.stage.summary}",
            data={"stage": str(column.stage.number), "name": column.stage.name},
            pins=[(column.badge.x, column.badge.y + 0.33 * digit)],
        )

    # --- bars, steps, streams ---

    def _bar(self, name: str, bar: PlacedBar) -> None:
        state, lane = bar.state, self.view.lanes[bar.lane]
        self._state(self.dot, name, state, bar.box, state.name)
        self.groups[name] = Group(
            title=f"{lane.label}: {state.name}. {state.summary}",
            data={
                "lane": str(bar.lane),
                "side": lane.side or "",
                "stage": str(bar.stage),
                "state": state.name,
            },
            pins=[(bar.box.x, bar.box.y + 3.3 * self.layout.measures.name / FULL.name)],
        )

    def _state(
        self, parent: Digraph, name: str, state: ShownState, box: Box, label: str, legend: str = ""
    ) -> None:
        palette = self.palette
        fill, border = palette.bar_colours(state.liveness)
        parent.node(
            name,
            label=self.plain(label),
            id=name,
            shape="box",
            style=BAR_STYLES[state.liveness],
            fillcolor=fill,
            color=palette.keeps if state.streams else border,
            penwidth="2.2" if state.streams else "1",
            fontname=f"{FONT}-Bold",
            fontsize=number(self.layout.measures.name),
            tooltip=self.plain(state.summary),
            **self.place(box),
            **{"class": classes("bar", state.liveness, "streams" * state.streams, legend)},
        )

    def _hop(self, placed: PlacedHop) -> None:
        hop = placed.hop
        name = f"hop-{self.bars[placed.head]}"
        self.dot.edge(
            self.bars[placed.tail],
            self.bars[placed.head],
            id=name,
            tooltip=self.plain(hop.summary),
            **self.line(placed.line, hop.kind, "normal"),
            **{"class": classes("arc" if hop.event is None else "", hop.kind)},
        )
        self.groups[name] = Group(
            title=f"{self.view.lanes[hop.lane].label}: {hop.from_} → {hop.to}: {hop.summary}",
            data={
                "lane": str(hop.lane),
                "stage": str(placed.stage),
                "from": hop.from_,
                "to": hop.to,
                "kind": hop.kind,
            },
        )

    def _flow(self, placed: PlacedFlow) -> None:
        name = f"flow-{placed.stage}-{placed.device}"
        self.dot.edge(
            self.bars[placed.tail],
            self.bars[placed.head],
            id=name,
            tooltip=self.plain("data"),
            **self._drawn(placed.line, "flow"),
            **{"class": "flow"},
        )
        self.groups[name] = Group(
            title=f"the data of device {placed.device + 1}",
            data={"device": str(placed.device), "stage": str(placed.stage)},
        )

    def _drawn(self, line: Line, kind: str) -> dict[str, str]:
        """Return the attributes of a line that is no edge of the machine."""
        palette = self.palette
        colour, style, width, head = {
            "flow": (palette.strong, "solid", 2.4, "normal"),
            "rule": (palette.rule, "solid", 0.8, "none"),
            "no_return": (palette.alarm, "dashed", 2.2, "none"),
        }[kind]
        points = line.shortened(0, 7.5 if head == "normal" else 0).bezier()
        ends = [f"e,{self.pair(line.end)}"] if head == "normal" else []
        return {
            "pos": " ".join([*ends, *map(self.pair, points)]),
            "color": colour,
            "style": style,
            "penwidth": number(width),
            "arrowhead": head,
        }

    def _stroke(self, parent: Digraph, name: str, line: Line, kind: str, role: str) -> None:
        self.point_node(parent, f"{name}-a", line.start, role)
        self.point_node(parent, f"{name}-b", line.end, role)
        parent.edge(f"{name}-a", f"{name}-b", id=name, **self._drawn(line, kind), **{"class": role})

    def _held(self, name: str, holder: str, box: Box) -> None:
        self.dot.node(
            name,
            label=self.plain(holder),
            id=name,
            shape="box",
            style="filled",
            fillcolor=self.palette.band,
            color=self.palette.rule,
            fontsize=number(max(SMALLEST, self.layout.measures.heading - 0.5)),
            **self.place(box),
            **{"class": "held"},
        )
        self.groups[name] = Group(
            data={"holder": holder},
            pins=[(box.x, box.y + 3 * self.layout.measures.heading / FULL.heading)],
        )

    # --- the legend ---

    def _sample(self, legend: Digraph, name: str, sample: PlanSample) -> None:
        box, kind = sample.box, sample.kind
        if isinstance(kind, ShownState):
            plain = replace(kind, streams=False)
            self._state(legend, name, plain, _inner(box), "", "legend")
        elif kind == "session":
            state = next(row for row in self.view.states if row.streams)
            self._state(legend, name, state, _inner(box), "", "legend")
        elif kind == "downtime":
            self._shade(legend, "downtime-sample", box)
        elif kind in ("flow", "no_return"):
            line = Line(((box.left, box.y), (box.right, box.y)))
            self._stroke(legend, name, line, kind, f"legend {kind}")
        elif kind in STYLES:
            self.sample_line(legend, name, kind, box)
