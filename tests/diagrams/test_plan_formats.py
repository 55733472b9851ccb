"""The plan of a migration in each format: all of it, the same every time, for everybody."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict
from itertools import pairwise

import pygraphviz
import pytest

from support.plan_walk import mixtures, pairs
from support.samples import sampled
from vfio_migration.diagrams import (
    FORMATS,
    Pair,
    migration_view,
    render,
    to_text,
)
from vfio_migration.diagrams.drawing.palette import DARK, LIGHT
from vfio_migration.diagrams.plan.layout import lay_out_plan
from vfio_migration.model.extras import MissingExtraError, install_command

SVG = "{http://www.w3.org/2000/svg}"
GROUPS = [(1,), *mixtures(2), (1, 3, 3, 3, 7, 7, 7, 7)]


@pytest.fixture(params=GROUPS, ids=str)
def view(request, spec):
    return migration_view(spec, pairs(request.param))


@pytest.fixture
def mixed(spec):
    return migration_view(spec, pairs((7, 5)))


def reported(view):
    """Each step, by its device; and each stream."""
    hops = [
        (view.lanes[hop.lane].side, view.lanes[hop.lane].device, hop.from_, hop.to)
        for stage in view.stages
        for hop in stage.hops
    ]
    return hops, [device for stage in view.stages for device in stage.flows]


# --- nothing is lost ---


def test_dot_shows_the_plan(view):
    graph = pygraphviz.AGraph(string=render(view, "dot").decode())
    states = {str(node): str(node.attr["label"]) for node in graph.nodes()}
    lanes = {name: int(name.split("-")[1]) for name in states if name.startswith("bar-")}
    hops, flows = [], []
    for edge in graph.edges():
        classes = edge.attr["class"].split()
        if "legend" in classes or edge[0] not in lanes:
            continue
        tail, head = view.lanes[lanes[edge[0]]], view.lanes[lanes[edge[1]]]
        if "arc" in classes:
            assert tail is head
            hops.append((tail.side, tail.device, states[edge[0]], states[edge[1]]))
        else:
            assert classes == ["flow"]
            assert (tail.side, head.side) == ("source", "destination")
            assert tail.device == head.device
            flows.append(tail.device)
    wanted_hops, wanted_flows = reported(view)
    assert Counter(hops) == Counter(wanted_hops)
    assert Counter(flows) == Counter(wanted_flows)
    shown = Counter(lanes.values())
    moved = Counter(hop.lane for stage in view.stages for hop in stage.hops)
    assert shown == {lane: moved[lane] + 1 for lane in range(len(view.lanes))}


def test_svg_shows_the_plan(view):
    root = ET.fromstring(render(view, "svg"))
    groups = [group.attrib for group in root.iter(f"{SVG}g")]
    drawn = [
        group.attrib
        for group in root.iter(f"{SVG}g")
        if any(group.find(f"{SVG}{shape}") is not None for shape in ("path", "polygon"))
        and group.get("id")
    ]
    hops, flows = [], []
    for row in drawn:
        if row["id"].startswith("hop-"):
            lane = view.lanes[int(row["data-lane"])]
            hops.append((lane.side, lane.device, row["data-from"], row["data-to"]))
        elif row["id"].startswith("flow-"):
            flows.append(int(row["data-device"]))
    assert (Counter(hops), Counter(flows)) == tuple(map(Counter, reported(view)))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    for lane, first in enumerate(view.lanes):
        bars = [row for row in drawn if row["id"].startswith(f"bar-{lane}-")]
        hopped = [hop.to for stage in view.stages for hop in stage.path(lane)]
        assert [row["data-state"] for row in bars] == [first.state, *hopped]
    for stage in view.stages:
        assert stage.name in texts
        assert str(stage.number) in texts
    assert {"downtime", "point of no return", "source", "destination"} <= set(texts)
    assert [row["data-holder"] for row in groups if row.get("data-holder")] == [
        "source",
        "delivered",
        "destination",
    ]


def test_mermaid_shows_the_plan(view):
    text = render(view, "mmd").decode()
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert json.loads(front.removeprefix("title: ")) == view.title
    assert body.startswith("sequenceDiagram\n")
    found = re.findall(r"^    (\w+?)(\d+)->>(\w+): (\w+) → (\w+)", body, re.MULTILINE)
    hops = [(side, int(n) - 1, from_, to) for side, n, name, from_, to in found if name == side + n]
    flows = re.findall(r"^    source(\d+)-\)destination(\d+): data$", body, re.MULTILINE)
    assert all(one == two for one, two in flows)
    assert (hops, [int(one) - 1 for one, _ in flows]) == reported(view)
    assert body.count("participant ") == len(view.lanes)
    assert len(re.findall(r"^    (?:box|rect) ", body, re.MULTILINE)) == body.count("\n    end\n")
    order = [
        body.index(words) for words in ("downtime begins", "point of no return", "downtime ends")
    ]
    assert order == sorted(order)
    for stage in view.stages:
        assert f": {stage.number}. {stage.name} (" in body


def test_text_shows_the_plan(view):
    text = to_text(view, 400)
    hops = set()
    for devices, path in re.findall(r"^      devices? ([\d, -]+): (\w+ → .*)$", text, re.MULTILINE):
        states = path.split(" → ")
        for part in devices.split(", "):
            first, _, last = part.partition("-")
            for device in range(int(first), int(last or first) + 1):
                hops |= {(device - 1, *pair) for pair in pairwise(states)}
    assert hops == {(device, from_, to) for _, device, from_, to in reported(view)[0]}
    for stage in view.stages:
        assert f"{stage.number}. {stage.name} (" in text
        assert stage.summary in text
    for lane in view.lanes:
        assert lane.label in text


def test_what_is_odd_in_a_name_breaks_no_format(spec):
    odd = 'a;b#c:d <e>&{f}"g\\N %%\tend'
    view = migration_view(spec, [Pair(odd, odd[::-1], 7)])
    dot = render(view, "dot").decode()
    assert len(pygraphviz.AGraph(string=dot).nodes()) > 20
    svg = ET.fromstring(render(view, "svg"))
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert any(title.startswith(view.lanes[0].label) for title in titles)
    mermaid = render(view, "mmd").decode()
    (line,) = [row for row in mermaid.splitlines() if "participant source1" in row]
    assert not re.search(r"[<>{}\"]|;(?!\w*)", line.replace("<br/>", ""))


# --- pictures ---


def test_png_is_a_picture_of_the_page(mixed):
    png = render(mixed, "png")
    width, height = struct.unpack(">II", png[16:24])
    layout = lay_out_plan(mixed)
    assert abs(width - 2 * layout.width) < 4
    assert abs(height - 2 * layout.height) < 4
    assert len(png) > 40_000
    assert png != render(mixed, "png", "dark")


def test_pdf_is_whole_and_has_no_date(mixed):
    pdf = render(mixed, "pdf")
    assert pdf.rstrip().endswith(b"%%EOF")
    assert not re.search(rb"D:20\d\d", pdf)


@sampled(6)
@pytest.mark.parametrize("format_", FORMATS)
def test_same_bytes_in_another_process(spec, format_, tmp_path):
    program = (
        "import sys; from vfio_migration.diagrams import *; from vfio_migration.model import load\n"
        "view = migration_view(load(), [Pair('/a', '/b', 7), Pair('/c', '/d', 5)])\n"
        f"sys.stdout.buffer.write(render(view, {format_!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7", "LC_ALL": "C"},
    )
    view = migration_view(spec, [Pair("/a", "/b", 7), Pair("/c", "/d", 5)])
    assert done.stdout == render(view, format_)
    assert done.stderr == b""


def test_svg_does_not_depend_on_the_fonts(spec, tmp_path):
    fonts = tmp_path / "fonts.conf"
    fonts.write_text("<fontconfig></fontconfig>")
    program = (
        "import sys; from vfio_migration.diagrams import *; from vfio_migration.model import load\n"
        "view = migration_view(load(), [Pair('/a', '/b', 7), Pair('/c', '/d', 5)])\n"
        "sys.stdout.buffer.write(render(view, 'svg'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        env={**os.environ, "FONTCONFIG_FILE": str(fonts)},
    )
    view = migration_view(spec, [Pair("/a", "/b", 7), Pair("/c", "/d", 5)])
    assert done.stdout == render(view, "svg")
    assert done.stderr == b"", "Graphviz states when a text does not fit"


@pytest.mark.parametrize("format_", ["svg", "dot"])
def test_themes_differ_in_colour_alone(mixed, format_):
    light, dark = (render(mixed, format_, theme).decode() for theme in ("light", "dark"))
    assert LIGHT.live in light
    assert DARK.live in dark
    shape = re.compile(r"#[0-9a-f]{6}")
    assert shape.sub("", light) == shape.sub("", dark)
    assert set(shape.findall(light)) <= set(asdict(LIGHT).values())
    assert set(shape.findall(dark)) <= set(asdict(DARK).values())


# --- for everybody ---


def test_svg_is_named_for_screen_readers(mixed):
    root = ET.fromstring(render(mixed, "svg"))
    named = {element.get("id"): element for element in root}
    title, description = (named[name].text for name in root.get("aria-labelledby").split())
    assert title == mixed.title
    assert description == to_text(mixed, 100)
    titles = {text.text for text in root.iter(f"{SVG}title")}
    assert (
        "/run/vfio/source/device-1.sock: PRE_COPY → PRE_COPY_P2P: "
        "Stop starting peer-to-peer DMA; the saving session goes on." in titles
    )
    assert not [text for text in titles if "text-" in text or "cluster" in text or "%3" in text]
    assert not list(root.iter(f"{SVG}a"))


def test_svg_ids_are_unique(view):
    root = ET.fromstring(render(view, "svg"))
    ids = Counter(element.get("id") for element in root.iter() if element.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []


def test_svg_turns_dark_with_its_reader(view):
    """Every colour of the light theme is replaced: no class is forgotten."""
    root = ET.fromstring(render(view, "svg"))
    sheet = root.find(f"{SVG}style").text
    rules = []
    for selector, body in re.findall(r"^\.vfio-migration ([^{]+)\{([^}]*)\}", sheet, re.MULTILINE):
        tags = set(re.findall(r"\b(?:path|polygon|polyline|ellipse|text)\b", selector))
        rules.append((set(re.findall(r"\.([\w-]+)", selector)), tags, body))
    checked = 0
    for group in root.find(f"{SVG}g").iter(f"{SVG}g"):
        own = set(group.get("class", "").split())
        for shape in group:
            tag = shape.tag.removeprefix(SVG)
            for attribute in ("fill", "stroke"):
                if shape.get(attribute) in (None, "none", "transparent"):
                    continue
                checked += 1
                assert any(
                    names <= own and tag in tags and f"{attribute}:" in body
                    for names, tags, body in rules
                ), (own, tag, attribute, shape.get(attribute))
    assert checked > 100


# --- without the extra ---


@pytest.mark.parametrize("package", ["graphviz", "pygraphviz"])
def test_text_needs_no_graphviz(mixed, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert to_text(mixed)
    assert render(mixed, "mmd")
    assert render(mixed, "json")
    with pytest.raises(MissingExtraError, match=re.escape(install_command("diagrams"))):
        render(mixed, "svg")
