"""Where edges run: along the grid between neighbours, through the gaps between cells otherwise.

Two states with nothing between them are joined by a straight line, one lane for each direction.
All other edges (a refusal that leaps over a state, an arc of an odd table) turn right angles: out
of the top or bottom of a state into the gap between two rows (a gutter), along a track of its own
there, and into the other state from that gap; by way of the gap between two columns if the rows are
further apart. Each has its own track and its own port, so no two edges share a stretch, and none
passes through a state it does not belong to.

This module decides which gaps are used; `vfio_migration.diagrams.machine.layout` turns that into
points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vfio_migration.diagrams.machine.graph import Edge

_Gap = TypeVar("_Gap")

Cell = tuple[int, int]
"""Column and row, counted from the top left. States off the grid are in rows below it."""


@dataclass(frozen=True, slots=True)
class Port:
    """Where an edge leaves or enters a state.

    Attributes:
        cell: The state's place.
        gutter: The gap between rows it faces: its row's own is above it, the next one below.
        side: -1 left of the middle, 1 right of it.
        slot: How many ports on this side are further in.
    """

    cell: Cell
    gutter: int
    side: int
    slot: int


@dataclass(frozen=True, slots=True)
class Straight:
    """A straight line between two cells with nothing between them."""

    start: Cell
    end: Cell


@dataclass(frozen=True, slots=True)
class Detour:
    """A line through gutters.

    Attributes:
        start: The port it leaves by; None if it begins at the frame of the grid.
        end: The port it enters by.
        legs: Gutter and track of each stretch along a row; none for a plain drop from the frame.
        riser: Gap between columns and track there, between two legs.
    """

    start: Port | None
    end: Port
    legs: tuple[tuple[int, int], ...]
    riser: tuple[int, int] | None = None


Way = Straight | Detour


@dataclass
class Tracks:
    """How many tracks and ports each gap has to hold.

    Attributes:
        ways: How each edge runs, in the order of the edges.
        across: For each gap above a row, how many tracks run along it.
        down: For each gap left of a column, how many tracks run along it.
        ports: For each column, gap above a row and side of it, how many ports there are.
    """

    ways: list[Way] = field(default_factory=list)
    across: dict[int, int] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)
    ports: dict[tuple[int, int, int], int] = field(default_factory=dict)

    def track(self, gutter: int) -> tuple[int, int]:
        """Take the next track in the gap above a row."""
        return _take(self.across, gutter)

    def riser(self, gap: int) -> tuple[int, int]:
        """Take the next track in the gap left of a column."""
        return _take(self.down, gap)

    def port(self, cell: Cell, gutter: int, side: int) -> Port:
        """Take the next port on a side. The states above and below a gutter share its ports."""
        # Were they counted by state, the ports of two states that face each other would coincide
        # and the edges at them overlap.
        _, slot = _take(self.ports, (cell[0], gutter, side))
        return Port(cell, gutter, side, slot)


def _take(counts: dict[_Gap, int], gap: _Gap) -> tuple[_Gap, int]:
    index = counts.get(gap, 0)
    counts[gap] = index + 1
    return gap, index


def plan(edges: Sequence[Edge], cells: Mapping[str, Cell], lane: int) -> Tracks:
    """Decide how each edge runs.

    Args:
        edges: The edges, each between states of `cells`.
        cells: Where each state is.
        lane: The first row below the grid, where the states off the grid are.
    """
    tracks = Tracks()
    occupied = frozenset(cells.values())
    ways: dict[int, Way] = {}
    joined: set[tuple[Cell, Cell]] = set()
    detours = []
    for index, edge in enumerate(edges):
        end = cells[edge.to]
        start = cells[edge.from_] if edge.from_ is not None else None
        if start is not None and (start, end) not in joined and _is_clear(start, end, occupied):
            joined.add((start, end))
            ways[index] = Straight(start, end)
        else:
            detours.append((_span(start, end), index, start, end))
    # Short ones first: they get the inner tracks, and longer ones pass around them without a
    # crossing.
    for _, index, start, end in sorted(detours, key=lambda item: item[:2]):
        ways[index] = (
            _from_frame(tracks, end, lane) if start is None else _detour(tracks, start, end)
        )
    tracks.ways = [ways[index] for index in range(len(edges))]
    return tracks


def _span(start: Cell | None, end: Cell) -> int:
    return 0 if start is None else abs(start[0] - end[0]) + abs(start[1] - end[1])


def _is_clear(start: Cell, end: Cell, occupied: frozenset[Cell]) -> bool:
    """Return whether a straight line along one axis joins two cells and meets no third state."""
    (c1, r1), (c2, r2) = start, end
    if (c1 == c2) == (r1 == r2):
        return False
    between = {
        (column, row)
        for column in range(min(c1, c2), max(c1, c2) + 1)
        for row in range(min(r1, r2), max(r1, r2) + 1)
    }
    return not (between - {start, end}) & occupied


def _from_frame(tracks: Tracks, end: Cell, lane: int) -> Detour:
    row = end[1]
    legs = () if row == lane else (tracks.track(row),)
    return Detour(None, tracks.port(end, row, 1), legs)


def _detour(tracks: Tracks, start: Cell, end: Cell) -> Detour:
    (c1, r1), (c2, r2) = start, end
    if r1 == r2:
        out = into = r1
    elif r1 < r2:
        out, into = r1 + 1, r2
    else:
        out, into = r1, r2 + 1
    # Leave on the side the other state is on: of two edges at one side, neither crosses the other.
    ahead = 1 if c2 > c1 else -1
    first, last = tracks.port(start, out, ahead), tracks.port(end, into, -ahead)
    if out == into:
        return Detour(first, last, (tracks.track(out),))
    gap = c2 if c1 <= c2 else c2 + 1
    return Detour(first, last, (tracks.track(out), tracks.track(into)), tracks.riser(gap))
