"""Two tables of the connection: whether each side of the one works with each side of the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pytest

from vfio_migration.model import load
from vfio_migration.model.wire import Wire
from vfio_migration.model.wire_load import load_wire
from vfio_migration.verifier.comparison.wires import compare_wires, lines, to_data

NEW: Final = load_wire()
OLD: Final = NEW.without("precopy_info")
SPEC: Final = load()


def edited(section: str, key: str, **change: Any) -> Wire:
    """Return the table with a row changed."""
    rows = getattr(NEW, section)
    found = [row for row in rows if key in (getattr(row, "name", ""), getattr(row, "when", ""))]
    assert len(found) == 1
    new = tuple(replace(row, **change) if row is found[0] else row for row in rows)
    return replace(NEW, **{section: new})


def test_precopy_info_is_compatible_both_ways() -> None:
    for one, other in ((OLD, NEW), (NEW, OLD)):
        comparison = compare_wires(one, other, SPEC)
        assert comparison.compatible is True
        assert not comparison.changed
        assert "[[commands]] MIG_PRECOPY_INFO, which needs precopy_info" in (
            comparison.added + comparison.removed
        )


def test_write_multiple_was_compatible_too() -> None:
    assert compare_wires(NEW.without("write_multiple"), NEW, SPEC).compatible is True


def test_a_pause_that_every_client_is_answered_is_not() -> None:
    comparison = compare_wires(OLD, edited("answers", "nothing_now", needs=None), SPEC)
    assert comparison.compatible is False
    assert comparison.changed == ("[[answers]] nothing_now needs no option that OLD lacks",)
    assert comparison.answer.example is not None
    text = comparison.answer.example.text
    assert text.startswith("MIG_DATA_READ in PRE_COPY")
    assert text.endswith("served by OLD, ENOMSG by NEW")
    assert text in "\n".join(lines(comparison))
    assert to_data(comparison)["distinguishing"] == text


def test_a_command_that_needs_nothing_is_not() -> None:
    comparison = compare_wires(OLD, edited("commands", "MIG_PRECOPY_INFO", needs=None), SPEC)
    assert comparison.compatible is False
    assert comparison.answer.example is not None
    assert comparison.answer.example.text.startswith("MIG_PRECOPY_INFO in ")


@pytest.mark.parametrize(
    ("section", "key", "change"),
    [
        ("answers", "out_of_session", {"errno": "ENODEV"}),
        ("commands", "MIG_DATA_READ", {"request": 16}),
        ("limits", "max_data_xfer_size", {"value": 4096}),
        ("features", "MIG_DATA_SIZE", {"get": False}),
    ],
)
def test_a_row_that_is_not_what_it_was_is_not(section: str, key: str, change: Any) -> None:
    comparison = compare_wires(NEW, edited(section, key, **change), SPEC)
    assert comparison.compatible is False
    assert f"[[{section}]] {key} is not what it was" in comparison.changed


def test_what_only_people_read_makes_no_difference() -> None:
    other = edited("commands", "MIG_DATA_READ", summary="Other words.", source="elsewhere")
    comparison = compare_wires(NEW, other, SPEC)
    assert comparison.compatible is True
    assert comparison.added == comparison.removed == comparison.changed == ()
