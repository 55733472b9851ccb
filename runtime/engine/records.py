"""What observers are told, and the observer that keeps a run as a trace.

An observer is anything that can be called with a `Record`. It is called in the thread that made the
request, while the request is under way: it may read the engine, and if it asks it to act it gets
`ReenteredError`. It never changes what the device does: one that raises is logged with its
traceback, on the logger `vfio_migration.runtime.engine.engine`, and removed; what is not an
`Exception` (`KeyboardInterrupt`) is in addition raised to the caller, once the request is through.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from vfio_migration.model import Arc, Event, Step, Trace
from vfio_migration.model.spec import Effect
from vfio_migration.model.trace import StepKind
from vfio_migration.runtime.engine.errors import words
from vfio_migration.runtime.engine.program import Situation

if TYPE_CHECKING:
    from vfio_migration.runtime.engine.engine import Engine

# Where people look for it: the engine is what they use, this module is how it is cut.
_logger: Final = logging.getLogger("vfio_migration.runtime.engine.engine")

Kind = Literal["attached", "request", "arc", "reset", "disconnect"]
"""What a record is about. "attached" tells an observer that it is one, and where things stand."""

Phase = Literal["started", "completed", "failed", "refused"]
"""How far that has come. Each "started" is followed by exactly one of the others; only a request is
ever "refused", and "attached" is "completed" without having started."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One thing that happens to a device.

    Those of one engine come in order, arcs inside their request. None is meant to be changed; they
    are not frozen because several are made for every request, and a frozen dataclass takes three
    times as long to make.

    Attributes:
        engine: The engine it happens in; tells devices apart.
        kind: What it is about.
        phase: How far that has come.
        before: Where the device stood when it started.
        after: Where the device stands now; this is `engine.situation`.
        target: For a request, the state asked for: its name, or a number that no state has.
        arc: For an arc, which.
        effect: For an arc, what it does to the data session.
        session: For an arc, the number of the data session concerned, or None.
        event: The row of [[events]] that is applied: by a failure, a reset, a disconnect.
        errno: When failed or refused, the name of the error the client is answered.
        error: When failed or refused, the exception: for a request the one its caller gets, for
            the rest the one the device raised.
        at: When that was, in nanoseconds of `time.perf_counter_ns`.
    """

    engine: Engine
    kind: Kind
    phase: Phase
    before: Situation
    after: Situation
    target: str | int | None = None
    arc: Arc | None = None
    effect: Effect | None = None
    session: int | None = None
    event: Event | None = None
    errno: str | None = None
    error: BaseException | None = None
    at: int = field(default_factory=time.perf_counter_ns, compare=False)


Observer: TypeAlias = Callable[[Record], object]
"""Anything that can be called with a `Record`; what it returns is ignored."""


class _Teller(Protocol):
    def __call__(self, phase: Phase, /, **facts: Any) -> None: ...


class Audience:
    """The observers of one engine, which uses it with its lock held.

    Attributes:
        members: The observers; replaced as a whole, never changed, so that it can be read at any
            time.
    """

    __slots__ = ("_held_back", "members")

    def __init__(self) -> None:
        self.members: tuple[Observer, ...] = ()
        self._held_back: BaseException | None = None

    def add(self, observer: Observer, engine: Engine) -> None:
        """Add an observer and tell it where `engine` stands."""
        self.members += (observer,)
        now = engine.situation
        record = Record(engine=engine, kind="attached", phase="completed", before=now, after=now)
        try:
            observer(record)
        except BaseException as fault:  # noqa: BLE001 - is logged there
            self._misbehaved(observer, fault)
        self.let_go()

    def remove(self, observer: Observer) -> None:
        """Remove an observer, if it is one."""
        self.members = tuple(other for other in self.members if other is not observer)

    def teller(self, engine: Engine, **about: Any) -> _Teller:
        """Return a function that tells all observers a phase of what `about` describes."""

        def tell(phase: Phase, /, **facts: Any) -> None:
            if self.members:
                now = engine.situation
                record = Record(engine=engine, phase=phase, after=now, **about, **facts)
                self.tell(record)

        return tell

    def let_go(self) -> None:
        """Raise the interrupt that fell into an observer; called when all is done."""
        held_back, self._held_back = self._held_back, None
        if held_back is not None:
            raise held_back

    def tell(self, record: Record) -> None:
        """Tell all observers a record."""
        for observer in self.members:
            try:
                observer(record)
            except BaseException as fault:  # noqa: BLE001 - is logged there
                self._misbehaved(observer, fault)

    def _misbehaved(self, observer: Observer, fault: BaseException) -> None:
        """Remove an observer that raised; called while that is handled."""
        self.remove(observer)
        if not isinstance(fault, Exception) and self._held_back is None:
            self._held_back = fault
        # A logging handler that raises is no reason either for a device to do otherwise.
        with contextlib.suppress(Exception):
            _logger.exception("observer %r raised and is removed", observer)


class _Operation:
    """The steps of one request, reset or disconnect, each with its place among all steps."""

    __slots__ = ("device", "dropped", "steps")

    def __init__(self, device: int) -> None:
        self.device = device
        self.dropped = False
        self.steps: list[tuple[int, Step]] = []


class Recorder:
    """An observer that keeps the run of one engine, or of several, as a `Trace`.

    Give it to each engine: `Engine(..., observers=[recorder])` or `engine.add_observer(recorder)`.
    Devices are counted in the order in which it was given to their engines.

    It may be used and read from any thread. At most `maxlen` steps are kept, then the oldest are
    dropped, whole requests at a time, and the trace starts where what was dropped left the devices.
    """

    def __init__(self, maxlen: int = 10_000) -> None:
        """Keep at most `maxlen` steps, at least one; `ValueError` for less."""
        if maxlen < 1:
            raise ValueError(f"maxlen: {maxlen}: must be at least 1")
        self._maxlen = maxlen
        self._lock = threading.Lock()
        self._devices: dict[Engine, int] = {}
        self._start: list[str] = []
        # By operation, because those of several devices mix: dropping the oldest step alone would
        # leave a trace that begins in the middle of a request and cannot be run again.
        self._operations: deque[_Operation] = deque()
        self._latest: dict[int, _Operation] = {}
        self._seen = 0
        self._kept = 0

    @property
    def dropped(self) -> int:
        """How many steps have been dropped to keep to `maxlen`."""
        with self._lock:
            return self._seen - self._kept

    def __call__(self, record: Record) -> None:
        """Take note of a record.

        Raises:
            ValueError: If its engine runs another table than those before it: a trace names one.
        """
        with self._lock:
            device = self._devices.get(record.engine)
            if device is None:
                device = self._add(record)
            if record.phase == "started" and record.kind != "arc":
                self._latest[device] = _Operation(device)
                self._operations.append(self._latest[device])
            step = _step(record, device)
            operation = self._latest.get(device)
            if step is None or operation is None:
                return
            operation.steps.append((self._seen, step))
            self._seen += 1
            self._kept += 1
            if operation.dropped:
                self._drop(operation)
            while self._kept > self._maxlen:
                self._drop(self._operations.popleft())

    def trace(self, title: str = "") -> Trace:
        """Return the run so far, titled by the sentence given.

        Raises:
            ValueError: If it was given to no engine yet: there is no table to name.
        """
        with self._lock:
            if not self._devices:
                raise ValueError("this recorder was given to no engine yet")
            machines = [engine.machine for engine in self._devices]
            numbered = [item for operation in self._operations for item in operation.steps]
            return Trace(
                spec=machines[0].spec.name,
                capabilities=tuple(machine.names for machine in machines),
                start=tuple(self._start),
                steps=tuple(step for _, step in sorted(numbered, key=lambda item: item[0])),
                title=title,
            )

    def _add(self, record: Record) -> int:
        name = record.engine.machine.spec.name
        for other in self._devices:
            if other.machine.spec.name != name:
                raise ValueError(
                    f"a trace of the table {other.machine.spec.name} cannot hold a device that "
                    f"runs {name}; use a recorder of its own"
                )
        self._start.append(record.before.state)
        return self._devices.setdefault(record.engine, len(self._devices))

    def _drop(self, operation: _Operation) -> None:
        """Forget the steps of an operation; those still to come are dropped as they come."""
        operation.dropped = True
        if operation.steps:
            self._start[operation.device] = operation.steps[-1][1].state
            self._kept -= len(operation.steps)
            operation.steps.clear()


def _step(record: Record, device: int) -> Step | None:
    """Return a record as a step of a trace; None for those that say nothing of their own there."""
    kind: StepKind
    from_: str | None = None
    to: str | int | None = None
    note: str | None = None
    match record.kind, record.phase:
        case "request", "started":
            kind, to = "request", record.target
        case "request", "refused":
            kind, from_, to = "refused", record.before.state, record.target
            note = getattr(record.error, "reason", None)
        case "arc", "completed" if record.arc is not None:
            kind, from_, to = "arc", record.arc.from_, record.arc.to
        case "arc", "failed" if record.arc is not None and record.event is not None:
            kind = _failure(record.event)
            from_, to = record.arc.from_, record.arc.to
            note = words(record.error)
        case "reset" | "disconnect", "completed":
            kind = "reset" if record.kind == "reset" else "disconnect"
        case "reset" | "disconnect", "failed" if record.event is not None:
            # A trace has no kind of its own for this. It is what an arc that fails for good does,
            # and the note says that it was none.
            kind, from_, to = _failure(record.event), record.before.state, record.after.state
            note = f"no arc, but {record.kind} failed: {words(record.error)}"
        case _:
            return None
    return Step(
        kind=kind,
        device=device,
        from_=from_,
        to=to,
        state=record.after.state,
        session=record.after.session,
        errno=record.errno,
        note=note,
    )


def _failure(event: Event) -> StepKind:
    return "arc_failed" if event.name == "arc_failed" else "arc_failed_for_good"
