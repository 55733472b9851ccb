"""`vfio-migration check-trace` as a user runs it: what it prints, what status it exits with."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import checks_page
import pytest

from support import check_trace_golden
from support.recorded_runs import Log, lines_of, running, sweep
from support.samples import sample, sampled
from support.scripted_run import Script
from support.table_edits import ROOT
from support.waiting import wait_for
from vfio_migration.cli.main import main
from vfio_migration.model import Spec, load
from vfio_migration.runtime import Engine, NullDevice, Recorder
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.client.recording import Recording

SPEC = load()
PAGE = ROOT / "docs/recording.md"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A recording: STOP_COPY, read to its end, PRE_COPY refused."""
    with Log().kept(), running(SPEC, 7, tmp_path / "run.jsonl", name="src") as made:
        assert made.ask("PRE_COPY") == "EINVAL"
    return tmp_path / "run.jsonl"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    kept = Log()
    with kept.kept(), running(SPEC, 7, tmp_path / "beside.jsonl", name="src") as made:
        assert made.ask("PRE_COPY") == "EINVAL"
    path = tmp_path / "server.log"
    path.write_text("\n".join(kept.lines) + "\n", "utf-8")
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    recorder = Recorder()
    engine = Engine(SPEC, "STOP_COPY,P2P", NullDevice(), observers=[recorder])
    engine.set_state("STOP")
    engine.reset()
    path = tmp_path / "trace.json"
    path.write_text(recorder.trace("stopped and reset").to_json(), "utf-8")
    return path


def change(path: Path, old: str, new: str) -> int:
    """Change the last line that states something; return its number."""
    lines = path.read_text("utf-8").splitlines()
    index = max(index for index, line in enumerate(lines) if old in line)
    lines[index] = lines[index].replace(old, new)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return index + 1


def test_a_recording_that_holds(run: Path, capsys):
    assert main(["check-trace", str(run)]) == 0
    assert capsys.readouterr().out == (
        f"{run}: a recording of src, 13 lines\n"
        "  held against vfio-v2: connections 1; capabilities returned 1; requests for a state 2; "
        "data read 1; disconnections 1\n"
        "every step is allowed\n"
    )


def test_a_recording_that_does_not(run: Path, capsys):
    line = change(run, ', "errno": "EINVAL"', "")
    assert main(["check-trace", str(run)]) == 1
    assert capsys.readouterr().out.endswith(
        f"{run}:{line}: violation: src: SET_STATE PRE_COPY is answered with success\n"
        "  why: a stopped saving session cannot go back to pre-copying; leave it for STOP first\n"
        "  before: STOP_COPY at the end of its stream\n"
        "  allowed instead: refused (EINVAL)\n"
        "  row: [[refusals]] STOP_COPY -> PRE_COPY\n"
        "  source: include/uapi/linux/vfio.h: enum vfio_device_mig_state (STOP_COPY -> PRE_COPY); "
        "docs/interop/vfio-user.rst: Direct State Transitions\n"
        "1 violation\n"
    )


def test_a_log(log: Path, capsys):
    assert main(["check-trace", str(log)]) == 0
    reported = capsys.readouterr().out
    assert reported.startswith(f"{log}: a server's log of src, 11 lines\n")
    assert reported.endswith("every step is allowed\n")
    line = change(log, '"session": 1, "us"', '"us"')
    assert main(["check-trace", str(log)]) == 1
    assert capsys.readouterr().out.endswith(
        f"{log}:{line}: violation: src: disconnect\n"
        "  why: the device is then in STOP_COPY with no session\n"
        "  before: STOP_COPY with session 1\n"
        "  allowed instead: STOP_COPY with session 1\n"
        "  row: [[events]] disconnect\n"
        "  source: docs/interop/vfio-user.rst: Client Disconnection\n"
        "1 violation\n"
    )


