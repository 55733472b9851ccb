"""Every single edit of a table: the mistakes somebody who changes one line of it can make.

Each kind of edit states which fields of which rows it changes; what no kind changes is in `LABELS`,
with the reason. A test holds the two against the classes of `vfio_migration.model.spec`, so that a
field that is added to the table is either mutated here or excused there.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from vfio_migration.model import Arc, Refusal, Spec
from vfio_migration.model.spec import Effect, Role, Transfer
from vfio_migration.verifier.mutation.mutants import Mutant, shown

_SECTIONS = tuple(field.name for field in dataclasses.fields(Spec) if field.type != "str")
_NO_SUMMARY = ("session_effects", "refusals", "requests", "next_steps")

LABELS: dict[str, frozenset[str]] = {
    "names, which other rows refer to: an edit of one alone leaves them dangling, and no file with "
    "a dangling reference is loaded": frozenset(
        {
            *("capabilities.name", "profiles.name", "activities.name", "operations.name"),
            *("sessions.name", "states.name", "events.name"),
        }
    ),
    "words for people": frozenset(
        {
            *("spec.name", "spec.title", "refusals.reason", "requests.reason", "routing.name"),
            *("stream_ends.linux", "stream_ends.vfio_user"),
            *(f"{section}.source" for section in _SECTIONS),
            *(f"{section}.summary" for section in _SECTIONS if section not in _NO_SUMMARY),
        }
    ),
    "computed and never written": frozenset({"arcs.via"}),
    "what a source writes down of single requests, and this table does not: each wrong cell of a "
    "source is tried in tests/model/test_sources.py": frozenset(
        {"next_steps.from_", "next_steps.to", "next_steps.step"}
    ),
}
"""What no edit changes, by reason. A label changes no behaviour."""

_ERRNOS = ("EINVAL", "EIO")
_MADE_UP = "made up by mutation"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of edit.

    Attributes:
        name: A short name.
        title: What it does, for people.
        fields: The fields it changes, as "section.field".
        make: From a table to its mutants: place, what is written there, sentence, edited table.
    """

    name: str
    title: str
    fields: frozenset[str]
    make: Callable[[Spec], Iterable[Edit]]


Edit = tuple[str, str, str, Spec]


def mutants(spec: Spec, kinds: Iterable[str] | None = None) -> tuple[Mutant[Spec], ...]:
    """Return every mutant of a table, of some kinds or of all; always in the same order."""
    wanted = None if kinds is None else set(kinds)
    return tuple(
        Mutant(f"{kind.name}:{place}{written}", kind.name, sentence, edited)
        for kind in KINDS
        if wanted is None or kind.name in wanted
        for place, written, sentence, edited in kind.make(spec)
    )


# --- the means ---


def _put(spec: Spec, section: str, index: int, **changes: Any) -> Spec:
    rows = list(getattr(spec, section))
    rows[index] = dataclasses.replace(rows[index], **changes)
    return _with(spec, section, rows)


def _with(spec: Spec, section: str, rows: Iterable[object]) -> Spec:
    changed: dict[str, Any] = {section: tuple(rows)}
    return dataclasses.replace(spec, **changed)


def _change(
    spec: Spec, section: str, index: int, field: str, values: Iterable[object]
) -> Iterator[Edit]:
    """Write each of these values but the present one into a field of a row."""
    row = getattr(spec, section)[index]
    present = getattr(row, field)
    key = field.rstrip("_")
    for value in values:
        if value == present:
            continue
        place = f"{section}[{index}].{key}"
        sentence = f"{place} ({_title(row)}) {shown(present)} => {shown(value)}"
        yield place, f"={shown(value)}", sentence, _put(spec, section, index, **{field: value})


