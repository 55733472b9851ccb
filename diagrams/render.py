"""One picture, every format."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

from vfio_migration.diagrams import comment as comments
from vfio_migration.diagrams.comment import Comment
from vfio_migration.diagrams.drawing import svg
from vfio_migration.diagrams.drawing.page import WHOLE, Page
from vfio_migration.diagrams.drawing.palette import Theme
from vfio_migration.diagrams.drawing.printable import printable
from vfio_migration.diagrams.machine.dot import draw
from vfio_migration.diagrams.machine.graph import Graph
from vfio_migration.diagrams.machine.plain_dot import plain_dot
from vfio_migration.diagrams.machine.text import text_lines
from vfio_migration.diagrams.plain import to_json, to_mermaid
from vfio_migration.diagrams.plan.dot import draw_plan
from vfio_migration.diagrams.plan.mermaid import plan_to_mermaid
from vfio_migration.diagrams.plan.text import render as plan_text
from vfio_migration.diagrams.plan.view import PlanView
from vfio_migration.model.extras import from_extra

Format = Literal["svg", "png", "pdf", "dot", "mmd", "json", "text", "ascii"]

FORMATS: tuple[Format, ...] = get_args(Format)
"""The formats `render` knows: the usual endings of file names, and two kinds of plain text."""

PNG_DPI = 144
"""Twice the dots of a plain screen, so that a manual in print or on a sharp screen looks well."""


def render(
    picture: Graph | PlanView,
    format: Format = "svg",  # noqa: A002
    theme: Theme = "auto",
    page: Page = WHOLE,
    *,
    comment: Comment | None = None,
    plain: bool = False,
) -> bytes:
    """Return a picture as the bytes of a file.

    The bytes of all formats but PNG and PDF, which are drawn with the fonts that are there, are the
    same on every machine.

    Args:
        picture: What to draw: a machine, or the plan of a migration.
        format: One of `FORMATS`.
        theme: The colours. "auto" makes an SVG that follows its reader's setting; other formats
            cannot and are light.
        comment: For "text" and "ascii": what they are wrapped for. The lines are at most `WIDTH`
            columns wide, what wraps them included.
        page: How wide the picture is, and what is in it; of no account for JSON and Mermaid. In
            text it leaves out what is to be left out of a machine, and its width is of no account.
        plain: For DOT, whether the text leaves places, font and colours to the Graphviz that draws
            it; for a machine only, and the theme and the page are of no account then.

    Raises:
        TooNarrowError: If the page is too narrow for type that can be read.
        MissingExtraError: If the packages of the extra "diagrams" are not installed.
        ValueError: If the format is none of `FORMATS`, or nothing plain can be made.
    """
    picture = printable(picture)
    if format == "text" or format == "ascii":
        return _as_text(picture, page, comment, ascii_only=format == "ascii").encode()
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
    if plain:
        if format != "dot" or not isinstance(picture, Graph):
            raise ValueError("what is plain is a machine as DOT")
        return plain_dot(picture).encode()
    drawing = (
        draw(picture, theme, page)
        if isinstance(picture, Graph)
        else draw_plan(picture, theme, page)
    )
    if format == "dot":
        return drawing.dot.encode()
    drawn = _draw(drawing.dot, format)
    if format == "svg":
        return svg.finish(drawn, drawing, theme)
    return _undated(drawn) if format == "pdf" else drawn


def _as_text(
    picture: Graph | PlanView, page: Page, comment: Comment | None, *, ascii_only: bool
) -> str:
    width = comments.room(comment)
    if isinstance(picture, Graph):
        lines = text_lines(_without(picture, page), width, ascii_only=ascii_only)
    else:
        lines = plan_text(picture, width, ascii_only=ascii_only).splitlines()
    return "\n".join(comments.wrapped(lines, comment)) + "\n"


def _without(graph: Graph, page: Page) -> Graph:
    """Return a machine without what a page leaves out."""
    return replace(
        graph,
        title=graph.title if page.title else "",
        subtitle=graph.subtitle if page.title else "",
        legend=graph.legend if page.legend else (),
        steps=graph.steps if page.steps else (),
    )


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
