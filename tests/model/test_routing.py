"""What a request leads to: every cell that Linux answers, every value, every reason to refuse."""

from __future__ import annotations

import dataclasses
import enum
import itertools
import pickle
from typing import Any

import pytest

from vfio_migration.model import Machine, Spec, SpecError, UnknownNameError
from vfio_migration.model import machine as machines

FLAGS = (1, 3, 5, 7)


@pytest.fixture(params=FLAGS, ids=lambda flags: f"flags{flags}")
def machine(request: pytest.FixtureRequest, spec: Spec) -> Machine:
    return spec.machine(request.param)


# --- against Linux --------------------------------------------------------------------------------


def test_the_record_has_every_cell(spec: Spec, linux_paths: dict[str, Any]) -> None:
    names = [row.name for row in spec.states]
    assert [int(flags) for flags in linux_paths] == [int(c.value) for c in spec.capability_sets()]
    cells = 0
    for table in linux_paths.values():
        assert sorted(table) == sorted(names)
        for row in table.values():
            assert sorted(row) == sorted(names)
            cells += len(row)
    assert cells == 256


def test_every_cell_is_what_linux_answers(spec: Spec, linux_paths: dict[str, Any]) -> None:
    for flags, table in linux_paths.items():
        machine = spec.machine(int(flags))
        for from_, row in table.items():
            for to, path in row.items():
                cell = f"{flags}: {from_} -> {to}"
                if not machine.supports(from_):
                    # No device can be there. Linux answers, but its caller never asks.
                    with pytest.raises(SpecError, match="is not a state of a device with"):
                        machine.route(from_, to)
                    continue
                route = machine.route(from_, to)
                assert (None if route.refused else list(route.path)) == path, cell
                if path is None:
                    assert (route.refused.errno, route.arcs) == ("EINVAL", ()), cell
                first = machine.next_step(from_, to)
                assert first == (path[0] if path else None), cell


def test_cells_of_states_a_device_cannot_be_in_are_refused_by_linux_too(
    spec: Spec, linux_paths: dict[str, Any]
) -> None:
    for flags, table in linux_paths.items():
        machine = spec.machine(int(flags))
        for from_, row in table.items():
            if not machine.supports(from_):
                assert set(map(str, row.values())) == {"None"}


def test_target_by_value_by_name_and_by_row_is_one_answer(machine: Machine) -> None:
    for from_, to in itertools.product(machine.states, machine.spec.states):
        by_name = machine.route(from_.name, to.name)
        assert machine.route(from_.name, to.value) == by_name == machine.route(from_.name, to)


@pytest.mark.parametrize("from_", ["ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING"])
def test_every_value_is_decided(machine: Machine, from_: str) -> None:
    names = {row.value: row.name for row in machine.spec.states}
    odd = [256, 0xABCD, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF, -1, 1 << 64]
    for value in [*range(256), *odd]:
        route = machine.route(from_, value)
        if value in names:
            assert route == machine.route(from_, names[value])
            assert route.to == names[value]
        else:
            assert route.refused is not None
            assert (route.refused.errno, route.refused.when) == ("EINVAL", "value_unknown")
            assert (route.to, route.path) == (value, ())


def test_unknown_values_are_not_kept(spec: Spec) -> None:
    machine = Machine(spec, spec.capability_set())
    for value in range(1000, 3000):
        machine.route("RUNNING", value)
    assert len(machine._routes) == 0


# --- refusals and their order ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "from_", "to", "when"),
    [
        (7, "RUNNING", 8, "value_unknown"),
        (7, "ERROR", 8, "value_unknown"),
        (1, "RUNNING", "PRE_COPY", "target_unsupported"),
        (1, "ERROR", "PRE_COPY", "target_unsupported"),
        (1, "STOP_COPY", "PRE_COPY", "target_unsupported"),
        (7, "RUNNING", "ERROR", "target_not_settable"),
        (7, "ERROR", "ERROR", "target_not_settable"),
        (7, "ERROR", "RUNNING", "no_way_out"),
        (7, "STOP_COPY", "PRE_COPY", "pair_refused"),
        (7, "STOP_COPY", "PRE_COPY_P2P", "pair_refused"),
        (5, "STOP_COPY", "PRE_COPY", "pair_refused"),
    ],
)
def test_the_first_reason_that_holds_refuses(
    spec: Spec, flags: int, from_: str, to: str | int, when: str
) -> None:
    refused = spec.machine(flags).route(from_, to).refused
    assert refused is not None
    assert refused.when == when
    row = next(row for row in spec.requests if row.when == when)
    named = spec.refusal(from_, str(to)) if when == "pair_refused" else None
    expected = named or row
    assert (refused.errno, refused.reason) == (expected.errno, expected.reason)
    assert refused.source == expected.source


