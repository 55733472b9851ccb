"""One device and its client, state by state: a second model checker, in plain Python.

It reads the raw rows of a table and shares no code with the model, the engine or the prover: arcs
of smaller capability sets are found by walking the grid, paths by listing every one. What each
event does is written down here once more, from DESIGN.md. Like Linux, a device asks for the next
step before each arc, so a request that leads nowhere is found out half-way.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

_QUIET = frozenset({"start_dma", "start_p2p_dma", "raise_interrupt", "change_state"})
# From the comment on enum vfio_device_mig_state: "arc into STOP", "P2P quiescent state".
FORBIDDEN = {
    **dict.fromkeys(("STOP", "STOP_COPY", "RESUMING"), _QUIET),
    **dict.fromkeys(("RUNNING_P2P", "PRE_COPY_P2P"), frozenset({"start_p2p_dma"})),
    # Of the tables with a column whose device may not change its own state.
    **dict.fromkeys(("RUNNING_DRAIN", "DRAIN_COPY"), _QUIET),
}
"""What a device must not do, by state."""


@dataclass(frozen=True)
class Now:
    """A situation. What only matters during a request is None when there is none."""

    state: str
    target: str | None = None
    origin: str | None = None
    set_out: int | None = None
    open: int = 0
    session: int = 0
    sessions: int = 0
    changes: int = 0
    connected: bool = True


Event = tuple[str, str]
"""What happens, and what it is about: the target of a request, the activity of a device."""


class ExplicitDevice:
    """A table under one capability set."""

    def __init__(self, data: dict[str, Any], word: int) -> None:
        self.data = data
        bits = {row["name"]: row["value"] for row in data["capabilities"]}
        self.all = [row["name"] for row in data["states"]]
        self.has = {
            row["name"]
            for row in data["states"]
            if all(bits[name] & word for name in row["requires"])
        }
        self.row = {row["name"]: row for row in data["states"]}
        self.session_of = {row["name"]: row["session"] for row in data["states"]}
        transfers = {row["name"]: row["transfer"] for row in data["sessions"]}
        self.transfer = {name: transfers[session] for name, session in self.session_of.items()}
        may = {row["name"]: row["may"] for row in data["operations"]}
        self.may = {row["name"]: may[row["operation"]] for row in data["states"]}
        self.effects = {(row["from"], row["to"]): row["effect"] for row in data["session_effects"]}
        self.event = {row["name"]: row for row in data["events"]}
        self.refused = {(row["from"], row["to"]) for row in data.get("refusals", ())}
        self.growing = {row["grows_while"] for row in data["sessions"] if "grows_while" in row}
        self.arcs = self._arcs()
        self.next = {
            (here, there): step
            for here in self.has
            for there in self.has
            if here != there
            and (here, there) not in self.refused
            and (step := self._next(here, there)) is not None
        }

    # --- arcs and paths ---

    def _place(self, state: str) -> tuple[int, int] | None:
        columns = [row["name"] for row in self.data["operations"] if not row.get("off_grid")]
        rows = [row["name"] for row in self.data["sessions"]]
        row = self.row[state]
        if row["operation"] not in columns:
            return None
        return columns.index(row["operation"]), rows.index(row["session"])

    def _direction(self, from_: str, to: str) -> str | None:
        here, there = self._place(from_), self._place(to)
        if here is None or there is None or (here[0] == there[0]) == (here[1] == there[1]):
            return None
        if here[1] == there[1]:
            return "right" if here[0] < there[0] else "left"
        return "down" if here[1] < there[1] else "up"

    def _arcs(self) -> list[tuple[str, str]]:
        """Every arc between states the set has, those that pass over others included."""
        primitive = [(row["from"], row["to"]) for row in self.data["arcs"]]
        found: list[tuple[int, tuple[str, str]]] = []
        for index, (from_, to) in enumerate(primitive):
            if from_ not in self.has:
                continue
            direction, end = self._direction(from_, to), to
            while end not in self.has and direction is not None:
                onward = [
                    b for a, b in primitive if a == end and self._direction(a, b) == direction
                ]
                if len(onward) != 1:
                    break
                end = onward[0]
            if end in self.has:
                found.append((index, (from_, end)))
        return list(dict.fromkeys(arc for _, arc in sorted(found)))

    def _next(self, here: str, there: str) -> str | None:
        """The first step of the shortest path allowed; of several, the first by order of arcs."""
        paths = [path for path in self._paths((here,), there) if self._allowed(path)]
        if not paths:
            return None

        def rank(path: tuple[str, ...]) -> tuple[int, list[int]]:
            return len(path), [self.arcs.index(arc) for arc in itertools.pairwise(path)]

        return min(paths, key=rank)[1]

    def _paths(self, path: tuple[str, ...], there: str) -> Iterator[tuple[str, ...]]:
        if path[-1] == there:
            yield path
            return
        for from_, to in self.arcs:
            if from_ == path[-1] and to not in path:
                yield from self._paths((*path, to), there)

    def _allowed(self, path: tuple[str, ...]) -> bool:
        (rule,) = [row for row in self.data["routing"] if row["in_force"]]
        guarded = [self.session_of[state] == rule["guarded"] for state in path]
        return (
            rule["interior"] == "always"
            or not any(guarded[1:-1])
            or (rule["interior"] == "whole_path" and all(guarded))
        )

    def accepts(self, here: str, there: str) -> bool:
        """No row of [[requests]] stops this request (whether it has a path is not asked)."""
        return (
            there in self.has
            and self.row[there].get("settable", True)
            and here != there
            and any(from_ == here for from_, _ in self.arcs)
            and (here, there) not in self.refused
        )

    def path(self, here: str, there: str) -> list[str]:
        """What taking next steps leads through, both ends included if it arrives."""
        path = [here]
        while path[-1] != there and (path[-1], there) in self.next and len(path) <= len(self.all):
            path.append(self.next[path[-1], there])
        return path

    def effect(self, from_: str, to: str) -> str:
        return self.effects.get((self.session_of[from_], self.session_of[to]), "none")

    # --- behaviour ---

    def successors(self, now: Now) -> Iterator[tuple[Event, Now]]:
        idle = now.target is None and now.connected
        if idle:
            for target in (*self.all, "a value no state has"):
                if self.accepts(now.state, target):
                    begun = replace(now, target=target, origin=now.state, set_out=now.session)
                    yield ("request", target), begun
                else:
                    yield ("refused or nothing", target), now
            yield ("reset", ""), self._lands(now, "reset")
            yield ("disconnect", ""), replace(self._lands(now, "disconnect"), connected=False)
            lost = self._lands(now, "arc_failed_for_good")
            yield ("reset_failed", ""), lost
            yield ("disconnect_failed", ""), replace(lost, connected=False)
            if now.open > 0 and self.transfer[now.state] != "none":
                yield (self.transfer[now.state], ""), now
        if not now.connected:
            yield ("connect", ""), replace(now, connected=True)
        if now.target is not None:
            step = self.next.get((now.state, now.target))
            if step is None:
                yield ("stuck", now.target), _at_rest(now)
            else:
                yield ("arc", step), self._takes(now, step)
                for failure in ("arc_failed", "arc_failed_for_good"):
                    yield (failure, step), _at_rest(self._lands(now, failure))
        for activity in self.may[now.state]:
            grown = now.changes + (activity == "change_state")
            yield ("act", activity), replace(now, changes=grown)

    def _takes(self, now: Now, to: str) -> Now:
        then = replace(now, state=to)
        effect = self.effect(now.state, to)
        if effect == "opens":
            fresh = now.sessions + 1
            then = replace(then, open=now.open + 1, session=fresh, sessions=fresh)
        elif effect == "closes":
            then = replace(then, open=now.open - 1, session=0)
        return _at_rest(then) if to == now.target else then

    def _lands(self, now: Now, event: str) -> Now:
        row = self.event[event]
        then = replace(now, state=row.get("to", now.state))
        return replace(then, open=0, session=0) if row["session"] == "ended" else then

    # --- guarantees ---

    def streams(self, state: str) -> bool:
        return self.transfer[state] != "none"

    def failed(self, state: str) -> bool:
        return state == self.event["arc_failed_for_good"].get("to")

    def still(self, state: str) -> bool:
        """Nothing about the device may change: it is stopped, or its stream has an end."""
        final = self.transfer[state] == "read" and not self.growing & set(self.may[state])
        return final or "change_state" in FORBIDDEN.get(state, ())


def _at_rest(now: Now) -> Now:
    return replace(now, target=None, origin=None, set_out=None)


Bad = Callable[[ExplicitDevice, Now, Event, Now], bool]


def _does(wanted: Callable[[str], bool]) -> Bad:
    def bad(_table: ExplicitDevice, now: Now, event: Event, _then: Now) -> bool:
        name, activity = event
        forbidden = FORBIDDEN.get(now.state, ())
        return name == "act" and wanted(activity) and activity in forbidden

    return bad


def _d2(table: ExplicitDevice, now: Now, event: Event, then: Now) -> bool:
    opened = event[0] == "arc" and table.effect(now.state, then.state) == "opens"
    return then.open not in (0, 1) or (opened and then.session <= now.sessions)


def _d6(table: ExplicitDevice, now: Now, event: Event, then: Now) -> bool:
    was, is_ = table.failed(now.state), table.failed(then.state)
    failures = ("arc_failed_for_good", "reset_failed", "disconnect_failed")
    return (is_ and not was and event[0] not in failures) or (
        was and not is_ and event[0] != "reset"
    )


def _d7(table: ExplicitDevice, now: Now, event: Event, then: Now) -> bool:
    if event[0] not in ("arc_failed", "arc_failed_for_good", "stuck"):
        return False
    assert now.origin is not None
    assert now.target is not None
    on_path = then.state in table.path(now.origin, now.target)
    return not on_path and not table.failed(then.state)


def _d8(_table: ExplicitDevice, now: Now, event: Event, then: Now) -> bool:
    if event[0] == "refused or nothing":
        return then != now
    moved = (then.state, then.session) != (now.origin, now.set_out)
    return event[0] == "stuck" and moved


def _d11(table: ExplicitDevice, now: Now, event: Event, then: Now) -> bool:
    kept = ("state", "open", "session", "sessions", "changes")
    moved = any(getattr(now, name) != getattr(then, name) for name in kept)
    failing = event[0] in ("arc_failed", "arc_failed_for_good")
    return failing and moved and not table.failed(then.state)


def _d12(table: ExplicitDevice, _now: Now, event: Event, then: Now) -> bool:
    as_new = (then.state, then.open, then.target) == (table.data["initial"], 0, None)
    return event[0] == "reset" and not as_new


BAD: dict[str, Bad] = {
    "D1": lambda table, _now, _event, then: (then.open > 0) != table.streams(then.state),
    "D2": _d2,
    "D3": _does(lambda activity: activity not in ("start_p2p_dma", "change_state")),
    "D4": _does(lambda activity: activity == "start_p2p_dma"),
    "D5": lambda table, now, _event, then: table.still(now.state) and then.changes != now.changes,
    "D6": _d6,
    "D7": _d7,
    "D8": _d8,
    "D11": _d11,
    "D12": _d12,
}
"""The step that violates an obligation, by identifier; D9 and D10 are about states and arcs."""


@dataclass
class Search:
    """What a search found: how long the shortest bad run is, and how much was seen."""

    shortest: dict[str, int]
    situations: int
    steps: int


def search(table: ExplicitDevice, sessions: int, changes: int, wanted: set[str]) -> Search:
    """Search breadth first; counters beyond the caps are not followed on.

    It stops early when every obligation wanted is violated.
    """
    start = Now(table.data["initial"])
    depth = {start: 0}
    queue = deque([start])
    found = Search({}, 0, 0)
    while queue and not (wanted and wanted <= found.shortest.keys()):
        now = queue.popleft()
        for event, then in table.successors(now):
            found.steps += 1
            for name, bad in BAD.items():
                if name not in found.shortest and bad(table, now, event, then):
                    found.shortest[name] = depth[now] + 1
            if then not in depth and then.sessions <= sessions and then.changes <= changes:
                depth[then] = depth[now] + 1
                queue.append(then)
    found.situations = len(depth)
    return found
