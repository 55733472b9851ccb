"""What a page's script needs to know: edges, routes and runs, all computed here.

The script compares numbers and shows texts; every fact about migration comes from these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.machine.graph import KIND_TEXT, Edge, Graph
from vfio_migration.model import Machine, Refused, Spec, SpecError, Trace


@dataclass
class Refusals:
    """The refusals of a page, each once.

    Attributes:
        rows: What each one is, by its number.
    """

    rows: list[dict[str, str]] = field(default_factory=list)
    _numbers: dict[Refused, int] = field(default_factory=dict)

    def number(self, refused: Refused) -> int:
        """Return the number of a refusal."""
        if refused not in self._numbers:
            self._numbers[refused] = len(self.rows)
            text = f"refused ({refused.errno}): {refused.reason}"
            self.rows.append({"text": text, "source": refused.source})
        return self._numbers[refused]


def numbers(spec: Spec) -> dict[str, int]:
    """Return the number of each state: its place in the table."""
    return {row.name: index for index, row in enumerate(spec.states)}


def machine_data(machine: Machine, graph: Graph, refusals: Refusals) -> dict[str, Any]:
    """Return the edges of a machine, and the route of each request.

    Args:
        machine: The machine.
        graph: Its picture, whose edges come first and have the same numbers.
        refusals: Where its refusals are counted.

    Returns:
        `edges`; and `routes`, by the number of the present state, then by that of the state asked
        for: the numbers of the edges to take, or what is refused, or what is wrong with it.
    """
    state = numbers(machine.spec)
    edges = [_edge(state, edge) for edge in graph.edges]
    arcs = {(e.from_, e.to): index for index, e in enumerate(graph.edges) if e.is_arc}
    refused = {(e.from_, e.to): index for index, e in enumerate(graph.edges) if e.kind == "refused"}

    def cell(from_: str, to: str) -> list[int] | dict[str, Any]:
        try:
            route = machine.route(from_, to)
        except SpecError as error:
            return {"wrong": str(error)}
        if route.refused is not None:
            drawn = refused.get((from_, to))
            return {"refused": refusals.number(route.refused), "edge": drawn}
        taken = []
        for arc in route.arcs:
            ends = (arc.from_, arc.to)
            if ends not in arcs:  # a step that a table writes down and that no arc is
                arcs[ends] = len(edges)
                edges.append(
                    {
                        "from": state[arc.from_],
                        "to": state[arc.to],
                        "kind": "step without an arc",
                        "summary": arc.summary,
                        "source": arc.source,
                    }
                )
            taken.append(arcs[ends])
        return taken

    routes = {
        state[row.name]: [cell(row.name, target.name) for target in machine.spec.states]
        for row in machine.states
    }
    return {"name": ", ".join(machine.names), "edges": edges, "routes": routes}


def _edge(state: dict[str, int], edge: Edge) -> dict[str, Any]:
    over = f", over {', '.join(edge.via)}" if edge.via else ""
    return {
        "from": None if edge.from_ is None else state[edge.from_],
        "to": state[edge.to],
        "kind": (edge.event_text or KIND_TEXT[edge.kind]) + over,
        "summary": edge.summary,
        "source": edge.source,
    }


def nothing_to_do(spec: Spec) -> str:
    """Return what is stated of a request that leads nowhere and is not refused."""
    reasons = [row.reason for row in spec.requests if row.outcome == "nothing" and row.reason]
    return f"nothing to do: {(reasons or ['it is there already'])[0]}"


# --- runs ---


def run_machines(spec: Spec, trace: Trace) -> list[Machine] | None:
    """Return the machine of each device of a run; None if the table has not what the run names."""
    try:
        machines = [spec.machine(names) for names in trace.capabilities]
    except SpecError:
        return None
    known = numbers(spec)
    names = {*trace.start, *(step.state for step in trace.steps)}
    return machines if names <= set(known) else None


def run_data(spec: Spec, trace: Trace, sets: dict[str, int]) -> dict[str, Any] | None:
    """Return where each device is after each step of a run, and which edge each step took.

    Args:
        spec: The table.
        trace: The run.
        sets: The number of each picture, by the names of its capability set.

    Returns:
        None if there is no picture to show it in.
    """
    machines = run_machines(spec, trace)
    if machines is None or any(",".join(one.names) not in sets for one in machines):
        return None
    state = numbers(spec)
    edges = [_edges_taken(machine, trace, device) for device, machine in enumerate(machines)]
    at = [state[name] for name in trace.start]
    sessions: list[int | None] = [None] * len(at)
    steps: list[dict[str, Any]] = [{"at": list(at), "sessions": list(sessions)}]
    for number, step in enumerate(trace.steps, 1):
        at[step.device], sessions[step.device] = state[step.state], step.session
        steps.append(
            {
                "at": list(at),
                "sessions": list(sessions),
                "device": step.device,
                "edge": edges[step.device].get(number),
                "failed": step.kind.startswith(("arc_failed", "refused")),
            }
        )
    return {
        "devices": [
            {"name": trace.name(device), "set": sets[",".join(machine.names)]}
            for device, machine in enumerate(machines)
        ],
        "steps": steps,
    }


def _edges_taken(machine: Machine, trace: Trace, device: int) -> dict[int, int]:
    """Return the edge of the machine's picture that each step of a device took, by its number."""
    drawn = len(machine_graph(machine).edges)
    try:
        graph = machine_graph(machine, trace=trace, device=device)
    except ValueError:  # a step that no arc is
        return {}
    return {
        int(mark.label): index
        for index, edge in enumerate(graph.edges[:drawn])
        for mark in edge.marks
    }


__all__ = ["Refusals", "machine_data", "nothing_to_do", "numbers", "run_data", "run_machines"]
