"""The finite suite: its size, what it finds, and what a smaller one does not."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from support import faulty_machines as faulty
from support.faulty_machines import Faulty
from support.samples import sample
from vfio_migration.model import Spec, SpecError
from vfio_migration.model.suite import (
    Behaviour,
    Input,
    behaviour,
    expected,
    sequences,
    tour,
    whole_run,
)

CAPABILITIES = [1, 3, 5, 7]
ALL = 7
RESET = Input("reset")


@pytest.fixture(scope="module", params=sample([ALL, 1, 3, 5], 4))
def tested(request: pytest.FixtureRequest, spec: Spec) -> Behaviour:
    return behaviour(spec.machine(request.param), failing=True)


def found(device: Faulty, tested: Behaviour, run: Iterable[tuple[Input, ...]]) -> str | None:
    """Lead one device through sequences, a reset between them; return where it deviates first."""
    device.start()
    for number, sequence in enumerate(run):
        if number and device.make(RESET).state != tested.initial:
            return "the reset before a sequence"
        for one, right in zip(sequence, expected(tested, sequence), strict=True):
            if device.make(one) != right:
                return f"{one}: not {right}"
    return None


def survivors(
    family: Iterable[Faulty], tested: Behaviour, hidden_states: int
) -> tuple[int, list[str]]:
    run = list(whole_run(tested, hidden_states))
    tried, left = 0, []
    for device in family:
        tried += 1
        if found(device, tested, run) is None:
            left.append(device.about)
    return tried, left


# --- its size ---


@pytest.mark.parametrize(
    ("flags", "hidden_states", "number", "inputs"),
    [
        (1, 0, 56, 98), (1, 1, 784, 2156), (1, 2, 10976, 41160),
        (3, 0, 70, 126), (3, 1, 980, 2744), (3, 2, 13720, 52136),
        (5, 0, 70, 126), (5, 1, 980, 2744), (5, 2, 13720, 52136),
        (7, 0, 98, 182), (7, 1, 1372, 3920), (7, 2, 19208, 74088),
    ],
)  # fmt: skip
def test_it_has_so_many_sequences(
    spec: Spec, flags: int, hidden_states: int, number: int, inputs: int
) -> None:
    made = list(sequences(behaviour(spec.machine(flags)), hidden_states))
    assert (len(made), sum(map(len, made))) == (number, inputs)


def test_without_streams_it_is_the_suite_of_the_prototype(spec: Spec) -> None:
    """8 states and 14 inputs, one of them a failure: 1,568 sequences of 4,508 inputs."""
    whole = behaviour(spec.machine(ALL), failing=True)
    inputs = tuple(one for one in whole.inputs if one.kind != "stream")
    made = list(sequences(Behaviour(whole.initial, whole.states, inputs, whole.moves), 1))
    assert (len(made), sum(map(len, made))) == (1568, 4508)


@pytest.mark.parametrize("flags", CAPABILITIES)
def test_its_expectations_are_those_of_the_kernel(
    spec: Spec, flags: int, linux_paths: dict[str, dict[str, dict[str, list[str] | None]]]
) -> None:
    """Where Linux has a path the last state of it is expected, and else a refusal."""
    machine = spec.machine(flags)
    seen = behaviour(machine).moves
    for state in machine.states:
        if not state.settable:
            continue
        for target in spec.states:
            path = linux_paths[str(flags)][state.name][target.name]
            answer = seen[state.name, Input("set", target.value)]
            if state.name == target.name:
                assert answer == (state.name, None, (), "")
            else:
                assert (answer.errno is None) == (path is not None)
                assert answer.state == (path[-1] if path else state.name)


def test_a_tour_makes_every_input_in_every_state(tested: Behaviour) -> None:
    here, made = tested.initial, set()
    for one in tour(tested):
        made.add((here, one))
        here = tested.moves[here, one].state
    assert made == set(itertools.product(tested.states, tested.inputs))


def test_a_number_of_hidden_states_that_nobody_can_run_is_refused(tested: Behaviour) -> None:
    with pytest.raises(SpecError, match="hidden states: 4: is out of range"):
        next(sequences(tested, 4))


# --- what it finds ---


def test_a_right_device_passes(tested: Behaviour) -> None:
    assert survivors([faulty.good(tested)], tested, 1) == (1, ["nothing"])


def test_every_single_fault_is_found_without_hidden_states(tested: Behaviour) -> None:
    tried, left = survivors(faulty.single_faults(tested), tested, 0)
    assert tried > 200  # 5 states with STOP_COPY alone
    assert left == []


def test_every_get_that_is_wrong_once_is_found(tested: Behaviour) -> None:
    tried, left = survivors(faulty.lies_once(tested), tested, 0)
    assert tried >= 60
    assert left == []


Family = Callable[[Behaviour, random.Random, int], Iterator[Faulty]]


@pytest.mark.parametrize("number", sample([150, 3000], 2))
@pytest.mark.parametrize("family", [faulty.clones, faulty.random_machines, faulty.second_lives])
def test_every_member_of_a_family_is_found(tested: Behaviour, family: Family, number: int) -> None:
    tried, left = survivors(family(tested, random.Random(20261201), number), tested, 1)
    assert tried > number * 0.7
    assert left == []


# --- what less does not find ---


def test_a_hidden_state_is_missed_by_the_suite_for_none(tested: Behaviour) -> None:
    """So the bound is no ornament."""
    _, left = survivors(faulty.clones(tested, random.Random(1), 200), tested, 0)
    assert left != []


def test_a_second_life_is_missed_if_each_sequence_gets_a_fresh_device(tested: Behaviour) -> None:
    """The textbook's way; a device that is reset between them is another one."""
    run = [(sequence,) for sequence in sequences(tested, 0)]
    missed = [
        device.about
        for device in faulty.second_lives(tested, random.Random(2), 100)
        if all(found(device, tested, alone) is None for alone in run)
    ]
    assert len(missed) > 50
