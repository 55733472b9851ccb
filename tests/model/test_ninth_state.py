"""Anybody who adds a state, a column or a capability to a copy of the table changes no code."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest

from vfio_migration.model import Spec, digraph, load

DATA = Path(__file__).parents[1] / "data"
ADDED = {("STOP", "STOP_P2P"), ("STOP_P2P", "STOP")}


@pytest.fixture(params=["ninth_state", "ninth_capability"])
def ninth(request: pytest.FixtureRequest) -> Spec:
    return load(DATA / f"{request.param}.toml")


def test_it_is_the_table_and_what_was_added(spec: Spec, ninth: Spec) -> None:
    """The copies are held to the table: a change of it that they lack fails here."""
    assert [row for row in ninth.states if row.name != "STOP_P2P"] == list(spec.states)
    assert [row for row in ninth.operations if row.name != "deep_stopped"] == list(spec.operations)
    assert [row for row in ninth.arcs if (row.from_, row.to) not in ADDED] == list(spec.arcs)
    assert [row for row in ninth.capabilities if row.name != "DEEP"] == list(spec.capabilities)
    for section in (
        "activities",
        "sessions",
        "session_effects",
        "stream_ends",
        "refusals",
        "requests",
        "routing",
        "events",
    ):
        assert getattr(ninth, section) == getattr(spec, section)
    assert (len(ninth.states), len(ninth.arcs)) == (9, 17)


def test_it_is_on_the_grid(ninth: Spec) -> None:
    assert ninth.position("STOP") == (2, 1)
    assert ninth.position("STOP_P2P") == (3, 1)
    assert ninth.position("ERROR") is None


def test_it_is_routed(spec: Spec, ninth: Spec) -> None:
    for capabilities in ninth.capability_sets():
        machine = ninth.machine(capabilities)
        if not machine.supports("STOP_P2P"):
            assert machine.route("STOP", 8).refused.when == "target_unsupported"
            continue
        old = spec.machine(int(capabilities.value) & 7)
        for state in old.states:
            if state.name == "ERROR":
                continue
            to_stop = old.route(state.name, "STOP").path
            assert machine.route(state.name, "STOP_P2P").path == (*to_stop, "STOP_P2P")
            if state.name != "STOP_COPY":
                from_stop = old.route("STOP", state.name).path
                assert machine.route("STOP_P2P", state.name).path == ("STOP", *from_stop)
        assert machine.route("STOP_P2P", 8).path == ()
        assert machine.route("ERROR", "STOP_P2P").refused.when == "no_way_out"


def test_the_other_cells_are_as_they_were(spec: Spec, ninth: Spec) -> None:
    for capabilities in ninth.capability_sets():
        machine = ninth.machine(capabilities)
        old = spec.machine(int(capabilities.value) & 7)
        for from_ in old.states:
            for to in spec.states:
                assert machine.route(from_.name, to.name) == old.route(from_.name, to.name)


def test_the_capability_doubles_the_sets() -> None:
    ninth = load(DATA / "ninth_capability.toml")
    words = [int(one.value) for one in ninth.capability_sets()]
    assert words == [1, 3, 5, 7, 9, 11, 13, 15]
    assert [ninth.machine(word).supports("STOP_P2P") for word in words] == [False] * 4 + [True] * 4
    # vfio-user's profile does not list it.
    assert [int(one.value) for one in ninth.capability_sets("vfio-user")] == [1, 5]
    plain = load(DATA / "ninth_state.toml")
    assert [int(one.value) for one in plain.capability_sets()] == [1, 3, 5, 7]
    assert all(plain.machine(word).supports("STOP_P2P") for word in (1, 3, 5, 7))


def test_networkx_agrees(ninth: Spec) -> None:
    graph = digraph(ninth.machine())
    assert networkx.shortest_path(graph, "RUNNING", "STOP_P2P") == [
        "RUNNING",
        *ninth.machine().route("RUNNING", "STOP_P2P").path,
    ]