def test_the_order_of_the_rows_decides(spec: Spec) -> None:
    """A table that asks whether the device is already there first lets ERROR -> ERROR pass."""
    rows = sorted(spec.requests, key=lambda row: row.when != "already_there")
    machine = dataclasses.replace(spec, requests=tuple(rows)).machine()
    assert machine.route("ERROR", "ERROR").refused is None
    assert machine.route("RUNNING", "ERROR").refused.when == "target_not_settable"


def test_any_order_of_the_rows_decides_every_request(spec: Spec) -> None:
    for rows in itertools.permutations(spec.requests):
        machine = dataclasses.replace(spec, requests=rows).machine()
        for from_, to in [("RUNNING", 99), ("ERROR", 2), ("STOP", "STOP"), ("STOP_COPY", 6)]:
            route = machine.route(from_, to)
            assert route.arcs == ()
            assert (route.refused is None) == (to == "STOP")


def test_no_op(machine: Machine) -> None:
    for state in machine.states:
        route = machine.route(state.name, state.name)
        assert route.arcs == ()
        assert (route.refused is None) == (state.name != "ERROR")


def test_unknown_names(spec: Spec) -> None:
    machine = spec.machine()
    with pytest.raises(UnknownNameError, match='did you mean "RUNNING"'):
        machine.route("RUNING", "STOP")
    with pytest.raises(UnknownNameError, match='did you mean "PRE_COPY"'):
        machine.route("RUNNING", "PRECOPY")


def test_a_table_without_a_last_word_states_it(spec: Spec) -> None:
    rows = tuple(row for row in spec.requests if row.when != "no_path")
    machine = dataclasses.replace(spec, requests=rows, refusals=(), arcs=spec.arcs[:1]).machine()
    with pytest.raises(SpecError, match="has no path, and no row of requests refuses it"):
        machine.route("RUNNING", "STOP")


def test_options_answer_for_every_state_of_the_table(machine: Machine) -> None:
    for state in machine.states:
        options = machine.options(state.name)
        assert [route.to for route in options] == [row.name for row in machine.spec.states]
        for route in options:
            assert route == machine.route(state.name, str(route.to))
            if route.refused is None:
                assert (route.path == ()) == (route.to == state.name)
            else:
                assert route.path == ()
            if route.refused:
                assert route.refused.reason
                assert route.refused.source


def test_routes_read_well(spec: Spec) -> None:
    machine = spec.machine()
    assert str(machine.route("RUNNING", "STOP")) == "RUNNING -> RUNNING_P2P -> STOP"
    assert str(machine.route("STOP", "STOP")) == "STOP -> STOP: nothing to do"
    assert str(machine.route("STOP_COPY", "PRE_COPY")) == "STOP_COPY -> PRE_COPY: refused (EINVAL)"


# --- restriction ----------------------------------------------------------------------------------

