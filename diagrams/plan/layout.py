"""Where everything is on the time line of a migration.

Time runs to the right. A device is a lane, the state it is in a bar, its step from one to the next
an arrow between two bars. Stages are columns, no wider than what happens in them: a bar is as long
as its state lasts, and its name must fit, which is all that pushes columns apart.

As in `vfio_migration.diagrams.machine.layout`, sizes follow from counts of characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from vfio_migration.diagrams.drawing.shapes import (
    BOLD,
    CHARACTER,
    Box,
    Line,
    Text,
    TextRole,
    elide,
    in_columns,
    wrap,
)
from vfio_migration.diagrams.plan.legend import SampleKind, entries
from vfio_migration.diagrams.plan.view import SIDES, Hop, PlanView, ShownState, Stage

MARGIN = 24.0
PAD = 12.0
LABELS = 168.0  # the width of what is stated of a lane
LANE = 36.0  # from lane to lane
BAR = 22.0  # the height of a bar
ARROW = 34.0  # from bar to bar
TAIL = 6.0  # between a bar and the arrow that leaves it; the edge of a column is half way
TIP = 2.0  # between an arrow and the bar it points at
EDGE = 4.0  # between the edge of a column and its heading
FLOW = 12.0  # between two streams
BADGE = 16.0
HEADING = 9.5
LINE = 12.0  # from baseline to baseline
LEGEND_LINE = 21.0
SAMPLE = 40.0
BETWEEN = 40.0  # between the two sides
LEAST = 640.0  # how far the page reaches to the right at least
STRIP = 16.0  # the height of the journal
_WIDE = 0.8  # the width of a character where no font is found: what does not fit is moved
_PRINT = 0.62  # that of small print, on the wide side
NAME = 9.5  # the size of a state's name


@dataclass(frozen=True, slots=True)
class PlacedBar:
    """A state, as long as a device is in it. `stage` is the one it was entered in."""

    lane: int
    stage: int
    state: ShownState
    box: Box


@dataclass(frozen=True, slots=True)
class PlacedHop:
    """A step from one bar to the next of its lane, by their places among the bars."""

    hop: Hop
    stage: int
    line: Line
    tail: int
    head: int


@dataclass(frozen=True, slots=True)
class PlacedFlow:
    """The stream of one device in a transfer, from a bar of the source to one beyond."""

    device: int
    stage: int
    line: Line
    tail: int
    head: int


@dataclass(frozen=True, slots=True)
class Column:
    """A stage, and the box it takes on the page from its heading down."""

    stage: Stage
    box: Box
    badge: Box


@dataclass(frozen=True, slots=True)
class Held:
    """A stretch of the journal."""

    holder: str
    box: Box


@dataclass(frozen=True, slots=True)
class PlanSample:
    """An entry of the legend: what it explains, a state if it is one, and the box of its sample."""

    kind: SampleKind | ShownState
    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class PlanLayout:
    """A whole page.

    Attributes:
        width: Its width in points.
        height: Its height in points.
        groups: What holds the lanes of each side.
        columns: The stages.
        brackets: The lines over the stages of one plan.
        bars: The states.
        hops: The steps.
        flows: The streams.
        journal: Who holds the state.
        downtime: What is shaded; None if there is no downtime.
        no_return: The line where there is no way back; None if there is none.
        legend: What holds the legend.
        samples: The samples of the legend.
        texts: Title, headings, labels and small print.
    """

    width: float
    height: float
    groups: tuple[Box, ...]
    columns: tuple[Column, ...]
    brackets: tuple[Line, ...]
    bars: tuple[PlacedBar, ...]
    hops: tuple[PlacedHop, ...]
    flows: tuple[PlacedFlow, ...]
    journal: tuple[Held, ...]
    downtime: Box | None
    no_return: Line | None
    legend: Box
    samples: tuple[PlanSample, ...]
    texts: tuple[Text, ...]


def lay_out_plan(view: PlanView) -> PlanLayout:
    """Find the place of everything in a plan."""
    return _Page(view).layout()


@dataclass(frozen=True, slots=True)
class _Span:
    """A stage across the page: its sides, and where the arrows in it begin."""

    left: float
    right: float
    arrows: tuple[float, ...]


class _Page:
    """One page while it is laid out: first across, then from the top down."""

    def __init__(self, view: PlanView) -> None:
        self.view = view
        self.texts: list[Text] = []
        self.brackets: list[Line] = []
        self.states = {state.name: state for state in view.states}
        self.begin = MARGIN + LABELS
        self.spans, self.end = self._across()
        self.right = max(self.end + PAD, LEAST)
        self.width = self.right + MARGIN

    # --- across ---

    def _across(self) -> tuple[list[_Span], float]:
        """Place the stages from left to right: each as far left as what came before allows."""
        view = self.view
        # Where the bar of each lane can end at the earliest.
        free = [self.begin + _bar_width(lane.state) for lane in view.lanes]
        spans: list[_Span] = []
        right = self.begin + min((_bar_width(lane.state) for lane in view.lanes), default=0)
        for stage in view.stages:
            paths = {lane: stage.path(lane) for lane in range(len(view.lanes))}
            moving = [lane for lane, hops in paths.items() if hops]
            left = max([right, *(free[lane] + TAIL / 2 for lane in moving)])
            arrows: list[float] = []
            at = left - TAIL / 2
            for index in range(max((len(hops) for hops in paths.values()), default=0)):
                steps = {lane: hops[index] for lane, hops in paths.items() if len(hops) > index}
                at = max([at, *(free[lane] for lane in steps)])
                arrows.append(at)
                at += ARROW
                for lane, hop in steps.items():
                    free[lane] = at + _bar_width(hop.to)
            if stage.flows:
                at += FLOW * (len(stage.flows) + 1)
            right = max(at + TAIL / 2, left + _heading_width(stage))
            if spans:
                # What is pushed apart belongs to the stage before.
                spans[-1] = _Span(spans[-1].left, left, spans[-1].arrows)
            spans.append(_Span(left, right, tuple(arrows)))
        end = max([right, *free])
        if spans:
            spans[-1] = _Span(spans[-1].left, end, spans[-1].arrows)
        return spans, end

    # --- down ---

    def layout(self) -> PlanLayout:
        top = self._title()
        heading_top = top
        top = self._headings(top)
        groups, self.lane_y, bottom = self._groups(top)
        bars, hops = self._bars()
        flows = tuple(self._flows(bars))
        columns = tuple(
            Column(
                stage,
                Box.between(span.left, heading_top, span.right, groups[-1].bottom),
                Box(span.left + EDGE + BADGE / 2, self.badge_y, BADGE + 4, BADGE),
            )
            for stage, span in zip(self.view.stages, self.spans, strict=True)
        )
        downtime = self._downtime(top, groups)
        no_return, bottom = self._no_return(top, bottom)
        journal, bottom = self._journal(bottom)
        legend, samples, height = self._legend(bottom)
        return PlanLayout(
            width=self.width,
            height=height,
            groups=groups,
            columns=columns,
            brackets=tuple(self.brackets),
            bars=tuple(bars),
            hops=tuple(hops),
            flows=flows,
            journal=journal,
            downtime=downtime,
            no_return=no_return,
            legend=legend,
            samples=samples,
            texts=tuple(self.texts),
        )

    def _title(self) -> float:
        y = MARGIN - 6
        for part in wrap(self.view.title, self.right - MARGIN, 17, BOLD):
            y += 22
            self.texts.append(Text(MARGIN, y, part, 17, role="title"))
        for part in self._lines(self.view.summary, MARGIN, self.right, 11):
            y += 17
            self.texts.append(Text(MARGIN, y, part, 11, role="muted"))
        return y + 26

    def _headings(self, y: float) -> float:
        """Name the stages, and above them the plan each is a phase of."""
        stages = list(zip(self.view.stages, self.spans, strict=True))
        for plan, members in groupby(stages, key=lambda pair: pair[0].plan or "transfer"):
            spans = [span for _, span in members]
            left, right = spans[0].left + EDGE, spans[-1].right - EDGE
            self.texts.append(Text(left, y, plan, HEADING, role="muted"))
            self.brackets.append(Line(((left, y + 4), (right, y + 4))))
        self.badge_y = y + 18
        names = [_heading(stage) for stage, _ in stages]
        for (_, span), lines in zip(stages, names, strict=True):
            for index, line in enumerate(lines):
                below = self.badge_y + 21 + LINE * index
                self.texts.append(Text(span.left + EDGE, below, line, HEADING, role="heading"))
        return self.badge_y + 21 + LINE * max(map(len, names), default=1)

    def _groups(self, y: float) -> tuple[tuple[Box, ...], list[float], float]:
        """Place the two sides, one below the other."""
        groups: list[Box] = []
        lanes: list[float] = []
        if self.view.downtime is not None:
            y += LINE + 2
        for side in SIDES:
            top = y
            self.texts.append(Text(MARGIN + PAD, top + 19, side, 12, role="heading"))
            y = top + 26
            for lane in self.view.lanes:
                if lane.side != side:
                    continue
                centre = y + LANE / 2
                lanes.append(centre)
                room = int((LABELS - 2 * PAD) / (10 * CHARACTER)) - 1
                label = elide(lane.label, room - len(f"{lane.device + 1}  "))
                self.texts += [
                    Text(MARGIN + PAD, centre - 1, f"{lane.device + 1}  {label}", 10),
                    Text(
                        MARGIN + PAD,
                        centre + 10,
                        elide(", ".join(lane.capabilities), int((LABELS - 2 * PAD) / 5)),
                        8,
                        role="muted",
                    ),
                ]
                y += LANE
            groups.append(Box.between(MARGIN, top, self.right, y + 6))
            y = groups[-1].bottom + BETWEEN
        return tuple(groups), lanes, y - BETWEEN

    def _bars(self) -> tuple[list[PlacedBar], list[PlacedHop]]:
        bars: list[PlacedBar] = []
        hops: list[PlacedHop] = []
        for index, lane in enumerate(self.view.lanes):
            y = self.lane_y[index]
            left, state, since = self.begin, lane.state, 0
            for stage, span in zip(self.view.stages, self.spans, strict=True):
                for hop, at in zip(stage.path(index), span.arrows, strict=False):
                    bars.append(self._bar(index, since, state, left, at))
                    line = Line(((at + TAIL, y), (at + ARROW - TIP, y)))
                    hops.append(PlacedHop(hop, stage.number, line, len(bars) - 1, len(bars)))
                    left, state, since = at + ARROW, hop.to, stage.number
            bars.append(self._bar(index, since, state, left, self.end))
        return bars, hops

    def _bar(self, lane: int, stage: int, state: str, left: float, right: float) -> PlacedBar:
        y = self.lane_y[lane]
        box = Box.between(left, y - BAR / 2, right, y + BAR / 2)
        return PlacedBar(lane, stage, self.states[state], box)

    def _flows(self, bars: Sequence[PlacedBar]) -> Iterator[PlacedFlow]:
        """Draw each stream straight down, behind the bars of the lanes between."""
        for stage, span in zip(self.view.stages, self.spans, strict=True):
            middle = (span.left + span.right) / 2
            for index, device in enumerate(stage.flows):
                x = middle + FLOW * (index - (len(stage.flows) - 1) / 2)
                tail, head = (
                    next(
                        place
                        for place, bar in enumerate(bars)
                        if bar.lane == self.view.lane(side, device)
                        and bar.box.left <= x <= bar.box.right
                    )
                    for side in SIDES
                )
                line = Line(((x, bars[tail].box.bottom + TIP), (x, bars[head].box.top - TIP)))
                yield PlacedFlow(device, stage.number, line, tail, head)

    # --- marks ---

    def _downtime(self, top: float, groups: Sequence[Box]) -> Box | None:
        """Shade from the first arrow that stops a source to the last that starts a destination."""
        downtime = self.view.downtime
        if downtime is None:
            return None
        first = self.spans[downtime.first - 1]
        right = self.end + PAD
        if downtime.last is not None:
            right = self.spans[downtime.last - 1].arrows[-1] + ARROW
        box = Box.between(first.left, top, right, groups[-1].bottom + 1)
        self.texts.append(
            Text(box.left + EDGE, top + LINE - 1, "downtime", HEADING, role="heading")
        )
        return box

    def _no_return(self, top: float, bottom: float) -> tuple[Line | None, float]:
        if self.view.no_return is None:
            return None, bottom
        x = self.spans[self.view.no_return - 1].left
        line = Line(((x, top + LINE + 2), (x, bottom + 8)))
        self.texts.append(
            Text(x, bottom + 8 + LINE, "point of no return", HEADING, "middle", role="heading")
        )
        return line, bottom + 8 + LINE

    def _journal(self, y: float) -> tuple[tuple[Held, ...], float]:
        """Say below the lanes who holds the state, stage by stage."""
        if len({stage.holder for stage in self.view.stages}) < 2:
            return (), y
        y += 14
        centre = y + STRIP / 2
        self.texts.append(
            Text(MARGIN + PAD, centre + 3, "who holds the state", HEADING, role="text")
        )
        held = []
        pairs = zip(self.view.stages, self.spans, strict=True)
        left = self.begin
        for holder, members in groupby(pairs, key=lambda pair: pair[0].holder):
            span = list(members)[-1][1]
            held.append(Held(holder, Box.between(left, y, span.right - 2, y + STRIP)))
            left = span.right
        return tuple(held), y + STRIP

    # --- below the picture ---

    def _legend(self, y: float) -> tuple[Box, tuple[PlanSample, ...], float]:
        top = y + 22
        inside = self.right - MARGIN - 2 * PAD
        items = list(entries(self.view))
        widths, last = (
            [SAMPLE + 24 + 10 * each * len(text) for _, text in items] for each in (_PRINT, _WIDE)
        )
        rows, places = in_columns(widths, last, inside)
        samples = []
        for index, ((kind, text), place) in enumerate(zip(items, places, strict=True)):
            left = MARGIN + PAD + place
            middle = top + 22 + LEGEND_LINE * (index % rows)
            samples.append(PlanSample(kind, text, Box(left + SAMPLE / 2, middle, SAMPLE, 14)))
            room = int((self.width - left - SAMPLE - 10) / (10 * _WIDE))
            short = text if len(text) <= room else f"{text[: room - 1]}…"
            self.texts.append(Text(left + SAMPLE + 10, middle + 3.5, short))
        y = top + 22 + LEGEND_LINE * rows
        lines = [f"{row.number}. {row.name}: {row.summary}" for row in self.view.stages]
        y = self._in_two(lines, y)
        if self.view.idle:
            idle = [f"Nothing to do for this group: {self.view.idle_names}."]
            y = self._small_print(idle, y + 4, "muted", MARGIN + PAD, self.right - PAD)
        box = Box.between(MARGIN, top, self.right, y + 11)
        return box, tuple(samples), box.bottom + MARGIN

    def _lines(self, text: str, left: float, right: float, size: float) -> list[str]:
        """Break a text into lines that fit between two places, and on the page in any font."""
        width = min((right - left) / _PRINT, (self.width - left) / _WIDE)
        return wrap(text, width * CHARACTER, size)

    def _in_two(self, lines: Sequence[str], y: float) -> float:
        """Print lines in two halves side by side, each line broken where it must be."""
        half = -(-len(lines) // 2)
        middle = (MARGIN + self.right) / 2
        return max(
            self._small_print(lines[:half], y, "text", MARGIN + PAD, middle - PAD),
            self._small_print(lines[half:], y, "text", middle, self.right - PAD),
        )

    def _small_print(
        self, lines: Sequence[str], y: float, role: TextRole, left: float, right: float
    ) -> float:
        for line in lines:
            for index, part in enumerate(self._lines(line, left, right - 14, 9.5)):
                y += LINE + (0 if index else 2)
                self.texts.append(Text(left + 14 * bool(index), y, part, 9.5, role=role))
        return y


def _bar_width(state: str) -> float:
    """Return how long a bar must be for the name of its state: whole points, to be added up."""
    return math.ceil(len(state) * NAME * BOLD + 14)


def _heading(stage: Stage) -> list[str]:
    return wrap(stage.name, 84, HEADING)


def _heading_width(stage: Stage) -> float:
    longest = max(max(map(len, _heading(stage))) * 1.16, len(stage.plan or "transfer"))
    return math.ceil(longest * HEADING * CHARACTER + 2 * EDGE + 4)
