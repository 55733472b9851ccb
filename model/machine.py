"""A table restricted to one capability set: its arcs, next steps, paths and refusals.

Nothing here is written by hand that follows from the table:

- *Contraction.* States the set lacks leave the grid; arcs along a straight line through them join.
- *Next step.* For every pair of states, the first arc of the path that the routing rule selects.
  A refused pair has none. Rows of `[[next_steps]]` replace single ones.
- *Path.* The next step, taken again and again until it arrives. This is what a device does (and
  what Linux does: it asks `vfio_mig_get_next_state` before each step), so it is what is computed
  here too; that it always arrives, by a legal and shortest path, is for the verifier to prove.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.spec import (
    Arc,
    CapabilitySet,
    Condition,
    RequestRule,
    RoutingRule,
    Spec,
    State,
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is refused: the errno the client is answered, and the row that states it."""

    errno: str
    reason: str
    when: Condition
    source: str


@dataclass(frozen=True, slots=True)
class Route:
    """What a request leads to.

    Attributes:
        from_: The state in which the request is made.
        to: The state asked for: its name, or the number given if no state has it.
        arcs: The arcs to take, in order; empty for a no-op and for a refused request.
        refused: Why it is refused, or None.
    """

    from_: str
    to: str | int
    arcs: tuple[Arc, ...]
    refused: Refused | None

    @property
    def path(self) -> tuple[str, ...]:
        """The states stepped through, the target last; empty for a no-op."""
        return tuple(arc.to for arc in self.arcs)

    def __str__(self) -> str:
        if self.refused is not None:
            return f"{self.from_} -> {self.to}: refused ({self.refused.errno})"
        if not self.arcs:
            return f"{self.from_} -> {self.to}: nothing to do"
        return " -> ".join([self.from_, *self.path])


