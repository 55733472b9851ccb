"""`verify` and `diff` of a patched source: what a reviewer reads, and what tools read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support import c_sources
from support.samples import sample, sampled
from support.table_edits import ROOT
from vfio_migration.cli.main import main
from vfio_migration.model import load

MAIL_COLUMNS = 72
LINE = "is not an arc, so no driver takes it"


@pytest.fixture
def patched(tmp_path: Path, monkeypatch) -> str:
    """A vfio_main.c in which RUNNING -> STOP sets out for STOP_COPY."""
    monkeypatch.chdir(tmp_path)
    steps = c_sources.cells(load()) | {("RUNNING", "STOP"): "STOP_COPY"}
    Path("vfio_main.c").write_text(c_sources.linux(load(), steps), "utf-8")
    return "vfio_main.c"


def line_of(path: str) -> int:
    lines = Path(path).read_text("utf-8").splitlines()
    row = lines.index("\t\t[VFIO_DEVICE_STATE_RUNNING] = {")
    cell = "\t\t\t[VFIO_DEVICE_STATE_STOP] = VFIO_DEVICE_STATE_STOP_COPY,"
    return lines.index(cell, row) + 1


def test_a_source_is_verified_and_what_it_changes_is_stated_with_its_line(
    capsys, patched: str
) -> None:
    assert main(["verify", patched, "--only", "T4"]) == 1
    out = capsys.readouterr().out
    at = f"{patched}:{line_of(patched)}"
    assert f"changed: {at}: RUNNING -> STOP steps to STOP_COPY; in the base table it steps" in out
    assert f"finding: {patched}:" in out
    assert f"RUNNING -> STOP_COPY {LINE}" in out
    assert f"the row: next_steps[0] (RUNNING -> STOP by STOP_COPY; {at})" in out


def test_a_mail_begins_with_the_summary_and_fits_72_columns(capsys, patched: str) -> None:
    assert main(["verify", patched, "--only", "T1", "T4", "--format", "mail"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vfio_main.c: 1 violated, 1 proved (of 2 obligations)"
    assert max(map(len, lines)) <= MAIL_COLUMNS
    assert not [line for line in lines if line != line.rstrip()]
    text = "\n".join(lines)
    assert "The shortest counterexample, to T4:" in text
    assert "|   PRE_COPY   |------>| PRE_COPY_P2P |------>|  STOP_COPY   |" in text
    assert "  ! the request RUNNING -> STOP by STOP_COPY" in text
    assert "Made by: vfio-migration verify vfio_main.c" in text


def test_markdown_has_a_table_of_what_is_violated(capsys, patched: str) -> None:
    assert main(["verify", patched, "--only", "T4", "--format", "md"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("**vfio_main.c: 1 violated (of 1 obligations)**\n")
    assert "| T4 | **violated** | Each request's path is legal, shortest and unique. |" in out


@pytest.mark.parametrize(
    "command", sample([["verify"], ["diff", "builtin"]], 2), ids=lambda words: words[0]
)
def test_sarif_points_at_the_line_of_the_source(capsys, patched: str, command: list[str]) -> None:
    assert main([*command, patched, "--only", "T4", "T5", "--format", "sarif"]) == 1
    [run] = json.loads(capsys.readouterr().out)["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["T4", "T5"]
    for result in run["results"]:
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == patched
        assert place["region"]["startLine"] == line_of(patched)


def test_json_has_what_the_source_changes(capsys, patched: str) -> None:
    assert main(["verify", patched, "--only", "T4", "--format", "json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["outcome"] == "violated"
    assert data["source"]["changed"][0].startswith(f"{patched}:{line_of(patched)}: ")


@pytest.mark.exhaustive
def test_against_another_table_only_what_changed_is_shown(capsys, patched: str) -> None:
    assert main(["verify", patched, "--against", "builtin", "--only", "T1", "T4", "T5"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("vfio_main.c against builtin: 2 newly violated (of 3 obligations)\n")
    assert "T1" not in out
    assert "As before: 1 obligations." in out
    assert main(["verify", "--against", patched, "--only", "T1", "T4", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    changes = [{"id": "T4", "change": "newly proved", "old": "violated"}]
    assert data["against"] == {"name": patched, "changes": changes}
    assert main(["verify", patched, "--against", patched, "--only", "T4"]) == 0
    assert "1 still violated" in capsys.readouterr().out


@pytest.mark.exhaustive
def test_a_comparison_names_the_obligations_that_are_newly_violated(capsys, patched: str) -> None:
    assert main(["diff", "builtin", patched, "--only", "T1", "T4", "--format", "mail"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "builtin to vfio_main.c: not compatible, for (5) fails; (4), (6) fail"
    assert lines[1] == "vfio_main.c against builtin: 1 newly violated (of 2 obligations)"
    assert max(map(len, lines)) <= MAIL_COLUMNS
    assert main(["diff", "builtin", patched, "--only", "T4", "--json"]) == 1
    [change] = json.loads(capsys.readouterr().out)["obligations"]
    assert (change["id"], change["change"]) == ("T4", "newly violated")
    assert LINE in change["violation"]


def test_a_state_and_an_arc_that_came_are_marked_on_the_grid(capsys, tmp_path: Path) -> None:
    steps = c_sources.cells(load()) | {("STOP_COPY", "PRE_COPY_P2P"): "PRE_COPY_P2P"}
    path = tmp_path / "vfio_main.c"
    path.write_text(c_sources.linux(load(), steps), "utf-8")
    assert main(["verify", str(path), "--only", "T2", "--format", "mail"]) == 1
    out = capsys.readouterr().out
    assert "|<======|" in out
    assert "  + STOP_COPY ==> PRE_COPY_P2P   is new" in out
    assert main(["diff", "linux-6.1", "builtin", "--only", "T1", "--format", "mail"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"# *\+PRE_COPY *#=+># *\+PRE_COPY_P2P *#=+>", out)


def test_a_table_of_another_kind_is_named_as_what_it_is(capsys, tmp_path: Path) -> None:
    for table, option in (("wire", "--wire"), ("plans", "--plans")):
        main(["table", f"--{table}"])
        path = tmp_path / f"{table}.toml"
        path.write_text(capsys.readouterr().out, "utf-8")
        assert main(["verify", str(path)]) == 2
        err = capsys.readouterr().err
        assert "and not one of states and arcs" in err
        assert f"takes {option} FILE" in err


def test_a_file_that_only_edits_a_table_is_named_as_what_it_is(capsys, tmp_path: Path) -> None:
    name = "bus-master"
    own = tmp_path / "mine.toml"
    own.write_bytes((ROOT / f"model/tables/{name}.toml").read_bytes())
    for path, hint in (
        (ROOT / f"model/tables/{name}.toml", f"give its name, {name}, and not its file"),
        (own, "write the table with `vfio-migration table`, and change that"),
    ):
        assert main(["verify", str(path)]) == 2
        err = capsys.readouterr().err
        assert "states how a table differs from another, and is none itself" in err
        assert hint in err


def test_a_hole_of_the_grid_is_named_with_two_ways_out(capsys) -> None:
    assert main(["verify", "stop-p2p", "--only", "T1"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "passes over an empty place of the grid: no state is p2p_accepting and saving" in out
    # Of the arcs that pass over it the solver chooses one.
    assert re.search(r"Add that state with its arcs, or refuse PRE_COPY\w* -> STOP_COPY", out)


def test_listings_can_be_left_out_or_be_others(capsys, tmp_path: Path) -> None:
    only = ["verify", "bus-master", "--only", "T1", "T8"]
    assert main(only) == 1
    line = "T8 compares with what is listed (--no-listings), and no other is violated"
    assert line in capsys.readouterr().out
    assert main([*only, "--no-listings"]) == 0
    assert "T8" not in capsys.readouterr().out
    path = tmp_path / "own.toml"
    path.write_text("listings = []\n", "utf-8")
    assert main([*only, "--listings", str(path)]) != 1
    capsys.readouterr()
    path.write_text("listings = [{ name = 1 }]\n", "utf-8")
    assert main([*only, "--listings", str(path)]) == 2
    assert "is not a file of listings" in capsys.readouterr().err
    assert main(only) == 1


def test_what_no_listing_knows_is_named(capsys) -> None:
    assert main(["verify", "post-copy", "--only", "T8"]) == 0
    out = capsys.readouterr().out
    assert "no listing knows the state POST_COPY: T8 is silent about it" in out
    assert "no listing knows the capability POST_COPY: T8 is silent about it" in out


@sampled(2)
@pytest.mark.parametrize("words", [["verify"], ["diff", "builtin"]])
def test_two_formats_at_once_are_refused_and_two_names_of_one_are_not(
    capsys, patched: str, words: list[str]
) -> None:
    assert main([*words, patched, "--only", "T1", "--format", "mail", "--json"]) == 2
    [mistake] = json.loads(capsys.readouterr().out)["error"]["mistakes"]
    assert (mistake["place"], mistake["value"]) == ("--format", "mail")
    for same in (["--json"], ["--format", "json"], ["--format", "json", "--json"]):
        main([*words, patched, "--only", "T1", *same])
        json.loads(capsys.readouterr().out)


def test_a_mail_names_the_line_of_the_source_first(capsys, patched: str) -> None:
    main(["verify", patched, "--only", "T4", "--format", "mail"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"The row: {patched}:{line_of(patched)} (RUNNING -> STOP by STOP_COPY; next_steps" in out
