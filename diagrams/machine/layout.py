"""Where everything is on the page.

All sizes are fixed or follow from counts of characters, never from measured text: fonts differ from
machine to machine, and a committed picture must not. On a page of a given width the same picture is
laid out with smaller sizes (`vfio_migration.diagrams.machine.measures`), and with its grid turned
if it has fewer rows than columns and needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vfio_migration.diagrams.drawing.page import WHOLE, Page, TooNarrowError
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
from vfio_migration.diagrams.machine.measures import FULL, Measures, fitted, scales
from vfio_migration.diagrams.machine.tracks import Cell, Detour, Port, Straight, plan

TIP = 2.0  # between an arrow and the state it points at
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
        legend: What holds the legend; None if there is none.
        nodes: The states.
        edges: The edges.
        samples: The samples of the legend.
        texts: Title, headings, labels and small print.
        measures: The sizes it is made of.
    """

    width: float
    height: float
    bands: tuple[Box, ...]
    holes: tuple[Box, ...]
    frame: Box
    legend: Box | None
    nodes: tuple[PlacedNode, ...]
    edges: tuple[PlacedEdge, ...]
    samples: tuple[Sample, ...]
    texts: tuple[Text, ...]
    measures: Measures

    def corner(self, placed: PlacedNode) -> Box:
        """Return where the sign of a state is: on its upper left corner."""
        side = self.measures.badge
        return Box(placed.box.left + side / 6, placed.box.top + side / 6, side, side)


def lay_out(graph: Graph, page: Page = WHOLE) -> Layout:
    """Find the place of everything in a graph.

    Raises:
        TooNarrowError: If the page is too narrow for type that can be read.
    """
    if page.width is None:
        return _Page(graph, page, FULL).layout()
    needed = []
    for turned, measures in _CANDIDATES:
        shown = _turned(graph) if turned else graph
        fit = _Page(shown, page, measures, turned)
        if fit.width <= page.width:
            return fit.widened(page.width - fit.width).layout()
        needed.append(fit.width)
    raise TooNarrowError(page.width, min(needed))


_CANDIDATES: tuple[tuple[bool, Measures], ...] = (
    (False, FULL),
    # The larger type wins, and at the same type the grid that lies as elsewhere.
    *((turned, fitted(scale, True)) for scale in scales(86, 70) for turned in (False, True)),
    *((turned, fitted(scale, False)) for scale in scales(84, 54) for turned in (False, True)),
)
"""How a picture is tried on a page of a given width, the best first: whether the grid is turned."""


def _turned(graph: Graph) -> Graph:
    """Return a graph with the columns of its grid as rows, and the rows as columns."""
    return replace(
        graph,
        columns=graph.rows,
        rows=graph.columns,
        nodes=tuple(
            node if node.place is None else replace(node, place=node.place[::-1])
            for node in graph.nodes
        ),
        holes=tuple((row, column) for column, row in graph.holes),
    )


