"""`vfio-migration table`: the built-in tables, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.samples import sampled
from vfio_migration.cli.commands.table import TABLES
from vfio_migration.cli.main import main
from vfio_migration.model.edited import edits
from vfio_migration.model.history import named
from vfio_migration.model.load import to_data

MODEL = Path(__file__).resolve().parents[2] / "model"


def printed(*options: str) -> bytes:
    words = [sys.executable, "-m", "vfio_migration", "table", *options]
    return subprocess.run(words, capture_output=True, check=True).stdout


@sampled(2)
@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_printed_byte_for_byte(name: str) -> None:
    assert printed(f"--{name}") == (MODEL / TABLES[name][0]).read_bytes()


def test_without_an_option_it_is_the_table_of_the_machine() -> None:
    assert printed() == (MODEL / "vfio_v2.toml").read_bytes()


def test_every_table_of_the_model_can_be_printed() -> None:
    assert {file for file, _ in TABLES.values()} == {path.name for path in MODEL.glob("*.toml")}


def test_two_tables_at_once_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["table", "--wire", "--plans"])
    assert caught.value.code == 2
    assert "not allowed with argument --wire" in capsys.readouterr().err


def test_a_copy_is_read_as_the_table_it_is_a_copy_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_bytes(printed())
    assert main(["route", "PRE_COPY", "STOP_COPY", "--spec", str(copy)]) == 0
    of_the_copy = capsys.readouterr().out
    assert main(["route", "PRE_COPY", "STOP_COPY"]) == 0
    assert capsys.readouterr().out == of_the_copy


def test_the_schema_takes_the_tables_that_are_tables_and_no_misspelt_key(capsys) -> None:
    import jsonschema

    assert main(["table", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    data = tomllib.loads((MODEL / "vfio_v2.toml").read_text("utf-8"))
    jsonschema.validate(data, schema)
    for edit in edits():
        spec = named(edit.name)
        assert spec is not None
        jsonschema.validate(to_data(spec), schema)
    data["arcs"][3]["form"] = data["arcs"][3].pop("from")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