def _toggle(spec: Spec, section: str, field: str, members: Sequence[str]) -> Iterator[Edit]:
    """Take each member out of a list that has it, and put it into each that lacks it."""
    for index, row in enumerate(getattr(spec, section)):
        held: tuple[str, ...] = getattr(row, field)
        for member in members:
            has = member in held
            value = tuple(m for m in held if m != member) if has else (*held, member)
            place = f"{section}[{index}].{field}"
            done = "loses" if has else "gains"
            sentence = f"{place} ({_title(row)}) {done} {member}"
            edited = _put(spec, section, index, **{field: value})
            yield place, f"{'-' if has else '+'}{member}", sentence, edited


def _drop(spec: Spec, section: str) -> Iterator[Edit]:
    rows = getattr(spec, section)
    for index, row in enumerate(rows):
        place = f"{section}[{index}]"
        rest = (*rows[:index], *rows[index + 1 :])
        yield place, "", f"{place} {_title(row)} removed", _with(spec, section, rest)


def _swap(spec: Spec, section: str) -> Iterator[Edit]:
    """Let each row change places with the one below it."""
    rows = getattr(spec, section)
    for index, (one, other) in enumerate(itertools.pairwise(rows)):
        swapped = (*rows[:index], other, one, *rows[index + 2 :])
        sentence = f"{section}[{index}] {_title(one)} and the {_title(other)} below it swapped"
        yield f"{section}[{index}]", "", sentence, _with(spec, section, swapped)


def _title(row: Any) -> str:
    if hasattr(row, "from_"):
        return f"{row.from_} -> {row.to}"
    title = row.when if hasattr(row, "when") else row.kind if hasattr(row, "kind") else row.name
    return str(title)


def _names(rows: Iterable[Any]) -> list[str]:
    return [row.name for row in rows]


# --- arcs and refusals ---


