"""Reads a picture in text back, from its characters alone: boxes, arrows between them, the list.

Nothing here is shared with what draws it. A box is found by its corners, an arrow by walking from
the border of one box to that of another, and every line must lead somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TOP_LEFT, BOTTOM_LEFT = "┌┏+#", "└┗+#"
ACROSS, DOWN = "-─━┄=.", "│┃┆|#:"
HEAD = {"left": "◄<", "right": "►>", "up": "▲^", "down": "▼v"}
BARRED = "×x"  # noqa: RUF001 - the sign of multiplication
CORNERS = "┌┐└┘┏┓┗┛+#"
ON_BORDERS = f"{ACROSS}┴┸┷┻┬┰┯┳+#"
SIDES = f"{DOWN}┤┥┨┫├┝┠┣"
SIGNS = "-+\N{MINUS SIGN}~"
EFFECTS = ("opens", "keeps", "closes")
CHANGES = ("is new", "is removed", "is changed")

LISTED = re.compile(
    rf"^\s*(?:[{SIGNS}] )?(?P<from>any state|\S+) [{ACROSS}]{{2}}(?P<head>[►>{BARRED}])"
    r" (?P<to>[^\s.,]+)"
    r"(?:   (?P<words>.*))?$"
)
STATE = re.compile(rf"^[{SIGNS}]?(?P<name>\S+) \((?P<value>\d+)\): [\w ]+, [\w ]+$")
UNMARKED = re.compile(r"^An arc that (\w+) the data session: (.*)\.$")
OFF_GRID = re.compile(
    rf"(?P<in>[◄<])?[{ACROSS}](?P<mark>[\w!,]*)[{ACROSS}](?P<out>[►>])? (?P<other>any state|\S+): "
)


@dataclass
class Art:
    """What a picture shows.

    Attributes:
        states: The value of each state.
        edges: From ("" for any state), to, and "arc", "refused" or "event".
        marks: What is written on an edge, by its two ends.
        effects: What an arc does to the data session, where it is written.
    """

    states: dict[str, int] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    marks: dict[tuple[str, str], str] = field(default_factory=dict)
    effects: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, from_: str, to: str, kind: str, mark: str = "", effect: str = "") -> None:
        assert (from_, to, kind) not in self.edges, f"{from_} to {to} is drawn twice"
        self.edges.append((from_, to, kind))
        if mark:
            self.marks[from_, to] = mark
        if effect and kind == "arc":
            self.effects[from_, to] = effect


@dataclass(frozen=True)
class Box:
    """A box: its borders, and the name and value in it."""

    left: int
    right: int
    top: int
    name: str
    value: int


class Page:
    """The characters of a picture."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")

    def at(self, x: int, y: int) -> str:
        line = self.lines[y] if 0 <= y < len(self.lines) else ""
        return line[x] if 0 <= x < len(line) else " "

    def boxes(self) -> Iterator[Box]:
        for y, line in enumerate(self.lines):
            for x, sign in enumerate(line):
                if sign in TOP_LEFT and self.at(x, y + 3) in BOTTOM_LEFT:
                    box = self._box(x, y)
                    if box is not None:
                        yield box

    def _box(self, left: int, top: int) -> Box | None:
        if any(self.at(left, top + down) not in SIDES for down in (1, 2)):
            return None
        right = left + 1
        while True:
            here = [self.at(right, top + down) for down in range(4)]
            if here[0] not in ON_BORDERS + CORNERS or here[3] not in ON_BORDERS + CORNERS:
                return None
            if here[0] in CORNERS and here[1] in SIDES and here[2] in SIDES:
                break
            right += 1
        name, value = (self.lines[top + down][left + 1 : right].strip() for down in (1, 2))
        return Box(left, right, top, name.lstrip(SIGNS), int(value))


