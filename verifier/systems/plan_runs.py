"""Runs of a small group under a plan, found by a search, as traces."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from vfio_migration.model import Machine, Spec, Step, Trace
from vfio_migration.model.plan import applying
from vfio_migration.model.plan import step as step_of
from vfio_migration.verifier.solver.obligation import Example
from vfio_migration.verifier.systems.plan import Discipline, Where

Moment = tuple[int, Where]
"""The number of the phase, and where each device is."""


def run_to(
    discipline: Discipline, words: Sequence[int], wanted: Callable[[int, Where], bool]
) -> Trace | None:
    """Return a shortest run to a moment that is wanted, or None. Arcs fail if the plan's may.

    Args:
        discipline: The plan.
        words: The capability set of each device.
        wanted: Says of a phase, by its number, and of where each device is whether that is it.
    """
    machines = [discipline.encoding.machines[word] for word in words]
    begins = (
        itertools.product(*(sorted(begin[word]) for word in words)) for begin in discipline.begins
    )
    level: list[Moment] = [(0, where) for where in itertools.chain.from_iterable(begins)]
    before: dict[Moment, Moment | None] = dict.fromkeys(level)
    while level:
        for now in level:
            if wanted(*now):
                return _trace_of(discipline, machines, _history(before, now))
        grown = []
        for now in level:
            for then in _onward(discipline, machines, now):
                if then not in before:
                    before[then] = now
                    grown.append(then)
        level = grown
    return None


def showing(text: str, trace: Trace | None, why: str, spec: Spec) -> Example:
    """Return what a run shows, which ends with a note of what is wrong about its end."""
    if trace is None:
        return Example(text)
    note = Step(kind="note", state=trace.start[0], note=why)
    trace = replace(trace, title=text, steps=(*trace.steps, note))
    return Example(text, _with_sessions(trace, spec))


def _with_sessions(trace: Trace, spec: Spec) -> Trace:
    """Return after each step of a run which session its device has, and where it then is."""
    numbers = itertools.count(1)
    where = list(trace.start)
    open_: list[int | None] = [
        None if spec.session(spec.state(name).session).transfer == "none" else next(numbers)
        for name in trace.start
    ]
    steps = []
    for step in trace.steps:
        device = step.device
        if step.kind == "arc":
            effect = spec.effect(where[device], step.state)
            if effect in ("opens", "closes"):
                open_[device] = next(numbers) if effect == "opens" else None
        elif step.kind in ("reset", "arc_failed_for_good"):
            event = spec.event("reset" if step.kind == "reset" else "arc_failed_for_good")
            open_[device] = None if event.session == "ended" else open_[device]
        if step.kind != "note":
            where[device] = step.state
        steps.append(replace(step, state=where[device], session=open_[device]))
    return replace(trace, steps=tuple(steps))


def begins(discipline: Discipline, phase: int, state: str) -> Step:
    """Return the note that a phase begins, with where device 0 then is."""
    name = discipline.plan.phases[phase].name
    return Step(kind="note", state=state, note=f'phase "{name}" begins')


def taken(
    discipline: Discipline, phase: int, machine: Machine, device: int, here: str, there: str
) -> Step:
    """Return the step that a device takes of its move in a phase."""
    move = applying(discipline.plan.phases[phase], machine, here)
    assert move is not None
    if move.event is not None:
        return Step(kind="reset", device=device, state=there)
    return Step(kind="arc", device=device, from_=here, to=there, state=there)


def failed(
    discipline: Discipline, phase: int, machine: Machine, device: int, here: str, there: str
) -> Step:
    """Return the step that a device does not get done, and is lost in."""
    move = applying(discipline.plan.phases[phase], machine, here)
    assert move is not None
    return Step(
        kind="arc_failed_for_good",
        device=device,
        from_=here,
        to=step_of(move, machine, here),
        state=there,
        errno=discipline.encoding.spec.event("arc_failed_for_good").errno,
    )


def _onward(discipline: Discipline, machines: Sequence[Machine], now: Moment) -> Iterator[Moment]:
    phase, where = now
    row = discipline.plan.phases[phase]
    for device, (machine, here) in enumerate(zip(machines, where, strict=True)):
        there = discipline.steps(row, machine).get(here)
        lost = [discipline.lost] if discipline.failing and discipline.lost is not None else []
        for name in () if there is None else (there, *lost):
            yield phase, (*where[:device], name, *where[device + 1 :])
    rests = (
        here in discipline.rests(row, machine)
        for machine, here in zip(machines, where, strict=True)
    )
    if phase + 1 < len(discipline.plan.phases) and all(rests):
        yield phase + 1, where


def _history(before: dict[Moment, Moment | None], now: Moment) -> list[Moment]:
    moments = [now]
    while (earlier := before[moments[0]]) is not None:
        moments.insert(0, earlier)
    return moments


def _trace_of(
    discipline: Discipline, machines: Sequence[Machine], moments: Sequence[Moment]
) -> Trace:
    steps = []
    for (phase, where), (later, there) in itertools.pairwise(moments):
        if later != phase:
            steps.append(begins(discipline, later, there[0]))
            continue
        device = next(n for n, state in enumerate(where) if state != there[n])
        machine, here, onward = machines[device], where[device], there[device]
        done = discipline.steps(discipline.plan.phases[phase], machine)[here] == onward
        steps.append((taken if done else failed)(discipline, phase, machine, device, here, onward))
    return Trace(
        spec=discipline.encoding.spec.name,
        capabilities=tuple(machine.names for machine in machines),
        start=moments[0][1],
        steps=tuple(steps),
        names=tuple(f"device {device}" for device in range(len(machines))),
    )
