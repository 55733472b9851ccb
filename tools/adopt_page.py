"""The page that offers our figures and tables to other trees, and the patches it offers.

`python tools/adopt_page.py` writes docs/adopting.md and docs/adopting/*.patch from
tools/adopt.toml, the findings and the table; with `--check` it compares what is there, byte for
byte.
"""

from __future__ import annotations

import argparse
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from findings_page import Finding, anchor, findings
from made_page import write_or_compare

from vfio_migration.diagrams import (
    Graph,
    Page,
    TableFormat,
    alternative,
    caption,
    machine_graph,
    render,
    tables,
)
from vfio_migration.diagrams.tables import sections
from vfio_migration.model import Machine, load

COLUMNS = 76
"""How long a line of a page may be, unless a word is longer."""

SHOWN = ("Operation", "Session", "Settable", "Source")
"""The columns that are left out, for which no manual has room: most of it is in the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """A tree, and the patch for it.

    Attributes:
        name: What the patch is called.
        title: What the tree is called.
        subject: The subject of the mail.
        message: What it states before the patch.
        page: The page that is added.
        heading: The heading of the page.
        license: The SPDX identifier at the head of the page: that of the tree.
        parts: What is on the page.
        findings: The findings it answers.
        index: The file that lists the pages, if the page has to be in a list.
        after: The entry of the list that it comes after.
    """

    name: str
    title: str
    subject: str
    message: str
    page: str
    heading: str
    license: str
    parts: tuple[dict[str, str], ...]
    findings: tuple[Finding, ...]
    index: str | None = None
    after: str | None = None


def trees() -> tuple[Tree, ...]:
    """Return the trees, in the order of the page."""
    known = {finding.id: finding for finding in findings()}
    rows = tomllib.loads(Path(__file__).with_name("adopt.toml").read_text("utf-8"))["trees"]
    return tuple(
        Tree(
            **{
                **row,
                "parts": tuple(row["parts"]),
                "findings": tuple(known[name] for name in row["findings"]),
            }
        )
        for row in rows
    )


# --- what is added to a tree ---


def added(tree: Tree, machine: Machine) -> dict[str, str]:
    """Return the files that the patch adds to a tree, by their paths in it."""
    is_rst = tree.page.endswith(".rst")
    graph = machine_graph(machine)
    files = {tree.page: "\n".join(_page(tree, graph, machine, is_rst=is_rst)).rstrip("\n") + "\n"}
    for part in tree.parts:
        if "file" in part:
            path = PurePosixPath(tree.page).with_name(part["file"])
            text = render(graph, "dot", plain=True).decode()
            files[str(path)] = f"// SPDX-License-Identifier: {tree.license}\n{text}"
    return files


def _page(tree: Tree, graph: Graph, machine: Machine, *, is_rst: bool) -> Iterator[str]:
    notice = f"SPDX-License-Identifier: {tree.license}"
    yield f".. {notice}" if is_rst else f"<!-- {notice} -->"
    yield ""
    yield from _heading(tree.heading, "=", is_rst)
    for part in tree.parts:
        if "heading" in part:
            yield ""
            yield from _heading(part["heading"], "-", is_rst)
        if "text" in part:
            yield ""
            yield from textwrap.wrap(part["text"], COLUMNS)
        if "proposal" in part:
            proposal = next(row.proposal for row in tree.findings if row.id == part["proposal"])
            assert proposal is not None, f"{part['proposal']} proposes no sentence"
            yield ""
            yield from textwrap.wrap(proposal, COLUMNS)
        if "figure" in part:
            yield ""
            yield from _figure(part, graph)
        if "table" in part:
            yield ""
            yield from _table(part["table"], machine, is_rst=is_rst)


def _table(kind: str, machine: Machine, *, is_rst: bool) -> list[str]:
    """Return a table without the columns of what the figure shows."""
    whole = next((one for one in sections(machine.spec) if one.key == kind), None)
    more = []
    if whole is not None and not set(SHOWN).isdisjoint(whole.header):
        kept = [index for index, name in enumerate(whole.header) if name not in SHOWN]
        header, *rows = (tuple(row[index] for index in kept) for row in (whole.header, *whole.rows))
        kind = f"{kind}-in-short"
        more = [replace(whole, key=kind, header=header, rows=tuple(rows))]
    document: TableFormat = "rst" if is_rst else "md"
    word = int(machine.capabilities.value)
    text = tables(machine.spec, document, only=[kind], flags=word, level=2, more=more)
    return text.rstrip("\n").split("\n")


def _heading(text: str, line: str, is_rst: bool) -> list[str]:
    if is_rst:
        return [text, line * len(text)]
    return [f"{'#' if line == '=' else '##'} {text}"]


def _figure(part: dict[str, str], graph: Graph) -> Iterator[str]:
    if part["figure"] == "dot":
        yield f".. kernel-figure:: {part['file']}"
        yield from textwrap.wrap(
            f":alt: {alternative(graph)}", COLUMNS, initial_indent="   ", subsequent_indent=" " * 6
        )
        yield ""
        words = caption(graph, Page(legend=False), plain=True)
        yield from textwrap.wrap(words, COLUMNS, initial_indent="   ", subsequent_indent="   ")
    elif part["figure"] == "ascii":
        lines = render(graph, "ascii", comment="rst").decode().rstrip("\n").split("\n")
        # Of a plain literal block Sphinx takes the words for those of Python.
        yield from (".. code-block:: text", *lines[1:])
    else:
        yield "```mermaid"
        yield from render(graph, "mmd").decode().rstrip("\n").split("\n")
        yield "```"


def patch(tree: Tree, machine: Machine) -> str:
    """Return the patch for a tree: its message, and each file it adds."""
    text = f"{tree.subject}\n\n{tree.message.strip()}\n---\n"
    for path, content in added(tree, machine).items():
        lines = content.removesuffix("\n").split("\n")
        text += f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
        text += f"@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}\n" for line in lines)
    return text


# --- our page ---


def page(machine: Machine) -> str:
    """Return the page."""
    return "\n".join(_adopting(machine)) + "\n"


def _adopting(machine: Machine) -> Iterator[str]:
    yield "<!-- Made by `python tools/adopt_page.py` from tools/adopt.toml; do not edit. -->"
    yield ""
    yield "# Adopt"
    yield ""
    yield (
        "Patches that put the figure and the tables into other manuals. Each adds files only, so "
        "it applies to any version of its tree; figures and tables are made from "
        "[the table](../model/vfio_v2.toml), and the tests build the pages. What a manual embeds "
        "stays true by `publish --check` in its own CI. Whoever sends a patch signs it off."
    )
    for tree in trees():
        yield ""
        yield f"## {tree.title}"
        yield ""
        yield f"[{tree.name}.patch](adopting/{tree.name}.patch): *{tree.subject}*"
        yield ""
        yield "| File | What is in it |"
        yield "| --- | --- |"
        for path in added(tree, machine):
            yield f"| `{path}` | {_what(tree, path)} |"
        yield ""
        yield "It answers:"
        yield ""
        for finding in tree.findings:
            yield f"- [{finding.title}](findings.md#{anchor(finding.title)})"
        yield ""
        yield "```sh"
        yield f"git apply --index {tree.name}.patch"
        if tree.index is not None:
            name = PurePosixPath(tree.page).stem
            yield f"sed -i '/^   {tree.after}$/a\\   {name}' {tree.index}"
        yield f"sed '/^---$/,$d' {tree.name}.patch | git commit -a -s -F -"
        yield "```"


def _what(tree: Tree, path: str) -> str:
    if path != tree.page:
        return "The figure, which the build of the manual draws: `diagram --plain`"
    kinds = {
        "dot": "the figure",
        "ascii": "the figure in characters",
        "mermaid": "the figure, for whom Mermaid is drawn",
    }
    words = [kinds[part["figure"]] for part in tree.parts if "figure" in part]
    words += [f"the table of the {part['table']}" for part in tree.parts if "table" in part]
    return f"The page: {', '.join(words)}".replace("next-steps", "next steps")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and the patches, or compare them; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="DIR")
    chosen: Any = parser.parse_args(arguments)
    machine = load().machine()
    files = {chosen.output / "adopting.md": page(machine)}
    for tree in trees():
        files[chosen.output / "adopting" / f"{tree.name}.patch"] = patch(tree, machine)
    return max(write_or_compare(text, path, check=chosen.check) for path, text in files.items())


if __name__ == "__main__":
    raise SystemExit(main())
