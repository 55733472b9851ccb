"""Every bad table gets exactly the message that is on record for it, and only a SpecError."""

from __future__ import annotations

import importlib.util
import pickle
import re
import sys
from pathlib import Path

import pytest

from vfio_migration.model import Mistake, Spec, SpecError, UnknownNameError, from_data, load, loads
from vfio_migration.model.errors import why

HERE = Path(__file__).parent
BAD_TABLES = HERE.parent / "data" / "bad_tables"
TABLES = sorted(BAD_TABLES.glob("*.toml"))


def _update_goldens():
    loading = importlib.util.spec_from_file_location("update_goldens", HERE / "update_goldens.py")
    module = importlib.util.module_from_spec(loading)
    loading.loader.exec_module(module)
    return module


message = _update_goldens().message


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_message(table: Path) -> None:
    golden = table.with_suffix(".txt")
    assert golden.exists(), "run python tests/model/update_goldens.py and read what it wrote"
    assert message(table) == golden.read_text("utf-8")


def test_every_golden_has_its_table() -> None:
    strays = {path.name for path in BAD_TABLES.iterdir()}
    strays -= {path.name for path in TABLES} | {f"{path.stem}.txt" for path in TABLES}
    assert not strays
    assert len(TABLES) >= 40


def test_the_table_they_are_made_of_is_good(spec: Spec) -> None:
    assert load(HERE.parent / "data" / "small.toml").name == "small"
    assert load() is spec


PYTHON_WORDS = re.compile(
    r"\b(tuple|dict|NoneType|None|True|False|dataclass|str|int|bool|pydantic|Literal|instance|"
    r"Input should|keyword argument|from_\b(?!:)|Traceback|object at)\b"
)


@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.stem)
def test_message_speaks_of_tables_not_of_python(table: Path) -> None:
    text = message(table)
    assert not PYTHON_WORDS.search(text)
    # Nothing that a terminal would take for a command, and no mistake longer than a user reads.
    assert all(char == "\n" or char.isprintable() for char in text)
    assert max(map(len, text.splitlines())) < 260


def test_places_are_places_of_the_file() -> None:
    """Each place of the long one leads to its value in the data."""
    import tomllib

    table = BAD_TABLES / "everything_at_once.toml"
    data = tomllib.loads(table.read_text("utf-8"))
    with pytest.raises(SpecError) as caught:
        loads(table.read_bytes())
    followed = 0
    for mistake in caught.value.mistakes:
        found = re.fullmatch(r"(\w+)\[(\d+)\]\.(\w+)", mistake.place)
        if found and mistake.value is not None:
            assert data[found[1]][int(found[2])][found[3]] == mistake.value
            followed += 1
    assert followed >= 5


# --- files that cannot be read at all -------------------------------------------------------------


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        load("nowhere.toml")
    assert str(caught.value) == 'file: "nowhere.toml": cannot be read: No such file or directory'


def test_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.toml").mkdir()
    with pytest.raises(SpecError) as caught:
        load("folder.toml")
    assert str(caught.value) == 'file: "folder.toml": cannot be read: Is a directory'


def test_path_that_no_file_can_have() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load("a\0b")


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (ValueError("embedded null byte"), "embedded null byte"),
        (ValueError("stat: embedded null character in path"), "embedded null byte"),  # 3.13
        (OSError(2, "No such file or directory", "x"), "No such file or directory"),
        (OSError("of our own"), "of our own"),
    ],
)
def test_what_is_wrong_with_a_file_is_stated_alike_on_every_python(
    error: OSError | ValueError, reported: str
) -> None:
    assert why(error) == reported


def test_file_with_a_byte_order_mark(tmp_path: Path, spec: Spec) -> None:
    table = tmp_path / "bom.toml"
    table.write_bytes(b"\xef\xbb\xbf" + (HERE.parent / "data" / "small.toml").read_bytes())
    assert load(table) == load(HERE.parent / "data" / "small.toml")


def test_windows_line_ends_do_not_move_the_place() -> None:
    with pytest.raises(SpecError, match=r"line 2, column 9: .*the line reads: title = x"):
        loads(b'name = "a"\r\ntitle = x\r\n')


# --- the error itself -----------------------------------------------------------------------------


def test_one_mistake_without_origin_is_one_line() -> None:
    error = SpecError([Mistake("flags", 8, "has bits that stand for no capability", None)])
    assert str(error) == "flags: 8: has bits that stand for no capability"


@pytest.mark.parametrize(
    "error",
    [
        SpecError([Mistake("arcs[3].to", "X", "is no state", "take Y")], origin="a.toml"),
        UnknownNameError("state", "RUNING", "RUNNING", ["RUNNING", "STOP"]),
    ],
    ids=["SpecError", "UnknownNameError"],
)
def test_errors_survive_pickling(error: SpecError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_unknown_name_lists_what_there_is_when_nothing_is_near(spec: Spec) -> None:
    with pytest.raises(
        UnknownNameError, match='"XYZZY": there is no such state in this table; it has ERROR, STOP'
    ):
        spec.state("XYZZY")
    with pytest.raises(UnknownNameError, match='did you mean "RUNNING"') as caught:
        spec.state("run")
    assert caught.value.suggestion == "RUNNING"


def test_a_missing_none_is_not_a_value() -> None:
    """TOML has no null, and data that has one is refused where it is."""
    import tomllib

    data = tomllib.loads((HERE.parent / "data" / "small.toml").read_text("utf-8"))
    data["sessions"][0]["grows_while"] = None
    with pytest.raises(SpecError, match=r"sessions\[0\]\.grows_while: is nothing TOML can write"):
        from_data(data)


def test_a_bad_table_never_leaves_pydantic_as_a_cause() -> None:
    with pytest.raises(SpecError) as caught:
        loads("name = 3")
    assert caught.value.__cause__ is None
    assert "pydantic" in sys.modules
