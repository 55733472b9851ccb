"""One device followed by its answers: the set of all situations it can be in.

An answer is right if it is right in at least one of them; those in which it is not are struck off.
An answer that is right in none raises `Broken`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vfio_migration.model.errors import SpecError
from vfio_migration.model.machine import Refused
from vfio_migration.model.observation import Errno
from vfio_migration.model.situations import Point, Points, Rules, Way
from vfio_migration.model.spec import Event, EventName, Spec, Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A step that the specification does not allow.

    Attributes:
        device: Which device took it.
        step: What happened, in words.
        reason: Why that is not allowed.
        situations: Where the device could be, as far as was known.
        allowed: What would have been allowed instead.
        row: The row of a table that says so, or "" if no single one does.
        source: The place of the specification which that row is taken from, or "".
    """

    device: str
    step: str
    reason: str
    situations: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    row: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Say it in one line."""
        instead = f"; allowed: {' or '.join(self.allowed)}" if self.allowed else ""
        return f"{self.device}: {self.step}: {self.reason}{instead}"


class Because(NamedTuple):
    """A reason, with the row of a table that gives it."""

    reason: str
    row: str = ""
    source: str = ""


UNKNOWN = Because("nothing is known of it")


class Broken(Exception):  # noqa: N818 - no error: a way out of the middle of a check
    """A step is not allowed.

    Attributes:
        step: What happened, in words.
        because: Why that is not allowed.
        allowed: What would have been.
    """

    def __init__(self, step: str, because: Because, allowed: Iterable[str] = ()) -> None:
        super().__init__(step, because, allowed)
        self.step = step
        self.because = because
        self.allowed = tuple(dict.fromkeys(allowed))


class Followed:
    """One device.

    Args:
        rules: The migration table.
        words: The capability sets it can have.
        given: It is known to have these, and not found out.

    Attributes:
        points: Where it can be.
        because: Why it can only be there.
    """

    def __init__(self, rules: Rules, words: tuple[int, ...], *, given: bool = False) -> None:
        self._rules = rules
        self._spec = rules.spec
        self._words = words
        self._given = given
        self._told: int | None = None
        self.points = rules.anywhere(words)
        self.because = UNKNOWN

    def forget(self) -> None:
        """Know nothing of it any more."""
        self.points, self.because = self._rules.anywhere(self._words), UNKNOWN

    def situations(self) -> tuple[str, ...]:
        """Say where it can be."""
        return tuple(dict.fromkeys(self._shown(one) for one in sorted(self.points)))

    def _shown(self, point: Point) -> str:
        if self._rules.transfer(point.state) == "write" and not point.fed:
            return f"{point.state} with nothing written"
        return f"{point.state} at the end of its stream" if point.ended else point.state

    # --- a request for a state ---

    def requested(self, target: str | int, errno: Errno) -> None:
        """SET_STATE was answered: with success, or with an error."""
        rules = self._rules
        # The device that can do most comes first: what is refused even to it is worth saying.
        ways = [(point, rules.way(point, target)) for point in sorted(self.points, reverse=True)]
        found: set[Point] = set()
        for point, way in ways:
            if errno is None:
                found |= set() if way.end is None else {way.end}
            elif way.refused is None:
                found |= rules.failures(point, target)
            elif is_errno(errno, way.refused.errno):
                found.add(point)
        if not found:
            raise self._not_so(target, errno, ways)
        self.points = frozenset(found)
        self.because = self._since(target, errno, ways)

    def _not_so(self, target: str | int, errno: Errno, ways: list[tuple[Point, Way]]) -> Broken:
        reasons: list[Because] = []
        allowed: list[str] = []
        for point, way in ways:
            if way.refused is not None:
                reasons.append(refusal(way.refused, point.state, target))
                allowed.append(f"refused ({way.refused.errno})")
            elif way.end is not None:
                allowed.append("success")
            if way.failing:
                allowed.append("an error, if an arc fails")
            if way.unfed:
                row = self._spec.session(self._spec.state(way.stops[-1].state).session)
                words = "the session that closes is judged, and nothing was written to it"
                reasons.append(Because(words, f"[[sessions]] {row.name}", row.source))
        if not reasons:
            # In every situation there was nothing to do, and that cannot fail.
            reasons.append(nothing_to_do(self._spec))
        return Broken(_asked(target, errno, "is"), reasons[0], allowed)

    def _since(self, target: str | int, errno: Errno, ways: list[tuple[Point, Way]]) -> Because:
        """Say why the device can only be where it can be after a request."""
        asked = _asked(target, errno, "was")
        for point, way in ways:
            if way.refused is not None and is_errno(errno, way.refused.errno):
                because = refusal(way.refused, point.state, target)
                return because._replace(reason=f"{asked}, and what is refused changes nothing")
            if way.failing and way.refused is None and errno is not None:
                row = self._spec.event("arc_failed")
                words = f"{asked}, and a device whose arc fails stands before it, or has failed"
                return Because(words, "[[events]] arc_failed, arc_failed_for_good", row.source)
            if way.end is not None and errno is None and len(way.stops) > 1:
                from_, to = way.stops[-2].state, way.end.state
                arc = self._rules.machine(point.word).arc(from_, to)
                source = "" if arc is None else arc.source
                return Because(asked, f"[[arcs]] {from_} -> {to}", source)
        return nothing_to_do(self._spec)._replace(reason=asked)

    # --- events ---

    def was_reset(self, errno: Errno) -> None:
        """DEVICE_RESET was answered."""
        if errno is None:
            self.points = self._after("reset", self.points)
            words = "the device was reset"
        else:
            # One that is refused changes nothing, one that fails leaves a device that failed.
            self.points |= self._after("arc_failed_for_good", self.points)
            words = f"a reset was answered with {outcome(errno)}"
        self.because = _event(self._spec.event("reset"), words)

    def client_gone(self) -> None:
        """The client went away."""
        # A device that fails when it is told so is found as after any failure for good.
        self.points = self._after("disconnect", self.points).union(
            self._after("arc_failed_for_good", self.points)
        )
        row = self._spec.event("disconnect")
        where = "as it was" if row.to is None else f"in {row.to}"
        self.because = _event(row, f"a client that comes back finds the device {where}")

    def _after(self, event: EventName, points: Points) -> Points:
        return frozenset(self._rules.after(event, one) for one in points)

    # --- what it tells of itself ---

    def told_state(self, state: str | int, points: Points) -> Points:
        """GET told a state; return those of `points` in which that is right."""
        found = frozenset(one for one in points if one.state == state)
        if not found:
            there = {one.state for one in points}
            allowed = [row.name for row in self._spec.states if row.name in there]
            step = f"the device says that it is in {state}"
            raise Broken(step, self._cannot_be(state, points), allowed)
        return found

    def _cannot_be(self, state: str | int, points: Points) -> Because:
        row = next((row for row in self._spec.states if row.name == state), None)
        if row is None:
            return Because("no state has this number", "[[states]]")
        words = {one.word for one in points}
        if not any(self._rules.machine(word).supports(row.name) for word in words):
            reason = "the device lacks the capabilities that this state requires"
            return Because(reason, f"[[states]] {row.name}", row.source)
        return self.because

    def told_flags(self, flags: tuple[str, ...] | int) -> None:
        """GET told its capabilities."""
        shown = str(flags) if isinstance(flags, int) else ",".join(flags)
        step = f"the device says that its capabilities are {shown}"
        try:
            word = int(self._spec.capability_set(flags).value)
        except SpecError as error:
            raise Broken(step, Because(str(error), "[[capabilities]]")) from None
        if self._told not in (None, word):
            before = self._set(self._told)
            raise Broken(
                step, Because("it said otherwise before, and they do not change"), [before]
            )
        points = frozenset(one for one in self.points if one.word == word)
        if not points and word not in self._words and not self._given:
            # No profile has this set, but the table does.
            has = self._rules.machine(word).supports
            points = frozenset(one._replace(word=word) for one in self.points if has(one.state))
        if not points:
            sets = [self._set(word) for word in sorted({one.word for one in self.points})]
            words = (
                "these are not the capabilities that were given"
                if self._given
                else "with these it could not have done what it did"
            )
            raise Broken(step, Because(words, "[[capabilities]]"), sets)
        self._told, self.points = word, points

    def _set(self, word: int | None) -> str:
        return ",".join(self._spec.names(self._spec.capability_set(word)))

    # --- migration data ---

    def inside(self, transfer: Transfer) -> Points:
        """Return the situations in which migration data goes this way."""
        return frozenset(one for one in self.points if self._rules.transfer(one.state) == transfer)

    def was_read(self, asked: int, got: int) -> None:
        """Data was read from the session."""
        final = self._rules.ends_for_good
        found = frozenset(
            one._replace(ended=one.ended or (got < asked and final(one.state)))
            for one in self.inside("read")
            if not (one.ended and got)
        )
        if not found:
            row = next(row for row in self._spec.stream_ends if row.kind == "final")
            words = "the final end of this stream was read before, and nothing comes after it"
            step = f"{got} bytes of migration data are read"
            raise Broken(step, Because(words, "[[stream_ends]] final", row.source), ["no data"])
        self.points = found

    def fed(self, points: Points) -> Points:
        """Return the same situations, but that something may have been written."""
        return frozenset(
            self._rules.point(one.word, one.state, fed=True, ended=one.ended) for one in points
        )

    # --- what has not been answered ---

    def while_asked(self, points: Points, target: str | int) -> Points:
        """Return where it can be before, during and after a request."""
        return frozenset(then for one in points for then in self._rules.while_asked(one, target))

    def while_reset(self, points: Points) -> Points:
        """Return where it can be before and after a reset."""
        return frozenset(then for one in points for then in self._rules.while_reset(one))


def refusal(refused: Refused, from_: str, to: str | int) -> Because:
    """Return the row that refuses a request."""
    row = f"[[requests]] {refused.when}"
    if refused.when == "pair_refused":
        row = f"[[refusals]] {from_} -> {to}"
    return Because(refused.reason, row, refused.source)


def nothing_to_do(spec: Spec) -> Because:
    """Return the row by which a request changes nothing and succeeds."""
    for row in spec.requests:
        if row.outcome == "nothing":
            return Because(row.reason or row.when, f"[[requests]] {row.when}", row.source)
    return Because("there is nothing to do", "[[requests]]")


def outcome(errno: Errno) -> str:
    """Say what an answer is."""
    if errno is None:
        return "success"
    return f"an error ({errno})" if errno else "an error without an errno"


def is_errno(errno: Errno, named: str | None) -> bool:
    """Say whether an answer is an error that may be the named one: one without an errno may."""
    return errno == 0 or (errno is not None and errno == named)


def _asked(target: str | int, errno: Errno, verb: str) -> str:
    return f"SET_STATE {target} {verb} answered with {outcome(errno)}"


def _event(row: Event, words: str) -> Because:
    return Because(words, f"[[events]] {row.name}", row.source)
