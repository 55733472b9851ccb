"""Family D against a second model checker: plain Python, breadth first, over the same behaviour.

The prover's traces must be as short as the shortest bad run the search finds, and the table of the
package must have no bad run at all in everything that can be reached.
"""

from __future__ import annotations

import functools

import pytest

from support.explicit_device import BAD, ExplicitDevice, search
from support.samples import sampled
from support.table_edits import BROKEN, broken, spec_of, table_data
from vfio_migration.model import Spec
from vfio_migration.verifier import verify

WORDS = (1, 3, 5, 7)
FILES = sorted(BROKEN.glob("d*.toml"))
RUNS = [path for path in FILES if broken(path)[0]["breaks"] in BAD]


@functools.cache
def table(word: int) -> ExplicitDevice:
    return ExplicitDevice(table_data(), word)


@pytest.mark.parametrize("word", WORDS)
def test_next_steps_are_those_of_the_model(spec: Spec, word: int):
    """Otherwise the two would search different behaviour; computed without any shared code."""
    machine = spec.machine(word)
    mine = {
        (here, there): table(word).next.get((here, there))
        for here in table(word).all
        for there in table(word).all
        if here != there
    }
    assert mine == {pair: machine.next_step(*pair) for pair in mine}
    assert set(table(word).arcs) == {(arc.from_, arc.to) for arc in machine.arcs}


@pytest.mark.parametrize("word", WORDS)
def test_the_table_has_no_bad_run_in_all_that_can_be_reached(word: int):
    """Four sessions: a second life, a third, and one to come; two changes: some and more."""
    found = search(table(word), sessions=4, changes=2, wanted=set())
    assert found.shortest == {}
    reached = {1: 300, 3: 500, 5: 500, 7: 1000}
    assert found.situations > reached[word]


@sampled(6)
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_the_prover_finds_a_shortest_run(path):
    edit, data = broken(path)
    obligation_id = edit["breaks"]
    (verdict,) = verify(spec_of(data), only=[obligation_id]).verdicts
    assert verdict.example is not None
    lengths = {}
    for word in (int(flags.value) for flags in spec_of(data).capability_sets()):
        shortest = search(
            ExplicitDevice(data, word), sessions=4, changes=3, wanted={obligation_id}
        ).shortest
        lengths[word] = shortest.get(obligation_id)
    assert min(length for length in lengths.values() if length is not None) == edit["events"]
    assert verdict.example.text.startswith(f"{edit['events']} events from ")


def test_d9_every_state_has_a_way_back():
    for word in WORDS:
        here = table(word)
        landing = here.event["reset"]["to"]
        assert here.path(landing, "RUNNING")[-1] == "RUNNING"
        by_reset = {
            state
            for state in here.has
            if state != "RUNNING"
            and not (
                here.accepts(state, "RUNNING") and here.path(state, "RUNNING")[-1] == "RUNNING"
            )
        }
        assert by_reset == {"ERROR"}


def test_d10_no_arc_closes_one_session_and_opens_another():
    for word in WORDS:
        here = table(word)
        between = [arc for arc in here.arcs if here.streams(arc[0]) and here.streams(arc[1])]
        assert all(here.effect(*arc) == "keeps" for arc in between)
        assert bool(between) == bool(word & 4)
