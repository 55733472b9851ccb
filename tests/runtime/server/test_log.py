"""The log of what happens to a device: complete, in order, and nobody waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from vfio_migration.model import load
from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.engine.errors import ArcError, RequestFailedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.log import LOGGER
from vfio_migration.runtime.server.observer import MAX_KEPT_RECORDS, ServerLog

STOP, RUNNING, P2P = (load().state(name).value for name in ("STOP", "RUNNING", "RUNNING_P2P"))


class Lines(logging.Handler):
    """Keeps what is logged, after whatever it is asked to do first."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.first: Callable[[], object] = lambda: None

    def emit(self, record: logging.LogRecord) -> None:
        self.first()
        self.records.append(record)

    @property
    def reported(self) -> list[tuple[str, str | None]]:
        return [(record.event, record.fields.get("what")) for record in self.records]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, level = Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield handler
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


class Failing(Edu):
    def stop(self) -> None:
        raise ArcError("the disk is full")


def engine_with(server_log: ServerLog, device: Edu) -> Engine:
    return Engine(device.spec, device.capabilities, device, observers=[server_log])


def test_a_client_has_its_reply_before_the_line_is_written(serve, lines: Lines) -> None:
    served = serve()
    with served.client() as client:
        replied = threading.Event()
        waited: list[bool] = []
        lines.first = lambda: waited.append(replied.wait(60))
        client.set_state(STOP)
        replied.set()
        assert client.state == STOP
    assert waited
    assert all(waited), "a line was written before the client had its reply"


def test_a_second_client_finds_the_log_of_the_first_complete(serve, lines: Lines) -> None:
    served = serve()
    assert lines.reported == [("attached", "RUNNING")]
    lines.records.clear()
    with served.client() as first:
        first.set_state(STOP)
        first.set_state(P2P)
    with served.client() as second:
        assert second.state == P2P
        assert lines.reported == [
            ("connected", None),
            ("transition", "RUNNING -> RUNNING_P2P"),
            ("transition", "RUNNING_P2P -> STOP"),
            ("transition", "STOP -> RUNNING_P2P"),
            ("disconnect", "RUNNING_P2P"),
            ("disconnected", None),
            ("connected", None),
        ]
        times = [record.created for record in lines.records]
        assert times == sorted(times)


def test_a_line_bears_the_time_at_which_it_happened(lines: Lines) -> None:
    server_log, device = ServerLog(), Edu()
    engine = engine_with(server_log, device)
    before = time.time()
    engine.set_state("RUNNING_P2P")
    after = time.time()
    time.sleep(0.05)
    assert ("transition", "RUNNING -> RUNNING_P2P") not in lines.reported
    server_log.write()
    (record,) = (record for record in lines.records if record.event == "transition")
    # The two clocks are read one after the other, and one of them may be set meanwhile.
    assert before - 0.01 <= record.created <= after + 0.01
    device.close()


def test_a_failure_is_logged_at_once_after_what_came_before(lines: Lines) -> None:
    server_log, device = ServerLog(), Failing()
    engine = engine_with(server_log, device)
    with pytest.raises(RequestFailedError):
        engine.set_state("STOP")
    reported = [row for row in lines.records if row.event == "transition"]
    assert [row.fields["outcome"] for row in reported] == ["completed", "failed"]
    assert [row.levelname for row in reported] == ["INFO", "WARNING"]
    device.close()


def test_no_more_is_kept_than_the_bound(lines: Lines) -> None:
    server_log, device = ServerLog(), Edu()
    engine = engine_with(server_log, device)
    server_log.write()
    lines.records.clear()
    for number in range(MAX_KEPT_RECORDS):
        engine.set_state(RUNNING if number % 2 else P2P)
    assert lines.records == []
    engine.set_state(P2P)
    assert len(lines.records) == MAX_KEPT_RECORDS + 1
    device.close()


def test_records_of_several_threads_are_each_logged_once(lines: Lines) -> None:
    server_log, device = ServerLog(), Edu()
    engine = engine_with(server_log, device)
    server_log.write()
    lines.records.clear()
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            server_log.write()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(200):
        engine.set_state("RUNNING_P2P")
        engine.set_state("RUNNING")
    done.set()
    for writer in writers:
        writer.join()
    server_log.write()
    assert len(lines.records) == 400
    device.close()


def test_another_thread_may_write_first(lines: Lines) -> None:
    """Between the look whether there is something and the taking of it."""

    class Contended(deque):
        def __bool__(self) -> bool:
            there = len(self) > 0
            self.clear()  # it is the other one that logs it
            return there

    server_log, device = ServerLog(), Edu()
    server_log._kept = Contended()
    engine_with(server_log, device).set_state("STOP")
    server_log.write()
    assert lines.records == []
    device.close()
