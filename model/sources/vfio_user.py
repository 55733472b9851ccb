"""The text of vfio-user (docs/interop/vfio-user.rst of QEMU): states, flags, arcs and rules.

The text lists arcs, and states by which rules a path is selected; the next steps are what the rules
select. A state that is "not used in vfio-user" is left out.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any, Final

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.sources.facts import Cell, Header, NextSteps, Place, wrong
from vfio_migration.model.spec import Arc, Refusal, RoutingRule, Spec

_STATES: Final = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"
_FLAGS: Final = "VFIO_DEVICE_FEATURE_MIGRATION"
_ARCS: Final = "Direct State Transitions"
_RULES: Final = "Complex State Transitions"
_STATE: Final = re.compile(r"VFIO_DEVICE_STATE_([A-Z][A-Z0-9_]*)")
_FLAG: Final = re.compile(r"VFIO_MIGRATION_([A-Z][A-Z0-9_]*)")
_ARC: Final = re.compile(r"([A-Z][A-Z0-9_]*)\s*->\s*([A-Z][A-Z0-9_]*)")
_NOT_USED: Final = "not used"
_FORBIDS: Final = re.compile(r"\bnot (allowed|permitted)\b")

_SHORTEST: Final = "Select the shortest path."
_INTERIOR: Final = (
    "The path cannot have saving group states as interior arcs, only start/end states."
)


class _Text:
    """The document, with the sections and lines that are asked for."""

    def __init__(self, name: str, text: bytes) -> None:
        from docutils.core import publish_doctree

        self.name = name
        try:
            self.text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise wrong(name, None, f"is not UTF-8: {error}") from None
        self.lines = self.text.splitlines()
        quiet: dict[str, object] = {
            "report_level": 5,
            "halt_level": 5,
            "file_insertion_enabled": False,
            "raw_enabled": False,
            "_disable_config": True,
        }
        self.tree: Any = publish_doctree(self.text, source_path=name, settings_overrides=quiet)

    def section(self, title: str) -> tuple[Any, int]:
        """Return a section and the line of its title."""
        from docutils import nodes

        found = [
            section
            for section in self.tree.findall(nodes.section)
            if section[0].astext().strip() == title
        ]
        if len(found) != 1:
            problem = "is the title of two sections" if found else "is a section that is not there"
            raise wrong(self.name, title, problem, "if it was renamed, it cannot be read")
        heading = re.compile(rf"`*{re.escape(title)}`*\s*")
        numbers = [n for n, line in enumerate(self.lines, 1) if heading.fullmatch(line)]
        return found[0], numbers[-1] if numbers else 1

    def place(self, pattern: str, after: int) -> Place:
        """Return the first line, from a line on, at which a pattern begins."""
        offset = sum(len(line) + 1 for line in self.lines[: after - 1])
        found = re.compile(pattern).search("\n".join(self.lines), offset)
        line = after if found is None else "\n".join(self.lines).count("\n", 0, found.start()) + 1
        return Place(self.name, line)


def read(name: str, text: bytes, base: Spec) -> tuple[NextSteps, Header]:
    """Read the text.

    Args:
        name: What the file is called.
        text: What is in it.
        base: The table in which the states have their place on the grid.

    Raises:
        SpecError: A section is not there, or states something in a form that is not read.
        ImportError: docutils is not installed.
    """
    document = _Text(name, text)
    states = _states(document)
    known = {row.name for row in base.states}
    for state, (_, place) in states.items():
        if state not in known:
            hint = "add it to a copy of the base table, with its operation and session: --base"
            raise wrong(place, state, "is not a state of the base table", hint)
    arcs, refused, rules_at = *_arcs(document, states), _rules(document)
    needed = {flag for row in base.states if row.name in states for flag in row.requires}
    flags = {flag: found for flag, found in _flags(document).items() if flag in needed}
    if missing := needed - flags.keys():
        _, line = document.section(_FLAGS)
        problem = "is a capability that states require and no flag of the text"
        raise wrong(Place(name, line), min(missing), problem)
    spec = _table(base, set(states), arcs, refused)
    machine = spec.machine(sum(row.value for row in spec.capabilities))
    cells = {}
    failed = next(row.name for row in base.states if not row.settable)
    if failed not in states:
        _, line = document.section(_STATES)
        problem = "is the state of a device that failed, and the text does not list it"
        raise wrong(Place(name, line), failed, problem)
    for here in states:
        for there in states:
            step = here if here == there != failed else machine.next_step(here, there) or failed
            place = arcs.get((here, there)) or refused.get((here, there)) or rules_at
            cells[here, there] = Cell(step, place)
    rows = {state: place for state, (_, place) in states.items()}
    return NextSteps(cells, rows, None, skips=False), Header(states, flags)


def _table(
    base: Spec,
    states: set[str],
    arcs: dict[tuple[str, str], Place],
    refused: dict[tuple[str, str], Place],
) -> Spec:
    """Return the base table with the states, arcs and rules of the text alone."""
    rule = next((row for row in base.routing if row.interior == "never"), None)
    if rule is None:
        problem = "has no routing rule that the text of vfio-user states"
        raise SpecError([Mistake("--base", base.name, problem, 'add one: interior = "never"')])
    in_force: RoutingRule = dataclasses.replace(rule, in_force=True)
    made = [
        Arc(from_=here, to=there, summary="As the text has it.", source=str(place))
        for (here, there), place in arcs.items()
    ]
    shut = [
        Refusal(from_=here, to=there, errno="EINVAL", reason="so the text", source=str(place))
        for (here, there), place in refused.items()
    ]
    return dataclasses.replace(
        base,
        states=tuple(row for row in base.states if row.name in states),
        arcs=tuple(made),
        refusals=tuple(shut),
        routing=(in_force,),
        next_steps=(),
    )


def _rows(section: Any) -> Iterator[list[str]]:
    """Yield the rows of the tables right below a section, nested ones too, as texts."""
    from docutils import nodes

    for part in section.children:
        if not isinstance(part, nodes.section):
            for row in part.findall(nodes.row):
                if cells := [entry.astext().strip() for entry in row.children]:
                    yield cells


def _states(document: _Text) -> dict[str, tuple[int, Place]]:
    section, line = document.section(_STATES)
    found: dict[str, tuple[int, Place]] = {}
    for cells in _rows(section):
        name = _STATE.fullmatch(cells[0])
        if name is None:
            continue
        place = document.place(rf"\|\s*{cells[0]}\b", line)
        if len(cells) != 3 or not cells[1].isdigit():
            raise wrong(place, cells[0], "is a state without a value and a description")
        if _NOT_USED in cells[2]:
            continue
        if name[1] in found:
            raise wrong(place, name[1], "is a state that is listed twice")
        found[name[1]] = int(cells[1]), place
    if not found:
        raise wrong(Place(document.name, line), None, "lists no state VFIO_DEVICE_STATE_...")
    return found


def _flags(document: _Text) -> dict[str, tuple[int, Place]]:
    section, line = document.section(_FLAGS)
    found: dict[str, tuple[int, Place]] = {}
    for cells in _rows(section):
        name = _FLAG.fullmatch(cells[-1])
        if name is None or len(cells) != 2:
            continue
        place = document.place(rf"\|[^\n]*{cells[-1]}\b", line)
        if not cells[0].isdigit() or int(cells[0]) > 63:
            raise wrong(place, cells[0], f"is not a bit for {cells[-1]}")
        if name[1] in found:
            raise wrong(place, name[1], "is a flag that is listed twice")
        found[name[1]] = 1 << int(cells[0]), place
    return found


def _arcs(
    document: _Text, states: dict[str, tuple[int, Place]]
) -> tuple[dict[tuple[str, str], Place], dict[tuple[str, str], Place]]:
    """Return the arcs, which are items of a list, and what is refused, which is a sentence."""
    from docutils import nodes

    section, line = document.section(_ARCS)
    arcs: dict[tuple[str, str], Place] = {}
    refused: dict[tuple[str, str], Place] = {}
    for part in section.children:
        is_list = isinstance(part, nodes.bullet_list)
        for block in part.children if is_list else [part]:
            pairs = list(_pairs(document, block, line, states))
            if is_list and not pairs:
                place = document.place(re.escape(block.astext().split("\n")[0][:40]), line)
                raise wrong(place, block.astext()[:40], "is an item that lists no ``A -> B``")
            if pairs and not is_list and not _FORBIDS.search(" ".join(block.astext().split())):
                (here, there), place = pairs[0]
                problem = "is neither listed as a transition nor ruled out"
                raise wrong(place, f"{here} -> {there}", problem)
            into = arcs if is_list else refused
            for pair, place in pairs:
                if pair in arcs or pair in refused:
                    raise wrong(place, f"{pair[0]} -> {pair[1]}", "is listed twice")
                into[pair] = place
    if not arcs:
        raise wrong(Place(document.name, line), _ARCS, "lists no transition ``A -> B``")
    return arcs, refused


def _pairs(
    document: _Text, block: Any, line: int, states: dict[str, tuple[int, Place]]
) -> Iterator[tuple[tuple[str, str], Place]]:
    from docutils import nodes

    texts = [found.astext() for found in block.findall(nodes.literal)]
    outside = block.astext()
    for text in texts:
        outside = outside.replace(text, "", 1)
        if "->" not in text:
            continue
        found = _ARC.fullmatch(text.strip())
        place = document.place(r"``\s*" + r"\s+".join(map(re.escape, text.split())), line)
        if found is None:
            raise wrong(place, text, "is not a transition of the form ``A -> B``")
        for state in found.groups():
            if state not in states:
                raise wrong(place, state, "is not a state that the text lists as used")
        yield (found[1], found[2]), place
    if _ARC.search(outside):
        raise wrong(
            document.place(_ARC.pattern, line), outside[:40], "is a transition outside of ``...``"
        )


def _rules(document: _Text) -> Place:
    """Hold the rules against those that are known; return where they are."""
    from docutils import nodes

    section, line = document.section(_RULES)
    items = [
        " ".join(item.astext().split())
        for part in section.children
        if isinstance(part, nodes.bullet_list)
        for item in part.children
    ]
    for rule in (_SHORTEST, _INTERIOR):
        if rule not in items:
            raise wrong(Place(document.name, line), rule, "is a rule that the text does not have")
    for item in items:
        if item not in (_SHORTEST, _INTERIOR):
            place = document.place(r"\s+".join(map(re.escape, item.split()[:6])), line)
            raise wrong(place, item, "is a rule that is not known here")
    return Place(document.name, line)


__all__ = ["read"]
