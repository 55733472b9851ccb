"""The sizes the time line of a migration is made of, in points, and how they shrink."""

from __future__ import annotations

from dataclasses import dataclass

from vfio_migration.diagrams.drawing.page import in_eighths, type_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMeasures:
    """The sizes of one page, in points. The defaults are those of a page without a given width.

    Attributes:
        margin: Around the page.
        pad: Inside a frame.
        labels: The width of what is stated of a lane.
        lane: From lane to lane.
        bar: The height of a bar.
        bar_pad: Between the name of a state and the two ends of its bar together.
        arrow: From bar to bar.
        tail: Between a bar and the arrow that leaves it; the edge of a column is half way.
        flow: Between two streams.
        badge: The height of a badge.
        heading: The type of the name of a stage.
        wrap: How wide the name of a stage is before it is broken.
        line: From baseline to baseline.
        sample: The length of a line in the legend.
        between: Between the two sides.
        strip: The height of the journal.
        name: The type of a state's name.
        label: That of a device's name, and of the legend.
        side: That of the name of a side.
        offers: That of what a device offers.
        title: That of the title.
        subtitle: That of the sentence below the title.
        head: The size of an arrow's head, of Graphviz's own.
    """

    margin: float = 24
    pad: float = 12
    labels: float = 168
    lane: float = 36
    bar: float = 22
    bar_pad: float = 14
    arrow: float = 34
    tail: float = 6
    flow: float = 12
    badge: float = 16
    heading: float = 9.5
    wrap: float = 84
    line: float = 12
    sample: float = 40
    between: float = 40
    strip: float = 16
    name: float = 9.5
    label: float = 10
    side: float = 12
    offers: float = 8
    title: float = 17
    subtitle: float = 11
    head: float = 0.75


FULL = PlanMeasures()
"""The sizes of a page that is as wide as its picture comes out."""


def fitted(scale: float) -> PlanMeasures:
    """Return the sizes of a page of a given width, at a scale of 1 or less of those in `FULL`."""
    small = type_size(9.5, scale)
    sizes = in_eighths(
        {
            "margin": 6,
            "pad": 8 * scale,
            "labels": 118 * scale,
            "lane": max(26.0, 36 * scale),
            "bar": max(14.0, 22 * scale),
            "bar_pad": max(8.0, 12 * scale),
            "arrow": max(28.0, 34 * scale),
            "tail": 6,
            "flow": max(9.0, 12 * scale),
            "badge": max(11.0, 16 * scale),
            "heading": small,
            "wrap": 84 * scale,
            "line": small * 12 / 9.5,
            "sample": max(28.0, 40 * scale),
            "between": max(18.0, 24 * scale),
            "strip": max(12.0, 16 * scale),
            "name": small,
            "label": type_size(10, scale),
            "side": type_size(11, scale),
            "offers": 7,
            "title": type_size(15, scale),
            "subtitle": type_size(11, scale),
            "head": max(0.5, 0.75 * scale),
        }
    )
    return PlanMeasures(**sizes)
