"""What Graphviz's SVG still needs before it can be committed and read by everybody.

Graphviz draws; this module takes its name and version out, puts the few texts whose place it
measured by the font where the layout has them, names every state and edge for screen readers and
for the pointer, and adds the colours of the dark theme.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from vfio_migration.diagrams.drawing.palette import DARK, STYLES, Palette, Theme
from vfio_migration.diagrams.drawing.shapes import Point

SVG = "http://www.w3.org/2000/svg"
FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


Rules = Mapping[str, Mapping[str, str]]
"""The attributes of each selector of a style sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What the layout knows of one group of the SVG, by its `id`.

    Attributes:
        title: What it states when pointed at.
        data: Attributes for programs, their names without the "data-".
        pins: Where its lines of text belong.
    """

    title: str | None = None
    data: Mapping[str, str]
    pins: Sequence[Point] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A picture, ready for Graphviz, and what the SVG of it has to state.

    Attributes:
        dot: Its DOT text.
        title: Its title.
        description: The picture in words.
        height: Its height in points.
        groups: What is known of the groups of its SVG, by their `id`.
        rules: The colours of what only this kind of picture has.
    """

    dot: str
    title: str
    description: str
    height: float
    groups: Mapping[str, Group]
    rules: Callable[[Palette], Rules] = lambda _palette: {}


def finish(drawn: bytes, drawing: Drawing, theme: Theme) -> bytes:
    """Return the finished SVG of what Graphviz drew."""
    ET.register_namespace("", SVG)
    # Comments, one of them the version of Graphviz, and the document type are dropped on the way.
    root = ET.fromstring(drawn)
    graph = root.find(f"{{{SVG}}}g")
    assert graph is not None, "Graphviz draws one group"
    for element in list(graph):
        if element.tag == f"{{{SVG}}}title":
            graph.remove(element)
    for element in graph.findall(f"{{{SVG}}}g"):
        _finish_group(element, drawing.groups.get(element.get("id", "")), drawing.height)
    for label in root.iter(f"{{{SVG}}}text"):
        # Graphviz ends its lists with "sans-Serif", which some viewers take for a font's name.
        label.attrib.pop("font-family", None)
    root.set("font-family", FONTS)
    root.set("class", "vfio-migration")
    root.set("role", "img")
    root.set("aria-labelledby", "picture-title picture-description")
    head = [
        _element("title", drawing.title.replace("\n", ", "), id="picture-title"),
        _element("desc", drawing.description, id="picture-description"),
    ]
    if sheet := style_sheet(theme, drawing.rules):
        head.append(_element("style", sheet))
    for index, element in enumerate(head):
        element.tail = "\n"
        root.insert(index, element)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _finish_group(element: ET.Element, group: Group | None, height: float) -> None:
    _unwrap(element)
    title = element.find(f"{{{SVG}}}title")
    if title is not None and (group is None or group.title is None):
        element.remove(title)
    if group is None:
        return
    if title is not None and group.title is not None:
        title.text = group.title
    for name, value in group.data.items():
        element.set(f"data-{name}", value)
    for text, (x, y) in zip(element.findall(f"{{{SVG}}}text"), group.pins, strict=False):
        text.set("text-anchor", "middle")
        text.set("x", _number(x))
        # Graphviz moves the whole drawing down by its height, so its y count from the bottom.
        text.set("y", _number(y - height))


def _unwrap(element: ET.Element) -> None:
    """Take out the link that Graphviz makes of a tooltip: it leads nowhere."""
    for index, child in enumerate(list(element)):
        link = child.find(f"{{{SVG}}}a")
        if link is not None:
            element.remove(child)
            for offset, part in enumerate(list(link)):
                element.insert(index + offset, part)


def _element(name: str, text: str, **attributes: str) -> ET.Element:
    element = ET.Element(f"{{{SVG}}}{name}", attributes)
    element.text = text
    return element


def _number(value: float) -> str:
    return re.sub(r"\.?0+$", "", f"{value:.2f}") if value else "0"


# --- the style sheet ---


def style_sheet(theme: Theme, rules: Callable[[Palette], Rules]) -> str:
    """Return the CSS of a picture, empty if it has one theme only.

    The colours of its own theme are in the drawing itself: a viewer that knows no CSS, or no dark
    theme, shows a whole picture all the same.
    """
    if theme != "auto":
        return ""
    dark = {**_colours(DARK), **rules(DARK)}
    lines = ["@media (prefers-color-scheme:dark){", *map(_rule, dark.items()), "}"]
    return "\n" + "\n".join(lines) + "\n"


def _rule(rule: tuple[str, Mapping[str, str]]) -> str:
    body = ";".join(f"{key}:{value}" for key, value in rule[1].items())
    return f".vfio-migration {rule[0]}{{{body}}}"


def _colours(palette: Palette) -> Rules:
    rules: dict[str, Mapping[str, str]] = {
        ".page polygon": {"fill": palette.page, "stroke": palette.page},
        ".band path": {"fill": palette.band, "stroke": palette.band},
        ".frame path": {"stroke": palette.rule},
        ".cluster.legend path": {"stroke": palette.rule},
        ".state path": {"fill": palette.node, "stroke": palette.border},
        ".state.strong path": {"fill": palette.strong_fill, "stroke": palette.strong},
        ".state.alarm polygon": {"fill": palette.alarm_fill, "stroke": palette.alarm},
        ".state.alarm polyline": {"stroke": palette.alarm},
        ".state.dim path": {"stroke": palette.rule},
        ".state text": {"fill": palette.text},
        ".state text + text": {"fill": palette.muted},
        ".state.dim text": {"fill": palette.muted},
        ".text text": {"fill": palette.text},
        ".text.muted text": {"fill": palette.muted},
        ".badge path": {"fill": palette.strong, "stroke": palette.page},
        ".badge.failed polygon": {"fill": palette.alarm, "stroke": palette.page},
        ".badge text": {"fill": palette.badge_text},
    }
    colours = {f".edge.{kind}": palette.edge(kind) for kind in STYLES}
    for name, colour in {**colours, ".edge.alarm": palette.alarm}.items():
        rules |= line_rules(name, colour)
    return rules


def line_rules(name: str, colour: str) -> Rules:
    """Return the rules that give a line, with its ends, a colour."""
    drawn = {f"{name} {shape}": {"stroke": colour} for shape in ("path", "polyline")}
    ends = {
        f"{name} {shape}": {"fill": colour, "stroke": colour} for shape in ("polygon", "ellipse")
    }
    return {**drawn, **ends}
