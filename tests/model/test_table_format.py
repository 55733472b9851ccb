"""docs/table-format.md is true: its keys are the keys, its messages the messages, its example works."""  # noqa: E501

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from vfio_migration.model import Spec

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs" / "table-format.md").read_text("utf-8")
DATA = ROOT / "tests" / "data"
# Written from what the format requires of a row besides its shape.
REQUIRED_SOMETIMES = {"requests": ("errno", "reason"), "events": ("errno",)}


def documented(heading: str) -> dict[str, tuple[str, str]]:
    """Return the keys under a heading, each with its type and whether it is required."""
    part = DOC.split(f"\n### {heading}\n")[1].split("\n#")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|", part, re.MULTILINE)
    return {key: (kind, required) for key, kind, required in rows}


def section_fields() -> dict[str, Any]:
    hints = get_type_hints(Spec)
    return {field.name: hints[field.name] for field in dataclasses.fields(Spec)}


SECTIONS = {name: get_args(kind)[0] for name, kind in section_fields().items() if kind is not str}


def test_every_section_is_documented_in_the_order_of_the_table() -> None:
    headings = re.findall(r"^### `\[\[(\w+)\]\]`$", DOC, re.MULTILINE)
    assert headings == list(SECTIONS)
    assert list(documented("Top")) == [n for n, kind in section_fields().items() if kind is str]


@pytest.mark.parametrize("section", SECTIONS)
def test_keys_of_a_section(section: str) -> None:
    row = SECTIONS[section]
    hints = get_type_hints(row)
    recorded = documented(f"`[[{section}]]`")
    fields = [field for field in dataclasses.fields(row) if field.name != "via"]
    assert list(recorded) == [field.name.rstrip("_") for field in fields]
    for field in fields:
        kind, required = recorded[field.name.rstrip("_")]
        if field.name in REQUIRED_SOMETIMES.get(section, ()):
            assert not required.startswith(("yes", "no"))
        elif field.default is dataclasses.MISSING:
            assert required == "yes"
        elif field.default in (None, ()):
            assert required in ("no", "no: none")
        else:
            assert required == f"no: {str(field.default).lower()}"
        hint = hints[field.name]
        if hint is int:
            assert kind == "whole number"
        elif hint is bool:
            assert kind == "true or false"
        elif get_origin(hint) is tuple:
            assert kind.startswith("list of ")
        elif get_origin(hint) is Literal:
            choices = get_args(hint)
            described = re.findall(r"`(\w+)`", kind)
            if described:
                assert described == list(choices)
            else:
                assert kind == "one of the above"
                assert all(f"`{choice}`" in DOC for choice in choices)
        else:
            assert kind in ("text", "name") or kind.startswith("name of a")


def test_every_message_shown_is_one_that_is_given() -> None:
    goldens = {
        line.strip()
        for path in (DATA / "bad_tables").glob("*.txt")
        for line in path.read_text("utf-8").splitlines()
    }
    shown = "".join(re.findall(r"```text\n(.*?)```", DOC, re.DOTALL)).splitlines()
    assert len(shown) > 30
    # The missing file has no golden: test_bad_tables.py holds its message.
    assert [line for line in shown if line not in goldens] == [
        'file: "nowhere.toml": cannot be read: No such file or directory'
    ]


def test_the_worked_example_is_the_ninth_state() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    table = (DATA / "ninth_state.toml").read_text("utf-8")
    assert len(blocks) == table.count("\n# added\n") == 4
    for block in blocks:
        assert f"# added\n{block}" in table
