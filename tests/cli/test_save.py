"""`vfio-migration save` and `restore` as their users see them."""

from __future__ import annotations

import json
import re
import shlex
import stat
import sys
import threading
from pathlib import Path

import pytest
from cli_support import complains, files, masked, until
from test_migrate import as_documented

from support.migration_harness import ALWAYS, FaultyMemory, Harness
from support.samples import sampled
from support.table_edits import ROOT
from vfio_migration.model import load
from vfio_migration.model.extras import install_command
from vfio_migration.runtime.files.container import ContainerReader
from vfio_migration.runtime.kit.devices.memory import contents

NINTH = ROOT / "tests/data/ninth_state.toml"
SIZE = 1 << 16
STOPS = ("PRE_COPY_P2P", "STOP_COPY")
JUDGED = ("RESUMING", "STOP")
STARTED = ("RUNNING_P2P", "RUNNING")

IS_STOPPED = """\
  the device is stopped, and nothing runs with what was saved
  to let s0 run on: vfio-migration recover s0 --keep source
  to restore it, here or elsewhere: vfio-migration restore a.save DST
"""
SAVED = """\
    0.000 s  source      pre-copy     Stream while running.
    0.000 s  source      quiesce      No device that can be quiesced starts peer-to-peer DMA from \
here on.
    0.000 s  source      stop         Stop every device that is not stopped yet; none starts \
peer-to-peer DMA any more.
    0.000 s  source      stop         Stop every device that is not stopped yet.

1 device saved to a.save
  total time   # s
  state        # B at # B/s
  file         # B
"""
RESTORED = """\
    0.000 s  destination load         Every device takes a stream in.
    0.000 s  destination judge        Every device takes its state over, or refuses it: nothing \
runs before all have.
    0.000 s  destination wake         Start every device that can hold back peer-to-peer DMA.
    0.000 s  destination run          Allow peer-to-peer DMA again.

1 device restored from a.save
  total time   # s
  state        # B at # B/s
  file         # B
"""


def recorded(text: str) -> str:
    """Return what is printed but how far it is."""
    lines = [
        line
        for line in masked(text).splitlines()
        if not re.search(r"  (pass \d|\S+ +# B of)", line)
    ]
    return "\n".join(lines) + "\n"


def memory(harness: Harness, name: str, **options) -> FaultyMemory:
    """Serve a memory; that of a source was changed."""
    device = harness.serve(name, FaultyMemory, size=SIZE, seed=7, **options).device
    device.block("bar2").write(0, bytes(SIZE))
    if name[0] == "s":
        device.change(40)
    return device


def holds(device: FaultyMemory) -> bool:
    """Return whether a memory that is stopped holds what its count of changes says."""
    return (
        device.changes >= 40
        and bytes(device.block("bar2").view) == contents(7, SIZE, device.changes)[:]
    )


def stop(harness: Harness, name: str) -> None:
    harness.hosts[name].server.engine.set_state("STOP")


# --- there and back ---


@pytest.mark.parametrize("codec", ["none", "zlib", "zstd"])
@pytest.mark.parametrize("more", [[], ["--no-pre-copy"]], ids=["live", "offline"])
def test_there_and_back(harness: Harness, cli, codec, more):
    source = memory(harness, "s0")
    target = memory(harness, "d0")
    ran = cli("save", "s0", "a.save", "--compress", codec, *more)
    assert (ran.status, ran.err) == (0, "")
    assert harness.states["s0"] == "STOP"
    assert holds(source)
    assert stat.S_IMODE(Path("a.save").stat().st_mode) == 0o600
    with ContainerReader("a.save") as file:
        assert file.header.codec == codec
        assert [one.name for one in file.header.devices] == ["s0"]
        file.check()
    assert (Path("a.save").stat().st_size < SIZE) == (codec != "none")
    ran = cli("restore", "a.save", "d0")
    assert (ran.status, ran.err) == (0, "")
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    stop(harness, "d0")
    assert holds(target)
    assert target.changes == source.changes
    assert files() == ["a.save", "d0", "s0"]


def test_a_device_that_changes_meanwhile(harness: Harness, cli):
    source = memory(harness, "s0", rate=64 << 20)
    target = memory(harness, "d0")
    assert cli("save", "s0", "a.save", "--then", "run").status == 0
    until(lambda: source.changes > 1000)
    assert cli("restore", "a.save", "d0").status == 0
    before = target.changes
    until(lambda: target.changes > before)  # it goes on where it was saved
    for name, device in (("s0", source), ("d0", target)):
        stop(harness, name)
        assert holds(device)