ARCS = {
    1: "RUNNING>STOP STOP>RUNNING STOP>STOP_COPY STOP_COPY>STOP STOP>RESUMING RESUMING>STOP",
    3: "RUNNING>RUNNING_P2P RUNNING_P2P>RUNNING RUNNING_P2P>STOP STOP>RUNNING_P2P STOP>STOP_COPY "
    "STOP_COPY>STOP STOP>RESUMING RESUMING>STOP",
    5: "RUNNING>STOP STOP>RUNNING STOP>STOP_COPY STOP_COPY>STOP STOP>RESUMING RESUMING>STOP "
    "RUNNING>PRE_COPY PRE_COPY>RUNNING PRE_COPY>STOP_COPY",
    7: "RUNNING>RUNNING_P2P RUNNING_P2P>RUNNING RUNNING_P2P>STOP STOP>RUNNING_P2P STOP>STOP_COPY "
    "STOP_COPY>STOP STOP>RESUMING RESUMING>STOP RUNNING>PRE_COPY PRE_COPY>RUNNING "
    "RUNNING_P2P>PRE_COPY_P2P PRE_COPY_P2P>RUNNING_P2P PRE_COPY>PRE_COPY_P2P "
    "PRE_COPY_P2P>PRE_COPY PRE_COPY_P2P>STOP_COPY",
}


def test_arcs_of_each_capability_set(spec: Spec) -> None:
    for flags, listed in ARCS.items():
        arcs = {f"{arc.from_}>{arc.to}" for arc in spec.machine(flags).arcs}
        assert arcs == set(listed.split())
    assert [len(spec.machine(flags).arcs) for flags in FLAGS] == [6, 8, 9, 15]


def test_states_of_each_capability_set(spec: Spec) -> None:
    base = {"ERROR", "STOP", "RUNNING", "STOP_COPY", "RESUMING"}
    more = {1: set(), 3: {"RUNNING_P2P"}, 5: {"PRE_COPY"}}
    more[7] = {"RUNNING_P2P", "PRE_COPY", "PRE_COPY_P2P"}
    for flags, names in more.items():
        assert {row.name for row in spec.machine(flags).states} == base | names


def test_joined_arcs_name_what_they_pass_over(spec: Spec) -> None:
    joined = {str(arc): arc.via for arc in spec.machine(5).arcs if arc.via}
    assert joined == {
        "RUNNING -> STOP": ("RUNNING_P2P",),
        "STOP -> RUNNING": ("RUNNING_P2P",),
        "PRE_COPY -> STOP_COPY": ("PRE_COPY_P2P",),
    }
    assert not any(arc.via for arc in spec.machine(7).arcs)


def test_a_direct_arc_goes_before_a_joined_one(spec: Spec) -> None:
    direct = dataclasses.replace(spec.arcs[0], from_="RUNNING", to="STOP")
    for arcs in ((direct, *spec.arcs), (*spec.arcs, direct)):
        machine = dataclasses.replace(spec, arcs=arcs).machine(1)
        assert machine.arc("RUNNING", "STOP") == direct
        assert len({(arc.from_, arc.to) for arc in machine.arcs}) == len(machine.arcs)


def test_effects(spec: Spec) -> None:
    saving = {"PRE_COPY", "PRE_COPY_P2P", "STOP_COPY"}
    for arc in spec.arcs:
        before = arc.from_ in saving or arc.from_ == "RESUMING"
        after = arc.to in saving or arc.to == "RESUMING"
        expected = {
            (False, False): "none",
            (False, True): "opens",
            (True, False): "closes",
            (True, True): "keeps",
        }[before, after]
        assert spec.effect(arc.from_, arc.to) == expected
    with pytest.raises(SpecError, match="moves from session saving to resuming"):
        spec.effect("STOP_COPY", "RESUMING")


def test_stream_ends(spec: Spec) -> None:
    kinds = {row.name: end.kind for row in spec.states if (end := spec.stream_end(row.name))}
    assert kinds == {"PRE_COPY": "temporary", "PRE_COPY_P2P": "temporary", "STOP_COPY": "final"}


def test_positions(spec: Spec) -> None:
    assert {row.name: spec.position(row.name) for row in spec.states} == {
        "ERROR": None,
        "PRE_COPY": (0, 0),
        "PRE_COPY_P2P": (1, 0),
        "STOP_COPY": (2, 0),
        "RUNNING": (0, 1),
        "RUNNING_P2P": (1, 1),
        "STOP": (2, 1),
        "RESUMING": (2, 2),
    }


# --- capability sets and profiles -----------------------------------------------------------------


