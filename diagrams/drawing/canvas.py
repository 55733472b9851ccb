"""A page of characters that is written to at places, and the characters it is drawn with."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Final, Literal

Side = Literal["up", "down", "left", "right"]
"""Where a line leaves a box, or where its head points."""

Stroke = Literal["light", "heavy", "dashed"]
"""How a line or a box is drawn."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of a picture.

    Attributes:
        boxes: By stroke: the corner top left, the horizontal line, the corner top right, the
            vertical line, the corners bottom left and right. Lines are drawn with the same two.
        heads: By where it points: the end of an arrow.
        refused: The end of one that leads nowhere.
        tails: By side: what is in the border of a box where a line leaves it; light box and line,
            light box and heavy line, heavy box and light line, both heavy.
    """

    boxes: dict[Stroke, str]
    heads: dict[Side, str]
    refused: str
    tails: dict[Side, str]

    def line(self, stroke: Stroke, side: Side) -> str:
        """Return what a line that leaves a box by a side is drawn with."""
        return self.boxes[stroke][1 if side in ("left", "right") else 3]

    def tail(self, side: Side, box: Stroke, line: Stroke) -> str:
        """Return what is in the border of a box where a line leaves it."""
        return self.tails[side][2 * (box == "heavy") + (line == "heavy")]


BOX: Final = Glyphs(
    boxes={"light": "┌─┐│└┘", "heavy": "┏━┓┃┗┛", "dashed": "┌┄┐┆└┘"},
    heads={"up": "▲", "down": "▼", "left": "◄", "right": "►"},
    refused="×",  # noqa: RUF001 - the sign of multiplication
    tails={"up": "┴┸┷┻", "down": "┬┰┯┳", "left": "┤┥┨┫", "right": "├┝┠┣"},
)
"""Box-drawing characters."""

ASCII: Final = Glyphs(
    boxes={"light": "+-+|++", "heavy": "#=####", "dashed": "+.+:++"},
    heads={"up": "^", "down": "v", "left": "<", "right": ">"},
    refused="x",
    tails={"up": "++##", "down": "++##", "left": "||##", "right": "||##"},
)
"""Characters that are everywhere."""


def columns(text: str) -> int:
    """Return how many columns of a terminal a line takes."""
    return sum(
        0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF")
        for sign in text
    )


class Canvas:
    """The page. It has no bounds; what was never written is blank."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[int, str]] = {}

    def put(self, x: int, y: int, text: str) -> None:
        """Write a line from a place on, to the right."""
        row = self._rows.setdefault(y, {})
        for sign in text:
            width = columns(sign)
            if width == 0:  # it is drawn over what is before it
                row[x - 1] = row.get(x - 1, " ") + sign
                continue
            row[x] = sign
            for beyond in range(x + 1, x + width):
                row[beyond] = ""
            x += width

    def is_blank(self, x: int, y: int, width: int) -> bool:
        """Return whether nothing is written there."""
        row = self._rows.get(y, {})
        return all(row.get(at, " ") == " " for at in range(x, x + width))

    def lines(self) -> list[str]:
        """Return the page, without blanks at the ends of lines."""
        rows = range(max(self._rows, default=-1) + 1)
        return ["".join(self._line(self._rows.get(row, {}))).rstrip() for row in rows]

    @staticmethod
    def _line(row: dict[int, str]) -> list[str]:
        return [row.get(x, " ") for x in range(max(row, default=-1) + 1)]
