"""The commands as a user runs them: what they print, what status they exit with."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support import c_sources
from support.git_repository import committed
from support.samples import sample, sample_where, sampled
from support.table_edits import BROKEN, ROOT, broken, to_toml
from vfio_migration.cli.commands.tables import KINDS
from vfio_migration.cli.main import main, parser
from vfio_migration.diagrams.tables import sections
from vfio_migration.model import load
from vfio_migration.model.extras import install_command
from vfio_migration.verifier import OBLIGATIONS

BAD = sorted(path for path in (ROOT / "tests/data/bad_tables").glob("*.toml"))
NINTH = ROOT / "tests/data/ninth_state.toml"
SPEC_COMMANDS = (
    ["verify", "{}"],
    ["route", "RUNNING", "STOP", "--spec", "{}"],
    ["tables", "{}"],
    ["diagram", "{}", "--format", "dot"],
)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "vfio_migration.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=120,
    )


# --- route ---


def test_route_equals_the_kernels_answers_as_json(capsys, linux_paths, spec):
    for word in ("5", "7"):
        names = list(spec.names(spec.capability_set(int(word))))
        for from_, row in linux_paths[word].items():
            if not spec.supports(spec.capability_set(int(word)), from_):
                continue
            for to, path in row.items():
                status = main(["route", from_, to, "--flags", ",".join(names), "--json"])
                answer = json.loads(capsys.readouterr().out)
                assert (answer["from"], answer["to"], answer["flags"]) == (from_, to, names)
                assert answer["path"] == path
                assert status == (1 if path is None else 0)
                assert (answer["refused"] is None) == (path is not None)
                if path is None:
                    assert answer["refused"]["errno"] == "EINVAL"
                    assert answer["refused"]["reason"]


@pytest.mark.parametrize("value", ["8", "0xabcd", "4294967295"])
def test_route_to_a_value_no_state_has_is_refused(capsys, value):
    assert main(["route", "RUNNING", value, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["to"] == int(value, 0)
    assert answer["refused"]["when"] == "value_unknown"


def test_route_shows_each_arc(capsys):
    assert main(["route", "PRE_COPY", "STOP_COPY"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("PRE_COPY -> PRE_COPY_P2P -> STOP_COPY")
    assert "1. PRE_COPY -> PRE_COPY_P2P" in out
    assert "keeps the session" in out


def test_route_without_a_target_states_what_can_be_done(capsys, spec):
    assert main(["route", "STOP_COPY"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [row.name for row in spec.states]
    assert sum("refused (EINVAL)" in line for line in lines) == 3
    assert main(["route", "STOP_COPY", "--json"]) == 0
    options = json.loads(capsys.readouterr().out)["options"]
    assert len(options) == len(spec.states)


def test_route_names_the_mistake_and_the_right_spelling(capsys):
    assert main(["route", "stop_cpy", "STOP"]) == 2
    err = capsys.readouterr().err
    assert '"stop_cpy"' in err
    assert 'did you mean "STOP_COPY"?' in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["route", "RUNNING_P2P", "STOP", "--flags", "STOP_COPY"], "RUNNING_P2P"),
        (["route", "RUNNING", "STOP", "--flags", "P2P"], "lacks STOP_COPY"),
        (["route", "RUNNING", "STOP", "--flags", "STOP_COPY,PRECOPY"], 'did you mean "PRE_COPY"?'),
        (["route", "RUNNING", "STOP", "--flags", "9"], "9"),
        (["route", "17", "STOP"], "17"),
        (["route", "RUNNING", "STOP", "--spec", "/no/such/table.toml"], "/no/such/table.toml"),
        (["verify", "--only", "T44"], "T44"),
        (["verify", "--profile", "vfio-usr"], 'did you mean "vfio-user"?'),
        (["diagram", "-o", "picture.gif"], "picture.gif"),
        (["diagram", "-o", "/no/such/folder/picture.dot"], "/no/such/folder/picture.dot"),
        (["diagram", "--trace", "/no/such/trace.json"], "/no/such/trace.json"),
    ],
)
def test_wrong_input_is_named_and_exits_with_2(capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_wrong_input_with_json_is_one_object(capsys):
    assert main(["route", "RUNNING", "STOPP", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["mistakes"][0]["value"] == "STOPP"
    assert error["mistakes"][0]["hint"] == 'did you mean "STOP"?'


@pytest.mark.parametrize("arguments", [["route", "--json"], ["verify", "--json", "--bogus"]])
def test_wrong_usage_with_json_is_one_object(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["message"]


@sampled(6)
@pytest.mark.parametrize(
    "arguments",
    [
        ["migrate", "--bogus", "a", "b"],
        ["migrate", "a", "b", "--downtime", "0"],
        ["migrate", "a", "b", "--spec", "/no/such/table.toml"],
        ["recover"],
        ["recover", "a", "b", "c"],
        ["save", "a", "b", "--record", "/no/such/folder/file"],
        ["restore", "file"],
    ],
)
def test_anybody_who_prints_events_prints_what_is_wrong_as_one(arguments):
    """One object a line, whichever part of the command complains (docs/migrating.md)."""
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (2, "")
    [line] = done.stdout.splitlines()
    reported = json.loads(line)
    assert reported["event"] == "error"
    assert reported["message"]
    assert (reported["hints"], reported["outcome"]) == ([], None)
    assert "time" in reported


# --- verify ---


@pytest.mark.exhaustive  # in `make test` the demo does it, for README (test_readme.py)
def test_verify_proves_the_table_and_publishes_the_finding():
    done = run("verify")
    assert done.returncode == 0, done.stderr
    assert "proved: " in done.stdout
    assert "violated:" not in done.stdout
    assert "contradicts the table in 1 cell of 256" in done.stdout
    assert "PRE_COPY -> STOP_COPY goes PRE_COPY -> PRE_COPY_P2P -> STOP_COPY" in done.stdout


def test_verify_json_has_the_documented_shape(capsys):
    assert main(["verify", "--only", "T", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "proved"
    for verdict in report["verdicts"]:
        assert {"id", "statement", "outcome", "method", "seconds", "witness", "trace"} <= set(
            verdict
        )
        assert verdict["outcome"] == "proved"
        assert verdict["witness"]
    (variant,) = report["variants"]
    assert variant["outcome"] == "violated"
    assert len(variant["cells"]) == 1


@sampled(5)
@pytest.mark.parametrize(
    "path", sample(sorted(BROKEN.glob("*.toml")), 8), ids=lambda path: path.stem
)
def test_verify_exits_with_1_on_a_broken_table(tmp_path, capsys, path):
    edit, data = broken(path)
    table = tmp_path / "broken.toml"
    table.write_text(to_toml(data), "utf-8")
    assert main(["verify", str(table), "--only", edit["breaks"]]) == 1
    out = capsys.readouterr().out
    assert f"{edit['breaks']} is violated" in out
    assert "why it matters" in out
    assert main(["verify", str(table), "--only", edit["breaks"], "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "violated"
    assert edit["message"] in report["verdicts"][0]["violation"]


def test_the_command_a_violation_names_shows_it_again(tmp_path, capsys):
    _, data = broken(BROKEN / "t8-literal-rule.toml")
    table = tmp_path / "broken.toml"
    table.write_text(to_toml(data), "utf-8")
    main(["verify", str(table), "--only", "T8"])
    line = next(text for text in capsys.readouterr().out.splitlines() if "see it again" in text)
    command = line.split("vfio-migration ")[1].split()
    assert main(command) == 0
    assert "PRE_COPY -> RUNNING -> RUNNING_P2P -> STOP -> STOP_COPY" in capsys.readouterr().out


def test_verify_exits_with_3_when_it_runs_out_of_time(capsys):
    assert main(["verify", "--only", "T5", "--timeout", "0.0005"]) == 3
    assert "unknown" in capsys.readouterr().out


def test_verify_lists_its_obligations(capsys):
    assert main(["verify", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["obligations"]
    assert [row["id"] for row in listed][:9] == [f"T{number}" for number in range(1, 10)]
    assert all(row["statement"].endswith(".") for row in listed)


# --- bad tables, by way of every command that reads one ---


@sampled(2)
@pytest.mark.parametrize("path", sample(BAD, 6), ids=lambda path: path.stem)
def test_a_malformed_table_exits_with_2_and_no_traceback(capsys, path):
    for command in SPEC_COMMANDS:
        status = main([part.format(path) for part in command])
        captured = capsys.readouterr()
        assert status == 2, command
        assert captured.err.startswith("vfio-migration: error: ")
        assert "Traceback" not in captured.err
        assert captured.out == ""


# --- the ninth state: a copy of the table, and no change of code ---


@pytest.mark.parametrize("only", sample([["--only", "T1"], []], 2), ids=["T1", "all"])
def test_the_ninth_state_is_verified_routed_drawn_and_listed(tmp_path, capsys, only):
    assert main(["verify", str(NINTH), *only]) == 0
    capsys.readouterr()
    assert main(["route", "STOP_P2P", "RUNNING", "--spec", str(NINTH), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == ["STOP", "RUNNING_P2P", "RUNNING"]
    picture = tmp_path / "ninth.svg"
    assert main(["diagram", str(NINTH), "-o", str(picture)]) == 0
    assert "STOP_P2P" in picture.read_text("utf-8")
    capsys.readouterr()
    assert main(["tables", str(NINTH), "--format", "rst"]) == 0
    assert "STOP_P2P" in capsys.readouterr().out


# --- tables ---


def test_tables_are_written_in_pieces_to_a_file(tmp_path, capsys):
    part = tmp_path / "part.rst"
    assert main(["tables", "--only", "states", "arcs", "--level", "3", "-o", str(part)]) == 0
    assert capsys.readouterr().out == ""
    text = part.read_text("utf-8")
    assert "\n.. _vfio-v2-states:\n\nStates\n~~~~~~\n" in text
    assert "\n.. _vfio-v2-arcs:\n\nArcs\n~~~~\n" in text


def test_tables_has_a_name_for_each_kind_of_table_and_no_other():
    kinds = {section.key for section in sections(load()) if section.key}
    assert kinds | {"obligations"} == set(KINDS)


def test_tables_lists_the_obligations_that_are_decided(capsys):
    assert main(["tables", "--only", "obligations", "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert [row[0] for row in table["rows"]] == [row.id for row in OBLIGATIONS]
    assert [row[2] for row in table["rows"]] == [row.statement for row in OBLIGATIONS]


def test_tables_writes_the_next_steps_as_linux_has_them(tmp_path, capsys):
    assert main(["tables", "--only", "next-steps", "--format", "c-comment", "--flags", "1"]) == 0
    assert " *         RUNNING -> STOP -> STOP_COPY\n" in capsys.readouterr().out
    array = tmp_path / "next.c"
    assert main(["tables", "--only", "next-steps", "-o", str(array)]) == 0
    assert array.read_text("ascii").startswith("static const u8 vfio_from_fsm_table[")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "csv"], "is one table a file, and these are several; choose one with --only"),
        (["--only", "next-steps", "--format", "csv"], "these are several"),
        (["--only", "states", "--format", "c-array"], "add --only next-steps, and nothing else"),
        (["--only", "states", "--flags", "P2P"], "STOP_COPY"),
        (["-o", "x.tex"], "end it in one of .md .rst .html .csv .json .h .c, or give --format"),
    ],
)
def test_tables_states_what_is_wrong(words, message, capsys):
    assert main(["tables", *words]) == 2
    assert message in capsys.readouterr().err


# --- diagram, completion, help ---


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "dot", "mmd", "json"])
def test_diagram_writes_each_format(tmp_path, ending):
    target = tmp_path / f"machine.{ending}"
    assert main(["diagram", "-o", str(target), "--route", "PRE_COPY", "STOP_COPY"]) == 0
    start = target.read_bytes()[:16]
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "json": b"{"}.get(ending, b"")
    assert start.startswith(magic)
    assert len(list(tmp_path.iterdir())) == 1  # no temporary file is left behind


def test_diagram_draws_with_characters_and_wraps_them_for_a_comment(tmp_path, capsys):
    assert main(["diagram", "--format", "text"]) == 0
    assert "│ PRE_COPY_P2P ├──────►│" in capsys.readouterr().out
    header = tmp_path / "machine.h"
    assert main(["diagram", "-o", str(header), "--format", "ascii", "--comment", "c"]) == 0
    lines = header.read_text("ascii").splitlines()
    assert (lines[0], lines[-1]) == ("/*", " */")
    assert main(["diagram", "--migration", "live", "-o", str(tmp_path / "live.txt")]) == 0
    assert (tmp_path / "live.txt").read_text("utf-8").startswith("Migration live: 2 devices.")


def test_diagram_leaves_out_of_text_what_is_to_be_left_out(capsys):
    words = ["diagram", "--format", "text", "--route", "RUNNING", "STOP"]
    assert main([*words, "--no-title", "--no-legend", "--no-steps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "running" in lines[0]
    assert "refused (EINVAL)" in lines[-1]
    assert main(["diagram", "--format", "text", "--migration", "live", "--no-title"]) == 2
    assert "--no-title: has no meaning for text" in capsys.readouterr().err


def test_diagram_refuses_a_comment_around_a_picture_that_is_not_text(tmp_path, capsys):
    assert main(["diagram", "-o", str(tmp_path / "x.svg"), "--comment", "c"]) == 2
    assert capsys.readouterr().err == (
        'vfio-migration: error: --comment: "c": wraps text, and not svg; '
        "add --format text, or --format ascii\n"
    )
    assert not list(tmp_path.iterdir())


def test_diagram_leaves_the_old_picture_if_it_fails(tmp_path):
    target = tmp_path / "machine.svg"
    target.write_text("old", "utf-8")
    assert main(["diagram", "-o", str(target), "--route", "RUNNING", "STOPP"]) == 2
    assert target.read_text("utf-8") == "old"


def test_diagram_draws_the_trace_of_a_violation(tmp_path, capsys):
    _, data = broken(BROKEN / "t8-literal-rule.toml")
    table = tmp_path / "broken.toml"
    table.write_text(to_toml(data), "utf-8")
    main(["verify", str(table), "--only", "T8", "--json"])
    trace = json.loads(capsys.readouterr().out)["verdicts"][0]["trace"]
    run_file = tmp_path / "trace.json"
    run_file.write_text(json.dumps(trace), "utf-8")
    picture = tmp_path / "trace.svg"
    assert main(["diagram", str(table), "-o", str(picture), "--trace", str(run_file)]) == 0
    assert picture.stat().st_size > 1000


def test_diagram_draws_what_a_change_adds_and_removes(tmp_path, capsys):
    picture = tmp_path / "change.svg"
    change = ["diagram", "stop-p2p", "--against", "builtin", "-o", str(picture)]
    assert main(change) == 0
    assert "1 state added, 4 arcs added, 2 arcs removed." in picture.read_text("utf-8")
    # --flags restricts both, OLD as far as it knows them.
    assert main([*change, "--flags", "STOP_COPY"]) == 0
    assert "No state, arc, refusal or event differs." in picture.read_text("utf-8")


def test_diagram_of_a_change_is_not_drawn_over_a_table_or_with_a_route(tmp_path, capsys):
    old = tmp_path / "old.svg"
    old.write_text("a table", "utf-8")
    assert main(["diagram", "--against", str(old), "-o", str(old)]) == 2
    assert "is the same file as --against" in capsys.readouterr().err
    assert run("diagram", "--against", "builtin", "--route", "STOP", "RUNNING").returncode == 2
    assert main(["diagram", "--against", "builtinn"]) == 2
    assert "builtinn" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "route", "verify", "diagram", "tables", "completion"])
def test_help_teaches_by_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*([command] if command else []), "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert ("examples:" in out) if command else ("exit status:" in out)


def examples() -> list[tuple[str, str, list[str]]]:
    """Return each example line of each command's help: the command, the line, its words."""
    found = []
    parsers = [parser()]
    for one in parsers:
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
        for line in (one.description or "").splitlines():
            # A line may hold two commands: the second one begins behind a semicolon.
            for part in line.split("#")[0].split(";"):
                if part.strip().startswith("vfio-migration "):
                    words = part.split("|")[0].split(">")[0].split()[1:]
                    words = [word for word in words if not word.endswith("<")]
                    found.append((words[0], line, words))
    return found