def test_what_is_printed(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0")
    stop(harness, "d0")
    ran = cli("save", "s0", "a.save")
    assert (ran.status, recorded(ran.out), ran.err) == (0, SAVED + IS_STOPPED, "")
    ran = cli("restore", "a.save", "d0")
    assert (ran.status, recorded(ran.out), ran.err) == (0, RESTORED, "")
    assert harness.hosts["d0"].whole
    ran = cli("save", "d0", "b.save", "-q", "--then", "run")
    saved = SAVED.partition("\n\n")[2].replace("a.save", "b.save")
    assert masked(ran.out) == saved.replace("  state", "  downtime     # s\n  state")


def test_json_is_what_the_page_states(harness: Harness, cli):
    for name in ("s0", "d0"):
        memory(harness, name)
    ran = cli("save", "s0", "a.save", "--json", "--then", "run")
    assert (ran.status, ran.err) == (0, "")
    assert as_documented(ran) == {"phase", "moved", "progress", "saved"}
    saved = ran.events[-1]
    assert saved["stored"] == Path("a.save").stat().st_size
    assert saved["bytes"] == ran.of("progress")[-1]["bytes"]
    assert 0 < saved["downtime"] < saved["seconds"]
    ran = cli("restore", "a.save", "d0", "--json")
    assert (ran.status, ran.err) == (0, "")
    assert as_documented(ran) == {"phase", "moved", "restoring", "saved"}
    restored = ran.events[-1]
    for key in ("devices", "bytes", "stored"):
        assert restored[key] == saved[key]
    assert [one["of"] for one in ran.of("restoring")] == [saved["bytes"]] * len(ran.of("restoring"))


@pytest.mark.parametrize("codec", ["none", "zlib"])
def test_several_devices(harness: Harness, cli, codec):
    source, target = memory(harness, "s0"), memory(harness, "d0")
    harness.serve("s1")
    harness.serve("d1")
    ran = cli("save", "s0", "s1", "group.save", "--compress", codec)
    assert ran.status == 0
    assert "\n2 devices saved to group.save\n" in ran.out
    ran = cli("restore", "group.save", "d0", "d1")
    assert ran.status == 0
    assert "\n2 devices restored from group.save\n" in ran.out
    assert harness.states == {"s0": "STOP", "s1": "STOP", "d0": "RUNNING", "d1": "RUNNING"}
    assert harness.hosts["d1"].whole
    stop(harness, "d0")
    assert holds(target)
    assert target.changes == source.changes


@pytest.mark.parametrize(("then", "state"), [("stop", "STOP"), ("run", "RUNNING")])
def test_what_becomes_of_the_devices(harness: Harness, cli, then, state):
    harness.serve("s0")
    assert cli("save", "s0", "a.save", "--then", then).status == 0
    assert harness.states == {"s0": state}
    assert harness.hosts["s0"].whole


def test_a_recording_conforms(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0")
    assert cli("save", "s0", "a.save", "--record", "1.jsonl").status == 0
    assert cli("restore", "a.save", "d0", "--record", "2.jsonl").status == 0
    for name in ("1.jsonl", "2.jsonl"):
        assert cli("check-trace", name).status == 0


def test_a_ninth_state(harness: Harness, cli):
    for name in ("s0", "d0"):
        harness.serve(name, spec=load(NINTH))
    assert cli("save", "s0", "a.save", "--spec", NINTH).status == 0
    assert cli("restore", "a.save", "d0", "--spec", NINTH).status == 0
    assert harness.hosts["d0"].whole
    assert harness.running == {"d0"}


# --- the file ---


def test_a_file_that_is_there(harness: Harness, cli):
    harness.serve("s0")
    Path("a.save").write_text("precious")
    why = "a.save: is there already; remove it, take another name, or allow it to be replaced"
    complains(cli("save", "s0", "a.save"), 2, why)
    assert Path("a.save").read_text() == "precious"
    assert (harness.states, harness.arcs) == ({"s0": "RUNNING"}, [])
    assert cli("save", "s0", "a.save", "--replace").status == 0
    harness.serve("d0")
    assert cli("restore", "a.save", "d0").status == 0
    assert harness.hosts["d0"].whole


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("s1", "is a socket; name a file on a disk, or one to be"),
        (".", "is a folder; name a file on a disk, or one to be"),
        (
            "nowhere/a.save",
            "cannot be written: No such file or directory (ENOENT); make its folder first",
        ),
    ],
)
def test_a_place_that_is_none(harness: Harness, cli, path, why):
    harness.serve("s0")
    harness.serve("s1")
    complains(cli("save", "s0", path), 2, f"{path}: {why}")
    assert harness.arcs == []


def test_a_folder_that_cannot_be_written(harness: Harness, start):
    harness.serve("s0")
    Path("folder").mkdir(mode=0o555)
    ran = start("save", "s0", "folder/a.save", override=False).ends()
    why = "Permission denied (EACCES); take a folder that you may write to"
    complains(ran, 2, f"folder/a.save: cannot be written: {why}")
    assert harness.arcs == []


