"""What was read from a source: each fact with the file and line where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vfio_migration.model.errors import Mistake, SpecError


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a next-step table.

    Attributes:
        next: The state to step to; the failed state stands for a refusal.
        place: Where the cell is written.
    """

    next: str
    place: Place


@dataclass(frozen=True)
class NextSteps:
    """A next-step table over all states, the failed one included.

    Attributes:
        cells: Per present state and target, the cell.
        rows: Per present state, where its row begins.
        required: Per state, the capabilities it requires and where that is; None if the
            source does not report.
        skips: Smaller capability sets follow from the table by skipping states that they lack.
        prose: What the comment above the table lists, or None.
    """

    cells: Mapping[tuple[str, str], Cell]
    rows: Mapping[str, Place]
    required: Mapping[str, tuple[tuple[str, ...], Place]] | None
    skips: bool
    prose: Prose | None = None


@dataclass(frozen=True)
class Header:
    """The numbers of states and capabilities.

    Attributes:
        states: Per state its value.
        capabilities: Per capability its value.
        prose: What the comment above the states lists, or None.
    """

    states: Mapping[str, tuple[int, Place]] = field(default_factory=dict)
    capabilities: Mapping[str, tuple[int, Place]] = field(default_factory=dict)
    prose: Prose | None = None


@dataclass(frozen=True)
class Prose:
    """What the sentences of a source list. They are held against its table and overrule nothing.

    Attributes:
        arcs: Pairs that are reported to be arcs.
        refused: Pairs that are reported to be refused.
        paths: Paths of three states and more.
        place: Where the list begins.
        every_set: The arcs are those of all capability sets together, and not of the largest one.
    """

    arcs: Mapping[tuple[str, str], Place]
    refused: Mapping[tuple[str, str], Place]
    paths: Mapping[tuple[str, ...], Place]
    place: Place
    every_set: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """A sentence of a source that contradicts its table.

    Attributes:
        place: Where the sentence is.
        other: Where the table specifies otherwise.
        problem: What is wrong.
    """

    place: Place
    other: Place
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem} ({self.other})"


def wrong(place: Place | str, value: object, problem: str, hint: str | None = None) -> SpecError:
    """Return an error that names a place in a source."""
    return SpecError([Mistake(str(place), value, problem, hint)])


__all__ = ["Cell", "Finding", "Header", "NextSteps", "Place", "Prose", "wrong"]
