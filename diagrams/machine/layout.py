"""Where everything is on the page.

All sizes are fixed or follow from counts of characters, never from measured text: fonts differ from
machine to machine, and a committed picture must not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vfio_migration.diagrams.drawing.palette import SIGNS
from vfio_migration.diagrams.drawing.shapes import (
    BOLD,
    CHARACTER,
    Anchor,
    Box,
    Line,
    Point,
    Text,
    TextRole,
    at,
    balanced,
    wrap,
)
from vfio_migration.diagrams.machine.graph import Edge, Graph, Heading, LegendEntry, Node
from vfio_migration.diagrams.machine.tracks import Cell, Detour, Port, Straight, plan

MARGIN = 24.0
NODE_WIDTH = 140.0
NODE_HEIGHT = 50.0
HEADINGS = 150.0  # the width of the headings of the rows
COLUMN_GAP = 104.0
PAD = 20.0  # between a state and the edge of its row
ROW_GAP = 30.0  # between two rows
LANE_GAP = 62.0  # between the grid and what is off it
LANE = 10.0  # how far a straight line is from the line between two centres
TRACK = 14.0  # between two tracks, and two ports
TIP = 2.0  # between an arrow and the state it points at
LINE = 13.0  # from baseline to baseline
LEGEND_LINE = 21.0
SAMPLE = 40.0  # the length of a line in the legend
MAX_STEPS = 40  # how many steps of a run are listed in the picture


@dataclass(frozen=True, slots=True)
class PlacedNode:
    """A state and its place."""

    node: Node
    box: Box


@dataclass(frozen=True, slots=True)
class PlacedEdge:
    """An edge, the line it is drawn along from tip to tip, and the badge with its steps."""

    edge: Edge
    line: Line
    badge: Box | None


@dataclass(frozen=True, slots=True)
class Sample:
    """An entry of the legend: the box its sample is drawn in."""

    entry: LegendEntry
    box: Box


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole page.

    Attributes:
        width: Its width in points.
        height: Its height in points.
        bands: The rows of the grid.
        holes: The places of the grid between two states at which no state is.
        frame: What holds the grid.
        legend: What holds the legend.
        nodes: The states.
        edges: The edges.
        samples: The samples of the legend.
        texts: Title, headings, labels and small print.
    """

    width: float
    height: float
    bands: tuple[Box, ...]
    holes: tuple[Box, ...]
    frame: Box
    legend: Box
    nodes: tuple[PlacedNode, ...]
    edges: tuple[PlacedEdge, ...]
    samples: tuple[Sample, ...]
    texts: tuple[Text, ...]


def lay_out(graph: Graph) -> Layout:
    """Find the place of everything in a graph."""
    return _Page(graph).layout()


