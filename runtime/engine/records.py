"""What the observers of an engine are notified of, and how.

An observer is anything that can be called with a `Record`. It is called in the thread that made the
request, while the request is under way: it may read the engine, and if it asks it to act it gets
`ReenteredError`. It never changes what the device does: one that raises is logged with its
traceback, on the logger `vfio_migration.runtime.engine.engine`, and removed; what is not an
`Exception` (`KeyboardInterrupt`) is in addition raised to the caller, once the request is through.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from time import perf_counter_ns
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from vfio_migration.model import Arc, Event, Machine, Route
from vfio_migration.model.spec import Effect
from vfio_migration.runtime.engine.callbacks import Device
from vfio_migration.runtime.engine.program import Situation

# Where people look for it: the engine is what they use, this module is how it is cut.
_logger: Final = logging.getLogger("vfio_migration.runtime.engine.engine")

Kind = Literal["attached", "request", "arc", "reset", "disconnect"]
"""What a record is about. "attached" is an observer's first, and says where the device stands."""

Phase = Literal["started", "completed", "failed", "refused"]
"""How far that has come. Each "started" is followed by exactly one of the others; only a request is
ever "refused", and "attached" is "completed" without having started."""


class ObservedEngine(Protocol):
    """What an observer can read of the `Engine` in which something happens, at any time."""

    @property
    def situation(self) -> Situation:
        """Where the device stands."""
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
        engine: The engine it happens in, by which devices are told apart.
        kind: What it is about.
        phase: How far that has come.
        before: Where the device stood when it started.
        after: Where the device stands now; this is `engine.situation`.
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


class ObserverList:
    """The observers of one engine, which uses it with its lock held.

    Attributes:
        members: The observers; replaced as a whole, never changed, so that it can be read at any
            time.
    """

    __slots__ = ("_interrupt", "members")

    def __init__(self) -> None:
        self.members: tuple[Observer, ...] = ()
        self._interrupt: BaseException | None = None

    def add(self, observer: Observer, engine: ObservedEngine) -> None:
        """Add an observer and notify it of where `engine` stands."""
        self.members += (observer,)
        now = engine.situation
        try:
            observer(Record(engine, "attached", "completed", now, now, perf_counter_ns()))
        except BaseException as fault:  # noqa: BLE001 - is logged there
            self._drop_failed(observer, fault)
        self.raise_interrupt()

    def remove(self, observer: Observer) -> None:
        """Remove an observer, if it is one."""
        self.members = tuple(other for other in self.members if other is not observer)

    def notify(
        self,
        engine: ObservedEngine,
        kind: Kind,
        phase: Phase,
        before: Situation,
        after: Situation,
        at: int,
        target: str | int | None = None,
        arc: Arc | None = None,
        effect: Effect | None = None,
        session: int | None = None,
        event: Event | None = None,
        errno: str | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Call all observers with a `Record` of these fields."""
        # As `Record(...)` does, in half the time: four are made for a request of one arc.
        record = tuple.__new__(
            Record,
            (
                engine,
                kind,
                phase,
                before,
                after,
                at,
                target,
                arc,
                effect,
                session,
                event,
                errno,
                error,
            ),
        )
        for observer in self.members:
            try:
                observer(record)
            except BaseException as fault:  # noqa: BLE001 - is logged there
                self._drop_failed(observer, fault)

    def raise_interrupt(self) -> None:
        """Raise the interrupt that fell into an observer, if any; called when all is done."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _drop_failed(self, observer: Observer, fault: BaseException) -> None:
        """Remove an observer that raised; called while that is handled."""
        self.remove(observer)
        if not isinstance(fault, Exception) and self._interrupt is None:
            self._interrupt = fault
        # A logging handler that raises is no reason either for a device to do otherwise.
        with contextlib.suppress(Exception):
            _logger.exception("observer %r raised and is removed", observer)
