"""Colours and line styles: one look for each kind of edge, in two themes.

Every kind differs from every other in its line (width, dashes, ends) as well as in its colour, so
that nobody has to distinguish colours; the colours themselves follow Okabe and Ito's set, which the
common kinds of colour blindness keep distinct, darkened or lightened to stand out from the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfio_migration.diagrams.drawing.kinds import Change, EdgeKind, Liveness

Theme = Literal["auto", "light", "dark"]
"""How a picture is coloured. "auto" follows the reader's setting where the format can (SVG)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of one theme."""

    page: str
    band: str
    rule: str
    node: str
    border: str
    text: str
    muted: str
    strong: str
    strong_fill: str
    alarm: str
    alarm_fill: str
    badge_text: str
    moves: str
    opens: str
    keeps: str
    closes: str
    refused: str
    fails: str
    event: str
    live: str
    held: str
    still: str
    shade: str

    def bar_colours(self, liveness: Liveness) -> tuple[str, str]:
        """Return the fill and the border of a bar in which a device may do so much."""
        return {
            "all": (self.live, self.border),
            "some": (self.held, self.border),
            "none": (self.still, self.border),
            "off_grid": (self.alarm_fill, self.alarm),
        }[liveness]

    def edge(self, kind: EdgeKind) -> str:
        """Return the colour of a kind of edge."""
        colour: str = getattr(self, kind)
        return colour

    def change(self, change: Change) -> str:
        """Return the colour of what became so."""
        return {
            "same": self.border,
            "added": self.opens,
            "removed": self.alarm,
            "changed": self.keeps,
        }[change]


LIGHT = Palette(
    page="#ffffff",
    band="#f3f5f8",
    rule="#d0d7de",
    node="#ffffff",
    border="#57606a",
    text="#1f2328",
    muted="#59636e",
    strong="#0b5cad",
    strong_fill="#dcecfc",
    alarm="#c4151c",
    alarm_fill="#fde4e3",
    badge_text="#ffffff",
    moves="#4a525b",
    opens="#00795a",
    keeps="#0068b5",
    closes="#c25100",
    refused="#a03c80",
    fails="#c4151c",
    event="#4a525b",
    live="#d5efdc",
    held="#fdf1c4",
    still="#dfe3e8",
    shade="#f3b98f",
)

DARK = Palette(
    page="#0d1117",
    band="#161c24",
    rule="#343c46",
    node="#222a34",
    border="#8b949e",
    text="#e8edf2",
    muted="#9aa4af",
    strong="#6cb6ff",
    strong_fill="#143556",
    alarm="#ff7b72",
    alarm_fill="#4b1d20",
    badge_text="#0d1117",
    moves="#b4bdc8",
    opens="#35cfa2",
    keeps="#6cb6ff",
    closes="#f59a4c",
    refused="#e08cc4",
    fails="#ff7b72",
    event="#b4bdc8",
    live="#17402a",
    held="#483c0c",
    still="#343c46",
    shade="#7a4420",
)

PALETTES: dict[Theme, Palette] = {"auto": LIGHT, "light": LIGHT, "dark": DARK}


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStyle:
    """How a kind of edge is drawn, besides its colour, in the terms of Graphviz."""

    style: Literal["solid", "dashed", "dotted"] = "solid"
    width: float = 1.4
    double: bool = False
    head: str = "normal"
    tail: str | None = None


STYLES: dict[EdgeKind, LineStyle] = {
    "moves": LineStyle(),
    "opens": LineStyle(width=2, tail="dot"),
    "keeps": LineStyle(width=1.1, double=True),
    "closes": LineStyle(style="dashed", width=2),
    "refused": LineStyle(style="dotted", width=2, head="tee"),
    "fails": LineStyle(style="dotted", width=1.6, head="normal"),
    "event": LineStyle(style="dashed", width=1.2, head="vee"),
}

LOOKS: dict[EdgeKind, str] = {
    "moves": "solid line",
    "opens": "line with a dot at its beginning",
    "keeps": "double line",
    "closes": "dashed line",
    "refused": "dotted line with a bar at its end",
    "fails": "dotted line with an arrow",
    "event": "thin dashed line",
}
"""What the line of each kind looks like, in words, without its colour."""

CHANGE_STYLES: dict[Change, LineStyle] = {
    "same": LineStyle(width=1.1),
    "added": LineStyle(width=2.8),
    "removed": LineStyle(style="dashed", width=2),
    "changed": LineStyle(width=1.1, double=True),
}
"""How a line of a picture of changes is drawn: all of it but its ends, which are its kind's."""

CHANGE_LOOKS: dict[Change, str] = {
    "same": "thin line",
    "added": "thick line with a plus sign",
    "removed": "dashed line with a minus sign",
    "changed": "double line with a tilde",
}
"""What each looks like, in words, without its colour."""

BAR_STYLES: dict[Liveness, str] = {
    "all": "filled,rounded",
    "some": "filled,rounded,dashed",
    "none": "filled",
    "off_grid": "filled,diagonals",
}
"""How the bar of a state is drawn: how much it permits is seen without its colour."""

SIGNS: dict[Change, str] = {"same": "", "added": "+", "removed": "\N{MINUS SIGN}", "changed": "~"}
"""What is written on what became so."""
