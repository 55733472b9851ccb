"""One picture, every format."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from vfio_migration.diagrams.drawing import svg
from vfio_migration.diagrams.drawing.palette import Theme
from vfio_migration.diagrams.drawing.printable import printable
from vfio_migration.diagrams.machine.dot import draw
from vfio_migration.diagrams.machine.graph import Graph
from vfio_migration.diagrams.plain import to_json, to_mermaid
from vfio_migration.diagrams.plan.dot import draw_plan
from vfio_migration.diagrams.plan.mermaid import plan_to_mermaid
from vfio_migration.diagrams.plan.view import PlanView
from vfio_migration.model.extras import from_extra

Format = Literal["svg", "png", "pdf", "dot", "mmd", "json"]

FORMATS: tuple[Format, ...] = get_args(Format)
"""The formats `render` knows, by the usual ending of a file name."""

PNG_DPI = 144
"""Twice the dots of a plain screen, so that a manual in print or on a sharp screen looks well."""


def render(picture: Graph | PlanView, format: Format = "svg", theme: Theme = "auto") -> bytes:  # noqa: A002
    """Return a picture as the bytes of a file.

    The bytes of SVG, DOT, Mermaid and JSON are the same on every machine. PNG and PDF are drawn
    with the fonts that are there.

    Args:
        picture: What to draw: a machine, or the plan of a migration.
        format: One of `FORMATS`.
        theme: The colours. "auto" makes an SVG that follows its reader's setting; other formats
            cannot and are light.

    Raises:
        MissingExtraError: If the packages of the extra "diagrams" are not installed.
        ValueError: If the format is none of `FORMATS`.
    """
    picture = printable(picture)
    if format == "json":
        return to_json(picture).encode()
    if format == "mmd":
        return (
            to_mermaid(picture) if isinstance(picture, Graph) else plan_to_mermaid(picture)
        ).encode()
    if format not in FORMATS:
        raise ValueError(
            f"{format!r} is not a format of a picture: it is one of {', '.join(FORMATS)}"
        )
    drawing = draw(picture, theme) if isinstance(picture, Graph) else draw_plan(picture, theme)
    if format == "dot":
        return drawing.dot.encode()
    drawn = _draw(drawing.dot, format)
    if format == "svg":
        return svg.finish(drawn, drawing, theme)
    return _undated(drawn) if format == "pdf" else drawn


# --- Graphviz ---


# Graphviz keeps its state in globals of its own: one drawing at a time.
_graphviz = threading.Lock()


def _draw(dot: str, format: Literal["svg", "png", "pdf"]) -> bytes:  # noqa: A002
    with from_extra():
        import pygraphviz
    with _graphviz, _without_font_warnings():
        drawing = pygraphviz.AGraph(string=dot)
        if format == "png":
            drawing.graph_attr["dpi"] = str(PNG_DPI)
        drawn: bytes = drawing.draw(None, format=format, prog="nop2")
        drawing.close()
    return drawn


_fonts_are_loaded = False


@contextmanager
def _without_font_warnings() -> Iterator[None]:
    """Keep fontconfig's remarks about the system's configuration off stderr, and nothing else.

    The fontconfig inside pygraphviz is older than that of most systems and, from C, complains about
    what is new in /usr/share/fontconfig, which no variable keeps it from reading. It does so once,
    at the first drawing; what anyone else writes to stderr meanwhile arrives when that is done.
    """
    global _fonts_are_loaded
    if _fonts_are_loaded:
        yield
        return
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (OSError, AttributeError):  # no stderr: nothing to keep clean
        yield
        return
    with tempfile.TemporaryFile() as held, open(stderr, "wb") as real:  # noqa: PTH123
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            _fonts_are_loaded = True
            held.seek(0)
            for line in held:
                if not line.startswith(b"Fontconfig warning"):
                    real.write(line)


def _undated(pdf: bytes) -> bytes:
    """Blank out when and by what a PDF was made, keeping every byte's place: PDF counts on it."""

    def blank(found: re.Match[bytes]) -> bytes:
        return found[1] + b" " * len(found[2]) + b")"

    return re.sub(rb"(/(?:CreationDate|Producer) \()([^)]*(?:\([^)]*\)[^)]*)?)\)", blank, pdf)
