"""The format of a table as a JSON Schema, for editors that complete and check what is written.

It is made of the classes that a file is read with. What rows must not say against each other is
not in it: `load` finds that.
"""

from __future__ import annotations

from typing import Any

from vfio_migration.model.spec import Spec

_COMPUTED = "via"


def table_schema() -> dict[str, Any]:
    """Return the schema of the table of the machine."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Spec).json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for row in schema["$defs"].values():
        row["properties"] = {
            name.rstrip("_"): _plain(value)
            for name, value in row["properties"].items()
            if name != _COMPUTED
        }
        row["required"] = [name.rstrip("_") for name in row.get("required", ())]
    return schema


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Return a type without null, which TOML does not have, and without a title made of the key."""
    value = {key: item for key, item in value.items() if key not in ("title", "default")}
    options = [item for item in value.pop("anyOf", ()) if item != {"type": "null"}]
    return value | options[0] if len(options) == 1 else value


__all__ = ["table_schema"]
