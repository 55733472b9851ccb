"""A table from a stranger: how large it may be, and what it cannot make a terminal do."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from vfio_migration.cli.main import main
from vfio_migration.model import SpecError, bounds, loads
from vfio_migration.model.plan import load_plans
from vfio_migration.model.wire_load import load_wire

DATA = Path(__file__).parent.parent / "data"
SMALL = (DATA / "small.toml").read_text("utf-8")
PACKAGE = Path(__file__).parent.parent.parent / "model"
VFIO_V2 = (PACKAGE / "vfio_v2.toml").read_text("utf-8")

CLEAR_SCREEN = r"\u001B[2J"
REVERSED = r"\u202E"
LINE_BREAK = r"\n"


def message(text: str) -> str:
    with pytest.raises(SpecError) as raised:
        loads(text)
    return str(raised.value)


def with_rows(section: str, rows: list[str]) -> str:
    """The small table with more rows in one section."""
    return SMALL.replace(f"{section} = [\n", f"{section} = [\n" + ",\n".join(rows) + ",\n", 1)


def chain(states: int) -> str:
    """The small table with that many states, the new ones in a chain that starts at STOP."""
    count = states - 5
    names = ["STOP", *(f"C{index}" for index in range(count))]
    pairs = list(itertools.pairwise(names))
    operations = [
        f'{{ name = "op{index}", may = ["change_state"], summary = "s", source = "test" }}'
        for index in range(count)
    ]
    rows = [
        f'{{ name = "C{index}", value = {100 + index}, requires = ["COPY"], '
        f'operation = "op{index}", session = "none", summary = "s", source = "test" }}'
        for index in range(count)
    ]
    arcs = [
        f'{{ from = "{one}", to = "{two}", summary = "s", source = "test" }}'
        for pair in pairs
        for one, two in (pair, pair[::-1])
    ]
    text = SMALL
    for section, more in (("operations", operations), ("states", rows), ("arcs", arcs)):
        # At the end of the section: the order of operations is that of the columns.
        head, begin, rest = text.partition(f"\n{section} = [\n")
        body, end, tail = rest.partition("\n]\n")
        text = head + begin + body + "\n" + ",\n".join(more) + ("," if more else "") + end + tail
    return text


def test_the_largest_table_is_loaded_and_routed():
    machine = loads(chain(bounds.MAX_STATES)).machine()
    last = f"C{bounds.MAX_STATES - 6}"
    assert machine.route("STOP", last).path[-1] == last
    assert len(machine.route("STOP", last).path) == bounds.MAX_STATES - 5


def test_a_table_with_more_states_is_refused():
    reported = message(chain(bounds.MAX_STATES + 1))
    assert (
        "states: has 257 rows, more than a table may have; there may be 256 at the most" in reported
    )


def test_a_table_with_more_capabilities_is_refused():
    rows = [
        f'{{ name = "X{index}", value = {1 << (index + 4)}, summary = "s", source = "t" }}'
        for index in range(bounds.MAX_CAPABILITIES)
    ]
    assert "capabilities: has 14 rows" in message(with_rows("capabilities", rows))


def test_a_section_with_more_rows_is_refused():
    row = '{ from = "STOP", to = "STOP_COPY", summary = "s", source = "test" }'
    assert "arcs: has 4103 rows" in message(with_rows("arcs", [row] * (bounds.MAX_ROWS + 1)))


@pytest.mark.parametrize(
    "key",
    [
        ".".join(["a"] * 25_000),
        " . ".join(["a"] * 17),
        ".".join(['"a b"'] * 17),
        ".".join(["'a'"] * 17),
        ".".join([r'"\""'] * 17),
    ],
    ids=["25,000 parts", "spaces", "quotes", "single quotes", "escaped quotes"],
)
@pytest.mark.parametrize("place", ["{} = 1", "[{}]", "[[{}]]", "x = {{ {} = 1 }}"])
def test_a_key_of_many_parts_is_refused_before_it_is_parsed(key: str, place: str):
    reported = message(SMALL + "\n" + place.format(key))
    assert f"line {SMALL.count(chr(10)) + 2}" in reported
    assert "is a key of more than 16 parts" in reported


@pytest.mark.parametrize("text", ["w" * 900_000, '"' * 900_000, " " * 900_000, "a ." * 300_000])
def test_looking_for_long_keys_takes_time_that_grows_with_the_text_only(text: str):
    """Nothing is timed: a search that grows with the square would not end within the hour."""
    bounds.long_key(text)


def test_a_file_longer_than_a_table_may_be_is_refused(tmp_path, capsys):
    path = tmp_path / "long.toml"
    path.write_text(SMALL + "#" * bounds.MAX_TABLE_BYTES, "utf-8")
    assert main(["route", "RUNNING", "STOP", "--spec", str(path)]) == 2
    assert f"has more than {bounds.MAX_TABLE_BYTES} bytes" in capsys.readouterr().err


@pytest.mark.parametrize("escape", [CLEAR_SCREEN, REVERSED, LINE_BREAK, r"\u2028", r"\u0007"])
@pytest.mark.parametrize(
    ("place", "old"),
    [
        ("title", 'title = "'),
        ("capabilities[0].summary", 'summary = "Copying.'),
        ("refusals[0].reason", 'reason = "leave it'),
        ("states[0].source", 'summary = "Failed.", source = "test'),
        ("events[3].drops[0]", 'drops = ["dma_maps'),
    ],
)
def test_a_text_that_a_terminal_would_obey_is_refused(escape: str, place: str, old: str):
    reported = message(SMALL.replace(old, old + escape, 1))
    assert place in reported
    assert "which cannot be printed" in reported
    assert reported.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("wire.toml", load_wire),
        ("group_plan.toml", lambda path: load_plans(loads(VFIO_V2), path)),
    ],
)
def test_the_other_tables_are_held_to_it_too(tmp_path, name, load):
    path = tmp_path / name
    text = (PACKAGE / name).read_text("utf-8")
    path.write_text(text.replace('summary = "', f'summary = "{CLEAR_SCREEN}', 1), "utf-8")
    with pytest.raises(SpecError, match=r"U\+001B, which cannot be printed"):
        load(path)


def test_letters_of_any_language_may_be_in_a_table():
    assert loads(SMALL.replace("A small device", "Ein kleines Ger\u00e4t, \u5c0f")).title