@pytest.mark.parametrize("command", ["save", "restore"])
def test_a_codec_that_is_not_installed(harness: Harness, cli, monkeypatch, command):
    for name in ("s0", "d0"):
        harness.serve(name)
    assert cli("save", "s0", "a.save", "--compress", "zstd", "--then", "run").status == 0
    harness.arcs.clear()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    paths = ["s0", "b.save", "--compress", "zstd"] if command == "save" else ["a.save", "d0"]
    why = f"zstandard is not installed; run: {install_command('compress')}"
    complains(cli(command, *paths), 2, why)
    assert harness.arcs == []
    assert files() == ["a.save", "d0", "s0"]


@sampled(2)
@pytest.mark.parametrize("more", [[], ["--no-pre-copy"]])
@pytest.mark.parametrize("count", [1, 2])
def test_a_disk_that_is_full_in_the_middle(harness: Harness, start, count, more):
    names = [f"s{number}" for number in range(count)]
    for name in names:
        harness.serve(name, FaultyMemory, size=4 << 20)
    ran = start("save", *names, "a.save", "-q", *more, file_size=3 << 20).ends()
    assert ran.status == 1
    first, *rest = ran.err.splitlines()
    assert re.fullmatch(
        r"vfio-migration: error: a\.save: cannot be written: File too large \(EFBIG\), after \d+ "
        r"bytes; raise the limit \(ulimit -f\), or take another file system \(the devices run\)",
        first,
    )
    assert rest == ["  no file was written"]
    assert harness.running == set(names)
    assert all(harness.hosts[name].whole for name in names)
    assert not [name for name in files() if "save" in name]


def damaged(data: bytes, how: str) -> bytes:
    half = len(data) // 2
    return {
        "a byte": data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
        "truncated": data[:half],
        "longer": data + b"more",
        "empty": b"",
        "another": b"something else altogether",
    }[how]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("a byte", r"block 0 of device 0, at byte \d+, is damaged"),
        ("truncated", r"is truncated at byte \d+: block 0 of device 0 goes to byte \d+"),
        ("longer", r"4 bytes follow its end at byte \d+"),
        ("empty", "is empty"),
        ("another", "is not a saved migration: it begins with b'somethin'"),
    ],
)
def test_a_file_that_is_damaged(harness: Harness, cli, how, why):
    harness.serve("s0")
    harness.serve("d0")
    assert cli("save", "s0", "a.save").status == 0
    path = Path("a.save")
    path.write_bytes(damaged(path.read_bytes(), how))
    harness.arcs.clear()
    ran = cli("restore", "a.save", "d0")
    assert (ran.status, ran.out) == (2, "")
    assert re.fullmatch(f"vfio-migration: error: a\\.save: {why}\n", ran.err)
    assert (harness.states["d0"], harness.arcs) == ("RUNNING", [])


def test_a_file_that_is_not_there(harness: Harness, cli):
    harness.serve("d0")
    ran = cli("restore", "a.save", "d0")
    complains(ran, 2, "a.save: cannot be read: No such file or directory")


# --- the devices ---


def test_too_few_arguments(cli):
    complains(cli("save", "a.save"), 2, "a.save: give SRC [SRC ...] FILE")


@pytest.mark.parametrize("command", ["save", "restore"])
def test_a_socket_named_twice(harness: Harness, cli, tmp_path, command):
    harness.serve("s0")
    paths = ["s0", "./s0", "a.save"] if command == "save" else ["a.save", "s0", "./s0"]
    complains(cli(command, *paths), 2, f"{tmp_path}/s0: is named twice; each socket is one device")


def test_nobody_serves(harness: Harness, cli):
    harness.serve("s0")
    why = "nowhere: nobody serves there: No such file or directory"
    complains(cli("save", "s0", "nowhere", "a.save"), 2, why)
    assert cli("save", "s0", "a.save").status == 0
    complains(cli("restore", "a.save", "nowhere"), 2, why)


def test_another_number_of_devices(harness: Harness, cli):
    for name in ("s0", "s1", "d0"):
        harness.serve(name)
    assert cli("save", "s0", "s1", "a.save").status == 0
    why = "the file holds 2 devices (s0, s1), and 1 is given; give one DST for each, in this order"
    complains(cli("restore", "a.save", "d0"), 2, why)
    assert harness.states["d0"] == "RUNNING"


