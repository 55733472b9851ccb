"""The graph as text: boxes on the grid, arrows between neighbours, and a list of all else.

What has no place of its own on the grid (an arc that leaps over a state, an event between two
states) is listed below it, so that nothing is left out. Where the grid is wider than the page, all
of it is a list.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vfio_migration.diagrams.drawing.ascii import to_ascii
from vfio_migration.diagrams.drawing.canvas import (
    ASCII,
    BOX,
    Canvas,
    Glyphs,
    Side,
    Stroke,
    columns,
)
from vfio_migration.diagrams.drawing.palette import SIGNS
from vfio_migration.diagrams.drawing.printable import printable, reworded
from vfio_migration.diagrams.machine.graph import Edge, Graph, Node

WIDTH = 78
"""How wide a picture in text is, unless it is to be narrower."""

ANY = "any state"
"""Where an event begins that can happen in every state."""

_MIN_BOX = 9
"""With the usual gap, what is written beside a vertical arrow fits a box that wide."""
_USUAL_GAP = 7
_BOX_LINES, _GAP_LINES = 4, 2
_SEVERAL = "*"
_UNBROKEN = "\N{NO-BREAK SPACE}"
_BECAME = {
    "same": "",
    "added": "is new",
    "removed": "is removed",
    "changed": "is changed",
}

_Cell = tuple[int, int]


def text_lines(graph: Graph, width: int = WIDTH, *, ascii_only: bool = False) -> list[str]:
    """Return a graph as text.

    Args:
        graph: What to draw.
        width: How many columns it may take; only a name that is longer than that makes a longer
            line.
        ascii_only: Draw with ASCII alone; anything else in names is escaped.
    """
    graph = printable(graph)
    glyphs = BOX
    if ascii_only:
        graph, glyphs = reworded(graph, to_ascii), ASCII
    head = [line for text in graph.title.split("\n") for line in _wrapped(text, width)]
    head += _wrapped(graph.subtitle, width)
    picture = _Grid.fitting(graph, width, glyphs) or _List(graph, glyphs)
    listed = [
        line
        for text in picture.listed()
        for line in _wrapped(text, width, " " * (len(text) - len(text.lstrip()) + 4))
    ]
    steps = [line for text in graph.steps for line in _wrapped(text, width, "   ")]
    notes = [
        line for text in _notes(graph, glyphs, picture) for line in _wrapped(text, width, "  ")
    ]
    parts = [part for part in (head, picture.drawn(), listed, steps, notes) if part]
    return [line for part in parts for line in ("", *part)][1:]


def _wrapped(text: str, width: int, then: str = "") -> list[str]:
    lines = textwrap.wrap(
        text,
        width,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_UNBROKEN, " ") for line in lines]


# --- on the grid ---


@dataclass(frozen=True)
class _Frame:
    """Where the boxes of a grid are.

    Attributes:
        lefts: The left border of each column.
        widths: How wide the boxes of each column are, borders included.
        gap: How many blanks are between two columns.
        pad: How many blanks are between a name and the border of its box.
    """

    lefts: tuple[int, ...]
    widths: tuple[int, ...]
    gap: int
    pad: int

    @property
    def width(self) -> int:
        """How wide all of it is."""
        return self.lefts[-1] + self.widths[-1]

    def middle(self, column: int) -> int:
        """Return where the middle of a column is."""
        return self.lefts[column] + self.widths[column] // 2

    def end(self, column: int) -> int:
        """Return the first place right of a column."""
        return self.lefts[column] + self.widths[column]


class _Grid:
    """A picture with a box for each state."""

    @classmethod
    def fitting(cls, graph: Graph, width: int, glyphs: Glyphs) -> _Grid | None:
        """Return the widest one that fits; None if none does, or there is no grid.

        One in which there is room for every word is better than a wider one.
        """
        if not graph.columns or not graph.rows:
            return None
        lanes, first = _lanes(graph), None
        for frame in _frames(graph, lanes):
            if frame.width <= width:
                grid = cls(graph, glyphs, frame, lanes, width)
                if not grid.unmarked:
                    return grid
                first = first or grid
        return first

    def __init__(
        self,
        graph: Graph,
        glyphs: Glyphs,
        frame: _Frame,
        lanes: Mapping[tuple[str, str], Edge],
        width: int,
    ) -> None:
        self._graph, self._glyphs, self._frame, self._width = graph, glyphs, frame, width
        self._canvas = Canvas()
        self._places = {node.name: node.place for node in graph.nodes if node.place is not None}
        self._nodes = {node.name: node for node in graph.nodes}
        self._drawn: set[int] = set()
        self._effects: dict[tuple[int, int, int], str] = {}
        self._beside: list[tuple[Edge, int, int, int]] = []
        self.unmarked: list[Edge] = []
        self.is_crowded = False
        self._top = self._headings()
        for node in graph.nodes:
            if node.place is not None:
                self._box(node, frame.lefts[node.place[0]], self._y(node.place[1]))
        for edge in lanes.values():
            self._lane(edge)
        self._words_beside()
        for column, row in graph.holes:
            self._hole(column, row)
        self._off_the_grid()

    def drawn(self) -> list[str]:
        """Return the picture."""
        return self._canvas.lines()

    def listed(self) -> Iterator[str]:
        """Yield what is not drawn, and what became of each edge."""
        for edge in self._graph.edges:
            if id(edge) not in self._drawn or edge.change not in (None, "same"):
                yield f"  {_row(edge, self._glyphs)}"

    def _y(self, row: int) -> int:
        return self._top + row * (_BOX_LINES + _GAP_LINES)

    def _headings(self) -> int:
        """Write the names of columns and rows; return where the first row begins."""
        frame, wrapped = self._frame, []
        for column, heading in enumerate(self._graph.columns):
            room = frame.widths[column] + frame.gap - 1
            # In the middle of its column it may not leave the page either.
            room = min(room, 2 * (self._width - frame.lefts[column]) - frame.widths[column])
            wrapped.append(textwrap.wrap(heading.name, room) or [""])
        height = max(map(len, wrapped))
        for column, lines in enumerate(wrapped):
            for index, line in enumerate(lines, height - len(lines)):
                shift = (frame.widths[column] - columns(line)) // 2
                self._canvas.put(max(frame.lefts[column] + shift, 0), index, line)
        self._top = height + 1
        for row, heading in enumerate(self._graph.rows):
            self._canvas.put(0, self._y(row) + 1, heading.name)
        return self._top

    def _box(self, node: Node, left: int, top: int) -> None:
        width = self._frame.widths[node.place[0]] if node.place else self._off_width(node)
        corner, across, far, down, low, low_far = tuple(self._glyphs.boxes[_stroke(node)])
        inner = width - 2
        name = f"{_sign(node, self._glyphs)}{node.name}"
        self._canvas.put(left, top, f"{corner}{across * inner}{far}")
        for index, text in enumerate((name, str(node.value)), 1):
            self._canvas.put(left, top + index, f"{down}{_centred(text, inner)}{down}")
        self._canvas.put(left, top + 3, f"{low}{across * inner}{low_far}")

    def _hole(self, column: int, row: int) -> None:
        text = "no state"
        x, top = self._frame.middle(column) - len(text) // 2, self._y(row)
        for y in (top, top + _BOX_LINES - 1):
            if self._canvas.is_blank(x - 1, y, len(text) + 2):
                self._canvas.put(x, y, text)
                return

    # --- an arrow between neighbours ---

    def _lane(self, edge: Edge) -> None:
        assert edge.from_ is not None
        start, end = self._places[edge.from_], self._places[edge.to]
        self._drawn.add(id(edge))
        if start[1] == end[1]:
            self._across(edge, start, end)
        else:
            self._along(edge, start, end)

    def _ends(self, edge: Edge, side: Side) -> tuple[str, str, str]:
        """Return the tail, the line and the head of an arrow that points to a side."""
        stroke = _stroke(edge)
        box = _stroke(self._nodes[edge.from_ or ""])
        head = self._glyphs.refused if edge.kind == "refused" else self._glyphs.heads[side]
        return (
            self._glyphs.tail(side, box, stroke),
            self._glyphs.line(stroke, side),
            head,
        )

    def _across(self, edge: Edge, start: _Cell, end: _Cell) -> None:
        """Draw an arrow along a row: to the right on the upper line, to the left on the lower."""
        frame, right = self._frame, end[0] > start[0]
        first, last = sorted((start[0], end[0]))
        left, room = frame.end(first), frame.lefts[last] - frame.end(first)
        y = self._y(start[1]) + (1 if right else 2)
        tail, line, head = self._ends(edge, "right" if right else "left")
        mark = _mark(edge)
        if len(mark) > room - 2:
            mark, self.is_crowded = (_SEVERAL if room > 2 else ""), True
        before = (room - 1 - len(mark)) // 2
        body = f"{line * before}{mark}{line * (room - 1 - len(mark) - before)}"
        if right:
            self._canvas.put(left - 1, y, f"{tail}{body}{head}")
        else:
            self._canvas.put(left, y, f"{head}{body}{tail}")
        effect = _effect(edge)
        if len(effect) > room:
            self.unmarked.append(edge)
        elif effect:
            # Mostly the two arrows of a pair do the same to the session: it is written once, above.
            above = self._effects.setdefault((first, last, start[1]), effect)
            x = left + (room - len(effect)) // 2
            self._canvas.put(x, self._y(start[1]) + (0 if above == effect else 3), effect)

    def _along(self, edge: Edge, start: _Cell, end: _Cell) -> None:
        """Draw an arrow along a column: upwards left of its middle, downwards right of it."""
        up = end[1] < start[1]
        first, last = sorted((start[1], end[1]))
        top, bottom = self._y(first) + _BOX_LINES, self._y(last) - 1
        x = self._frame.middle(start[0]) + (-1 if up else 1)
        tail, line, head = self._ends(edge, "up" if up else "down")
        for y in range(top, bottom + 1):
            self._canvas.put(x, y, line)
        self._canvas.put(x, bottom + 1 if up else top - 1, tail)
        self._canvas.put(x, top if up else bottom, head)
        self._beside.append((edge, x, top, bottom))

    def _words_beside(self) -> None:
        """Write beside each vertical arrow what it does to the session, and which step took it.

        When all arrows are drawn: where there is no room between two of them, the words are left
        out.
        """
        for edge, x, top, bottom in self._beside:
            up = self._places[edge.to][1] < self._places[edge.from_ or ""][1]
            if not self._write_beside(_effect(edge), x, top, left=up):
                self.unmarked.append(edge)
            mark = _mark(edge)
            if not self._write_beside(mark, x, bottom, left=up):
                self.is_crowded = True
                self._write_beside(_SEVERAL, x, bottom, left=up)

    def _write_beside(self, text: str, x: int, y: int, *, left: bool) -> bool:
        at, width = x - 1 - columns(text) if left else x + 2, columns(text)
        fits = at >= 0 and at + width <= self._width
        if not fits or not self._canvas.is_blank(at - 1, y, width + 2):
            return False
        self._canvas.put(at, y, text)
        return True

    # --- states off the grid ---

    def _off_width(self, node: Node) -> int:
        return max(self._frame.widths[0], columns(node.name) + 4)

    def _off_the_grid(self) -> None:
        top = self._y(len(self._graph.rows)) - 1
        for node in self._graph.nodes:
            if node.place is not None:
                continue
            left = self._frame.lefts[0]
            self._canvas.put(0, top + 1, node.operation.replace("_", " "))
            self._box(node, left, top)
            end = left + self._off_width(node)
            self._way(node, end, top + 1, into=True)
            self._way(node, end, top + 2, into=False)
            top += _BOX_LINES

    def _way(self, node: Node, left: int, y: int, *, into: bool) -> None:
        """Draw the first event that leads into a state off the grid, or the first out of it."""
        for edge in self._graph.edges:
            if edge.kind not in ("fails", "event") or edge.change not in (None, "same"):
                continue
            if (edge.to if into else edge.from_) != node.name:
                continue
            stroke = _stroke(edge)
            line = self._glyphs.line(stroke, "left")
            body = f"{line}{_mark(edge)}{line}"
            other = (edge.from_ or ANY) if into else edge.to
            if into:
                head = f"{self._glyphs.heads['left']}{body} {other}: {edge.event_text}"
            else:
                head = f"{body}{self._glyphs.heads['right']} {other}: {edge.event_text}"
                head += " (from any state)"
            if left + columns(head) <= self._width:
                if not into:
                    tail = self._glyphs.tail("right", _stroke(node), stroke)
                    self._canvas.put(left - 1, y, tail)
                self._canvas.put(left, y, head)
                self._drawn.add(id(edge))
            return


def _centred(text: str, width: int) -> str:
    before = (width - columns(text)) // 2
    return " " * before + text + " " * (width - columns(text) - before)


def _stroke(row: Node | Edge) -> Stroke:
    if row.change == "removed":
        return "dashed"
    return "heavy" if row.emphasis in ("strong", "alarm") or row.change == "added" else "light"


def _mark(edge: Edge) -> str:
    return ",".join(mark.label + "!" * mark.failed for mark in edge.marks)


def _effect(edge: Edge) -> str:
    # In a picture of changes it is not drawn what an arc does to the session.
    is_drawn = edge.is_arc and edge.kind != "moves" and edge.change is None
    return edge.kind if is_drawn else ""


def _lanes(graph: Graph) -> dict[tuple[str, str], Edge]:
    """Return the edges between neighbours: two states of a row or column with none between them.

    Of two lines that would cross the one along the row is drawn; of an arc and a refusal of the
    same pair, the arc.
    """
    at = {node.place: node.name for node in graph.nodes if node.place is not None}
    places = {name: place for place, name in at.items()}
    found: dict[tuple[str, str], Edge] = {}
    for edge in graph.edges:
        start, end = places.get(edge.from_ or ""), places.get(edge.to)
        if start is None or end is None or start == end or edge.kind in ("fails", "event"):
            continue
        if start[0] != end[0] and start[1] != end[1]:
            continue
        between = _between(start, end)
        if not any(place in at for place in between) and (edge.from_ or "", edge.to) not in found:
            found[edge.from_ or "", edge.to] = edge
    passed = {
        place
        for start, end in found
        if places[start][1] == places[end][1]
        for place in _between(places[start], places[end])
    }
    return {
        (start, end): edge
        for (start, end), edge in found.items()
        if places[start][1] == places[end][1]
        or not any(place in passed for place in _between(places[start], places[end]))
    }


def _between(start: _Cell, end: _Cell) -> list[_Cell]:
    (left, right), (top, bottom) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    cells = [(column, row) for column in range(left, right + 1) for row in range(top, bottom + 1)]
    return cells[1:-1]


def _frames(graph: Graph, lanes: Mapping[tuple[str, str], Edge]) -> Iterator[_Frame]:
    """Yield frames, the widest first."""
    placed = [node for node in graph.nodes if node.place is not None]
    names = [
        max(
            (
                columns(node.name) + len(SIGNS[node.change] if node.change else "")
                for node in placed
                if node.place and node.place[0] == column
            ),
            default=0,
        )
        for column in range(len(graph.columns))
    ]
    labels = [*graph.rows, *graph.off_grid]
    first = max(columns(row.name) for row in labels)
    longest = max((len(_mark(edge)) for edge in lanes.values()), default=0)
    gaps = sorted({max(_USUAL_GAP, longest + 3), _USUAL_GAP, 5, 4, 3, 2}, reverse=True)
    for pad, alike, separate in ((1, True, 2), (1, False, 2), (0, False, 1)):
        for gap in gaps if pad == 0 else [gap for gap in gaps if gap >= 5]:
            widths = [max(name + 2 * pad + 2, _MIN_BOX) for name in names]
            if alike:
                widths = [max(widths)] * len(widths)
            lefts = [first + separate]
            for width in widths[:-1]:
                lefts.append(lefts[-1] + width + gap)
            yield _Frame(tuple(lefts), tuple(widths), gap, pad)


# --- without a grid ---


class _List:
    """Every state with what leads out of it."""

    def __init__(self, graph: Graph, glyphs: Glyphs) -> None:
        self._graph, self._glyphs = graph, glyphs
        self.unmarked: list[Edge] = []
        self.is_crowded = False

    def drawn(self) -> list[str]:
        """Return nothing: all of it is listed."""
        return []

    def listed(self) -> Iterator[str]:
        """Yield the states, and below each the edges that begin there."""
        for node in self._graph.nodes:
            sign = _sign(node, self._glyphs)
            place = f"{node.operation}, {node.session}".replace("_", " ")
            yield f"{sign}{node.name} ({node.value}): {place}"
            for edge in self._graph.edges:
                if edge.from_ == node.name:
                    yield f"    {_row(edge, self._glyphs)}"
        anywhere = [edge for edge in self._graph.edges if edge.from_ is None]
        if anywhere:
            yield f"{ANY}"
            yield from (f"    {_row(edge, self._glyphs)}" for edge in anywhere)


def _sign(row: Node | Edge, glyphs: Glyphs) -> str:
    sign = SIGNS[row.change] if row.change else ""
    return to_ascii(sign) if glyphs is ASCII else sign


def _row(edge: Edge, glyphs: Glyphs) -> str:
    """Return an edge as a line of a list: its ends, and what it is."""
    line = glyphs.line(_stroke(edge), "right") * 2
    head = glyphs.refused if edge.kind == "refused" else glyphs.heads["right"]
    parts = []
    if edge.marks:
        parts.append(f"step {_mark(edge)}")
    if edge.kind == "refused":
        parts.append(f"refused ({edge.errno})" if edge.errno else "refused")
    parts.append(edge.event_text or _effect(edge))
    if edge.change is not None:
        parts.append(_BECAME[edge.change])
    words = ", ".join(part for part in parts if part)
    text = f"{edge.from_ or ANY} {line}{head} {edge.to}"
    sign = _sign(edge, glyphs)
    return f"{sign}{' ' if sign else ''}{text}" + (f"   {words}" if words else "")


# --- below ---


def _notes(graph: Graph, glyphs: Glyphs, picture: _Grid | _List) -> Iterator[str]:
    """Yield what the picture cannot show, and, with a legend, what its signs mean."""
    for column, row in graph.holes:
        yield f"No state is {graph.columns[column].name} and {graph.rows[row].name}."
    arrow = f"{glyphs.line('light', 'right') * 2}{glyphs.heads['right']}"
    by_effect: dict[str, list[str]] = {}
    for edge in picture.unmarked:
        ends = _UNBROKEN.join((str(edge.from_), arrow, edge.to))
        by_effect.setdefault(_effect(edge), []).append(ends)
    for effect, names in by_effect.items():
        yield f"An arc that {effect} the data session: {', '.join(names)}."
    if not graph.legend:
        return
    reasons: dict[str, None] = {}
    for edge in graph.edges:
        if edge.kind == "refused" and edge.emphasis != "dim" and edge.change is None:
            reasons[f"Refused ({edge.errno}): {edge.summary}."] = None
    yield from reasons
    yield from _requirements(graph)
    initial = [node.name for node in graph.nodes if node.initial]
    yield from (f"A device begins in {name}." for name in initial)
    yield "; ".join(_signs(graph, glyphs, is_crowded=picture.is_crowded)) + "."


def _requirements(graph: Graph) -> Iterator[str]:
    needed: dict[str, list[str]] = {}
    for node in graph.nodes:
        for name in node.requires:
            needed.setdefault(name, []).append(node.name)
    for name, states in needed.items():
        yield f"Only a device with {name} has {', '.join(states)}."


def _signs(graph: Graph, glyphs: Glyphs, *, is_crowded: bool) -> Iterator[str]:
    arrow = f"{glyphs.line('light', 'right') * 2}{glyphs.heads['right']}"
    yield f"{arrow} arc"
    if any(edge.kind == "refused" for edge in graph.edges):
        yield f"{glyphs.line('light', 'right') * 2}{glyphs.refused} refused"
    if any(mark.failed for edge in graph.edges for mark in edge.marks):
        yield "!: a step that failed or was refused"
    if is_crowded:
        yield f"{_SEVERAL}: steps of the list, for which there is no room"
    effects = [
        kind for kind in ("opens", "keeps", "closes") if kind in {*map(_effect, graph.edges)}
    ]
    if effects:
        yield f"{', '.join(effects)}: what an arc does to the data session"


__all__ = ["WIDTH", "text_lines"]
