"""The whole table written out for a manual: one section for each thing a reader looks up.

Like the pictures, the tables pass through a neutral form (`Section`) that holds no markup of its
own but backquotes around names, so that Markdown and reStructuredText say the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from vfio_migration.diagrams import markup
from vfio_migration.diagrams.markup import Section
from vfio_migration.model import Machine, Spec

TableFormat = Literal["md", "rst"]

TABLE_FORMATS: tuple[TableFormat, ...] = get_args(TableFormat)
"""The formats `tables` knows."""

NONE = "\N{EM DASH}"
STAYS = "stays"


def tables(spec: Spec, format: TableFormat = "md") -> str:  # noqa: A002
    """Return all tables of a specification as one document, "md" or "rst".

    Raises:
        ValueError: If the format is none of `TABLE_FORMATS`.
    """
    if format not in TABLE_FORMATS:
        known = ", ".join(TABLE_FORMATS)
        raise ValueError(f"{format!r} is not a format of a document: it is one of {known}")
    write = markup.markdown if format == "md" else markup.restructured_text
    return write(spec.title, sections(spec), _intro(spec))


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
    return (
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
        *_capability_sets(spec),
    )


def _code(name: object) -> str:
    return f"`{name}`"


def _codes(names: Iterable[object]) -> str:
    return ", ".join(map(_code, names)) or NONE


def _table(
    title: str, text: str, header: Sequence[str], rows: Iterable[Sequence[str]], depth: int = 1
) -> Section:
    return Section(
        title=title,
        text=text,
        header=tuple(header),
        rows=tuple(tuple(row) for row in rows),
        depth=depth,
    )


# --- one function for each section ---


def _states(spec: Spec) -> Section:
    return _table(
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
        "Profiles",
        "The capabilities that each interface knows.",
        ("Profile", "Capabilities", "Meaning", "Source"),
        ((_code(row.name), _codes(row.universe), row.summary, row.source) for row in spec.profiles),
    )


# --- what follows for each capability set ---


def _capability_sets(spec: Spec) -> Iterator[Section]:
    yield Section(
        title="Capability sets",
        text="What follows for each set of capabilities. A set that lacks a capability lacks the "
        "states that require it; arcs along a straight line through such states join.",
    )
    for capabilities in spec.capability_sets():
        machine = spec.machine(capabilities)
        name = ", ".join(map(_code, machine.names))
        yield _joined_arcs(machine, name)
        yield _next_steps(machine, name)


def _joined_arcs(machine: Machine, name: str) -> Section:
    return _table(
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
        depth=2,
    )


def _next_steps(machine: Machine, name: str) -> Section:
    states = [row.name for row in machine.states]
    return _table(
        f"Next steps with {name}",
        "The row is the present state, the column the state asked for; the cell is the next state "
        f"on the way, {NONE} a request that is refused, {STAYS} one with nothing to do.",
        ("From / to", *map(_code, states)),
        ((_code(start), *(_step(machine, start, to) for to in states)) for start in states),
        depth=2,
    )


def _step(machine: Machine, start: str, to: str) -> str:
    route = machine.route(start, to)
    if route.refused is not None:
        return NONE
    return _code(route.path[0]) if route.path else STAYS
