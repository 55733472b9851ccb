"""What can be wrong with a table or a question about it, written so that it can be mended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from typing import NoReturn, Protocol, TypeVar


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


_Row = TypeVar("_Row", bound=_HasName)

_WIDTH = 60
"""How much of a value a message shows."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        place: Where, as a path into the table (`arcs[3].to`) or the name of an argument.
        value: What is there; None if something is missing.
        problem: What is wrong with it, to be read after place and value.
        hint: The way out, if there is one to name.
    """

    place: str
    value: object
    problem: str
    hint: str | None

    def __str__(self) -> str:
        shown = "" if self.value is None else f" {show(self.value)}:"
        text = f"{self.place}:{shown} {self.problem}"
        return f"{text}; {self.hint}" if self.hint else text


class SpecError(ValueError):
    """A table, or a question about one, is wrong. Holds all mistakes, in the order of the file.

    Attributes:
        mistakes: Every mistake, each with its place, value and a way out.
        origin: The file the table came from, or None.
    """

    def __init__(self, mistakes: Sequence[Mistake], origin: str | None = None) -> None:
        self.mistakes = tuple(mistakes)
        self.origin = origin
        super().__init__(self._render())

    def _render(self) -> str:
        if self.origin is None and len(self.mistakes) == 1:
            return str(self.mistakes[0])
        count = f"{len(self.mistakes)} mistake{'' if len(self.mistakes) == 1 else 's'}"
        head = f"{self.origin or 'table'}: {count}"
        return "\n".join([head, *(f"  {mistake}" for mistake in self.mistakes)])

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what the error is made of; an exception would pickle its message only."""
        return type(self), (self.mistakes, self.origin)


class UnknownNameError(SpecError, KeyError):
    """A name that the table does not have.

    Attributes:
        kind: What was looked for: "state", "capability", ...
        name: The name that was looked for.
        suggestion: The nearest one the table has, or None.
        known: Every name that would have been right.
    """

    def __init__(
        self, kind: str, name: str, suggestion: str | None, known: Iterable[str] = ()
    ) -> None:
        self.kind = kind
        self.name = name
        self.suggestion = suggestion
        self.known = tuple(known)
        hint = did_you_mean(suggestion) or it_has(self.known)
        super().__init__([Mistake(kind, name, f"there is no such {kind} in this table", hint)])

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.kind, self.name, self.suggestion, self.known)

    __str__ = ValueError.__str__  # not KeyError's, which shows the repr


class Named(dict[str, _Row]):
    """Rows by their names. A name that no row has raises `UnknownNameError`.

    Args:
        kind: What the rows are, for the error: "state", "capability", ...
        rows: The rows.
    """

    def __init__(self, kind: str, rows: Iterable[_Row]) -> None:
        super().__init__((row.name, row) for row in rows)
        self._kind = kind

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownNameError(self._kind, name, closest(name, self), self)


def why(error: OSError | ValueError) -> str:
    """Return why a file cannot be had, in the same words on every Python.

    Of a name with a NUL in it, Python complains itself, by a ValueError.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    return "embedded null byte" if "embedded null" in text else text


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name` in spelling, ignoring case; None if none is near.

    A beginning of a known name is near to it, however short: `RUN` to `RUNNING`.
    """
    # Imported here: it is needed only when something is wrong, and import time is start-up time.
    import difflib

    folded = name[:_WIDTH].casefold()
    by_folded = {candidate.casefold(): candidate for candidate in known}
    # One wrong letter in three is still near; in a long name a third is another name.
    cutoff = 0.6 if len(folded) <= 4 else 0.75
    found = difflib.get_close_matches(folded, by_folded, n=1, cutoff=cutoff)
    if not found and folded.strip():
        found = sorted((other for other in by_folded if other.startswith(folded)), key=len)
    return by_folded[found[0]] if found else None


def did_you_mean(suggestion: str | None) -> str | None:
    """Return the hint that proposes `suggestion`, or None if there is none."""
    return None if suggestion is None else f'did you mean "{escaped(suggestion)}"?'


def it_has(names: Iterable[str]) -> str | None:
    """Return the hint that lists what there is instead, or None if there is nothing."""
    listed = ", ".join(escaped(name, quotes=False) for name in dict.fromkeys(names))
    return f"it has {listed}" if listed else None


def show(value: object) -> str:
    """Show a value the way TOML writes it, on one line; a long one is cut."""
    return cut(_written(value, depth=0))


def cut(text: str) -> str:
    """Shorten a text to what a message has room for."""
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def escaped(text: str, quotes: bool = True) -> str:
    """Write what would not print as itself (a newline, a terminal's escape) as TOML escapes it.

    Without `quotes`, for text that is not to be between quotation marks, those stay as they are.
    """
    # Cut before, not only after: a value may be megabytes long.
    return "".join(
        char
        if char.isprintable() and not (quotes and char in '"\\')
        else _ESCAPES.get(char) or f"\\u{ord(char):04X}"
        for char in text[: 2 * _WIDTH]
    )


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def _written(value: object, depth: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{escaped(value)}"'
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    if isinstance(value, list | tuple):
        if depth == 2:
            return "[...]"
        items = [_written(item, depth + 1) for item in value[:_WIDTH]]
        return f"[{', '.join(items)}]"
    if isinstance(value, int):
        # In hexadecimal when it is huge: Python refuses to write thousands of decimal digits.
        return str(value) if -(1 << 128) < value < 1 << 128 else hex(value)
    if isinstance(value, float | date | time):
        return str(value)
    return f"<{type(value).__name__}>"  # in no file; only a Python caller can pass such a thing
