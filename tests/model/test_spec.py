"""Tables as values: frozen, equal, hashable, picklable; and whatever holds of any valid table."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle

import networkx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from support.strategies import specs, tables
from vfio_migration.model import Machine, Spec, SpecError, digraph, from_data, load
from vfio_migration.model.machine import contracted_arcs, lines

# --- round trips ----------------------------------------------------------------------------------


@given(specs())
def test_pickling_keeps_everything(spec: Spec) -> None:
    spec.machine()  # fills the indexes, which are not pickled
    for copied in (pickle.loads(pickle.dumps(spec)), copy.copy(spec), copy.deepcopy(spec)):
        assert copied == spec
        assert hash(copied) == hash(spec)
        assert copied.machine().arcs == spec.machine().arcs


@given(tables())
def test_equal_data_makes_equal_tables(data: dict) -> None:
    one, other = from_data(data), from_data(copy.deepcopy(data))
    assert one == other
    assert hash(one) == hash(other)
    assert one.capability_type is other.capability_type
    assert one != dataclasses.replace(one, title="Another")


def test_the_table_is_frozen(spec: Spec) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.initial = "STOP"
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.states[0].value = 9


def test_from_data_leaves_the_data_as_it_was() -> None:
    from support.table_edits import table_data

    data = table_data()
    before = copy.deepcopy(data)
    assert from_data(data) == load()
    assert data == before


# --- what holds of any valid table ----------------------------------------------------------------


@given(specs())
@examples(200)
def test_routes_end_and_go_along_arcs(spec: Spec) -> None:
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        arcs = set(machine.arcs)
        for state in machine.states:
            for target in (*(row.name for row in spec.states), 1234):
                route = machine.route(state.name, target)
                here = state.name
                for arc in route.arcs:
                    assert arc in arcs
                    assert arc.from_ == here
                    here = arc.to
                if route.refused is None:
                    assert here == target
                else:
                    assert route.arcs == ()
                assert len(route.arcs) <= len(machine.states)


@given(specs())
@examples(200)
def test_contraction_joins_along_straight_lines_only(spec: Spec) -> None:
    written = {(arc.from_, arc.to) for arc in spec.arcs}
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        assert len({(arc.from_, arc.to) for arc in machine.arcs}) == len(machine.arcs)
        for arc in machine.arcs:
            assert machine.supports(arc.from_)
            assert machine.supports(arc.to)
            assert not any(machine.supports(name) for name in arc.via)
            stops = [arc.from_, *arc.via, arc.to]
            steps = list(itertools.pairwise(stops))
            assert written.issuperset(steps)
            if arc.via:
                assert len({spec.direction(*step) for step in steps}) == 1
                assert spec.direction(arc.from_, arc.to) == spec.direction(*steps[0])
            else:
                assert arc in spec.arcs


@given(specs())
def test_restriction_takes_away_and_never_invents(spec: Spec) -> None:
    sets = spec.capability_sets()
    whole = spec.machine(sets[-1])
    assert whole.states == spec.states
    assert whole.arcs == spec.arcs
    for smaller in sets:
        for larger in sets:
            if smaller & larger == smaller:
                few = {row.name for row in spec.machine(smaller).states}
                assert few <= {row.name for row in spec.machine(larger).states}
        # An arc of the table between two states that are there stays what it is.
        kept = {arc for arc in spec.arcs if spec.machine(smaller).arc(arc.from_, arc.to) == arc}
        assert kept == {
            arc
            for arc in spec.arcs
            if spec.machine(smaller).supports(arc.from_) and spec.machine(smaller).supports(arc.to)
        }


@given(specs())
def test_lines_agree_with_contraction(spec: Spec) -> None:
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        supported = frozenset(row.name for row in machine.states)
        pairs = {
            (line[0].from_, line[-1].to)
            for state in supported
            for line in lines(spec, state)
            if line[-1].to in supported and all(arc.to not in supported for arc in line[:-1])
        }
        assert pairs == {(arc.from_, arc.to) for arc in contracted_arcs(spec, supported)}


@given(specs(), st.data())
def test_without_a_guard_paths_are_as_short_as_networkx_finds_them(
    spec: Spec, data: st.DataObject
) -> None:
    free = dataclasses.replace(spec.routing[0], interior="always")
    spec = dataclasses.replace(spec, routing=(free,), refusals=())
    machine = spec.machine(data.draw(st.sampled_from(spec.capability_sets())))
    graph = digraph(machine)
    for from_, lengths in networkx.all_pairs_shortest_path_length(graph):
        for to in graph:
            route = machine.route(from_, to)
            if spec.state(to).settable and (to in lengths):
                assert len(route.path) == lengths[to]
            elif from_ != to:
                assert route.refused is not None


# --- variants made without checks -----------------------------------------------------------------


def test_a_table_without_a_rule_in_force_states_it(spec: Spec) -> None:
    broken = dataclasses.replace(spec, routing=())
    with pytest.raises(SpecError, match="routing: has no rule in force"):
        broken.machine()


def test_the_literal_rule_can_be_put_in_force(spec: Spec) -> None:
    rules = [dataclasses.replace(row, in_force=row.name == "literal") for row in spec.routing]
    literal = dataclasses.replace(spec, routing=tuple(rules)).machine()
    different = {
        (state.name, target.name)
        for state in spec.states
        for target in spec.states
        if literal.route(state.name, target.name) != spec.machine().route(state.name, target.name)
    }
    assert different == {("PRE_COPY", "STOP_COPY")}
    assert literal.route("PRE_COPY", "STOP_COPY").path == (
        "RUNNING",
        "RUNNING_P2P",
        "STOP",
        "STOP_COPY",
    )


def test_many_columns_are_no_harder_than_few(spec: Spec) -> None:
    """Arcs between all columns of a row: the lines through them must not multiply."""
    count = 40
    column, state, arc = spec.operations[2], spec.state("STOP"), spec.arcs[0]
    names = [f"C{index}" for index in range(count)]
    wide = dataclasses.replace(
        spec,
        initial="C0",
        operations=tuple(dataclasses.replace(column, name=name) for name in names),
        states=tuple(
            dataclasses.replace(state, name=name, operation=name, value=index)
            for index, name in enumerate(names)
        ),
        arcs=tuple(
            dataclasses.replace(arc, from_=from_, to=to)
            for from_ in names
            for to in names
            if from_ != to
        ),
        refusals=(),
        events=(),
    )
    assert len(Machine(wide, wide.capability_set()).arcs) == count * (count - 1)
