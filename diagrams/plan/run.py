"""From a run of several devices to a time line of it, drawn as that of a migration is.

A device is a lane. A request and the arcs it takes are a column; so are a reset and a note, which
moves nobody and begins a phase or states what went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from vfio_migration.diagrams.drawing.kinds import EdgeKind
from vfio_migration.diagrams.machine.extract import EFFECT_KIND
from vfio_migration.diagrams.plan.extract import shown_operations, shown_state
from vfio_migration.diagrams.plan.view import Hop, Lane, PlanView, Stage
from vfio_migration.model import Spec, Step, Trace
from vfio_migration.model.plan import FIRST_HOLDER

LONGEST_NAME = 44
"""How many characters of a note are above its column; all of it is in the list of the steps."""

_FAILED = ("refused", "arc_failed", "arc_failed_for_good")


def run_view(spec: Spec, trace: Trace) -> PlanView:
    """Return the time line of a run.

    Args:
        spec: The table it is a run of.
        trace: The run, of one device or several.

    Raises:
        ValueError: If the run has a state or an arc that a device of it does not have.
    """
    lanes = tuple(
        Lane(side=None, device=index, label=trace.name(index), capabilities=names, state=start)
        for index, (names, start) in enumerate(zip(trace.capabilities, trace.start, strict=True))
    )
    stages = tuple(_stages(spec, trace))
    names = {lane.state for lane in lanes} | {hop.to for row in stages for hop in row.hops}
    states = tuple(shown_state(spec, row.name) for row in spec.states if row.name in names)
    unknown = names - {state.name for state in states}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no state of {spec.name}")
    count = len(lanes)
    return PlanView(
        name="run",
        title=trace.called(f"A run of {count} device{'s' * (count > 1)}"),
        summary=f"{spec.title}, {len(trace.steps)} step{'s' * (len(trace.steps) > 1)}.",
        states=states,
        operations=shown_operations(spec, states),
        lanes=lanes,
        stages=stages,
        idle=(),
        downtime=None,
        no_return=None,
        steps=tuple(
            f"{number}. {trace.describe(step).replace('->', '→')}"
            for number, step in enumerate(trace.steps, 1)
        ),
    )


@dataclass(slots=True)
class _Column:
    """A stage while steps are added to it."""

    name: str
    first: int
    device: int | None
    last: int = 0
    hops: list[Hop] = field(default_factory=list)
    failed: bool = False


def _stages(spec: Spec, trace: Trace) -> Iterator[Stage]:
    state = list(trace.start)
    column: _Column | None = None
    for number, step in enumerate(trace.steps, 1):
        goes_on = step.kind in ("arc", *_FAILED)
        if column is None or not goes_on or column.device != step.device:
            if column is not None:
                yield _stage(column, state)
            alone = step.kind not in ("note", "reset", "disconnect")
            column = _Column(_name(step), number, step.device if alone else None)
        column.last = number
        hop = _hop(spec, trace, number, step, state[step.device])
        if hop is not None:
            column.hops.append(hop)
            state[step.device] = step.state
        # What a run ends in is what is wrong about it.
        is_end = step.kind == "note" and number == len(trace.steps)
        column.failed = column.failed or step.kind in _FAILED or is_end
    if column is not None:
        yield _stage(column, state)


def _stage(column: _Column, state: list[str]) -> Stage:
    steps = str(column.first)
    if column.last > column.first:
        steps += f"\N{EN DASH}{column.last}"
    return Stage(
        number=column.first,
        name=column.name,
        summary="",
        holder=FIRST_HOLDER,
        hops=tuple(column.hops),
        states_after=tuple(state),
        label=steps,
        failed=column.failed,
    )


def _name(step: Step) -> str:
    if step.kind == "note":
        note = step.note or "note"
        return note if len(note) <= LONGEST_NAME else f"{note[: LONGEST_NAME - 1].rstrip()}…"
    if step.kind == "request":
        return f"to {step.to}"
    return {"reset": "reset", "disconnect": "disconnect"}.get(step.kind, "")


def _hop(spec: Spec, trace: Trace, number: int, step: Step, here: str) -> Hop | None:
    """Return where a step leads its device; None if the device stays where it is."""
    kind: EdgeKind
    event = None
    if step.kind == "arc":
        machine = spec.machine(trace.capabilities[step.device])
        if machine.arc(here, step.state) is None:
            raise ValueError(f"step {number}: {here} -> {step.state} is not an arc of {machine!r}")
        kind = EFFECT_KIND[spec.effect(here, step.state)]
    elif step.kind in ("arc_failed", "arc_failed_for_good"):
        kind = "fails"
    elif step.kind == "refused":
        kind = "refused"
    elif step.kind == "reset":
        kind, event = "event", "reset"
    else:
        return None
    return Hop(
        lane=step.device,
        from_=here,
        to=step.state,
        kind=kind,
        event=event,
        summary=str(step).replace("->", "→"),
    )
