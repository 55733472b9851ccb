"""A command that a message advises can be copied into a shell, whatever a file is called."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from vfio_migration.cli.commands import save
from vfio_migration.cli.files import read_trace
from vfio_migration.cli.main import main, parser
from vfio_migration.model import SpecError, Trace
from vfio_migration.model.advice import command, operand
from vfio_migration.model.trace import Step
from vfio_migration.runtime.coordinator import Coordinator
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.journal import Entry, Journal
from vfio_migration.verifier.report.text import see_again
from vfio_migration.verifier.solver.obligation import Example, Verdict

NAMES = [
    "-x",
    "--keep",
    "--keep=source",
    "a b",
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned",
    "it's",
    "-\nx",
    "~",
    "#x",
    "*",
    "s0",
]


def understood(advice: str) -> argparse.Namespace:
    """Return what our own parser makes of a command, once a shell has made words of it."""
    words = advice[advice.index("vfio-migration ") :]
    split = subprocess.run(
        ["/bin/sh", "-c", f'printf "%s\\0" {words}'], capture_output=True, check=True, cwd="/"
    ).stdout.decode()
    first, *rest = split.split("\0")[:-1]
    assert [first, *rest] == shlex.split(words, comments=True)
    assert first == "vfio-migration"
    return parser().parse_args(rest)


def same(word: str, name: str) -> bool:
    return word == name or word == f"./{name}"


@pytest.mark.parametrize("name", NAMES)
def test_what_recovers_a_journal_is_safe_to_copy(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path(name), "live", (Entry(name, f"{name}2", None, None),))
    found = understood(journal.recovery("--keep", "source"))
    assert same(found.sockets[0], name)
    assert same(found.sockets[1], f"{name}2")
    assert same(found.journal, name)
    assert found.keep == "source"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_failed_migration_advises_is_safe_to_copy(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coordinator = Coordinator([(name, f"{name}2")], journal=Path(name))
    coordinator._journal = Journal(None, "live", (Entry(name, f"{name}2", None, None),))
    found = understood(coordinator._recovery())
    assert same(found.sockets[0], name)
    assert same(found.sockets[1], f"{name}2")
    assert same(found.journal, name)


@pytest.mark.parametrize("name", NAMES)
def test_what_an_interrupted_migration_advises_is_safe_to_copy(name, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)

    def interrupted(_self: Coordinator) -> None:
        Path(name).write_text("a journal")
        raise KeyboardInterrupt

    monkeypatch.setattr(Coordinator, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert main(["migrate", f"--journal={name}", "--", name, f"{name}2"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    reported = capfd.readouterr().err
    if "\n" in name:  # it is escaped, for a terminal, and cannot be copied at all
        assert "pwned" not in reported
        return
    found = understood(re.search(r"run: (.*)", reported)[1])
    assert same(found.sockets[0], name)
    assert same(found.sockets[1], f"{name}2")
    assert same(found.journal, name)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_save_advises_is_safe_to_copy(name):
    _still, run_on, restoring = save._how_to_go_on([name], f"{name}.save")
    found = understood(run_on.rpartition(" run on: ")[2])
    assert same(found.sockets[0], name)
    assert found.keep == "source"
    assert same(understood(restoring).file, f"{name}.save")
    assert understood(restoring).sockets == ["DST"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_advised_for_a_recording_is_safe_to_copy(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text('{"kind": "recording"}\n')
    with pytest.raises(SpecError) as error:
        read_trace("TRACE", name)
    hint = error.value.mistakes[0].hint
    assert same(understood(hint.removeprefix("run: ")).file, name)


@pytest.mark.parametrize("name", NAMES)
def test_what_shows_a_violation_again_is_safe_to_copy(name):
    steps = (
        Step(kind="request", to="STOP", state="RUNNING"),
        Step(kind="reset", state="RUNNING", from_="RUNNING"),
    )
    for taken in (steps[:1], steps):
        trace = Trace(
            spec="s", title="", capabilities=(("STOP_COPY",),), start=("RUNNING",), steps=taken
        )
        verdict = Verdict("T1", "", "violated", "exhaustive", 0, example=Example("", trace))
        for advice in (see_again(verdict, name), see_again(verdict, name, name)):
            for part in re.split(r"; (?=vfio-migration replay)", advice):
                found = understood(part)
                assert same(found.spec, name)


def test_a_claim_that_is_to_be_removed_by_hand_is_named_so_that_only_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert operand(claims.beside("-rf")) == "./-rf.migration"
    assert command("recover", operand("-rf")) == "vfio-migration recover ./-rf"
