"""A device that fails on demand, and the ways by which an engine is brought to any state."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vfio_migration.model import Arc, Machine, SpecError
from vfio_migration.model.spec import Effect
from vfio_migration.runtime import ArcError, Engine, EngineError, Situation


@dataclass(slots=True)
class ScriptedDevice:
    """A device that follows a script; when that is used up, it does what it is asked for."""

    script: deque[ArcError | None] = field(default_factory=deque)

    def take(self, _arc: Arc, _session: int | None, _effect: Effect, /) -> None:
        """Take an arc, or fail."""
        self._next()

    def reset(self, _to: Situation, /) -> None:
        """Come to where a reset leads, or fail."""
        self._next()

    def disconnect(self, _to: Situation, _drops: tuple[str, ...], /) -> None:
        """Let the client go, or fail."""
        self._next()

    def _next(self) -> None:
        fault = self.script.popleft() if self.script else None
        if fault is not None:
            raise fault


_Fails = Literal["", "arc_failed", "arc_failed_for_good"]


@dataclass(frozen=True, slots=True)
class _Move:
    """One way to move a device: a request whose last arc may fail, a reset or a disconnect."""

    to: str
    target: str | None = None
    event: Literal["reset", "disconnect"] | None = None
    arcs: int = 0
    fails: _Fails = ""


def bring(engine: Engine, device: ScriptedDevice, start: str) -> bool:
    """Bring a new engine to a state; return whether it got there."""
    way = _way(engine.machine, engine.state, start)
    for move in way or ():
        device.script = deque([None] * move.arcs)
        if move.fails:
            device.script.append(ArcError(for_good=move.fails == "arc_failed_for_good"))
        with contextlib.suppress(EngineError):
            if move.target is not None:
                engine.set_state(move.target)
            elif move.event == "reset":
                engine.reset()
            else:
                engine.disconnect()
    return way is not None and engine.state == start


def _way(machine: Machine, here: str, there: str) -> tuple[_Move, ...] | None:
    """Find a shortest way from one state to another, or None."""
    ways: dict[str, tuple[_Move, ...]] = {here: ()}
    queue = deque([here])
    while queue and there not in ways:
        state = queue.popleft()
        for move in _moves(machine, state):
            if move.to not in ways:
                ways[move.to] = (*ways[state], move)
                queue.append(move.to)
    return ways.get(there)


def _moves(machine: Machine, state: str) -> Iterator[_Move]:
    """Yield what moves a device from a state, requests that succeed first."""
    if not machine.supports(state):
        return
    accepted: list[tuple[str, tuple[Arc, ...]]] = []
    for row in machine.states:
        with contextlib.suppress(SpecError):
            accepted.append((row.name, machine.route(state, row.name).arcs))
    for target, arcs in accepted:
        if arcs:
            yield _Move(target, target=target, arcs=len(arcs))
    failures: Sequence[_Fails] = ("arc_failed", "arc_failed_for_good")
    for target, arcs in accepted:
        for before, arc in enumerate(arcs):
            for fails in failures:
                landing = machine.spec.event(fails).to if fails else None
                yield _Move(landing or arc.from_, target=target, arcs=before, fails=fails)
    yield _Move(machine.spec.event("reset").to or state, event="reset")
    yield _Move(machine.spec.event("disconnect").to or state, event="disconnect")
