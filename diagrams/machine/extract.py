"""From a machine, and a route or a run on it, to the neutral graph.

Only this module and that of changes read the table. What is drawn over the machine (a
route, a run) changes the emphasis of what is there; it adds an edge only for a step the machine has
none for: a refusal that is not a row of the table, a reset from a state on the grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from vfio_migration.diagrams.drawing.kinds import EdgeKind
from vfio_migration.diagrams.machine.graph import Edge, Graph, Heading, Mark, Node, holes
from vfio_migration.diagrams.machine.legend import legend
from vfio_migration.model import (
    Event,
    Machine,
    Operation,
    Refused,
    Route,
    Session,
    Spec,
    Step,
    Trace,
)

EFFECT_KIND: dict[str, EdgeKind] = {
    "none": "moves",
    "opens": "opens",
    "keeps": "keeps",
    "closes": "closes",
}
"""What an arc is drawn as, by its effect on the data session."""


def machine_graph(
    machine: Machine,
    route: Route | None = None,
    trace: Trace | None = None,
    *,
    device: int | None = None,
) -> Graph:
    """Return the picture of a machine, with one route or one run drawn over it.

    Args:
        machine: A table restricted to a capability set.
        route: What `Machine.route` answered: its arcs are numbered, or its refusal is shown.
        trace: A run. Steps are numbered as in the trace; those that failed are in alarm colour.
        device: For a run of several devices, the one to draw; by default all of them, each step
            then labelled with its device.

    Raises:
        ValueError: If a route or run does not fit this machine, or both are given.
    """
    if route is not None and trace is not None:
        raise ValueError("a picture shows one route or one run, not both")
    graph = _plain(machine)
    if route is not None:
        graph = _with_route(machine, graph, route)
    if trace is not None:
        graph = _with_trace(machine, graph, trace, device)
    return replace(graph, legend=legend(graph))


def trace_graphs(spec: Spec, trace: Trace) -> tuple[Graph, ...]:
    """Return the pictures of a run: one, or one per device if their capabilities differ."""
    if len(set(trace.capabilities)) == 1:
        return (machine_graph(spec.machine(trace.capabilities[0]), trace=trace),)
    return tuple(
        machine_graph(spec.machine(names), trace=trace, device=index)
        for index, names in enumerate(trace.capabilities)
    )


# --- the machine ---


def _plain(machine: Machine) -> Graph:
    spec = machine.spec
    places = {state.name: spec.position(state.name) for state in machine.states}
    # Dropping empty columns and rows is what makes neighbours of a contracted grid adjacent.
    columns = sorted({place[0] for place in places.values() if place is not None})
    rows = sorted({place[1] for place in places.values() if place is not None})
    mandatory = {row.name for row in spec.capabilities if row.mandatory}
    nodes = []
    for state in machine.states:
        place = places[state.name]
        nodes.append(
            Node(
                name=state.name,
                value=state.value,
                requires=tuple(name for name in state.requires if name not in mandatory),
                operation=state.operation,
                session=state.session,
                place=place and (columns.index(place[0]), rows.index(place[1])),
                initial=state.name == spec.initial,
                settable=state.settable,
                summary=state.summary,
                source=state.source,
            )
        )
    on_grid = [row for row in spec.operations if not row.off_grid]
    used = {state.operation for state in machine.states}
    edges = (*_arcs(machine), *_refusals(machine), *_events(machine))
    arcs = sum(edge.is_arc for edge in edges)
    return Graph(
        name=spec.name,
        title=f"{spec.title}: {', '.join(machine.names)}",
        subtitle=f"{len(nodes)} states, {arcs} arcs.",
        capabilities=machine.names,
        columns=tuple(_heading(on_grid[index]) for index in columns),
        rows=tuple(_heading(spec.sessions[index]) for index in rows),
        off_grid=tuple(
            _heading(row) for row in spec.operations if row.off_grid and row.name in used
        ),
        nodes=tuple(nodes),
        edges=edges,
        legend=(),
        notes=_notes(mandatory, edges),
        holes=holes(nodes),
    )


def _notes(mandatory: Collection[str], edges: Iterable[Edge]) -> tuple[str, ...]:
    besides = f" besides {', '.join(sorted(mandatory))}" if mandatory else ""
    return (
        f"Under each name: its value on the wire · the capabilities it requires{besides}.",
        *dict.fromkeys(
            f"Refused ({edge.errno}): {edge.summary}." for edge in edges if edge.kind == "refused"
        ),
    )


def _heading(row: Operation | Session) -> Heading:
    return Heading(name=row.name.replace("_", " "), summary=row.summary, source=row.source)


def _arcs(machine: Machine) -> Iterable[Edge]:
    for arc in machine.arcs:
        yield Edge(
            from_=arc.from_,
            to=arc.to,
            kind=EFFECT_KIND[machine.spec.effect(arc.from_, arc.to)],
            via=arc.via,
            summary=arc.summary,
            source=arc.source,
        )


def _refusals(machine: Machine) -> Iterable[Edge]:
    for row in machine.spec.refusals:
        if machine.supports(row.from_) and machine.supports(row.to):
            yield Edge(
                from_=row.from_,
                to=row.to,
                kind="refused",
                errno=row.errno,
                summary=row.reason,
                source=row.source,
            )


def _events(machine: Machine) -> Iterable[Edge]:
    """Yield the events that move a device, those between the same two states as one edge.

    An event can happen in every state, and an edge from each of them would bury the arcs. One from
    "any state" stands for them all; where it leads back onto the grid, it is drawn from the states
    off the grid, for which it is the way out.
    """
    stranded = [row.name for row in machine.states if _off_grid(machine, row.name)]
    found: dict[tuple[str | None, str], list[Event]] = {}
    for event in machine.spec.events:
        if event.to is None or not machine.supports(event.to):
            continue
        starts = [None] if _off_grid(machine, event.to) or not stranded else stranded
        for start in starts:
            found.setdefault((start, event.to), []).append(event)
    for (start, to), events in found.items():
        yield _event_edge(machine, start, to, events)


def _event_edge(machine: Machine, start: str | None, to: str, events: Sequence[Event]) -> Edge:
    return Edge(
        from_=start,
        to=to,
        kind="fails" if _off_grid(machine, to) else "event",
        events=tuple(event.name for event in events),
        summary=" ".join(event.summary for event in events),
        source="; ".join(dict.fromkeys(event.source for event in events)),
    )


def _off_grid(machine: Machine, state: str) -> bool:
    return machine.spec.position(state) is None


# --- a route over it ---


def _with_route(machine: Machine, graph: Graph, route: Route) -> Graph:
    if not machine.supports(route.from_):
        raise ValueError(f"{route.from_} is not a state of {machine!r}")
    graph = replace(graph, title=f"{graph.title}\n{route.from_} → {route.to}")
    if route.refused is not None:
        return _with_refusal(machine, graph, route, route.refused)
    steps = {}
    for number, arc in enumerate(route.arcs, 1):
        if machine.arc(arc.from_, arc.to) is None:
            raise ValueError(f"{arc} is not an arc of {machine!r}")
        steps[arc.from_, arc.to] = Mark(label=str(number))
    visited = {route.from_, *route.path}
    if route.arcs:
        count = f"{len(route.arcs)} arc{'s' * (len(route.arcs) > 1)}"
        subtitle = f"{count}: {' → '.join([route.from_, *route.path])}."
    else:
        nothing = [row.reason for row in machine.spec.requests if row.outcome == "nothing"]
        subtitle = f"Nothing to do: {(nothing or ['it is there already'])[0]}."
    return replace(
        graph,
        subtitle=subtitle,
        nodes=tuple(
            replace(node, emphasis="strong" if node.name in visited else "dim")
            for node in graph.nodes
        ),
        edges=tuple(
            replace(edge, emphasis="strong", marks=(steps[key],))
            if edge.is_arc and (key := (edge.from_ or "", edge.to)) in steps
            else replace(edge, emphasis="dim")
            for edge in graph.edges
        ),
        notes=graph.notes[:1],
        steps=tuple(
            f"{index}. {arc.from_} → {arc.to}: {arc.summary}"
            for index, arc in enumerate(route.arcs, 1)
        ),
    )


def _with_refusal(machine: Machine, graph: Graph, route: Route, refused: Refused) -> Graph:
    ends = {route.from_, str(route.to)}
    edges = [replace(edge, emphasis="dim") for edge in graph.edges]
    if _is_drawn(machine, route.to):
        edges = _refuse(edges, route.from_, str(route.to), refused.errno, refused.reason, ())
    return replace(
        graph,
        subtitle=f"Refused ({refused.errno}): {refused.reason}.",
        nodes=tuple(
            replace(node, emphasis="strong" if node.name in ends else "dim") for node in graph.nodes
        ),
        edges=tuple(edges),
        notes=graph.notes[:1],
    )


def _is_drawn(machine: Machine, state: str | int | None) -> bool:
    return isinstance(state, str) and machine.supports(state)


def _refuse(
    edges: list[Edge], from_: str, to: str, errno: str, reason: str, marks: tuple[Mark, ...]
) -> list[Edge]:
    """Put a refusal in alarm colour; add it where the table has no row for this pair."""
    for index, edge in enumerate(edges):
        if edge.kind == "refused" and (edge.from_, edge.to) == (from_, to):
            edges[index] = replace(edge, emphasis="alarm", marks=edge.marks + marks)
            return edges
    added = Edge(
        from_=from_,
        to=to,
        kind="refused",
        errno=errno,
        summary=reason,
        source="",
        marks=marks,
        emphasis="alarm",
    )
    return [*edges, added]


# --- a run over it ---


def _with_trace(machine: Machine, graph: Graph, trace: Trace, device: int | None) -> Graph:
    devices = range(len(trace.start)) if device is None else [device]
    for index in devices:
        if index >= len(trace.start):
            raise ValueError(f"the run has no device {index}: it has {len(trace.start)}")
        if set(trace.capabilities[index]) != set(machine.names):
            raise ValueError(
                f"device {index} of the run has {','.join(trace.capabilities[index])}, "
                f"the machine drawn has {','.join(machine.names)}"
            )
    several = len(devices) > 1
    edges = [replace(edge, emphasis="dim") for edge in graph.edges]
    visited = {trace.start[index] for index in devices}
    failed_at: set[str] = set()
    state = list(trace.start)
    steps = []
    for number, step in enumerate(trace.steps, 1):
        if step.device not in devices:
            continue
        label = f"{number}{chr(ord('a') + step.device % 26)}" if several else str(number)
        steps.append(f"{label}. {str(step).replace('->', '→')}, now {step.state}")
        edges = _take(machine, edges, step, state[step.device], label)
        if step.kind in ("refused", "arc_failed", "arc_failed_for_good"):
            failed_at.add(step.state)
        visited.add(step.state)
        state[step.device] = step.state
    unknown = visited - {node.name for node in graph.nodes}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no state of {machine!r}")
    return replace(
        graph,
        title=trace.called(f"{graph.title}\nA run from {trace.start[devices[0]]}"),
        subtitle=f"{trace.spec}, {', '.join(machine.names)}.",
        nodes=tuple(
            replace(
                node,
                emphasis="alarm"
                if node.name in failed_at
                else "strong"
                if node.name in visited
                else "dim",
            )
            for node in graph.nodes
        ),
        edges=tuple(edges),
        notes=graph.notes[:1],
        steps=tuple(steps),
    )


def _take(machine: Machine, edges: list[Edge], step: Step, here: str, label: str) -> list[Edge]:
    """Mark what one step of a run did."""
    mark = Mark(label=label, failed=step.kind.startswith(("arc_failed", "refused")))
    if step.kind in ("arc", "arc_failed", "arc_failed_for_good"):
        pair = (step.from_, step.to)
        found = [edge.is_arc and (edge.from_, edge.to) == pair for edge in edges]
        if not any(found):
            raise ValueError(
                f"step {label}: {step.from_} -> {step.to} is not an arc of {machine!r}"
            )
        edges = [
            _marked(edge, mark) if hit else edge for edge, hit in zip(edges, found, strict=True)
        ]
    if step.kind == "refused" and _is_drawn(machine, step.to):
        refused = machine.route(here, str(step.to)).refused
        reason = step.note or (refused.reason if refused else "the device refused it")
        edges = _refuse(edges, here, str(step.to), step.errno or "", reason, (mark,))
    events = [row for row in machine.spec.events if row.name == step.kind and row.to == step.state]
    if events:
        edges = _happen(machine, edges, events[0], here, mark)
    return edges


def _happen(machine: Machine, edges: list[Edge], event: Event, here: str, mark: Mark) -> list[Edge]:
    """Mark the edge of an event, from this state or from any; add one where there is none."""
    if event.to is None or event.to == here:
        return edges
    for index, edge in enumerate(edges):
        if event.name in edge.events and edge.to == event.to and edge.from_ in (None, here):
            edges[index] = _marked(edge, mark)
            return edges
    return [*edges, _marked(_event_edge(machine, here, event.to, [event]), mark)]


def _marked(edge: Edge, mark: Mark) -> Edge:
    alarm = mark.failed or edge.emphasis == "alarm"
    return replace(edge, marks=(*edge.marks, mark), emphasis="alarm" if alarm else "strong")
