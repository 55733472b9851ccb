"""The log of a server process: cut, counted, at a rate, and nobody waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from support.raw_client import RefusedError
from support.server_process import ServerProcess, full_pipe
from vfio_migration.model.conformance.log import LogConformance
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import ArcError, RequestFailedError, RequestRefusedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.kit.state_stream import MAX_HEADER, StreamWriter
from vfio_migration.runtime.server import background_writer
from vfio_migration.runtime.server import log_writer as server_log
from vfio_migration.runtime.server.background_writer import BackgroundWriter
from vfio_migration.runtime.server.log import (
    LOGGER,
    MAX_FIELD_CHARS,
    MAX_TEXT_CHARS,
    JsonLines,
    Text,
    log_event,
)
from vfio_migration.runtime.server.log_writer import LogWriter
from vfio_migration.runtime.server.observer import ServerLog
from vfio_migration.runtime.server.repeats import INTERVAL_S, MAX_KINDS, Repeats

STOP, RESUMING = 1, 4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lines:
    """A log that is written to a file."""

    def __init__(self, path, formatter=None) -> None:
        self.clock = Clock()
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.log = LogWriter(self._fd, formatter or JsonLines(), clock=self.clock)

    def end(self) -> list[dict]:
        self.log.end(20)
        os.close(self._fd)
        return [json.loads(line) for line in self._path.read_text("utf-8").splitlines()]


@pytest.fixture
def lines(tmp_path) -> Iterator[Lines]:
    lines = Lines(tmp_path / "log")
    before, level, spreads = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    LOGGER.handlers[:], LOGGER.propagate = [lines.log], False
    LOGGER.setLevel(logging.INFO)
    yield lines
    LOGGER.handlers[:], LOGGER.propagate = before, spreads
    LOGGER.setLevel(level)


def counts(rows: list[dict]) -> Counter[str]:
    """How many lines of each event there were, those that were left out included."""
    found: Counter[str] = Counter()
    for row in rows:
        if row["event"] == "left_out":
            left = {name: count for name, count in row.items() if isinstance(count, int)}
            found.update(left)
        else:
            found[row["event"]] += 1
    return found


def test_each_field_is_cut(lines) -> None:
    log_event(
        "connected", why="x" * 60_000, error=OSError("y" * 60_000), deep={"why": "z" * 60_000}
    )
    (row,) = lines.end()
    assert [len(row[name]) for name in ("why", "error")] == [MAX_FIELD_CHARS] * 2
    assert len(row["deep"]["why"]) == MAX_FIELD_CHARS
    assert "60000 characters" in row["why"]


@pytest.mark.parametrize("formatter", [JsonLines(), Text()])
def test_what_other_loggers_state_and_a_traceback_are_cut_and_escaped(formatter) -> None:
    try:
        raise ValueError("\x1b[31m" + "x" * 60_000)
    except ValueError as error:
        record = logging.makeLogRecord(
            {"msg": "\x1b]0;title\7" + "y" * 60_000, "exc_info": (type(error), error, None)}
        )
    text = formatter.format(record)
    assert len(text) < 2 * MAX_TEXT_CHARS + 500
    assert "\x1b" not in text


def test_no_more_lines_are_written_than_the_burst_and_the_rest_is_counted_by_event(lines) -> None:
    for _ in range(3000):
        log_event("transition", what="RUNNING -> STOP")
    for _ in range(20):
        log_event("connected")
    lines.clock.now += 2
    log_event("disconnected")
    rows = lines.end()
    assert len(rows) <= server_log.BURST_LINES
    assert counts(rows) == {"transition": 3000, "connected": 20, "disconnected": 1}
    assert [row["event"] for row in rows[-2:]] == ["left_out", "disconnected"]


@pytest.mark.exhaustive
def test_in_the_long_run_there_are_so_many_lines_a_second(lines) -> None:
    for _ in range(60 * 10):
        for _ in range(100):
            log_event("transition")
        lines.clock.now += 0.1
    rows = lines.end()
    assert len(rows) <= server_log.BURST_LINES + 60 * server_log.LINES_PER_S
    assert counts(rows) == {"transition": 60_000}


def test_long_lines_use_up_the_bytes_of_the_rate(lines) -> None:
    for _ in range(10):
        for _ in range(1000):
            log_event("connected", **{f"why{number}": "x" * 60_000 for number in range(10)})
        lines.clock.now += 1
    path = lines._path
    rows = lines.end()
    assert path.stat().st_size <= server_log.BURST_BYTES + 11 * server_log.BYTES_PER_S
    assert counts(rows) == {"connected": 10_000}


def test_a_flood_leaves_room_for_an_error_of_our_own(lines) -> None:
    for _ in range(5000):
        log_event("transition")
    log_event("device_failed", level=logging.ERROR)
    rows = lines.end()
    assert [row["event"] for row in rows].count("device_failed") == 1


def a_record() -> logging.LogRecord:
    return logging.makeLogRecord(
        {"msg": "transition", "event": "transition", "fields": {}, "levelno": logging.INFO}
    )


def test_lines_that_are_not_read_are_counted_and_reported_once_the_log_is_read() -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = LogWriter(writer, JsonLines(), clock=(clock := Clock()))
    for _ in range(5000):
        log.handle(a_record())
        clock.now += 1
    rows: list[dict] = []

    def read() -> None:
        with open(reader, encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            rows.extend(json.loads(line) for line in file)

    thread = threading.Thread(target=read)
    thread.start()
    while log._writer._queue.qsize():
        thread.join(0.01)
    log.handle(a_record())
    log.end(20)
    os.close(writer)
    thread.join(20)
    assert background_writer.MAX_LINES <= len(rows) < background_writer.MAX_LINES + 200
    assert rows[-2]["event"] == "left_out"
    assert counts(rows) == {"transition": 5001}


def test_a_writer_never_waits_and_returns_what_it_does_not_take() -> None:
    with full_pipe() as fd:
        writer: BackgroundWriter[bytes] = BackgroundWriter(fd, bytes)
        writer.start()
        taken = [writer.put(b"x\n") for _ in range(2 * background_writer.MAX_LINES)]
        assert background_writer.MAX_LINES <= taken.count(True) <= background_writer.MAX_LINES + 1
        assert taken[-1] is False
        assert writer.close(0.01) is False


def test_what_waits_to_be_written_is_bounded_in_bytes_too() -> None:
    with full_pipe() as fd:
        writer: BackgroundWriter[bytes] = BackgroundWriter(fd, bytes)
        writer.start()
        line = b"x" * 10_000
        taken = [writer.put(line, len(line)) for _ in range(1000)]
        assert taken.count(True) == background_writer.MAX_WAITING_BYTES // len(line)


def test_lines_lost_on_a_full_disk_are_reported_before_the_next_line(tmp_path) -> None:
    target = os.open("/dev/full", os.O_WRONLY)
    log = LogWriter(target, JsonLines(), clock=Clock())
    for _ in range(3):
        log.handle(a_record())
    while log._writer.lost < 3:
        log._writer._thread.join(0.01)
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(file, target)
    log.handle(a_record())
    log.end(20)
    for fd in (file, target):
        os.close(fd)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert [row["event"] for row in rows] == ["left_out", "transition"]
    assert rows[0]["unwritten"] == 3


# --- repeated lines ---


def test_a_request_that_is_refused_again_and_again_is_one_line_and_a_count(serve, lines) -> None:
    served = serve()
    with served.client() as client:
        for number in range(500):
            with pytest.raises(RefusedError):
                client.set_state(100 + number)
    with served.client() as client:
        assert client.state == 2
        rows = [row for row in lines.end() if row["event"] in ("request", "repeated")]
    # A slow machine takes longer for them than one is left out.
    assert len(rows) < 100
    reported = sum("target" in row for row in rows) + sum(row.get("left_out", 0) for row in rows)
    assert reported == 500


def test_a_long_name_in_a_stream_is_not_logged_whole_each_time_it_is_refused(tmp_path) -> None:
    """Its first frame said 60 KB, and each request of 40 bytes wrote them all into the log."""
    name = "x" * (MAX_HEADER - 100)
    stream = StreamWriter({"device": name}, (), lambda: ())
    data = b"".join(bytes(part) for part in stream.read(2 * MAX_HEADER, still=True))
    with ServerProcess(tmp_path, "--log-format", "json") as served:
        with served.client() as client:
            for state in (STOP, RESUMING):
                client.set_state(state)
            with pytest.raises(RefusedError):
                client.mig_write(data)
            for _ in range(200):
                with pytest.raises(RefusedError):
                    client.set_state(STOP)
        with served.client() as client:
            assert client.state == RESUMING
    assert name[:10] in served.log
    assert len(served.log) < len(name)


class Failing(Edu):
    fails = True

    def stop(self) -> None:
        if self.fails:
            raise ArcError("the disk is full", for_good=False)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_request_whose_arc_fails_and_that_changes_nothing_is_counted_too(lines, count) -> None:
    server_log, device = ServerLog(clock := Clock()), Failing()
    engine = Engine(device.spec, device.capabilities, device, observers=[server_log])
    for _ in range(count + 1):
        with pytest.raises(RequestFailedError):
            engine.set_state("STOP")
    clock.now += INTERVAL_S
    with pytest.raises(RequestFailedError):
        engine.set_state("STOP")
    server_log.flush()
    device.close()
    rows = [row for row in lines.end() if row.get("outcome") == "failed"]
    # The first request has led from RUNNING to RUNNING_P2P, and is not like those after it.
    arcs = [row.get("left_out") for row in rows if row["event"] == "transition"]
    assert arcs == [None, None, count - 1 or None]
    assert [row["event"] for row in rows] == ["transition", "request"] * 3


def test_a_log_with_lines_left_out_is_no_run_that_breaks_the_table(lines, serve) -> None:
    served = serve(Failing())
    served.device.fails = False
    with served.client() as client:
        for turn in range(6):
            served.device.fails = turn % 2 == 1
            for state in (1, 2, 99, 1, 1, 2, 5, 2):
                with contextlib.suppress(RefusedError):
                    client.set_state(state)
            for _ in range(300 * (turn == 4)):
                client.set_state(1)
                client.set_state(2)
        lines.clock.now += 5
    with served.client() as client:
        assert client.state == 2
    rows = lines.end()
    assert {"left_out", "repeated"} <= {row["event"] for row in rows}
    conformance = LogConformance(served.device.spec)
    assert [found for found in map(conformance.observe, rows) if found is not None] == []


def test_a_record_of_a_change_is_logged_each_time(lines) -> None:
    server_log, device = ServerLog(Clock()), Edu()
    engine = Engine(device.spec, device.capabilities, device, observers=[server_log])
    for _ in range(5):
        engine.set_state("RUNNING_P2P")
        engine.set_state("RUNNING")
        engine.reset()
    server_log.flush()
    device.close()
    found = counts(lines.end())
    assert (found["transition"], found["reset"]) == (10, 5)


def test_the_count_of_a_kind_that_is_pushed_out_is_not_lost() -> None:
    reported: list[tuple[int, int]] = []
    repeats: Repeats[int] = Repeats(lambda kind, count: reported.append((kind, count)), Clock())
    for _ in range(3):
        repeats.admit(0)
    for kind in range(1, MAX_KINDS + 1):
        assert repeats.admit(kind) == 0
    assert reported == [(0, 2)]
    repeats.admit(1)
    repeats.flush()
    repeats.flush()
    assert reported == [(0, 2), (1, 1)]


def test_a_refusal_is_logged_again_after_an_interval(lines) -> None:
    server_log, device = ServerLog(clock := Clock()), Edu()
    engine = Engine(device.spec, device.capabilities, device, observers=[server_log])
    for _ in range(3):
        with pytest.raises(RequestRefusedError):
            engine.set_state(77)
    clock.now += INTERVAL_S
    with pytest.raises(RequestRefusedError):
        engine.set_state(78)
    server_log.flush()
    device.close()
    rows = [row for row in lines.end() if row["event"] == "request"]
    assert [(row["target"], row.get("left_out")) for row in rows] == [(77, None), (78, 2)]
