"""Draws the rooms and wings of the product from their imports, into docs/design.md.

    python tools/rooms_picture.py [--check]

An arrow leads from a wing to each one below it that it imports directly; what follows from other
arrows is left out. Imports that are made when they are used count as all others do.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import networkx
from made_page import write_or_compare

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "design.md"
ROOMS: Final = ("cli", "diagrams", "generators", "verifier", "runtime", "model")
WITH_WINGS: Final = ("verifier", "runtime")
BEGIN: Final = "<!-- rooms: made by tools/rooms_picture.py from the imports; do not edit. -->\n"
END: Final = "<!-- end of rooms -->\n"
_PACKAGE: Final = "vfio_migration."


def wing_of(module: str) -> str:
    """Return where a module belongs: its room, or in a room with wings its wing or itself."""
    room, *inside = module.split(".")
    return f"{room}.{inside[0]}" if room in WITH_WINGS and inside else room


def modules() -> dict[str, Path]:
    """Return the file of each module, by its name without `vfio_migration`.

    The face of a package (`__init__.py`) lists what users need first. It is above what it
    lists, and is no part of the picture.
    """
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.name != "__init__.py"
    }


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PACKAGE):
            module = str(node.module)[len(_PACKAGE) :]
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imports() -> networkx.DiGraph[str]:
    """Return which wing imports which."""
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_nodes_from(map(wing_of, modules()))
    for module, path in modules().items():
        for imported in _imported(path):
            one, other = wing_of(module), wing_of(imported)
            # What a room with wings gives to others is in its face.
            if one != other and graph.has_node(other):
                graph.add_edge(one, other)
    return graph


def _name(wing: str) -> str:
    return wing.replace(".", "_")


def _label(wing: str) -> str:
    place = ROOT / wing.replace(".", "/")
    name = wing.rpartition(".")[2]
    return f"{name}/" if place.is_dir() else f"{name}.py"


def picture() -> str:
    """Return the picture as Mermaid text.

    Raises:
        ValueError: Some wings import one another in a circle, which the message names.
    """
    graph = imports()
    if not networkx.is_directed_acyclic_graph(graph):
        circle = [edge[0] for edge in networkx.find_cycle(graph)]
        raise ValueError(f"wings import one another in a circle: {', '.join(circle)}")
    shown = networkx.transitive_reduction(graph)
    lines = ["flowchart TD"]
    for room in ROOMS:
        inside = [wing for wing in graph if wing.partition(".")[0] == room]
        lines.append(f"    subgraph {room}_room[{room}]")
        lines += [f'        {_name(wing)}["{_label(wing)}"]' for wing in inside]
        lines.append("    end")
    lines += [f"    {_name(one)} --> {_name(other)}" for one, other in sorted(shown.edges)]
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with the picture between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}```mermaid\n{picture()}```\n{END}{after}"


def main(words: list[str] | None = None) -> int:
    """Write the page anew, or compare it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python tools/rooms_picture.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    arguments = parser.parse_args(words)
    return write_or_compare(page(PAGE.read_text("utf-8")), PAGE, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
