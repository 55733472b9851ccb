"""One device followed by its answers: the set of all situations it can be in.

An answer is right if it is right in at least one of them; those in which it is not are struck off.
An answer that is right in none raises `FirstViolationError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from vfio_migration.model.conformance.grades import HOUSE, Grades, load_grades
from vfio_migration.model.conformance.observation import Errno
from vfio_migration.model.conformance.situations import Point, Points, Rules, Way
from vfio_migration.model.errors import SpecError
from vfio_migration.model.machine import Refused
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
        row: The row of a table that states it, or "" if no single one does.
        source: The place of the specification which that row is taken from, or "".
        check: The check that found it, or "" if it is one of an engine's own steps.
    """

    device: str
    step: str
    reason: str
    situations: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    row: str = ""
    source: str = ""
    check: str = ""

    def __str__(self) -> str:
        """Return it in one line."""
        instead = f"; allowed: {' or '.join(self.allowed)}" if self.allowed else ""
        return f"{self.device}: {self.step}: {self.reason}{instead}"


class Because(NamedTuple):
    """A reason, with the row of a table that gives it, and the check that a breach of it breaks."""

    reason: str
    row: str = ""
    source: str = ""
    check: str = ""


UNKNOWN = Because("nothing is known of it", check="state_unsupported")
REPORTED = Because(
    "it returned this state itself, and nothing has moved it since", check="state_moved"
)


class Judge:
    """Decides what one kind of device is held to.

    Args:
        kind: Which, as in `model/conformance.toml`.

    Attributes:
        kind: As given.
        grades: The table.
    """

    def __init__(self, kind: str = HOUSE) -> None:
        self.kind = kind
        self.grades: Grades = load_grades()
        self._peer = self.grades.peer(kind)
        self._held: dict[tuple[str, str], bool] = {}

    def holds(self, check: str, row_source: str = "") -> bool:
        """Return whether it is held to a check, whose broken row has this source."""
        key = check, row_source
        if key not in self._held:
            self._held[key] = self.grades.holds(self._peer, check, row_source)
        return self._held[key]


