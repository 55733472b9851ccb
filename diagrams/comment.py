"""Text wrapped for the place it is put into: a comment in C, a literal block of a manual."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from vfio_migration.diagrams.machine.text import WIDTH

Comment = Literal["c", "rst", "md"]
"""A comment in C; a literal block in reStructuredText; a fenced block in Markdown."""

COMMENTS: tuple[Comment, ...] = get_args(Comment)

_PREFIX: dict[Comment | None, str] = {None: "", "c": " * ", "rst": "    ", "md": ""}


def room(comment: Comment | None) -> int:
    """Return how wide lines may be so that they fit the page when they are wrapped."""
    return WIDTH - len(_PREFIX[comment])


def wrapped(lines: Iterable[str], comment: Comment | None) -> list[str]:
    """Return lines as they are put into a file; as they are if `comment` is None."""
    lines = list(lines)
    if comment is None:
        return lines
    if comment == "md":
        longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, longest + 1)
        return [f"{fence}text", *lines, fence]
    if comment == "c":
        # What would end the comment, or begin another one.
        lines = [re.sub(r"\*(?=/)|/(?=\*)", r"\g<0> ", line) for line in lines]
    made = [f"{_PREFIX[comment]}{line}".rstrip() for line in lines]
    return ["/*", *made, " */"] if comment == "c" else ["::", "", *made]
