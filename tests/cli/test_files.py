"""Files that commands read and write: nothing is written over by mistake, nor read without end."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from cli_support import complains

from support.migration_harness import Harness
from support.samples import sampled
from support.table_edits import ROOT

TABLE = ROOT / "model/vfio_v2.toml"
TRACE = {"format": 1, "spec": "vfio-v2", "title": "a run"}
TRACE |= {"capabilities": [["STOP_COPY"]], "start": ["RUNNING"], "steps": []}


def named(name: str, how: str) -> str:
    """Return another name of a file."""
    other = f"other-{how}{Path(name).suffix}"
    match how:
        case "same":
            return name
        case "spelling":
            return f"../{Path.cwd().name}/./{name}"
        case "symbolic":
            Path(other).symlink_to(name)
        case "hard":
            os.link(name, other)
    return other


@pytest.mark.parametrize("how", ["same", "spelling", "symbolic", "hard"])
def test_a_recording_does_not_replace_what_is_restored(pair: Harness, cli, how):
    assert cli("save", "s0", "a.save").status == 0
    before = Path("a.save").read_bytes()
    record = named("a.save", how)
    why = f'--record: "{record}": is the same file as FILE: it would be overwritten; name another'
    complains(cli("restore", "a.save", "d0", "--record", record), 2, why)
    assert Path("a.save").read_bytes() == before


def overwriting(table: str, run: str) -> list[tuple[str, ...]]:
    """Return commands that would write over what they read; what is read comes first."""
    return [
        ("--record", table, "migrate", "s0", "d0", "--spec", table),
        ("--journal", table, "migrate", "s0", "d0", "--spec", table),
        ("--output", table, "migrate", "s0", "d0", "--dry-run", "--spec", table),
        ("--record", run, "recover", "s0", "d0", "--journal", run, "--keep", "source"),
        ("--record", table, "recover", "s0", "d0", "--spec", table),
        ("--record", table, "save", "s0", "file", "--spec", table),
        ("--record", table, "restore", "file", "s0", "--spec", table),
        ("--output", table, "diagram", "--format", "dot", table),
        ("--output", run, "diagram", "--trace", run),
        ("--output", table, "generate", "promela", "--spec", table),
        ("--output", table, "generate", "promela", "--plans", table),
        ("--junit", table, "verify", table, "--only", "T1"),
        ("--sarif", table, "verify", table, "--only", "T1"),
        ("--junit", run, "verify", "--claims", run, "--only", "T1"),
    ]


@pytest.mark.parametrize("number", range(len(overwriting("t", "r"))))
def test_no_output_replaces_an_input(pair: Harness, cli, number):
    # With an ending that states a format, so that nothing else is wrong.
    shutil.copy(TABLE, "table.svg")
    Path("run.json").write_text(json.dumps(TRACE))
    before = {name: Path(name).read_bytes() for name in ("table.svg", "run.json")}
    option, file, *words = overwriting("table.svg", "run.json")[number]
    if "--keep" in words:  # a file is followed as a journal only if a device belongs to it
        Path("s0.migration").symlink_to(Path(file).resolve())
    ran = cli(*words, option, named(file, "hard"))
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"vfio-migration: error: {option}: ")
    assert " is the same file as " in ran.err or "is not a journal" in ran.err
    assert ran.err.count("\n") == 1
    assert {name: Path(name).read_bytes() for name in before} == before
    assert pair.states == {"s0": "RUNNING", "d0": "RUNNING"}


def test_two_outputs_are_two_files(pair: Harness, cli):
    for words, one, two in (
        (("verify", "--only", "T1"), "--junit", "--sarif"),
        (("migrate", "s0", "d0"), "--journal", "--record"),
    ):
        ran = cli(*words, one, "new", two, "./new")
        assert ran.status == 2
        assert f'{two}: "./new": is the same file as {one}: it would be written twice' in ran.err
    complains(
        cli("migrate", "s0", "d0", "--record", "s0.migration"),
        2,
        '--record: "s0.migration": is the same file as --journal: it would be written twice; '
        "name another",
    )
    assert not Path("new").exists()


def test_what_is_no_file_may_be_read_and_written(cli, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert cli("verify", "--only", "T1", "--junit", "/dev/null", "--sarif", "/dev/null").status == 0


@pytest.mark.parametrize("command", [("diagram", "--trace"), ("replay",)])
def test_what_is_read_as_a_trace(harness: Harness, cli, command):
    place = "--trace" if command[0] == "diagram" else "TRACE"
    Path("a run.jsonl").write_text('{"kind": "recording", "format": 1}\n{"time": 1}\n')
    Path("log").write_text('{"event": "serving", "level": "info"}\n{}\n')
    Path("folder").mkdir()
    for file, problem in (
        (
            "a run.jsonl",
            "is a recording, and no trace; run: vfio-migration check-trace 'a run.jsonl'",
        ),
        ("log", "is a server's log, and no trace; run: vfio-migration check-trace log"),
        ("folder", "cannot be read: Is a directory"),
        ("/dev/zero", "is longer than 16777216 bytes, the most a trace may have"),
        ("nowhere", "cannot be read: No such file or directory"),
    ):
        complains(cli(*command, file), 2, f'{place}: "{file}": {problem}')
    Path("bytes").write_bytes(b'{"\xff"}')
    complains(cli(*command, "bytes"), 2, "byte 2: is not valid JSON: it is not UTF-8")


@pytest.mark.parametrize(
    ("name", "form", "status"),
    [
        ("m.svg", "png", 2),
        ("m.svg", "svg", 0),
        ("m.SVG", "svg", 0),
        ("m.JSON", "dot", 2),
        ("m.txt", "mmd", 0),
        ("m", "dot", 0),
        ("m.svg.gz", "svg", 0),
    ],
)
def test_a_format_and_a_name(harness: Harness, cli, name, form, status):
    ran = cli("diagram", "-o", name, "--format", form)
    assert ran.status == status
    if status:
        assert ran.err == (
            f'vfio-migration: error: --format: "{form}": contradicts the name of the file, {name}; '
            f"leave it out, or end the name in .{form}\n"
        )
    assert Path(name).exists() == (not status)


@pytest.mark.parametrize("option", ["--junit", "--sarif", "--traces", "--smtlib"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("x" * 300, "File name too long; name another"),
        ("loop", "Too many levels of symbolic links; name another"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_a_name_that_no_file_can_have(harness: Harness, cli, option, name, why):
    Path("loop").symlink_to("loop")
    ran = cli("verify", "--only", "T1", option, name)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"vfio-migration: error: {option}: ")
    assert ran.err.endswith(f"cannot be written: {why}\n")


@pytest.mark.parametrize("name", ["x" * 251 + ".svg", "\u00e9" * 125 + ".svg"])
@pytest.mark.parametrize(
    "words",
    [
        ("diagram", "-o"),
        ("generate", "promela", "-o"),
        *(("verify", "-q", "--only", "T1", f"--{o}") for o in ("junit", "sarif", "smtlib")),
    ],
)
def test_a_name_that_is_just_not_too_long(harness: Harness, cli, words, name):
    """What is written first, under a name of its own, has a shorter one."""
    assert cli(*words, name).err == ""
    assert [path.name for path in Path().iterdir()] == [name]


@sampled(16)
@pytest.mark.parametrize("option", ["--junit", "--sarif", "--traces", "--smtlib"])
@pytest.mark.parametrize("mode", [0o555, 0o000])
@pytest.mark.parametrize("there", [None, "folder"])
def test_a_folder_that_cannot_be_written(harness: Harness, start, option, mode, there):
    """That is stated before anything is proved."""
    Path("folder").mkdir()
    if there:
        Path("folder/x").mkdir(mode=0o555)
    Path("folder").chmod(mode)
    try:
        ran = start("verify", option, "folder/x", override=False).ends()
    finally:
        Path("folder").chmod(0o755)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f'vfio-migration: error: {option}: "folder/x": cannot be written: ')
    assert ran.err.count("\n") == 1
