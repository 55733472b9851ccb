"""What can be wrong with a table or a question about it, said so that it can be mended."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong.

    Attributes:
        place: Where, as a path into the table (`arcs[3].to`) or the name of an argument.
        value: What stands there; None if something is missing.
        problem: What is wrong with it, to be read after place and value.
        hint: The way out, if there is one to name.
    """

    place: str
    value: object
    problem: str
    hint: str | None

    def __str__(self) -> str:
        text = self.place
        if self.value is not None:
            text += f": {_show(self.value)}"
        text += f"{':' if self.value is None else ''} {self.problem}"
        return f"{text}; {self.hint}" if self.hint else text


class SpecError(ValueError):
    """A table, or a question about one, is wrong. Holds all mistakes found, in the order of the file.

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


class UnknownName(SpecError, KeyError):  # noqa: N818 - reads as what it says
    """A name that the table does not have. `suggestion` is the nearest one it has, or None."""

    def __init__(self, kind: str, name: str, suggestion: str | None) -> None:
        self.suggestion = suggestion
        super().__init__(
            [Mistake(kind, name, f"is no {kind} of this table", did_you_mean(suggestion))]
        )

    __str__ = ValueError.__str__  # not KeyError's, which shows the repr


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name` in spelling, ignoring case, or None if none is near."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


def did_you_mean(suggestion: str | None) -> str | None:
    """Return the hint that proposes `suggestion`, or None if there is none."""
    return None if suggestion is None else f'did you mean "{suggestion}"?'


def _show(value: object) -> str:
    """Show a value the way TOML writes it; long ones are cut."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = '"' + value.replace("\n", "\\n") + '"'
    elif isinstance(value, dict):
        text = "{...}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(_show(item) for item in value) + "]"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
