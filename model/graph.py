"""A machine as a graph of networkx, for those who want to ask it more than the model answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfio_migration.model.extras import from_extra
from vfio_migration.model.machine import Machine

if TYPE_CHECKING:
    import networkx


def digraph(machine: Machine) -> networkx.DiGraph[str]:
    """Return the states and arcs of a machine as a directed graph.

    Nodes and edges come in the order of the table. A node carries `value`, `operation`, `session`,
    `requires`, `settable`, `summary` and `position` (column and row on the grid, or None off it);
    an edge carries `effect`, `via`, `summary` and `source`; the graph carries `name` and
    `capabilities`. Refusals are no edges: the graph states what arcs there are, not what a request
    leads to.

    Raises:
        MissingExtraError: If networkx is not installed.
    """
    with from_extra():
        import networkx

    spec = machine.spec
    graph: networkx.DiGraph[str] = networkx.DiGraph(name=spec.name, capabilities=machine.names)
    for state in machine.states:
        graph.add_node(
            state.name,
            value=state.value,
            operation=state.operation,
            session=state.session,
            requires=state.requires,
            settable=state.settable,
            summary=state.summary,
            position=spec.position(state.name),
        )
    for arc in machine.arcs:
        graph.add_edge(
            arc.from_,
            arc.to,
            effect=spec.effect(arc.from_, arc.to),
            via=arc.via,
            summary=arc.summary,
            source=arc.source,
        )
    return graph
