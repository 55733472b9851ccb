"""The journal: read as it was written, whole at any time, and refused if it makes no sense."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import environment
from support.migration_harness import SPEC, Harness
from support.samples import sampled
from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.journal import Entry, Journal
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver
from vfio_migration.runtime.transport.peer_process import Process

PROCESSES = st.builds(Process, st.integers(0, 1 << 30), st.integers(0, 1 << 60))
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(
    st.lists(NAMES, min_size=2, max_size=10, unique_by=os.path.realpath),
    st.lists(PROCESSES, min_size=10, max_size=10),
    st.text(),
    st.sampled_from(["source", "delivered", "destination"]),
)
def test_a_journal_is_read_as_it_was_written(tmp_path_factory, names, processes, migration, holder):
    entries = [
        Entry(one, two, processes[at], processes[at + 1])
        for at, (one, two) in enumerate(zip(names[::2], names[1::2], strict=False))
    ]
    path = tmp_path_factory.mktemp("journal") / "journal"
    with contextlib.chdir(tmp_path_factory.mktemp("sockets")):
        written = Journal(path, migration, tuple(entries), holder)
        written.begin()
    found = journals.read(path)
    assert found is not None
    assert found.folder == written.folder
    assert (found.path, found.migration, found.entries, found.holder) == (
        path,
        migration,
        tuple(entries),
        holder,
    )
    assert found.exists
    found.end()
    assert not found.exists
    assert list(path.parent.iterdir()) == []


@given(st.binary(max_size=200))
def test_no_file_makes_a_reader_fall_over(tmp_path_factory, content: bytes):
    path = tmp_path_factory.mktemp("journal") / "journal"
    path.write_bytes(content)
    with pytest.raises(CannotMigrateError):
        journals.read(path)


@pytest.fixture
def elsewhere(tmp_path_factory, monkeypatch) -> Path:
    """A folder for sockets, beside which they are claimed."""
    folder = tmp_path_factory.mktemp("sockets")
    monkeypatch.chdir(folder)
    return folder


ENTRY = Entry("s", "d", Process(2, 3), Process(4, 5))


def test_a_journal_is_there_once(tmp_path: Path, elsewhere: Path):
    path = tmp_path / "journal"
    first, second = (Journal(path, "live", (ENTRY,)) for _ in range(2))
    first.begin()
    with pytest.raises(CannotMigrateError, match="was not brought to its end"):
        second.begin()
    second.end()  # what was not its own it does not remove
    assert path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["journal"]


def test_of_many_who_begin_at_once_one_does(tmp_path: Path, elsewhere: Path):
    path, done = tmp_path / "journal", []
    ready = threading.Barrier(8)

    def begin() -> None:
        ready.wait()
        try:
            Journal(path, "live", (ENTRY,)).begin()
        except CannotMigrateError:
            done.append(False)
        else:
            done.append(True)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False] * 7 + [True]
    assert [one.name for one in tmp_path.iterdir()] == ["journal"]


def test_a_journal_is_whole_at_any_time(tmp_path: Path, elsewhere: Path):
    """Somebody who reads while it is replaced finds one or the other."""
    path = tmp_path / "journal"
    entries = [replace(ENTRY, source=f"s{at}", destination=f"d{at}") for at in range(50)]
    journal = Journal(path, "live", tuple(entries))
    journal.begin()
    stop = threading.Event()
    found: set[str] = set()

    def look() -> None:
        while not stop.is_set():
            read = journals.read(path)
            assert read is not None
            found.add(read.holder)

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(60):
        for holder in ("delivered", "destination", "source"):
            journal.hold(holder)
    stop.set()
    thread.join()
    assert found <= {"source", "delivered", "destination"}
    assert journals.read(path).holder == "source"


def test_what_does_not_change_is_not_written(tmp_path: Path, elsewhere: Path):
    path = tmp_path / "journal"
    journal = Journal(path, "live", (ENTRY,))
    journal.begin()
    before = path.read_bytes()
    journal.hold("source")
    assert path.read_bytes() == before
    journal.hold("delivered")
    assert path.read_bytes() != before


def blocks(path: Path) -> tuple[int, int, int]:
    there = path.stat()
    return there.st_ino, there.st_size, there.st_blocks


@pytest.mark.parametrize("count", [1, 10, 11, 100])
def test_a_journal_does_not_grow(tmp_path: Path, elsewhere: Path, count: int):
    """All the room it can need is there from the beginning, and none of it is taken twice."""
    entries = [replace(ENTRY, source=f"s{at}", destination=f"d{at}") for at in range(count)]
    path = tmp_path / "journal"
    journal = Journal(path, "live", tuple(entries))
    journal.begin()
    before = blocks(path)
    assert before[2] * 512 >= before[1]
    for at in range(4):
        holder = ("delivered", "destination", "source")[at % 3]
        if at % 2:  # anybody who recovers goes on where the last one ended
            journal = journals.read(path)
        journal.hold(holder)
        assert journals.read(path).holder == holder
        assert blocks(path) == before
    # A fifth time is more than was foreseen: then it is replaced, and begins anew.
    journal.hold("destination")
    assert journals.read(path).holder == "destination"
    assert blocks(path)[0] != before[0]
    assert blocks(path)[1:] == before[1:]
    journal.hold("delivered")
    assert journals.read(path).holder == "delivered"


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC], ids=["not known", "full"])
def test_a_file_system_that_sets_no_room_aside(
    tmp_path: Path, elsewhere: Path, monkeypatch, number: int
):
    def fallocate(*_words: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(journals.os, "posix_fallocate", fallocate)
    path = tmp_path / "journal"
    journal = Journal(path, "live", (ENTRY,))
    if number == errno.ENOSPC:
        with pytest.raises(CannotMigrateError, match="cannot be written: No space left on device"):
            journal.begin()
        assert list(tmp_path.iterdir()) == []
        return
    journal.begin()
    before = blocks(path)
    assert before[2] * 512 >= before[1]
    journal.hold("delivered")
    assert journals.read(path).holder == "delivered"
    assert blocks(path) == before


def test_what_was_torn_does_not_count(tmp_path: Path, elsewhere: Path):
    """The power fails in the middle of a write: the record before it holds, and is continued."""
    path = tmp_path / "journal"
    journal = Journal(path, "live", (ENTRY,))
    journal.begin()
    journal.hold("delivered")
    before = path.read_bytes()
    journal.hold("destination")
    after = path.read_bytes()
    changed = [at for at, (one, two) in enumerate(zip(before, after, strict=True)) if one != two]
    for end in range(changed[0], changed[-1] + 1):
        for torn in (after[:end] + before[end:], before[:end] + after[end:]):
            path.write_bytes(torn)
            found = journals.read(path)
            assert found.holder == ("destination" if torn == after else "delivered")
    path.write_bytes(after[: changed[-1]] + before[changed[-1] :])
    found = journals.read(path)
    found.hold("destination")
    assert path.read_bytes() == after


def test_the_slots_of_another_journal_do_not_count(tmp_path: Path, elsewhere: Path):
    path, other = tmp_path / "journal", tmp_path / "other"
    Journal(path, "live", (ENTRY,)).begin()
    Journal(other, "live", (replace(ENTRY, source="t", destination="e"),)).begin()
    found = journals.read(other)
    found.hold("destination")
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(mine[:4096] + theirs[4096:])
    assert journals.read(path).holder == "source"


def test_a_journal_that_somebody_took_away_is_written_anew(tmp_path: Path, elsewhere: Path):
    path = tmp_path / "journal"
    journal = Journal(path, "live", (ENTRY,))
    journal.begin()
    path.unlink()
    journal.hold("delivered")
    assert journals.read(path).holder == "delivered"
    path.write_text("precious")
    journal.hold("destination")
    assert journals.read(path).holder == "destination"


FULL = """
import os, sys
from pathlib import Path
from support.migration_harness import Harness

