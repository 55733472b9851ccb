"""What the engine of this package answers to every request: the answers that others are held to.

One line a case, the same for every language:

    next FLAGS STATE TARGET: to VALUE ARC EFFECT              one step, without an engine
    next FLAGS STATE TARGET: refused CONDITION ERRNO REASON
    set PLACE TARGET STEP WAY / take ARC EFFECT SESSION ...: done = STATE SESSION
    set ...: refused CONDITION ERRNO REASON = STATE SESSION
    set ...: failed ERRNO at ARC = STATE SESSION
    reset PLACE STEP WAY / reset STATE: done = STATE SESSION   likewise disconnect, with its drops
    walk FLAGS NUMBER ...                                      as the three before
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vfio_migration.generators.cases import (
    SEED,
    WALK_STEPS,
    WAYS,
    Cases,
    Place,
    ScriptedDevice,
    find_cases,
    make,
)
from vfio_migration.generators.compiled import Compiled
from vfio_migration.generators.refusing import CAPABILITIES_REASON, PRESENT_STATE_REASON
from vfio_migration.runtime.engine import (
    DeviceFailedError,
    Engine,
    RequestFailedError,
    RequestRefusedError,
)
from vfio_migration.runtime.engine.errors import errno_number

ANSWERS_FILE: Final = "answers.txt"
"""What the file with them is called."""


def answers(compiled: Compiled) -> str:
    """Return the answers, one line a case."""
    cases = find_cases(compiled)
    lines = [*_steps(compiled, cases), *_requests(compiled, cases), *_walks(compiled, cases)]
    return "\n".join(lines) + "\n"


def _steps(compiled: Compiled, cases: Cases) -> Iterator[str]:
    machines = {int(machine.capabilities.value): machine for machine in compiled.machines}
    names = {row.value: row.name for row in compiled.states}
    values = {row.name: row.value for row in compiled.states}
    for flags in cases.flags:
        machine = machines.get(flags)
        for state in cases.states:
            for target in cases.targets:
                head = f"next {flags} {state} {target}:"
                number = errno_number("EINVAL")
                if machine is None:
                    yield f"{head} refused capabilities {number} {CAPABILITIES_REASON}"
                    continue
                if state not in names or not machine.supports(names[state]):
                    yield f"{head} refused present_state {number} {PRESENT_STATE_REASON}"
                    continue
                route = machine.route(names[state], target)
                if route.refused is not None:
                    yield f"{head} {_refused(RequestRefusedError(route))}"
                elif not route.arcs:
                    yield f"{head} to {state} none none"
                else:
                    arc = route.arcs[0]
                    effect = compiled.spec.effect(arc.from_, arc.to)
                    yield f"{head} to {values[arc.to]} {arc} {effect}"


def _requests(compiled: Compiled, cases: Cases) -> Iterator[str]:
    for number, place in enumerate(cases.places):
        for target in cases.targets:
            device, line = _request(compiled, place, target, 0, 0)
            yield f"set {number} {target} 0 0{line}"
            for step in range(1, device.taken + 1):
                for way in range(len(WAYS)):
                    _, line = _request(compiled, place, target, step, way)
                    yield f"set {number} {target} {step} {way}{line}"
        for event in ("reset", "disconnect"):
            for step, way in [(0, 0), *((1, way) for way in range(len(WAYS)))]:
                engine, device = make(compiled, place)
                device.fail_at(step, way)
                yield f"{event} {number} {step} {way}{_act(engine, device, event)}"


def _request(
    compiled: Compiled, place: Place, target: int, step: int, way: int
) -> tuple[ScriptedDevice, str]:
    engine, device = make(compiled, place)
    device.fail_at(step, way)
    return device, _act(engine, device, target)


def _walks(compiled: Compiled, cases: Cases) -> Iterator[str]:
    for machine in compiled.machines:
        flags = int(machine.capabilities.value)
        engine, device = make(compiled, Place(flags, ()))
        random = SEED
        for number in range(WALK_STEPS):
            random = (random * 1664525 + 1013904223) & 0xFFFFFFFF
            chosen = random >> 8
            random = (random * 1664525 + 1013904223) & 0xFFFFFFFF
            fate = random >> 8
            step = 1 + fate // 4 % 3 if fate % 4 == 0 else 0
            device.fail_at(step, fate // 16 % len(WAYS))
            act: int | str = cases.targets[chosen // 8 % len(cases.targets)]
            act = {0: "reset", 1: "disconnect"}.get(chosen % 8, act)
            yield f"walk {flags} {number}{_act(engine, device, act)}"


def _act(engine: Engine, device: ScriptedDevice, act: int | str) -> str:
    """Ask for a state, a reset or a disconnect; return the rest of the line."""
    try:
        if act == "reset":
            engine.reset()
        elif act == "disconnect":
            engine.disconnect()
        else:
            engine.set_state(act)
        outcome = "done"
    except RequestRefusedError as error:
        outcome = _refused(error)
    except RequestFailedError as error:
        outcome = f"failed {error.number} at {error.arc}"
    except DeviceFailedError as error:
        outcome = f"failed {error.number}"
    now = engine.situation
    return f"{device.notes}: {outcome} = {now.state} {now.session or 0}"


def _refused(error: RequestRefusedError) -> str:
    return f"refused {error.when} {error.number} {error.reason}"