def read_art(text: str) -> Art:
    """Return what a picture shows."""
    page, art = Page(text), Art()
    boxes = list(page.boxes())
    for box in boxes:
        assert box.name not in art.states
        art.states[box.name] = box.value
    for box in boxes:
        _to_the_right(page, art, box, boxes)
        _below(page, art, box, boxes)
    _listed(page, art)
    return art


def _to_the_right(page: Page, art: Art, box: Box, boxes: list[Box]) -> None:
    others = [one for one in boxes if one.top == box.top and one.left > box.right]
    other = min(others, key=lambda one: one.left, default=None)
    for down in (1, 2):
        y = box.top + down
        if other is None:
            found = OFF_GRID.match(page.lines[y][box.right + 1 :])
            if found:
                name = found["other"].replace("any state", "")
                ends = (name, box.name) if found["in"] else (box.name, name)
                art.add(*ends, "event", found["mark"])
            continue
        run = page.lines[y][box.right + 1 : other.left]
        if not run.strip():
            continue
        back, forth = run[0] in HEAD["left"] + BARRED, run[-1] in HEAD["right"] + BARRED
        assert back != forth, run
        ends = (other.name, box.name) if back else (box.name, other.name)
        kind = "refused" if run[0 if back else -1] in BARRED else "arc"
        body = run[1:] if back else run[:-1]
        words = [page.lines[box.top + at][box.right + 1 : other.left].strip() for at in (0, 3)]
        effect = (words[1] or words[0]) if back else words[0]
        art.add(*ends, kind, body.strip(ACROSS), effect if effect.isalpha() else "")


def _below(page: Page, art: Art, box: Box, boxes: list[Box]) -> None:
    for x in range(box.left + 1, box.right):
        first = y = box.top + 4
        tops = {one.top: one for one in boxes if one.left < x < one.right}
        while y not in tops and page.at(x, y) in DOWN + HEAD["up"] + HEAD["down"] + BARRED:
            y += 1
        if y == first or y not in tops:
            continue
        up = page.at(x, first) in HEAD["up"] + BARRED
        head = page.at(x, first if up else y - 1)
        assert head in HEAD["up" if up else "down"] + BARRED, f"a line without a head at {x}, {y}"
        ends = (tops[y].name, box.name) if up else (box.name, tops[y].name)
        words = [_beside(page.lines[at], x, left=up) for at in (first, y - 1)]
        art.add(*ends, "refused" if head in BARRED else "arc", words[1], words[0])


def _beside(line: str, x: int, *, left: bool) -> str:
    found = re.search(r"(\S+) $", line[:x]) if left else re.match(r" (\S+)", line[x + 1 :])
    return found[1] if found and re.match(r"[\w*]", found[1]) else ""


def _listed(page: Page, art: Art) -> None:
    for line in page.lines:
        if found := STATE.match(line):
            art.states[found["name"]] = int(found["value"])
        if found := LISTED.match(line):
            words = (found["words"] or "").split(", ")
            if "is removed" in words or _is_drawn(art, found):
                continue  # it is listed besides what became of it
            mark = words.pop(0).removeprefix("step ") if words[0].startswith("step ") else ""
            kind = "arc" if set(words) <= {"", *EFFECTS, *CHANGES} else "event"
            if found["head"] in BARRED:
                kind = "refused"
            effect = next((word for word in words if word in EFFECTS), "")
            art.add(found["from"].replace("any state", ""), found["to"], kind, mark, effect)
    whole = " ".join(line.strip() for line in page.lines)
    for sentence in re.findall(r"An arc that \w+ the data session: [^.]*\.", whole):
        found = UNMARKED.match(sentence)
        assert found is not None
        for pair in found[2].split(", "):
            from_, _, to = pair.split(" ")
            art.effects[from_, to] = found[1]


def _is_drawn(art: Art, found: re.Match[str]) -> bool:
    """Return whether an edge of the list is one of those drawn, which is listed as changed."""
    ends = (found["from"].replace("any state", ""), found["to"])
    changed = any(change in (found["words"] or "") for change in CHANGES)
    return changed and any(edge[:2] == ends for edge in art.edges)
