"""What an engine reports of its device, held against the table: the log of a server, a `Trace`.

An engine reports every arc, so nothing has to be guessed: `Steps` knows where the device is,
and holds each step against the arcs of the contracted table, the rows of events, and the numbers
of data sessions. Only the capability set may be unknown; it is then any that fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from vfio_migration.model.conformance.followed import (
    Because,
    FirstViolationError,
    Violation,
    nothing_to_do,
    refusal,
)
from vfio_migration.model.machine import Machine, Route
from vfio_migration.model.spec import Arc, Event, EventName, Spec

SOMEWHERE: Final = -1
"""A session whose number is not known: the log begins in the middle of it."""

Session = int | None


class Steps:
    """One device.

    Args:
        spec: The table.
        words: The capability sets it can have, as flags words.
        state: Where it is, if that is known.

    Attributes:
        words: Those that are left.
        state: Where it is, or None.
        session: The number of its open data session, or None, or `SOMEWHERE`.
        failed: The arc that failed, until the request states that it failed.
    """

    def __init__(self, spec: Spec, words: Iterable[int], state: str | None = None) -> None:
        self.spec = spec
        self.words = tuple(words)
        self.state = state
        self.session: Session = None if state is None else self._unknown(state)
        self.failed: tuple[str, str] | None = None
        self._used: set[int] = set()
        # The arcs since something else happened: longer than there are states no path is.
        self._trail: deque[tuple[str, str]] = deque(maxlen=len(spec.states))
        # Those are all of them, and not only those that are reported.
        self._whole = state is not None

    def _unknown(self, state: str) -> Session:
        return SOMEWHERE if self._streams(state) else None

    def _streams(self, state: str) -> bool:
        return self.spec.session(self.spec.state(state).session).transfer != "none"

    def machine(self) -> Machine:
        """Return the table under a capability set that it can have."""
        return self.spec.machine(self.words[-1])

    # --- arcs ---

    def arc(self, from_: str, to: str, state: str, session: Session) -> None:
        """It took an arc."""
        step = f"arc {from_} -> {to}"
        arc, effect = self._arc(step, from_, to)
        about, source = f"[[arcs]] {from_} -> {to}", arc.source
        if state != to:
            reason = f"the device is then in {state}"
            raise FirstViolationError(step, Because(reason, about, source), [to])
        before = self.session
        if effect == "opens":
            if session is None or session in self._used:
                reason = "it opens a data session, and none is reported"
                if session is not None:
                    reason = (
                        f"it opens a data session, and {session} is the number of an earlier one"
                    )
                raise FirstViolationError(
                    step, Because(reason, *self._effect(from_, to)), ["a new number"]
                )
        elif effect != "closes":
            if session != before and not (before == SOMEWHERE and session is not None):
                then = _number(session)
                reason = f"it leaves the data session as it was: {_number(before)}, not {then}"
                raise FirstViolationError(
                    step, Because(reason, *self._effect(from_, to)), [_number(before)]
                )
        elif session is not None:
            reason = f"it closes the data session, and {session} is reported"
            raise FirstViolationError(
                step, Because(reason, *self._effect(from_, to)), ["no session"]
            )
        self._move_to(to, session)
        self._trail.append((from_, to))

    def arc_failed(
        self,
        from_: str,
        to: str,
        state: str,
        session: Session,
        events: tuple[EventName, ...] = ("arc_failed", "arc_failed_for_good"),
    ) -> None:
        """An arc failed; `events` states how it may have."""
        step = f"arc {from_} -> {to} fails"
        self._arc(step, from_, to)
        self._event(step, [self.spec.event(name) for name in events], state, session)

    def _arc(self, step: str, from_: str, to: str) -> tuple[Arc, str]:
        self._from(step, from_)
        known = self.words
        self._keep(lambda machine: machine.arc(from_, to) is not None)
        if not self.words:
            self.words = known
            out = [str(arc) for word in known for arc in self.spec.machine(word).arcs_from(from_)]
            names = ",".join(self.machine().names)
            reason = (
                f"there is no such arc with {names}" if len(known) == 1 else "there is no such arc"
            )
            raise FirstViolationError(
                step, Because(reason, "[[arcs]]"), out or ["none: only a reset leads away"]
            )
        arc = self.machine().arc(from_, to)
        assert arc is not None
        return arc, self.spec.effect(from_, to)

    def _effect(self, from_: str, to: str) -> tuple[str, str]:
        pair = (self.spec.state(from_).session, self.spec.state(to).session)
        for row in self.spec.session_effects:
            if (row.from_, row.to) == pair:
                return f"[[session_effects]] {row.from_} -> {row.to}", row.source
        return "[[session_effects]]", ""

    # --- requests ---

    def refused(
        self, from_: str, target: str | int, errno: str | None, state: str, session: Session
    ) -> None:
        """A request was refused."""
        step = f"SET_STATE {target} is refused ({errno})"
        self._from(step, from_)
        routes = self._routes(step, from_, target)
        fitting = [
            word
            for word, route in routes.items()
            if route.refused is not None and errno in (None, route.refused.errno)
        ]
        if not fitting:
            route = next(iter(routes.values()))
            if route.refused is not None:
                raise FirstViolationError(step, *self._decided(route))
            because = Because("the table accepts this request", *self._why_accepted(route))
            raise FirstViolationError(step, because, [str(route)])
        self.words = tuple(fitting)
        refused = routes[fitting[0]].refused
        assert refused is not None
        because = refusal(refused, from_, target)
        because = because._replace(reason="what is refused changes nothing")
        self._unmoved(step, state, session, because)
        self._over()

    def nothing(self, from_: str, target: str | int, state: str, session: Session) -> None:
        """A request was for the state the device is in."""
        step = f"SET_STATE {target} succeeds and changes nothing"
        self._from(step, from_)
        routes = self._routes(step, from_, target)
        fitting = [w for w, route in routes.items() if route.refused is None and not route.arcs]
        if not fitting:
            raise FirstViolationError(step, *self._decided(next(iter(routes.values()))))
        self.words = tuple(fitting)
        self._unmoved(step, state, session, nothing_to_do(self.spec))
        self._over()

    def request_failed(self, from_: str, target: str | int, state: str, session: Session) -> None:
        """A request failed: an arc of its path has just done so, after those before it."""
        step, failed = f"SET_STATE {target} fails", self.failed
        if failed is None and not self._whole and not self._trail:
            self.reported(state, step, session)  # what failed was before the beginning
            self._over()
            return
        if failed is None:
            reason = "no arc has failed"
            raise FirstViolationError(
                step, Because(reason, "[[events]] arc_failed, arc_failed_for_good")
            )
        self.failed = None
        routes = self._routes(step, from_, target)
        taken = list(self._trail)
        fitting = []
        for word, route in routes.items():
            path = [(arc.from_, arc.to) for arc in route.arcs]
            if failed not in path:
                continue
            before = path[: path.index(failed)]
            if not self._whole:
                before = before[max(0, len(before) - len(taken)) :]
            if taken[len(taken) - len(before) :] == before:
                fitting.append(word)
        if not fitting:
            route = next(iter(routes.values()))
            reason = f"its path does not lead to arc {failed[0]} -> {failed[1]}, which failed"
            _, allowed = self._decided(route)
            raise FirstViolationError(step, Because(reason, *self._why_accepted(route)), allowed)
        self.words = tuple(fitting)
        self.reported(state, step, session)
        self._over()

    def route(self, target: str | int) -> Route:
        """Return what a request leads to now."""
        assert self.state is not None
        return next(iter(self._routes("", self.state, target).values()))

    def _routes(self, step: str, from_: str, target: str | int) -> dict[int, Route]:
        return {
            word: self.spec.machine(word).route(from_, target) for word in self._having(step, from_)
        }

    def _having(self, step: str, state: str) -> list[int]:
        """Return the capability sets that have a state."""
        has = [word for word in self.words if self.spec.machine(word).supports(state)]
        if not has:
            row = self.spec.state(state)
            reason = f"the device lacks the capabilities that {state} requires"
            raise FirstViolationError(step, Because(reason, f"[[states]] {state}", row.source))
        return has

    def _decided(self, route: Route) -> tuple[Because, list[str]]:
        if route.refused is not None:
            because = refusal(route.refused, route.from_, route.to)
            return because, [f"refused ({route.refused.errno})"]
        return Because("it has a path to take", *self._why_accepted(route)), [str(route)]

    def _why_accepted(self, route: Route) -> tuple[str, str]:
        if route.arcs:
            return f"[[arcs]] {route.arcs[-1]}", route.arcs[-1].source
        because = nothing_to_do(self.spec)
        return because.row, because.source

    # --- events ---

    def event(
        self, name: EventName, state: str, session: Session, met: str | None = None, *, fails: bool
    ) -> None:
        """The device was reset, or its client went away."""
        step = f"{name} fails" if fails else name
        if met is not None:
            self._from(step, met)
        row = self.spec.event("arc_failed_for_good" if fails else name)
        if self.state is None:
            self._begin(step, state)
        self._event(step, [row], state, session)
        self._over()

    def _event(self, step: str, rows: list[Event], state: str, session: Session) -> None:
        assert self.state is not None
        for row in rows:
            then = self.state if row.to is None else row.to
            kept = self.session if row.session == "kept" else None
            same = session == kept or (kept == SOMEWHERE and session is not None)
            if state == then and same:
                self._move_to(state, session)
                return
        row = rows[-1] if state == (rows[-1].to or self.state) else rows[0]
        allowed = [
            f"{row.to or self.state} with "
            f"{_number(self.session if row.session == 'kept' else None)}"
            for row in rows
        ]
        reason = f"the device is then in {state} with {_number(session)}"
        raise FirstViolationError(
            step, Because(reason, f"[[events]] {row.name}", row.source), allowed
        )

    def _over(self) -> None:
        """No request is under way."""
        self._trail.clear()
        self._whole = True

    # --- where it is ---

    def reported(self, state: str, step: str = "", session: Session = SOMEWHERE) -> None:
        """Somebody reports where it is, and perhaps with which session."""
        step = step or f"the device is in {state}"
        if self.state is None:
            self._begin(step, state)
        elif state != self.state:
            reason = f"nothing has moved it since it was in {self.state}"
            raise FirstViolationError(step, Because(reason), [self.state])
        if session != SOMEWHERE:
            self._unmoved(step, state, session, Because("nothing has moved it"))

    def _begin(self, step: str, state: str) -> None:
        """Find it somewhere, for the first time."""
        self.words = tuple(self._having(step, state))
        self._move_to(state, self._unknown(state))

    def _from(self, step: str, state: str) -> None:
        if self.state is None:
            self._begin(step, state)
        elif state != self.state:
            reason = f"it begins in {state}, and the device is in {self.state}"
            raise FirstViolationError(step, Because(reason), [f"a step from {self.state}"])

    def _unmoved(self, step: str, state: str, session: Session, because: Because) -> None:
        known = session == self.session or (self.session == SOMEWHERE and session is not None)
        if state != self.state or not known:
            words = f"{because.reason}, and it is then in {state} with {_number(session)}"
            allowed = [f"{self.state} with {_number(self.session)}"]
            raise FirstViolationError(step, because._replace(reason=words), allowed)
        self._move_to(state, session)

    def _move_to(self, state: str, session: Session) -> None:
        self.state, self.session = state, session
        if session is not None:
            self._used.add(session)

    def _keep(self, fits: Callable[[Machine], bool]) -> None:
        self.words = tuple(word for word in self.words if fits(self.spec.machine(word)))


def violation(device: str, broken: FirstViolationError, steps: Steps) -> Violation:
    """Return what is wrong as a violation."""
    where = "" if steps.state is None else f"{steps.state} with {_number(steps.session)}"
    return Violation(
        device=device,
        step=broken.step,
        reason=broken.because.reason,
        situations=(where,) if where else (),
        allowed=broken.allowed,
        row=broken.because.row,
        source=broken.because.source,
    )


def _number(session: Session) -> str:
    if session is None:
        return "no session"
    return "its session" if session == SOMEWHERE else f"session {session}"
