"""No file, however broken, gets anything but a table or a SpecError."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.examples import examples
from support.strategies import plain
from support.table_edits import table_data
from vfio_migration.model import Spec, SpecError, from_data, loads

TEXT = (Path(__file__).parents[1] / "data" / "small.toml").read_bytes()
REAL = table_data()


def read_or_refuse(read: Callable[[Any], Spec], source: Any) -> Spec | None:
    """Read a table; a refusal must be one that can be shown."""
    try:
        return read(source)
    except SpecError as refused:
        error = refused
    text = str(error)
    assert error.mistakes
    assert all(mistake.problem for mistake in error.mistakes)
    assert "Input should" not in text
    assert all(char == "\n" or char.isprintable() for char in text), text
    return None


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"a = 1\n" * 100)
def test_any_bytes(raw: bytes) -> None:
    assert read_or_refuse(loads, raw) is None


@given(st.text(st.sampled_from("[]{}=.,\"'#\n \\ab1-_:TZ+enixo0"), max_size=80))
@examples(300)
def test_any_text_that_looks_like_toml(text: str) -> None:
    assert read_or_refuse(loads, text) is None


@given(st.integers(0, len(TEXT) - 1), st.binary(max_size=3), st.integers(0, 8))
@examples(300)
def test_a_few_bytes_of_a_table_replaced(place: int, patch: bytes, length: int) -> None:
    read_or_refuse(loads, TEXT[:place] + patch + TEXT[place + length :])


@pytest.mark.parametrize("end", range(0, len(TEXT), 97))
def test_a_table_cut_short(end: int) -> None:
    assert read_or_refuse(loads, TEXT[:end]) is None


@given(st.dictionaries(st.sampled_from(list(REAL)) | st.text(max_size=4), plain(), max_size=6))
def test_any_data(data: dict[str, Any]) -> None:
    assert read_or_refuse(from_data, data) is None


@given(st.data())
@examples(400)
def test_a_key_of_the_table_removed_or_replaced(data: st.DataObject) -> None:
    edited = copy.deepcopy(REAL)
    where = data.draw(st.sampled_from(list(_places(edited))))
    target: Any = edited
    for part in where[:-1]:
        target = target[part]
    if data.draw(st.booleans()):
        del target[where[-1]]
    else:
        target[where[-1]] = data.draw(plain())
    spec = read_or_refuse(from_data, edited)
    if spec is not None:
        # What is let in must work: every request of every capability set is decided.
        for capabilities in spec.capability_sets():
            machine = spec.machine(capabilities)
            for state in machine.states:
                assert len(machine.options(state.name)) == len(spec.states)
                spec.stream_end(state.name)
            for arc in machine.arcs:
                spec.effect(arc.from_, arc.to)


def _places(value: Any, where: tuple[Any, ...] = ()) -> Any:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*where, key)
        yield from _places(item, (*where, key))


def _nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = {"x": value} if level % 2 else [value]
    return value


def _endless() -> Any:
    value: dict[str, Any] = {}
    value["states"] = [value]
    return value


@pytest.mark.parametrize(
    "data",
    [
        {"states": _nested(100_000)},
        {"states": [{"name": _nested(100_000)}]},
        {"x": _nested(100_000)},
        _endless(),
        {1: 2, None: 3, (4, 5): 6},
        {"\ud800": "\ud800"},
        {"states": [{"\x1b[31m": "\x1b[31m", "name": "\ud800"}]},
        {"name": b"bytes", "title": object(), "initial": {1, 2}},
        {"states": ({"name": "A"},)},
        {"arcs": [{"from": 10**6000, "to": -(10**6000)}]},
        {"name": float("nan"), "title": float("inf")},
    ],
    ids=range(11),
)
def test_data_that_no_file_can_hold(data: Any) -> None:
    assert read_or_refuse(from_data, data) is None


@pytest.mark.parametrize(
    "text",
    [
        b"x = " + b"[" * 100_000,
        b"x = " + b"{a=" * 100_000,
        b".".join([b"x"] * 5_000) + b" = 1",
        b"[" + b".".join([b"x"] * 5_000) + b"]",
        b"x = " + b"9" * 100_000,
        b"x = 0x" + b"f" * 100_000,
        b"x = 1e" + b"9" * 10_000,
        b'x = "\\uD800"',
        b"name = 9999-99-99",
        b"name = 1979-05-27T00:32:00+99:99",
        b"\x00",
        "name = \"\ud800\"",
    ],
    ids=range(12),
)  # fmt: skip
def test_text_that_hurts(text: bytes | str) -> None:
    assert read_or_refuse(loads, text) is None
