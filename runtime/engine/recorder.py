"""The observer that keeps a run as a trace."""

from __future__ import annotations

import threading
from itertools import accumulate
from typing import Final

from vfio_migration.model import Event, Step, Trace
from vfio_migration.model.trace import StepKind
from vfio_migration.runtime.engine.errors import words
from vfio_migration.runtime.engine.records import Kind, ObservedEngine, Phase, Record

_BEGINNINGS: Final = frozenset[tuple[Kind, Phase]](
    {
        ("request", "started"),
        ("reset", "completed"),
        ("reset", "failed"),
        ("disconnect", "completed"),
        ("disconnect", "failed"),
    }
)
"""The records with which an operation begins in a trace, as its first step or its only one."""

_STEPS: Final = _BEGINNINGS | {("request", "refused"), ("arc", "completed"), ("arc", "failed")}
"""The records of which a trace has a step; the others say nothing there that these do not."""


class _NotedError(Exception):
    """Stands in a record that is kept for its error, which would keep the frames it passed.

    Attributes:
        note: What the step states of it.
    """

    def __init__(self, note: str | None) -> None:
        super().__init__(note)
        self.note = note


class Recorder:
    """An observer that keeps the run of one engine, or of several, as a `Trace`.

    Give it to each engine: `Engine(..., observers=[recorder])` or `engine.add_observer(recorder)`.
    Devices are counted in the order in which it was given to their engines.

    It may be used and read from any thread. A trace has at most `maxlen` steps: the oldest are
    dropped, whole requests at a time, and the trace starts where what was dropped left the devices.
    """

    def __init__(self, maxlen: int = 10_000) -> None:
        """Keep at most `maxlen` steps, at least one; `ValueError` for less."""
        if maxlen < 1:
            raise ValueError(f"maxlen: {maxlen}: must be at least 1")
        self._maxlen = maxlen
        self._lock = threading.Lock()
        # Where each device is before the first of the records, in the order of the devices.
        self._start: dict[ObservedEngine, str] = {}
        # Made steps when somebody asks, for most are dropped before.
        self._records: list[Record] = []
        # So many records at the end may be part of the trace, whatever mixes there; room is left
        # for as many again.
        self._needed = maxlen
        self._room = 2 * maxlen
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many steps have been dropped to keep to `maxlen`."""
        with self._lock:
            self._drop_operations()
            return self._dropped

    def __call__(self, record: Record) -> None:
        """Keep a record, if a trace has a step of it.

        Raises:
            ValueError: If its engine runs another table than those before it: a trace names one.
        """
        is_step = record[1:3] in _STEPS
        if not is_step and record.engine in self._start:
            return
        self._lock.acquire()  # as `with` does, which takes twice as long
        try:
            if record.engine not in self._start:
                self._add(record.engine, record.before.state)
            if is_step:
                self._records.append(record if record.error is None else _without_error(record))
                if len(self._records) >= self._room:
                    self._drop_oldest()
        finally:
            self._lock.release()

    def trace(self, title: str = "") -> Trace:
        """Return the run so far, titled by the sentence given.

        Raises:
            ValueError: If it was given to no engine yet: there is no table to name.
        """
        with self._lock:
            if not self._start:
                raise ValueError("this recorder was given to no engine yet")
            self._drop_operations()
            machines = [engine.machine for engine in self._start]
            devices = {engine: device for device, engine in enumerate(self._start)}
            return Trace(
                spec=machines[0].spec.name,
                capabilities=tuple(machine.names for machine in machines),
                start=tuple(self._start.values()),
                steps=tuple(_step(record, devices[record.engine]) for record in self._records),
                title=title,
            )

    def _add(self, engine: ObservedEngine, state: str) -> None:
        machine = engine.machine
        for other in self._start:
            if other.machine.spec.name != machine.spec.name:
                raise ValueError(
                    f"a trace of the table {other.machine.spec.name} cannot hold a device that "
                    f"runs {machine.spec.name}; use a recorder of its own"
                )
        self._start[engine] = state
        # Of each device one operation that is dropped may be under way among those that are not;
        # it has its request, an arc for each state at most, and its end.
        self._needed += len(machine.states) + 2
        self._room = 2 * self._needed

    def _drop_oldest(self) -> None:
        """Drop the records that are too old to be part of a trace, without a look at which."""
        old = self._records[: -self._needed]
        del self._records[: -self._needed]
        self._start |= {record.engine: record.after.state for record in old}
        self._dropped += len(old)

    def _drop_operations(self) -> None:
        """Drop the oldest operations until no more than `maxlen` steps are left.

        By operation, because those of several devices mix: dropping the oldest step alone would
        leave a trace that begins in the middle of a request and cannot be run again.
        """
        latest: dict[ObservedEngine, int] = {}
        lengths: list[int] = []
        operations: list[int] = []  # per record; of one whose beginning was dropped -1
        for record in self._records:
            if record[1:3] in _BEGINNINGS:
                latest[record.engine] = len(lengths)
                lengths.append(0)
            operation = latest.get(record.engine, -1)
            operations.append(operation)
            if operation >= 0:
                lengths[operation] += 1
        newest = sum(total <= self._maxlen for total in accumulate(reversed(lengths)))
        first = len(lengths) - newest
        kept = []
        for record, operation in zip(self._records, operations, strict=True):
            if operation >= first:
                kept.append(record)
            else:
                self._start[record.engine] = record.after.state
        self._dropped += len(self._records) - len(kept)
        self._records = kept


def _without_error(record: Record) -> Record:
    refused = record.phase == "refused"
    note = getattr(record.error, "reason", None) if refused else words(record.error)
    return record._replace(error=_NotedError(note))


def _step(record: Record, device: int) -> Step:
    """Return a record of `_STEPS` as a step of a trace."""
    kind: StepKind
    from_: str | None = None
    to: str | int | None = None
    note = record.error.note if isinstance(record.error, _NotedError) else None
    match record.kind, record.phase:
        case "request", "started":
            kind, to = "request", record.target
        case "request", "refused":
            kind, from_, to = "refused", record.before.state, record.target
        case "arc", "completed" if record.arc is not None:
            kind, from_, to = "arc", record.arc.from_, record.arc.to
        case "arc", "failed" if record.arc is not None and record.event is not None:
            kind = _failure(record.event)
            from_, to = record.arc.from_, record.arc.to
        case "reset" | "disconnect", "completed":
            kind = "reset" if record.kind == "reset" else "disconnect"
        case "reset" | "disconnect", "failed" if record.event is not None:
            # A trace has no kind of its own for this. It is what an arc that fails for good does,
            # and the note states that it was none.
            kind, from_, to = _failure(record.event), record.before.state, record.after.state
            note = f"no arc, but {record.kind} failed: {note}"
        case about:
            raise AssertionError(f"{about}: is not a step of a trace")
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