def test_a_trace(trace: Path, capsys):
    assert main(["check-trace", str(trace)]) == 0
    assert capsys.readouterr().out == (
        f"{trace}: a trace of device 0, 4 steps\n"
        "  held against vfio-v2: request 1; arc 2; reset 1\n"
        "every step is allowed\n"
    )
    data = json.loads(trace.read_text("utf-8"))
    data["steps"][2]["state"] = "RUNNING"
    trace.write_text(json.dumps(data), "utf-8")  # on one line
    assert main(["check-trace", str(trace)]) == 1
    wrong = f"{trace}: step 3: violation: device 0: arc RUNNING_P2P -> STOP\n"
    assert wrong in capsys.readouterr().out
    assert main(["check-trace", str(trace), "--flags", "STOP_COPY"]) == 1
    assert f"{trace}: step 2: violation: " in capsys.readouterr().out


def test_as_json(run: Path, capsys):
    assert main(["check-trace", str(run), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["holds"], answer["kind"], answer["lines"]) == (True, "recording", 13)
    assert (answer["devices"], answer["cut"], answer["violation"]) == (["src"], False, None)
    assert answer["held"]["requests for a state"] == 2
    line = change(run, ', "errno": "EINVAL"', "")
    assert main(["check-trace", str(run), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    violation = answer["violation"]
    assert violation.keys() == {
        *("line", "device", "step", "reason", "situations", "allowed", "row", "source"),
        *("place", "grade", "check", "text", "sign_of"),
    }
    assert (violation["line"], violation["allowed"]) == (line, ["refused (EINVAL)"])
    assert answer["findings"] == [violation | {"times": 1}]


@pytest.mark.parametrize("name", check_trace_golden.RUNS)
def test_what_is_printed_of_each_grade_is_that_on_record(name: str):
    """If not: `PYTHONPATH=tests python -m support.check_trace_golden`."""
    reported, status = check_trace_golden.printed(name)
    assert reported == (ROOT / f"tests/cli/golden/{name}.txt").read_text("utf-8")
    assert status == check_trace_golden.RUNS[name][2]


def test_as_json_each_finding_has_its_grade_and_the_worst_is_the_violation(tmp_path: Path, capsys):
    lines = [check_trace_golden.HEAD, *check_trace_golden.every_grade()]
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    for more, worst in (((), "violation"), (("--strict",), "house rule")):
        assert main(["check-trace", str(path), "--json", *more]) == 1
        answer = json.loads(capsys.readouterr().out)
        assert {one["grade"] for one in answer["findings"]} == {
            "violation",
            "suspicious",
            "house rule",
        }
        assert (answer["holds"], answer["violation"]["grade"]) == (False, worst)
        assert answer["violation"] in [
            {key: value for key, value in one.items() if key != "times"}
            for one in answer["findings"]
        ]


def test_only_violations_and_with_strict_house_rules_are_a_reason_for_status_1(
    tmp_path: Path, capsys
):
    path = tmp_path / "run.jsonl"
    for run, plain, strict in (
        (Script().get("STOP").get("STOP"), 0, 0),
        (Script().get("STOP").reset("EIO"), 0, 0),
        (Script().get("STOP").set("STOP", "EIO"), 0, 1),
        (Script().get(99), 1, 1),
    ):
        lines = [check_trace_golden.HEAD, *run.lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        assert main(["check-trace", str(path)]) == plain
        assert main(["check-trace", str(path), "--strict"]) == strict
    capsys.readouterr()


@pytest.mark.exhaustive
def test_so_many_findings_are_kept_and_the_rest_is_counted(tmp_path: Path, capsys):
    run = Script()
    for number in range(1100):
        run.get(100 + number)
    lines = [check_trace_golden.HEAD, *run.lines]
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert main(["check-trace", str(path), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (len(answer["findings"]), answer["left_out"]) == (1000, 100)
    assert main(["check-trace", str(path)]) == 1
    assert capsys.readouterr().out.endswith("1100 violations; 100 of them not shown\n")


def test_from_standard_input(run: Path, trace: Path, capsys, monkeypatch):
    for path in (run, trace):
        stdin = io.TextIOWrapper(io.BytesIO(path.read_bytes()))
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["check-trace", "-"]) == 0
        assert capsys.readouterr().out.startswith("standard input: a ")


def test_capabilities_that_are_given(run: Path, log: Path, capsys):
    for path in (run, log):
        assert main(["check-trace", str(path), "--flags", "7"]) == 0
        assert main(["check-trace", str(path), "--flags", "STOP_COPY"]) == 1
    assert main(["check-trace", str(run), "--flags", "STOPCOPY"]) == 2


def test_a_line_that_is_cut_off_is_left_out(run: Path, log: Path, capsys):
    for path in (run, log):
        text = path.read_bytes()
        path.write_bytes(text[:-20])
        assert main(["check-trace", str(path)]) == 0
        assert "  the last line is cut off, and left out\n" in capsys.readouterr().out
        path.write_bytes(text[:-1])  # whole, but for the end of its line
        assert main(["check-trace", str(path)]) == 0
        assert "cut off" not in capsys.readouterr().out


@sampled(2)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 4: is damaged: it is not a JSON object"),
        ("[]", "line 4: is damaged: it is not a JSON object"),
        ('{"what": "gone"}', "line 4: device: is missing"),
        ('{"what": "going"}', 'line 4: what: "going": is not a kind of line that a recording has'),
        ('{"time": NaN, "what": "note"}', "line 4, column 10: NaN is not a number that JSON has"),
        ('{"time": -Infinity, "what": "note"}', "line 4, column 10: -Infinity is not a number"),
        ('{"time": 1e999, "what": "note"}', "line 4, column 10: 1e999 is too large a number"),
        (
            '{"what": "note", "what": "gone"}',
            "line 4, column 18: the key 'what' occurs twice",
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_line(run: Path, capsys, line: str, message: str, as_json: bool):
    lines = run.read_text("utf-8").splitlines()
    lines[3] = line
    run.write_text("\n".join(lines) + "\n", "utf-8")
    assert main(["check-trace", str(run), *(["--json"] if as_json else [])]) == 2
    reported = capsys.readouterr()
    if as_json:
        assert message in json.loads(reported.out)["error"]["message"]
    else:
        assert message in reported.err


@pytest.mark.parametrize("end", ["\n", ""])
def test_a_log_in_which_a_key_occurs_twice_is_refused_with_file_and_line(log, capsys, end):
    """Also in the last line, of which another reader would have taken the other value."""
    count = len(log.read_text("utf-8").splitlines())
    with log.open("a", encoding="utf-8") as file:
        file.write(
            '{"event": "stopped", "level": "info", "state": "STOP", "state": "RUNNING"}' + end
        )
    assert main(["check-trace", str(log)]) == 2
    reported = capsys.readouterr().err
    assert f"{log}: line {count + 1}, column 56: the key 'state' occurs twice" in reported


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "note", "kind": "recording"}\n', "line 1, column 18: the key 'kind'"),
        ('{\n"steps": [],\n"steps": []}\n', "line 3, column 1: the key 'steps'"),
        ("", "/file: is empty"),
        ("hello\n", "line 1: is not how a run begins; give a recording (migrate"),
        ("{}\n", "line 1: is not how a run begins"),
        (
            '{"kind": "recording", "format": 2}\n',
            "line 1: format: 2: is not a format of recordings",
        ),
        (
            '{"kind": "recording", "format": 1, "spec": "mine"}\n',
            'line 1: spec: "mine": is the name of another table; the table read is vfio-v2',
        ),
        ('{"level": "info", "event": "reset"}\n', "line 1: outcome: is missing"),
        ('{"format": 1, "steps": []}', "spec: is missing"),
    ],
)
def test_wrong_input(tmp_path: Path, capsys, text: str, message: str):
    path = tmp_path / "file"
    path.write_text(text, "utf-8")
    assert main(["check-trace", str(path)]) == 2
    reported = capsys.readouterr()
    assert message in reported.err
    assert "Traceback" not in reported.err


def test_no_such_file(tmp_path: Path, capsys):
    assert main(["check-trace", str(tmp_path / "none")]) == 2
    assert "cannot be read: No such file" in capsys.readouterr().err
    assert main(["check-trace", str(tmp_path)]) == 2
    assert "cannot be read: Is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("apart", sample([185, 37], 2))
def test_whatever_the_file_is_there_is_no_traceback(
    run: Path, log: Path, trace: Path, capsys, apart: int
):
    """Cut at any byte that is not the last, the answer is one of three."""
    for path in (run, log, trace):
        text = path.read_bytes()
        for end in range(0, len(text), apart):
            path.write_bytes(text[:end])
            assert main(["check-trace", str(path)]) in (0, 2)
            path.write_bytes(text[:end] + b"\xff\x00" + text[end + 2 :])
            assert main(["check-trace", str(path)]) in (0, 1, 2)


def test_a_table_of_ones_own(ninth_state: Spec, tmp_path: Path, capsys):
    table = ROOT / "tests/data/ninth_state.toml"
    (tmp_path / "runs").mkdir()
    for one in ninth_state.capability_sets()[-1:]:
        path = tmp_path / "run.jsonl"
        log = sweep(ninth_state, int(one.value), path)
        (tmp_path / "log").write_text("\n".join(log.lines) + "\n", "utf-8")
        for file in (path, tmp_path / "log"):
            assert main(["check-trace", str(file), "--spec", str(table)]) == 0, capsys.readouterr()
            assert main(["check-trace", str(file)]) == 2
            assert "name the right one with --spec" in capsys.readouterr().err


def test_the_checks_and_the_example_of_the_page_are_what_the_program_has() -> None:
    """If not: `python tools/checks_page.py`."""
    page = PAGE.read_text("utf-8")
    assert checks_page.written(page) == page


def test_the_keys_of_the_page_are_the_keys_that_are_written(run: Path):
    named = set(re.findall(r"`(\w+)`", PAGE.read_text("utf-8")))
    written: set[str] = set()
    for line in lines_of(run):
        written |= line.keys()
    agreed = {"max_msg_fds", "max_data_xfer_size", "max_dma_maps", "pgsizes"}
    assert written - agreed - {"twin_socket", "write_multiple", "precopy_info"} <= named


def test_a_server_in_a_process_of_its_own(tmp_path: Path, capsys):
    """Recording and log of one run, as a user makes them; the server is reported to end."""
    path, log, run = tmp_path / "edu.sock", tmp_path / "server.log", tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "vfio_migration.cli.main", "serve", path]
    with log.open("w") as file:
        process = subprocess.Popen([*map(str, command), "--log-format", "json"], stderr=file)
    try:
        wait_for(path, process, log)
        drive(path, run)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    for file_ in (run, log):
        assert main(["check-trace", str(file_)]) == 0, capsys.readouterr().out
    reported = capsys.readouterr().out
    assert "a recording of src, " in reported
    assert "a server's log of edu, " in reported


def drive(path: Path, run: Path) -> None:
    data: list[bytes] = []

    def keep(one: Any) -> None:
        data.append(bytes(one))

    with Recording(run) as recording:
        for _ in range(2):
            with Client(path, observers=[recording.watch("src")]) as client:
                client.set_state("PRE_COPY")
                while client.read_data(4096, keep) == 4096:
                    pass
                client.set_state("STOP_COPY")
                while client.read_data(4096, keep) == 4096:
                    pass
                client.set_state("RESUMING")
                for one in data:
                    client.write_data(one)
                data.clear()
        with Client(path, observers=[recording.watch("src")]) as client:
            assert client.state() == "RESUMING"
            client.set_state("RUNNING")
    assert recording.error is None
