"""`vfio-migration verify` as a user runs it: files, solvers, processes, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import jsonschema
import pytest

from support.samples import sample, sampled
from support.table_edits import BROKEN, ROOT, broken, to_toml
from vfio_migration.cli.main import main
from vfio_migration.model.extras import install_command

SCHEMA = json.loads((ROOT / "verifier/verify.schema.json").read_text("utf-8"))
DATA = ROOT / "tests/data"
ODD = [DATA / "ninth_state.toml", DATA / "ninth_capability.toml", DATA / "small.toml"]


@pytest.fixture
def bad_table(tmp_path: Path) -> Path:
    """A table that breaks D7: a failed arc leads astray."""
    _, data = broken(BROKEN / "d7-failing-leads-astray.toml")
    path = tmp_path / "bad.toml"
    path.write_text(to_toml(data), "utf-8")
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    """Run with --json; the answer fits the schema, whatever it is."""
    status = main(["verify", *arguments, "--json"])
    captured = capsys.readouterr()
    assert captured.err == ""
    data = json.loads(captured.out)
    jsonschema.validate(data, SCHEMA, jsonschema.Draft202012Validator)
    return status, data


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- --json ---


@pytest.mark.exhaustive
@pytest.mark.parametrize("only", sample([["--only", "T", "W"], []], 2), ids=["T and W", "all"])
def test_json_fits_the_published_schema_whatever_is_found(capsys, bad_table, only):
    status, data = answer(capsys, *only)
    assert (status, data["outcome"], data["solver"]) == (0, "proved", "z3")
    status, data = answer(capsys, str(bad_table), "--only", "D7")
    assert (status, data["outcome"]) == (1, "violated")
    (verdict,) = data["verdicts"]
    assert verdict["row"] == "events[0]"
    assert verdict["engine"].startswith("the live engine does the same")
    status, data = answer(capsys, "--only", "T5", "T1", "--timeout", "0.0005")
    assert (status, data["outcome"]) == (3, "unknown")
    status, data = answer(capsys, "--list", "--only", "D")
    assert (status, len(data["obligations"])) == (0, 12)
    status, data = answer(capsys, "--only", "T44")
    assert (status, data["error"]["mistakes"][0]["hint"]) == (2, 'did you mean "T4"?')


def test_a_timeout_is_unknown_with_the_reason_and_exits_with_3(capsys):
    status, data = answer(capsys, "--only", "T5", "--timeout", "0.0005")
    assert status == 3
    (verdict,) = data["verdicts"]
    assert verdict["outcome"] == "unknown"
    # The first of its queries that takes so long: on a busy machine that is any of them.
    assert re.search(r"^[a-z-]+: z3 gave up \(timeout: 0\.0005 s\)", verdict["reason"])


# --- tables that are valid, and odd ---


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", sample(ODD, 2), ids=lambda path: path.stem)
@pytest.mark.parametrize("only", sample([["--only", "T"], []], 2), ids=["T", "all"])
def test_an_odd_table_gets_verdicts_and_files(capsys, tmp_path, path, only):
    """Whatever the verdicts: nothing crashes, and every file can be read."""
    junit, sarif, queries = tmp_path / "j.xml", tmp_path / "s.sarif", tmp_path / "queries"
    files = ["--junit", str(junit), "--sarif", str(sarif), "--smtlib", str(queries)]
    traces = str(tmp_path / "traces")
    status = main(["verify", str(path), "-q", "--traces", traces, *files, *only])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert status == (0 if path.stem == "ninth_state" else status)
    assert status in (0, 1, 3)
    ET.parse(junit)
    json.loads(sarif.read_text("utf-8"))
    asked = json.loads((queries / "INDEX.json").read_text("utf-8"))["queries"]
    assert len(asked) > (20 if only else 100)


def test_a_table_that_lacks_what_an_obligation_speaks_of_leaves_it_unknown(capsys):
    status, data = answer(capsys, str(DATA / "small.toml"), "--only", "G1")
    assert status == 3
    (verdict,) = data["verdicts"]
    assert verdict["reason"].startswith("it cannot be asked of this table: group_plan.toml: plans")


@pytest.mark.parametrize(
    "name", sample(["t7-reset-to-unsupported", "t8-literal-rule", "d9-reset-leads-nowhere"], 3)
)
@pytest.mark.parametrize("only", sample([["--only", "T"], []], 2), ids=["T", "all"])
def test_a_broken_table_gets_every_verdict(capsys, tmp_path, name, only):
    """All obligations, or those of a family, not just the one the table breaks."""
    edit, data = broken(BROKEN / f"{name}.toml")
    table = tmp_path / "broken.toml"
    table.write_text(to_toml(data), "utf-8")
    chosen = [*only, edit["breaks"]] if only else []
    status, report = answer(capsys, str(table), "--timeout", "20", *chosen)
    assert status == 1
    outcomes = {verdict["id"]: verdict["outcome"] for verdict in report["verdicts"]}
    assert outcomes[edit["breaks"]] == "violated"
    assert set(outcomes.values()) <= {"proved", "violated", "unknown"}


# --- --junit, --sarif, --traces ---


def test_several_formats_are_written_at_once(capsys, tmp_path, bad_table):
    junit, sarif, traces = tmp_path / "out.xml", tmp_path / "out.sarif", tmp_path / "traces"
    junit.write_text("of yesterday", "utf-8")
    status, data = answer(
        capsys, str(bad_table), "--only", "D7", "T1",
        "--junit", str(junit), "--sarif", str(sarif), "--traces", str(traces),
    )  # fmt: skip
    assert status == 1
    top = ET.parse(junit).getroot()
    assert (top.get("tests"), top.get("failures")) == ("2", "1")
    (result,) = json.loads(sarif.read_text("utf-8"))["runs"][0]["results"]
    region = result["locations"][0]["physicalLocation"]["region"]
    lines = bad_table.read_text("utf-8").splitlines()
    assert lines[region["startLine"] - 1 : region["startLine"] + 1] == [
        "[[events]]",
        'name = "arc_failed"',
    ]
    assert [path.name for path in traces.iterdir()] == ["D7.json"]
    trace = next(verdict["trace"] for verdict in data["verdicts"] if verdict["id"] == "D7")
    assert json.loads((traces / "D7.json").read_text("utf-8")) == trace
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"out.xml", "out.sarif", "traces", "bad.toml"}  # nothing temporary


def test_the_command_a_violation_names_replays_its_trace(capsys, tmp_path, bad_table):
    traces = tmp_path / "traces"
    main(["verify", str(bad_table), "--only", "D7", "--traces", str(traces)])
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "see it again: " in line]
    words = line.split("see it again: vfio-migration ")[1].split()
    assert words[:2] == ["replay", str(traces / "D7.json")]
    assert main(words) == 0
    assert "the live engine does the same" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--junit", "--sarif", "--traces", "--smtlib"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    capsys, tmp_path, option, monkeypatch
):
    from vfio_migration.verifier import prove as prover

    monkeypatch.setattr(prover, "decide", None)  # calling it would fail
    target = tmp_path / "absent" / "out"
    assert main(["verify", "--only", "T1", option, str(target)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vfio-migration: error: {option}: ")
    assert "there is no folder" in captured.err
    assert captured.out == ""
    taken = tmp_path / "taken"
    if option in ("--junit", "--sarif"):
        taken.mkdir()
    else:
        taken.write_text("a file", "utf-8")
    assert main(["verify", "--only", "T1", option, str(taken)]) == 2
    assert "folder" in capsys.readouterr().err


def test_a_file_keeps_the_usual_permissions_and_may_be_a_pipe(tmp_path):
    target = tmp_path / "out.xml"
    assert main(["verify", "--only", "T1", "-q", "--junit", str(target)]) == 0
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask
    command = [sys.executable, "-m", "vfio_migration.cli.main", "verify", "--only", "T1", "-q"]
    done = subprocess.run(
        [*command, "--sarif", "/dev/stderr"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stderr)["version"] == "2.1.0"


# --- --smtlib ---


def test_smtlib_writes_every_query_with_an_index(capsys, tmp_path):
    folder = tmp_path / "queries"
    assert main(["verify", "--only", "T4", "D3", "-q", "--smtlib", str(folder)]) == 0
    index = json.loads((folder / "INDEX.json").read_text("utf-8"))
    files = {row["file"]: row for row in index["queries"]}
    assert set(tree(folder)) == {*files, "INDEX.json", "README.md"}
    row = files["T4/second-path.smt2"]
    assert (row["obligation"], row["role"], row["expected"]) == ("T4", "claim", "unsat")
    text = (folder / "T4/second-path.smt2").read_text("utf-8")
    assert "; written by: vfio-migration verify --only T4 --smtlib DIR\n" in text
    assert "(capability sets STOP_COPY; STOP_COPY,P2P;" in text
    readme = (folder / "README.md").read_text("utf-8")
    assert all(f"| {file} |" in readme for file in files)
    before = tree(folder)
    # Again, with other work at the same time: the same bytes. And with less: nothing stays.
    main(["verify", "--only", "T4", "D3", "-q", "--smtlib", str(folder), "--jobs", "1"])
    assert tree(folder) == before
    main(["verify", "--only", "D3", "-q", "--smtlib", str(folder)])
    assert {name.split("/")[0] for name in tree(folder)} == {"D3", "INDEX.json", "README.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["queries"]


def test_smtlib_leaves_what_others_wrote(capsys, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    assert main(["verify", "--only", "T1", "-q", "--smtlib", str(folder)]) == 0  # empty is fine
    (folder / "notes.txt").write_text("mine", "utf-8")
    before = tree(folder)
    capsys.readouterr()
    assert main(["verify", "--only", "T2", "-q", "--smtlib", str(folder)]) == 2
    err = capsys.readouterr().err
    assert "holds notes.txt, which no earlier run wrote; move it away" in err
    assert tree(folder) == before
    (folder / "INDEX.json").write_text('{"made_by": "someone else", "queries": []}', "utf-8")
    assert main(["verify", "--only", "T2", "-q", "--smtlib", str(folder)]) == 2
    assert "holds INDEX.json and 4 more" in capsys.readouterr().err


def test_smtlib_that_fails_half_way_changes_nothing(tmp_path, monkeypatch):
    from vfio_migration.verifier.solver import smtlib

    folder = tmp_path / "queries"
    assert main(["verify", "--only", "T1", "-q", "--smtlib", str(folder)]) == 0
    before = tree(folder)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smtlib, "_readme", full)
    assert main(["verify", "--only", "T2", "-q", "--smtlib", str(folder)]) == 2
    assert tree(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["queries"]


def test_smtlib_of_a_broken_table_holds_the_search_for_the_run(tmp_path, bad_table):
    folder = tmp_path / "queries"
    assert main(["verify", str(bad_table), "--only", "D7", "-q", "--smtlib", str(folder)]) == 1
    assert "D7/within-2.smt2" in tree(folder)


# --- --solver ---


@pytest.mark.parametrize("solver", sample(["both", "cvc5"], 2))
def test_another_solver_proves_and_refutes_the_same(capsys, bad_table, solver):
    status, data = answer(capsys, "--only", "T1", "D3", "G3", "--solver", solver)
    assert (status, data["outcome"], data["solver"]) == (0, "proved", solver)
    assert all(verdict["witness"] for verdict in data["verdicts"])
    assert main(["verify", str(bad_table), "--only", "D7", "--solver", solver]) == 1
    out = capsys.readouterr().out
    assert "arc RUNNING" in out
    assert "decided by" in out


def test_a_disagreement_is_loud_and_exits_with_3(capsys, tmp_path, monkeypatch):
    from vfio_migration.verifier.solver.cvc5 import Decision, SecondSolver

    truth = SecondSolver.decide

    def lie(self, text, timeout=None):
        decision = truth(self, text, timeout)
        return Decision("sat") if decision.answer == "unsat" else decision

    monkeypatch.setattr(SecondSolver, "decide", lie)
    status, data = answer(capsys, "--only", "T1", "T2", "--solver", "both")
    assert (status, data["outcome"]) == (3, "unknown")
    (found,) = data["verdicts"][0]["disagreements"]
    assert (found["query"], found["z3"], found["cvc5"]) == ("arc-off-grid", "unsat", "sat")
    assert Path(found["file"]).read_text("utf-8").startswith("(set-logic ALL)")
    folder = tmp_path / "queries"
    status = main(["verify", "--only", "T1", "-q", "--solver", "both", "--smtlib", str(folder)])
    out = capsys.readouterr().out
    assert status == 3
    assert (
        "the solvers disagree about T1: to arc-off-grid, z3 reports unsat and cvc5 reports sat"
        in out
    )
    (file,) = re.findall(r"the query: (.*)", out)
    assert file == str(folder / "T1/arc-off-grid.smt2")
    assert Path(file).is_file()


def test_an_absent_cvc5_is_named_with_the_way_to_get_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cvc5", None)
    assert main(["verify", "--only", "T1", "--solver", "both"]) == 2
    assert install_command("cvc5") in capsys.readouterr().err


def test_cvc5_is_not_imported_unless_it_is_asked(tmp_path):
    code = (
        "import sys\nfrom vfio_migration.cli.main import main\n"
        "main(['verify', '--only', 'T1', '--json'])\nassert 'cvc5' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# --- progress, --quiet, --jobs ---


def on_a_terminal(*arguments: str) -> tuple[int, str]:
    """Run with standard error on a terminal; return the status and what the terminal got."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vfio_migration.cli.main", "verify", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    got = b""
    try:
        while chunk := os.read(ours, 65536):
            got += chunk
    except OSError:  # what a terminal that was closed gives at its end
        pass
    os.close(ours)
    return process.wait(), got.decode()


