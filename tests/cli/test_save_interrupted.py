"""A save or a restore that is cut short: by Ctrl-C, or because somebody is killed."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest
from cli_support import Gate, files, until

from support.migration_harness import FaultyMemory, Harness
from support.samples import sampled

STOPS = ("PRE_COPY_P2P", "STOP_COPY")
JUDGED = ("RESUMING", "STOP")
STARTED = ("RUNNING_P2P", "RUNNING")


class Watcher:
    """Takes the place of a recording, and kills a server once it has sent a piece of a stream."""

    error = None

    def __init__(self, kill) -> None:
        self._kill = kill

    def __call__(self, exchange) -> None:
        if exchange.what == "reply" and exchange.command.name in (
            "MIG_DATA_READ",
            "MIG_DATA_WRITE",
        ):
            self._kill()


def test_a_source_that_is_killed(harness: Harness, serve, cli, monkeypatch):
    one, two = serve("s0", "memory,size=4M"), serve("s1", "memory,size=4M")
    watcher = Watcher(one.kill)
    monkeypatch.setattr("vfio_migration.cli.coordinating.recording_of", lambda *_: watcher)
    ran = cli("save", "s0", "s1", "a.save", "-q")
    assert ran.status == 1
    first, *hints = ran.err.splitlines()
    assert first.startswith("vfio-migration: error: s0: ")
    assert first.endswith("(not all of the devices run with their state)")
    assert hints == ["  no file was written", "  s0: cannot be reached"]
    assert two.state == "RUNNING"
    assert not Path("a.save").exists()


def test_a_destination_that_is_killed(harness: Harness, serve, cli, monkeypatch):
    for name in ("s0", "s1"):
        harness.serve(name, FaultyMemory, size=4 << 20)
    assert cli("save", "s0", "s1", "a.save").status == 0
    one, two = serve("d0", "memory,size=4M"), serve("d1", "memory,size=4M")
    watcher = Watcher(one.kill)
    monkeypatch.setattr("vfio_migration.cli.coordinating.recording_of", lambda *_: watcher)
    ran = cli("restore", "a.save", "d0", "d1", "-q")
    assert ran.status == 1
    first, *hints = ran.err.splitlines()
    assert first.startswith("vfio-migration: error: d0: ")
    assert first.endswith("(the devices do not run; the file is as it was)")
    assert hints == [
        "  d1: is stopped; restore into it again before it is used",
        "  d0: cannot be reached",
    ]
    assert two.state == "STOP"


# --- signals ---


@sampled(3)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arc", [("RUNNING", "PRE_COPY"), STOPS], ids="-".join)
def test_a_save_that_is_given_up(harness: Harness, start, arc, number):
    gate = threading.Event()
    harness.serve("s0", gate={arc: gate})
    harness.serve("s1")
    program = start("save", "s0", "s1", "a.save", "-q")
    until(lambda: harness.states == {"s0": arc[0], "s1": arc[1]})
    program.signal(number)
    gate.set()
    ran = program.ends()
    assert ran.status == 130
    assert ran.err == "vfio-migration: error: cancelled (the devices run)\n  no file was written\n"
    assert harness.running == {"s0", "s1"}
    assert harness.states == {"s0": "RUNNING", "s1": "RUNNING"}
    assert "a.save" not in files()


def test_a_second_time_does_not_wait(harness: Harness, start, cli):
    gate = Gate()
    harness.serve("s0", gate={STOPS: gate})
    program = start("save", "s0", "a.save")
    until(gate.hangs.is_set)
    program.signal(signal.SIGINT)
    while not program.over_within(0.5):  # two that come together are one
        program.signal(signal.SIGINT)
    ran = program.ends()
    assert ran.status == 130
    assert ran.err.endswith("  run: vfio-migration recover s0 --keep source\n")
    assert "a.save" not in files()
    gate.set()
    assert cli("recover", "s0", "--keep", "source").status == 0
    assert harness.states == {"s0": "RUNNING"}
    assert harness.hosts["s0"].whole


def test_a_saver_that_is_killed(harness: Harness, start, cli):
    gate = Gate()
    harness.serve("s0", gate={STOPS: gate})
    program = start("save", "s0", "a.save")
    until(gate.hangs.is_set)
    program.signal(signal.SIGKILL)
    program.ends()
    gate.set()
    assert not [name for name in files() if "save" in name]
    assert cli("recover", "s0", "--keep", "source").status == 0
    assert harness.states == {"s0": "RUNNING"}
    assert harness.hosts["s0"].whole
    assert cli("save", "s0", "a.save").status == 0


@sampled(3)
@pytest.mark.parametrize("arc", [("STOP", "RESUMING"), JUDGED], ids="-".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_a_restore_that_is_given_up(harness: Harness, start, cli, arc, form):
    gate = Gate()
    harness.serve("s0")
    harness.serve("d0", gate={arc: gate})
    assert cli("save", "s0", "a.save").status == 0
    program = start("restore", "a.save", "d0", "-q", *form)
    until(gate.hangs.is_set)
    program.signal(signal.SIGINT)
    gate.set()
    ran = program.ends()
    assert ran.status == 130
    if form:
        last = ran.events[-1]
        assert (last["message"], last["outcome"]) == ("cancelled", "source")
    else:
        assert ran.err == (
            "vfio-migration: error: cancelled (the devices do not run; the file is as it was)\n"
            "  d0: is stopped; restore into it again before it is used\n"
        )
        # That what is in it by then is not taken over is no failure.
        assert "fail" not in ran.out
    assert harness.running == set()
    assert cli("restore", "a.save", "d0").status == 0
    assert harness.hosts["d0"].whole


def test_a_restore_that_cannot_be_given_up_any_more(harness: Harness, start, cli):
    gate = threading.Event()
    harness.serve("s0")
    harness.serve("d0", gate={STARTED: gate})
    assert cli("save", "s0", "a.save").status == 0
    harness.hosts["d0"].server.engine.set_state("STOP")
    program = start("restore", "a.save", "d0", "-q")
    until(lambda: harness.states["d0"] == "RUNNING_P2P")
    program.signal(signal.SIGINT)
    gate.set()
    ran = program.ends()
    assert (ran.status, ran.err) == (0, "")
    assert harness.running == {"d0"}
    assert harness.hosts["d0"].whole
