"""What differs between two tables: rows by what they mean, and requests by what becomes of them.

Prose (`summary`, `source`, `title`, `reason`) is no behaviour and is not compared. States and
capabilities are the same if they have the same value, which is what is on the wire; all other
rows if they have the same name or the same ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from vfio_migration.model import Spec
from vfio_migration.verifier.comparison.behaviour import Action, Behaviour, Position
from vfio_migration.verifier.comparison.compatibility import Pairing, arcs

Kind = Literal["added", "removed", "changed", "moved"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        what: What kind of thing differs: "state", "arc", "request", ...
        kind: How.
        name: Which one, in the words of NEW where it has them.
        old: How it was; None for what is added.
        new: How it is; None for what is removed.
        flags: The capability sets of NEW for which it is so; empty if it is a row of the table.
    """

    what: str
    kind: Kind
    name: str
    old: str | None = None
    new: str | None = None
    flags: tuple[tuple[str, ...], ...] = ()


_PROSE: Final = frozenset({"summary", "source", "title", "reason", "linux", "vfio_user", "via"})

_Key = Callable[[Any], object]


def _ends(row: Any) -> object:
    return row.from_, row.to


def _name(row: Any) -> object:
    return row.name


_SECTIONS: Final[tuple[tuple[str, str, _Key], ...]] = (
    ("capabilities", "capability", lambda row: row.value),
    ("profiles", "profile", _name),
    ("activities", "activity", _name),
    ("operations", "operation", _name),
    ("sessions", "session", _name),
    ("session_effects", "session effect", _ends),
    ("stream_ends", "stream end", lambda row: row.kind),
    ("states", "state", lambda row: row.value),
    ("arcs", "arc", _ends),
    ("refusals", "refusal", _ends),
    ("requests", "request rule", lambda row: row.when),
    ("routing", "routing rule", _name),
    ("next_steps", "next step", _ends),
    ("events", "event", _name),
)


def rows(old: Spec, new: Spec) -> Iterator[Change]:
    """Yield what differs in the rows of two tables, in the order of the format."""
    if old.initial != new.initial:
        yield Change("initial state", "changed", new.initial, old.initial, new.initial)
    for section, what, key in _SECTIONS:
        of_old: Mapping[object, Any] = {key(row): row for row in getattr(old, section)}
        of_new: Mapping[object, Any] = {key(row): row for row in getattr(new, section)}
        for found, row in of_old.items():
            if found not in of_new:
                yield Change(what, "removed", _called(row), _described(row), None)
        for found, row in of_new.items():
            if found not in of_old:
                yield Change(what, "added", _called(row), None, _described(row))
            else:
                yield from _fields(what, of_old[found], row)
    order = [row.when for row in old.requests], [row.when for row in new.requests]
    if order[0] != order[1] and sorted(order[0]) == sorted(order[1]):
        yield Change(
            "request rules", "moved", "the order", ", ".join(order[0]), ", ".join(order[1])
        )


def _fields(what: str, old: Any, new: Any) -> Iterator[Change]:
    for field in fields(new):
        if field.name in _PROSE:
            continue
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before != after:
            name = f"{_called(new)}.{field.name.rstrip('_')}"
            yield Change(what, "changed", name, _value(before), _value(after))


def _called(row: Any) -> str:
    if hasattr(row, "from_"):
        return f"{row.from_} -> {row.to}"
    return str(getattr(row, "name", None) or getattr(row, "when", None) or row.kind)


def _described(row: Any) -> str:
    parts = [
        f"{field.name} {_value(getattr(row, field.name))}"
        for field in fields(row)
        if field.name not in _PROSE | {"name", "from_", "to", "when", "kind"}
    ]
    return ", ".join(parts)


def _value(value: object) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


# --- requests and arcs, for each capability set ---------------------------------------------------


def requests(pairings: tuple[Pairing, ...]) -> Iterator[Change]:
    """Yield the requests whose path or answer differs, with the capability sets for which it does.

    What is compared are requests between states that both sides have, by their values. A client of
    OLD meets each of them on a device of NEW.
    """
    found: dict[tuple[str, str, str, Kind], list[tuple[str, ...]]] = {}
    for pairing in pairings:
        names = tuple(pairing.new.machine.names)
        old, new = _answers(pairing.old), _answers(pairing.new)
        for key, (called, before, _) in old.items():
            if key not in new:
                continue
            _, after, accepted = new[key]
            if before != after:
                kind: Kind = "moved" if accepted and old[key][2] else "changed"
                found.setdefault((called, before, after, kind), []).append(names)
    for (called, before, after, kind), flags in found.items():
        yield Change("request", kind, called, before, after, tuple(flags))


def drivers_arcs(pairings: tuple[Pairing, ...]) -> Iterator[Change]:
    """Yield the arcs that a driver has to take more, or less, with the same capability set."""
    found: dict[tuple[Kind, str], list[tuple[str, ...]]] = {}
    for pairing in pairings:
        if not pairing.common:
            continue
        names = tuple(pairing.new.machine.names)
        old, new = dict.fromkeys(arcs(pairing.old)), dict.fromkeys(arcs(pairing.new))
        for ends in old:
            if ends not in new:
                found.setdefault(("removed", _arc(pairing.old, ends)), []).append(names)
        for ends in new:
            if ends not in old:
                found.setdefault(("added", _arc(pairing.new, ends)), []).append(names)
    for (kind, called), flags in found.items():
        yield Change("arc of drivers", kind, called, flags=tuple(flags))


def _arc(behaviour: Behaviour, ends: tuple[int, int, str]) -> str:
    names = {row.value: row.name for row in behaviour.spec.states}
    effect = "no data session" if ends[2] == "none" else f"{ends[2]} the session"
    return f"{names[ends[0]]} -> {names[ends[1]]} ({effect})"


_Answers = dict[tuple[int, int], tuple[str, str, bool]]


def _answers(behaviour: Behaviour) -> _Answers:
    """Return, per present state and target, what it is called, its answer, and if it is taken."""
    answers: _Answers = {}
    for state in behaviour.machine.states:
        for target in behaviour.machine.states:
            outcome = behaviour.outcomes(Position(state.name, open=False), Action(target.value))[0]
            if outcome.kind == "done":
                path = [state.name, *(arc.to for arc in outcome.arcs)]
                text = " -> ".join(path) if outcome.arcs else "nothing to do"
            else:
                text = f"{outcome.kind} ({outcome.errno})" if outcome.errno else outcome.kind
            called = f"{state.name} -> {target.name}"
            answers[state.value, target.value] = called, text, outcome.kind == "done"
    return answers


__all__ = ["Change", "drivers_arcs", "requests", "rows"]
