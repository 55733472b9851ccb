"""Identifiers made of the names of a table.

A name of a table is a letter, then letters, digits, `_` and `-`. What becomes one identifier is
refused, not numbered: anybody who reads the code looks for the names of the specification.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from vfio_migration.model import Mistake, SpecError

_PREFIX: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
# fmt: off
_RUST_WORDS: Final = frozenset((
    "abstract", "become", "box", "const", "crate", "do", "dyn", "enum", "extern", "false", "fn",
    "gen", "impl", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub",
    "ref", "self", "static", "struct", "super", "trait", "true", "type", "typeof", "unsafe",
    "unsized", "use", "virtual", "where",
))
# fmt: on
_C_HEADERS: Final = frozenset(("stdbool", "stddef", "stdint"))
_TEMPLATES: Final = Path(__file__).parent / "templates"
_PLACE: Final = re.compile(r"^([ \t]*)@(\w+)@\n|@(\w+)@", re.MULTILINE)


def constant(name: str) -> str:
    """Return a name as a constant is written: upper case, `_` for `-`."""
    return name.replace("-", "_").upper()


def camel(name: str) -> str:
    """Return a name as a variant of a Rust enum is written."""
    return "".join(part[:1].upper() + part[1:].lower() for part in re.split(r"[-_]", name))


def distinct(named: Iterable[tuple[str, str, str]], language: str) -> None:
    """Refuse two names that become one identifier.

    Args:
        named: Of each: what it is, its name in the table, the identifier.
        language: In which they are identifiers.

    Raises:
        SpecError: Two are the same.
    """
    seen: dict[str, tuple[str, str]] = {}
    mistakes = []
    for kind, name, identifier in named:
        other = seen.setdefault(identifier, (kind, name))
        if other != (kind, name):
            problem = f"becomes {identifier} in {language}, as the {other[0]} {other[1]} does"
            mistakes.append(Mistake(kind, name, problem, "rename one of the two"))
    if mistakes:
        raise SpecError(mistakes)


def prefix_of(given: str | None, table: str) -> str:
    """Return what every name of the generated C begins with.

    Raises:
        SpecError: It is not the beginning of an identifier.
    """
    prefix = _of_table(table) if given is None else given.removesuffix("_")
    if not _PREFIX.fullmatch(prefix) or prefix in _C_HEADERS:
        hint = "a letter, then letters, digits and _, as in my_device; not the name of a C header"
        raise SpecError([Mistake("--prefix", prefix, "cannot begin a name in C", hint)])
    return prefix


def _of_table(name: str) -> str:
    """Return the name of a table as an identifier is written: `_` for all that it cannot have."""
    return re.sub(r"[^a-z0-9_]", "_", name.lower())


def module_of(given: str | None, table: str) -> str:
    """Return what a generated module is called.

    Raises:
        SpecError: No module of Rust or Python can be called that.
    """
    name = _of_table(table) if given is None else given
    taken = keyword.iskeyword(name) or name in _RUST_WORDS or name in sys.stdlib_module_names
    if not _PREFIX.fullmatch(name) or taken:
        hint = "a letter, then letters, digits and _; no word of a language, no standard module"
        raise SpecError([Mistake("--module", name, "cannot be the name of a module", hint)])
    return name


def lines(texts: Iterable[str]) -> str:
    """Return texts as lines of a place of a template."""
    return "\n".join(texts)


def filled(template: str, values: dict[str, str]) -> str:
    """Return a template with the values put in for `@name@`.

    A place that is on a line of its own takes as many lines as its value has, each moved in as
    far as the place is; if the value is empty the line goes.
    """

    def put(found: re.Match[str]) -> str:
        if found[3] is not None:
            return values[found[3]]
        given = values[found[2]].splitlines()
        return "".join(f"{found[1]}{line}".rstrip() + "\n" for line in given)

    return _PLACE.sub(put, (_TEMPLATES / template).read_text("utf-8"))
