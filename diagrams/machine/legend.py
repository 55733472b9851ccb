"""The legend of a machine: each thing that is in the picture, and nothing that is not."""

from __future__ import annotations

from collections.abc import Iterator

from vfio_migration.diagrams.drawing.kinds import Change
from vfio_migration.diagrams.machine.graph import KIND_TEXT, Graph, LegendEntry

_CHANGE_TEXT: dict[Change, str] = {
    "same": "arc, as before",
    "added": "added",
    "removed": "removed",
    "changed": "changed",
}


def legend(graph: Graph) -> tuple[LegendEntry, ...]:
    """Return the entries that explain a graph."""
    return tuple(_entries(graph))


def _entries(graph: Graph) -> Iterator[LegendEntry]:
    yield from _changes(graph)
    for kind, text in KIND_TEXT.items():
        # What became of an arc is drawn in place of what it does to the session.
        edges = [
            edge
            for edge in graph.edges
            if edge.kind == kind and not (edge.is_arc and edge.change is not None)
        ]
        if not edges:
            continue
        if kind in ("fails", "event"):
            names = dict.fromkeys(edge.event_text for edge in edges)
            text = f"{', '.join(names)} (from any state)"
        yield LegendEntry(kind=kind, text=text)
    if any(node.initial for node in graph.nodes):
        yield LegendEntry(kind="initial", text="initial state")
    marks = [mark for edge in graph.edges for mark in edge.marks]
    if any(not mark.failed for mark in marks):
        yield LegendEntry(kind="step", text="step, in order")
    if any(mark.failed for mark in marks):
        yield LegendEntry(kind="failed_step", text="step that failed or was refused")


def _changes(graph: Graph) -> Iterator[LegendEntry]:
    there = {node.change for node in graph.nodes} | {edge.change for edge in graph.edges}
    if not any(edge.is_arc and edge.change == "same" for edge in graph.edges):
        there.discard("same")
    for change, text in _CHANGE_TEXT.items():
        if change in there:
            yield LegendEntry(kind=change, text=text)


__all__ = ["legend"]