def test_capability_sets_of_the_profiles(spec: Spec) -> None:
    assert [int(one.value) for one in spec.capability_sets()] == [1, 3, 5, 7]
    assert spec.capability_sets("linux") == spec.capability_sets()
    assert [int(one.value) for one in spec.capability_sets("vfio-user")] == [1, 5]
    with pytest.raises(UnknownNameError, match='did you mean "vfio-user"'):
        spec.capability_sets("vfio_user")


def test_a_capability_set_is_made_of_anything_that_names_one(spec: Spec) -> None:
    flag = spec.capability_type
    expected = flag(3)
    for given in ("STOP_COPY,P2P", " P2P , STOP_COPY ", ["P2P", "STOP_COPY"], 3, expected):
        assert spec.capability_set(given) == expected
    assert spec.capability_set() == spec.capability_set(7)
    assert spec.names(expected) == ("STOP_COPY", "P2P")
    assert isinstance(expected, enum.Flag)


def test_a_machine_is_made_once_for_each_set(spec: Spec) -> None:
    assert spec.machine("STOP_COPY,P2P") is spec.machine(3) is spec.machine(["P2P", "STOP_COPY"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("STOP_COPY,P3P", 'capability: "P3P": there is no such capability in this table; '
        'did you mean "P2P"?'),
        ("P2P", 'flags: "P2P": lacks STOP_COPY, which every device that migrates must have; '
         "add STOP_COPY"),
        ("", 'flags: "": lacks STOP_COPY, which every device that migrates must have; '
         "add STOP_COPY"),
        (0, 'flags: "": lacks STOP_COPY, which every device that migrates must have; '
         "add STOP_COPY"),
        (9, "flags: 9: has bits that stand for no capability; "
         "there are STOP_COPY 1, P2P 2, PRE_COPY 4"),
        (-1, "flags: -1: has bits that stand for no capability; "
         "there are STOP_COPY 1, P2P 2, PRE_COPY 4"),
    ],
)  # fmt: skip
def test_bad_capability_sets(spec: Spec, given: str | int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec.capability_set(given)
    assert str(caught.value) == message


# --- machines as values ---------------------------------------------------------------------------


def test_machines_survive_pickling(machine: Machine) -> None:
    copy = pickle.loads(pickle.dumps(machine))
    assert copy.spec == machine.spec
    assert copy.names == machine.names
    assert copy.arcs == machine.arcs
    assert copy.options("STOP") == machine.options("STOP")
    assert repr(copy) == repr(machine)


def test_a_state_of_no_device_is_refused_as_a_start(spec: Spec) -> None:
    with pytest.raises(SpecError) as caught:
        spec.machine(1).route("PRE_COPY", "STOP")
    assert str(caught.value) == (
        'from: "PRE_COPY": is not a state of a device with STOP_COPY; it requires '
        "STOP_COPY,PRE_COPY"
    )


def test_a_route_and_why_it_is_refused_cannot_be_changed(spec: Spec) -> None:
    """They are kept and handed out again."""
    route = spec.machine(7).route("STOP_COPY", "PRE_COPY")
    assert route.refused is not None
    for kept, name in ((route, "to"), (route.refused, "errno")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kept, name, "another")


def test_a_rule_names_the_guarded_session_by_its_text(spec: Spec, machine: Machine) -> None:
    """With the arcs in another order, too: of two paths that are as long one is refused."""
    rule = spec.routing_rule()
    same = dataclasses.replace(rule, guarded="".join(list(rule.guarded)))
    assert same.guarded is not rule.guarded
    turned = dataclasses.replace(spec, arcs=spec.arcs[::-1]).machine(machine.capabilities)
    for state in machine.states:
        wanted = machine.first_steps(state.name, rule)
        assert turned.first_steps(state.name, same) == wanted


def test_a_line_begins_where_it_is_asked_for_and_goes_on_in_one_direction(spec: Spec) -> None:
    found = [[str(arc) for arc in line] for line in machines.lines(spec, "RUNNING")]
    for arc in spec.arcs:
        assert ([str(arc)] in found) == (arc.from_ == "RUNNING")
    assert ["RUNNING -> RUNNING_P2P", "RUNNING_P2P -> STOP"] in found