def _pairs(spec: Spec, taken: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Every two states that none of these rows speaks of."""
    spoken_of = {(row.from_, row.to) for row in taken}
    for from_ in _names(spec.states):
        for to in _names(spec.states):
            if from_ != to and (from_, to) not in spoken_of:
                yield from_, to


def _arcs_added(spec: Spec) -> Iterator[Edit]:
    for from_, to in _pairs(spec, spec.arcs):
        arc = Arc(from_=from_, to=to, summary=_MADE_UP, source=_MADE_UP)
        yield f"{from_}->{to}", "", f"arc {arc} added", _with(spec, "arcs", (*spec.arcs, arc))


def _arcs_redirected(spec: Spec) -> Iterator[Edit]:
    free = set(_pairs(spec, spec.arcs))
    for index, row in enumerate(spec.arcs):
        for field in ("from_", "to"):
            for state in _names(spec.states):
                ends: dict[str, Any] = {field: state}
                arc = dataclasses.replace(row, **ends)
                if (arc.from_, arc.to) in free:
                    place = f"arcs[{index}].{field.rstrip('_')}"
                    sentence = f"arcs[{index}] {row} redirected: {arc}"
                    yield place, f"={state}", sentence, _put(spec, "arcs", index, **ends)


def _refusals_added(spec: Spec) -> Iterator[Edit]:
    for from_, to in _pairs(spec, (*spec.arcs, *spec.refusals)):
        row = Refusal(from_=from_, to=to, errno="EINVAL", reason=_MADE_UP, source=_MADE_UP)
        rows = (*spec.refusals, row)
        yield f"{from_}->{to}", "", f"refusal {row} added", _with(spec, "refusals", rows)


def _errnos(spec: Spec) -> Iterator[Edit]:
    for section in ("refusals", "requests", "events"):
        for index, row in enumerate(getattr(spec, section)):
            if row.errno is not None:
                yield from _change(spec, section, index, "errno", _ERRNOS)


# --- states, axes, capabilities ---


def _state_values(spec: Spec) -> Iterator[Edit]:
    unused = max(row.value for row in spec.states) + 1
    yield from _setting("states", "value", lambda _: (unused,))(spec)
    yield from _values_exchanged(spec, "states")


def _capability_values(spec: Spec) -> Iterator[Edit]:
    unused = 2 * max(row.value for row in spec.capabilities)
    yield from _setting("capabilities", "value", lambda _: (unused,))(spec)
    yield from _values_exchanged(spec, "capabilities")


def _values_exchanged(spec: Spec, section: str) -> Iterator[Edit]:
    rows = getattr(spec, section)
    for index, (one, other) in enumerate(itertools.pairwise(rows)):
        edited = _put(spec, section, index, value=other.value)
        edited = _put(edited, section, index + 1, value=one.value)
        sentence = f"the values of {_title(one)} and {_title(other)} exchanged"
        yield f"{section}[{index}].value", f"<=>{other.name}", sentence, edited


# --- requests, routing, events ---


def _routing(spec: Spec) -> Iterator[Edit]:
    for chosen, row in enumerate(spec.routing):
        if not row.in_force:
            rows = [
                dataclasses.replace(rule, in_force=index == chosen)
                for index, rule in enumerate(spec.routing)
            ]
            sentence = f"routing[{chosen}] {row.name} put in force instead"
            yield f"routing[{chosen}].in_force", "", sentence, _with(spec, "routing", rows)
    interiors = ("always", "whole_path", "never")
    for index, row in enumerate(spec.routing):
        if row.in_force:
            yield from _change(spec, "routing", index, "interior", interiors)
            yield from _change(spec, "routing", index, "guarded", _names(spec.sessions))


def _event_drops(spec: Spec) -> Iterator[Edit]:
    things = sorted({thing for row in spec.events for thing in row.drops})
    yield from _toggle(spec, "events", "drops", things)


def _initial(spec: Spec) -> Iterator[Edit]:
    for name in _names(spec.states):
        if name != spec.initial:
            edited = dataclasses.replace(spec, initial=name)
            yield "initial", f"={name}", f"initial {spec.initial} => {name}", edited


# --- the kinds ---


def _kind(name: str, title: str, fields: str, make: Callable[[Spec], Iterable[Edit]]) -> Kind:
    return Kind(name, title, frozenset(fields.split()), make)


def _setting(
    section: str, field: str, values: Callable[[Spec], Iterable[object]]
) -> Callable[[Spec], Iterable[Edit]]:
    """Write each value but the present one into a field of every row."""

    def make(spec: Spec) -> Iterator[Edit]:
        for index in range(len(getattr(spec, section))):
            yield from _change(spec, section, index, field, values(spec))

    return make


def _flipping(section: str, field: str) -> Callable[[Spec], Iterable[Edit]]:
    return _setting(section, field, lambda _: (False, True))


def _toggling(section: str, field: str, members: str) -> Callable[[Spec], Iterable[Edit]]:
    """Toggle the names of the rows of another section in a list."""
    return lambda spec: _toggle(spec, section, field, [row.name for row in getattr(spec, members)])


def _both(*makers: Callable[[Spec], Iterable[Edit]]) -> Callable[[Spec], Iterable[Edit]]:
    return lambda spec: [edit for make in makers for edit in make(spec)]


def _dropping(section: str) -> Callable[[Spec], Iterable[Edit]]:
    return lambda spec: _drop(spec, section)


def _swapping(section: str) -> Callable[[Spec], Iterable[Edit]]:
    return lambda spec: _swap(spec, section)


_ENDS = "{0}.from_ {0}.to"

KINDS: tuple[Kind, ...] = (
    _kind("arc-removed", "an arc removed", _ENDS.format("arcs"), _dropping("arcs")),
    _kind("arc-added", "an arc added", _ENDS.format("arcs"), _arcs_added),
    _kind("arc-redirected", "an end of an arc moved", _ENDS.format("arcs"), _arcs_redirected),
    _kind("refusal-dropped", "a refusal dropped", _ENDS.format("refusals"), _dropping("refusals")),
    _kind("refusal-added", "a refusal added", _ENDS.format("refusals"), _refusals_added),
    _kind(
        "coordinate",
        "the operation or session of a state changed",
        "states.operation states.session",
        _both(
            _setting("states", "operation", lambda spec: _names(spec.operations)),
            _setting("states", "session", lambda spec: _names(spec.sessions)),
        ),
    ),
    _kind(
        "requires",
        "a required capability added or removed",
        "states.requires",
        _toggling("states", "requires", "capabilities"),
    ),
    _kind("settable", "`settable` flipped", "states.settable", _flipping("states", "settable")),
    _kind("state-value", "the number of a state changed", "states.value", _state_values),
    _kind(
        "errno",
        "EINVAL and EIO exchanged in an answer",
        "refusals.errno requests.errno events.errno",
        _errnos,
    ),
    _kind(
        "session-effect",
        "the effect of a move on the session changed or dropped",
        "session_effects.effect session_effects.from_ session_effects.to",
        _both(
            _setting("session_effects", "effect", lambda _: get_args(Effect)),
            _dropping("session_effects"),
        ),
    ),
    _kind(
        "event-target",
        "where an event leads changed",
        "events.to",
        _setting("events", "to", lambda spec: [None, *_names(spec.states)]),
    ),
    _kind(
        "event-session",
        "what an event does to the session changed",
        "events.session",
        _setting("events", "session", lambda _: ("kept", "ended")),
    ),
    _kind("event-drops", "what an event drops changed", "events.drops", _event_drops),
    _kind(
        "routing",
        "the routing rule in force swapped or changed",
        "routing.in_force routing.interior routing.guarded",
        _routing,
    ),
    _kind(
        "request-outcome",
        "the outcome of a row of requests changed",
        "requests.outcome",
        _setting("requests", "outcome", lambda _: ("refused", "nothing")),
    ),
    _kind("request-order", "two rows of requests swapped", "requests.when", _swapping("requests")),
    _kind("request-dropped", "a row of requests dropped", "requests.when", _dropping("requests")),
    _kind(
        "permitted",
        "a permitted activity added or removed",
        "operations.may",
        _toggling("operations", "may", "activities"),
    ),
    _kind(
        "role",
        "the role of an activity changed",
        "activities.role",
        _setting("activities", "role", lambda _: get_args(Role)),
    ),
    _kind(
        "off-grid", "`off_grid` flipped", "operations.off_grid", _flipping("operations", "off_grid")
    ),
    _kind(
        "transfer",
        "what a client may do with a stream changed",
        "sessions.transfer",
        _setting("sessions", "transfer", lambda _: get_args(Transfer)),
    ),
    _kind("judged", "`judged` flipped", "sessions.judged", _flipping("sessions", "judged")),
    _kind(
        "grows-while",
        "what a stream grows by changed",
        "sessions.grows_while",
        _setting("sessions", "grows_while", lambda spec: [None, *_names(spec.activities)]),
    ),
    _kind(
        "stream-end",
        "an end of the stream changed",
        "stream_ends.kind stream_ends.precopy_info",
        _both(
            _setting("stream_ends", "kind", lambda _: ("temporary", "final")),
            _flipping("stream_ends", "precopy_info"),
        ),
    ),
    _kind(
        "grid-order",
        "two neighbouring columns or rows of the grid swapped",
        "",
        _both(_swapping("operations"), _swapping("sessions")),
    ),
    _kind(
        "mandatory",
        "`mandatory` flipped",
        "capabilities.mandatory",
        _flipping("capabilities", "mandatory"),
    ),
    _kind(
        "capability-value",
        "the bit of a capability changed",
        "capabilities.value",
        _capability_values,
    ),
    _kind(
        "profile",
        "a capability added to or taken from a profile",
        "profiles.universe",
        _toggling("profiles", "universe", "capabilities"),
    ),
    _kind("initial", "the initial state changed", "spec.initial", _initial),
)
"""Every kind of edit, in the order in which mutants are made and reported."""
