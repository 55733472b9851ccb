"""A picture in words, for a manual: its caption, and what takes its place where it is not seen."""

from __future__ import annotations

from collections.abc import Iterator

from vfio_migration.diagrams.drawing.kinds import ARC_KINDS, Liveness
from vfio_migration.diagrams.drawing.page import WHOLE, Page
from vfio_migration.diagrams.drawing.palette import CHANGE_LOOKS, LOOKS
from vfio_migration.diagrams.drawing.printable import printable
from vfio_migration.diagrams.machine.graph import KIND_TEXT, Edge, Graph, LegendKind
from vfio_migration.diagrams.machine.plain_dot import PLAIN_LINES
from vfio_migration.diagrams.plan.legend import entries
from vfio_migration.diagrams.plan.text import headline, movements
from vfio_migration.diagrams.plan.view import PlanView, ShownState, people


def caption(picture: Graph | PlanView, page: Page = WHOLE, *, plain: bool = False) -> str:
    """Return a caption, one paragraph: what the title states, and the legend if it is left out.

    Args:
        picture: The picture.
        page: What it is drawn for: what is not in the picture is in its caption.
        plain: Whether it is a plain DOT text, which has no legend and lines of its own.
    """
    picture = printable(picture)
    notes: tuple[str, ...] = ()
    if isinstance(picture, Graph):
        summary, legend, notes = picture.subtitle, _graph_legend(picture, plain), picture.notes
    else:
        summary, legend = f"{picture.summary} {picture.common}", _plan_legend(picture)
    parts = [f"{_line(picture.title)}.", summary]
    if plain or not page.legend:
        words = "; ".join(legend)
        parts += [f"{words[:1].upper()}{words[1:]}.", *notes]
    return _paragraph(parts)


def alternative(picture: Graph | PlanView) -> str:
    """Return the text for who does not see a picture, one paragraph: all that it shows."""
    picture = printable(picture)
    parts = _graph_parts(picture) if isinstance(picture, Graph) else _plan_parts(picture)
    return _paragraph([f"{_line(picture.title)}.", *parts])


def _paragraph(parts: list[str]) -> str:
    return " ".join(" ".join(parts).split()) + "\n"


def _line(title: str) -> str:
    return title.replace("\n", ", ").rstrip(".")


# --- legends ---


def _graph_legend(graph: Graph, plain: bool) -> Iterator[str]:
    changed = any(node.change is not None for node in graph.nodes)
    for entry in graph.legend:
        # What became of something is written beside it in a plain text.
        if not plain or entry.kind not in CHANGE_LOOKS:
            look = _look(entry.kind, changed and not plain, plain)
            yield f"{look}: {entry.text}"


def _look(kind: LegendKind, changed: bool, plain: bool) -> str:
    if kind == "initial":
        return "thick frame"
    if kind == "step":
        return "number"
    if kind == "failed_step":
        return "number" if plain else "number in an octagon"
    if kind == "same" or kind == "added" or kind == "removed" or kind == "changed":
        return CHANGE_LOOKS[kind]
    if plain:
        return PLAIN_LINES[kind].look
    return CHANGE_LOOKS["same"] if changed and kind in ARC_KINDS else LOOKS[kind]


_BARS: dict[Liveness, str] = {
    "all": "bar with round corners",
    "some": "bar with a dashed frame",
    "none": "bar with square corners",
    "off_grid": "bar with lines across its corners",
}


def _plan_legend(view: PlanView) -> Iterator[str]:
    for kind, text in entries(view):
        if isinstance(kind, ShownState):
            look = _BARS[kind.liveness]
        elif kind == "session":
            look = "thick frame"
        elif kind == "flow":
            look = "thick arrow from bar to bar"
        elif kind == "downtime":
            look = "shaded"
        elif kind == "no_return":
            look = "thick dashed line"
        else:
            look = LOOKS[kind]
        yield f"{look}: {text}"


# --- all of it ---


def _graph_parts(graph: Graph) -> list[str]:
    parts = [graph.subtitle]
    for index, row in enumerate(graph.rows):
        placed = sorted(
            (node.place[0], node.name)
            for node in graph.nodes
            if node.place is not None and node.place[1] == index
        )
        states = ", ".join(f"{name} ({graph.columns[column].name})" for column, name in placed)
        parts.append(f"Session {row.name}: {states}.")
    off = [node.name for node in graph.nodes if node.place is None]
    if off:
        parts.append(f"Off the grid: {', '.join(off)}.")
    for kind, text in KIND_TEXT.items():
        edges = [edge for edge in graph.edges if edge.kind == kind]
        if edges:
            words = f"arcs{text.removeprefix('arc')}" if text.startswith("arc") else text
            words = f"{words[:1].upper()}{words[1:]}"
            parts.append(f"{_plural(words)}: {', '.join(map(_edge, edges))}.")
    changed = [f"{node.name} {node.change}" for node in graph.nodes if _differs(node.change)]
    if changed:
        parts.append(f"States: {', '.join(changed)}.")
    return [*parts, *(f"{step}." for step in graph.steps)]


def _plural(words: str) -> str:
    return words.replace("opens", "open").replace("keeps", "keep").replace("closes", "close")


def _edge(edge: Edge) -> str:
    # An event is drawn from one state, and can happen in every one.
    text = f"{'any state' if edge.events else edge.from_} to {edge.to}"
    more = [edge.event_text] if edge.events else []
    more += [f"step {mark.label}" for mark in edge.marks]
    if edge.change is not None and _differs(edge.change):
        more.append(edge.change)
    return f"{text} ({', '.join(more)})" if more else text


def _differs(change: str | None) -> bool:
    return change not in (None, "same")


def _plan_parts(view: PlanView) -> list[str]:
    parts = [view.summary, view.common]
    if view.steps:
        lanes = [f"{lane.label} begins in {lane.state}" for lane in view.lanes]
        return [*parts, f"{', '.join(lanes)}.", *(f"{step}." for step in view.steps)]
    for stage in view.stages:
        moves = [
            f"{'devices' if len(devices) > 1 else 'device'} "
            f"{', '.join(map(str, devices))} {' '.join(path).replace('→', 'to')}"
            for devices, path in movements(view, stage)
        ]
        if stage.flows:
            numbers = ", ".join(str(device + 1) for device in stage.flows)
            moves.append(f"data of {numbers} flows from the source to the destination")
        parts.append(f"Stage {stage.number}, {headline(stage)}: {'; '.join(moves)}.")
    if view.downtime is not None:
        last = view.downtime.last
        end = "to the end" if last is None else f"to stage {last}"
        parts.append(
            f"Not every device may {people(' or '.join(view.downtime.activities))} "
            f"from stage {view.downtime.first} {end}."
        )
    if view.no_return is not None:
        parts.append(f"The point of no return is before stage {view.no_return}.")
    return parts
