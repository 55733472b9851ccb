"""The neutral graph: what a picture of a machine says, before any format or place on a page.

`vfio_migration.diagrams.machine.extract` makes one of a table; every renderer reads nothing else.
It is frozen, holds plain values only, and keeps the order of the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vfio_migration.diagrams.drawing.kinds import ARC_KINDS, Change, EdgeKind, Emphasis

LegendKind = Literal[
    "moves",
    "opens",
    "keeps",
    "closes",
    "refused",
    "fails",
    "event",
    "initial",
    "step",
    "failed_step",
    "same",
    "added",
    "removed",
    "changed",
]
"""What an entry of the legend explains: a kind of edge, the initial state, a step, or a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """The name of a column or row of the grid, or of a group of states off it."""

    name: str
    summary: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A state.

    Attributes:
        name: Its name in the table.
        value: Its value on the wire.
        requires: The capabilities it requires besides those every device has.
        operation: Its column.
        session: Its row.
        place: Column and row on the contracted grid, counted from the top left; None off the grid.
        initial: Whether a device begins here.
        settable: Whether it can be asked for.
        summary: What it means.
        source: Where the specification states it.
        emphasis: How much it stands out.
        change: What became of it; None in a picture of one machine.
    """

    name: str
    value: int
    requires: tuple[str, ...]
    operation: str
    session: str
    place: tuple[int, int] | None
    initial: bool
    settable: bool
    summary: str
    source: str
    emphasis: Emphasis = "normal"
    change: Change | None = None

    @property
    def caption(self) -> str:
        """The small line under the name: the value on the wire and what is required."""
        return " · ".join(
            [str(self.value), *([" + ".join(self.requires)] if self.requires else [])]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A number on an edge: the step of the route or run that took it. `failed` if it went wrong."""

    label: str
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A directed edge between two states.

    Attributes:
        from_: Where it begins; None for an event that can happen in every state.
        to: Where it ends.
        kind: What it stands for.
        via: For an arc that joins several of the table, the states it passes over.
        events: For an event, the names of the rows that lead this way.
        errno: What a client that is refused is answered.
        summary: What it means; for a refusal, the reason.
        source: Where the specification states it.
        marks: The steps that took it.
        emphasis: How much it stands out.
        change: What became of it; None in a picture of one machine.
    """

    from_: str | None
    to: str
    kind: EdgeKind
    via: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    errno: str | None = None
    summary: str
    source: str
    marks: tuple[Mark, ...] = ()
    emphasis: Emphasis = "normal"
    change: Change | None = None

    @property
    def is_arc(self) -> bool:
        """Whether a request can step along it."""
        return self.kind in ARC_KINDS

    @property
    def event_text(self) -> str:
        """The events, as people write them."""
        return ", ".join(name.replace("_", " ") for name in self.events)

    def __str__(self) -> str:
        return f"{self.from_ or 'any state'} → {self.to}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LegendEntry:
    """One line of the legend."""

    kind: LegendKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A whole picture.

    Attributes:
        name: The name of the table.
        title: What the picture shows, in a few words.
        subtitle: One sentence more: the path, the reason of a refusal, the obligation a run breaks.
        capabilities: The capability set.
        columns: The operations that have states, left to right.
        rows: The sessions that have states, top to bottom.
        off_grid: The operations off the grid that have states.
        nodes: The states, in the order of the table.
        edges: Arcs, then refusals, then events, each in the order of the table.
        legend: An entry for everything in the picture that has a meaning of its own.
        notes: The reasons of the refusals and other small print.
        steps: The steps of a route or run, one line each, numbered as on the edges.
        holes: The places of the grid between two states of a row at which no state is.
    """

    name: str
    title: str
    subtitle: str
    capabilities: tuple[str, ...]
    columns: tuple[Heading, ...]
    rows: tuple[Heading, ...]
    off_grid: tuple[Heading, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    legend: tuple[LegendEntry, ...]
    notes: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    holes: tuple[tuple[int, int], ...] = ()

    @property
    def description(self) -> str:
        """The picture in words, for those who do not see it."""
        lines = [self.subtitle]
        lines += [
            f"State {node.name}, value {node.value}, {node.operation}, session {node.session}"
            f"{_became(node.change)}."
            for node in self.nodes
        ]
        lines += [
            f"No state is {self.columns[column].name} and {self.rows[row].name}."
            for column, row in self.holes
        ]
        lines += [f"{edge}: {_words(edge)}." for edge in self.edges]
        lines += self.steps
        return "\n".join(line for line in lines if line)


KIND_TEXT: dict[EdgeKind, str] = {
    "moves": "arc without a data session",
    "opens": "arc that opens a data session",
    "keeps": "arc that keeps the data session",
    "closes": "arc that closes the data session",
    "refused": "refused",
    "fails": "failure",
    "event": "event",
}
"""What each kind of edge is called, in legends and descriptions."""


def _words(edge: Edge) -> str:
    words = KIND_TEXT[edge.kind] if not edge.events else edge.event_text
    if edge.errno and edge.kind == "refused":
        words += f" ({edge.errno}), {edge.summary}"
    if edge.via:
        words += f", over {', '.join(edge.via)}"
    if edge.marks:
        words += f", step {', '.join(mark.label for mark in edge.marks)}"
    return words + _became(edge.change)


def _became(change: Change | None) -> str:
    return f", {change}" if change not in (None, "same") else ""


def holes(nodes: Iterable[Node]) -> tuple[tuple[int, int], ...]:
    """Return the places between two states of a row at which no state is."""
    taken = {node.place for node in nodes if node.place is not None}
    found = []
    for row in sorted({row for _, row in taken}):
        held = [column for column, there in taken if there == row]
        between = range(min(held), max(held))
        found += [(column, row) for column in between if (column, row) not in taken]
    return tuple(found)