class _Page:
    """One page while it is laid out, from the top down."""

    def __init__(
        self, graph: Graph, page: Page, measures: Measures, turned: bool = False, wider: float = 0
    ) -> None:
        self.graph = graph
        self.page = page
        self.measures = m = measures
        # Where words begin inside a frame.
        self.inset = m.pad if measures is FULL else m.margin
        self.turned = turned
        self.texts: list[Text] = []
        self.lane = len(graph.rows)
        self.cells, self.spans = _cells(graph, self.lane)
        self.tracks = plan(graph.edges, self.cells, self.lane)
        longest = max((len(node.name) for node in graph.nodes), default=0)
        self.node_width = max(m.node_width, longest * m.character + m.node_pad, self._captions())
        self.headings = max(m.headings, self._row_names())
        self.columns = max(1 + column for column, _ in self.cells.values())
        # What a page is wider than its picture is shared out between the columns.
        self.column_gap = max(m.column_gap, self._widest_badge() + m.arrow * 36)
        self.side = m.pad
        if self.columns > 1:
            self.column_gap += wider / (self.columns - 1)
        else:
            self.side += wider / 2
        self.column_x = self._column_places()
        self.right = self.column_x[-1] + self.node_width / 2 + self._gap_width(self.columns)
        self.width = self.right + m.margin

    def widened(self, room: float) -> _Page:
        """Return the same page, this much wider."""
        return _Page(self.graph, self.page, self.measures, self.turned, room) if room else self

    def layout(self) -> Layout:
        y = self._title()
        y = self._column_headings(y)
        bands, self.row_y, y = self._rows(y)
        frame = Box.between(self.measures.margin, bands[0].top, self.right, bands[-1].bottom)
        self.frame = frame
        y = self._lane(y)
        height = self.measures.node_height
        boxes = {
            name: Box(self.column_x[column], self.row_y[row], self.node_width, height)
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
                    height,
                )
                for column, row in self.graph.holes
            ),
            frame=frame,
            legend=legend,
            nodes=tuple(PlacedNode(node, boxes[node.name]) for node in self.graph.nodes),
            edges=edges,
            samples=tuple(samples),
            texts=tuple(self.texts),
            measures=self.measures,
        )

    # --- across ---

    def _captions(self) -> float:
        m = self.measures
        longest = max((len(node.caption) for node in self.graph.nodes), default=0)
        return longest * m.caption * CHARACTER + m.node_pad

    def _row_names(self) -> float:
        """Return how wide the headings of the rows must be for their names."""
        m = self.measures
        names = [row.name for row in self.graph.rows]
        names.append(", ".join(row.name for row in self.graph.off_grid))
        return max(map(len, names)) * m.heading * BOLD * 0.9 + m.pad

    def _badge_width(self, edge: Edge) -> float:
        m = self.measures
        text = badge_text(edge, m.labels)
        return max(m.badge, m.digit * (1.1 + 0.64 * len(text))) if text else 0

    def _widest_badge(self) -> float:
        return max(map(self._badge_width, self.graph.edges), default=0)

    def _gap_width(self, gap: int) -> float:
        inner = 0 < gap < self.columns
        room = self.column_gap if inner else self.side
        return room + self.measures.track * self.tracks.down.get(gap, 0)

    def _column_places(self) -> list[float]:
        places = []
        left = self.measures.margin + self.headings
        for column in range(self.columns):
            left += self._gap_width(column)
            places.append(left + self.node_width / 2)
            left += self.node_width
        return places

    # --- down ---

    def _title(self) -> float:
        m = self.measures
        if not self.page.title:
            return m.margin + m.heading
        y = m.margin - 6
        for line in self.graph.title.split("\n"):
            for part in wrap(line, self.right - m.margin, m.title, BOLD):
                y += m.title * 22 / 17
                self.texts.append(Text(m.margin, y, part, m.title, role="title"))
        for part in wrap(self.graph.subtitle, self.right - m.margin, m.subtitle):
            y += m.subtitle * 17 / 11
            self.texts.append(Text(m.margin, y, part, m.subtitle, role="muted"))
        return y + m.heading * 2.56

    def _column_headings(self, y: float) -> float:
        m = self.measures
        wide = self.node_width + min(3 * m.pad, self.column_gap - 8)
        lines = [balanced(row.summary, wide, m.small) for row in self.graph.columns]
        bottom = y + m.line * (1 + max(map(len, lines), default=0))
        for (first, last), row, summary in zip(self.spans, self.graph.columns, lines, strict=True):
            middle = (self.column_x[first] + self.column_x[last]) / 2
            self._heading(middle, y, row.name, summary, "middle")
        down, across = ("operation", "session") if self.turned else ("session", "operation")
        edge = m.margin + self.headings
        self.texts.append(Text(m.margin + self.inset, bottom, f"{down} ↓", m.small, role="muted"))
        self.texts.append(Text(edge, y, f"{across} →", m.small, "right", role="muted"))
        return bottom + m.line - 1

    def _heading(self, x: float, y: float, name: str, summary: Sequence[str], side: Anchor) -> None:
        m = self.measures
        self.texts.append(Text(x, y, name, m.heading, side, role="heading"))
        for index, line in enumerate(summary, 1):
            self.texts.append(Text(x, y + 1 + m.line * index, line, m.small, side, role="muted"))

    def _rows(self, y: float) -> tuple[list[Box], list[float], float]:
        m = self.measures
        bands, centres = [], []
        high = m.badge if any(map(self._badge_width, self.graph.edges)) else 0
        gap = max(m.row_gap, high + m.arrow * 36 - 2 * m.pad)
        for row, heading in enumerate(self.graph.rows):
            tracks = self.tracks.across.get(row, 0)
            half = self._half_height([heading])
            centre = y + half + m.track * tracks + (4 if tracks else 0)
            bands.append(Box.between(m.margin, y, self.right, centre + half))
            centres.append(centre)
            self._row_heading([heading], centre)
            y = bands[-1].bottom + gap
        return bands, centres, y - gap

    def _row_lines(self, headings: Sequence[Heading]) -> list[str]:
        m = self.measures
        if not m.summaries:
            return []
        wide = self.headings - self.inset
        return [line for row in headings for line in balanced(row.summary, wide, m.small)]

    def _half_height(self, headings: Sequence[Heading]) -> float:
        """Return half the height of a row: enough for a state, and for the words beside it."""
        m = self.measures
        words = m.line * (len(self._row_lines(headings)) + 2) / 2
        return max(m.node_height / 2 + m.pad, words + (0 if m is FULL else 2))

    def _row_heading(self, headings: Sequence[Heading], centre: float) -> None:
        lines = self._row_lines(headings)
        top = centre + 4 - self.measures.line * len(lines) / 2
        self._heading(
            self.measures.margin + self.inset,
            top,
            ", ".join(row.name for row in headings),
            lines,
            "left",
        )

    def _lane(self, y: float) -> float:
        """Place the states off the grid in a row below it."""
        if not self.graph.off_grid:
            return y
        m = self.measures
        half = self._half_height(self.graph.off_grid)
        tracks = m.track * self.tracks.across.get(self.lane, 0)
        centre = y + m.lane_gap - m.pad + tracks + half
        self.row_y.append(centre)
        self._row_heading(self.graph.off_grid, centre)
        return centre + half - m.pad

    # --- edges ---

    def _edges(self) -> Iterator[PlacedEdge]:
        badges: list[Box] = []
        for edge, way in zip(self.graph.edges, self.tracks.ways, strict=True):
            line = self._straight(way) if isinstance(way, Straight) else self._detour(way)
            line = line.shortened(TIP if edge.from_ is not None else 0, TIP)
            badge = None
            wide, high = self._badge_width(edge), self.measures.badge
            if wide:
                shares = (0.34, 0.6) if isinstance(way, Straight) else (0.5, 0.4, 0.6, 0.3)
                places = [Box(*at(line, share), wide, high) for share in shares]
                # Of two tracks side by side, the badges are beside each other.
                free = [one for one in places if not any(map(one.overlaps, badges))]
                badge = (free or places)[0]
                badges.append(badge)
            if edge.events:
                self.texts.append(_event_label(edge, line, self.measures))
            yield PlacedEdge(edge, line, badge)

    def _straight(self, way: Straight) -> Line:
        """Return a line on the left-hand lane, so that the way back has its own."""
        lane = self.measures.lane
        (c1, r1), (c2, r2) = way.start, way.end
        x1, y1, x2, y2 = self.column_x[c1], self.row_y[r1], self.column_x[c2], self.row_y[r2]
        if r1 == r2:
            ahead = 1 if c2 > c1 else -1
            y, half = y1 - lane * ahead, self.node_width / 2 * ahead
            return Line(((x1 + half, y), (x2 - half, y)))
        ahead = 1 if r2 > r1 else -1
        x, half = x1 + lane * ahead, self.measures.node_height / 2 * ahead
        return Line(((x, y1 + half), (x, y2 - half)))

    def _detour(self, way: Detour) -> Line:
        end = self._port(way.end)
        if not way.legs:
            return Line(((end[0], self.frame.bottom), end))
        heights = [self._track_y(leg) for leg in way.legs]
        if way.start is None:
            corners = [(self.measures.margin, heights[0])]
        else:
            start = self._port(way.start)
            corners = [start, (start[0], heights[0])]
        if way.riser is not None:
            gap, track = way.riser
            left = self.column_x[gap] if gap < self.columns else self.right + self.node_width / 2
            x = left - self.node_width / 2 - self.measures.pad - self.measures.track * track
            corners += [(x, heights[0]), (x, heights[1])]
        return Line((*corners, (end[0], heights[-1]), end))

    def _port(self, port: Port) -> Point:
        """Return where a port is, on the edge of its state."""
        column, row = port.cell
        count = self.tracks.ports[column, port.gutter, port.side]
        m = self.measures
        first, last = m.lane + m.track, self.node_width / 2 - m.corner
        step = min(m.track, (last - first) / count)
        x = self.column_x[column] + port.side * (first + step * port.slot)
        half = m.node_height / 2
        return x, self.row_y[row] + (-half if port.gutter == row else half)

    def _track_y(self, leg: tuple[int, int]) -> float:
        gutter, track = leg
        m = self.measures
        return self.row_y[gutter] - m.node_height / 2 - m.pad + 2 - m.track * track

    # --- below the picture ---

    def _legend(self, y: float) -> tuple[Box | None, list[Sample], float]:
        m = self.measures
        steps = list(self.graph.steps[:MAX_STEPS]) if self.page.steps else []
        if steps and len(self.graph.steps) > MAX_STEPS:
            steps.append(f"… and {len(self.graph.steps) - MAX_STEPS} more")
        if not (self.page.legend or steps):
            return None, [], y + m.margin
        top = y + (26 if m is FULL else m.margin + m.pad)
        samples: list[Sample] = []
        y = top
        if self.page.legend:
            samples, y = self._samples(top)
            y = self._small_print([*self._summaries(), *self.graph.notes], y, "muted")
        y = self._small_print(steps, y + (8 if steps else 0), "text")
        box = Box.between(m.margin, top, self.right, y + 11)
        return box, samples, box.bottom + m.margin

    def _samples(self, top: float) -> tuple[list[Sample], float]:
        """Place the samples in columns that are as wide as the longest entry."""
        m = self.measures
        inside = self.right - m.margin - 2 * self.inset
        entries = self.graph.legend
        longest = max((len(row.text) for row in entries), default=0)
        wide = m.sample + 24 * m.legend / 10 + m.legend * CHARACTER * longest
        columns = max(1, min(len(entries), int(inside // wide)))
        line, first = m.legend * 2.1, m.legend * 2.2
        samples = []
        for index, entry in enumerate(entries):
            left = m.margin + self.inset + inside / columns * (index % columns)
            middle = top + first + line * (index // columns)
            samples.append(
                Sample(entry, Box(left + m.sample / 2, middle, m.sample, 1.4 * m.legend))
            )
            text = Text(left + m.sample + m.legend, middle + 0.35 * m.legend, entry.text, m.legend)
            self.texts.append(text)
        return samples, top + first + line * -(-len(entries) // columns) - 4

    def _summaries(self) -> list[str]:
        """Return what the rows mean, where there was no room for it beside them."""
        if self.measures.summaries:
            return []
        rows = (*self.graph.rows, *self.graph.off_grid)
        return [f"{row.name[:1].upper()}{row.name[1:]}: {row.summary}" for row in rows]

    def _small_print(self, lines: Sequence[str], y: float, role: TextRole) -> float:
        m = self.measures
        for line in lines:
            for index, part in enumerate(
                wrap(line, self.right - m.margin - 3 * self.inset, m.small)
            ):
                y += m.line + (0 if index else 2)
                left = m.margin + self.inset + 14 * bool(index)
                self.texts.append(Text(left, y, part, m.small, role=role))
        return y


def badge_text(edge: Edge, most: int = 3) -> str:
    """Return the sign of a change; or the numbers of the steps, the first few if there are many.

    Args:
        edge: What the badge is on.
        most: How many numbers there is room for, at least two.
    """
    if edge.change is not None:
        return SIGNS[edge.change]
    labels = [mark.label for mark in edge.marks]
    if len(labels) > most:
        labels = [*labels[: most - 1], "…", *([labels[-1]] if most > 2 else [])]
    return ", ".join(labels)


def _event_label(edge: Edge, line: Line, m: Measures) -> Text:
    """Name an event beside its arrow: on the outer side, clear of a line on the other lane."""
    (x1, y1), (x2, y2) = line.longest
    if x1 != x2:
        above = min(y1, y2) - 4
        return Text((3 * x1 + x2) / 4, above, edge.event_text, m.small, "middle", role="muted")
    if edge.from_ is None:
        beside = x1 + (14 if badge_text(edge) else 7)
        return Text(beside, (y1 + y2) / 2 + 3, edge.event_text, m.small, role="muted")
    up = 26 if m is FULL else m.pad + 2
    return Text(x1 - 7, y1 - up, edge.event_text, m.small, "right", role="muted")


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
