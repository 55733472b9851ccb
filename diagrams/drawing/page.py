"""What a picture is drawn for: how wide its page is, and what is left out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SMALLEST = 7.0
"""The smallest type of a picture that is drawn for a width, in points: less is hard to read."""

WIDEST = 14_400.0
"""How wide a page may be, in points: no PDF has a wider one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page, and what belongs on it.

    Attributes:
        width: How wide it is in points, at most `WIDEST`. The picture is laid out for it, and its
            type is `SMALLEST` points or larger. None for a page as wide as the picture comes out.
        title: Whether the title and the sentence below it are drawn.
        legend: Whether the lines and colours are explained in the picture.
        steps: Whether the steps of a route, a run or a migration are listed in the picture.
    """

    width: float | None = None
    title: bool = True
    legend: bool = True
    steps: bool = True


WHOLE = Page()
"""All of a picture, as wide as it comes out."""


class TooNarrowError(ValueError):
    """A page on which a picture does not fit with type that can be read.

    Attributes:
        needed: The least width in points that does.
    """

    def __init__(self, width: float, needed: float) -> None:
        self.needed = math.ceil(needed)
        super().__init__(
            f"a page of {width:g} points is too narrow for this picture, which needs {self.needed}"
        )


def type_size(size: float, scale: float) -> float:
    """Return a size of type at a scale, in points: nothing becomes smaller than `SMALLEST`."""
    return max(SMALLEST, size * scale)


def in_eighths(sizes: Mapping[str, float]) -> dict[str, float]:
    """Return sizes in whole eighths of a point, whose sums are exact: lines meet, and bars join."""
    return {name: round(size * 8) / 8 for name, size in sizes.items()}
