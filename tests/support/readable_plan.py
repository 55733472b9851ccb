"""What makes a laid out time line readable: nothing is on anything else, and arrows join bars."""

from __future__ import annotations

from itertools import combinations

from vfio_migration.diagrams.drawing.shapes import Box


def box_of(text) -> Box:
    """By a wide guess at its size, for it depends on the font."""
    width = len(text.text) * text.size * 0.62
    left = text.x - {"left": 0, "middle": width / 2, "right": width}[text.anchor]
    return Box.between(left, text.y - 0.8 * text.size, left + width, text.y + 0.2 * text.size)


def crosses(line, box: Box) -> bool:
    (x1, y1), (x2, y2) = line.start, line.end
    return (
        box.left < max(x1, x2)
        and min(x1, x2) < box.right
        and box.top < max(y1, y2)
        and min(y1, y2) < box.bottom
    )


def assert_readable(layout) -> None:
    boxes = [bar.box for bar in layout.bars] + [column.badge for column in layout.columns]
    boxes += [held.box for held in layout.journal] + [sample.box for sample in layout.samples]
    named = [(f"{box}", box) for box in boxes]
    named += [(text.text, box_of(text)) for text in layout.texts]
    for (first, one), (second, two) in combinations(named, 2):
        assert not one.overlaps(two), (first, second)
    for name, box in named:
        assert box.left >= 0, name
        assert box.top >= 0, name
        assert box.right <= layout.width, name
        assert box.bottom <= layout.height, name
    for text in layout.texts:
        if text.anchor == "left":
            # Where no font is found Graphviz takes this much for a character.
            assert text.x + len(text.text) * text.size * 0.79 <= layout.width, text.text
    for bar in layout.bars:
        assert bar.box.width >= len(bar.state.name) * layout.measures.name * 0.7 + 8, (
            "its name fits"
        )
    for hop in layout.hops:
        assert hop.line.end[0] - hop.line.start[0] >= 20, "an arrow can be seen"
        assert not any(crosses(hop.line, bar.box) for bar in layout.bars)
    texts = [box_of(text) for text in layout.texts]
    for line in (*(hop.line for hop in layout.hops), *(flow.line for flow in layout.flows)):
        assert not any(crosses(line, box) for box in texts)


def assert_joined(layout) -> None:
    for hop in layout.hops:
        tail, head = layout.bars[hop.tail], layout.bars[hop.head]
        assert tail.lane == head.lane == hop.hop.lane
        assert (tail.state.name, head.state.name) == (hop.hop.from_, hop.hop.to)
        assert hop.line.start[1] == hop.line.end[1] == tail.box.y == head.box.y
        assert 0 < hop.line.start[0] - tail.box.right <= 7
        assert 0 < head.box.left - hop.line.end[0] <= 7
    for flow in layout.flows:
        tail, head = layout.bars[flow.tail].box, layout.bars[flow.head].box
        x = flow.line.start[0]
        assert x == flow.line.end[0], "it runs straight down"
        assert tail.left < x < tail.right
        assert head.left < x < head.right
        assert 0 < flow.line.start[1] - tail.bottom <= 4
        assert 0 < head.top - flow.line.end[1] <= 4
