"""`vfio-migration mutate` as a user runs it: what it prints, what status it exits with."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from support.samples import sample
from support.table_edits import BROKEN, ROOT, broken, to_toml
from vfio_migration.cli.main import main


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("arguments", "count"),
    sample(
        [(["settable", "off-grid", "--against", "T"], 12), (["settable", "initial"], 15)],
        apart=2,
        spread=True,
    ),
    ids=["T", "all"],
)
def test_what_is_caught_exits_with_0(capsys, arguments: list[str], count: int):
    assert main(["mutate", "--jobs", "1", "--only", *arguments]) == 0
    out = capsys.readouterr().out
    assert ["settable", "8", "8", ".", "."] in [line.split() for line in out.splitlines()]
    assert "survived:" not in out
    last = out.splitlines()[-1]
    assert last.startswith(f"{count} mutants: {count} killed, 0 equivalent, 0 survived in ")


def test_what_survives_is_reported_and_exits_with_1(capsys):
    arguments = ["--only", "arc-removed", "--against", "T1", "--jobs", "1"]
    assert main(["mutate", *arguments]) == 1
    out = capsys.readouterr().out
    assert "survived: no obligation speaks of these edits:\n  arcs[0] RUNNING -> RUNNING_P2P" in out


@pytest.mark.exhaustive
def test_the_shape_of_the_json(capsys):
    arguments = ["--only", "arc-removed", "requires", "--against", "T1", "T8", "--json"]
    assert main(["mutate", *arguments]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["mutants"] == 15 + 24
    assert data["equivalent"] == len(data["equivalents"]) == 8
    assert data["mutants"] == data["killed"] + data["equivalent"] + len(data["survivors"])
    assert list(data["kills"]) == ["T1", "T8", "load"]
    assert sum(data["kills"].values()) == data["killed"]
    assert data["unknown"] == data["broken"] == []
    assert data["violations"] is None
    assert data["kinds"]["arc-removed"]["killed"] == 15
    assert set(data["equivalents"][0]) == {"id", "kind", "sentence"}


@pytest.mark.exhaustive
def test_all_violations_are_counted_if_asked_for(capsys):
    arguments = ["--only", "routing", "--against", "T4", "T8", "--full", "--json"]
    assert main(["mutate", *arguments]) in (0, 1)
    data = json.loads(capsys.readouterr().out)
    assert data["violations"]["T8"] >= data["kills"]["T8"]
    assert main(["mutate", *arguments[:-1]]) in (0, 1)
    assert "violated by: T4 " in capsys.readouterr().out


def test_the_mutants_are_listed(capsys):
    assert main(["mutate", "--list", "--only", "refusal-dropped"]) == 0
    assert capsys.readouterr().out == (
        "refusal-dropped: a refusal dropped (2)\n"
        "  refusals[0] STOP_COPY -> PRE_COPY removed\n"
        "  refusals[1] STOP_COPY -> PRE_COPY_P2P removed\n"
    )
    assert main(["mutate", "--list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["kinds"]["arc-added"] == "an arc added"
    assert data["mutants"][0] == {
        "id": "arc-removed:arcs[0]",
        "kind": "arc-removed",
        "sentence": "arcs[0] RUNNING -> RUNNING_P2P removed",
    }


def test_the_table_of_the_connection_is_mutated_if_asked_for(capsys, tmp_path):
    arguments = ["mutate", "--only", "header", "options", "--against", "W11", "--jobs", "1"]
    assert main([*arguments, "--table", "wire", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["spec"] == "vfio-user"
    assert data["mutants"] == data["killed"] == data["kills"]["W11"] + data["kills"]["load"]
    assert list(data["kinds"]) == ["header", "options"]
    assert data["argued"] == data["equivalents"] == data["survivors"] == []
    path = tmp_path / "wire.toml"
    path.write_text((ROOT / "model/wire.toml").read_text("utf-8"), "utf-8")
    assert main([*arguments, "--wire", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"{path}: vfio-user, version 0.0\n")


def test_what_is_argued_is_shown_with_its_reason(capsys):
    arguments = ["--table", "wire", "--only", "features", "--against", "W11", "--jobs", "1"]
    assert main(["mutate", *arguments]) == 0
    out = capsys.readouterr().out
    assert "argued" in out.splitlines()[2]
    assert "argued: no obligation is to speak of these edits:" in out
    assert "  features[5] (MIG_DATA_SIZE) removed (the row is in no text of vfio-user" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "arc-remove"], 'did you mean "arc-removed"?'),
        (["--table", "wire", "--only", "commandos"], 'did you mean "commands"?'),
        (["--table", "states", "--wire", "wire.toml"], "contradicts --wire"),
        (["--against", "T99"], "there is no such obligation or family"),
        (["--jobs", "0"], "is not a number of processes"),
        (["--timeout", "soon"], "is not a number of seconds"),
        (["no_such_table.toml"], "cannot be read"),
    ],
)
def test_wrong_input_exits_with_2(capsys, arguments, message):
    try:
        status = main(["mutate", *arguments])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_table_that_is_not_proved_is_wrong_input(capsys, tmp_path):
    path = tmp_path / "table.toml"
    path.write_text(to_toml(broken(BROKEN / "t2-silent-neighbours.toml")[1]), "utf-8")
    assert main(["mutate", str(path), "--against", "T"]) == 2
    err = capsys.readouterr().err
    assert (
        "is not a table to mutate: T2 is violated of it; run `vfio-migration verify` first" in err
    )


def test_a_solver_that_gives_up_exits_with_3(capsys):
    arguments = ["--only", "event-session", "--against", "D1", "--timeout", "0.000001"]
    assert main(["mutate", *arguments, "--jobs", "1"]) == 3
    assert "unknown: a solver gave up on these:" in capsys.readouterr().out


def test_progress_is_shown_on_a_terminal_only():
    command = [sys.executable, "-m", "vfio_migration.cli.main", "mutate"]
    command += ["--only", "judged", "--against", "T1"]
    quiet = subprocess.run(command, capture_output=True, text=True, check=False)
    assert quiet.stderr == ""
    reader, writer = pty.openpty()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=writer, check=False)
    os.close(writer)
    shown = os.read(reader, 4096).decode()
    os.close(reader)
    assert "1 of 3 mutants" in shown
    assert shown.endswith("\x1b[K")


def test_a_wrong_name_is_found_where_it_was_given(capsys):
    assert main(["mutate", "--against", "T99"]) == 2
    assert capsys.readouterr().err.startswith(
        'vfio-migration: error: --against: "T99": there is no '
    )
