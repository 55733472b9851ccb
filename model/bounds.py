"""How large a table may be, and which characters its texts may have.

A table may come from a stranger. What reads, routes and verifies it takes time and memory that grow
with the number of states, capability sets and rows, and what it states is printed on terminals. So
there are bounds, far above any table that people write, and each has its message.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from vfio_migration.model.errors import Mistake, cut, escaped

MAX_TABLE_BYTES: Final = 1 << 20
"""How many bytes the file of a table may have. The largest one of the package has 40,000."""

MAX_KEY_PARTS: Final = 16
"""How many parts a dotted key may have (`a.b.c` has three). The format needs none with two.

`tomllib` needs time that grows with the square of this number.
"""

MAX_ROWS: Final = 4096
"""How many rows a section may have."""

MAX_STATES: Final = 256
"""How many states a table may have; the routes between them are their square."""

MAX_CAPABILITIES: Final = 12
"""How many capabilities a table may have; the capability sets are up to 2 to the power of it."""

_SECTION_BOUNDS: Final = {"states": MAX_STATES, "capabilities": MAX_CAPABILITIES}

_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY: Final = re.compile(
    rf"(?<![\w-])(?:{_PART}[ \t]*+\.[ \t]*+){{{MAX_KEY_PARTS}}}{_PART}", re.ASCII
)

_NOT_PRINTED: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""The categories of characters that a terminal may obey, or that do not show."""

_MAX_DEPTH: Final = 8

_Path: TypeAlias = tuple[str | int, ...]
"""Where something is: keys, and the index in a list."""


def long_key(text: str) -> Mistake | None:
    """Find a dotted key of more parts than `MAX_KEY_PARTS` in the text of a TOML file."""
    found = _LONG_KEY.search(text)
    if found is None:
        return None
    line = text.count("\n", 0, found.start()) + 1
    problem = f"is a key of more than {MAX_KEY_PARTS} parts"
    return Mistake(f"line {line}", found[0], problem, "no key of a table has more than two")


def too_large(data: Mapping[str, object]) -> list[Mistake]:
    """Find the sections that have more rows than they may."""
    found = []
    for section, rows in data.items():
        bound = _SECTION_BOUNDS.get(section, MAX_ROWS)
        if isinstance(rows, list) and len(rows) > bound:
            place = cut(escaped(section, quotes=False))
            problem = f"has {len(rows)} rows, more than a table may have"
            found.append(Mistake(place, None, problem, f"there may be {bound} at the most"))
    return found


def unprintable(data: Mapping[str, object]) -> list[Mistake]:
    """Find the texts with characters that a terminal may obey, or that do not show."""
    return [
        Mistake(
            _place(path),
            text,
            f"has the character U+{ord(char):04X}, which cannot be printed",
            _WAY,
        )
        for path, text in _texts(data, ())
        if (char := _first_unprintable(text)) is not None
    ]


_NAME: Final = "the character U+{:04X}"
_WAY: Final = "remove it; a text is on one line, and a long one is wrapped with \\ at its ends"


def _first_unprintable(text: str) -> str | None:
    if text.isprintable():
        return None
    return next((char for char in text if unicodedata.category(char) in _NOT_PRINTED), None)


def _texts(value: object, path: _Path) -> Iterator[tuple[_Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif len(path) > _MAX_DEPTH:
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _place(path: _Path) -> str:
    place = ""
    for part in path:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            name = cut(escaped(part, quotes=False))
            place = f"{place}.{name}" if place else name
    return place
