"""What the observers of an engine are notified of.

An observer is anything that can be called with a `Record`; when, and what becomes of one that
raises, is in `vfio_migration.runtime.engine.engine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, TypeAlias

from vfio_migration.model import Arc, Event, Machine, Route
from vfio_migration.model.spec import Effect
from vfio_migration.runtime.engine.callbacks import Device
from vfio_migration.runtime.engine.program import Situation

Kind = Literal["attached", "request", "arc", "reset", "disconnect"]
"""What a record is about. "attached" is an observer's first, and states where the device is."""

Phase = Literal["started", "completed", "failed", "refused"]
"""How far that has come. Each "started" is followed by exactly one of the others; only a request is
ever "refused", and "attached" is "completed" without having started."""


class ObservedEngine(Protocol):
    """What an observer can read of the `Engine` in which something happens, at any time."""

    @property
    def situation(self) -> Situation:
        """Where the device is."""
        ...

    @property
    def state(self) -> str:
        """The name of the state the device is in."""
        ...

    @property
    def session(self) -> int | None:
        """The number of the open data session, or None."""
        ...

    @property
    def device(self) -> Device:
        """The device."""
        ...

    @property
    def machine(self) -> Machine:
        """The table restricted to the capabilities of the device."""
        ...

    def options(self) -> tuple[Route, ...]:
        """What can be asked of the device now: one route per state of the table."""
        ...


class Record(NamedTuple):
    """One thing that happens to a device.

    Those of one engine come in order, arcs inside their request. Four are made for a request of one
    arc, so they are what is made fastest: a frozen dataclass takes three times as long.

    Attributes:
        engine: The engine it happens in, by which devices are distinguished.
        kind: What it is about.
        phase: How far that has come.
        before: Where the device was when it started.
        after: Where the device is now; this is `engine.situation`.
        at: When that was, in nanoseconds of `time.perf_counter_ns`.
        target: For a request, the state asked for: its name, or a number that no state has.
        arc: For an arc, which.
        effect: For an arc, what it does to the data session.
        session: For an arc, the number of the data session concerned, or None.
        event: The row of [[events]] that is applied: by a failure, a reset, a disconnect.
        errno: When failed or refused, the name of the error the client is answered.
        error: When failed or refused, the exception: for a request the one its caller gets, for
            the rest the one the device raised.
    """

    engine: ObservedEngine
    kind: Kind
    phase: Phase
    before: Situation
    after: Situation
    at: int
    target: str | int | None = None
    arc: Arc | None = None
    effect: Effect | None = None
    session: int | None = None
    event: Event | None = None
    errno: str | None = None
    error: BaseException | None = None


Observer: TypeAlias = Callable[[Record], object]
"""Anything that can be called with a `Record`; what it returns is ignored."""
