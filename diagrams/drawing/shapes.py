"""The geometry a layout is made of. In points, right and down from the top left corner."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Point = tuple[float, float]
Anchor = Literal["left", "middle", "right"]
TextRole = Literal["title", "heading", "text", "muted"]

CHARACTER = 0.56  # the width of a character, of its size: on the wide side
BOLD = 0.72  # the same of a bold one, of which many are capitals


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, by its centre and size."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def between(cls, left: float, top: float, right: float, bottom: float) -> Box:
        """Make one of its four sides."""
        return cls((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)

    @property
    def left(self) -> float:
        """Its left side."""
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        """Its right side."""
        return self.x + self.width / 2

    @property
    def top(self) -> float:
        """Its upper side."""
        return self.y - self.height / 2

    @property
    def bottom(self) -> float:
        """Its lower side."""
        return self.y + self.height / 2

    def overlaps(self, other: Box) -> bool:
        """Return whether the two share more than their edges."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, point: Point) -> bool:
        """Return whether a point lies inside or on the edge."""
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom


@dataclass(frozen=True, slots=True)
class Line:
    """A line of straight stretches that turns right angles, its corners rounded when drawn."""

    corners: tuple[Point, ...]

    @property
    def start(self) -> Point:
        """Where it begins."""
        return self.corners[0]

    @property
    def end(self) -> Point:
        """Where it ends."""
        return self.corners[-1]

    @property
    def stretches(self) -> tuple[tuple[Point, Point], ...]:
        """Its straight parts."""
        return tuple(pairwise(self.corners))

    @property
    def longest(self) -> tuple[Point, Point]:
        """Its longest straight part."""
        return max(self.stretches, key=lambda part: _distance(*part))

    def shortened(self, at_start: float, at_end: float) -> Line:
        """Return the line with this much cut off its two ends."""
        first, second = self.stretches[0]
        line = [_along(first, second, at_start), *self.corners[1:]]
        line[-1] = _along(line[-1], line[-2], at_end)
        return Line(tuple(line))

    def bezier(self, radius: float = 9) -> tuple[Point, ...]:
        """Return the control points of a cubic spline along it, with rounded corners.

        There are 3n + 1 of them, as Graphviz wants a spline to have.
        """
        points: list[Point] = [self.start]
        for index, corner in enumerate(self.corners[1:-1], 1):
            before, after = self.corners[index - 1], self.corners[index + 1]
            reach = min(radius, _distance(before, corner) / 2, _distance(corner, after) / 2)
            into, out = _along(corner, before, reach), _along(corner, after, reach)
            points += _straight(points[-1], into)
            # 0.55: the cubic that comes closest to a quarter of a circle.
            points += [
                _along(into, corner, reach * 0.55),
                _along(out, corner, reach * 0.55),
                out,
            ]
        points += _straight(points[-1], self.end)
        return tuple(points)


def _distance(first: Point, second: Point) -> float:
    return abs(first[0] - second[0]) + abs(first[1] - second[1])


def _along(first: Point, second: Point, distance: float) -> Point:
    """Return the point this far from the first on the way to the second."""
    whole = _distance(first, second)
    share = distance / whole if whole else 0
    return (
        first[0] + (second[0] - first[0]) * share,
        first[1] + (second[1] - first[1]) * share,
    )


def _straight(first: Point, second: Point) -> Sequence[Point]:
    whole = _distance(first, second)
    return [_along(first, second, whole / 3), _along(first, second, whole * 2 / 3), second]


def at(line: Line, share: float) -> Point:
    """Return the point at this share of the longest stretch of a line."""
    first, second = line.longest
    return _along(first, second, _distance(first, second) * share)


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text. `y` is its baseline, so that the font has no say in where it is."""

    x: float
    y: float
    text: str
    size: float = 10
    anchor: Anchor = "left"
    role: TextRole = "text"


def wrap(text: str, width: float, size: float, character: float = CHARACTER) -> list[str]:
    """Break a text into lines that fit a width, if a character is so wide, of its size."""
    return textwrap.wrap(text, max(12, int(width / (size * character))))


def balanced(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines of about the same length, no more of them than are needed."""
    lines = narrower = wrap(text, width, size)
    while len(narrower) == len(lines) and width > size:
        lines, width = narrower, width - size * CHARACTER
        narrower = wrap(text, width, size)
        if max(map(len, narrower), default=0) * size * CHARACTER > width:
            break
    return lines


def elide(text: str, characters: int) -> str:
    """Shorten a name to so many characters; its end is kept, which distinguishes sockets."""
    if len(text) <= characters:
        return text
    tail = text[-(characters - 1) :]
    cut = tail.find("/")
    # At a folder, if that does not cost half of what there is room for.
    return "…" + (tail[cut:] if 0 <= cut <= len(tail) // 2 else tail)


def in_columns(
    widths: Sequence[float], last: Sequence[float], room: float
) -> tuple[int, list[float]]:
    """Return how many rows a list takes in as many columns as fit, and where each entry begins.

    Args:
        widths: How wide each entry is.
        last: How wide each is in the last column, beyond which there is nothing.
        room: How wide all columns may be.
    """
    for rows in range(1, len(widths) + 1):
        columns = [widths[index : index + rows] for index in range(0, len(widths), rows)]
        columns[-1] = last[len(widths) - len(columns[-1]) :]
        spare = room - sum(map(max, columns))
        if spare < 0 and rows < len(widths):
            continue
        places: list[float] = []
        left = 0.0
        for column in columns:
            places += [left] * len(column)
            left += max(column) + max(0.0, spare) / len(columns)
        return rows, places
    return 0, []
