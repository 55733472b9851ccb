"""What is written down of a run, and what becomes of the run if it cannot be."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.recorded_runs import Log, lines_of, running
from vfio_migration.cli.commands import check_trace
from vfio_migration.model import Spec, load
from vfio_migration.model.conformance.observation import MAX_LINE_BYTES
from vfio_migration.runtime.client.core import Exchange
from vfio_migration.runtime.client.recording import Recording
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.protocol.messages.catalogue import (
    MESSAGES,
    DeviceFeature,
    DeviceFeatureReply,
    DeviceReset,
    MigDataRead,
    MigDataWrite,
)
from vfio_migration.runtime.protocol.messages.features import MigDataReadReply
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening

SPEC = load()


def record(path: Path, *exchanges: Exchange, spec: Spec | None = None) -> list[dict[str, Any]]:
    """Return the lines of some exchanges, without the first and without times."""
    with Recording(path, spec) as recording:
        for exchange in exchanges:
            recording(exchange)
    assert recording.error is None
    lines = lines_of(path)
    assert recording.lines == len(lines)
    for line in lines[1:]:
        assert line.pop("time") >= 0
    return lines[1:]


def feature(index: int, data: bytes = b"", *, reply: bool = False, **methods: bool) -> Exchange:
    command = DeviceFeature.asking(index, data=data, **methods)
    if not reply:
        return Exchange("src", "command", 1, command)
    return Exchange("src", "reply", 1, command, DeviceFeatureReply.got(command, data))


def test_the_first_line_has_the_format_and_the_kind(tmp_path: Path) -> None:
    with Recording(tmp_path / "run", SPEC, program="mine 1.2"):
        pass
    (first,) = lines_of(tmp_path / "run")
    assert first.pop("began").endswith("Z")
    assert first == {"format": 1, "kind": "recording", "spec": "vfio-v2", "program": "mine 1.2"}
    with Recording(tmp_path / "run"):
        pass
    assert lines_of(tmp_path / "run")[0]["program"].startswith("vfio-migration ")


def test_states_and_capabilities_have_their_names(tmp_path: Path) -> None:
    state = b"\x03\x00\x00\x00\xff\xff\xff\xff"
    lines = record(
        tmp_path / "run",
        feature(2, state, set_=True),
        feature(2, b"\x63" + state[1:], get=True, reply=True),
        feature(1, b"\x03" + bytes(7), get=True, reply=True),
        feature(1, b"\x40" + bytes(7), get=True, reply=True),
        feature(2, b"\x01", set_=True),
        feature(99, b"xy", set_=True),
        feature(2, probe=True, get=True, set_=True),
    )
    head = {"device": "src", "what": "command", "id": 1, "command": "DEVICE_FEATURE"}
    about = {"feature": "MIG_DEVICE_STATE", "method": "SET", "size": 8, "argsz": 16}
    assert lines[0] == head | about | {"state": "STOP_COPY"}
    assert lines[1]["state"] == 99
    assert lines[2]["flags"] == ["STOP_COPY", "P2P"]
    assert lines[3]["flags"] == 64
    assert "state" not in lines[4]
    assert (lines[5]["feature"], lines[5]["size"]) == (99, 2)
    assert lines[6]["method"] == "PROBE GET SET"


def test_of_data_there_is_its_length_and_its_crc(tmp_path: Path) -> None:
    data = os.urandom(1000)
    lines = record(
        tmp_path / "run",
        Exchange("src", "command", 7, MigDataRead.asking(5000)),
        Exchange("src", "reply", 7, MigDataRead.asking(5000), MigDataReadReply(memoryview(data))),
        Exchange("dst", "command", 0, MigDataWrite.asking(data)),
    )
    crc = f"{zlib.crc32(data):08x}"
    head = {"device": "src", "what": "command", "id": 7, "command": "MIG_DATA_READ"}
    assert lines[0] == head | {"size": 5000, "argsz": 5008}
    assert lines[1] == head | {"what": "reply", "size": 1000, "crc": crc}
    assert (lines[2]["size"], lines[2]["crc"]) == (1000, crc)
    assert data[:20].hex() not in (tmp_path / "run").read_text()


def test_every_message_can_be_recorded(tmp_path: Path) -> None:
    """One of each, made of zeros: numbers are reported as they are, of the rest how much."""
    made = []
    for kinds in MESSAGES:
        for kind in kinds:
            values = {
                name: 0 if field.type == "int" else b"" if "Data" in field.type else ()
                for name, field in kind.__dataclass_fields__.items()
                if name != "capabilities" or "tuple" in field.type
            }
            made.append(kind(**values))
    lines = record(tmp_path / "run", *(Exchange("src", "served", 1, one, None) for one in made))
    for message, line in zip(made, lines, strict=True):
        assert line["command"] == message.name
        assert all(isinstance(value, int | str) for value in line.values()), line
    by_name = {line["command"]: line for line in lines}
    assert by_name["REGION_WRITE"].keys() >= {"offset", "region", "count"}


def test_errors_ends_descriptors_and_no_reply(tmp_path: Path) -> None:
    lines = record(
        tmp_path / "run",
        Exchange("src", "reply", 3, DeviceReset(), None, "EIO"),
        Exchange("src", "gone", why="w" * 5000),
        Exchange("src", "command", 3, DeviceReset(), fds=2, no_reply=True),
    )
    head = {"device": "src", "id": 3, "command": "DEVICE_RESET"}
    assert lines[0] == head | {"what": "reply", "errno": "EIO"}
    assert lines[1] == {"device": "src", "what": "gone", "why": "w" * 500}
    assert lines[2] == head | {"what": "command", "fds": 2, "no_reply": True}


def test_notes_and_labels(tmp_path: Path) -> None:
    with Recording(tmp_path / "run") as recording:
        watch = recording.watch("source", role="the one that saves")
        watch(Exchange("/run/a.sock", "connected"))
        recording.note(None, "phase", name="pre-copy", left=3, where=Path("/x"))
        recording.note("source", "transition", to="STOP")
        with pytest.raises(ValueError, match="what: every line has that"):
            recording.note("source", "phase", what="not so")
    lines = lines_of(tmp_path / "run")[1:]
    assert [(line.get("device"), line["what"]) for line in lines] == [
        ("source", "device"),
        ("source", "connected"),
        (None, "note"),
        ("source", "note"),
    ]
    assert lines[0]["role"] == "the one that saves"
    about = {"event": "phase", "name": "pre-copy", "left": 3, "where": "/x"}
    assert about.items() <= lines[2].items()


def test_a_new_file_is_private_and_an_old_one_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    mask = os.umask(0)
    try:
        record(path, Exchange("a", "connected"))
        record(path, Exchange("b", "connected"))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line["device"] for line in lines_of(path)[1:]] == ["b"]
    with pytest.raises(FileNotFoundError):
        Recording(tmp_path / "no" / "run")


def test_lines_of_many_threads_are_whole_and_in_order(tmp_path: Path) -> None:
    with Recording(tmp_path / "run") as recording:

        def notify(number: int) -> None:
            watch = recording.watch(str(number))
            for index in range(500):
                watch(Exchange("", "reply", index, DeviceReset(), None, "EIO"))

        threads = [threading.Thread(target=notify, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = lines_of(tmp_path / "run")[1:]
    assert len(lines) == 4000
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    for number in range(8):
        ids = [line["id"] for line in lines if line["device"] == str(number)]
        assert ids == list(range(500))


# --- what goes wrong ---


def test_a_full_disk_ends_the_recording_and_not_the_run(tmp_path: Path) -> None:
    """As a file that may not grow: the rest of the run is as if nobody recorded."""
    path = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Recording(path, SPEC) as recording:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            for index in range(50):
                recording(Exchange("src", "reply", index, DeviceReset()))
                recording.note(None, "phase", name="x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert isinstance(recording.error, OSError)
    assert recording.error.errno == errno.EFBIG
    text = path.read_bytes()
    assert len(text) == 1000
    *whole, cut = text.split(b"\n")
    assert recording.lines == len(whole)
    assert cut
    for line in whole:
        json.loads(line)


def test_a_device_that_is_full() -> None:
    with Recording("/dev/full") as recording:
        recording(Exchange("src", "connected"))
    assert isinstance(recording.error, OSError)
    assert recording.error.errno == errno.ENOSPC
    assert recording.lines == 0


def test_a_slow_reader_of_a_pipe_ends_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        Recording(path)  # nobody reads it
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Recording(path) as recording:
            for _ in range(10_000):
                recording(Exchange("src", "connected"))
        assert isinstance(recording.error, BlockingIOError)
    finally:
        os.close(reader)


class Mute:
    """What is not known as text."""

    def __str__(self) -> str:
        raise ZeroDivisionError


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("about", "error"),
    [
        (LOOP, ValueError),
        ({(1, 2): 3}, TypeError),
        (Mute(), ZeroDivisionError),
        ("x" * MAX_LINE_BYTES, ValueError),
        (10**5000, ValueError),
    ],
    ids=["circle", "key", "mute", "long", "number"],
)
def test_a_note_that_cannot_be_written_ends_the_recording(
    about: Any, error: type[Exception], tmp_path: Path
) -> None:
    with Recording(tmp_path / "run") as recording:
        recording.note(None, "phase", about=about)
        recording.note(None, "phase")
    assert type(recording.error) is error
    assert len(lines_of(tmp_path / "run")) == 1


def test_the_longest_line_is_read(tmp_path: Path) -> None:
    with Recording(tmp_path / "run", SPEC) as recording:
        recording.note(None, "phase", about="")
        size = (tmp_path / "run").read_bytes().splitlines(keepends=True)[1]
        recording.note(None, "phase", about="x" * (MAX_LINE_BYTES - len(size) - 20))
    assert recording.error is None
    with (tmp_path / "run").open("rb") as file:
        assert check_trace.check(file, SPEC, None).lines == 3
    assert check_trace._MAX_LINE_BYTES == MAX_LINE_BYTES


def test_nothing_is_written_once_it_is_closed(tmp_path: Path) -> None:
    with Recording(tmp_path / "run") as recording:
        pass
    recording(Exchange("src", "connected"))
    recording.note(None, "phase")
    recording.close()
    assert (len(lines_of(tmp_path / "run")), recording.error) == (1, None)


def test_a_process_that_is_killed_loses_one_line_at_most(tmp_path: Path) -> None:
    path = tmp_path / "run"
    code = """
