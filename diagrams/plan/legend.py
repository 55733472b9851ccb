"""What the picture of a migration has to explain: each thing that is in it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from vfio_migration.diagrams.drawing.kinds import EdgeKind
from vfio_migration.diagrams.machine.graph import KIND_TEXT
from vfio_migration.diagrams.plan.view import PlanView, ShownState, people

SampleKind = EdgeKind | Literal["session", "flow", "downtime", "no_return"]
"""What an entry explains, if it is no state."""


def entries(view: PlanView) -> Iterator[tuple[SampleKind | ShownState, str]]:
    """Yield what each entry of the legend explains, and its words."""
    for row in view.operations:
        members = [state for state in view.states if state.operation == row.name]
        # One that streams nothing, if there is one: the border has an entry of its own.
        sample = min(members, key=lambda state: state.streams)
        yield sample, f"{people(row.name)}: {row.summary}"
    if any(state.streams for state in view.states):
        yield "session", "a data session is open"
    hops = [hop for stage in view.stages for hop in stage.hops]
    for kind, text in KIND_TEXT.items():
        events = dict.fromkeys(hop.event for hop in hops if hop.kind == kind and hop.event)
        if any(hop.kind == kind for hop in hops):
            yield kind, ", ".join(events) or text
    if any(stage.flows for stage in view.stages):
        yield "flow", "data, from a source to its destination"
    if view.downtime is not None:
        activities = people(" or ".join(view.downtime.activities))
        yield "downtime", f"downtime: not every device may {activities}"
    if view.no_return is not None:
        yield "no_return", "point of no return: no way back without a loss"
