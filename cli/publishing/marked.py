"""The lines between two markers of a file, exchanged, and everything else kept byte for byte.

A marker is a line with `vfio-figure: begin NAME` or `vfio-figure: end NAME` in it, in whatever a
comment is there:

    <!-- vfio-figure: begin machine -->      .. vfio-figure: begin machine
    /* vfio-figure: begin machine */         ` * vfio-figure: begin machine`

What is put between them is moved in as far as the first marker is; inside a comment of C each line
begins as the marker does, and what is a comment itself loses its first line and its last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What a marker may be called."""

_MARKER: Final = re.compile(
    rb"vfio-figure:[ \t]*(begin|end)[ \t]+(" + NAME.pattern.encode() + rb")"
)
_INDENT: Final = re.compile(rb"[ \t]*")
_IN_COMMENT: Final = re.compile(rb"[ \t]*(?:\*[ \t]+)?")
_PARAGRAPHS: Final = (".rst", ".md", ".txt")
"""Files of prose: a blank line begins something new, so there is one after and before a marker."""


class MarkerError(Exception):
    """A marker is missing, twice there, in the wrong order or of no figure.

    Attributes:
        line: The line it is about, from 1 on; None if it is about the whole file.
        problem: What is wrong.
        hint: The way out.
    """

    def __init__(self, line: int | None, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem
        self.hint = hint


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a part is: the numbers of its two markers, from 0 on."""

    begin: int
    end: int


def first_marker(content: bytes) -> int | None:
    """Return the number of the first line that is a marker, from 1 on; None if there is none."""
    found = _MARKER.search(content)
    return None if found is None else content.count(b"\n", 0, found.start()) + 1


def exchanged(path: str, content: bytes, parts: Mapping[str, str]) -> bytes:
    """Return a file with what is between its markers exchanged.

    Args:
        path: Its name, by whose ending it is known what a comment is there.
        content: What is in it.
        parts: What is to be between the markers, by their name.

    Raises:
        MarkerError: There are no two such markers, or there are others.
    """
    lines = _lines(content)
    found = _parts(lines)
    for name in parts:
        if name not in found:
            hint = f"add two lines around the place, with `{_begin(name)}` and `{_end(name)}`"
            raise MarkerError(None, f"has no line with `{_begin(name)}`", hint)
    for name, part in found.items():
        if name not in parts:
            problem = f"has a marker of no figure, `{_begin(name)}`"
            raise MarkerError(part.begin + 1, problem, "remove it, or add a figure with it")
    made = list(lines)
    for name, part in sorted(found.items(), key=lambda item: -item[1].begin):
        made[part.begin + 1 : part.end] = _between(path, content, lines[part.begin], parts[name])
    return b"".join(made)


def _lines(content: bytes) -> list[bytes]:
    """Split at newlines alone: a lone carriage return ends no line."""
    lines = content.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _begin(name: str) -> str:
    return f"vfio-figure: begin {name}"


def _end(name: str) -> str:
    return f"vfio-figure: end {name}"


def _parts(lines: list[bytes]) -> dict[str, _Part]:
    found: dict[str, _Part] = {}
    opened: tuple[str, int] | None = None
    for number, is_begin, name in _markers(lines):
        if is_begin and opened is not None:
            problem = f"begins {name} inside {opened[0]}, which begins in line {opened[1] + 1}"
            raise MarkerError(number + 1, problem, f"add `{_end(opened[0])}` before it")
        if is_begin and name in found:
            problem = f"begins {name} again, which begins in line {found[name].begin + 1} too"
            raise MarkerError(number + 1, problem, "give one of the two another name")
        if not is_begin and (opened is None or opened[0] != name):
            problem = f"ends {name}, which has not begun"
            raise MarkerError(number + 1, problem, f"add `{_begin(name)}` before it")
        if is_begin:
            opened = name, number
        elif opened is not None:
            found[name] = _Part(opened[1], number)
            opened = None
    if opened is not None:
        problem = f"begins {opened[0]}, which does not end"
        raise MarkerError(opened[1] + 1, problem, f"add `{_end(opened[0])}` after it")
    return found


def _markers(lines: list[bytes]) -> Iterator[tuple[int, bool, str]]:
    for number, line in enumerate(lines):
        here = _MARKER.findall(line)
        if len(here) > 1:
            problem = "has two markers in one line"
            raise MarkerError(number + 1, problem, "write each on a line of its own")
        for kind, name in here:
            yield number, kind == b"begin", name.decode("ascii")


def _between(path: str, content: bytes, marker: bytes, text: str) -> list[bytes]:
    """Return the lines to be put after a marker."""
    is_prose = PurePosixPath(path).suffix in _PARAGRAPHS
    before = (_INDENT if is_prose else _IN_COMMENT).match(marker)
    prefix = before[0] if before else b""
    if b"*" in prefix:
        text = _without_comment(text)
    if b"*" in prefix and "*/" in text:
        hint = "put the markers into comments of their own, /* ... */"
        raise MarkerError(None, "is a comment that `*/` would end, which the figure has", hint)
    if not text.isascii() and not _is_utf8(content):
        hint = "write it in UTF-8, or make the figure with --format ascii"
        raise MarkerError(None, "is not UTF-8, and the figure has more than ASCII", hint)
    newline = b"\r\n" if marker.endswith(b"\r\n") else b"\n"
    lines = text.encode().split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if is_prose:
        lines = [b"", *lines, b""]
    return [(prefix + line).rstrip() + newline for line in lines]


def _without_comment(text: str) -> str:
    """Return what is in a comment of C; a text that is none as it is."""
    first, *lines, last = text.rstrip("\n").split("\n") if text.count("\n") > 1 else ("", "")
    if (first, last) != ("/*", " */") or not all(line.startswith(" *") for line in lines):
        return text
    return "".join(f"{line[3:]}\n" for line in lines)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