def test_other_devices(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0", FaultyMemory)
    assert cli("save", "s0", "a.save").status == 0
    ran = cli("restore", "a.save", "d0")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(
        "vfio-migration: error: s0, as it was saved, and d0 are not the same kind of device: "
        "PCI device 1234:11e8 and 1234:11e9; region 0 of "
    )
    assert harness.states["d0"] == "RUNNING"


def test_devices_in_a_wrong_state(harness: Harness, cli):
    harness.serve("s0")
    harness.serve("d0")
    assert cli("save", "s0", "a.save").status == 0
    ran = cli("save", "s0", "b.save")
    assert ran.status == 1
    assert ran.err.startswith(
        "vfio-migration: error: s0: is in STOP, and a source begins in RUNNING\n"
    )
    harness.hosts["d0"].server.engine.set_state("PRE_COPY")
    ran = cli("restore", "a.save", "d0")
    assert ran.status == 1
    assert ran.err.startswith(
        "vfio-migration: error: d0: is in PRE_COPY, and a destination begins in "
    )
    assert files() == ["a.save", "d0", "s0"]


@pytest.mark.parametrize("how", [(1, False), (ALWAYS, False), (1, True)], ids=str)
def test_a_restore_that_the_device_refuses(harness: Harness, cli, how):
    harness.serve("s0")
    harness.serve("d0", faults={JUDGED: how})
    harness.serve("d1")
    assert cli("save", "s0", "a.save").status == 0
    before = Path("a.save").read_bytes()
    ran = cli("restore", "a.save", "d0", "-q")
    now = "ERROR" if how[1] else "RESUMING"
    states_it = f"plan resume, phase judge: d0: SET_STATE STOP is refused (EIO); it is in {now} now"
    assert ran.status == 1
    assert ran.err == (
        f"vfio-migration: error: {states_it} (the devices do not run; the file is as it was)\n"
        "  d0: is stopped; restore into it again before it is used\n"
    )
    assert harness.running == {"d1"}
    assert Path("a.save").read_bytes() == before
    assert cli("restore", "a.save", "d1").status == 0
    assert harness.hosts["d1"].whole


def test_a_save_states_that_the_devices_are_stopped_and_how_they_go_on(harness: Harness, cli):
    """And what it states is so: word for word it lets them go on."""
    for name in ("s0", "s1"):
        harness.serve(name)
    ran = cli("save", "s0", "s1", "a b.save", "--json")
    hints = json.loads(ran.out.splitlines()[-1])["hints"]
    assert hints[0] == "the devices are stopped, and nothing runs with what was saved"
    assert harness.running == set()
    for hint in hints[1:3]:
        command = shlex.split(hint.partition(": ")[2])
        assert command[0] == "vfio-migration"
        assert cli(*command[1:]).status == 0
    assert harness.running == {"s0", "s1"}
    assert shlex.split(hints[3].partition(": ")[2])[1:] == ["restore", "a b.save", "DST", "DST"]
    ran = cli("save", "s0", "c.save", "--then", "run", "--json")
    assert json.loads(ran.out.splitlines()[-1])["hints"] == []


def test_a_save_that_the_device_refuses(harness: Harness, cli):
    harness.serve("s0", faults={STOPS: (1, False)})
    harness.serve("s1")
    ran = cli("save", "s0", "s1", "a.save", "-q", "--no-pre-copy")
    assert ran.status == 1
    assert ran.err == (
        "vfio-migration: error: plan save, phase stop: s0: SET_STATE STOP_COPY is refused (EIO); "
        "it is in PRE_COPY_P2P now (the devices run)\n"
        "  no file was written\n"
    )
    assert harness.running == {"s0", "s1"}
    assert not Path("a.save").exists()


def test_a_source_that_fails_for_good(harness: Harness, cli):
    harness.serve("s0", faults={STOPS: (1, True)})
    harness.serve("s1")
    ran = cli("save", "s0", "s1", "a.save", "--json")
    assert (ran.status, ran.err) == (1, "")
    last = ran.events[-1]
    assert (last["event"], last["outcome"]) == ("error", "lost")
    assert last["hints"] == ["no file was written", "s0: has failed, and what it held is lost"]
    assert harness.running == {"s0", "s1"}
    assert harness.hosts["s1"].whole


# --- nobody knows who runs ---


@pytest.mark.parametrize("then", ["stop", "run"])
def test_a_saved_device_that_does_not_answer(harness: Harness, cli, then):
    gate = threading.Event()
    harness.serve("s0", gate={("STOP_COPY", "STOP"): gate})
    ran = cli("save", "s0", "a.save", "--then", then, "--timeout", "300ms")
    gate.set()
    assert ran.status == 3
    assert "not all of the devices" in ran.err
    assert "(it is not known who runs)\n" in ran.err


def test_a_restored_device_that_does_not_answer(harness: Harness, cli):
    harness.serve("s0")
    assert cli("save", "s0", "a.save").status == 0
    gate = threading.Event()
    harness.serve("d0", gate={("STOP", "RUNNING_P2P"): gate})
    ran = cli("restore", "a.save", "d0", "--timeout", "300ms")
    gate.set()
    assert ran.status == 3
    assert "(it is not known who runs)\n" in ran.err
