"""The engine: takes requests and moves one device, as the table says and no other way.

*Situations.* The device stands in a `Situation`: a state and perhaps a data session. Each step
computes the whole next situation and then assigns it once, so that it can be read from any thread
at any time, without waiting, and is never half of one and half of another. While a request is under
way readers see the states it passes through. `state` and `session` read one after the other may
belong to two situations; `situation` gives both at once.

*Threads.* Requests, resets and disconnects made by several threads are taken one after another, in
no promised order. One that had to wait is decided against the situation it finds when its turn
comes. None is ever abandoned half-way for another: a reset waits too.

*Re-entrancy.* A callback of the device or of an observer that asks its own engine to act gets
`ReenteredError`, and nothing is done. Reading is always allowed.

*Interrupts.* A `KeyboardInterrupt`, or whatever else is not an `Exception`, that breaks into a
callback of the device leaves it in an unknown state: it counts as failed for good, and the
interrupt goes on to the caller.
"""

from __future__ import annotations

import contextlib
import enum
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

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
from vfio_migration.runtime.engine.records import Audience, Observer, Record

_T = TypeVar("_T")


class Engine:
    """The migration state of one device.

    Args:
        spec: The table.
        capabilities: What the device offers: anything `Spec.capability_set` takes.
        device: Its callbacks.
        observers: Who is told what happens; see `vfio_migration.runtime.engine.records`.

    Raises:
        SpecError: If the table has no such capability set, or does not hold together for it: the
            initial state, or one that an event leads to, is missing from the set.
        TypeError: If the disconnect of the table moves the device, and it has no `disconnect` that
            could tell it.
    """

    __slots__ = (
        "__weakref__",
        "_audience",
        "_busy",
        "_device",
        "_lock",
        "_machine",
        "_moves",
        "_now",
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
        gone = self._program.events["disconnect"]
        if (gone.to is not None or gone.session == "ended") and not hasattr(device, "disconnect"):
            raise TypeError(
                f"{type(device).__name__} has no disconnect(), but in the table {spec.name} a "
                "disconnect moves the device"
            )
        # Re-entrant, so that a callback gets an answer instead of waiting for itself for ever.
        self._lock = threading.RLock()
        self._busy = False
        self._now = self._program.initial
        self._opened = 0
        self._audience = Audience()
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
        """Where the device stands: state and session of one moment."""
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
        """Who is told what happens, in the order in which they are told."""
        return self._audience.members

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
            RequestFailedError: An arc failed. The device stands where the arcs before it had led,
            or,
                if the arc failed for good, where the table sends such a device.
            UnknownNameError: The table has no state of this name. Nothing has changed, and no
            observer
                is told: a peer sends numbers, so this is a slip of the program.
            ReenteredError: Called by a callback of this engine.
        """
        # What `_exclusively` does, spelled out: of some 200 ns in all (Python 3.11), `with` on the
        # lock would take 115 where acquire and release take 57, and each call more takes 40. An
        # interrupt can come between any call and the instruction after it, so acquire stands inside
        # the `try`: one that arrives when the lock has just been taken must not leave it taken.
        try:
            self._lock.acquire()
            if self._busy:
                raise ReenteredError("set_state")  # noqa: TRY301 - a function for it would cost a call
            self._busy = True
            try:
                if self._audience.members:
                    now = self._set_state_observed(target)
                else:
                    now = self._now
                    try:
                        moves = self._moves[now.state][target]
                    except KeyError:
                        moves = None
                    if moves is None:
                        moves = self._look_up(self._machine.route(now.state, target))
                    start = now
                    try:
                        for arc, effect, bare in moves:
                            if bare is not None and now.session is None:
                                self._device.take(arc, None, effect)
                                # Inside the `try`: an interrupt between these two lines must not
                                # leave a device that has moved where it was.
                                self._now = now = bare
                            else:
                                now = self._take(arc, effect, now)
                    except BaseException as fault:
                        event, errno = self._settle(fault, now, back=True)
                        if not isinstance(fault, Exception):
                            raise
                        raise RequestFailedError(
                            self._now, event, errno, arc, start.state, moves[-1][0].to
                        ) from fault
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
            ResetFailedError: The device failed to. It stands where the table sends one that failed
            for
                good, and can be reset again.
            ReenteredError: Called by a callback of this engine.
        """
        return self._exclusively(
            "reset", lambda: self._happen("reset", self._device.reset, ResetFailedError)
        )

    def disconnect(self) -> Situation:
        """Take note that the client went away, and return the situation the device is in then.

        What of the client's is to be dropped is `drops` of the row of the table; device and
        observers are told. Dropping it is for whoever holds it, whether or not this fails.

        Raises:
            DisconnectFailedError: The device failed. It stands where the table sends one that
            failed for
                good.
            ReenteredError: Called by a callback of this engine.
        """

        def call(to: Situation) -> None:
            tell = getattr(self._device, "disconnect", None)
            if tell is not None:
                tell(to, self._program.events["disconnect"].drops)

        return self._exclusively(
            "disconnect", lambda: self._happen("disconnect", call, DisconnectFailedError)
        )

    def add_observer(self, observer: Observer) -> None:
        """Tell `observer` what happens from now on; its first record is "attached".

        Raises:
            ReenteredError: Called by a callback of this engine: half a request would be told.
        """
        self._exclusively("add_observer", lambda: self._audience.add(observer, self))

    def remove_observer(self, observer: Observer) -> None:
        """Tell `observer` no more; nothing happens if it was none (it may have been removed).

        Raises:
            ReenteredError: Called by a callback of this engine.
        """
        self._exclusively("remove_observer", lambda: self._audience.remove(observer))

    # --- inside: all that follows runs with the lock held and `_busy` set ---

    def _exclusively(self, method: str, act: Callable[[], _T]) -> _T:
        """Wait for one's turn and act; raise `ReenteredError` if this thread is acting already."""
        with self._lock:
            if self._busy:
                raise ReenteredError(method)
            self._busy = True
            try:
                return act()
            finally:
                self._busy = False

    def _look_up(self, route: Route) -> tuple[Move, ...]:
        """Return the moves of an accepted route; raise `RequestRefusedError` for any other."""
        if route.refused is not None:
            raise RequestRefusedError(route)
        # Nothing to do may also be the answer to a request for what the device does not have.
        return self._moves[route.from_][route.to] if route.arcs else ()

    def _take(self, arc: Arc, effect: Effect, now: Situation) -> Situation:
        """Take one arc and return where it led. Raises what the device raises."""
        session = self._session(effect, now)
        self._device.take(arc, session, effect)
        if effect == "opens" and session is not None:
            # Before the situation: should an interrupt fall between the two, a number is lost
            # rather than given out twice.
            self._opened = session
        self._now = now = Situation(arc.to, None if effect == "closes" else session)
        return now

    def _session(self, effect: Effect, now: Situation) -> int | None:
        """Return the number of the session an arc concerns: a new one if it opens one."""
        return self._opened + 1 if effect == "opens" else now.session

    def _settle(self, fault: BaseException, now: Situation, *, back: bool) -> tuple[Event, str]:
        """Assign where a failure leaves the device; return the row that says so, and the errno.

        Args:
            fault: What the device raised.
            now: Where the device stood when it was called.
            back: Whether it can promise to be back there.
        """
        own = fault if isinstance(fault, ArcError) else None
        back = back and own is not None and not own.for_good
        event = self._program.events["arc_failed" if back else "arc_failed_for_good"]
        self._now = after(event, now)
        return event, (own and own.errno) or event.errno or default_errno()

    def _happen(
        self,
        name: Literal["reset", "disconnect"],
        call: Callable[[Situation], object],
        failure: type[DeviceFailedError],
    ) -> Situation:
        """Apply an event: call the device, assign, tell; raise `failure` if the device raises."""
        row = self._program.events[name]
        before, then = self._now, after(row, self._now)
        tell = self._audience.teller(self, kind=name, before=before)
        tell("started", event=row)
        try:
            try:
                call(then)
                self._now = then
            except BaseException as fault:
                event, errno = self._settle(fault, before, back=False)
                tell("failed", event=event, errno=errno, error=fault)
                if not isinstance(fault, Exception):
                    raise
                raise failure(self._now, event, errno) from fault
            tell("completed", event=row)
        finally:
            self._audience.let_go()
        return then

    def _set_state_observed(self, target: str | int | State) -> Situation:
        """Do what `set_state` does, and tell."""
        now = start = self._now
        audience = self._audience
        try:
            found = self._moves[now.state].get(target)
        except TypeError:
            found = None  # what cannot be looked up is looked at
        if found is None:
            route = self._machine.route(now.state, target)
            tell = audience.teller(self, kind="request", before=start, target=route.to)
            tell("started")
            try:
                moves = self._look_up(route)
            except RequestRefusedError as error:
                try:
                    tell("refused", errno=error.errno, error=error)
                    raise
                finally:
                    audience.let_go()
            to = route.to
        else:
            # What goes well is told without `teller`, which takes twice as long.
            moves = found
            # Where there is nothing to do, a table may still name another state than this one.
            to = moves[-1][0].to if moves else self._machine.route(now.state, target).to
            audience.tell(
                Record(
                    engine=self,
                    kind="request",
                    phase="started",
                    before=start,
                    after=start,
                    target=to,
                )
            )
        try:
            for arc, effect, _bare in moves:
                now = self._take_observed(arc, effect, now, start, moves[-1][0].to)
            audience.tell(
                Record(
                    engine=self,
                    kind="request",
                    phase="completed",
                    before=start,
                    after=now,
                    target=to,
                )
            )
        finally:
            audience.let_go()
        return now

    def _take_observed(
        self, arc: Arc, effect: Effect, now: Situation, start: Situation, to: str
    ) -> Situation:
        """Take one arc of a request, and tell; return where it led."""
        audience, session = self._audience, self._session(effect, now)
        audience.tell(
            Record(
                engine=self,
                kind="arc",
                phase="started",
                before=now,
                after=now,
                arc=arc,
                effect=effect,
                session=session,
            )
        )
        try:
            then = self._take(arc, effect, now)
        except BaseException as fault:
            event, errno = self._settle(fault, now, back=True)
            failure: dict[str, Any] = {"event": event, "errno": errno}
            tell = audience.teller(self, kind="request", before=start, target=to)
            tell_arc = audience.teller(
                self, kind="arc", before=now, arc=arc, effect=effect, session=session
            )
            tell_arc("failed", error=fault, **failure)
            if not isinstance(fault, Exception):
                tell("failed", error=fault, **failure)
                raise
            raised = RequestFailedError(self._now, event, errno, arc, start.state, to)
            try:
                tell("failed", error=raised, **failure)
                raise raised from fault
            finally:
                # Its traceback holds this frame: do not hold it in turn.
                del raised
        audience.tell(
            Record(
                engine=self,
                kind="arc",
                phase="completed",
                before=now,
                after=then,
                arc=arc,
                effect=effect,
                session=session,
            )
        )
        return then