def test_progress_is_one_line_on_a_terminal_and_removed_at_the_end():
    status, got = on_a_terminal("--only", "T1", "T2", "T3")
    assert status == 0
    erase = "\r\x1b[K"
    shown = [part for part in got.split(erase) if part]
    assert shown == ["T1 ... 1 of 3", "T2 ... 2 of 3", "T3 ... 3 of 3"]
    assert got.endswith(erase)
    assert "\n" not in got


@sampled(2)
@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_progress_is_for_people_who_wait(option):
    assert on_a_terminal("--only", "T1", option) == (0, "")


def test_quiet_states_what_is_not_proved_and_the_outcome(capsys, bad_table):
    assert main(["verify", "--only", "T", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"proved: \d+ proved in \d+\.\d\d s\n", out)
    assert main(["verify", "--only", "T1", "T5", "--timeout", "0.0005", "-q"]) == 3
    assert "T5   unknown" in capsys.readouterr().out
    assert main(["verify", str(bad_table), "--only", "D7", "T1", "-q"]) == 1
    assert "D7 is violated" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize("jobs", sample(["2", "1", "64"], 3))
def test_verdicts_come_in_the_catalogues_order(capsys, jobs):
    from vfio_migration.verifier import OBLIGATIONS

    status, data = answer(capsys, "--only", "W", "D1", "D3", "T3", "T1", "--jobs", jobs)
    assert status == 0
    ids = [verdict["id"] for verdict in data["verdicts"]]
    chosen = [one.id for one in OBLIGATIONS if one.id[0] == "W"]
    assert ids == ["T1", "T3", "D1", "D3", *chosen]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--jobs", "0"],
        ["--jobs", "-1"],
        ["--jobs", "many"],
        ["--timeout", "0"],
        ["--timeout", "nan"],
        ["--timeout", "soon"],
        ["--solver", "yices"],
    ],
)
def test_a_wrong_option_is_wrong_usage(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["verify", *arguments])
    assert stop.value.code == 2
    assert arguments[1] in capsys.readouterr().err
