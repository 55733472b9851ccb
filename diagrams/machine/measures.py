"""The sizes a picture of the machine is made of, in points, and how they shrink with the page."""

from __future__ import annotations

from dataclasses import dataclass

from vfio_migration.diagrams.drawing.page import in_eighths, type_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The sizes of one page, in points. The defaults are those of a page without a given width.

    Attributes:
        margin: Around the page.
        node_width: The least width of a state.
        node_pad: Between the longest name of a state and its two sides together.
        node_height: The height of a state.
        headings: The width of the headings of the rows.
        summaries: Whether what a row means is stated beside it.
        column_gap: Between two columns, at least.
        pad: Between a state and the edge of its row.
        row_gap: Between two rows.
        lane_gap: Between the grid and what is off it.
        lane: How far a straight line is from the line between two centres.
        track: Between two tracks, and two ports.
        corner: Between a port and the corner of its state.
        line: From baseline to baseline.
        sample: The length of a line in the legend.
        badge: The height of a badge.
        labels: How many steps a badge has room for.
        arrow: The size of an arrow's head, of Graphviz's own.
        name: The type of a state's name.
        caption: That of the line below it.
        heading: That of a heading.
        small: That of what a heading means, of events and of small print.
        legend: That of the legend.
        digit: That of a badge.
        title: That of the title.
        subtitle: That of the sentence below the title.
    """

    margin: float = 24
    node_width: float = 140
    node_pad: float = 20
    node_height: float = 50
    headings: float = 150
    summaries: bool = True
    column_gap: float = 104
    pad: float = 20
    row_gap: float = 30
    lane_gap: float = 62
    lane: float = 10
    track: float = 14
    corner: float = 12
    line: float = 13
    sample: float = 40
    badge: float = 18
    labels: int = 3
    arrow: float = 0.75
    name: float = 13
    caption: float = 10
    heading: float = 12.5
    small: float = 9.5
    legend: float = 10
    digit: float = 10
    title: float = 17
    subtitle: float = 11

    @property
    def character(self) -> float:
        """How wide a character of a state's name is."""
        return self.name * 9.5 / 13

    @property
    def drop(self) -> float:
        """How far below its middle the second line of a state is, of that in `FULL`."""
        return max(self.caption / 10, (self.name + self.caption) / 23)


FULL = Measures()
"""The sizes of a page that is as wide as its picture comes out."""


def fitted(scale: float, summaries: bool) -> Measures:
    """Return the sizes of a page of a given width, closer to each other than those of `FULL`.

    Args:
        scale: The size of the type, of that in `FULL`; 1 or less.
        summaries: Whether what a row means is stated beside it; if not, its name alone is there.
    """
    small = type_size(9.5, scale)
    heading = type_size(12.5, scale)
    sizes = in_eighths(
        {
            "margin": 6,
            "node_width": 0,
            "node_pad": 12 * scale,
            "node_height": max(28.0, 50 * scale),
            "headings": 112 * scale if summaries else 0,
            "column_gap": 48 * scale if summaries else 22,
            "pad": 12 * scale,
            "row_gap": 20 * scale,
            "lane_gap": 50 * scale,
            "lane": max(6.0, 10 * scale),
            "track": max(8.0, 14 * scale),
            "corner": max(6.0, 12 * scale),
            "line": small * 1.3,
            "sample": max(28.0, 40 * scale),
            "badge": max(11.0, 18 * scale),
            "arrow": max(0.5, 0.75 * scale),
            "name": type_size(13, scale),
            "caption": type_size(10, scale),
            "heading": heading,
            "small": small,
            "legend": type_size(10, scale),
            "digit": type_size(10, scale),
            "title": type_size(15, scale),
            "subtitle": type_size(11, scale),
        }
    )
    return Measures(summaries=summaries, labels=2, **sizes)


def scales(most: int, least: int) -> list[float]:
    """Return scales from the largest to the smallest, given in hundredths."""
    return [percent / 100 for percent in range(most, least - 1, -2)]
