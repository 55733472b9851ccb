"""`vfio-migration migrate` as its users see it: what is printed, and with which status it ends."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
import threading
from pathlib import Path

import pytest
from cli_support import Ran, complains, files, masked

from support.migration_harness import ALWAYS, FaultyEdu, FaultyMemory, Harness
from support.table_edits import ROOT
from vfio_migration.model import load
from vfio_migration.model.extras import install_command

NINTH = ROOT / "tests/data/ninth_state.toml"
JUDGED = ("RESUMING", "STOP")
STARTED = ("RUNNING_P2P", "RUNNING")
PRE_COPIES = ("RUNNING", "PRE_COPY")

GOLDEN = ROOT / "tests/cli/golden"
ONE = (GOLDEN / "migrate.txt").read_text("utf-8")
HEAD = """\
2 devices, live migration
  s0 -> d0   STOP_COPY,P2P,PRE_COPY
  s1 -> d1   STOP_COPY,P2P,PRE_COPY
"""


def finished(text: str) -> str:
    """What is printed once, whatever the machine: neither progress nor the number of passes."""
    lines = [line for line in masked(text).splitlines() if not re.search(r"  pass \d+ ", line)]
    return re.sub(r"(?<=passes       )\d+", "#", "\n".join(lines) + "\n")


# --- what is printed ---


def test_one_device(pair: Harness, cli):
    ran = cli("migrate", "s0", "d0")
    assert (ran.status, ran.err) == (0, "")
    assert finished(ran.out) == ONE
    assert pair.states == {"s0": "STOP", "d0": "RUNNING"}
    assert pair.hosts["d0"].whole
    assert files() == ["d0", "s0"]


def test_two_devices(two: Harness, cli):
    ran = cli("migrate", "s0", "d0", "s1", "d1")
    assert (ran.status, ran.err) == (0, "")
    text = finished(ran.out)
    assert text.startswith(HEAD)
    # The same phases in the same order, once for the group.
    phases = ONE.partition("\n\n")[2]
    assert text.partition("\n\n")[2] == phases.replace("1 device", "2 devices")
    assert two.running == {"d0", "d1"}
    assert two.hosts["d0"].whole
    assert two.hosts["d1"].whole


def test_quietly(pair: Harness, cli):
    ran = cli("migrate", "s0", "d0", "--quiet")
    assert (ran.status, ran.err) == (0, "")
    assert finished(ran.out) == ONE[ONE.index("migrated") :]


def test_compressed(pair: Harness, cli):
    ran = cli("migrate", "s0", "d0", "--compress", "zlib", "-q")
    assert ran.status == 0
    assert re.search(r"^  compressed   to # B, 1/[\d.]+ of it$", masked(ran.out), re.MULTILINE)
    assert pair.hosts["d0"].whole


def test_devices_that_are_stopped_first(pair: Harness, cli):
    ran = cli("migrate", "s0", "d0", "--no-pre-copy", "--json")
    assert ran.status == 0
    assert ran.of("plan")[0]["migration"] == "offline"
    assert "pre-copy" not in [one["phase"] for one in ran.of("phase")]
    assert ran.of("stopped")[0]["expected"] is None
    assert ran.of("summary")[0]["expected_downtime"] is None
    assert pair.hosts["d0"].whole


# --- --json ---


def documented() -> dict[str, tuple[set[str], set[str], set[str]]]:
    """What docs/migrating.md has of each event: fields, those that may be left out, nested ones."""
    text = (ROOT / "docs/migrating.md").read_text("utf-8").partition("| `event` |")[2]
    found = {}
    for line in text.partition("\n\n")[0].splitlines()[2:]:
        _, events, fields, _ = line.split("|")
        fields, _, nested = re.sub(r"\(.*?\)", "", fields).partition("`devices`:")
        must, _, may = fields.partition(";")
        words = [set(re.findall(r"`(\w+)`", part)) for part in (must, may, nested)]
        for event in re.findall(r"`(\w+)`", events):
            found[event] = tuple(words)
    assert {"plan", "summary", "error"} <= found.keys()
    return found


def as_documented(ran: Ran) -> set[str]:
    """See that every event has the fields that are documented; return which events there were."""
    table = documented()
    for one in ran.events:
        must, may, nested = table[one["event"]]
        fields = one.keys() - {"event", "time"}
        if nested:
            must = must | {"devices"}
            assert all(device.keys() == nested for device in one["devices"])
        assert must <= fields <= must | may, one["event"]
    times = [one["time"] for one in ran.events]
    assert times == sorted(times)
    assert times[0] >= 0
    return {one["event"] for one in ran.events}


def test_json_is_what_the_page_states(two: Harness, cli):
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--json")
    assert (ran.status, ran.err) == (0, "")
    seen = {"plan", "phase", "moved", "progress", "stopped", "running", "retired", "summary"}
    assert as_documented(ran) == seen
    assert ran.events[-1]["event"] == "summary"
    assert [one["source"] for one in ran.of("plan")[0]["devices"]] == ["s0", "s1"]


def test_the_figures_agree(two: Harness, cli):
    ran = cli("migrate", "s0", "d0", "s1", "d1", "--json", "--compress", "zlib")
    (summary,) = ran.of("summary")
    (stopped,), (running,) = ran.of("stopped"), ran.of("running")
    last = ran.of("progress")[-1]
    assert summary["devices"] == 2
    assert summary["not_stopped"] == []
    assert summary["downtime"] == running["downtime"]
    assert summary["expected_downtime"] == stopped["expected"]
    assert abs(running["time"] - stopped["time"] - running["downtime"]) < 0.5
    assert 0 < summary["downtime"] < summary["seconds"]
    assert last["step"] == "rest"
    assert summary["bytes"] == last["bytes"] == sum(one["bytes"] for one in last["devices"])
    most = max(last["devices"], key=lambda one: one["bytes"])
    assert (most["device"], most["pass"]) == ("s1", summary["passes"])
    assert 0 < summary["sent"] < summary["bytes"]
    assert 0 < summary["last_pass"] < summary["bytes"]
    before = [one for one in ran.of("progress") if one["step"] == "passes"]
    assert before[-1]["bytes"] <= summary["bytes"] - summary["last_pass"]


def test_json_of_a_failure_is_what_the_page_states(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0", faults={JUDGED: (ALWAYS, False)})
    ran = cli("migrate", "s0", "d0", "--json")
    assert (ran.status, ran.err) == (1, "")
    assert {"failed", "refuses", "recovering", "won", "error"} <= as_documented(ran)
    last = ran.events[-1]
    assert (last["event"], last["outcome"]) == ("error", "source")
    assert last["message"].startswith("plan resume, phase judge: d0: SET_STATE STOP is refused")
    assert harness.states["s0"] == "RUNNING"


@pytest.mark.parametrize("more", [["--json"], ["--json", "-q"], ["-q", "--json", "--no-pre-copy"]])
def test_json_of_a_refusal_is_one_object(pair: Harness, cli, more: list[str]):
    pair.serve("d1", FaultyMemory)
    ran = cli("migrate", "s0", "d1", *more)
    assert (ran.status, ran.err) == (1, "")
    (error,) = ran.events
    assert as_documented(ran) == {"error"}
    assert error["outcome"] is None
    assert error["message"].startswith("s0 and d1 are not the same kind of device")


# --- statuses and messages ---


def test_a_socket_too_few(cli):
    complains(cli("migrate", "a", "b", "c"), 2, "c: has no DST: give SRC DST [SRC DST ...]")


@pytest.mark.parametrize("sockets", [["a", "b", "a", "b"], ["a", "a"], ["a", "b", "c", "./a"]])
def test_a_socket_named_twice(cli, tmp_path, monkeypatch, sockets):
    monkeypatch.chdir(tmp_path)
    why = f"{tmp_path}/a: is named twice; each socket is one end of one device"
    complains(cli("migrate", *sockets), 2, why)
    assert not list(tmp_path.iterdir())


def test_nobody_serves(harness: Harness, cli):
    harness.serve("s0")
    complains(cli("migrate", "s0", "d0"), 2, "d0: nobody serves there: No such file or directory")
    complains(
        cli("migrate", "nowhere", "s0"),
        2,
        "nowhere: nobody serves there: No such file or directory",
    )
    assert files() == ["s0"]


def test_a_source_in_a_wrong_state(pair: Harness, cli):
    assert cli("migrate", "s0", "d0", "-q").status == 0
    pair.serve("d1")
    hints = (
        "  if a migration left it there: vfio-migration recover SRC DST",
        "  if a save left it there: vfio-migration recover SRC --keep source",
        "  if it holds nothing that is needed: start its server anew",
    )
    why = "s0: is in STOP, and a source begins in RUNNING"
    complains(cli("migrate", "s0", "d1"), 1, why, *hints)
    assert pair.running == {"d0", "d1"}


def test_other_devices(pair: Harness, cli):
    pair.serve("d1", FaultyMemory)
    ran = cli("migrate", "s0", "d1")
    assert ran.status == 1
    assert ran.err.startswith(
        "vfio-migration: error: s0 and d1 are not the same kind of device: "
        "PCI device 1234:11e8 and 1234:11e9; region 0 of "
    )
    assert ran.err.endswith(
        "\n  a guest would not find its device again; take another destination\n"
    )
    assert pair.running == {"s0", "d0", "d1"}


def test_two_devices_without_p2p(harness: Harness, cli):
    for name in ("s0", "d0", "s1", "d1"):
        harness.serve(name, capabilities="STOP_COPY,PRE_COPY")
    why = (
        "d0, d1: lack P2P, and of a group only 1 may: with 2 no order of steps keeps each from "
        "starting DMA to another that is stopped already (obligation G3)"
    )
    hint = (
        "  migrate them without the others, if they do no DMA to each other, or with at most 1 of "
        "them at a time"
    )
    trust = (
        "  or give --no-peer-dma, if you can answer for it: No device of the group does DMA to "
        "another device of it."
    )
    complains(cli("migrate", "s0", "d0", "s1", "d1"), 1, why, hint, trust)
    assert harness.running == {"s0", "d0", "s1", "d1"}
    assert cli("migrate", "s0", "d0").status == 0


@pytest.mark.parametrize("where", [None, "elsewhere"])
def test_a_journal_that_is_there(pair: Harness, cli, where):
    journal = Path(where or "s0.migration")
    journal.write_text("precious")
    more = [] if where is None else ["--journal", where]
    ran = cli("migrate", "s0", "d0", *more)
    assert ran.status == 1
    assert ran.err.startswith("vfio-migration: error: ")
    assert "s0: an earlier migration of this device was not brought to its end\n" in ran.err
    assert f"{journal}, records how to recover it" in ran.err
    assert journal.read_text() == "precious"
    assert pair.running == {"s0", "d0"}


def test_a_journal_in_a_folder_that_cannot_be_written(pair: Harness, start):
    Path("folder").mkdir(mode=0o555)
    ran = start("migrate", "s0", "d0", "--journal", "folder/journal", override=False).ends()
    complains(
        ran,
        2,
        "folder/journal: the journal cannot be written: Permission denied",
        "  choose another place: --journal FILE",
    )
    assert pair.running == {"s0", "d0"}


@pytest.mark.parametrize(
    ("option", "value", "complains"),
    [
        ("--downtime", "5m", "5m is not a time; 300ms and 1.5s are"),
        ("--downtime", "0", "0 is not a time; 300ms and 1.5s are"),
        ("--downtime", "1e9", "1e9 is not a time; 300ms and 1.5s are"),
        ("--downtime", "9" * 500, f"{'9' * 500} is not a time; 300ms and 1.5s are"),
        ("--timeout", "ms", "ms is not a time; 300ms and 1.5s are"),
        ("--bandwidth", "5T", "5T is not a rate; 500M and 200000 are"),
        ("--bandwidth", "0", "0 is not a rate; 500M and 200000 are"),
        ("--bandwidth", "0.5", "0.5 is not a rate; 500M and 200000 are"),
        ("--bandwidth", "9" * 500, f"{'9' * 500} is not a rate; 500M and 200000 are"),
        ("--max-passes", "0", "0 is not a number of passes; 30 is"),
        ("--max-passes", "many", "many is not a number of passes; 30 is"),
        ("--max-passes", "9" * 5000, f"{'9' * 5000} is not a number of passes; 30 is"),
        ("--if-slow", "wait", "invalid choice: 'wait' (choose from 'stop', 'cancel')"),
        ("--compress", "lz4", "invalid choice: 'lz4' (choose from 'none', 'zlib', 'zstd')"),
    ],
)
def test_wrong_values(cli, option, value, complains):
    ran = cli("migrate", "a", "b", option, value)
    assert (ran.status, ran.out) == (2, "")
    last = ran.err.splitlines()[-1]
    if "choice" in complains:  # not all Pythons quote
        complains, last = complains.replace("'", ""), last.replace("'", "")
    assert last.endswith(f"error: argument {option}: {complains}")


@pytest.mark.parametrize(
    ("value", "bytes_"),
    [("500M", 500 << 20), ("1.5G", 3 << 29), ("2k", 2048), ("7MB/s", 7 << 20), ("3KiB", 3072)],
)
def test_right_values(value, bytes_):
    from vfio_migration.cli.arguments import byte_rate, duration

    assert byte_rate(value) == bytes_
    assert (duration("300ms"), duration("1.5s"), duration("2s")) == (0.3, 1.5, 2.0)


def test_a_picture_without_a_dry_run(pair: Harness, cli):
    complains(cli("migrate", "s0", "d0", "-o", "x.svg"), 2, "-o x.svg: goes with --dry-run")
    assert pair.running == {"s0", "d0"}


def test_a_codec_that_is_not_installed(pair: Harness, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    why = f"zstandard is not installed; run: {install_command('compress')}"
    complains(cli("migrate", "s0", "d0", "--compress", "zstd"), 2, why)
    assert pair.running == {"s0", "d0"}
    assert files() == ["d0", "s0"]


@pytest.mark.parametrize(
    ("place", "why"),
    [("nowhere/run.jsonl", "No such file or directory"), (".", "Is a directory")],
)
def test_a_recording_that_cannot_be_begun(pair: Harness, cli, place, why):
    ran = cli("migrate", "s0", "d0", "--record", place)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == f'vfio-migration: error: --record: "{place}": cannot be written: {why}\n'
    assert pair.running == {"s0", "d0"}


@pytest.mark.parametrize("more", [[], ["--no-pre-copy"]])
def test_a_recording_conforms(pair: Harness, cli, more):
    assert cli("migrate", "s0", "d0", "--record", "run.jsonl", *more).status == 0
    ran = cli("check-trace", "run.jsonl")
    assert (ran.status, ran.err) == (0, "")


def test_a_recording_on_a_full_disk(pair: Harness, start):
    ran = start("migrate", "s0", "d0", "-q", "--record", "run.jsonl", file_size=20480).ends()
    assert ran.status == 0
    assert ran.err == ("vfio-migration: the recording is not complete: [Errno 27] File too large\n")
    assert "migrated 1 device" in ran.out
    assert pair.running == {"d0"}
    assert pair.hosts["d0"].whole


def test_the_destination_refuses_the_state(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0", faults={JUDGED: (ALWAYS, False)})
    ran = cli("migrate", "s0", "d0", "-q")
    assert ran.status == 1
    assert ran.err == (
        "vfio-migration: error: plan resume, phase judge: d0: SET_STATE STOP is refused (EIO); "
        "it is in RESUMING now (the source runs)\n"
        "  The source holds the whole state: the destination never ran on it, or was given up.\n"
    )
    assert harness.states["s0"] == "RUNNING"
    assert not harness.hosts["d0"].runs


def test_the_destination_runs_all_the_same(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0", faults={STARTED: (1, False)})
    ran = cli("migrate", "s0", "d0", "-q")
    assert ran.status == 0
    assert ran.err == (
        "vfio-migration: error: plan resume, phase run: d0: SET_STATE RUNNING is refused (EIO); "
        "it is in RUNNING_P2P now (the destination runs with the whole state all the same)\n"
        "  The destination has taken the whole state over, and may have run.\n"
    )
    assert harness.running == {"d0"}
    assert harness.hosts["d0"].whole


def test_it_is_not_known_who_runs(harness: Harness, cli):

    gate = threading.Event()
    harness.serve("s0", gate={PRE_COPIES: gate})
    harness.serve("d0")
    ran = cli("migrate", "s0", "d0", "-q", "--timeout", "300ms")
    assert ran.status == 3
    assert ran.err == (
        "vfio-migration: error: plan save, phase pre-copy: s0: DEVICE_FEATURE SET MIG_DEVICE_STATE "
        "PRE_COPY is not answered (it is not known who runs)\n"
        "  s0: does not answer, and its process is there: it may still hold the state\n"
        "  s0: VERSION is not answered; does it serve another client?\n"
        "  s0: not known to be stopped; once it can be reached run: vfio-migration recover s0 d0\n"
    )
    gate.set()
    ran = cli("recover", "s0", "d0")
    assert ran.status == 0
    assert harness.running == {"s0"}


def test_a_device_that_changes_too_fast(harness: Harness, cli):
    harness.serve("s0", FaultyMemory, rate=1 << 30)
    harness.serve("d0", FaultyMemory)
    slow = ("--if-slow", "cancel", "--max-passes", "1", "--bandwidth", "400K", "--downtime", "1ms")
    ran = cli("migrate", "s0", "d0", "-q", *slow)
    assert ran.status == 1
    assert masked(ran.err).startswith(
        "vfio-migration: error: after 1 passes the devices would still be stopped for # s, and "
        "# s are allowed: they change faster than they can be transferred (the source runs)\n"
    )
    assert harness.running == {"s0"}
    assert cli("migrate", "s0", "d0", "-q", *slow[2:4]).status == 0


def test_a_server_that_hangs_up(harness: Harness, cli):
    """It is there, and then it is not."""

    harness.serve("s0")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("d0")
        listener.listen()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        ran = cli("migrate", "s0", "d0", "--dry-run")
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("vfio-migration: error: d0: ")
        assert len(ran.err.splitlines()) == 1
        ran = cli("migrate", "s0", "d0")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert ran.status == 1
    assert "(the source runs)" in ran.err
    assert harness.states["s0"] == "RUNNING"


# --- a table of the user's own ---


@pytest.mark.parametrize("kind", [FaultyEdu, FaultyMemory])
@pytest.mark.parametrize("more", [[], ["--no-pre-copy"]])
def test_a_ninth_state(harness: Harness, cli, kind, more):
    ninth = load(NINTH)
    for name in ("s0", "d0"):
        harness.serve(name, kind, spec=ninth)
    assert "STOP_P2P" in {row.name for row in ninth.states}
    if more:
        # A destination may be stopped in any state of the table, in a new one too.
        harness.hosts["d0"].server.engine.set_state("STOP_P2P")
    ran = cli("migrate", "s0", "d0", "--spec", NINTH, "--record", "run.jsonl", *more)
    assert (ran.status, ran.err) == (0, "")
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert cli("check-trace", "run.jsonl", "--spec", NINTH).status == 0


def test_a_table_that_is_none(cli):
    ran = cli("migrate", "a", "b", "--spec", "/no/such/table.toml")
    assert ran.status == 2
    assert "/no/such/table.toml" in ran.err
