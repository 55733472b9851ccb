"""A migration, state by state: a second model of family S, in plain Python and with small caps.

Like `explicit_device`, whose arcs it uses, it reads the raw rows of a table and shares no code with
the prover. What a stream holds is kept as it is: the chunks themselves, and for the bytes of a
session where each came from.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from support.explicit_device import ExplicitDevice

State = TypeVar("State")


@dataclass
class Found(Generic[State]):
    """The length of the shortest run to a bad situation, or None; and how many were seen."""

    shortest: int | None
    situations: set[State]


def bfs(
    start: State,
    steps: Callable[[State], Iterable[tuple[str, State]]],
    bad: Callable[[State, str, State], bool],
    within: Callable[[State], bool] = lambda _: True,
) -> Found[State]:
    """Search breadth first, not going on from situations that are beyond the caps."""
    depth = {start: 0}
    queue = deque([start])
    while queue:
        now = queue.popleft()
        for event, then in steps(now):
            if bad(now, event, then):
                return Found(depth[now] + 1, set(depth))
            if then not in depth and within(then):
                depth[then] = depth[now] + 1
                queue.append(then)
    return Found(None, set(depth))


def ends(table: ExplicitDevice, state: str) -> str | None:
    """How the stream ends in a state, from the rows."""
    if table.transfer[state] != "read":
        return None
    row = next(r for r in table.data["sessions"] if r["name"] == table.session_of[state])
    grows = row.get("grows_while") in table.may[state]
    return "temporary" if grows else "final"


def leaves(table: ExplicitDevice, state: str) -> list[str]:
    return [to for from_, to in table.arcs if from_ == state]


# --- S1 and S4: pages and chunks ---


@dataclass(frozen=True)
class Migration:
    """Chunks are what they state of the page: a value, or None if they speak of another page."""

    source: str
    target: str
    value: int = 0
    dirty: bool = True
    others: bool = True
    chunks: tuple[int | None, ...] = ()
    read: int = 0
    final: int | None = None
    """What the source held when it marked the end; None before."""
    taken: tuple[int | None, ...] = ()
    mixed: bool = False
    """The destination took in chunks of two sessions, or damaged ones."""
    whole: bool = True

    @property
    def held(self) -> int | None:
        """What the destination holds in the page; None if it was never told."""
        recorded = [chunk for chunk in self.taken if chunk is not None]
        return recorded[-1] if recorded else None

    @property
    def complete(self) -> bool:
        return not self.mixed and self.final is not None and self.taken == self.chunks


class Migrations:
    """Two devices; a search caps how long a stream gets and how often a page changes."""

    def __init__(self, source: ExplicitDevice, target: ExplicitDevice) -> None:
        self.source, self.target = source, target

    def start(self) -> Migration:
        initial = self.source.data["initial"]
        return Migration(initial, initial)

    def steps(self, now: Migration) -> Iterator[tuple[str, Migration]]:
        yield from self._source_moves(now)
        yield from self._target_moves(now)
        source, target = self.source, self.target
        if "change_state" in source.may[now.source]:
            for others in (False, True):
                yield "change", replace(now, value=now.value + 1, dirty=True, others=others)
        if source.transfer[now.source] == "read":
            if now.final is None and now.dirty:
                yield "page", replace(now, chunks=(*now.chunks, now.value), dirty=False)
            if now.final is None and now.others:
                for others in (False, True):
                    yield "other", replace(now, chunks=(*now.chunks, None), others=others)
            if now.read < len(now.chunks):
                yield "read", replace(now, read=now.read + 1)
            sent_all = not now.dirty and not now.others
            if ends(source, now.source) == "final" and sent_all and now.final is None:
                yield "end", replace(now, final=now.value)
        if target.transfer[now.target] == "write" and not now.mixed:
            if len(now.taken) < now.read:
                yield "write", replace(now, taken=now.chunks[: len(now.taken) + 1])
            yield "damage", replace(now, mixed=True)

    def _source_moves(self, now: Migration) -> Iterator[tuple[str, Migration]]:
        table = self.source
        for to in leaves(table, now.source):
            then = replace(now, source=to)
            if table.effect(now.source, to) == "opens" and table.transfer[to] == "read":
                anew = replace(then, chunks=(), read=0, final=None, dirty=True)
                mixed = now.mixed or bool(now.taken)
                for others in (False, True):
                    yield "source", replace(anew, taken=(), others=others, mixed=mixed)
            else:
                yield "source", then
        if leaves(table, now.source):
            yield "source lost", replace(now, source=table.event["arc_failed_for_good"]["to"])
        reset = table.event["reset"]["to"]
        yield "source reset", replace(now, source=reset, value=now.value + 1, dirty=True)

    def _target_moves(self, now: Migration) -> Iterator[tuple[str, Migration]]:
        table = self.target
        judged = {row["name"]: row.get("judged", False) for row in table.data["sessions"]}
        for to in leaves(table, now.target):
            effect = table.effect(now.target, to)
            then = replace(now, target=to)
            if effect == "opens" and table.transfer[to] == "write":
                then = replace(then, whole=False, taken=(), mixed=False)
            elif effect == "closes" and table.transfer[now.target] == "write":
                if judged[table.session_of[now.target]] and not now.complete:
                    continue
                then = replace(then, whole=now.complete, taken=(), mixed=True)
            yield "target", then
        if leaves(table, now.target):
            lost = table.event["arc_failed_for_good"]["to"]
            yield "target lost", replace(now, target=lost, mixed=True)
        reset = table.event["reset"]["to"]
        yield "target reset", replace(now, target=reset, whole=True, mixed=True)

    def s1(self, _now: Migration, _event: str, then: Migration) -> bool:
        wrong = then.held != then.final
        if self.source.transfer[then.source] == "read":
            wrong = wrong or then.held != then.value
        return then.complete and wrong

    def s4(self, _now: Migration, _event: str, then: Migration) -> bool:
        return not then.whole and bool(self.target.may[then.target])

    def search(
        self, bad: Callable[[Migration, str, Migration], bool], chunks: int, values: int
    ) -> Found[Migration]:
        def within(then: Migration) -> bool:
            return len(then.chunks) <= chunks and then.value <= values

        return bfs(self.start(), self.steps, bad, within)


# --- S2: bytes ---

Byte = tuple[int, int]
"""Which session of the source it is of, counted from 0, and where in it it stood."""


@dataclass(frozen=True)
class Carried:
    """What a client has read of what it takes for one session, and what it has written of it."""

    source: str
    session: int = 0
    position: int = 0
    mine: int = 0
    held: tuple[Byte, ...] = ()
    taken: tuple[Byte, ...] = ()


def segments(table: ExplicitDevice, size: int, *, forgets: str = "when_sent") -> Found[Carried]:
    """Search for a byte that arrives at another place than it was read from, up to some length.

    Args:
        table: The migration table.
        size: How many bytes are read at most.
        forgets: When the source moves on in its stream.
    """

    def steps(now: Carried) -> Iterator[tuple[str, Carried]]:
        for to in leaves(table, now.source):
            then = replace(now, source=to)
            if table.effect(now.source, to) == "opens":
                then = replace(then, session=now.session + 1, position=0)
            if table.transfer[to] == "read" and table.transfer[now.source] != "read":
                then = replace(then, mine=then.session, held=(), taken=())
            yield "arc", then
        if table.transfer[now.source] == "read":
            for count in range(1, size + 1):
                got = tuple((now.session, now.position + index) for index in range(count))
                held = (*now.held, *got)
                moved = 0 if forgets == "nothing" else count
                yield "read", replace(now, held=held, position=now.position + moved)
                if forgets == "when_served":
                    yield "lost", replace(now, position=now.position + count)
        for count in range(1, len(now.held) - len(now.taken) + 1):
            yield "write", replace(now, taken=now.held[: len(now.taken) + count])

    def bad(_now: Carried, _event: str, then: Carried) -> bool:
        return then.taken != tuple((then.mine, index) for index in range(len(then.taken)))

    def within(then: Carried) -> bool:
        return len(then.held) <= size and then.position <= 2 * size and then.session <= 2

    return bfs(Carried(table.data["initial"]), steps, bad, within)


# --- S3: estimates ---


@dataclass(frozen=True)
class Estimate:
    source: str
    initial: int = 0
    dirty: int = 0
    asked: bool = False
    ended: bool = False


def estimates(table: ExplicitDevice, size: int) -> Found[Estimate]:
    """Search for an estimate that rises, or more after a final end; no number exceeds `size`."""
    sizes = range(size + 1)
    info = {row["kind"]: row["precopy_info"] for row in table.data["stream_ends"]}

    def steps(now: Estimate) -> Iterator[tuple[str, Estimate]]:
        reads = table.transfer[now.source] == "read"
        end = ends(table, now.source)
        for to in leaves(table, now.source):
            effect, reads_on = table.effect(now.source, to), table.transfer[to] == "read"
            for more in sizes:
                then = replace(now, source=to, initial=0, dirty=0, ended=False)
                if effect == "opens" and reads_on:
                    then = replace(then, initial=more)
                elif effect == "keeps" and reads_on:
                    grown = now.dirty + (more if ends(table, to) == "final" else 0)
                    then = replace(then, initial=now.initial, dirty=grown, ended=now.ended)
                yield ("opens" if not reads else "arc"), then
        yield "opt in", replace(now, asked=True)
        if reads and "change_state" in table.may[now.source]:
            for more in sizes[1:]:
                yield "change", replace(now, dirty=now.dirty + more)
        if reads:
            for initial, dirty in itertools.product(range(now.initial + 1), range(now.dirty + 1)):
                if (initial == 0 or dirty == now.dirty) and (initial, dirty) != (
                    now.initial,
                    now.dirty,
                ):
                    yield "read", replace(now, initial=initial, dirty=dirty)
        if end is not None and info[end] and now.asked:
            for more in sizes:
                yield "reinit", replace(now, initial=more, dirty=0)
        if end == "final" and now.initial == now.dirty == 0:
            yield "end", replace(now, ended=True)

    def bad(now: Estimate, event: str, then: Estimate) -> bool:
        after = now.ended and then.ended and then.initial + then.dirty > 0
        growing = event == "end" and "change_state" in table.may[now.source]
        rises = then.initial > now.initial and event not in ("reinit", "opens")
        return after or growing or rises

    def within(then: Estimate) -> bool:
        return max(then.initial, then.dirty) <= size

    return bfs(Estimate(table.data["initial"]), steps, bad, within)


# --- S5: cancelling ---


def cannot_cancel(data: dict[str, Any], words: Iterable[int]) -> list[tuple[int, str]]:
    """Return each saving state from which no request leads back unharmed."""
    found = []
    for word in words:
        table = ExplicitDevice(data, word)
        initial = data["initial"]
        for state in sorted(table.has):
            if table.transfer[state] != "read":
                continue
            path = table.path(state, initial)
            loads = any(table.transfer[name] == "write" for name in path)
            if not table.accepts(state, initial) or path[-1] != initial or loads:
                found.append((word, state))
    return found
