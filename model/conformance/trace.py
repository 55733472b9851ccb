"""A `Trace`, held against the table: the first of its steps that is not allowed.

A trace reports requests as well as of arcs, so that the arcs must be those of the path, one after
the other. It may begin anywhere, leave requests out, and end in the middle of one.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfio_migration.model.conformance.followed import (
    Because,
    FirstViolationError,
    Violation,
    refusal,
)
from vfio_migration.model.conformance.steps import Steps, violation
from vfio_migration.model.errors import Mistake, SpecError, closest, did_you_mean, it_has
from vfio_migration.model.machine import Route
from vfio_migration.model.spec import Spec
from vfio_migration.model.trace import Step, Trace


@dataclass(slots=True)
class _Device:
    steps: Steps
    asked: Route | None = None
    """The request under way."""
    taken: int = 0
    """How many of its arcs were taken."""


def check_trace(trace: Trace, spec: Spec) -> tuple[int, Violation] | None:
    """Return the number of the first step that is not allowed, counted from 1, and why.

    Raises:
        SpecError: The trace is none of this table: another name, unknown states or capabilities.
    """
    _check_names(trace, spec)
    devices = [
        _Device(Steps(spec, (int(spec.capability_set(names).value),), start))
        for names, start in zip(trace.capabilities, trace.start, strict=True)
    ]
    for number, step in enumerate(trace.steps, 1):
        device = devices[step.device]
        try:
            _take(device, step, spec)
        except FirstViolationError as broken:
            return number, violation(f"device {step.device}", broken, device.steps)
    return None


def _take(device: _Device, step: Step, spec: Spec) -> None:
    steps, asked = device.steps, device.asked
    if step.kind == "note":
        steps.reported(step.state, str(step), step.session)
        return
    if step.kind == "request":
        _must_be_over(device, step)
        steps.reported(step.state, str(step), step.session)
        assert step.to is not None
        device.asked, device.taken = steps.route(_name(step.to, spec)), 0
        return
    if step.kind == "refused":
        if asked is not None and asked.refused is None:
            _must_be_over(device, step)
        from_ = step.from_ if step.from_ is not None else step.state
        target = None if step.to is None else _name(step.to, spec)
        if asked is not None and target not in (None, asked.to):
            reason = f"it is not what was asked for: {asked}"
            raise FirstViolationError(str(step), Because(reason), [f"SET_STATE {asked.to}"])
        device.asked, target = None, asked.to if asked is not None else target
        if target is not None:
            steps.refused(from_, target, step.errno, step.state, step.session)
        return
    if step.kind in ("reset", "disconnect") or _is_failed_event(step, steps):
        _must_be_over(device, step)
        device.asked = None
        fails = step.kind not in ("reset", "disconnect")
        name = "disconnect" if step.kind == "disconnect" else "reset"
        met = step.from_ if fails else None
        steps.event(name, step.state, step.session, met, fails=fails)  # type: ignore[arg-type]
        return
    _arc(device, step, asked)


def _arc(device: _Device, step: Step, asked: Route | None) -> None:
    from_, to = str(step.from_), str(step.to)
    if asked is not None and device.taken >= len(asked.arcs):
        if asked.refused is not None:
            _must_be_over(device, step)
        asked = device.asked = None
    if asked is not None:
        path = asked.arcs[device.taken]
        if (from_, to) != (path.from_, path.to):
            reason = f"it is not a step on the path of the request: {asked}"
            raise FirstViolationError(
                str(step), Because(reason, f"[[arcs]] {path}", path.source), [f"arc {path}"]
            )
    if step.kind == "arc":
        device.steps.arc(from_, to, step.state, step.session)
        device.taken += 1
    else:
        events = (step.kind,)
        device.steps.arc_failed(from_, to, step.state, step.session, events)  # type: ignore[arg-type]
        device.asked = None


def _must_be_over(device: _Device, step: Step) -> None:
    """Raise `FirstViolationError` if the request before this step has not come to its end."""
    asked = device.asked
    if asked is None:
        return
    if asked.refused is not None:
        because = refusal(asked.refused, asked.from_, asked.to)
        because = because._replace(reason=f"the request before it is refused: {because.reason}")
        raise FirstViolationError(str(step), because, [f"refused ({asked.refused.errno})"])
    if device.taken < len(asked.arcs):
        arc = asked.arcs[device.taken]
        reason = f"the request before it is not over: {asked}"
        allowed = [f"arc {arc}", f"arc {arc} fails"]
        raise FirstViolationError(
            str(step), Because(reason, f"[[arcs]] {arc}", arc.source), allowed
        )


def _is_failed_event(step: Step, steps: Steps) -> bool:
    """Return whether a recorder noted a reset or a disconnect that failed: there is no such arc."""
    return (
        step.kind == "arc_failed_for_good"
        and step.to == step.state
        and steps.machine().arc(str(step.from_), str(step.to)) is None
    )


def _name(state: str | int, spec: Spec) -> str | int:
    return next((row.name for row in spec.states if row.value == state), state)


def _check_names(trace: Trace, spec: Spec) -> None:
    mistakes: list[Mistake] = []
    if trace.spec != spec.name:
        hint = f"the table read is {spec.name}; name the right one with --spec"
        raise SpecError([Mistake("spec", trace.spec, "is the name of another table", hint)])
    known = [row.name for row in spec.states]

    def state(place: str, name: str | int | None) -> None:
        if isinstance(name, str) and name not in known:
            hint = did_you_mean(closest(name, known)) or it_has(known)
            mistakes.append(Mistake(place, name, "there is no such state in this table", hint))

    for device, names in enumerate(trace.capabilities):
        try:
            machine = spec.machine(names)
        except SpecError as error:
            mistakes += [
                Mistake(f"capabilities[{device}]", one.value, one.problem, one.hint)
                for one in error.mistakes
            ]
            continue
        start = trace.start[device]
        state(f"start[{device}]", start)
        if start in known and not machine.supports(start):
            problem = f"is not a state of a device with {','.join(machine.names)}"
            mistakes.append(Mistake(f"start[{device}]", start, problem, None))
    for index, step in enumerate(trace.steps):
        for key, name in (("from", step.from_), ("to", step.to), ("state", step.state)):
            state(f"steps[{index}].{key}", name)
        arc = step.kind in ("arc", "arc_failed", "arc_failed_for_good")
        if (step.kind == "request" or arc) and step.to is None:
            mistakes.append(Mistake(f"steps[{index}].to", None, "is missing", None))
        if arc and step.from_ is None:
            mistakes.append(Mistake(f"steps[{index}].from", None, "is missing", None))
    if mistakes:
        raise SpecError(mistakes)
