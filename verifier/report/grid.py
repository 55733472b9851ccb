"""The grid of a table as text of at most 72 columns, with what a change did to it marked."""

from __future__ import annotations

from collections.abc import Iterator

from vfio_migration.model import Spec

WIDTH = 72
_SESSION = 9
"""How wide the names of the rows are, at least."""


def grid(new: Spec, old: Spec | None = None) -> list[str]:
    """Draw states and arcs with every capability; what OLD has otherwise is marked.

    Args:
        new: The table.
        old: The table it is compared with, or None.
    """
    columns = [row.name for row in new.operations if not row.off_grid]
    rows = [row.name for row in new.sessions]
    at = {new.position(row.name): row.name for row in new.states}
    known = None if old is None else {row.name for row in old.states}
    boxes = {
        place: name if known is None or name in known else f"*{name}*"
        for place, name in at.items()
        if place is not None
    }
    for row in range(len(rows)):
        held = [place[0] for place in boxes if place[1] == row]
        for column in range(min(held, default=0), max(held, default=0)):
            boxes.setdefault((column, row), ".")  # a hole between two states
    changes = _Changes(new, old)
    widths = [
        max(
            [len(columns[column]), *(len(boxes.get((column, row), "")) for row in range(len(rows)))]
        )
        for column in range(len(columns))
    ]
    first = max(_SESSION, *map(len, rows))
    gap = 6 if first + sum(widths) + 8 * len(columns) <= WIDTH else 4
    head = "".join(
        f"{name:^{width}}{'':{gap}}" for name, width in zip(columns, widths, strict=True)
    )
    lines = [f"{'':{first}}  {head}"]
    for row, session in enumerate(rows):
        if row:
            between = ""
            for column, width in enumerate(widths):
                mark = changes.down(at.get((column, row - 1)), at.get((column, row)))
                between += f"{mark:^{width}}{'':{gap}}"
            lines += [f"{'':{first}}  {between}"]
        line = ""
        for column, width in enumerate(widths):
            line += f"{boxes.get((column, row), ''):^{width}}"
            if column + 1 < len(widths):
                here, there = at.get((column, row)), at.get((column + 1, row))
                line += f"{changes.right(here, there):^{gap}}"
        lines.append(f"{session:<{first}}  {line}")
    return [line.rstrip() for line in [*lines, *changes.rest()]]


class _Changes:
    """The arcs of a table, as they are drawn: those of neighbours in the grid, others below it."""

    def __init__(self, new: Spec, old: Spec | None) -> None:
        self.arcs = {(arc.from_, arc.to) for arc in new.arcs}
        before = self.arcs if old is None else {(arc.from_, arc.to) for arc in old.arcs}
        self.other = self.arcs ^ before
        self.removed = before - self.arcs
        self.written = [str(row) for row in new.next_steps]
        self.drawn: set[tuple[str, str]] = set()

    def right(self, here: str | None, there: str | None) -> str:
        """The mark between a state and the one to the right of it."""
        forth, back = self._pair(here, there)
        line = "=" if self._changed(here, there) else "-"
        if not forth and not back:
            return "  x " if self._changed(here, there) else ""
        return f"{'<' if back else line}{line}{line}{'>' if forth else line}"

    def down(self, here: str | None, there: str | None) -> str:
        """The mark between a state and the one below it."""
        forth, back = self._pair(here, there)
        line = "#" if self._changed(here, there) else "|"
        if not forth and not back:
            return "x" if self._changed(here, there) else ""
        return f"{'^' if back else line}{'v' if forth else line}"

    def _pair(self, here: str | None, there: str | None) -> tuple[bool, bool]:
        if here is None or there is None:
            return False, False
        self.drawn |= {(here, there), (there, here)}
        return (here, there) in self.arcs, (there, here) in self.arcs

    def _changed(self, here: str | None, there: str | None) -> bool:
        return bool(self.other & {(here, there), (there, here)})

    def rest(self) -> Iterator[str]:
        """What the grid cannot show, and what its marks mean."""
        for from_, to in sorted(self.arcs - self.drawn):
            mark = "+" if (from_, to) in self.other else " "
            yield f"  {mark} {from_} -> {to} is an arc, and no step on the grid"
        for from_, to in sorted(self.other):
            if (from_, to) in self.drawn:
                done = "no longer an arc" if (from_, to) in self.removed else "a new arc"
                yield f"  {'-' if (from_, to) in self.removed else '+'} {from_} -> {to} is {done}"
        for row in self.written:
            yield f"  ! the request {row}"
        if self.other & self.drawn:
            yield "  (=, # and x mark where an arc came or went)"


__all__ = ["WIDTH", "grid"]
