"""A picture as a part of a page: the SVG that `render` makes, its states to be clicked."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vfio_migration.diagrams.drawing.page import Page
from vfio_migration.diagrams.drawing.svg import SVG
from vfio_migration.diagrams.machine.dot import edge_id, identifier
from vfio_migration.diagrams.machine.graph import Graph
from vfio_migration.diagrams.machine.layout import lay_out
from vfio_migration.diagrams.render import render

LEAST: Final = 0.74
"""How many pixels of a screen a point of a picture has at least."""
_PAGE: Final = Page(title=False)
"""The page around it has the title."""
_SPACE: Final = f"{{{SVG}}}"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page.

    Attributes:
        svg: It, without a name space, as HTML has it.
        sheet: The rules of its dark theme.
    """

    svg: ET.Element
    sheet: str


def still(graph: Graph, name: str) -> Picture:
    """Return a picture to look at.

    Args:
        graph: What it shows.
        name: What the identifiers in it begin with.
    """
    root, sheet = _drawn(graph)
    _rename(root, name)
    return Picture(root, sheet)


def active(graph: Graph, name: str, states: Mapping[str, int]) -> Picture:
    """Return a picture whose states can be clicked and reached by the keyboard.

    Args:
        graph: What it shows.
        name: What the identifiers in it begin with.
        states: The number of each state.
    """
    root, sheet = _drawn(graph)
    ids = {node.name: identifier(node.name, node.value) for node in graph.nodes}
    nodes = {f"state-{ids[node.name]}": node for node in graph.nodes}
    edges = {edge_id(edge, ids): index for index, edge in enumerate(graph.edges)}
    root.set("role", "group")
    # What of it is shown beside the steps of a run: all but the legend.
    layout = lay_out(graph, _PAGE)
    root.set("data-whole", root.get("viewBox", ""))
    height = layout.height if layout.legend is None else layout.legend.top - 6
    root.set("data-short", f"0 0 {layout.width:.2f} {height:.2f}")
    for group in root.iter("g"):
        node = nodes.get(group.get("id", ""))
        if node is not None:
            group.set("data-index", str(states[node.name]))
            group.set("tabindex", "0")
            group.set("role", "button")
            place = f"{node.operation.replace('_', ' ')}, session {node.session}"
            group.set("aria-label", f"{node.name}, value {node.value}, {place}")
        elif (index := edges.get(group.get("id", ""))) is not None:
            group.set("data-edge", str(index))
            group.set("aria-hidden", "true")
        elif group.get("class", "").split(" ")[0] != "graph":
            group.set("aria-hidden", "true")
    _rename(root, name)
    return Picture(root, sheet)


def _drawn(graph: Graph) -> tuple[ET.Element, str]:
    """Return the SVG of a graph without its title, which the page has, and without its sheet."""
    root = ET.fromstring(render(graph, "svg", "auto", _PAGE))
    for made in root.iter():
        made.tag = made.tag.removeprefix(_SPACE)
    sheet = ""
    for child in list(root):
        if child.tag == "style":
            sheet = child.text or ""
        if child.tag in ("style", "title"):
            root.remove(child)
    # At least so wide that its smallest words can be read; the page may draw it wider.
    root.set("width", f"{lay_out(graph, _PAGE).width * LEAST:.0f}")
    root.attrib.pop("height", None)
    description = root.find("desc")
    if description is not None:
        description.text = graph.description
    return root, sheet


def _rename(root: ET.Element, name: str) -> None:
    for made in root.iter():
        if "id" in made.attrib:
            made.set("id", f"{name}-{made.attrib['id']}")
    root.attrib.pop("aria-labelledby", None)
    root.set("aria-describedby", f"{name}-picture-description")


__all__ = ["Picture", "active", "still"]