os.chdir(sys.argv[1])
harness = Harness()
for name in ("s0", "d0"):
    harness.serve(name)

def report(event):
    if event.name == "plan":  # the journal is there, and nothing has been moved
        with open("junk", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                print(error.errno)

harness.events = type("Events", (), {"append": staticmethod(report)})
MORE
whole = harness.hosts["d0"].whole
print(sorted(harness.states.items()), whole, Path("s0.migration").exists(), flush=True)
os._exit(0)
"""


@sampled(2)
@pytest.mark.parametrize("fails", [False, True], ids=["all is well", "the destination fails"])
def test_a_full_file_system_holds_nobody_up(tmp_path: Path, fails: bool):
    """A real one, which is full from the first move to the last."""
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
    inside = ["unshare", "-Urm", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    there = shutil.which("unshare")
    if not there or subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    more = "harness.coordinator().run()"
    if fails:
        more = """
harness.hosts["d0"].device.faults[("RUNNING_P2P", "RUNNING")] = (1, True)
print(harness.fail().outcome)"""
    words = [sys.executable, "-c", FULL.replace("MORE", more), str(tmp_path)]
    done = subprocess.run(
        [*inside, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    winner = "[('d0', 'RUNNING'), ('s0', 'STOP')] True False"
    if fails:
        winner = "source\n[('d0', 'ERROR'), ('s0', 'RUNNING')] True False"
    assert (done.stdout, done.returncode) == (f"28\n{winner}\n", 0), done.stderr


def test_a_journal_in_memory():
    journal = Journal(None, "live", (ENTRY,))
    journal.begin()
    journal.hold("delivered")
    assert journal.holder == "delivered"
    assert not journal.exists
    journal.end()


# --- names that lead to the same socket, or to none ---


def journal(harness: Harness, **changes) -> Path:
    """Write a journal of a migration that has begun, changed."""
    coordinator = harness.coordinator()
    data = Journal(None, "live", coordinator._entries()).to_data()
    coordinator._hang_up()
    device = data["devices"][0]
    for key, value in changes.items():
        (device if key in device else data)[key] = value
    if "devices" in changes:
        data["devices"] = [device] * changes["devices"]
    path = Path("s0.migration")
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def pair(harness: Harness) -> Harness:
    harness.serve("s0")
    harness.serve("d0")
    return harness


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"devices": 2}, "{}/s0: is named twice; each socket is one end of one device"),
        ({"destination": "s0"}, "{}/s0: is named twice; each socket is one end of one device"),
        ({"destination": "./d0/../s0"}, "{}/s0: is named twice"),
        ({"destination": "link"}, "{0}/s0 and {0}/link: are the same socket"),
        ({"source": "s\0"}, "'{}/s\\x00': is not a path of a socket: it has a NUL in it"),
        (
            {"source": "\ud800"},
            "is not a path of a socket: it has characters that no file name has",
        ),
        ({"destination": "d" * 100_000}, "bytes long, and 4095 are the most"),
        ({"folder": "a\0"}, "is not a path of a socket"),
        ({"folder": 7}, "this is not a journal of a migration, or it is damaged"),
        ({"migration": {}}, "this is not a journal of a migration, or it is damaged"),
        ({"source": ["s0"]}, "this is not a journal of a migration, or it is damaged"),
    ],
)
def test_a_journal_that_names_no_devices_or_the_same(pair: Harness, changes, why: str):
    Path("link").symlink_to("s0")
    path = journal(pair, **changes)
    pair.arcs.clear()
    with pytest.raises(CannotMigrateError) as refusal:
        pair.recover()
    assert str(path) in refusal.value.why
    assert why.format(Path.cwd()) in refusal.value.why
    assert len(refusal.value.why) < 500
    assert refusal.value.hints == (
        "choose which side is to run: --keep source or --keep destination",
    )
    assert pair.arcs == []
    # Anybody who knows better is believed.
    assert pair.recover(keep="source").outcome == "source"
    assert pair.running == {"s0"}
    assert not path.exists()


@pytest.mark.parametrize("where", ["s0.migration", "d0.migration", "elsewhere"])
def test_a_folder_where_a_journal_would_be(pair: Harness, where: str):
    Path(where).mkdir()
    more = {"journal": Path(where)} if where == "elsewhere" else {}
    with pytest.raises(
        CannotMigrateError, match="is a folder, and is where the journal"
    ) as refusal:
        pair.coordinator(**more).run()
    assert refusal.value.refused
    assert "take it away" in refusal.value.hints[0]
    for keep in (None, "source"):
        with pytest.raises(CannotMigrateError, match=f"{where}: is a folder, and no journal"):
            pair.recover(keep=keep, **more)
    assert pair.running == {"s0", "d0"}
    assert Path(where).is_dir()


def test_a_file_that_is_no_journal_is_not_removed(pair: Harness):
    """With `keep` a journal that cannot be read is given up; a recording is not, by mistake."""
    recording = Path("run.jsonl")
    recording.write_text('{"kind": "recording"}\n')
    with pytest.raises(CannotMigrateError, match="this is not a journal") as refusal:
        pair.recover(keep="source", journal=recording)
    assert refusal.value.hints == ("leave --journal out, or remove it yourself",)
    assert recording.exists()
    Path("s0.migration").symlink_to(recording.resolve())  # now the device belongs to it
    assert pair.recover(keep="source", journal=recording).outcome == "source"
    assert not recording.exists()


def test_no_device_of_the_system_is_removed_for_a_journal(pair: Harness):
    os.mkfifo("pipe")
    with pytest.raises(CannotMigrateError, match="is a pipe, and no journal"):
        pair.recover(keep="source", journal=Path("pipe"))
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("bad", ["x\0", "y/" * 3000, "\ud800", ""])
@pytest.mark.parametrize(
    "act",
    [
        lambda bad: Coordinator([(bad, "d0")], spec=SPEC),
        lambda bad: Coordinator([("s0", bad)], spec=SPEC),
        lambda bad: recover([("s0", bad)], spec=SPEC, keep="source"),
        lambda bad: Saver([bad], spec=SPEC),
        lambda bad: Restorer([bad], spec=SPEC),
    ],
)
def test_a_name_that_is_no_path(act, bad: str):
    with pytest.raises(CannotMigrateError, match="is not a path of a socket: it ") as refusal:
        act(bad)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("bad", ["x\0", "y" * 300, "\ud800"])
def test_a_journal_of_a_name_that_is_no_path(pair: Harness, bad: str):
    with pytest.raises(CannotMigrateError, match="the journal cannot be written: "):
        pair.coordinator(journal=Path(bad)).run()
    with pytest.raises(CannotMigrateError, match="the journal cannot be read: "):
        pair.recover(journal=Path(bad))
    assert pair.running == {"s0", "d0"}


@pytest.mark.parametrize("other", ["link", "hard", "way/s0"])
def test_the_same_socket_by_another_name(pair: Harness, other: str):
    Path("link").symlink_to("s0")
    Path("way").symlink_to(".")
    Path("hard").hardlink_to("s0")
    for act in (
        lambda: Coordinator([("s0", other)], spec=SPEC),
        lambda: Coordinator([("s0", "d0"), (other, "d1")], spec=SPEC),
        lambda: Saver(["s0", other], spec=SPEC),
        lambda: Restorer(["s0", other], spec=SPEC),
        lambda: recover([("s0", other)], spec=SPEC),
    ):
        with pytest.raises(CannotMigrateError, match=f"s0 and {other}: are the same socket; each "):
            act()
    with (
        claims.locked([other]),
        pytest.raises(CannotMigrateError, match="another process is moving this device"),
    ):
        pair.coordinator().run()
    assert pair.running == {"s0", "d0"}
