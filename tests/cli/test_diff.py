"""`vfio-migration diff` as a user runs it: what it prints, what status it exits with."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from support.table_edits import ROOT, apply, table_data, to_toml
from vfio_migration.cli.main import main
from vfio_migration.verifier.comparison import report

MAIL_COLUMNS = 72
DIFF = ("diff", "--no-obligations")  # those are in test_verify_source.py, and take seconds


@pytest.fixture
def lenient(tmp_path: Path) -> str:
    """A table that accepts STOP_COPY -> PRE_COPY_P2P, which the specification refuses."""
    arc = {"from": "STOP_COPY", "to": "PRE_COPY_P2P", "summary": "An arc.", "source": "a test"}
    edit = {"remove": {"refusals": [["STOP_COPY", "PRE_COPY_P2P"]]}, "add": {"arcs": [arc]}}
    path = tmp_path / "lenient.toml"
    path.write_text(to_toml(apply(edit, table_data())), "utf-8")
    return str(path)


def test_a_compatible_change_exits_with_0_and_names_the_warnings(capsys) -> None:
    assert main([*DIFF, "linux-5.18-without-p2p", "builtin"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "linux-5.18-without-p2p to builtin: compatible by (3) and (5); (1), (4) fail"


def test_an_incompatible_change_exits_with_1_and_shows_how(capsys, lenient: str) -> None:
    assert main([*DIFF, "builtin", lenient]) == 1
    out = capsys.readouterr().out
    assert "  - refusal STOP_COPY -> PRE_COPY_P2P\n" in out
    assert out.endswith(": not compatible, for (5) fails; (1), (2), (4), (6) fail\n")
    assert (
        "  2. SET_STATE PRE_COPY_P2P\n"
        "       NEW: in PRE_COPY_P2P, session kept\n"
        "       OLD: refused (EINVAL)\n"
        "  Live engines of both tables did this.\n"
    ) in out


def test_the_definitions_that_decide_can_be_named(capsys, lenient: str) -> None:
    assert main([*DIFF, "builtin", lenient, "--require", "3"]) == 0
    assert main([*DIFF, "linux-6.1", "builtin", "--require", "1", "(6)"]) == 1
    assert main([*DIFF, "linux-6.1", "builtin", "--require", "7"]) == 2
    assert '--require: "7": is not a definition; there are 1, 2' in capsys.readouterr().err


def test_two_tables_of_the_connection_are_compared_as_that(capsys, tmp_path: Path) -> None:
    assert main(["diff", "wire-without-precopy_info", "wire"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("wire-without-precopy_info to wire: compatible both ways\n")
    assert "  added: [[answers]] nothing_now, which needs precopy_info\n" in out
    wire = ROOT / "model/wire.toml"
    edit = {"set": [{"section": "answers", "row": "nothing_now", "key": "needs"}]}
    path = tmp_path / "everybody.toml"
    path.write_text(to_toml(apply(edit, tomllib.loads(wire.read_text("utf-8")))), "utf-8")
    assert main(["diff", str(wire), str(path), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["compatible"] is False
    assert data["changes"] == [
        {"kind": "changed", "what": "[[answers]] nothing_now, which needs precopy_info is not what "
         "it was"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wire", "builtin"], 'NEW: "builtin": is not a table of the connection'),
        (["vfio-user", "wire"], 'OLD: "vfio-user": is not a table of the connection'),
        (["wire-without-x", "wire"], 'option: "x": there is no such option in this table'),
        (["wire", "wire", "--format", "mail"], '--format: "mail": is not a format'),
    ],
)
def test_a_table_of_the_connection_is_compared_with_its_kind_only(
    capsys, arguments: list[str], message: str
) -> None:
    assert main(["diff", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_shape_of_the_json(capsys, lenient: str) -> None:
    assert main([*DIFF, "builtin", lenient, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["compatible"] is False
    assert data["changes"][0].keys() == {"what", "kind", "name", "old", "new", "flags"}
    assert [step["action"] for step in data["distinguishing"]] == [
        "SET_STATE STOP_COPY",
        "SET_STATE PRE_COPY_P2P",
    ]
    rows = {row["id"]: row for row in data["definitions"]}
    assert rows["3"]["verdict"] == "holds"
    assert rows["5"] | {"verdict": "fails", "decides": True, "live_engines": "agree"} == rows["5"]
    assert rows["5"]["fails_for"] == [["STOP_COPY", "P2P", "PRE_COPY"]]


def test_json_of_a_compatible_change_distinguishes_nothing(capsys) -> None:
    assert main([*DIFF, "linux-6.1", "linux-6.2", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["compatible"], data["distinguishing"]) == (True, None)


@pytest.mark.parametrize("tables", [("linux-5.18-without-p2p", "builtin"), ("builtin", "LENIENT")])
def test_mail_fits_into_72_columns_and_states_the_outcome_first(capsys, tables, lenient) -> None:
    old, new = (lenient if name == "LENIENT" else name for name in tables)
    main([*DIFF, old, new, "--format", "mail"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[1:])) <= MAIL_COLUMNS
    assert "compatible" in " ".join(lines[:3])


def test_markdown_has_a_row_for_each_definition(capsys) -> None:
    main([*DIFF, "linux-6.1", "builtin", "--format", "md"])
    out = capsys.readouterr().out
    assert [line[:4] for line in out.splitlines() if line.startswith("| (")] == [
        f"| ({number}" for number in range(1, 7)
    ]
    assert out.count("```") % 2 == 0


def test_engines_that_disagree_with_the_search_exit_with_3(capsys, monkeypatch) -> None:
    monkeypatch.setattr(report, "confirm", lambda _decision: "they do otherwise")
    assert main([*DIFF, "builtin", "builtin"]) == 3
    assert "builtin to builtin: unknown" in capsys.readouterr().out


def test_a_file_that_is_no_table_exits_with_2(capsys, tmp_path: Path) -> None:
    assert main([*DIFF, "builtin", str(tmp_path / "absent.toml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main([*DIFF, "builtin", str(tmp_path / "absent.toml"), "--json"]) == 2
    assert "error" in json.loads(capsys.readouterr().out)