class FirstViolationError(Exception):
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
        judge: What it is held to; to all there is by default.

    Attributes:
        points: Where it can be.
        because: Why it can only be there.
        fates: After a request that succeeded, what it can have done to the data session: whether
            the one that was open is closed, and whether one was opened that is open now.
    """

    def __init__(
        self,
        rules: Rules,
        words: tuple[int, ...],
        *,
        given: bool = False,
        judge: Judge | None = None,
    ) -> None:
        self._rules = rules
        self.judge = Judge() if judge is None else judge
        self._spec = rules.spec
        self._words = words
        self._given = given
        self._flags: int | None = None
        self.fates: set[tuple[bool, bool]] = set()
        self.points = rules.anywhere(words)
        self._before: Points = frozenset()
        self.because = UNKNOWN

    def forget(self) -> None:
        """Know nothing of it any more."""
        self.points, self.because = self._rules.anywhere(self._words), UNKNOWN
        self._before = frozenset()

    def reported(self, state: str | int) -> None:
        """Take a device of which nothing is known to be where it reports."""
        found = frozenset(one for one in self.points if one.state == state)
        if found:
            self.points, self.because = found, REPORTED

    def situations(self, points: Points | None = None) -> tuple[str, ...]:
        """Return where it can be, or where these are."""
        these = self.points if points is None else points
        return tuple(dict.fromkeys(self._shown(one) for one in sorted(these)))

    def _shown(self, point: Point) -> str:
        if self._rules.transfer(point.state) == "write" and not point.fed:
            return f"{point.state} with nothing written"
        return f"{point.state} at the end of its stream" if point.ended else point.state

    # --- a request for a state ---

    def requested(self, target: str | int, errno: Errno) -> None:
        """SET_STATE was answered: with success, or with an errno."""
        rules = self._rules
        # The device that can do most comes first: what is refused even to it is worth reporting.
        ways = [(point, rules.way(point, target)) for point in sorted(self.points, reverse=True)]
        ends = [(way, self._ends(point, way, target, errno)) for point, way in ways]
        found = frozenset[Point]().union(*(there for _, there in ends))
        if not found:
            raise self._not_so(target, errno, ways)
        done = errno is None
        self.fates = {(way.closes, way.opens) for way, there in ends if there and done}
        self.points = found
        self.because = self._since(target, errno, ways)

    def _ends(self, point: Point, way: Way, target: str | int, errno: Errno) -> Points:
        """Return where a device that was there can be after this answer."""
        rules, holds = self._rules, self.judge.holds
        refused = way.refused
        if errno is None:
            if way.end is not None:
                return frozenset({way.end})
            if refused is not None:
                held = holds("refusal_succeeds", refused.source)
            else:
                held = holds("nothing_written")
            return frozenset() if held else rules.arrivals(point, target)
        if refused is not None:
            if not is_errno(errno, refused.errno) and holds("refusal_errno"):
                return frozenset()
            here = frozenset({point})
            return here if holds("state_after_refusal") else rules.or_elsewhere(point, here)
        if not way.failing and holds("present_state_fails", nothing_to_do(self._spec).source):
            return frozenset()
        found = rules.failures(point, target) or frozenset({point})
        return found if holds("state_after_failure") else rules.or_elsewhere(point, found)

    def _not_so(
        self, target: str | int, errno: Errno, ways: list[tuple[Point, Way]]
    ) -> FirstViolationError:
        reasons: list[Because] = []
        allowed: list[str] = []
        for point, way in ways:
            if way.refused is not None:
                check = "refusal_succeeds" if errno is None else "refusal_errno"
                reasons.append(refusal(way.refused, point.state, target)._replace(check=check))
                allowed.append(f"refused ({way.refused.errno})")
            elif way.end is not None:
                allowed.append("success")
            if way.failing:
                allowed.append("an error, if an arc fails")
            if way.unfed:
                row = self._spec.session(self._spec.state(way.stops[-1].state).session)
                words = "the session that closes is judged, and nothing was written to it"
                row_name = f"[[sessions]] {row.name}"
                reasons.append(Because(words, row_name, row.source, "nothing_written"))
        if not reasons:
            # In every situation there was nothing to do, and that cannot fail.
            reasons.append(nothing_to_do(self._spec)._replace(check="present_state_fails"))
        return FirstViolationError(_asked(target, errno, "is"), reasons[0], allowed)

    def _since(self, target: str | int, errno: Errno, ways: list[tuple[Point, Way]]) -> Because:
        """Return why the device can only be where it can be after a request."""
        asked = _asked(target, errno, "was")
        for point, way in ways:
            if way.refused is not None and is_errno(errno, way.refused.errno):
                because = refusal(way.refused, point.state, target)
                words = f"{asked}, and what is refused changes nothing"
                return because._replace(reason=words, check="state_after_refusal")
            if way.failing and way.refused is None and errno is not None:
                row = self._spec.event("arc_failed")
                words = f"{asked}, and a device whose arc fails is before it, or has failed"
                rows = "[[events]] arc_failed, arc_failed_for_good"
                return Because(words, rows, row.source, "state_after_failure")
            if way.end is not None and errno is None and len(way.stops) > 1:
                from_, to = way.stops[-2].state, way.end.state
                arc = self._rules.machine(point.word).arc(from_, to)
                source = "" if arc is None else arc.source
                return Because(asked, f"[[arcs]] {from_} -> {to}", source, "state_after_success")
        return nothing_to_do(self._spec)._replace(reason=asked, check="state_after_success")

    # --- what a log states ---

    def arrived(self, state: str | int) -> None:
        """It has come to a state, by a request for it that succeeded or by a reset."""
        rules = self._rules
        ways = [(point, rules.way(point, state)) for point in sorted(self.points, reverse=True)]
        asked = frozenset[Point]().union(*(self._ends(*way, state, None) for way in ways))
        found = asked | {one for one in self._after("reset", self.points) if one.state == state}
        if not found:
            broken = self._not_so(state, None, ways)
            reset = (f"{one.state}, by a reset" for one in self._after("reset", self.points))
            allowed = (*broken.allowed, *reset)
            raise FirstViolationError(f"it comes to {state}", broken.because, allowed)
        self.points = found
        self.because = Because(f"it came to {state}, and nothing has moved it", check="state_moved")

    def stepped(
        self, at: str | int | None, to: str | int | None, target: str | int | None, errno: Errno
    ) -> None:
        """A step was chosen and is taken, or there is none.

        Args:
            at: Where the device is, if that is stated.
            to: Where the step leads, if that is stated.
            target: What was asked for, if that is stated.
            errno: Why there is no step, or None. If no request is stated either, the last step may
                have failed.
        """
        here = self.points
        if at is not None:
            # A reset does not take steps, so that one may have come before this one, unseen.
            here = self.reported_state(at, here | self._after("reset", here))
        step = "the next step" if to is None else f"the step to {to}"
        step += "" if target is None else f" for SET_STATE {target}"
        if errno is not None:
            if target is None:
                self._failed()
                return
            self._no_step(here, target, f"{step} is refused ({outcome(errno)})")
            return
        found = frozenset(one for one in here if self._leads(one, to, target))
        if not found:
            raise self._not_a_step(here, target, step)
        rules = self._rules
        ends = {
            rules.point(
                one.word, str(rules.next_state(one, target or "") if to is None else to), fed=True
            )
            for one in found
        }
        self._before = found
        self.points = frozenset(ends)
        if at is not None or target is not None:
            self._failed()  # whether it succeeded, nobody states
        self.because = Because(f"{step} was taken", check="state_moved")

    def _failed(self) -> None:
        """The last step may have failed."""
        self.points = self.points.union(*(self._rules.failed(one) for one in self._before))

    def _leads(self, point: Point, to: str | int | None, target: str | int | None) -> bool:
        """Return whether a step is one that a device may take that is there."""
        rules = self._rules
        if target is None:
            return to in rules.next_states(point)
        next_state = rules.next_state(point, target)
        if isinstance(next_state, Refused):
            return not self.judge.holds("refusal_succeeds", next_state.source)
        return to in (None, next_state)

    def _no_step(self, here: Points, target: str | int, step: str) -> None:
        """There is no next step: the request is refused, and so is it by the table."""
        next_state = self._rules.next_state
        found = frozenset(one for one in here if isinstance(next_state(one, target), Refused))
        if not found and self.judge.holds("step_refused"):
            words = sorted({str(next_state(one, target)) for one in here})
            because = Because("the table accepts this request", check="step_refused")
            raise FirstViolationError(step, because, [f"the step to {one}" for one in words])
        self.points = found or here

    def _not_a_step(self, here: Points, target: str | int | None, step: str) -> FirstViolationError:
        rules = self._rules
        first = max(here)
        if target is None:
            allowed = sorted({one for point in here for one in rules.next_states(point)})
            because = Because("there is no such arc", "[[arcs]]", check="step_unknown")
            return FirstViolationError(step, because, [f"a step to {one}" for one in allowed])
        next_state = rules.next_state(first, target)
        if isinstance(next_state, Refused):
            because = refusal(next_state, first.state, target)._replace(check="refusal_succeeds")
            return FirstViolationError(step, because, [f"refused ({next_state.errno})"])
        because = Because("it is not the next one of its path", "[[arcs]]", check="step_off_path")
        allowed = sorted({str(rules.next_state(one, target)) for one in here})
        return FirstViolationError(step, because, [f"the step to {one}" for one in allowed])

    # --- events ---

    def was_reset(self, errno: Errno) -> None:
        """DEVICE_RESET was answered."""
        recovers = errno is None and all(self._rules.stuck(one) for one in self.points)
        self.points = self._reset(self.points, errno)
        words = "the device was reset"
        if errno is not None:
            words = f"a reset was answered with {outcome(errno)}"
        check = "reset_recovers" if recovers else "state_after_reset"
        check = check if errno is None else "state_moved"
        self.because = _event(self._spec.event("reset"), words, check)

    def _reset(self, points: Points, errno: Errno) -> Points:
        after = self._after("reset", points)
        lenient = not self.judge.holds("state_after_reset")
        if errno is not None:
            # One that is refused changes nothing, one that fails leaves a device that failed, or
            # one that has got as far as if it had succeeded.
            found = points | self._after("arc_failed_for_good", points)
            return found | after if lenient else found
        found = after
        if lenient:
            # A state that no arc leaves is one that a reset leads out of, no matter which.
            rules = self._rules
            found = found.union(*(rules.valid(one) for one in points if not rules.stuck(one)))
        return found

    def client_disconnected(self) -> None:
        """The client went away."""
        if not self.judge.holds("state_kept"):
            self.forget()
            self._flags = None
            return
        # A device that fails on demand is found as after any failure for good.
        self.points = self._after("disconnect", self.points).union(
            self._after("arc_failed_for_good", self.points)
        )
        row = self._spec.event("disconnect")
        where = "as it was" if row.to is None else f"in {row.to}"
        words = f"a client that comes back finds the device {where}"
        self.because = _event(row, words, "state_kept")

    def _after(self, event: EventName, points: Points) -> Points:
        return frozenset(self._rules.after(event, one) for one in points)

    # --- what it reports itself ---

    def reported_state(self, state: str | int, points: Points) -> Points:
        """GET returned a state; return those of `points` in which that is right."""
        found = frozenset(one for one in points if one.state == state)
        recovers = self.because.check == "reset_recovers"
        if not (found or recovers or self.judge.holds("failed_by_itself")):
            rules = self._rules
            ends = frozenset[Point]().union(*(rules.arrivals(at, state) for at in points))
            found = frozenset(one for one in ends if rules.stuck(one))
        if not found:
            there = {one.state for one in points}
            allowed = [row.name for row in self._spec.states if row.name in there]
            step = f"the device returns its state, {state}"
            raise FirstViolationError(step, self._cannot_be(state, points), allowed)
        return found

    def _cannot_be(self, state: str | int, points: Points) -> Because:
        row = next((row for row in self._spec.states if row.name == state), None)
        if row is None:
            return Because("no state has this number", "[[states]]", check="state_unknown")
        words = {one.word for one in points}
        if not any(self._rules.machine(word).supports(row.name) for word in words):
            reason = "the device lacks the capabilities that this state requires"
            return Because(reason, f"[[states]] {row.name}", row.source, "state_unsupported")
        stuck = not any(self._rules.machine(word).arcs_from(row.name) for word in words)
        if stuck and self.because.check != "reset_recovers":
            return self.because._replace(check="failed_by_itself")
        return self.because

    def reported_flags(self, flags: tuple[str, ...] | int) -> None:
        """GET returned its capabilities."""
        shown = str(flags) if isinstance(flags, int) else ",".join(flags)
        step = f"the device returns its capabilities, {shown}"
        holds = self.judge.holds
        known = sum(row.value for row in self._spec.capabilities)
        if isinstance(flags, int) and flags & ~known and not holds("flags_unknown"):
            flags &= known
        try:
            word = int(self._spec.capability_set(flags).value)
        except SpecError as error:
            over = isinstance(flags, int) and flags & ~known
            check = "flags_unknown" if over else "flags_mandatory"
            because = Because(str(error), "[[capabilities]]", check=check)
            raise FirstViolationError(step, because) from None
        if self._flags not in (None, word):
            if holds("flags_changed"):
                words = "it returned others before, and they do not change"
                because = Because(words, "[[capabilities]]", check="flags_changed")
                raise FirstViolationError(step, because, [self._set(self._flags)])
            self.points = self._rules.anywhere((word,))
        points = frozenset(one for one in self.points if one.word == word)
        if not points and word not in self._words and not self._given:
            # No profile has this set, but the table does.
            has = self._rules.machine(word).supports
            points = frozenset(one._replace(word=word) for one in self.points if has(one.state))
        if not points:
            sets = [self._set(word) for word in sorted({one.word for one in self.points})]
            words, check = "with these it could not have done what it did", "flags_contradicted"
            if self._given:
                words, check = "these are not the capabilities that were given", "flags_given"
            raise FirstViolationError(step, Because(words, "[[capabilities]]", check=check), sets)
        self._flags, self.points = word, points

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
            because = Because(words, "[[stream_ends]] final", row.source, "after_the_end")
            raise FirstViolationError(step, because, ["no data"])
        self.points = found

    def fed(self, points: Points) -> Points:
        """Return the same situations, but that something may have been written."""
        return frozenset(
            self._rules.point(one.word, one.state, fed=True, ended=one.ended) for one in points
        )

    # --- what has not been answered ---

    def while_asked(self, points: Points, target: str | int) -> Points:
        """Return where it can be before, during and after a request."""
        found = {then for one in points for then in self._rules.while_asked(one, target)}
        if not self.judge.holds("state_after_failure"):
            for one in points:
                found |= self._rules.or_elsewhere(one, frozenset(found))
        return frozenset(found)

    def while_reset(self, points: Points) -> Points:
        """Return where it can be before and after a reset."""
        found = {then for one in points for then in self._rules.while_reset(one)}
        return frozenset(found) | self._reset(points, None)


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
    """Return what an answer is."""
    if errno is None:
        return "success"
    return f"an error ({errno})" if errno else "an error without an errno"


def is_errno(errno: Errno, named: str | None) -> bool:
    """Return whether an answer is an error that may be the named one: one without an errno may."""
    return errno == 0 or (errno is not None and errno == named)


def _asked(target: str | int, errno: Errno, verb: str) -> str:
    return f"SET_STATE {target} {verb} answered with {outcome(errno)}"


def _event(row: Event, words: str, check: str) -> Because:
    return Because(words, f"[[events]] {row.name}", row.source, check)
