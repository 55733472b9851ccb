"""What makes a laid out picture readable: nothing is on anything else."""

from __future__ import annotations

from itertools import combinations


def overlap(first, second) -> float:
    """How far two stretches, each along an axis, run on top of each other."""
    for axis in (0, 1):
        other = 1 - axis
        across = {round(point[axis], 3) for point in (*first, *second)}
        if len(across) == 1:
            low = max(min(p[other] for p in first), min(p[other] for p in second))
            high = min(max(p[other] for p in first), max(p[other] for p in second))
            return high - low
    return -1


def crosses(first, second) -> bool:
    """Whether two stretches at right angles meet inside both."""
    for one, two in ((first, second), (second, first)):
        (x1, y1), (x2, y2) = one
        (x3, y3), (x4, y4) = two
        if y1 == y2 and x3 == x4:
            return min(x1, x2) < x3 < max(x1, x2) and min(y3, y4) < y1 < max(y3, y4)
    return False


def assert_readable(layout) -> None:
    for one, two in combinations(layout.nodes, 2):
        assert not one.box.overlaps(two.box), (one.node.name, two.node.name)
    for placed in layout.edges:
        for start, end in placed.line.stretches:
            assert start[0] == end[0] or start[1] == end[1], "stretches run along the axes"
            for node in layout.nodes:
                inside = [
                    node.box.left < max(start[0], end[0])
                    and min(start[0], end[0]) < node.box.right,
                    node.box.top < max(start[1], end[1])
                    and min(start[1], end[1]) < node.box.bottom,
                ]
                assert not all(inside), f"{placed.edge} passes through {node.node.name}"
    for one, two in combinations(layout.edges, 2):
        for first in one.line.stretches:
            for second in two.line.stretches:
                assert overlap(first, second) <= 0, f"{one.edge} and {two.edge} share a stretch"
    for box in (
        layout.frame,
        layout.legend,
        *layout.bands,
        *(node.box for node in layout.nodes),
        *(edge.badge for edge in layout.edges if edge.badge),
    ):
        assert box.left >= 0
        assert box.top >= 0
        assert box.right <= layout.width
        assert box.bottom <= layout.height
    for placed in layout.edges:
        for x, y in placed.line.corners:
            assert 0 <= x <= layout.width
            assert 0 <= y <= layout.height


def assert_joined(layout) -> None:
    """Each edge begins and ends at its own states, pointing into them."""
    boxes = {placed.node.name: placed.box for placed in layout.nodes}
    for placed in layout.edges:
        edge, line = placed.edge, placed.line
        for name, point in ((edge.from_, line.start), (edge.to, line.end)):
            if name is not None:
                box = boxes[name]
                gap = max(
                    abs(point[0] - box.x) - box.width / 2, abs(point[1] - box.y) - box.height / 2
                )
                assert 0 <= gap <= 4, f"{edge} does not touch {name}"
