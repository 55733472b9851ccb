"""`vfio-migration import` as a user runs it, and `diff` of a source."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support import c_sources
from vfio_migration.cli.main import main
from vfio_migration.model import load, loads


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    text, numbers = c_sources.linux(load()), c_sources.header(load())
    return c_sources.tree(tmp_path / "linux", text, "linux", numbers)


def test_what_is_printed_is_a_table(capsys, tree: Path) -> None:
    assert main(["import", str(tree)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# Made by `vfio-migration import`.")
    assert c_sources.cells(loads(out)) == c_sources.cells(load())


def test_json_is_the_data_of_the_table(capsys, tree: Path) -> None:
    assert main(["import", str(tree / c_sources.PLACES["linux"]), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["arcs"]) == len(load().arcs)


def test_a_source_is_compared_without_a_detour(capsys, tree: Path) -> None:
    assert main(["diff", "--no-obligations", "builtin", str(tree)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no change of behaviour in any row\n")
    assert "fails" not in out


def test_a_patch_that_no_rule_selects_is_written_down_and_its_comments_are_named(
    capsys, tmp_path: Path
) -> None:
    steps = c_sources.cells(load()) | {("RUNNING", "STOP"): "RESUMING"}
    path = tmp_path / "p.c"
    path.write_text(c_sources.linux(load(), steps), "utf-8")
    assert main(["import", str(path)]) == 0
    printed = capsys.readouterr()
    assert [str(row) for row in loads(printed.out).next_steps] == ["RUNNING -> STOP by RESUMING"]
    message = "lists the arc RUNNING -> STOP, but the table steps to RESUMING"
    assert message in printed.err
    assert f"# A sentence contradicts the table: {path}:" in printed.out


def test_a_state_that_the_base_lacks_is_named_with_the_way_out(capsys, tmp_path: Path) -> None:
    path = tmp_path / "p.c"
    text = c_sources.linux(load()).replace("STATE_RUNNING_P2P", "STATE_QUIESCED")
    path.write_text(text, "utf-8")
    assert main(["import", str(path)]) == 2
    assert "is not a state of the base table; add it to a copy" in capsys.readouterr().err


def test_without_the_extra_the_way_to_get_it_is_named(capsys, monkeypatch, tree: Path) -> None:
    monkeypatch.setitem(sys.modules, "tree_sitter", None)
    assert main(["import", str(tree)]) == 2
    assert "[import]" in capsys.readouterr().err


def test_a_table_is_written_to_a_file_if_there_is_one(capsys, tree: Path, tmp_path: Path) -> None:
    made, cut = tmp_path / "made.toml", tmp_path / "cut.c"
    source = tree / c_sources.PLACES["linux"]
    text = source.read_text("utf-8")
    cut.write_text(text[: text.index("state_flags_table")], "utf-8")
    assert main(["import", str(cut), "-o", str(made)]) == 2
    assert not made.exists()
    assert main(["import", str(source), "-o", str(made)]) == 0
    assert c_sources.cells(load(made)) == c_sources.cells(load())
    capsys.readouterr()
    assert main(["import", str(source), "-o", str(source)]) == 2
    assert "is the same file as SOURCE 1" in capsys.readouterr().err
    assert main(["import", str(source), "-o", str(made), "--json"]) == 2


def test_what_a_shell_leaves_of_an_import_that_failed_is_one_mistake(
    capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new.toml").touch()
    assert main(["diff", "builtin", "new.toml"]) == 2
    assert capsys.readouterr().err == (
        'vfio-migration: error: file: "new.toml": is empty; '
        "if a command was to write it, that command failed\n"
    )
