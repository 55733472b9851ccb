"""The report as one HTML file: it loads nothing, and all it states is in it."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from vfio_migration.diagrams.machine.changes import change_graph
from vfio_migration.diagrams.machine.extract import machine_graph
from vfio_migration.diagrams.page import parts
from vfio_migration.diagrams.page.data import (
    Refusals,
    machine_data,
    nothing_to_do,
    numbers,
    run_data,
    run_machines,
)
from vfio_migration.diagrams.page.elements import data_block, document, element, raw
from vfio_migration.diagrams.page.pictures import Picture, active, still
from vfio_migration.diagrams.page.view import ReportView
from vfio_migration.model import Machine, Mistake, Spec, SpecError, Trace

MAX_PAGE_BYTES: Final = 1_000_000
"""How large a page may be: mail and trackers take so much as an attachment."""


def write_page(view: ReportView) -> bytes:
    """Return the page of a report.

    As many capability sets are drawn as fit, the largest and those of counterexamples first; the
    page names the others.

    Raises:
        MissingExtraError: The packages of the extra "diagrams" are not installed.
        SpecError: The page would be larger than `MAX_PAGE_BYTES`, whatever is left out.
    """
    page = _Page(view)
    sets = _sets(view)
    room = MAX_PAGE_BYTES - len(page.text([]))
    drawn: list[_Drawn] = []
    for names in sets if room > 0 else ():
        one = page.drawn(view.spec.machine(names), len(drawn))
        room -= one.size
        if room < 0:
            break
        drawn.append(one)
    made = page.text(drawn, sets[len(drawn) :])
    while drawn and len(made) > MAX_PAGE_BYTES:
        drawn.pop()
        made = page.text(drawn, sets[len(drawn) :])
    if not drawn:
        problem = f"is too large for a page of {MAX_PAGE_BYTES} bytes"
        hint = "shorten its texts, or leave states out"
        raise SpecError([Mistake("SPEC", view.name, problem, hint)])
    return made


def _sets(view: ReportView) -> list[tuple[str, ...]]:
    """Return the sets to draw: all capabilities, then those of runs, then the largest ones."""
    spec = view.spec
    first = spec.names(spec.capability_set(view.flags))
    runs = [one.names for trace in _traces(view) for one in run_machines(spec, trace) or ()]
    others: list[tuple[str, ...]] = []
    if view.flags is None:
        found = {flags for row in spec.profiles for flags in spec.capability_sets(row.name)}
        ordered = sorted(found, key=lambda flags: (-flags.value.bit_count(), flags.value))
        others = [spec.names(flags) for flags in ordered]
    return list(dict.fromkeys((first, *runs, *others)))


def _traces(view: ReportView) -> Iterator[Trace]:
    for finding in view.findings:
        if finding.counterexample is not None and finding.counterexample.trace is not None:
            yield finding.counterexample.trace


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A capability set, drawn: its machine, picture, data, and how many bytes these take."""

    machine: Machine
    picture: Picture
    data: dict[str, Any]
    size: int


class _Page:
    """A page while it is made."""

    def __init__(self, view: ReportView) -> None:
        self.view = view
        self.refusals = Refusals()
        self.changes: Picture | None = None
        if view.against is not None:
            new = view.spec.machine(view.flags)
            old = _known(view.against.spec, new, view.flags)
            self.changes = still(change_graph(new, old), "change")

    def drawn(self, machine: Machine, number: int) -> _Drawn:
        graph = machine_graph(machine)
        picture = active(graph, f"set{number}", numbers(self.view.spec))
        data = machine_data(machine, graph, self.refusals)
        size = len(document(picture.svg).encode()) + len(document(data_block("x", data)).encode())
        return _Drawn(machine, picture, data, size)

    def text(self, drawn: list[_Drawn], left_out: Sequence[tuple[str, ...]] = ()) -> bytes:
        view = self.view
        pictures = [one.picture for one in drawn]
        pictures += [self.changes] if self.changes is not None else []
        # The rules of the dark theme are the same for most pictures.
        sheets = dict.fromkeys(picture.sheet for picture in pictures)
        style = raw("style", "\n".join([*sheets, _asset("report.css")]))
        script = raw("script", _asset("report.js"))
        policy = (
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "base-uri 'none'; form-action 'none'"
        )
        names = [",".join(one.machine.names) for one in drawn]
        figures = [
            parts.figure(index, one.machine, one.picture.svg) for index, one in enumerate(drawn)
        ]
        root = element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                element("meta", http_equiv="Content-Security-Policy", content=policy),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="color-scheme", content="light dark"),
                element("title", f"{view.spec.title}: report on {view.name}"),
                style,
            ),
            element(
                "body",
                parts.header(view),
                element(
                    "main",
                    parts.machine(view, figures, left_out),
                    parts.verdicts(view),
                    parts.counterexamples(view),
                    parts.changes(view, None if self.changes is None else self.changes.svg),
                ),
                data_block("data", self._data(drawn, names)),
                script,
            ),
            lang="en",
        )
        return document(root).encode()

    def _data(self, drawn: list[_Drawn], names: list[str]) -> dict[str, Any]:
        spec = self.view.spec
        sets = {name: index for index, name in enumerate(names)}
        runs = {}
        for finding in self.view.findings:
            found = finding.counterexample
            if found is not None and found.trace is not None:
                runs[finding.id] = run_data(spec, found.trace, sets)
        return {
            "states": [row.name for row in spec.states],
            "sets": [one.data for one in drawn],
            "refusals": self.refusals.rows,
            "nothing": nothing_to_do(spec),
            "runs": runs,
        }


def _known(spec: Spec, new: Machine, flags: str | int | None) -> Machine:
    """Return the machine of the other table: all it has, or what it knows of the flags."""
    known = sum(row.value for row in spec.capabilities)
    return spec.machine(None if flags is None else known & int(new.capabilities.value))


def _asset(name: str) -> str:
    return (resources.files("vfio_migration.diagrams.page") / name).read_text("utf-8")


def _digest(part: ET.Element) -> str:
    """Return what a Content-Security-Policy calls a script or style sheet."""
    digest = hashlib.sha256((part.text or "").encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


__all__ = ["MAX_PAGE_BYTES", "write_page"]