import sys
from vfio_migration.runtime.client.core import Exchange
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.transport.listening import listening
from vfio_migration.runtime.client.recording import Recording
from vfio_migration.runtime.server.server import Server
recording = Recording(sys.argv[1])
for number in range(10_000_000):
    recording.note("src", "count", number=number)
    if number % 1000 == 0:
        print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(5):
            reported = int(process.stdout.readline())
        process.kill()
    *whole, last = path.read_bytes().split(b"\n")
    numbers = [json.loads(line)["number"] for line in whole[1:]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > reported
    assert last == b""


# --- a real run ---


def test_a_real_run_is_written_down(tmp_path: Path) -> None:
    log = Log()
    with log.kept(), running(SPEC, 7, tmp_path / "run", name="src") as run:
        assert run.ask("PRE_COPY") == "EINVAL"
        run.bring("RESUMING")
        run.client.region_read(0, 0, 4)
        run.client.dma_map(0, 4096)
    lines = lines_of(tmp_path / "run")[1:]
    assert {line["device"] for line in lines} == {"src"}
    commands = [line for line in lines if line["what"] == "command"]
    replies = [line for line in lines if line["what"] == "reply"]
    assert [line["id"] for line in commands] == [line["id"] for line in replies]
    assert [line["command"] for line in commands][:3] == [
        "VERSION",
        "DEVICE_FEATURE",
        "DEVICE_FEATURE",
    ]
    assert replies[0]["max_data_xfer_size"] == 1 << 20
    assert lines[-1]["what"] == "gone"
    (refused,) = (line for line in replies if "errno" in line)
    assert (refused["feature"], refused["errno"]) == ("MIG_DEVICE_STATE", "EINVAL")
    written = next(line for line in commands if line["command"] == "MIG_DATA_WRITE")
    assert (written["size"], written["crc"]) == (len(run.stream), f"{zlib.crc32(run.stream):08x}")


def test_connections_of_one_device_have_numbers_of_their_own(tmp_path: Path) -> None:
    """A client that waits while another is served is no reason to suspect the server."""
    from vfio_migration.runtime.client import Client, TimedOutError

    path = tmp_path / "src.sock"
    device = Edu(dma_seconds=0)
    server = Server(device)
    with listening(path) as sock, Recording(tmp_path / "run") as recording:
        thread = threading.Thread(target=server.serve, args=(sock,))
        thread.start()
        try:
            with Client(path, name="src", observers=[recording]) as client:
                client.set_state("STOP")
                with pytest.raises(TimedOutError):
                    Client(path, name="src", observers=[recording], timeout_s=0.1)
                assert client.state() == "STOP"
            with Client(path, name="src", observers=[recording]) as client:
                assert client.state() == "STOP"
            with Client(path, name="dst", observers=[recording]):
                pass
        finally:
            server.stop()
            thread.join()
            device.close()
    lines = lines_of(tmp_path / "run")[1:]
    found = {
        device: [line.get("connection", 1) for line in lines if line["device"] == device]
        for device in ("src", "dst")
    }
    assert found == {"src": [1] * 5 + [2] * 2 + [1] * 3 + [3] * 6, "dst": [1] * 4}
    with (tmp_path / "run").open("rb") as file:
        result = check_trace.check(file, SPEC, None)
    assert not result.found
    assert result.held["states returned"] == 2
    assert result.unrestricted["messages of several clients at a time"] == 2
