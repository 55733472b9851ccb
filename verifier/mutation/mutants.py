"""A mutant: a table with one edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

Table = TypeVar("Table")


@dataclass(frozen=True, slots=True)
class Mutant(Generic[Table]):
    """A table with one edit.

    Attributes:
        id: Unique among the mutants of a table: its kind, the place, and what was written there.
        kind: Which kind of edit made it.
        sentence: The edit, for people.
        table: The edited table; nothing has checked it.
    """

    id: str
    kind: str
    sentence: str
    table: Table


def shown(value: object) -> str:
    """Return a value as a sentence about an edit has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else str(value)
