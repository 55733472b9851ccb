"""Two machines in one picture: what one of them has and the other does not.

A state is the same if its name is, for that is what people read; if no state has its name any
more, the one that is new and has its value is the same with another name. What is no longer there
is drawn where it was.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from vfio_migration.diagrams.drawing.kinds import Change
from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.machine.graph import Edge, Graph, Heading, Node
from vfio_migration.diagrams.machine.legend import legend
from vfio_migration.model import Machine


def change_graph(new: Machine, old: Machine) -> Graph:
    """Return the picture of a machine, and of what it has otherwise than another one.

    Args:
        new: The machine.
        old: The machine it is compared with.
    """
    after, before = machine_graph(new), machine_graph(old)
    names = _names(after.nodes, before.nodes)
    known = {node.name for node in after.nodes}
    removed = [node for node in before.nodes if names[node.name] not in known]
    used = [node.place for node in removed if node.place is not None]
    columns = _merged(after.columns, before.columns, {before.columns[at].name for at, _ in used})
    rows = _merged(after.rows, before.rows, {before.rows[at].name for _, at in used})
    nodes = [_moved(node, after, columns, rows) for node in _nodes(new, old, after, before, names)]
    for node in removed:
        there = _moved(node, before, columns, rows)
        nodes.append(replace(there, name=names[node.name], initial=False, change="removed"))
    edges = tuple(_edges(after.edges, before.edges, names))
    taken = {node.place for node in nodes}
    empty = (_place(hole, after, columns, rows) for hole in after.holes)
    made = replace(
        after,
        title=f"{new.spec.title}: {', '.join(new.names)}\n"
        f"against {old.spec.title}: {', '.join(old.names)}",
        subtitle=_counted(nodes, edges),
        columns=columns,
        rows=rows,
        off_grid=_merged(
            after.off_grid,
            before.off_grid,
            {node.operation.replace("_", " ") for node in removed},
        ),
        nodes=tuple(nodes),
        edges=edges,
        notes=after.notes[:1],
        holes=tuple(place for place in empty if place not in taken),
    )
    return replace(made, legend=legend(made))


def _names(new: Sequence[Node], old: Sequence[Node]) -> dict[str, str]:
    """Return what each state of OLD is called in the picture."""
    names = {node.name for node in old}
    renamed = {node.value: node.name for node in new if node.name not in names}
    known = {node.name for node in new}
    return {
        node.name: node.name if node.name in known else renamed.get(node.value, node.name)
        for node in old
    }


def _nodes(
    new: Machine, old: Machine, after: Graph, before: Graph, names: Mapping[str, str]
) -> Iterator[Node]:
    was = {names[node.name]: node for node in before.nodes}
    for node in after.nodes:
        change: Change = "added"
        if node.name in was:
            same = _conduct(new, node) == _conduct(old, was[node.name])
            change = "same" if same else "changed"
        yield replace(node, change=change)


def _conduct(machine: Machine, node: Node) -> tuple[object, ...]:
    """Return what a state is, without prose."""
    may = next(row.may for row in machine.spec.operations if row.name == node.operation)
    place = (node.operation, node.session)
    return (node.name, node.value, node.requires, node.initial, node.settable, place, set(may))


def _merged(
    new: Sequence[Heading], old: Sequence[Heading], used: Container[str]
) -> tuple[Heading, ...]:
    """Return the headings of both, those of OLD that are used after what they came after there."""
    merged = list(new)
    places = {row.name: index for index, row in enumerate(merged)}
    at = 0
    for row in old:
        if row.name not in places:
            if row.name not in used:
                continue
            merged.insert(at, row)
            places = {one.name: index for index, one in enumerate(merged)}
        at = places[row.name] + 1
    return tuple(merged)


def _moved(node: Node, graph: Graph, columns: Sequence[Heading], rows: Sequence[Heading]) -> Node:
    """Return a state of one of the two graphs, at its place of the merged grid."""
    if node.place is None:
        return node
    return replace(node, place=_place(node.place, graph, columns, rows))


def _place(
    place: tuple[int, int], graph: Graph, columns: Sequence[Heading], rows: Sequence[Heading]
) -> tuple[int, int]:
    column, row = graph.columns[place[0]].name, graph.rows[place[1]].name
    return [one.name for one in columns].index(column), [one.name for one in rows].index(row)


def _key(edge: Edge) -> tuple[object, ...]:
    return edge.from_, edge.to, "arc" if edge.is_arc else edge.kind


def _edges(new: Iterable[Edge], old: Iterable[Edge], names: Mapping[str, str]) -> Iterator[Edge]:
    """Yield the edges of both: arcs, then refusals, then events."""
    was = {}
    for edge in old:
        start = None if edge.from_ is None else names[edge.from_]
        moved = replace(edge, from_=start, to=names[edge.to], change="removed")
        was[_key(moved)] = moved
    both = []
    for edge in new:
        before = was.pop(_key(edge), None)
        change: Change = "added"
        if before is not None:
            facts = [(one.kind, one.errno, set(one.events)) for one in (edge, before)]
            change = "same" if facts[0] == facts[1] else "changed"
        both.append(replace(edge, change=change))
    both += was.values()
    yield from (edge for edge in both if edge.is_arc)
    yield from (edge for edge in both if edge.kind == "refused")
    yield from (edge for edge in both if not edge.is_arc and edge.kind != "refused")


def _counted(nodes: Iterable[Node], edges: Sequence[Edge]) -> str:
    """Return how much of what was added, removed and changed."""
    what: dict[str, list[Change | None]] = {
        "state": [node.change for node in nodes],
        "arc": [edge.change for edge in edges if edge.is_arc],
        "refusal": [edge.change for edge in edges if edge.kind == "refused"],
        "event": [edge.change for edge in edges if edge.kind in ("fails", "event")],
    }
    changes: tuple[Change, ...] = ("added", "removed", "changed")
    parts = [
        f"{count} {name}{'s' * (count > 1)} {change}"
        for name, found in what.items()
        for change in changes
        if (count := found.count(change))
    ]
    return f"{', '.join(parts)}." if parts else "No state, arc, refusal or event differs."


__all__ = ["change_graph"]
