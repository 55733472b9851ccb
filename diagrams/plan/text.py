"""The plan of a migration as plain text, numbered, for a terminal or a page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from vfio_migration.diagrams.drawing.ascii import to_ascii
from vfio_migration.diagrams.drawing.printable import printable
from vfio_migration.diagrams.plan.view import PlanView, Stage

NARROWEST = 40
"""Narrower lines would hold a state's name and nothing else."""

_INDENT = " " * 6


def render(view: PlanView, width: int = 80, *, ascii_only: bool = False) -> str:
    """Return the plan as text.

    Words are not broken: a name longer than a line gets one of its own.

    Args:
        view: The plan.
        width: How long a line may be; at least `NARROWEST` is used.
        ascii_only: Write it in ASCII alone.
    """
    view, width = printable(view), max(width, NARROWEST)
    if ascii_only:
        # Wrapped anew, for what is more than one character in ASCII.
        lines = [to_ascii(line) for line in render(view, width).splitlines()]
        return "".join(f"{part}\n" for line in lines for part in _folded(line, width))
    lines = [*_wrapped(f"{view.title}. {view.summary}", "", "", width), ""]
    lines += _devices(view, width)
    if view.steps:
        lines.append("")
        for step in view.steps:
            lines += _wrapped(step, "", "    ", width)
        return "\n".join(lines) + "\n"
    digits = len(str(len(view.stages)))
    holder = None
    for stage in view.stages:
        lines.append("")
        if view.downtime is not None and stage.number == view.downtime.first:
            lines += [_rule("downtime begins", width), ""]
        if stage.number == view.no_return:
            lines += [_rule("point of no return", width), ""]
        lines += _stage(stage, digits, width)
        if stage.holder != (holder or stage.holder):
            lines += _wrapped(f"Written down first: {holds(stage)}.", _INDENT, _INDENT, width)
        holder = stage.holder
        lines += _moves(view, stage, width)
        if view.downtime is not None and stage.number == view.downtime.last:
            lines += ["", _rule("downtime ends", width)]
    lines += _afterwards(view, width)
    return "\n".join(lines) + "\n"


def holds(stage: Stage) -> str:
    """Return in words who holds the state."""
    return (
        "both hold the state: all of it was delivered"
        if stage.holder == "delivered"
        else f"the {stage.holder} holds the state"
    )


def headline(stage: Stage) -> str:
    """Return what a stage is called: its name, and whose it is."""
    if stage.transfer is not None:
        return f"{stage.name} (transfer)"
    if stage.side is None:
        return stage.name
    return f"{stage.name} ({stage.side}, plan {stage.plan})"


def movements(view: PlanView, stage: Stage) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Yield each path taken in a stage, and the numbers of the devices that take it, from 1."""
    paths: dict[tuple[str, ...], list[int]] = {}
    for index, lane in enumerate(view.lanes):
        hops = stage.path(index)
        if hops:
            words = tuple(
                f"({hop.event}) → {hop.to}" if hop.event is not None else f"→ {hop.to}"
                for hop in hops
            )
            paths.setdefault((hops[0].from_, *words), []).append(lane.device + 1)
    for path, devices in paths.items():
        yield tuple(devices), path


def _devices(view: PlanView, width: int) -> Iterator[str]:
    digits = len(str(view.devices))
    for device in range(view.devices):
        pair = [view.lanes[view.lane(side, device)] for side in view.sides]
        offers = [", ".join(lane.capabilities) for lane in pair]
        names = " → ".join(lane.label for lane in pair)
        if pair[0].side is None:
            names += f", in {pair[0].state}"
        start = "  " if pair[0].side is None else f"  {device + 1:>{digits}}  "
        yield from _wrapped(names, start, " " * len(start), width)
        line = " → ".join(dict.fromkeys(offers))
        yield from _wrapped(line, " " * len(start), " " * len(start), width)


def _stage(stage: Stage, digits: int, width: int) -> Iterator[str]:
    start = f"{stage.number:>{digits}}. "
    yield from _wrapped(headline(stage), start, " " * len(start), width)
    yield from _wrapped(stage.summary, _INDENT, _INDENT, width)


def _moves(view: PlanView, stage: Stage, width: int) -> Iterator[str]:
    for devices, path in movements(view, stage):
        yield from _wrapped(" ".join(path), f"{_INDENT}{_listed(devices)}: ", _INDENT * 2, width)
    if stage.flows:
        numbers = tuple(device + 1 for device in stage.flows)
        line = "data flows from the source to the destination"
        yield from _wrapped(line, f"{_INDENT}{_listed(numbers)}: ", _INDENT * 2, width)


def _listed(devices: Sequence[int]) -> str:
    """Return the numbers of devices, runs of them joined: 1-3, 5."""
    runs: list[list[int]] = []
    for device in devices:
        if runs and device == runs[-1][-1] + 1:
            runs[-1].append(device)
        else:
            runs.append([device])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"device{'s' * (len(devices) > 1)} {', '.join(words)}"


def _afterwards(view: PlanView, width: int) -> Iterator[str]:
    texts = []
    if view.idle:
        text = "Left out, for no device of this group has anything to do there"
        texts.append(f"{text}: {view.idle_names}.")
    if view.downtime is not None and view.downtime.last is None:
        texts.append("The plan ends before every destination runs: the downtime does not end.")
    if view.downtime is None:
        texts.append("There is no downtime.")
    for text in texts:
        yield ""
        yield from _wrapped(text, "", "", width)


def _rule(text: str, width: int) -> str:
    return f"──── {text} ".ljust(min(width, 72), "─")


def _folded(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    return _wrapped(line, "", f"{indent}  ", width) if len(line) > width else [line]


def _wrapped(text: str, start: str, then: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
