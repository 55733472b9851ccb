"""The plan of a migration as a Mermaid `sequenceDiagram`, for pages that draw themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator

from vfio_migration.diagrams.drawing.shapes import elide
from vfio_migration.diagrams.plain import words
from vfio_migration.diagrams.plan.text import headline, holds
from vfio_migration.diagrams.plan.view import SIDES, PlanView, Stage

LABEL = 28
"""How many characters of a device's name are at its head: Mermaid makes columns of them."""

# Seen on a light and on a dark page.
_SHADE = "rgba(240, 140, 60, 0.18)"

_KEPT = {"opens": "opens session", "keeps": "keeps session", "closes": "closes session"}


def plan_to_mermaid(view: PlanView) -> str:
    """Return the plan as a Mermaid `sequenceDiagram`: a device is a participant, a step a message.

    The arrow of a step leads back to its device; that of a stream from a source to its destination.
    """
    lines = [
        "---",
        f"title: {json.dumps(view.title, ensure_ascii=False)}",
        "---",
        "sequenceDiagram",
        f"    accTitle: {words(view.title)}",
        f"    accDescr: {words(view.summary)}",
    ]
    for side in view.sides:
        if side is not None:
            lines.append(f"    box transparent {side}")
        for lane in view.lanes:
            if lane.side == side:
                number = "" if side is None else f"{lane.device + 1} "
                label = f"{number}{elide(lane.label, LABEL)}"
                offers = ", ".join(lane.capabilities)
                lines.append(
                    f"    participant {_id(view, view.lanes.index(lane))} as "
                    f"{words(label)}<br/>{words(offers)}"
                )
        if side is not None:
            lines.append("    end")
    everyone = ",".join(dict.fromkeys([_id(view, 0), _id(view, len(view.lanes) - 1)]))
    for index, lane in enumerate(view.lanes):
        lines.append(f"    Note over {_id(view, index)}: {words(lane.state)}")
    holder = None
    for stage in view.stages:
        if view.downtime is not None and stage.number == view.downtime.first:
            lines += [f"    rect {_SHADE}", f"    Note over {everyone}: downtime begins"]
        if stage.number == view.no_return:
            lines.append(f"    Note over {everyone}: point of no return")
        text = f"{stage.label or stage.number}. {headline(stage)}".rstrip()
        if holder is not None and stage.holder != holder:
            text += f", {holds(stage)}"
        holder = stage.holder
        lines.append(f"    Note over {everyone}: {words(text)}")
        lines += _messages(view, stage)
        if view.downtime is not None and stage.number == view.downtime.last:
            lines += [f"    Note over {everyone}: downtime ends", "    end"]
    if view.downtime is not None and view.downtime.last is None:
        lines.append("    end")
    return "\n".join(lines) + "\n"


def _messages(view: PlanView, stage: Stage) -> Iterator[str]:
    for hop in stage.hops:
        name = _id(view, hop.lane)
        text = ", ".join(
            part for part in (f"{hop.from_} → {hop.to}", hop.event or _KEPT.get(hop.kind)) if part
        )
        yield f"    {name}->>{name}: {words(text)}"
    for device in stage.flows:
        source, destination = (_id(view, view.lane(side, device)) for side in SIDES)
        yield f"    {source}-){destination}: data"


def _id(view: PlanView, lane: int) -> str:
    return f"{view.lanes[lane].side or 'device'}{view.lanes[lane].device + 1}"
