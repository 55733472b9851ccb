"""Pictures as text without places: JSON for programs, Mermaid for pages that draw themselves."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from vfio_migration.diagrams.drawing.kinds import EdgeKind
from vfio_migration.diagrams.machine.graph import Edge, Graph, Node
from vfio_migration.diagrams.plan.view import PlanView

JSON_FORMAT = 1
"""The version of the JSON form."""


def to_json(picture: Graph | PlanView) -> str:
    """Return a picture as JSON, key for key: `from_` is `from`, and what is None is left out."""
    data = {"format": JSON_FORMAT, **_plain(asdict(picture))}
    if isinstance(picture, Graph):
        data["description"] = picture.description
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key.rstrip("_"): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


_MERMAID_WORDS: dict[EdgeKind, str] = {
    "moves": "",
    "opens": "opens session",
    "keeps": "keeps session",
    "closes": "closes session",
    "refused": "refused",
    "fails": "",
    "event": "",
}

_ANY = "any_state"


def to_mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid `stateDiagram-v2`.

    Mermaid finds its own places and knows one kind of line, so what an edge means is written on it.
    """
    ids = {node.name: _identifier(node) for node in graph.nodes}
    title = graph.title.replace("\n", ", ")
    lines = [
        "---",
        f"title: {json.dumps(title, ensure_ascii=False)}",
        "---",
        "stateDiagram-v2",
        f"    accTitle: {words(title)}",
        "    accDescr {",
        *(f"        {words(line)}" for line in graph.description.split("\n")),
        "    }",
        "    direction LR",
    ]
    lines += [
        f'    state "{words(node.name)}<br/>{words(node.caption)}" as {ids[node.name]}'
        for node in graph.nodes
    ]
    if any(edge.from_ is None for edge in graph.edges):
        lines.append(f'    state "any state" as {_ANY}')
    lines += [f"    [*] --> {ids[node.name]}" for node in graph.nodes if node.initial]
    for edge in graph.edges:
        start = _ANY if edge.from_ is None else ids[edge.from_]
        label = _label(edge)
        lines.append(f"    {start} --> {ids[edge.to]}" + (f" : {label}" if label else ""))
    for name, style in _CLASSES.items():
        members = [ids[node.name] for node in graph.nodes if name in (node.emphasis, node.change)]
        if members:
            lines += [f"    classDef {name} {style}", f"    class {','.join(members)} {name}"]
    return "\n".join(lines) + "\n"


# Only what works on a light and on a dark page.
_CLASSES = {
    "strong": "stroke:#0b7fd6,stroke-width:3px",
    "alarm": "stroke:#d6303a,stroke-width:3px",
    "dim": "opacity:0.45",
    "added": "stroke:#0a8f6c,stroke-width:3px",
    "removed": "stroke:#d6303a,stroke-dasharray:5 4",
    "changed": "stroke:#0b7fd6,stroke-width:2px",
}


def _label(edge: Edge) -> str:
    parts = []
    if edge.marks:
        parts.append("step " + ", ".join(mark.label for mark in edge.marks))
    if any(mark.failed for mark in edge.marks):
        parts.append("fails")
    if edge.change not in (None, "same"):
        parts.append(edge.change)
    text = edge.event_text or _MERMAID_WORDS[edge.kind]
    if edge.kind == "refused" and edge.errno:
        text += f" {edge.errno}"
    return words(", ".join([*parts, text] if text else parts))


def _identifier(node: Node) -> str:
    # In lower case, a name may be one of Mermaid's own words.
    return node.name if re.fullmatch(r"[A-Z][A-Z0-9_]*", node.name) else f"state_{node.value}"


def words(text: str) -> str:
    """Quote what would end a statement or begin markup."""
    codes = {
        "#": "#35;",
        ";": "#59;",
        '"': "#quot;",
        "<": "#lt;",
        ">": "#gt;",
        "{": "#123;",
        "}": "#125;",
    }
    return "".join(codes.get(character, character) for character in text)
