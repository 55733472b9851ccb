"""Where a device can be after something was asked of it, as far as its client can ever observe.

`Rules` reads the migration table: what a request, a reset or a disconnect can lead to. It is what
`vfio_migration.model.conformance.observed` follows devices with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from vfio_migration.model.errors import SpecError
from vfio_migration.model.machine import Machine, Refused, Route
from vfio_migration.model.spec import CapabilitySet, Effect, EventName, Spec, Transfer


class Point(NamedTuple):
    """A situation a device can be in.

    Attributes:
        word: Its capability set, as the flags word.
        state: Its state.
        fed: In a session that is written to: something may have been written. False elsewhere.
        ended: In a session that is read: its final end was read. False elsewhere.
    """

    word: int
    state: str
    fed: bool = False
    ended: bool = False


Points: TypeAlias = frozenset[Point]


class Way(NamedTuple):
    """What a request leads to.

    Attributes:
        refused: Why it is refused, or None.
        stops: Where the device is before each arc, and at last at the end. Empty if refused.
        unfed: The arc after the last stop cannot succeed: it closes a session that is judged, and
            nothing was written to it.
        closes: The session that was open at the beginning is closed.
        opens: A session was opened on the way that is open at the end.
    """

    refused: Refused | None
    stops: tuple[Point, ...]
    unfed: bool = False
    closes: bool = False
    opens: bool = False

    @property
    def end(self) -> Point | None:
        """Where it ends if it succeeds, or None if it cannot."""
        return None if self.unfed or not self.stops else self.stops[-1]

    @property
    def failing(self) -> tuple[Point, ...]:
        """Where the device is before each arc that can fail."""
        return self.stops if self.unfed else self.stops[:-1]


class Rules:
    """What the migration table specifies, for following devices.

    Args:
        spec: The table.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._transfers: dict[str, Transfer] = {
            row.name: spec.session(row.session).transfer for row in spec.states
        }
        self._judged = {row.name: spec.session(row.session).judged for row in spec.states}
        # Of what a client can ask, almost all has been asked before.
        self.way = functools.lru_cache(maxsize=4096)(self._way)

    def machine(self, word: int) -> Machine:
        """Return the table under a capability set."""
        return self.spec.machine(word)

    def transfer(self, state: str) -> Transfer:
        """Return what may be done with migration data in a state."""
        return self._transfers[state]

    def judged(self, state: str) -> bool:
        """Return whether the stream of the session of this state is judged when it closes."""
        return self._judged[state]

    def ends_for_good(self, state: str) -> bool:
        """Return whether what is read to its end in a state has no more to come."""
        end = self.spec.stream_end(state)
        return end is not None and end.kind == "final"

    def pauses(self, state: str) -> bool:
        """Return whether what is read to its end in a state may have more to come."""
        end = self.spec.stream_end(state)
        return end is not None and end.kind == "temporary"

    def point(self, word: int, state: str, *, fed: bool = False, ended: bool = False) -> Point:
        """Make a point; what means nothing in its state is left out."""
        transfer = self._transfers[state]
        return Point(word, state, fed and transfer == "write", ended and transfer == "read")

    def anywhere(self, words: Iterable[int]) -> Points:
        """Return every situation in which a device is found of which nothing is known."""
        return frozenset(
            self.point(word, state.name, fed=True)
            for word in words
            for state in self.machine(word).states
        )

    def valid(self, point: Point) -> Points:
        """Return every situation of a device with these capabilities."""
        return self.anywhere((point.word,))

    def or_elsewhere(self, point: Point, here: Points) -> Points:
        """Return these, and whatever else there is in states that are none of theirs."""
        states = {one.state for one in here}
        return here | {one for one in self.valid(point) if one.state not in states}

    def arrivals(self, point: Point, target: str | int) -> Points:
        """Return where a device is that states it came to a state, by whatever way."""
        return frozenset(one for one in self.valid(point) if one.state == target)

    def stuck(self, point: Point) -> bool:
        """Return whether no arc leaves the state."""
        return not self.machine(point.word).arcs_from(point.state)

    # --- what leads where ---

    def next_states(self, point: Point) -> tuple[str, ...]:
        """Return where one step leads, and where the device is: to stay there is no step."""
        return (point.state, *(arc.to for arc in self.machine(point.word).arcs_from(point.state)))

    def next_state(self, point: Point, target: str | int) -> str | Refused:
        """Return where the first step for a request leads, or why there is none."""
        route = self._route(point, target)
        if isinstance(route, Refused):
            return route
        return route.arcs[0].to if route.arcs else point.state

    def _way(self, point: Point, target: str | int) -> Way:
        """Return what a request leads to."""
        route = self._route(point, target)
        if isinstance(route, Refused):
            return Way(route, ())
        stops, opened, closed, now, unfed = [point], False, False, False, False
        for arc in route.arcs:
            here = stops[-1]
            effect = self.effect(arc.from_, arc.to)
            judged = effect == "closes" and self.judged(here.state)
            unfed = unfed or (judged and not (here.fed or opened))
            closed = closed or (effect == "closes" and not opened)
            opened = opened or effect == "opens"
            now = effect == "opens" or (now and effect == "keeps")
            keeps = effect == "keeps"
            ended = keeps and here.ended and self.ends_for_good(arc.to)
            if not unfed:
                stops.append(self.point(here.word, arc.to, fed=keeps and here.fed, ended=ended))
        return Way(None, tuple(stops), unfed=unfed, closes=closed, opens=now)

    def _route(self, point: Point, target: str | int) -> Route | Refused:
        try:
            route = self.machine(point.word).route(point.state, target)
        except SpecError as error:
            # A table that does not decide a request is no reason for a device to move.
            return Refused("EINVAL", str(error), "no_path", "")
        return route if route.refused is None else route.refused

    def effect(self, from_: str, to: str) -> Effect:
        """Return what an arc does to the data session; "none" if the table does not state."""
        try:
            return self.spec.effect(from_, to)
        except SpecError:
            return "none"

    def after(self, event: EventName, point: Point) -> Point:
        """Return where an event leads."""
        row = self.spec.event(event)
        state = point.state if row.to is None else row.to
        kept = row.session == "kept" and state == point.state
        # What is in a session whose data was dropped is not held against what is written.
        return self.point(
            point.word, state, fed=point.fed if kept else True, ended=kept and point.ended
        )

    def failed(self, stop: Point) -> Iterator[Point]:
        """Yield where a device can be found if the arc that begins here fails."""
        yield self.after("arc_failed", stop)
        yield self.after("arc_failed_for_good", stop)

    def failures(self, point: Point, target: str | int) -> Points:
        """Return where a device can be found if an arc of a request fails."""
        stops = self.way(point, target).failing
        return frozenset(then for stop in stops for then in self.failed(stop))

    def while_asked(self, point: Point, target: str | int) -> Points:
        """Return where a device can be before, during and after a request, whatever comes of it."""
        way = self.way(point, target)
        return self.failures(point, target).union(way.stops, (point,))

    def while_reset(self, point: Point) -> Points:
        """Return where a device can be before, during and after a reset, whatever comes of it."""
        return frozenset((point, self.after("reset", point), *self.failed(point)))


def known_sets(spec: Spec, capabilities: CapabilitySet | None) -> tuple[int, ...]:
    """Return the capability sets a device can have, as flags words: one, or those of all profiles.

    Raises:
        SpecError: A profile has a set of which the table makes no machine.
    """
    if capabilities is not None:
        return (int(capabilities.value),)
    words = {int(one.value) for row in spec.profiles for one in spec.capability_sets(row.name)}
    return tuple(sorted(words))
