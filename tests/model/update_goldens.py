"""Write the golden message of every bad table, and remove the messages whose table is gone.

    python tests/model/update_goldens.py

Then read `git diff tests/data/bad_tables`: a golden file is what a user will see.
"""

from __future__ import annotations

from pathlib import Path

from vfio_migration.model import SpecError, load, loads

BAD_TABLES = Path(__file__).parents[1] / "data" / "bad_tables"


def message(table: Path) -> str:
    """Return what a user sees of a bad table, with the name of the file instead of its path."""
    try:
        loads(table.read_bytes(), origin=table.name)
    except SpecError as error:
        return f"{error}\n"
    raise AssertionError(f"{table} is not bad at all")


def main() -> None:
    load()
    tables = sorted(BAD_TABLES.glob("*.toml"))
    for table in tables:
        table.with_suffix(".txt").write_text(message(table), "utf-8")
    for golden in BAD_TABLES.glob("*.txt"):
        if golden.with_suffix(".toml") not in tables:
            golden.unlink()
    print(f"{len(tables)} messages written")


if __name__ == "__main__":
    main()
