"""The data of a table as the file has it, and what the checks ask of it and report.

Nothing here can be relied on to have the right type: a question about what has another type gets
the answer that keeps a check silent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields

from vfio_migration.model.errors import Mistake, closest, did_you_mean, it_has
from vfio_migration.model.spec import Capability, Spec

Data = Mapping[str, object]


def sections_of(kind: type) -> tuple[str, ...]:
    """Return the names of all sections of a kind of table."""
    return tuple(field.name for field in fields(kind) if field.type != "str")


NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
"""What a row may be called."""

_CAPABILITY_KEYS = {field.name for field in fields(Capability)}
_LISTS = ("universe", "may", "requires")


class PlainTable:
    """The data of a file with the few questions the checks ask of it.

    Attributes:
        data: The data as the file has it.
        sections: The names of the sections a table of this kind has.
        mistakes: What was reported so far.
        names: The names of the rows of each section, None for a row without.
        mandatory: The names of the capabilities that every device has.
        optional: The names of those a device may lack.
    """

    def __init__(self, data: Data, kind: type = Spec) -> None:
        self.data = data
        self.sections = sections_of(kind)
        self.mistakes: list[Mistake] = []
        self.unknown: dict[tuple[str, str, str], list[str]] = {}
        self.names = {
            section: [name_of(row) for _, row in self.rows(section)] for section in self.sections
        }
        self.mandatory = [
            name
            for _, row in self.rows("capabilities")
            if row.get("mandatory") is True and (name := name_of(row)) is not None
        ]
        # Not those whose `mandatory` cannot be read, or may be there with another spelling.
        self.optional = [
            name
            for _, row in self.rows("capabilities")
            if row.get("mandatory", False) is False
            and row.keys() <= _CAPABILITY_KEYS
            and (name := name_of(row)) is not None
            and name not in self.mandatory
        ]

    def rows(self, section: str) -> list[tuple[int, Data]]:
        """Return the rows of a section that are tables at all, with their index."""
        rows = self.data.get(section)
        rows = rows if isinstance(rows, list) else []
        return [(index, row) for index, row in enumerate(rows) if isinstance(row, Mapping)]

    def readable(self, section: str) -> bool:
        """Return whether each row of a section has a good name of its own.

        If not, what seems to be missing from the section may be the row that is broken, or the one
        that has the name of another.
        """
        rows = self.data.get(section)
        good = {name for name in self.names[section] if name and NAME.fullmatch(name)}
        return isinstance(rows, list) and len(good) == len(rows)

    def report(self, place: str, value: object, problem: str, hint: str | None = None) -> None:
        """Take a mistake down."""
        self.mistakes.append(Mistake(place, value, problem, hint))

    def knows(self, section: str, name: object) -> bool:
        """Return whether `name` is the name of a row of a section that is readable."""
        return self.readable(section) and name in self.names[section]

    def refer(self, place: str, value: object, section: str, kind: str) -> None:
        """Note `value` if it names no row of `section`."""
        if not isinstance(value, str) or not value.strip():
            return  # reported as the wrong type, or as empty
        known = [name for name in self.names[section] if name is not None]
        # A section with no rows at all is reported itself; so is a row without a name, which may
        # be the one that is meant.
        if known and value not in known and self.readable(section):
            self.unknown.setdefault((section, kind, value), []).append(place)

    def report_unknown(self) -> None:
        """Report the names that were noted.

        A name that is unknown in many places is reported once: then it is rather the row that
            should
        have it that is wrong.
        """
        for (section, kind, value), places in self.unknown.items():
            known = [name for name in self.names[section] if name is not None]
            hint = did_you_mean(closest(value, known)) or it_has(known)
            problem = f"there is no such {kind} in this table"
            if len(places) > 2:
                problem += f", but {len(places)} places name it"
                places = places[:1]
            for place in places:
                self.report(place, value, problem, hint)

    def refer_all(self, section: str, key: str, target: str, kind: str) -> None:
        """Check a key of every row that names rows of another section, alone or in a list."""
        for index, row in self.rows(section):
            place = f"{section}[{index}].{key}"
            value = row.get(key)
            if key not in _LISTS:
                self.refer(place, value, target, kind)
            elif isinstance(value, list):
                for position, item in enumerate(value):
                    self.refer(f"{place}[{position}]", item, target, kind)

    def unique(
        self, section: str, what: str, key: Callable[[Data], object | None], way_out: str
    ) -> None:
        """Report rows of a section for which `key` gives what an earlier row gave."""
        seen: dict[object, int] = {}
        for index, row in self.rows(section):
            value = key(row)
            if value is None:
                continue
            first = seen.setdefault(value, index)
            if first != index:
                shown = arrow(value) if isinstance(value, tuple) else value
                problem = f"is already in {section}[{first}]"
                self.report(f"{section}[{index}]{what}", shown, problem, way_out)


def text_of(row: Data, key: str) -> str | None:
    """Return what is under a key, if it is a text."""
    value = row.get(key)
    return value if isinstance(value, str) else None


def name_of(row: Data) -> str | None:
    """Return the name of a row, if it is a text."""
    return text_of(row, "name")


def number_of(row: Data, key: str) -> int | None:
    """Return what is under a key, if it is a whole number."""
    value = row.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def pair_of(row: Data) -> tuple[str, str] | None:
    """Return `from` and `to` of a row, if both are texts."""
    from_, to = text_of(row, "from"), text_of(row, "to")
    return (from_, to) if from_ is not None and to is not None else None


def arrow(pair: Iterable[str]) -> str:
    """Write a pair as a user reads it."""
    return " -> ".join(pair)
