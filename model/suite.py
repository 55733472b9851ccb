"""A finite test suite that finds every deviation of a device, up to a bound on its hidden states.

A device that answers is a machine of finitely many states. If it has at most K states more than the
table and a test can ask it which migration state it is in, it differs from the table only if some
sequence shows it of the form: the shortest way to a state, then any K + 1 inputs, the state asked
for after each. (The W method of Vasilevskii and Chow; with a state that can be read the set that
tells states apart is that one request, and W, Wp and HSI are the same suite.) It assumes that a
reset leads a device back to where it began. A device that is another one after a reset or a
reconnection breaks that assumption, so `whole_run` leads through all sequences on one device, after
two tours of everything, and not through a fresh one for each.

Everything here follows from the table: nothing is known of devices, sockets or time.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.machine import Machine
from vfio_migration.model.spec import Spec

InputKind = Literal["set", "reset", "reconnect", "stream", "fail"]

MAX_HIDDEN_STATES: Final = 3
"""More make a suite that nobody runs: each multiplies it by the number of inputs."""
NO_STATE_VALUES: Final = (255, (1 << 32) - 1)
"""Values of no state that are asked for, beside the lowest one that is free."""


class Input(NamedTuple):
    """What a test does to a device.

    Attributes:
        kind: "set" asks for the state with a value; "reset" resets the device; "reconnect" leaves
            it and comes back; "stream" reads or writes a piece where a session is open; "fail" asks
            for a step that the device was made to fail for good.
        value: The value asked for; 0 for the other kinds.
    """

    kind: InputKind
    value: int = 0

    def __str__(self) -> str:
        return f"set {self.value}" if self.kind == "set" else self.kind


class Output(NamedTuple):
    """What a client sees of an input, the state read back included.

    Attributes:
        state: The migration state that GET answers afterwards.
        errno: Why it was refused or failed; None if it succeeded.
        session: What became of the data session, in the words of the table, in order: "opens",
            "closes" or both; empty if it was left as it was.
        end: How the stream ends there, for "stream" where something is read; "" otherwise.
    """

    state: str
    errno: str | None = None
    session: tuple[str, ...] = ()
    end: str = ""

    def __str__(self) -> str:
        words = [self.state, *self.session]
        if self.errno is not None:
            words.append(f"refused {self.errno}")
        if self.end:
            words.append(f"{self.end} end")
        return ", ".join(words)


@dataclass(frozen=True)
class Behaviour:
    """The table under one capability set, as a machine with inputs and outputs.

    Attributes:
        initial: The state of a device that was just started.
        states: The states that inputs lead to, in the order of the table.
        inputs: Everything that is tried in each of them.
        moves: What each input does in each state.
    """

    initial: str
    states: tuple[str, ...]
    inputs: tuple[Input, ...]
    moves: dict[tuple[str, Input], Output]

    def way_to(self, state: str) -> tuple[Input, ...]:
        """Return a shortest sequence of inputs from the initial state to a state.

        Raises:
            KeyError: No inputs lead there.
        """
        return _ways(self.initial, self.inputs, self.moves)[state]


def behaviour(machine: Machine, *, failing: bool = False) -> Behaviour:
    """Return what a client can see of a device.

    Args:
        machine: The table under a capability set.
        failing: The device can be made to fail a step, so states that only failures lead to are
            tested too.

    Raises:
        SpecError: An event that this needs is not in the table.
    """
    spec = machine.spec
    values = [row.value for row in spec.states]
    free = next(value for value in itertools.count() if value not in values)
    kinds: tuple[InputKind, ...] = ("reset", "reconnect", "stream")
    if failing:
        kinds += ("fail",)
    inputs = (
        *(Input("set", value) for value in (*sorted(values), free, *NO_STATE_VALUES)),
        *(Input(kind) for kind in kinds),
    )
    moves = {
        (row.name, one): output(machine, row.name, one) for row in machine.states for one in inputs
    }
    ways = _ways(spec.initial, inputs, moves)
    reached = tuple(row.name for row in machine.states if row.name in ways)
    return Behaviour(spec.initial, reached, inputs, moves)


def without(tested: Behaviour, left_out: Callable[[Input], bool]) -> Behaviour:
    """Return a behaviour without some inputs, and without the states that only they lead to."""
    inputs = tuple(one for one in tested.inputs if not left_out(one))
    ways = _ways(tested.initial, inputs, tested.moves)
    states = tuple(state for state in tested.states if state in ways)
    return Behaviour(tested.initial, states, inputs, tested.moves)


def output(machine: Machine, state: str, given: Input) -> Output:
    """Return what an input does in a state."""
    spec = machine.spec
    if given.kind == "set":
        route = machine.route(state, given.value)
        if route.refused is not None:
            return Output(state, route.refused.errno)
        effects = [spec.effect(arc.from_, arc.to) for arc in route.arcs]
        session = tuple(str(one) for one in effects if one in ("opens", "closes"))
        return Output(route.arcs[-1].to if route.arcs else state, None, session)
    if given.kind == "stream":
        end = spec.stream_end(state)
        streams = spec.session(spec.state(state).session).transfer != "none"
        return Output(state, None if streams else "EINVAL", (), end.kind if end else "")
    if given.kind == "fail" and not machine.arcs_from(state):
        return Output(state)
    events: dict[InputKind, Literal["reset", "disconnect", "arc_failed_for_good"]] = {
        "reset": "reset",
        "reconnect": "disconnect",
        "fail": "arc_failed_for_good",
    }
    event = spec.event(events[given.kind])
    is_open = spec.session(spec.state(state).session).transfer != "none"
    session = ("closes",) if is_open and event.session == "ended" else ()
    return Output(event.to or state, event.errno, session)


def check_hidden_states(hidden_states: int) -> None:
    """Refuse a bound that makes no suite; raise `SpecError` if it is out of range."""
    if not 0 <= hidden_states <= MAX_HIDDEN_STATES:
        hint = f"it is 0 to {MAX_HIDDEN_STATES}"
        raise SpecError([Mistake("hidden states", hidden_states, "is out of range", hint)])


def sequences(tested: Behaviour, hidden_states: int) -> Iterator[tuple[Input, ...]]:
    """Yield the sequences that find every deviation, each to be begun in the initial state.

    Args:
        tested: The behaviour that is expected.
        hidden_states: How many states a device may have more than the table; 0 to
            `MAX_HIDDEN_STATES`.

    Raises:
        SpecError: `hidden_states` is out of range.
    """
    check_hidden_states(hidden_states)
    for state in tested.states:
        way = tested.way_to(state)
        for word in itertools.product(tested.inputs, repeat=hidden_states + 1):
            yield (*way, *word)


def tour(tested: Behaviour) -> tuple[Input, ...]:
    """Return one sequence that makes every input in every state."""
    open_ = {(state, one) for state in tested.states for one in tested.inputs}
    here = tested.initial
    made: list[Input] = []
    while open_:
        way = _nearest(tested, here, open_)
        for one in way:
            open_.discard((here, one))
            here = tested.moves[here, one].state
        made += way
    return tuple(made)


def whole_run(tested: Behaviour, hidden_states: int) -> Iterator[tuple[Input, ...]]:
    """Yield everything that one device is led through: two tours, then each sequence.

    Each begins in the initial state; before each but the first the device is reset, which is no
    part of it.
    """
    once = tour(tested)
    yield (*once, *way_back(tested, once), *once)
    yield from sequences(tested, hidden_states)


def expected(tested: Behaviour, sequence: Iterable[Input]) -> list[Output]:
    """Return what a device that the table describes answers to a sequence, one output an input."""
    here, found = tested.initial, []
    for one in sequence:
        found.append(tested.moves[here, one])
        here = found[-1].state
    return found


def state_after(tested: Behaviour, sequence: Sequence[Input]) -> str:
    """Return the state that a sequence leads to from the initial one."""
    return expected(tested, sequence)[-1].state if sequence else tested.initial


def way_back(tested: Behaviour, done: Sequence[Input]) -> tuple[Input, ...]:
    """Return a shortest way from where a sequence ends to the initial state."""
    return _ways(state_after(tested, done), tested.inputs, tested.moves)[tested.initial]


def in_words(spec: Spec, one: Input) -> str:
    """Return an input as text: a state is named, if the value is that of one."""
    if one.kind != "set":
        return one.kind
    names = (row.name for row in spec.states if row.value == one.value)
    return f"set {next(names, one.value)}"


def _ways(
    start: str, inputs: Sequence[Input], moves: dict[tuple[str, Input], Output]
) -> dict[str, tuple[Input, ...]]:
    """Return, for each state that inputs lead to, a shortest way there."""
    found: dict[str, tuple[Input, ...]] = {start: ()}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for one in inputs:
            there = moves[here, one].state
            if there not in found:
                found[there] = (*found[here], one)
                queue.append(there)
    return found


def _nearest(tested: Behaviour, here: str, wanted: set[tuple[str, Input]]) -> tuple[Input, ...]:
    """Return a shortest sequence whose last input is one of those wanted."""
    queue: deque[tuple[str, tuple[Input, ...]]] = deque([(here, ())])
    seen = {here}
    while queue:
        state, way = queue.popleft()
        for one in tested.inputs:
            if (state, one) in wanted:
                return (*way, one)
        for one in tested.inputs:
            there = tested.moves[state, one].state
            if there not in seen:
                seen.add(there)
                queue.append((there, (*way, one)))
    raise SpecError([Mistake("tour", here, "cannot reach all states from this one", None)])
