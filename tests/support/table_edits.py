"""Broken tables as edits of the real one: small to read, and never out of date with it.

A file of `tests/data/broken_tables` states what it breaks and how: rows to remove (by name, or by
[from, to]), rows to add, keys to set.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from vfio_migration.model import Spec, from_data
from vfio_migration.model.edited import apply

ROOT = Path(__file__).resolve().parents[2]
BROKEN = ROOT / "tests/data/broken_tables"
TABLE = ROOT / "model/vfio_v2.toml"


def table_data() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text("utf-8"))


def broken(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the file states of itself, and the data of the table it makes."""
    edit = tomllib.loads(path.read_text("utf-8"))
    return edit, apply(edit, table_data())


def spec_of(data: dict[str, Any]) -> Spec:
    return from_data(data, "broken table")


def to_toml(data: dict[str, Any]) -> str:
    """Write a table's data as TOML; strings, numbers, truth values and lists of strings suffice."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in data.items() if not _is_rows(value)]
    for section, rows in data.items():
        if _is_rows(rows):
            for row in rows:
                lines += ["", f"[[{section}]]"]
                lines += [f"{key} = {json.dumps(value)}" for key, value in row.items()]
    return "\n".join(lines) + "\n"


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