def test_every_example_in_the_help_can_be_read():
    """Those of all commands, also of those that would wait for a server."""
    read = {command for command, line, words in examples() if parser().parse_args(words)}
    [commands] = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert read == set(commands.choices)


RUN = ("route", "verify", "diagram", "tables", "completion", "replay", "generate", "report")


@sampled(4)
@pytest.mark.parametrize(
    "command",
    sample_where(RUN, lambda command: command not in ("verify", "diagram", "generate", "report")),
)
def test_every_example_in_the_help_is_accepted(tmp_path, command):
    """Each is run as a user runs it, in an empty folder with the files it names."""
    import shutil

    from vfio_migration.model import load
    from vfio_migration.verifier.solver.encoding import path_trace

    shutil.copy(NINTH, tmp_path / "my_table.toml")
    c_sources.tree(tmp_path, c_sources.linux(load()), "linux")
    committed(tmp_path)  # git:HEAD is a source too
    trace = path_trace(load(), 7, ["RUNNING", "PRE_COPY"], "an example")
    (tmp_path / "run.json").write_text(trace.to_json(), "utf-8")
    ran = 0
    for of, line, words in examples():
        if of != command or words[0] != command:
            continue
        if words[0] in ("verify", "report") and "--only" not in words:
            # What all obligations say of these tables is asked elsewhere, once for all options.
            words += ["--only", "T1", "D1", "W1"]
        if "replay" in words and "--spec" in words:
            continue  # a trace is of one table
        done = run(*words, cwd=tmp_path)
        expected = 1 if "refused" in line else 0
        assert done.returncode == expected, (line, done.stderr)
        ran += 1
    assert ran


# --- start-up and pipes ---


@sampled(3)
@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["route", "RUNNING", "STOP"], {"z3", "graphviz", "pygraphviz", "networkx", "shtab"}),
        (["--help"], {"z3", "graphviz", "pygraphviz", "networkx", "shtab", "pydantic"}),
        (["verify", "--only", "T1"], {"graphviz", "pygraphviz", "networkx", "shtab"}),
        (["tables"], {"z3", "pygraphviz", "networkx", "shtab"}),
    ],
)
def test_a_command_imports_no_more_than_it_uses(arguments, absent):
    code = (
        "import sys\nfrom vfio_migration.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "print('MODULES', *sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split("MODULES")[1].split())
    assert not loaded & absent


def test_a_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m vfio_migration.cli.main tables | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_an_absent_extra_is_named_with_the_way_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "z3", None)
    for name in [name for name in sys.modules if name.startswith("vfio_migration.verifier")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["verify"]) == 2
    assert install_command("verify") in capsys.readouterr().err
