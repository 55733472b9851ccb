"""Sections as Markdown and as reStructuredText. Names in backquotes become code in both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

NOTICE = "Made by vfio-migration tables. Do not edit this: edit the table, and make it anew."


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table, with its heading and a sentence before it.

    Attributes:
        title: The heading.
        text: What the table shows.
        header: The names of its columns.
        rows: Its cells. Names are in backquotes.
        depth: 1 for a section, 2 for one inside it.
    """

    title: str
    text: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    depth: int = 1


def markdown(title: str, sections: Iterable[Section], intro: str = "") -> str:
    """Return the sections as a Markdown document (GitHub's tables)."""
    lines = [f"<!-- {NOTICE} -->", "", f"# {_inline(title, _markdown_text, '`')}"]
    if intro:
        lines += ["", _inline(intro, _markdown_text, "`")]
    for section in sections:
        heading = _inline(section.title, _markdown_text, "`")
        lines += ["", f"{'#' * (section.depth + 1)} {heading}"]
        lines += ["", _inline(section.text, _markdown_text, "`")]
        if section.header:
            lines += ["", _markdown_row(section.header), "|" + " --- |" * len(section.header)]
            lines += [_markdown_row(row) for row in section.rows]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Iterable[str]) -> str:
    # Inside a table a bar ends the cell, in code as elsewhere.
    words = [_inline(cell, _markdown_text, "`").replace("|", "\\|") for cell in cells]
    return "| " + " | ".join(words) + " |"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*<\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def restructured_text(title: str, sections: Iterable[Section], intro: str = "") -> str:
    """Return the sections as a reStructuredText document (`list-table` directives)."""
    lines = [f".. {NOTICE}", "", *_rst_heading(title, 0)]
    if intro:
        lines += ["", _inline(intro, _rst_text, "``")]
    for section in sections:
        lines += ["", *_rst_heading(section.title, section.depth)]
        lines += ["", _inline(section.text, _rst_text, "``")]
        if section.header:
            lines += ["", ".. list-table::", "   :header-rows: 1", ""]
            for row in (section.header, *section.rows):
                lines += [
                    f"   {'  ' if index else '* '}- {_rst_cell(cell)}"
                    for index, cell in enumerate(row)
                ]
    return "\n".join(lines) + "\n"


def _rst_heading(title: str, depth: int) -> list[str]:
    text = _inline(title, _rst_text, "``")
    return [text, "=-~"[depth] * len(text)]


def _rst_text(text: str) -> str:
    # A word that ends in an underscore is a reference in reStructuredText.
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)


def _rst_cell(cell: str) -> str:
    words = _inline(cell, _rst_text, "``")
    # At its beginning, what looks like a bullet or a number would begin a list.
    return f"\\{words}" if re.match(r"[-+\u2022#(]|\w+[.)]\s", words) else words


def _inline(text: str, quote: Callable[[str], str], fence: str) -> str:
    """Quote what is plain text, and fence what is in backquotes."""
    parts = re.split(r"`([^`\s](?:[^`]*[^`\s])?)`", " ".join(text.split()))
    return "".join(
        f"{fence}{part}{fence}" if index % 2 else quote(part) for index, part in enumerate(parts)
    )
