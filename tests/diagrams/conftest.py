"""Pictures that several tests look at."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pygraphviz
import pytest

from vfio_migration.model import Machine, Spec, Step, Trace, load

FLAGS = [1, 3, 5, 7]

SVG = "{http://www.w3.org/2000/svg}"


class Reader:
    """Reads pictures back, by parsers that are not ours."""

    @staticmethod
    def dot_edges(dot: str) -> set[tuple[str, str, str]]:
        """(from, to, kind) of the edges that are no legend, as Graphviz parses them."""
        found = []
        graph = pygraphviz.AGraph(string=dot)
        for edge in graph.edges():
            classes = edge.attr["class"].split()
            if "legend" not in classes:
                kind = next(
                    name for name in classes if name not in ("arc", "strong", "dim", "alarm")
                )
                start = "" if edge[0].startswith("any-") else str(edge[0])
                found.append((start, str(edge[1]), kind))
        assert len(found) == len(set(found)), "an edge is drawn twice"
        return set(found)

    @staticmethod
    def dot_states(dot: str) -> set[str]:
        graph = pygraphviz.AGraph(string=dot)
        return {
            str(node)
            for node in graph.nodes()
            if "state" in node.attr["class"].split() and "legend" not in node.attr["class"].split()
        }

    @staticmethod
    def svg_edges(svg: bytes) -> set[tuple[str, str, str]]:
        return {
            (group.get("data-from"), group.get("data-to"), group.get("data-kind"))
            for group in ET.fromstring(svg).iter(f"{SVG}g")
            # A group with a name but no line would say what nobody can see.
            if "edge" in group.get("class", "").split()
            and "legend" not in group.get("class", "").split()
            and group.find(f"{SVG}path") is not None
        }

    @staticmethod
    def json_edges(text: str) -> set[tuple[str, str, str]]:
        return {(row.get("from", ""), row["to"], row["kind"]) for row in json.loads(text)["edges"]}

    @staticmethod
    def mermaid_edges(text: str) -> set[tuple[str, str]]:
        found = re.findall(r"^    (\S+) --> (\S+)", text, re.MULTILINE)
        return {
            ("" if start == "any_state" else start, to) for start, to in found if start != "[*]"
        }

    @staticmethod
    def svg_texts(svg: bytes) -> list[str]:
        return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.fixture
def read() -> type[Reader]:
    return Reader


@pytest.fixture(params=FLAGS, ids=lambda word: f"flags{word}")
def machine(request: pytest.FixtureRequest) -> Machine:
    return load().machine(request.param)


@pytest.fixture
def whole(spec: Spec) -> Machine:
    return spec.machine()


@pytest.fixture
def run(whole: Machine) -> Trace:
    """One of everything that can happen to a device."""
    return Trace(
        spec=whole.spec.name,
        capabilities=(whole.names,),
        start=("RUNNING",),
        title="What can go wrong",
        steps=(
            Step(kind="request", to="STOP", state="RUNNING"),
            Step(kind="arc", from_="RUNNING", to="RUNNING_P2P", state="RUNNING_P2P"),
            Step(
                kind="arc_failed", from_="RUNNING_P2P", to="STOP", state="RUNNING_P2P", errno="EIO"
            ),
            Step(kind="reset", state="RUNNING"),
            Step(kind="arc", from_="RUNNING", to="PRE_COPY", state="PRE_COPY", session=1),
            Step(kind="refused", to="ERROR", state="PRE_COPY", session=1, errno="EINVAL"),
            Step(kind="disconnect", state="PRE_COPY", session=1),
            Step(
                kind="arc_failed_for_good",
                from_="PRE_COPY",
                to="PRE_COPY_P2P",
                state="ERROR",
                errno="EIO",
            ),
            Step(kind="reset", state="RUNNING"),
        ),
    )
