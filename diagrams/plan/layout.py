"""Where everything is on the time line of a migration.

Time runs to the right. A device is a lane, the state it is in a bar, its step from one to the next
an arrow between two bars. Stages are columns, no wider than what happens in them: a bar is as long
as its state lasts, and its name must fit, which is all that pushes columns apart.

As in `vfio_migration.diagrams.machine.layout`, sizes follow from counts of characters. On a page of
a given width the stages that do not fit beside each other go on below, on a strip of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from vfio_migration.diagrams.drawing.page import SMALLEST, WHOLE, Page, TooNarrowError
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
from vfio_migration.diagrams.plan.measures import FULL, PlanMeasures, fitted
from vfio_migration.diagrams.plan.view import SIDES, Hop, PlanView, ShownState, Stage

TIP = 2.0  # between an arrow and the bar it points at
EDGE = 4.0  # between the edge of a column and its heading
LEAST = 640.0  # how far the page reaches to the right at least, if its width is not given
_WIDE = 0.8  # the width of a character where no font is found: what does not fit is moved
_PRINT = 0.62  # that of small print, on the wide side


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
    """A stage, the box it takes on the page from its heading down, and the sides it runs over."""

    stage: Stage
    box: Box
    badge: Box
    groups: tuple[Box, ...]


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
        groups: What holds the lanes of each side, strip by strip.
        columns: The stages.
        brackets: The lines over the stages of one plan.
        bars: The states.
        hops: The steps.
        flows: The streams.
        journal: Who holds the state.
        downtime: What is shaded, on each strip it reaches.
        no_return: The line where there is no way back; None if there is none.
        legend: What holds the legend; None if there is none.
        samples: The samples of the legend.
        texts: Title, headings, labels and small print.
        measures: The sizes it is made of.
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
    downtime: tuple[Box, ...]
    no_return: Line | None
    legend: Box | None
    samples: tuple[PlanSample, ...]
    texts: tuple[Text, ...]
    measures: PlanMeasures


def lay_out_plan(view: PlanView, page: Page = WHOLE) -> PlanLayout:
    """Find the place of everything in a plan.

    Raises:
        TooNarrowError: If the page is too narrow for type that can be read.
    """
    if page.width is None:
        return _Page(view, page, FULL).layout()
    whole = _Page(view, replace(page, width=None), FULL)
    if whole.width <= page.width:
        return _Page(view, page, FULL).layout()
    smallest = SMALLEST / FULL.name
    for scale in (max(smallest, min(1.0, page.width / 720)), smallest):
        fit = _Page(view, page, fitted(scale))
        if fit.width <= page.width:
            return fit.layout()
    raise TooNarrowError(page.width, fit.width)


@dataclass(frozen=True, slots=True)
class _Span:
    """A stage across the page: its sides, and where the arrows in it begin."""

    left: float
    right: float
    arrows: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Strip:
    """As many stages as fit beside each other, and how far right they reach."""

    stages: tuple[Stage, ...]
    spans: tuple[_Span, ...]
    end: float

    def span(self, number: int | None) -> _Span | None:
        """Return where the stage of a number is; None if it is on another strip."""
        pairs = zip(self.stages, self.spans, strict=True)
        return next((span for stage, span in pairs if stage.number == number), None)


class _Page:
    """One page while it is laid out: first across, then from the top down.

    Stages that do not fit beside each other go on below, on another strip, as a score does.
    """

    def __init__(self, view: PlanView, page: Page, measures: PlanMeasures) -> None:
        self.view = view
        self.page = page
        self.measures = m = measures
        self.texts: list[Text] = []
        self.brackets: list[Line] = []
        self.columns: list[Column] = []
        self.bars: list[PlacedBar] = []
        self.hops: list[PlacedHop] = []
        self.flows: list[PlacedFlow] = []
        self.journal: list[Held] = []
        self.downtime: list[Box] = []
        self.no_return: Line | None = None
        self.states = {state.name: state for state in view.states}
        self.common = "" if m is FULL else view.common
        self.labels = m.labels if m is FULL else self._label_width()
        self.begin = m.margin + self.labels
        room = None if page.width is None else page.width - m.margin - m.pad
        self.strips = self._strips(room)
        end = max(strip.end for strip in self.strips)
        self.right = max(end + m.pad, LEAST if room is None else 0)
        if page.width is not None:
            self.right = max(self.right, page.width - m.margin)
        self.width = self.right + m.margin

    # --- across ---

    def _label_width(self) -> float:
        """Return how wide the names of the devices are, as far as there is room for them."""
        m = self.measures
        longest = max(len(f"0  {lane.label}") for lane in self.view.lanes)
        wide = (longest + 2) * m.label * CHARACTER
        if not self.common:
            offers = max(len(", ".join(lane.capabilities)) for lane in self.view.lanes)
            wide = max(wide, (offers + 1) * m.offers * 0.625)
        return min(wide + 2 * m.pad, 1.35 * m.labels)

    def _strips(self, room: float | None) -> list[_Strip]:
        """Break the plan into strips, each as long as there is room for."""
        strips: list[_Strip] = []
        states = tuple(lane.state for lane in self.view.lanes)
        part: tuple[Stage, ...] = ()
        for stage in self.view.stages:
            longer = self._across((*part, stage), states)
            if part and room is not None and longer.end > room:
                strips.append(self._across(part, states))
                states, part = part[-1].states_after, ()
            part = (*part, stage)
        return [*strips, self._across(part, states)]

    def _across(self, stages: tuple[Stage, ...], states: Sequence[str]) -> _Strip:
        """Place stages from left to right: each as far left as what came before allows."""
        m = self.measures
        # Where the bar of each lane can end at the earliest.
        free = [self.begin + self._bar_width(state) for state in states]
        spans: list[_Span] = []
        right = self.begin + min(map(self._bar_width, states), default=0)
        for stage in stages:
            paths = {lane: stage.path(lane) for lane in range(len(states))}
            moving = [lane for lane, hops in paths.items() if hops]
            left = max([right, *(free[lane] + m.tail / 2 for lane in moving)])
            arrows: list[float] = []
            at = left - m.tail / 2
            for index in range(max((len(hops) for hops in paths.values()), default=0)):
                steps = {lane: hops[index] for lane, hops in paths.items() if len(hops) > index}
                at = max([at, *(free[lane] for lane in steps)])
                arrows.append(at)
                at += m.arrow
                for lane, hop in steps.items():
                    free[lane] = at + self._bar_width(hop.to)
            if stage.flows:
                at += m.flow * (len(stage.flows) + 1)
            right = max(at + m.tail / 2, left + self._heading_width(stage))
            if spans:
                # What is pushed apart belongs to the stage before.
                spans[-1] = _Span(spans[-1].left, left, spans[-1].arrows)
            spans.append(_Span(left, right, tuple(arrows)))
        end = max([right, *free])
        if spans:
            spans[-1] = _Span(spans[-1].left, end, spans[-1].arrows)
        return _Strip(stages, tuple(spans), end)

    def _bar_width(self, state: str) -> float:
        """Return how long a bar must be for the name of its state: whole points, to be added up."""
        return math.ceil(len(state) * self.measures.name * BOLD + self.measures.bar_pad)

    def _heading(self, stage: Stage) -> list[str]:
        return wrap(stage.name, self.measures.wrap, self.measures.heading)

    def _heading_width(self, stage: Stage) -> float:
        longest = max([len(_plan(stage)), *(len(line) * 1.16 for line in self._heading(stage))])
        wide = math.ceil(longest * self.measures.heading * CHARACTER + 2 * EDGE + 4)
        return max(wide, self._badge_width(stage) + 2 * EDGE) if stage.label else wide

    # --- down ---

    def layout(self) -> PlanLayout:
        m = self.measures
        y = self._title()
        groups: list[Box] = []
        states = tuple(lane.state for lane in self.view.lanes)
        for index, strip in enumerate(self.strips):
            if index:
                y += m.between
            # On whole points, the middle of a bar is where its arrow is, exactly.
            sides, y = self._strip(strip, states, math.ceil(y))
            groups += sides
            states = strip.stages[-1].states_after if strip.stages else states
        legend, samples, height = self._legend(y)
        return PlanLayout(
            width=self.width,
            height=height,
            groups=tuple(groups),
            columns=tuple(self.columns),
            brackets=tuple(self.brackets),
            bars=tuple(self.bars),
            hops=tuple(self.hops),
            flows=tuple(self.flows),
            journal=tuple(self.journal),
            downtime=tuple(self.downtime),
            no_return=self.no_return,
            legend=legend,
            samples=samples,
            texts=tuple(self.texts),
            measures=m,
        )

    def _strip(
        self, strip: _Strip, states: Sequence[str], y: float
    ) -> tuple[tuple[Box, ...], float]:
        heading_top = y
        top = self._headings(strip, y)
        groups, lane_y, bottom = self._groups(top)
        first = len(self.bars)
        self._bars(strip, states, lane_y)
        self.flows += self._flows(strip, first)
        self.columns += [
            Column(
                stage,
                Box.between(span.left, heading_top, span.right, groups[-1].bottom),
                self._badge(span, stage),
                groups,
            )
            for stage, span in zip(strip.stages, strip.spans, strict=True)
        ]
        self._downtime(strip, top, groups)
        bottom = self._no_return(strip, top, bottom)
        bottom = self._journal(strip, bottom)
        return groups, bottom

    def _badge_width(self, stage: Stage) -> float:
        m = self.measures
        return max(m.badge + 4, m.label * (0.8 + 0.6 * len(stage.label or "")))

    def _badge(self, span: _Span, stage: Stage) -> Box:
        m, wide = self.measures, self._badge_width(stage)
        return Box(span.left + EDGE - 2 + wide / 2, self.badge_y, wide, m.badge)

    def _title(self) -> float:
        m = self.measures
        if not self.page.title:
            return m.margin + m.heading
        y = m.margin - 6
        for part in wrap(self.view.title, self.right - m.margin, m.title, BOLD):
            y += m.title * 22 / 17
            self.texts.append(Text(m.margin, y, part, m.title, role="title"))
        # What all devices offer is stated once where there is little room, and not with each.
        summary = f"{self.view.summary} {self.common}".rstrip()
        for part in self._lines(summary, m.margin, self.right, m.subtitle):
            y += m.subtitle * 17 / 11
            self.texts.append(Text(m.margin, y, part, m.subtitle, role="muted"))
        return y + m.heading * 26 / 9.5

    def _headings(self, strip: _Strip, y: float) -> float:
        """Name the stages, and above them the plan each is a phase of."""
        m = self.measures
        stages = list(zip(strip.stages, strip.spans, strict=True))
        for plan, members in groupby(stages, key=lambda pair: _plan(pair[0])):
            if not plan:
                continue
            spans = [span for _, span in members]
            left, right = spans[0].left + EDGE, spans[-1].right - EDGE
            self.texts.append(Text(left, y, plan, m.heading, role="muted"))
            self.brackets.append(Line(((left, y + 4), (right, y + 4))))
        has_plans = any(_plan(stage) for stage, _ in stages)
        self.badge_y = y + (m.badge / 2 + 10 if has_plans or not stages else 0)
        first = self.badge_y + m.badge / 2 + m.line + 1
        names = [self._heading(stage) for stage, _ in stages]
        for (_, span), lines in zip(stages, names, strict=True):
            for index, line in enumerate(lines):
                below = first + m.line * index
                self.texts.append(Text(span.left + EDGE, below, line, m.heading, role="heading"))
        return first + m.line * max(map(len, names), default=1)

    def _groups(self, y: float) -> tuple[tuple[Box, ...], list[float], float]:
        """Place the two sides, one below the other."""
        m = self.measures
        groups: list[Box] = []
        lanes: list[float] = []
        if self.view.downtime is not None:
            y += m.line + 2
        left = m.margin + m.pad
        for side in self.view.sides:
            top = y
            if side is not None:
                baseline = top + m.side + (7 if m is FULL else 4)
                self.texts.append(Text(left, baseline, side, m.side, role="heading"))
            y = top + (m.pad / 2 if side is None else m.side + (14 if m is FULL else 8))
            for lane in self.view.lanes:
                if lane.side != side:
                    continue
                high = m.bar + 6 if self.common else m.lane
                centre = y + high / 2
                lanes.append(centre)
                y += high
                room = int((self.labels - 2 * m.pad) / (m.label * CHARACTER)) - 1
                number = "" if side is None else f"{lane.device + 1}  "
                label = elide(lane.label, room - len(number))
                baseline = centre + 0.35 * m.label if self.common else centre - 1
                self.texts.append(Text(left, baseline, f"{number}{label}", m.label))
                if not self.common:
                    room = int((self.labels - 2 * m.pad) / (m.offers * 0.625))
                    words = elide(", ".join(lane.capabilities), room)
                    below = centre + m.label
                    self.texts.append(Text(left, below, words, m.offers, role="muted"))
            groups.append(Box.between(m.margin, top, self.right, y + m.pad / 2))
            y = groups[-1].bottom + m.between
        return tuple(groups), lanes, y - m.between

    def _bars(self, strip: _Strip, states: Sequence[str], lane_y: Sequence[float]) -> None:
        m = self.measures
        for index, first in enumerate(states):
            y = lane_y[index]
            left, state, since = self.begin, first, self._since(index, strip)
            for stage, span in zip(strip.stages, strip.spans, strict=True):
                for hop, at in zip(stage.path(index), span.arrows, strict=False):
                    self._bar(index, since, state, left, at, y)
                    line = Line(((at + m.tail, y), (at + m.arrow - TIP, y)))
                    tail = len(self.bars) - 1
                    self.hops.append(PlacedHop(hop, stage.number, line, tail, tail + 1))
                    left, state, since = at + m.arrow, hop.to, stage.number
            self._bar(index, since, state, left, strip.end, y)

    def _since(self, lane: int, strip: _Strip) -> int:
        """Return the stage in which a device entered the state in which a strip finds it."""
        first = strip.stages[0].number if strip.stages else 0
        entered = [row.number for row in self.view.stages if row.number < first and row.path(lane)]
        return entered[-1] if entered else 0

    def _bar(self, lane: int, stage: int, state: str, left: float, right: float, y: float) -> None:
        half = self.measures.bar / 2
        box = Box.between(left, y - half, right, y + half)
        self.bars.append(PlacedBar(lane, stage, self.states[state], box))

    def _flows(self, strip: _Strip, first: int) -> Iterator[PlacedFlow]:
        """Draw each stream straight down, behind the bars of the lanes between."""
        for stage, span in zip(strip.stages, strip.spans, strict=True):
            middle = (span.left + span.right) / 2
            for index, device in enumerate(stage.flows):
                x = middle + self.measures.flow * (index - (len(stage.flows) - 1) / 2)
                tail, head = (
                    next(
                        place
                        for place, bar in enumerate(self.bars[first:], first)
                        if bar.lane == self.view.lane(side, device)
                        and bar.box.left <= x <= bar.box.right
                    )
                    for side in SIDES
                )
                bottom, top = self.bars[tail].box.bottom, self.bars[head].box.top
                line = Line(((x, bottom + TIP), (x, top - TIP)))
                yield PlacedFlow(device, stage.number, line, tail, head)

    # --- marks ---

    def _downtime(self, strip: _Strip, top: float, groups: Sequence[Box]) -> None:
        """Shade from the first arrow that stops a source to the last that starts a destination."""
        downtime, m = self.view.downtime, self.measures
        if downtime is None or not strip.stages:
            return
        first, last = strip.span(downtime.first), strip.span(downtime.last)
        over = strip.stages[-1].number < downtime.first
        if over or (downtime.last is not None and downtime.last < strip.stages[0].number):
            return
        left = self.begin if first is None else first.left
        right = strip.end + m.pad if last is None else last.arrows[-1] + m.arrow
        box = Box.between(left, top, right, groups[-1].bottom + 1)
        self.texts.append(
            Text(box.left + EDGE, top + m.line - 1, "downtime", m.heading, role="heading")
        )
        self.downtime.append(box)

    def _no_return(self, strip: _Strip, top: float, bottom: float) -> float:
        m = self.measures
        span = strip.span(self.view.no_return)
        if span is None:
            return bottom
        x, below = span.left, bottom + 8 + m.line
        self.no_return = Line(((x, top + m.line + 2), (x, bottom + 8)))
        words = "point of no return"
        half = len(words) * m.heading * _WIDE / 2
        at = min(max(x, m.margin + half), self.width - half)
        self.texts.append(Text(at, below, words, m.heading, "middle", role="heading"))
        return below

    def _journal(self, strip: _Strip, y: float) -> float:
        """State below the lanes who holds the state, stage by stage."""
        if len({stage.holder for stage in self.view.stages}) < 2:
            return y
        m = self.measures
        y += 14
        for index, words in enumerate(
            self._lines("who holds the state", 0, self.labels, m.heading)
        ):
            below = y + m.strip / 2 + 3 + m.line * index
            self.texts.append(Text(m.margin + m.pad, below, words, m.heading, role="text"))
        pairs = zip(strip.stages, strip.spans, strict=True)
        left = self.begin
        for holder, members in groupby(pairs, key=lambda pair: pair[0].holder):
            span = list(members)[-1][1]
            self.journal.append(Held(holder, Box.between(left, y, span.right - 2, y + m.strip)))
            left = span.right
        return y + m.strip

    # --- below the picture ---

    def _legend(self, y: float) -> tuple[Box | None, tuple[PlanSample, ...], float]:
        m = self.measures
        if not (self.page.legend or self.page.steps):
            return None, (), y + m.margin + m.pad
        top = y + m.pad + 10
        samples: tuple[PlanSample, ...] = ()
        y = top
        if self.page.legend:
            samples, y = self._samples(top)
        if self.page.steps:
            stages = [f"{row.number}. {row.name}: {row.summary}" for row in self.view.stages]
            lines = self.view.steps or stages
            y = self._in_two(lines, y)
        if self.view.idle and self.page.legend:
            idle = [f"Nothing to do for this group: {self.view.idle_names}."]
            y = self._small_print(idle, y + 4, "muted", m.margin + m.pad, self.right - m.pad)
        box = Box.between(m.margin, top, self.right, y + 11)
        return box, samples, box.bottom + m.margin

    def _samples(self, top: float) -> tuple[tuple[PlanSample, ...], float]:
        m = self.measures
        size = m.label
        inside = self.right - m.margin - 2 * m.pad
        items = list(entries(self.view))
        rows, places = self._in_columns(items, inside)
        samples: list[PlanSample] = []
        line, first = size * 2.1, top + size * 2.2
        if rows == len(items):
            # States, and entries that leave no room beside them, come first on lines of their own.
            longs = [
                item
                for item in items
                if isinstance(item[0], ShownState) or self._widths([item], _PRINT)[0] > inside / 2
            ]
            items = [item for item in items if item not in longs]
            for kind, text in longs:
                left = m.margin + m.pad
                lines = self._lines(text, left + m.sample + size, self.right - m.pad, size)
                samples.append(self._sample(kind, text, lines, left, first))
                first += line + m.line * (len(lines) - 1)
            rows, places = self._in_columns(items, inside)
        for index, ((kind, text), place) in enumerate(zip(items, places, strict=True)):
            left = m.margin + m.pad + place
            room = int((self.width - left - m.sample - size) / (size * _WIDE))
            short = text if len(text) <= room else f"{text[: room - 1]}…"
            samples.append(self._sample(kind, text, [short], left, first + line * (index % rows)))
        return tuple(samples), first + line * rows

    def _widths(self, items: Sequence[tuple[object, str]], character: float) -> list[float]:
        m = self.measures
        return [m.sample + 2.4 * m.label + m.label * character * len(text) for _, text in items]

    def _in_columns(
        self, items: Sequence[tuple[object, str]], inside: float
    ) -> tuple[int, list[float]]:
        return in_columns(self._widths(items, _PRINT), self._widths(items, _WIDE), inside)

    def _sample(
        self,
        kind: SampleKind | ShownState,
        text: str,
        lines: Sequence[str],
        left: float,
        middle: float,
    ) -> PlanSample:
        m = self.measures
        for index, part in enumerate(lines):
            below = middle + 0.35 * m.label + m.line * index
            self.texts.append(Text(left + m.sample + m.label, below, part, m.label))
        box = Box(left + m.sample / 2, middle, m.sample, 1.4 * m.label)
        return PlanSample(kind, text, box)

    def _lines(self, text: str, left: float, right: float, size: float) -> list[str]:
        """Break a text into lines that fit between two places, and on the page in any font."""
        width = min((right - left) / _PRINT, (self.width - left) / _WIDE)
        return wrap(text, width * CHARACTER, size)

    def _in_two(self, lines: Sequence[str], y: float) -> float:
        """Print lines in two halves side by side, each line broken where it must be."""
        m = self.measures
        half = -(-len(lines) // 2)
        middle = (m.margin + self.right) / 2
        return max(
            self._small_print(lines[:half], y, "text", m.margin + m.pad, middle - m.pad),
            self._small_print(lines[half:], y, "text", middle, self.right - m.pad),
        )

    def _small_print(
        self, lines: Sequence[str], y: float, role: TextRole, left: float, right: float
    ) -> float:
        m = self.measures
        # What a line goes on with is set in, which leaves less of a narrow page.
        inset = 0 if m is FULL else 14
        for line in lines:
            room = self._lines(line, left + inset, right - 14 + inset, m.heading)
            for index, part in enumerate(room):
                y += m.line + (0 if index else 2)
                self.texts.append(Text(left + 14 * bool(index), y, part, m.heading, role=role))
        return y


def _plan(stage: Stage) -> str:
    """Return what is stated above the stages of one plan: nothing above those of none."""
    return stage.plan or ("transfer" if stage.transfer else "")