class Machine:
    """The table under one capability set. Make it with `Spec.machine`, which keeps it.

    Attributes:
        spec: The whole table.
        capabilities: The capability set.
        names: The names of the capabilities, in the order of the table.
        states: The states it supports, in the order of the table.
        arcs: The arcs between them, contracted ones included.
        not_settable: The states of the table that can never be asked for.
    """

    def __init__(self, spec: Spec, capabilities: CapabilitySet) -> None:
        self.spec = spec
        self.capabilities = capabilities
        self.names = spec.names(capabilities)
        self.states: tuple[State, ...] = tuple(
            row for row in spec.states if spec.supports(capabilities, row.name)
        )
        self._supported = frozenset(row.name for row in self.states)
        self.arcs: tuple[Arc, ...] = contracted_arcs(spec, self._supported)
        self._out: dict[str, dict[str, Arc]] = {row.name: {} for row in self.states}
        for arc in self.arcs:
            self._out[arc.from_][arc.to] = arc
        self.not_settable = frozenset(row.name for row in spec.states if not row.settable)
        self._by_value = {row.value: row.name for row in spec.states}
        self._next = self._skipping() if spec.next_steps else self._selected()
        self._leaving = frozenset(from_ for from_, _ in self._next).union(
            arc.from_ for arc in self.arcs
        )
        self._routes: dict[tuple[str, str], Route] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it is made of; everything else is computed again."""
        return _machine, (self.spec, int(self.capabilities.value))

    def __repr__(self) -> str:
        return f"<Machine {self.spec.name} {','.join(self.names)}>"

    def supports(self, state: str) -> bool:
        """Return whether this capability set has `state`."""
        return state in self._supported

    def arc(self, from_: str, to: str) -> Arc | None:
        """Return the arc between two states, or None if there is none."""
        return self._out.get(from_, {}).get(to)

    def arcs_from(self, state: str) -> tuple[Arc, ...]:
        """Return the arcs that leave `state`."""
        return tuple(self._out.get(state, {}).values())

    def can_leave(self, state: str) -> bool:
        """Return whether any arc, or any next step, leaves `state`."""
        return state in self._leaving

    def next_step(self, state: str, target: str) -> str | None:
        """Return the state to step to on the way from `state` to `target`, or None if refused.

        This is the table that `vfio_mig_get_next_state` of Linux looks its answers up in, but for
        `state == target`, which is no step.
        """
        return self._next.get((state, target))

    def route(self, from_: str, to: str | int | State) -> Route:
        """Decide a request and return its path.

        Args:
            from_: The present state; it must be one of this capability set.
            to: The state asked for: its name, its value on the wire, or the row itself.

        Raises:
            UnknownNameError: If `from_` or a target given by name is not a state of the table.
            SpecError: If this capability set lacks `from_`: no device can be there.
        """
        self.spec.state(from_)
        if from_ not in self._supported:
            problem = f"is not a state of a device with {','.join(self.names)}"
            hint = f"it requires {','.join(self.spec.state(from_).requires)}"
            raise SpecError([Mistake("from", from_, problem, hint)])
        if isinstance(to, int):
            name = self._by_value.get(to)
            if name is None:
                # Not kept: a client may ask for any of 2**32 values.
                return self._decide(from_, to)
        else:
            name = to.name if isinstance(to, State) else to
            self.spec.state(name)
        key = (from_, name)
        route = self._routes.get(key)
        if route is None:
            route = self._routes.setdefault(key, self._decide(from_, name))
        return route

    def options(self, from_: str) -> tuple[Route, ...]:
        """Answer "what can I do from here, and why not that": one route per state of the table."""
        return tuple(self.route(from_, row.name) for row in self.spec.states)

    # --- deciding ---

    def _decide(self, from_: str, to: str | int) -> Route:
        for rule in self.spec.requests:
            if _CONDITIONS[rule.when](self, from_, to):
                if rule.outcome == "nothing":
                    return Route(from_, to, (), None)
                return Route(from_, to, (), self._refused(rule, from_, to))
        arcs = self.follow(from_, str(to))
        if arcs is None:
            # The table has no "no_path" row and there is no path: nothing left to state but that.
            problem = "has no path, and no row of requests refuses it"
            raise SpecError([Mistake("request", f"{from_} -> {to}", problem, None)])
        return Route(from_, to, arcs, None)

    def _refused(self, rule: RequestRule, from_: str, to: str | int) -> Refused:
        row = self.spec.refusal(from_, str(to)) if rule.when == "pair_refused" else None
        errno, reason, source = (
            (row.errno, row.reason, row.source) if row else (rule.errno, rule.reason, rule.source)
        )
        return Refused(errno or "EINVAL", reason or rule.when, rule.when, source)

    def follow(self, from_: str, to: str) -> tuple[Arc, ...] | None:
        """Take next steps from `from_` until `to`; None if they do not lead there.

        At most as many steps as there are states are taken, so this ends for any table.
        """
        arcs: list[Arc] = []
        here = from_
        while here != to:
            step = self._next.get((here, to))
            if step is None or len(arcs) == len(self.states):
                return None
            arcs.append(self._out[here].get(step) or self._no_arc(here, to, step))
            here = step
        return tuple(arcs)

    # --- next steps ---

    def _selected(self) -> dict[tuple[str, str], str]:
        """The next steps that the routing rule selects."""
        rule = self.spec.routing_rule()
        refused = {(row.from_, row.to) for row in self.spec.refusals}
        return {
            (state.name, target): first
            for state in self.states
            for target, first in self.first_steps(state.name, rule).items()
            if target not in self.not_settable and (state.name, target) not in refused
        }

    def _skipping(self) -> dict[tuple[str, str], str]:
        """The next steps of a table that writes some of them down, as Linux looks them up.

        Where the look-up never ends there is none.
        """
        whole = sum(row.value for row in self.spec.capabilities)
        if self.capabilities.value == whole:
            written = {
                (row.from_, row.to): row.step for row in self.spec.next_steps if row.from_ != row.to
            }
            return self._selected() | written
        every = self.spec.machine(whole)
        found = {}
        for state in self.states:
            for target in self.states:
                step = every.next_step(state.name, target.name)
                for _ in every.states:
                    if step is None or step in self._supported:
                        break
                    step = every.next_step(step, target.name)
                if step is not None and step in self._supported:
                    found[state.name, target.name] = step
        return found

    def _no_arc(self, from_: str, target: str, to: str) -> Arc:
        """Return a step that no arc is, which a device is led to all the same."""
        rows = (row for row in self.spec.next_steps if (row.from_, row.to) == (from_, target))
        row = next(rows, self.spec.next_steps[0])
        summary = "A step that is not an arc of the table."
        return Arc(from_=from_, to=to, summary=summary, source=row.source)

    # --- paths ---

    def first_steps(self, start: str, rule: RoutingRule) -> dict[str, str]:
        """Return, for each other state a path allowed by `rule` leads to, the first step there.

        The path is a shortest one; of several, the one whose arcs come first in the table (the
        verifier's T4 proves that there never are several).
        """
        firsts: dict[str, tuple[int, str]] = {}
        for allowed in self._walks(start, rule):
            for target, found in self._search(start, allowed).items():
                firsts[target] = min(firsts.get(target, found), found, key=lambda item: item[0])
        return {target: first for target, (_, first) in firsts.items()}

    def _walks(self, start: str, rule: RoutingRule) -> Iterable[Callable[[str, bool], bool]]:
        """Yield, for each kind of path the rule allows, a test of its states.

        The test takes a state and whether it is inside the path (rather than at its end).
        """
        guarded = frozenset(row.name for row in self.states if row.session == rule.guarded)
        if rule.interior == "always":
            yield lambda _state, _inside: True
            return
        yield lambda state, inside: not (inside and state in guarded)
        if rule.interior == "whole_path" and start in guarded:
            yield lambda state, _inside: state in guarded

    def _search(
        self, start: str, allowed: Callable[[str, bool], bool]
    ) -> dict[str, tuple[int, str]]:
        """Search breadth first: per state reached, the length of the path and its first step."""
        found: dict[str, tuple[int, str]] = {}
        queue = deque([(start, 0, "")])
        while queue:
            here, length, first = queue.popleft()
            if here != start and not allowed(here, True):
                continue
            for to in self._out[here]:
                if to != start and to not in found and allowed(to, False):
                    found[to] = (length + 1, first or to)
                    queue.append((to, length + 1, first or to))
        return found


def lines(spec: Spec, start: str) -> Iterator[tuple[Arc, ...]]:
    """Yield the straight lines of arcs from `start`: each arc, and its continuations.

    These are what contraction joins. An arc that is no step along one axis has no continuation, and
    a line ends where two arcs lead on in its direction: neither is the next step of the other.
    """
    for first in spec.arcs:
        if first.from_ != start:
            continue
        line = [first]
        yield tuple(line)
        for arc in onward(spec, first):
            line.append(arc)
            yield tuple(line)


def onward(spec: Spec, first: Arc) -> Iterator[Arc]:
    """Yield the arcs that go on from `first` in its direction, one after the other."""
    direction = spec.direction(first.from_, first.to)
    here = first
    while direction is not None:
        following = spec.arcs_by_direction.get((here.to, direction), ())
        if len(following) != 1:
            return
        here = following[0]
        yield here


def contracted_arcs(spec: Spec, supported: frozenset[str]) -> tuple[Arc, ...]:
    """Return the arcs among `supported` states; a line through others is joined into one arc.

    Between two states there is one arc at most, the table's own before a joined one.
    """
    arcs: dict[tuple[str, str], Arc] = {}
    for row in spec.arcs:
        if row.from_ not in supported:
            continue
        line = [row]
        going_on = onward(spec, row)
        while line[-1].to not in supported and (following := next(going_on, None)) is not None:
            line.append(following)
        if line[-1].to in supported:
            arc = _join(tuple(line))
            first = arcs.setdefault((arc.from_, arc.to), arc)
            if first.via and not arc.via:
                arcs[arc.from_, arc.to] = arc
    order = {(arc.from_, arc.to): index for index, arc in enumerate(spec.arcs)}
    last = len(order)

    def place(arc: Arc) -> int:
        return order.get((arc.from_, (*arc.via, arc.to)[0]), last)

    return tuple(sorted(arcs.values(), key=place))


def _join(line: tuple[Arc, ...]) -> Arc:
    if len(line) == 1:
        return line[0]
    return Arc(
        from_=line[0].from_,
        to=line[-1].to,
        via=tuple(arc.to for arc in line[:-1]),
        summary=" ".join(arc.summary for arc in line),
        source=line[0].source,
    )


def _machine(spec: Spec, flags: int) -> Machine:
    return spec.machine(flags)


_CONDITIONS: dict[Condition, Callable[[Machine, str, str | int], bool]] = {
    "value_unknown": lambda _machine, _from, to: isinstance(to, int),
    "target_unsupported": lambda machine, _from, to: not machine.supports(str(to)),
    "target_not_settable": lambda machine, _from, to: to in machine.not_settable,
    "already_there": lambda _machine, from_, to: from_ == to,
    "no_way_out": lambda machine, from_, _to: not machine.can_leave(from_),
    "pair_refused": lambda machine, from_, to: machine.spec.refusal(from_, str(to)) is not None,
    "no_path": lambda machine, from_, to: machine.follow(from_, str(to)) is None,
}


def decisions(machine: Machine) -> dict[tuple[str, str], Route]:
    """Return the route of every pair of states of the table that can be asked in this machine."""
    return {
        (state.name, target.name): machine.route(state.name, target.name)
        for state in machine.states
        for target in machine.spec.states
    }


__all__ = [
    "Machine",
    "Refused",
    "Route",
    "contracted_arcs",
    "decisions",
    "lines",
]
