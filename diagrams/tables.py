"""The whole table written out for a manual: one section for each thing a reader looks up.

Like the pictures, the tables pass through a neutral form (`Section`) that holds no markup of its
own but backquotes around names, so that Markdown and reStructuredText say the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

from vfio_migration.diagrams import markup
from vfio_migration.diagrams.markup import Document, Section
from vfio_migration.model import Machine, Spec
from vfio_migration.model.spec import CapabilitySet

TableFormat = Literal["md", "rst", "html", "csv", "json"]

TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
"""The formats `tables` knows."""

NONE = "\N{EM DASH}"
STAYS = "stays"
LEVEL = 2
"""The level of the headings, unless another one is asked for."""


def tables(
    spec: Spec,
    format: TableFormat = "md",  # noqa: A002
    *,
    only: Collection[str] | None = None,
    flags: str | int | None = None,
    level: int = LEVEL,
    more: Iterable[Section] = (),
) -> str:
    """Return the tables of a specification as one document.

    Args:
        spec: The specification.
        format: One of `TABLE_FORMATS`.
        only: The kinds of tables that are wanted; by default all, under a title.
        flags: Of what follows for each capability set, only this one.
        level: The level of the headings, 1 to 6; 0 for none.
        more: Tables from elsewhere, after those of the specification.

    Raises:
        SpecError: The capability set is none of the specification.
        ValueError: If the format is none of `TABLE_FORMATS`, a kind of table is not known, or
            several tables are to be one file of CSV.
    """
    if format not in TABLE_FORMATS:
        known = ", ".join(TABLE_FORMATS)
        raise ValueError(f"{format!r} is not a format of a document: it is one of {known}")
    sets = [spec.capability_set(flags)] if flags is not None else spec.capability_sets()
    found = (*_sections(spec, sets), *more)
    if only is not None:
        known_keys = dict.fromkeys(section.key for section in found if section.key)
        for key in only:
            if key not in known_keys:
                raise ValueError(f"{key!r} is not a kind of table: there are {list(known_keys)}")
        found = tuple(replace(one, depth=1) for one in found if one.key in only)
    if format == "json":
        return markup.to_json(found, spec.name)
    if format == "csv":
        if len(found) != 1:
            raise ValueError(f"a file of CSV is one table, and these are {len(found)}")
        return markup.comma_separated(found[0], NONE)
    has_title = only is None and level != 1
    document = Document(
        sections=found,
        title=spec.title if has_title and level else "",
        intro=_intro(spec) if has_title else "",
        level=level,
    )
    return _WRITERS[format](document)


_WRITERS: dict[str, Callable[[Document], str]] = {
    "md": markup.markdown,
    "rst": markup.restructured_text,
    "html": markup.web_page_part,
}


def _intro(spec: Spec) -> str:
    """Return what a reader has to know who has never seen the table."""
    return (
        f"This is the whole of the table {_code(spec.name)}: the states of a device that is "
        "migrated, the arcs, which are the single steps between them, what becomes of each request "
        "for a state, and what data can be streamed where. A device offers some of the "
        "capabilities; the last tables show, for each set of them, which state comes next on the "
        "way from any state to any other. The column Source names where in the specification a row "
        f"is taken from. {NONE} means none."
    )


def sections(spec: Spec) -> tuple[Section, ...]:
    """Return all tables in their neutral form."""
    return _sections(spec, spec.capability_sets())


def _sections(spec: Spec, sets: Iterable[CapabilitySet]) -> tuple[Section, ...]:
    found = (
        _states(spec),
        _operations(spec),
        _sessions(spec),
        _stream_ends(spec),
        _arcs(spec),
        _effects(spec),
        _requests(spec),
        _refusals(spec),
        _routing(spec),
        _events(spec),
        _capabilities(spec),
        _profiles(spec),
        *_capability_sets(spec, sets),
    )
    return tuple(replace(one, label=label(spec.name, one.label or one.key)) for one in found)


def label(name: str, key: str) -> str:
    """Return what a table is referred to by, of the name of the specification and what it is."""
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {key}".lower()).strip("-")


def _code(name: object) -> str:
    return f"`{name}`"


def _codes(names: Iterable[object]) -> str:
    return ", ".join(map(_code, names)) or NONE


def _table(
    key: str, title: str, text: str, header: Sequence[str], rows: Iterable[Sequence[str]]
) -> Section:
    return Section(
        key=key,
        title=title,
        text=text,
        header=tuple(header),
        rows=tuple(tuple(row) for row in rows),
    )


def _of_set(section: Section, machine: Machine) -> Section:
    """Return a table of one capability set, below the heading of them all."""
    return replace(section, depth=2, label=f"{section.key} {' '.join(machine.names)}")


# --- one function for each section ---


def _states(spec: Spec) -> Section:
    return _table(
        "states",
        "States",
        "A state is a point on a grid: what the device does and what is streamed. "
        f"A device begins in {_code(spec.initial)}.",
        ("State", "Value", "Requires", "Operation", "Session", "Settable", "Meaning", "Source"),
        (
            (
                _code(row.name),
                str(row.value),
                _codes(row.requires),
                _code(row.operation) + (" (off the grid)" if off_grid else ""),
                _code(row.session),
                "yes" if row.settable else "no",
                row.summary,
                row.source,
            )
            for row in spec.states
            for off_grid in [spec.position(row.name) is None]
        ),
    )


def _operations(spec: Spec) -> Section:
    text = "What a device may do in a state follows from the operation of the state. " + " ".join(
        f"{_code(row.name)} (role {_code(row.role)}): {row.summary}" for row in spec.activities
    )
    return _table(
        "operations",
        "What a device may do",
        text,
        ("Operation", *(_code(row.name) for row in spec.activities), "Meaning", "Source"),
        (
            (
                _code(row.name),
                *("yes" if activity.name in row.may else "no" for activity in spec.activities),
                row.summary,
                row.source,
            )
            for row in spec.operations
        ),
    )


def _sessions(spec: Spec) -> Section:
    return _table(
        "sessions",
        "Data sessions",
        "What can be streamed in a state follows from the session of the state.",
        ("Session", "The client", "Can grow while the device may", "Judged", "Meaning", "Source"),
        (
            (
                _code(row.name),
                {"none": "does neither", "read": "reads", "write": "writes"}[row.transfer],
                _code(row.grows_while) if row.grows_while else NONE,
                "when it closes" if row.judged else "no",
                row.summary,
                row.source,
            )
            for row in spec.sessions
        ),
    )


def _stream_ends(spec: Spec) -> Section:
    return _table(
        "stream-ends",
        "Ends of the stream",
        "How a client learns that there is nothing to read, and where.",
        ("End", "In", "Linux", "vfio-user", "Pre-copy information", "Meaning", "Source"),
        (
            (
                row.kind,
                _codes(state.name for state in spec.states if spec.stream_end(state.name) == row),
                row.linux,
                row.vfio_user,
                "answered" if row.precopy_info else "refused",
                row.summary,
                row.source,
            )
            for row in spec.stream_ends
        ),
    )


def _arcs(spec: Spec) -> Section:
    return _table(
        "arcs",
        "Arcs",
        "The steps a device takes. Everything else a request leads to is a path of these.",
        ("From", "To", "Data session", "Meaning", "Source"),
        (
            (
                _code(arc.from_),
                _code(arc.to),
                _effect(spec.effect(arc.from_, arc.to)),
                arc.summary,
                arc.source,
            )
            for arc in spec.arcs
        ),
    )


def _effect(effect: str) -> str:
    return NONE if effect == "none" else effect


def _effects(spec: Spec) -> Section:
    return _table(
        "effects",
        "What a step does to the data session",
        "It follows from the sessions of its two ends.",
        ("From session", "To session", "Effect", "Source"),
        (
            (_code(row.from_), _code(row.to), _effect(row.effect), row.source)
            for row in spec.session_effects
        ),
    )


def _requests(spec: Spec) -> Section:
    return _table(
        "requests",
        "How a request is decided",
        "The first row that holds decides. If none does, the device sets out.",
        ("Condition", "Outcome", "Error", "Reason", "Source"),
        (
            (
                row.when.replace("_", " "),
                {"refused": "refused", "nothing": "nothing to do"}[row.outcome],
                _by_pair(row.errno, row.outcome, code=True),
                _by_pair(row.reason, row.outcome),
                row.source,
            )
            for row in spec.requests
        ),
    )


def _by_pair(value: str | None, outcome: str, *, code: bool = False) -> str:
    if value is None:
        return "as the pair requires" if outcome == "refused" else NONE
    return _code(value) if code else value


def _refusals(spec: Spec) -> Section:
    return _table(
        "refusals",
        "Pairs refused by name",
        "These are refused even where a path around exists.",
        ("From", "To", "Error", "Reason", "Source"),
        (
            (_code(row.from_), _code(row.to), _code(row.errno), row.reason, row.source)
            for row in spec.refusals
        ),
    )


def _routing(spec: Spec) -> Section:
    return _table(
        "routing",
        "Routing",
        "The path of a request is a shortest one among those that the rule in force allows.",
        ("Rule", "In force", "Guarded session", "May be inside a path", "Meaning", "Source"),
        (
            (
                _code(row.name),
                "yes" if row.in_force else "no",
                _code(row.guarded),
                {
                    "always": "always",
                    "never": "never",
                    "whole_path": "if the whole path is guarded",
                }[row.interior],
                row.summary,
                row.source,
            )
            for row in spec.routing
        ),
    )


def _events(spec: Spec) -> Section:
    return _table(
        "events",
        "Events",
        "What else can move a device.",
        ("Event", "To", "Data session", "Error", "Forgets", "Meaning", "Source"),
        (
            (
                _code(row.name),
                _code(row.to) if row.to else "stays",
                row.session,
                _code(row.errno) if row.errno else NONE,
                _codes(row.drops),
                row.summary,
                row.source,
            )
            for row in spec.events
        ),
    )


def _capabilities(spec: Spec) -> Section:
    return _table(
        "capabilities",
        "Capabilities",
        "What a device may offer, and the bit that means it.",
        ("Capability", "Flag", "Mandatory", "Meaning", "Source"),
        (
            (
                _code(row.name),
                str(row.value),
                "yes" if row.mandatory else "no",
                row.summary,
                row.source,
            )
            for row in spec.capabilities
        ),
    )


def _profiles(spec: Spec) -> Section:
    return _table(
        "profiles",
        "Profiles",
        "The capabilities that each interface knows.",
        ("Profile", "Capabilities", "Meaning", "Source"),
        ((_code(row.name), _codes(row.universe), row.summary, row.source) for row in spec.profiles),
    )


# --- what follows for each capability set ---


def _capability_sets(spec: Spec, sets: Iterable[CapabilitySet]) -> Iterator[Section]:
    yield Section(
        label="capability sets",
        title="Capability sets",
        text="What follows for each set of capabilities. A set that lacks a capability lacks the "
        "states that require it; arcs along a straight line through such states join.",
    )
    for capabilities in sets:
        machine = spec.machine(capabilities)
        name = ", ".join(map(_code, machine.names))
        yield _of_set(_joined_arcs(machine, name), machine)
        yield _of_set(_next_steps(machine, name), machine)


def _joined_arcs(machine: Machine, name: str) -> Section:
    return _table(
        "arcs-of-a-set",
        f"Arcs with {name}",
        f"{len(machine.states)} states and {len(machine.arcs)} arcs.",
        ("From", "To", "Passes over", "Data session", "Source"),
        (
            (
                _code(arc.from_),
                _code(arc.to),
                _codes(arc.via),
                _effect(machine.spec.effect(arc.from_, arc.to)),
                arc.source,
            )
            for arc in machine.arcs
        ),
    )


def _next_steps(machine: Machine, name: str) -> Section:
    states = [row.name for row in machine.states]
    return _table(
        "next-steps",
        f"Next steps with {name}",
        "The row is the present state, the column the state asked for; the cell is the next state "
        f"on the way, {NONE} a request that is refused, {STAYS} one with nothing to do.",
        ("From / to", *map(_code, states)),
        ((_code(start), *(_step(machine, start, to) for to in states)) for start in states),
    )


def _step(machine: Machine, start: str, to: str) -> str:
    route = machine.route(start, to)
    if route.refused is not None:
        return NONE
    return _code(route.path[0]) if route.path else STAYS
