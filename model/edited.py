"""Tables as edits of others: small to read, and never out of date with what they are made of.

A file of `model/tables` has a title, a source, the name of the table it is made of, and, if it is a
proposal and not one of history, an answer.
`remove` lists rows by name, or by [from, to]; `add` has whole rows; `set` has single keys, of a row
or, without one, of the table. A key that is set to nothing is removed.
"""

from __future__ import annotations

import copy
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from vfio_migration.model.load import from_data
from vfio_migration.model.spec import Spec


@dataclass(frozen=True)
class Edit:
    """A table that comes with the package as an edit of another.

    Attributes:
        name: What it is called.
        title: What it is a table of, for headings.
        source: Where it was proposed.
        base: The name of the table that it is made of.
        answer: What this project would answer to the proposal; empty for a table of history.
        data: What to remove, add and set.
    """

    name: str
    title: str
    source: str
    base: str
    answer: str
    data: Mapping[str, Any]


@functools.cache
def edits() -> tuple[Edit, ...]:
    """Return every edited table that comes with the package, in the order of their names."""
    found = []
    for file in (resources.files("vfio_migration.model") / "tables").iterdir():
        if file.name.endswith(".toml"):
            data = tomllib.loads(file.read_text("utf-8"))
            head = {key: str(data[key]) for key in ("title", "source", "base")}
            head["answer"] = str(data.get("answer", ""))
            found.append(Edit(name=file.name.removesuffix(".toml"), **head, data=data))
    return tuple(sorted(found, key=lambda edit: edit.name))


def proposals() -> tuple[Edit, ...]:
    """Return those that somebody proposes, or could; the others are of history."""
    return tuple(edit for edit in edits() if edit.answer)


def edited(edit: Edit, base: Mapping[str, Any]) -> Spec:
    """Return the table that an edit makes of the data of another.

    Raises:
        SpecError: What comes out is no table.
    """
    data = apply(edit.data, base)
    data["name"], data["title"] = edit.name, edit.title
    return from_data(data, edit.name)


def apply(edit: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a table with rows removed and added and keys set."""
    data: dict[str, Any] = copy.deepcopy(dict(base))
    for section, keys in edit.get("remove", {}).items():
        for key in keys:
            data[section].remove(find(data, section, key))
    for section, rows in edit.get("add", {}).items():
        data[section] = [*data.get(section, []), *rows]
    for change in edit.get("set", ()):
        row = find(data, change["section"], change["row"]) if "row" in change else data
        if "value" in change:
            row[change["key"]] = change["value"]
        else:
            del row[change["key"]]
    return data


def find(data: Mapping[str, Any], section: str, key: object) -> dict[str, Any]:
    """Return the row that is called so, or has these ends."""
    for row in data[section]:
        found: dict[str, Any] = row
        names = (row.get("name"), row.get("when"), row.get("kind"))
        if key in (*names, [row.get("from"), row.get("to")]):
            return found
    raise LookupError(f"no row {key} in {section}")


__all__ = ["Edit", "apply", "edited", "edits", "find", "proposals"]
