"""networkx as a second opinion: it knows nothing of next steps, only of simple paths.

The rule of which paths are legal is written here once more, from the text of the specification and
not from the model: a path may not pass through a saving state unless all of it is saving.
"""

from __future__ import annotations

import builtins

import networkx
import pytest

from vfio_migration.model import Machine, Spec, digraph
from vfio_migration.model.extras import install_command

SAVING = {"PRE_COPY", "PRE_COPY_P2P", "STOP_COPY"}
REFUSED = {("STOP_COPY", "PRE_COPY"), ("STOP_COPY", "PRE_COPY_P2P")}


@pytest.fixture(params=[1, 3, 5, 7], ids=lambda flags: f"flags{flags}")
def machine(request: pytest.FixtureRequest, spec: Spec) -> Machine:
    return spec.machine(request.param)


def legal(path: list[str]) -> bool:
    return not (SAVING & set(path[1:-1])) or set(path) <= SAVING


def shortest_legal(graph: networkx.DiGraph, from_: str, to: str) -> list[list[str]]:
    paths = [path for path in networkx.all_simple_paths(graph, from_, to) if legal(path)]
    shortest = min(map(len, paths), default=0)
    return [path for path in paths if len(path) == shortest]


def test_the_path_is_the_only_shortest_legal_one(machine: Machine) -> None:
    graph = digraph(machine)
    accepted = 0
    for from_ in graph:
        for to in graph:
            if from_ == to:
                continue
            route = machine.route(from_, to)
            best = shortest_legal(graph, from_, to)
            if route.refused is None:
                assert best == [[from_, *route.path]]
                accepted += 1
            else:
                # Refused by name, or nothing leads there; never because a path was overlooked.
                assert (from_, to) in REFUSED or not best
    assert accepted == {1: 12, 3: 20, 5: 19, 7: 40}[machine.capabilities.value]


def test_reachability_agrees(machine: Machine) -> None:
    graph = digraph(machine)
    for from_ in graph:
        reached = set(networkx.descendants(graph, from_)) | {from_}
        if from_ == "ERROR":
            assert reached == {"ERROR"}
            continue
        assert reached == set(graph) - {"ERROR"}
        by_requests = {from_}
        while more := {
            to
            for start in by_requests
            for to in graph
            if machine.route(start, to).refused is None and to not in by_requests
        }:
            by_requests |= more
        assert by_requests == reached


def test_the_oracle_can_disagree(spec: Spec) -> None:
    """With the literal rule it does, in the one cell where that rule is wrong."""
    graph = digraph(spec.machine())

    def literal(path: list[str]) -> bool:
        return not SAVING & set(path[1:-1])

    cells = set()
    for from_ in graph:
        for to in graph:
            route = spec.machine().route(from_, to)
            if route.path and not literal([from_, *route.path]):
                cells.add((from_, to))
    assert cells == {("PRE_COPY", "STOP_COPY")}


def test_networkx_finds_the_same_shortest_lengths_without_rules(machine: Machine) -> None:
    """A legal path is never shorter than the shortest of all; where none is guarded, it is that."""
    graph = digraph(machine)
    for from_, lengths in networkx.all_pairs_shortest_path_length(graph):
        for to, length in lengths.items():
            route = machine.route(from_, to)
            if route.refused is None:
                assert len(route.path) >= length
            if route.refused is None and not {from_, to} & SAVING:
                assert len(route.path) == length


def test_graph_carries_the_facts(spec: Spec) -> None:
    machine = spec.machine(5)
    graph = digraph(machine)
    assert graph.graph == {"name": "vfio-v2", "capabilities": ("STOP_COPY", "PRE_COPY")}
    assert list(graph) == [row.name for row in machine.states]
    assert [f"{a} -> {b}" for a, b in graph.edges] == [
        str(arc) for state in machine.states for arc in machine.arcs_from(state.name)
    ]
    assert graph.nodes["PRE_COPY"] == {
        "value": 6,
        "operation": "running",
        "session": "saving",
        "requires": ("STOP_COPY", "PRE_COPY"),
        "settable": True,
        "summary": spec.state("PRE_COPY").summary,
        "position": (0, 0),
    }
    edge = graph.edges["PRE_COPY", "STOP_COPY"]
    assert (edge["effect"], edge["via"]) == ("keeps", ("PRE_COPY_P2P",))
    assert edge["summary"] == machine.arc("PRE_COPY", "STOP_COPY").summary
    assert edge["source"].startswith("include/uapi/linux/vfio.h")


def test_without_networkx_the_error_states_how_to_get_it(
    spec: Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args, **kwargs):
        if name == "networkx":
            raise ModuleNotFoundError("No module named 'networkx'", name="networkx")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError) as caught:
        digraph(spec.machine())
    assert str(caught.value) == f"networkx is not installed; run: {install_command('graph')}"
    assert caught.value.name == "networkx"