class _Page:
    """One page while it is laid out, from the top down."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.texts: list[Text] = []
        self.lane = len(graph.rows)
        self.cells, self.spans = _cells(graph, self.lane)
        self.tracks = plan(graph.edges, self.cells, self.lane)
        longest = max((len(node.name) for node in graph.nodes), default=0)
        self.node_width = max(NODE_WIDTH, longest * 9.5 + 20)
        self.columns = max(1 + column for column, _ in self.cells.values())
        self.column_x = self._column_places()
        self.right = self.column_x[-1] + self.node_width / 2 + self._gap_width(self.columns)
        self.width = self.right + MARGIN

    def layout(self) -> Layout:
        y = self._title()
        y = self._column_headings(y)
        bands, self.row_y, y = self._rows(y)
        frame = Box.between(MARGIN, bands[0].top, self.right, bands[-1].bottom)
        self.frame = frame
        y = self._lane(y)
        boxes = {
            name: Box(self.column_x[column], self.row_y[row], self.node_width, NODE_HEIGHT)
            for name, (column, row) in self.cells.items()
        }
        edges = tuple(self._edges())
        legend, samples, y = self._legend(y)
        return Layout(
            width=self.width,
            height=y,
            bands=tuple(bands),
            holes=tuple(
                Box(
                    self.column_x[self.spans[column][0]],
                    self.row_y[row],
                    self.node_width,
                    NODE_HEIGHT,
                )
                for column, row in self.graph.holes
            ),
            frame=frame,
            legend=legend,
            nodes=tuple(PlacedNode(node, boxes[node.name]) for node in self.graph.nodes),
            edges=edges,
            samples=tuple(samples),
            texts=tuple(self.texts),
        )

    # --- across ---

    def _gap_width(self, gap: int) -> float:
        inner = 0 < gap < self.columns
        return (COLUMN_GAP if inner else PAD) + TRACK * self.tracks.down.get(gap, 0)

    def _column_places(self) -> list[float]:
        places = []
        left = MARGIN + HEADINGS
        for column in range(self.columns):
            left += self._gap_width(column)
            places.append(left + self.node_width / 2)
            left += self.node_width
        return places

    # --- down ---

    def _title(self) -> float:
        y = MARGIN - 6
        for line in self.graph.title.split("\n"):
            for part in wrap(line, self.right - MARGIN, 17, BOLD):
                y += 22
                self.texts.append(Text(MARGIN, y, part, 17, role="title"))
        for part in wrap(self.graph.subtitle, self.right - MARGIN, 11):
            y += 17
            self.texts.append(Text(MARGIN, y, part, 11, role="muted"))
        return y + 32

    def _column_headings(self, y: float) -> float:
        wide = self.node_width + 3 * PAD
        lines = [balanced(row.summary, wide, 9.5) for row in self.graph.columns]
        bottom = y + LINE * (1 + max(map(len, lines), default=0))
        for (first, last), row, summary in zip(self.spans, self.graph.columns, lines, strict=True):
            middle = (self.column_x[first] + self.column_x[last]) / 2
            self._heading(middle, y, row.name, summary, "middle")
        self.texts.append(Text(MARGIN + PAD, bottom, "session ↓", 9.5, role="muted"))
        self.texts.append(Text(MARGIN + HEADINGS, y, "operation →", 9.5, "right", role="muted"))
        return bottom + 12

    def _heading(self, x: float, y: float, name: str, summary: Sequence[str], side: Anchor) -> None:
        self.texts.append(Text(x, y, name, 12.5, side, role="heading"))
        for index, line in enumerate(summary, 1):
            self.texts.append(Text(x, y + 1 + LINE * index, line, 9.5, side, role="muted"))

    def _rows(self, y: float) -> tuple[list[Box], list[float], float]:
        bands, centres = [], []
        for row, heading in enumerate(self.graph.rows):
            tracks = self.tracks.across.get(row, 0)
            half = self._half_height([heading])
            centre = y + half + TRACK * tracks + (4 if tracks else 0)
            bands.append(Box.between(MARGIN, y, self.right, centre + half))
            centres.append(centre)
            self._row_heading([heading], centre)
            y = bands[-1].bottom + ROW_GAP
        return bands, centres, y - ROW_GAP

    def _row_lines(self, headings: Sequence[Heading]) -> list[str]:
        return [line for row in headings for line in balanced(row.summary, HEADINGS - PAD, 9.5)]

    def _half_height(self, headings: Sequence[Heading]) -> float:
        """Return half the height of a row: enough for a state, and for the words beside it."""
        return max(NODE_HEIGHT / 2 + PAD, LINE * (len(self._row_lines(headings)) + 2) / 2)

    def _row_heading(self, headings: Sequence[Heading], centre: float) -> None:
        lines = self._row_lines(headings)
        top = centre + 4 - LINE * len(lines) / 2
        self._heading(MARGIN + PAD, top, ", ".join(row.name for row in headings), lines, "left")

    def _lane(self, y: float) -> float:
        """Place the states off the grid in a row below it."""
        if not self.graph.off_grid:
            return y
        half = self._half_height(self.graph.off_grid)
        tracks = TRACK * self.tracks.across.get(self.lane, 0)
        centre = y + LANE_GAP - PAD + tracks + half
        self.row_y.append(centre)
        self._row_heading(self.graph.off_grid, centre)
        return centre + half - PAD

    # --- edges ---

    def _edges(self) -> Iterator[PlacedEdge]:
        badges: list[Box] = []
        for edge, way in zip(self.graph.edges, self.tracks.ways, strict=True):
            line = self._straight(way) if isinstance(way, Straight) else self._detour(way)
            line = line.shortened(TIP if edge.from_ is not None else 0, TIP)
            badge = None
            if badge_text(edge):
                wide = max(18.0, 11 + 6.4 * len(badge_text(edge)))
                shares = (0.34, 0.6) if isinstance(way, Straight) else (0.5, 0.4, 0.6, 0.3)
                places = [Box(*at(line, share), wide, 18) for share in shares]
                # Of two tracks side by side, the badges are beside each other.
                free = [one for one in places if not any(map(one.overlaps, badges))]
                badge = (free or places)[0]
                badges.append(badge)
            if edge.events:
                self.texts.append(_event_label(edge, line))
            yield PlacedEdge(edge, line, badge)

    def _straight(self, way: Straight) -> Line:
        """Return a line on the left-hand lane, so that the way back has its own."""
        (c1, r1), (c2, r2) = way.start, way.end
        x1, y1, x2, y2 = self.column_x[c1], self.row_y[r1], self.column_x[c2], self.row_y[r2]
        if r1 == r2:
            ahead = 1 if c2 > c1 else -1
            y, half = y1 - LANE * ahead, self.node_width / 2 * ahead
            return Line(((x1 + half, y), (x2 - half, y)))
        ahead = 1 if r2 > r1 else -1
        x, half = x1 + LANE * ahead, NODE_HEIGHT / 2 * ahead
        return Line(((x, y1 + half), (x, y2 - half)))

    def _detour(self, way: Detour) -> Line:
        end = self._port(way.end)
        if not way.legs:
            return Line(((end[0], self.frame.bottom), end))
        heights = [self._track_y(leg) for leg in way.legs]
        if way.start is None:
            corners = [(MARGIN, heights[0])]
        else:
            start = self._port(way.start)
            corners = [start, (start[0], heights[0])]
        if way.riser is not None:
            gap, track = way.riser
            left = self.column_x[gap] if gap < self.columns else self.right + self.node_width / 2
            x = left - self.node_width / 2 - PAD - TRACK * track
            corners += [(x, heights[0]), (x, heights[1])]
        return Line((*corners, (end[0], heights[-1]), end))

    def _port(self, port: Port) -> Point:
        """Return where a port is, on the edge of its state."""
        column, row = port.cell
        count = self.tracks.ports[column, port.gutter, port.side]
        first, last = LANE + TRACK, self.node_width / 2 - 12
        step = min(TRACK, (last - first) / count)
        x = self.column_x[column] + port.side * (first + step * port.slot)
        half = NODE_HEIGHT / 2
        return x, self.row_y[row] + (-half if port.gutter == row else half)

    def _track_y(self, leg: tuple[int, int]) -> float:
        gutter, track = leg
        return self.row_y[gutter] - NODE_HEIGHT / 2 - PAD + 2 - TRACK * track

    # --- below the picture ---

    def _legend(self, y: float) -> tuple[Box, list[Sample], float]:
        top = y + 26
        inside = self.right - MARGIN - 2 * PAD
        entries = self.graph.legend
        wide = SAMPLE + 24 + 10 * CHARACTER * max((len(row.text) for row in entries), default=0)
        columns = max(1, min(len(entries), int(inside // wide)))
        samples = []
        for index, entry in enumerate(entries):
            left = MARGIN + PAD + inside / columns * (index % columns)
            middle = top + 22 + LEGEND_LINE * (index // columns)
            samples.append(Sample(entry, Box(left + SAMPLE / 2, middle, SAMPLE, 14)))
            self.texts.append(Text(left + SAMPLE + 10, middle + 3.5, entry.text))
        y = top + 22 + LEGEND_LINE * -(-len(entries) // columns) - 4
        y = self._small_print(self.graph.notes, y, "muted")
        steps = list(self.graph.steps[:MAX_STEPS])
        if len(self.graph.steps) > MAX_STEPS:
            steps.append(f"… and {len(self.graph.steps) - MAX_STEPS} more")
        y = self._small_print(steps, y + (8 if steps else 0), "text")
        box = Box.between(MARGIN, top, self.right, y + 11)
        return box, samples, box.bottom + MARGIN

    def _small_print(self, lines: Sequence[str], y: float, role: TextRole) -> float:
        for line in lines:
            for index, part in enumerate(wrap(line, self.right - MARGIN - 3 * PAD, 9.5)):
                y += LINE + (0 if index else 2)
                self.texts.append(Text(MARGIN + PAD + 14 * bool(index), y, part, 9.5, role=role))
        return y


def badge_text(edge: Edge) -> str:
    """Return the sign of a change; or the numbers of the steps, the first few if there are many."""
    if edge.change is not None:
        return SIGNS[edge.change]
    labels = [mark.label for mark in edge.marks]
    return ", ".join(labels if len(labels) <= 3 else [*labels[:2], "…", labels[-1]])


def _event_label(edge: Edge, line: Line) -> Text:
    """Name an event beside its arrow: on the outer side, clear of a line on the other lane."""
    (x1, y1), (x2, y2) = line.longest
    if x1 != x2:
        return Text(
            (3 * x1 + x2) / 4, min(y1, y2) - 4, edge.event_text, 9.5, "middle", role="muted"
        )
    if edge.from_ is None:
        beside = x1 + (14 if badge_text(edge) else 7)
        return Text(beside, (y1 + y2) / 2 + 3, edge.event_text, 9.5, role="muted")
    return Text(x1 - 7, y1 - 26, edge.event_text, 9.5, "right", role="muted")


def _cells(graph: Graph, lane: int) -> tuple[dict[str, Cell], list[tuple[int, int]]]:
    """Return the cell of each state, and the first and last column of each operation.

    States that share a place are side by side, and their operation takes as many columns. Those
    off the grid are in the row `lane`, each under the state its events lead to, if that column
    is free: then the way back is a straight line wherever the grid leaves room for one.
    """
    sharing: dict[tuple[int, int], list[str]] = {}
    for node in graph.nodes:
        if node.place is not None:
            sharing.setdefault(node.place, []).append(node.name)
    spans: list[tuple[int, int]] = []
    for column in range(len(graph.columns)):
        first = spans[-1][1] + 1 if spans else 0
        most = max(len(names) for place, names in sharing.items() if place[0] == column)
        spans.append((first, first + most - 1))
    cells = {
        name: (spans[column][0] + index, row)
        for (column, row), names in sharing.items()
        for index, name in enumerate(names)
    }
    taken: set[int] = set()
    for node in graph.nodes:
        if node.place is not None:
            continue
        column = min(
            (
                cells[edge.to][0]
                for edge in graph.edges
                if edge.from_ == node.name and edge.events and edge.to in cells
            ),
            default=0,
        )
        while column in taken:
            column += 1
        taken.add(column)
        cells[node.name] = (column, lane)
    return cells, spans
