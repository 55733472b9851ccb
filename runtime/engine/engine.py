"""The engine: takes requests and moves one device, as the table specifies and no other way.

*Situations.* The device is in a `Situation`: a state and perhaps a data session. Each step
computes the whole next situation and then assigns it once, so that it can be read from any thread
at any time, without waiting, and is never half of one and half of another. While a request is under
way readers see the states it passes through. `state` and `session` read one after the other may
belong to two situations; `situation` gives both at once.

*Threads.* Requests, resets and disconnects made by several threads are taken one after another, in
no particular order. One that had to wait is decided against the situation it finds when its turn
comes. None is ever abandoned half-way for another: a reset waits too.

*Re-entrancy.* A callback of the device or of an observer that asks its own engine to act gets
`ReenteredError`, and nothing is done. Reading is always allowed.

*Observers.* An observer is called with each `Record`, in the thread that made the request, while
the request is under way. It never changes what the device does: one that raises is logged with its
traceback and removed; what is not an `Exception` (`KeyboardInterrupt`) is in addition raised to the
caller, once the request is through.

*Interrupts.* A `KeyboardInterrupt`, or whatever else is not an `Exception`, that breaks into a
callback of the device leaves it in an unknown state: it counts as failed for good, and the
interrupt goes on to the caller.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Iterable
from time import perf_counter_ns as clock
from typing import Any, Final, Literal, TypeVar, TypeVarTuple

from vfio_migration.model import Arc, Event, Machine, Route, Spec, State
from vfio_migration.model.spec import Effect
from vfio_migration.runtime.engine.callbacks import Device
from vfio_migration.runtime.engine.errors import (
    ArcError,
    DeviceFailedError,
    DisconnectFailedError,
    ReenteredError,
    RequestFailedError,
    RequestRefusedError,
    ResetFailedError,
    default_errno,
)
from vfio_migration.runtime.engine.program import Move, Program, Situation, after
from vfio_migration.runtime.engine.records import Kind, ObservedEngine, Observer, Phase, Record

_logger: Final = logging.getLogger(__name__)

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class Engine:
    """The migration state of one device.

    Args:
        spec: The table.
        capabilities: What the device offers: anything `Spec.capability_set` takes.
        device: Its callbacks.
        observers: Who is notified of what happens; see the module.

    Raises:
        SpecError: If the table has no such capability set, or does not hold together for it: the
            initial state, or one that an event leads to, is missing from the set.
        TypeError: If the disconnect of the table moves the device, and it has no `disconnect` that
            could notify it.
    """

    __slots__ = (
        "__weakref__",
        "_busy",
        "_device",
        "_lock",
        "_machine",
        "_moves",
        "_notify",
        "_now",
        "_observers",
        "_opened",
        "_program",
    )

    def __init__(
        self,
        spec: Spec,
        capabilities: str | int | enum.Flag | Iterable[str] | None,
        device: Device,
        *,
        observers: Iterable[Observer] = (),
    ) -> None:
        self._machine = spec.machine(capabilities)
        self._program = Program.of(self._machine)
        self._moves = self._program.moves
        self._device = device
        row = self._program.events["disconnect"]
        if (row.to is not None or row.session == "ended") and not hasattr(device, "disconnect"):
            raise TypeError(
                f"{type(device).__name__} has no disconnect(), but in the table {spec.name} a "
                "disconnect moves the device"
            )
        # Re-entrant, so that a callback gets an answer instead of waiting for itself for ever.
        self._lock = threading.RLock()
        self._busy = False
        self._now = self._program.initial
        self._opened = 0
        self._observers = _Observers()
        # None without observers, which then cost a request nothing.
        self._notify = self._observers.notify if self._observers.members else None
        for observer in observers:
            self.add_observer(observer)

    def __repr__(self) -> str:
        now = self._now
        session = "" if now.session is None else f" session {now.session}"
        names = ",".join(self._machine.names)
        return f"<Engine {self._machine.spec.name} {names}: {now.state}{session}>"

    # --- reading: from any thread, at any time, without waiting ---

    @property
    def situation(self) -> Situation:
        """Where the device is: state and session of one moment."""
        return self._now

    @property
    def state(self) -> str:
        """The name of the state the device is in."""
        return self._now.state

    @property
    def session(self) -> int | None:
        """The number of the open data session, or None."""
        return self._now.session

    @property
    def machine(self) -> Machine:
        """The table restricted to the capabilities of the device."""
        return self._machine

    @property
    def device(self) -> Device:
        """The device."""
        return self._device

    @property
    def observers(self) -> tuple[Observer, ...]:
        """Who is notified of what happens, in the order in which they are."""
        return self._observers.members

    def options(self) -> tuple[Route, ...]:
        """Answer "what can I do from here, and why not that": one route per state of the table."""
        return self._machine.options(self._now.state)

    # --- acting: one at a time ---

    def set_state(self, target: str | int | State) -> Situation:
        """Bring the device to a state, arc by arc, and return the situation it is in then.

        Args:
            target: The state: its name, its value on the wire, or its row.

        Raises:
            RequestRefusedError: The table refuses the request. Nothing has changed.
            RequestFailedError: An arc failed. The device is where the arcs before it had led,
                or, if the arc failed for good, where the table sends such a device.
            UnknownNameError: The table has no state of this name. Nothing has changed, and no
                observer is notified: a peer sends numbers, so this is a slip of the program.
            ReenteredError: Called by a callback of this engine.
        """
        # As `_exclusively` does, spelled out: one more call would make one arc take a third longer.
        try:
            self._lock.acquire()
            if self._busy:
                raise ReenteredError("set_state")  # noqa: TRY301 - a function for it costs a call
            self._busy = True
            try:
                now = self._request(target)
            finally:
                self._busy = False
        except BaseException:
            # There is nothing to release if it was the wait for the lock that was interrupted.
            with contextlib.suppress(RuntimeError):
                self._lock.release()
            raise
        self._lock.release()
        return now

    def reset(self) -> Situation:
        """Reset the device, from any state, and return the situation it is in then.

        Raises:
            ResetFailedError: The device failed to. It is where the table sends one that failed
                for good, and can be reset again.
            ReenteredError: Called by a callback of this engine.
        """
        return self._exclusively(
            "reset", self._apply, "reset", self._device.reset, ResetFailedError
        )

    def disconnect(self) -> Situation:
        """Take note that the client disconnected; return the situation the device is in then.

        What of the client's is to be dropped is `drops` of the row of the table; device and
        observers are notified. Dropping it is for anybody who holds it, whether or not this fails.

        Raises:
            DisconnectFailedError: The device failed. It is where the table sends one that
                failed for good.
            ReenteredError: Called by a callback of this engine.
        """
        return self._exclusively(
            "disconnect", self._apply, "disconnect", self._disconnect, DisconnectFailedError
        )

    def add_observer(self, observer: Observer) -> None:
        """Notify `observer` of what happens from now on; its first record is "attached".

        Raises:
            ReenteredError: Called by a callback of this engine: half a request would be reported.
        """
        self._exclusively(
            "add_observer", self._change_observers, lambda: self._observers.add(observer, self)
        )

    def remove_observer(self, observer: Observer) -> None:
        """Notify `observer` no more; nothing happens if it is none (it may have been removed).

        Raises:
            ReenteredError: Called by a callback of this engine.
        """
        self._exclusively(
            "remove_observer", self._change_observers, lambda: self._observers.remove(observer)
        )

    # --- inside: all that follows runs with the lock held and `_busy` set ---

    def _exclusively(self, method: str, act: Callable[[*_Args], _T], *arguments: *_Args) -> _T:
        """Wait for one's turn and act; raise `ReenteredError` if this thread is acting already."""
        # From Python 3.14 on an interrupt can come between `__enter__` and the block of a `with`.
        # So acquire is inside the `try`: one that arrives when the lock has just been taken must
        # not leave it taken.
        try:
            self._lock.acquire()
            if self._busy:
                raise ReenteredError(method)  # noqa: TRY301 - a function for it costs a call
            self._busy = True
            try:
                result = act(*arguments)
            finally:
                self._busy = False
        except BaseException:
            # There is nothing to release if it was the wait for the lock that was interrupted.
            with contextlib.suppress(RuntimeError):
                self._lock.release()
            raise
        self._lock.release()
        return result

    def _change_observers(self, change: Callable[[], None]) -> None:
        try:
            change()
        finally:
            self._notify = self._observers.notify if self._observers.members else None

    def _request(self, target: str | int | State) -> Situation:
        """Take the arcs of a request one by one; return where they led. Raises as `set_state`."""
        now = start = self._now
        try:
            moves = self._moves[now.state][target]
        except (KeyError, TypeError):  # refused, or not given by name or value
            moves = None
        if moves is None:
            moves = self._look_up(target)
        notify = self._notify
        try:
            if notify is not None:
                # Where there is nothing to do, a table may still name another state than this one.
                to = moves[-1][0].to if moves else self._machine.route(now.state, target).to
                notify(self, "request", "started", now, now, clock(), to)
            for arc, effect, bare in moves:
                session = now.session if bare is not None else self._opened + 1
                if notify is not None:
                    notify(self, "arc", "started", now, now, clock(), None, arc, effect, session)
                try:
                    self._device.take(arc, session, effect)
                    # All of this inside the `try`: an interrupt must not leave a device that has
                    # moved where it was.
                    if bare is not None and session is None:
                        then = bare
                    else:
                        if bare is None:
                            # Before the situation: should an interrupt fall between the two, a
                            # number is lost rather than given out twice.
                            self._opened += 1
                        then = Situation(arc.to, None if effect == "closes" else session)
                    self._now = then
                except Exception as fault:
                    about = now, arc, effect, session
                    raise self._arc_failed(fault, about, start, moves[-1][0].to) from fault
                except BaseException as interrupt:
                    about = now, arc, effect, session
                    self._arc_failed(interrupt, about, start, moves[-1][0].to)
                    raise
                if notify is not None:
                    at = clock()
                    notify(self, "arc", "completed", now, then, at, None, arc, effect, session)
                now = then
            if notify is not None:
                notify(self, "request", "completed", start, now, clock(), to)
        finally:
            if notify is not None and self._observers.interrupt is not None:
                self._observers.raise_interrupt()
        return now

    def _look_up(self, target: str | int | State) -> tuple[Move, ...]:
        """Return the moves of a request that is not in the program as it was given.

        Raises:
            RequestRefusedError: It is refused.
            UnknownNameError: No state has this name.
        """
        route = self._machine.route(self._now.state, target)
        if route.refused is None:
            # Nothing to do may also be the answer to a request for what the device does not have.
            return self._moves[route.from_][route.to] if route.arcs else ()
        try:
            self._report("request", "started", self._now, target=route.to)
            error = RequestRefusedError(route)
            self._report(
                "request", "refused", self._now, target=route.to, errno=error.errno, error=error
            )
            raise error
        finally:
            del error  # its traceback holds this frame
            self._observers.raise_interrupt()

    def _arc_failed(
        self,
        fault: BaseException,
        about: tuple[Situation, Arc, Effect, int | None],
        start: Situation,
        to: str,
    ) -> RequestFailedError:
        """Assign where a failed arc leaves the device and notify; return the error of the request.

        Args:
            fault: What the device raised; one that is no `Exception` goes on to the caller itself.
            about: Where the arc began, the arc, its effect, the session it concerned.
            start: Where the request began.
            to: The state asked for.
        """
        before, arc, effect, session = about
        event, errno = self._place(fault, before, back=True)
        error = RequestFailedError(self._now, event, errno, arc, start.state, to)
        why: dict[str, Any] = {"event": event, "errno": errno}
        taken: dict[str, Any] = {"arc": arc, "effect": effect, "session": session}
        self._report("arc", "failed", before, error=fault, **taken, **why)
        outer = error if isinstance(fault, Exception) else fault
        self._report("request", "failed", start, target=to, error=outer, **why)
        return error

    def _disconnect(self, to: Situation) -> None:
        """Notify the device of a disconnect, if it has a callback for that."""
        callback = getattr(self._device, "disconnect", None)
        if callback is not None:
            callback(to, self._program.events["disconnect"].drops)

    def _apply(
        self,
        name: Literal["reset", "disconnect"],
        call: Callable[[Situation], object],
        failure: type[DeviceFailedError],
    ) -> Situation:
        """Apply an event: call the device, assign, notify; raise `failure` if the device raises."""
        row = self._program.events[name]
        before, then = self._now, after(row, self._now)
        try:
            self._report(name, "started", before, event=row)
            try:
                call(then)
                self._now = then
            except BaseException as fault:
                event, errno = self._place(fault, before, back=False)
                self._report(name, "failed", before, event=event, errno=errno, error=fault)
                if not isinstance(fault, Exception):
                    raise
                raise failure(self._now, event, errno) from fault
            self._report(name, "completed", before, event=row)
        finally:
            self._observers.raise_interrupt()
        return then

    def _place(self, fault: BaseException, now: Situation, *, back: bool) -> tuple[Event, str]:
        """Assign where a failure leaves the device; return the row that states it, and the errno.

        Args:
            fault: What the device raised.
            now: Where the device was when it was called.
            back: Whether it can answer for being back there.
        """
        own = fault if isinstance(fault, ArcError) else None
        back = back and own is not None and not own.for_good
        event = self._program.events["arc_failed" if back else "arc_failed_for_good"]
        self._now = after(event, now)
        return event, (own and own.errno) or event.errno or default_errno()

    def _report(self, kind: Kind, phase: Phase, before: Situation, **facts: Any) -> None:
        """Notify the observers, if there are any, of a phase that ends where the device is now."""
        if self._notify is not None:
            self._notify(*Record(self, kind, phase, before, self._now, clock(), **facts))


class _Observers:
    """The observers of one engine, which uses it with its lock held.

    Attributes:
        members: The observers; replaced as a whole, never changed, so that it can be read at any
            time.
        interrupt: What fell into an observer and is to be raised once the request is through.
    """

    __slots__ = ("interrupt", "members")

    def __init__(self) -> None:
        self.members: tuple[Observer, ...] = ()
        self.interrupt: BaseException | None = None

    def add(self, observer: Observer, engine: ObservedEngine) -> None:
        """Add an observer and notify it of where `engine` is."""
        self.members += (observer,)
        now = engine.situation
        try:
            observer(Record(engine, "attached", "completed", now, now, clock()))
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
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt

    def _drop_failed(self, observer: Observer, fault: BaseException) -> None:
        """Remove an observer that raised; called while that is handled."""
        self.remove(observer)
        if not isinstance(fault, Exception) and self.interrupt is None:
            self.interrupt = fault
        # A logging handler that raises is no reason either for a device to do otherwise.
        with contextlib.suppress(Exception):
            _logger.exception("observer %r raised and is removed", observer)
