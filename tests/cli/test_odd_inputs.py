"""Inputs without an end, closed or damaged, and words that no output can encode."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from support.samples import sample, sampled
from vfio_migration.cli.main import main

COMMAND = f"{sys.executable} -m vfio_migration.cli.main"
RECORDING = {"kind": "recording", "format": 1, "spec": "vfio-v2"}
SERVING = {"event": "serving", "level": "info", "flags": "STOP_COPY", "state": "RUNNING"}


def shell(command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it with little memory and little time; `vm` stands for the command."""
    return subprocess.run(
        ["bash", "-c", f'vm() {{ {COMMAND} "$@"; }}; {command}'],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONUTF8": "1"} | more,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )


def written(path: Path, lines: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "ascii")
    return str(path)


LONG = "is longer than 1048576 bytes"
LINE_2 = "standard input: line 2: "
NO_RUN = (
    "standard input: line 1: is not how a run begins; give a recording (migrate --record), "
    "a capture of the wire, a log (serve --log-format json), a trace, or another program's log; "
    "--format names whose"
)


@sampled(6)
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("vm check-trace /dev/zero", f"/dev/zero: line 1: {LONG}"),
        ("yes '{\"a\":1}' | vm check-trace -", NO_RUN),
        ("yes | vm check-trace -", NO_RUN),
        ("yes 7 | vm check-trace -", NO_RUN),
        ("yes '{' | vm check-trace -", "standard input: is longer than 16777216 bytes"),
        ("yes '' | vm check-trace -", "standard input: is longer than 16777216 bytes"),
        (f"(echo '{json.dumps(RECORDING)}'; cat /dev/zero) | vm check-trace -", f"{LINE_2}{LONG}"),
        (f"(echo '{json.dumps(SERVING)}'; cat /dev/zero) | vm check-trace -", f"{LINE_2}{LONG}"),
        ("vm check-trace - <&-", 'FILE: "-": cannot be read: standard input is closed'),
    ],
)
def test_no_end_and_no_beginning(command, message):
    done = shell(command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"vfio-migration: error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_line_that_is_as_long_as_may_be(tmp_path, capsys):
    note = {"what": "note", "text": ""}
    note["text"] = "x" * ((1 << 20) - len(json.dumps(note)) - 1)
    assert main(["check-trace", written(tmp_path / "a", [RECORDING, note])]) == 0
    note["text"] += "x"
    assert main(["check-trace", written(tmp_path / "b", [RECORDING, note])]) == 2
    assert capsys.readouterr().err == f"vfio-migration: error: {tmp_path / 'b'}: line 2: {LONG}\n"


@pytest.mark.parametrize(("event", "shown"), [([], "[]"), ({}, "{}"), (7, "7"), (["a"], '["a"]')])
def test_an_event_that_is_no_word(event, shown, tmp_path, capsys):
    line = {"event": event, "level": "info"}
    problem = f"event: {shown}: is not a string: the line is damaged"
    for number, lines in ((1, [line]), (2, [SERVING, line])):
        assert main(["check-trace", written(tmp_path / "log", lines)]) == 2
        reported = capsys.readouterr().err
        assert reported == f"vfio-migration: error: {tmp_path / 'log'}: line {number}: {problem}\n"
    assert main(["check-trace", written(tmp_path / "log", [SERVING, {"level": "info"}])]) == 2
    assert "line 2: event: is missing" in capsys.readouterr().err


def test_so_many_kinds_of_events_are_distinguished(tmp_path, capsys):
    lines = [{"event": f"kind {number}", "level": "info"} for number in range(500)]
    path = written(tmp_path / "log", [*lines, lines[0]])
    assert main(["check-trace", path, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["unrestricted"]
    assert (len(counts), counts["kind 0"], counts["others"]) == (101, 2, 400)


ODD = "\ud800\x1b[2J\n\u00e9\U0001f600"


NONE: dict[str, Any] = {"capabilities": [], "start": []}


def odd_runs(folder: Path) -> list[str]:
    connected = {"what": "connected", "device": ODD}
    reset = {"event": "reset", "level": "info", "what": "STOP", "state": "STOP"}
    step = {"kind": "request", "device": 0, "from": "RUNNING", "to": "STOP", "state": "RUNNING"}
    return [
        written(folder / "recording", [RECORDING, connected, connected]),
        written(folder / "log", [SERVING | {"device": ODD}]),
        written(folder / "events", [{"event": ODD, "level": "info"}]),
        written(folder / "outcome", [SERVING, reset | {"outcome": ODD}]),
        written(folder / "spec", [RECORDING | {"spec": ODD}]),
        written(folder / "no state", [SERVING | {"state": ODD}]),
        written(folder / "flags", [SERVING | {"flags": ODD}]),
        written(
            folder / "trace",
            [{"format": 1, "spec": ODD, "capabilities": [[ODD]], "start": [ODD], "steps": [step]}],
        ),
        written(folder / "key", [{"format": 1, "spec": "vfio-v2", "steps": [], ODD: 1} | NONE]),
    ]


ENCODINGS = ("utf-8", "ascii", "latin1")
RUNS = 9


@sampled(6)
@pytest.mark.parametrize(
    ("encoding", "number"),
    sample(itertools.product(ENCODINGS, range(RUNS)), apart=5, spread=True),
)
def test_words_that_cannot_be_encoded(encoding, number, tmp_path):
    paths = odd_runs(tmp_path)
    assert len(paths) == RUNS
    path = paths[number]
    for more in ("", "--json"):
        done = shell(
            f"vm check-trace '{path}' {more} | iconv -f {encoding} -t utf-8; "
            "exit ${PIPESTATUS[0]}",
            PYTHONIOENCODING=encoding,
        )
        assert done.returncode in (0, 1, 2), path
        assert "Traceback" not in done.stderr, (path, done.stderr)
        assert "\x1b" not in done.stdout
        if more:
            recorded = json.dumps(json.loads(done.stdout), ensure_ascii=False)
            assert "\ud800" in recorded or "\\uD800" in recorded


def test_a_device_cannot_state_that_all_is_well(tmp_path, capsys):
    path = written(tmp_path / "log", [SERVING | {"device": "a\nevery step is allowed\ud800"}])
    assert main(["check-trace", path]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(": a server's log of a\\nevery step is allowed\\ud800, 1 line")


@sampled(3)
@pytest.mark.parametrize(
    ("command", "more"),
    sample(
        [
            ("check-trace", ""),
            ("check-trace", "--json"),
            ("diagram --format dot -o", ""),
            ("verify", ""),
            ("verify", "--json"),
        ],
        apart=2,
        spread=True,
    ),
)
def test_file_names_that_are_no_text(command, more, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff.jsonl"
    Path(os.fsdecode(name)).write_text(json.dumps(SERVING) + "\n", "utf-8")
    done = shell(f"cd '{tmp_path}'; vm {command} $'\\xff.jsonl' {more}")
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if command == "verify" else 0)
    ended = shell(f"cd '{tmp_path}'; vm check-trace $'\\xff.gone' {more}")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 2
    if more:
        assert json.loads(ended.stdout)["error"]["mistakes"][0]["value"] == "\udcff.gone"


@sampled(3)
@pytest.mark.parametrize(
    ("unbuffered", "command"),
    sample(
        itertools.product(
            ["", "1"],
            [
                "check-trace /nowhere --json",
                "verify --only NONE --json",
                "route --json",
                "route A B C D --json",
                "--help",
            ],
        ),
        apart=4,
        spread=True,
    ),
)
def test_a_complaint_on_a_full_disk(unbuffered, command):
    done = shell(f"vm {command} >/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr == (
        "vfio-migration: error: the output cannot be written: [Errno 28] No space left on device\n"
    )
    assert shell(f"vm {command} >/dev/full 2>/dev/full").returncode == 2


@sampled(3)
@pytest.mark.parametrize("command", ["check-trace /nowhere", "route", "tables >/dev/full"])
def test_a_complaint_that_nobody_can_read(command):
    done = shell(f"vm {command} 2>/dev/full")
    assert (done.returncode, done.stderr) == (2, "")


@sampled(2)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_complaint_to_a_reader_that_has_ended(unbuffered):
    command = "(sleep 0.2; vm check-trace /nowhere --json; echo $? >&2) | true"
    done = shell(command, PYTHONUNBUFFERED=unbuffered)
    assert done.stderr == "2\n"
