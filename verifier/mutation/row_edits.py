"""Every single edit of a table whose rows state by their classes what may be written in them.

A truth value is flipped, a choice is made another one, a number is one more, a name is the next
that another row has there, a member of a list is left out or added, a row is dropped, and where the
order of rows has a meaning two neighbours change places. What no edit changes is in `labels` of
`Form`, with the reason: a field that is added to a class is mutated without being named anywhere.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal

from vfio_migration.model.spec import Row
from vfio_migration.verifier.mutation.mutants import Mutant, Table, shown

Numbers = Callable[[int], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Form:
    """Which edits of a kind of table there are, beside what the classes of its rows state.

    Attributes:
        labels: The fields no edit changes, as "section.field", by reason.
        ordered: The sections in which the order of rows has a meaning.
        numbers: The fields that become other numbers than one more, and which.
    """

    labels: Mapping[str, frozenset[str]]
    ordered: frozenset[str] = frozenset()
    numbers: Mapping[str, Numbers] = field(default_factory=dict)

    @property
    def excused(self) -> frozenset[str]:
        """Every field no edit changes."""
        return frozenset().union(*self.labels.values())


@dataclass(frozen=True, slots=True)
class _Edit:
    place: str
    written: str
    sentence: str
    edited: Any

    def within(self, edited: object) -> _Edit:
        return dataclasses.replace(self, edited=edited)


def row_mutants(table: Table, form: Form) -> tuple[Mutant[Table], ...]:
    """Return every mutant of a table, its sections in the order of its class.

    The kind of a mutant is the section at the top of the table that is edited.
    """
    found = _Edits(table, form).of(table, "", "")
    return tuple(
        Mutant(f"{edit.place}{edit.written}", _kind(edit.place), edit.sentence, edit.edited)
        for edit in found
    )


def _kind(place: str) -> str:
    return place.partition(".")[0].partition("[")[0]


def fields_of(table: type) -> dict[str, Any]:
    """Return every field of a kind of table and of its rows, as "section.field", with its type."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(table).items():
        if name.startswith("_"):
            continue
        row = row_class(hint)
        if row is None:
            found[name] = hint
        else:
            found |= {f"{name}.{inner}": kind for inner, kind in fields_of(row).items()}
    return found


def row_class(hint: Any) -> type[Row] | None:
    """Return the class of the rows that a field holds: several, one or none; None for others."""
    for part in (hint, *typing.get_args(hint)):
        if isinstance(part, type) and dataclasses.is_dataclass(part) and issubclass(part, Row):
            return part
    return None


class _Edits(Generic[Table]):
    """The edits of one table; what other rows have in a field is known before any is made."""

    def __init__(self, table: Table, form: Form) -> None:
        self.form = form
        self.excused = form.excused
        self.used: dict[str, list[Any]] = {}
        for name, value in _values_in(table, ""):
            values = value if isinstance(value, tuple) else (value,)
            known = self.used.setdefault(name, [])
            known += [each for each in values if each is not None and each not in known]

    def of(self, row: Any, section: str, place: str) -> Iterator[_Edit]:
        """Yield the edits of a row, or of the whole table, and of the rows in it."""
        hints = typing.get_type_hints(type(row))
        for each in dataclasses.fields(row):
            name = f"{section}.{each.name}" if section else each.name
            here = f"{place}.{each.name}" if place else each.name
            value = getattr(row, each.name)
            if row_class(hints[each.name]) is not None:
                found = self._of_rows(value, name, here)
            elif name in self.excused:
                continue
            else:
                found = self._of_field(row, name, here, hints[each.name], value)
            for edit in found:
                changed: dict[str, Any] = {each.name: edit.edited}
                yield edit.within(dataclasses.replace(row, **changed))

    def _of_rows(self, value: Any, section: str, place: str) -> Iterator[_Edit]:
        """Yield the edits of rows in rows, and of which of them there are in which order."""
        if not isinstance(value, tuple):
            if value is not None:
                yield from self.of(value, section, place)
                yield _Edit(place, "-", f"{place} removed", None)
            return
        for index, row in enumerate(value):
            for edit in self.of(row, section, f"{place}[{index}]"):
                yield edit.within((*value[:index], edit.edited, *value[index + 1 :]))
        for index, row in enumerate(value):
            rest = (*value[:index], *value[index + 1 :])
            here = f"{place}[{index}]"
            yield _Edit(here, "-", f"{here}{_called(row)} removed", rest)
        if section in self.form.ordered:
            for index, (one, other) in enumerate(itertools.pairwise(value)):
                if one != other:
                    swapped = (*value[:index], other, one, *value[index + 2 :])
                    here = f"{place}[{index}]"
                    sentence = f"{here}{_called(one)} and the{_called(other)} below it swapped"
                    yield _Edit(here, "<=>", sentence, swapped)

    def _of_field(self, row: Any, name: str, here: str, hint: Any, value: Any) -> Iterator[_Edit]:
        if isinstance(value, tuple):
            for member in (*value, *(other for other in self.used[name] if other not in value)):
                has = member in value
                held = tuple(m for m in value if m != member) if has else (*value, member)
                done = "loses" if has else "gains"
                sign = "-" if has else "+"
                yield _Edit(here, f"{sign}{member}", f"{here}{_called(row)} {done} {member}", held)
            return
        for other in self._others(name, hint, value):
            sentence = f"{here}{_called(row)} {shown(value)} => {shown(other)}"
            yield _Edit(here, f"={shown(other)}", sentence, other)

    def _others(self, name: str, hint: Any, value: Any) -> list[Any]:
        """Return what else may be written in a field."""
        parts = _alternatives(hint)
        if name in self.form.numbers and value is not None:
            found: list[Any] = list(self.form.numbers[name](value))
        elif bool in parts:
            found = [not value]
        elif value is not None and int in parts:
            found = [value + 1]
        elif any(typing.get_origin(part) is Literal for part in parts):
            found = [choice for part in parts for choice in typing.get_args(part)]
        else:
            # One that another row has there; with all of them a table has thousands of mutants.
            used = self.used[name]
            at = used.index(value) + 1 if value is not None else 0
            found = [used[at % len(used)]] if used else []
        if type(None) in parts:
            found.append(None)
        return [other for other in found if other != value]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """Return what a union is of; a type that is none is of itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _values_in(row: Any, section: str) -> Iterator[tuple[str, Any]]:
    """Yield what is written in each field, in a row and in the rows in it."""
    hints = typing.get_type_hints(type(row))
    for each in dataclasses.fields(row):
        name = f"{section}.{each.name}" if section else each.name
        value = getattr(row, each.name)
        if row_class(hints[each.name]) is None:
            yield name, value
            continue
        for inner in value if isinstance(value, tuple) else [value]:
            if inner is not None:
                yield from _values_in(inner, name)


def _called(row: Any) -> str:
    """Return what a row is known by, in brackets; nothing if it has no name."""
    for key in ("name", "when"):
        name = getattr(row, key, None)
        if name is not None and not isinstance(row, tuple):
            word = getattr(row, "word", None)
            return f" ({name})" if word is None else f" ({word}: {name})"
    return ""
