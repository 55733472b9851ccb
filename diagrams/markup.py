"""Sections in the markup of manuals, and as data. Names in backquotes become code."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

NOTICE = "Made by vfio-migration tables. Do not edit this: edit the table, and make it anew."


RST_UNDERLINES = "=-~^\"'"
"""What underlines a heading in reStructuredText, by its level from 1 on."""

JSON_FORMAT = 1
"""The version of the JSON form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table, with its heading and a sentence before it.

    Attributes:
        title: The heading.
        text: What the table shows.
        header: The names of its columns.
        rows: Its cells. Names are in backquotes.
        depth: 1 for a section, 2 for one inside it.
        key: What kind of table it is.
        label: What it is referred to by, unique in a document; empty if there is nothing to refer
            to.
    """

    title: str
    text: str
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    depth: int = 1
    key: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Sections, and what is before them.

    Attributes:
        sections: The tables.
        title: The heading of all of it, one level above theirs; empty if there is none.
        intro: What a reader has to know first.
        level: The level of the headings of sections of depth 1; 0 for no headings at all.
    """

    sections: tuple[Section, ...]
    title: str = ""
    intro: str = ""
    level: int = 2


def markdown(document: Document) -> str:
    """Return a document in Markdown (GitHub's tables)."""
    lines = [f"<!-- {NOTICE} -->"]

    def heading(title: str, level: int) -> None:
        lines.extend(["", f"{'#' * level} {_inline(title, _markdown_text, '`')}"])

    if document.title:
        heading(document.title, document.level - 1)
    if document.intro:
        lines += ["", _inline(document.intro, _markdown_text, "`")]
    for section in document.sections:
        if section.label:
            lines += ["", f'<a id="{section.label}"></a>']
        if document.level:
            heading(section.title, document.level + section.depth - 1)
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


def restructured_text(document: Document) -> str:
    """Return a document in reStructuredText (`list-table` directives).

    Without a heading a label refers to the table itself, which then has the title as its caption.
    """
    lines = [f".. {NOTICE}"]
    if document.title:
        lines += ["", *_rst_heading(document.title, document.level - 1)]
    if document.intro:
        lines += ["", _inline(document.intro, _rst_text, "``")]
    for section in document.sections:
        label = [f".. _{section.label}:", ""] if section.label else []
        title = ""
        if document.level:
            heading = _rst_heading(section.title, document.level + section.depth - 1)
            lines += ["", *label, *heading]
            label = []
        else:
            title = f" {_inline(section.title, _rst_text, '``')}"
        lines += ["", _inline(section.text, _rst_text, "``")]
        if section.header:
            lines += ["", *label, f".. list-table::{title}", "   :header-rows: 1", ""]
            for row in (section.header, *section.rows):
                lines += [
                    f"   {'  ' if index else '* '}- {_rst_cell(cell)}"
                    for index, cell in enumerate(row)
                ]
    return "\n".join(lines) + "\n"


def _rst_heading(title: str, level: int) -> list[str]:
    text = _inline(title, _rst_text, "``")
    return [text, RST_UNDERLINES[level - 1] * len(text)]


def web_page_part(document: Document) -> str:
    """Return a document as a part of a page in HTML: sections with tables, without any style."""
    lines = [f"<!-- {NOTICE} -->"]

    def heading(title: str, level: int) -> None:
        lines.append(f"<h{level}>{_html(title)}</h{level}>")

    if document.title:
        heading(document.title, document.level - 1)
    if document.intro:
        lines.append(f"<p>{_html(document.intro)}</p>")
    for section in document.sections:
        label = f' id="{html.escape(section.label)}"' if section.label else ""
        lines.append(f"<section{label}>")
        if document.level:
            heading(section.title, document.level + section.depth - 1)
        lines.append(f"<p>{_html(section.text)}</p>")
        if section.header:
            lines.append("<table>")
            if not document.level:
                lines.append(f"<caption>{_html(section.title)}</caption>")
            cells = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in section.header)
            lines += [f"<thead><tr>{cells}</tr></thead>", "<tbody>"]
            for row in section.rows:
                cells = "".join(f"<td>{_html(cell)}</td>" for cell in row)
                lines.append(f"<tr>{cells}</tr>")
            lines += ["</tbody>", "</table>"]
        lines.append("</section>")
    return "\n".join(lines) + "\n"


def _html(text: str) -> str:
    parts = _parts(text)
    return "".join(
        f"<code>{html.escape(part)}</code>" if index % 2 else html.escape(part)
        for index, part in enumerate(parts)
    )


def comma_separated(section: Section, none: str) -> str:
    """Return one table as CSV, its header first.

    Args:
        section: The table.
        none: The cell that means nothing: it becomes an empty one.
    """
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    for row in (section.header, *section.rows):
        writer.writerow("" if cell == none else _bare(cell) for cell in row)
    return page.getvalue()


def to_json(sections: Iterable[Section], name: str) -> str:
    """Return tables as one JSON object; what is in backquotes elsewhere is bare here."""
    tables = [
        {
            "key": section.key,
            "label": section.label,
            "title": _bare(section.title),
            "text": _bare(section.text),
            "header": list(map(_bare, section.header)),
            "rows": [list(map(_bare, row)) for row in section.rows],
        }
        for section in sections
        if section.header
    ]
    data = {"format": JSON_FORMAT, "table": name, "tables": tables}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _bare(text: str) -> str:
    return "".join(_parts(text))


def _rst_text(text: str) -> str:
    # A word that ends in an underscore is a reference in reStructuredText.
    return re.sub(r"([\\*`|]|_(?!\w))", r"\\\1", text)


def _rst_cell(cell: str) -> str:
    words = _inline(cell, _rst_text, "``")
    # At its beginning, what looks like a bullet or a number would begin a list.
    return f"\\{words}" if re.match(r"[-+\u2022#(]|\w+[.)]\s", words) else words


def _inline(text: str, quote: Callable[[str], str], fence: str) -> str:
    """Quote what is plain text, and fence what is in backquotes."""
    return "".join(
        f"{fence}{part}{fence}" if index % 2 else quote(part)
        for index, part in enumerate(_parts(text))
    )


def _parts(text: str) -> list[str]:
    """Return a text cut at its backquotes: plain text and code by turns."""
    return re.split(r"`([^`\s](?:[^`]*[^`\s])?)`", " ".join(text.split()))
