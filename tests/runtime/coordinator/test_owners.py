"""A program that owns the guest: its connections, its hooks, its control-C."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from support.migration_harness import SPEC, Harness
from support.open_descriptors import opened
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import Coordinator, Hooks, MigrationFailedError
from vfio_migration.runtime.coordinator.journal import beside


@pytest.fixture
def two(harness: Harness) -> Harness:
    for name in ("s0", "d0"):
        harness.serve(name)
    return harness


def test_connections_of_somebody_else(two: Harness):
    """They are used, for a server serves one client at a time, and are not closed."""
    clients = {name: Client(Path(name), spec=SPEC) for name in ("s0", "d0")}
    clients["d0"].dma_map(0, 4096)
    Coordinator([("s0", "d0")], spec=SPEC, clients=clients).run()
    assert clients["s0"].state() == "STOP"
    assert clients["d0"].state() == "RUNNING"
    assert len(two.hosts["d0"].device.memory.maps) == 1
    for client in clients.values():
        client.close()


def test_connections_of_somebody_else_after_a_failure(two: Harness):
    clients = {name: Client(Path(name), spec=SPEC) for name in ("s0", "d0")}
    clients["s0"].dma_map(0, 4096)
    two.hosts["d0"].device.mangle = lambda _piece: []
    with pytest.raises(MigrationFailedError):
        Coordinator([("s0", "d0")], spec=SPEC, clients=clients).run()
    assert clients["s0"].state() == "RUNNING"
    assert clients["d0"].state() == "STOP"
    # The guest finds its memory mapped as it was; the device that was reset reaches none.
    assert len(two.hosts["s0"].device.memory.maps) == 1
    assert len(two.hosts["d0"].device.memory.maps) == 0
    for client in clients.values():
        client.close()


def test_a_client_that_is_over_is_not_used(two: Harness):
    client = Client(Path("s0"), spec=SPEC)
    client.close()
    summary = Coordinator([("s0", "d0")], spec=SPEC, clients={"s0": client}).run()
    assert summary.devices == 1
    assert two.hosts["d0"].whole


@pytest.mark.parametrize("at", [4, 40, 76, 84, 98, 100, 104, 108])
def test_an_interrupt(two: Harness, at: int):
    """Anybody who does not wait for anything leaves a journal, and `recover` does the rest."""
    seen = 0

    def watch(exchange) -> None:
        nonlocal seen
        seen += exchange.what in ("command", "reply")
        # Only the main thread is interrupted.
        if seen > at and threading.current_thread() is threading.main_thread():
            seen = -1000
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        two.coordinator(migration="offline", observers=[watch]).run()
    if at < 76:
        # Nobody was moved: nothing is left to do.
        assert not Path("s0.migration").exists()
        assert two.running == {"s0", "d0"}
        return
    assert Path("s0.migration").exists()
    finished = two.recover()
    assert finished.outcome in ("source", "destination")
    (winner,) = two.running
    assert winner == finished.outcome[0] + "0"
    assert two.hosts[winner].whole
    assert not Path("s0.migration").exists()


@pytest.mark.parametrize("hook", ["pause", "resume"])
def test_a_hook_that_raises(two: Harness, hook: str):
    """It is a fault of its owner, who is notified; no device is left half-way for that."""

    def fail(*_side: str) -> None:
        raise RuntimeError("a slip")

    with pytest.raises(Exception, match="a slip") as failure:
        two.coordinator(hooks=Hooks(**{hook: fail})).run()
    error = failure.value
    assert isinstance(error if isinstance(error, RuntimeError) else error.__cause__, RuntimeError)
    assert beside("s0") == Path("s0.migration")
    expected = "source" if hook == "pause" else "destination"
    assert {name[0] for name in two.running} == {expected[0]}
    (winner,) = two.running
    assert two.hosts[winner].whole
    assert not Path("s0.migration").exists()


@pytest.mark.exhaustive
def test_nothing_is_left_open(two: Harness):
    """Of many migrations and refusals, in this process: not one descriptor, not one thread."""

    def there() -> tuple[int, int]:
        # A server that answers has seen the client before this one go.
        for name in ("s0", "d0"):
            with Client(Path(name), spec=SPEC) as client:
                client.state()
        time.sleep(0.1)
        return len(opened()), threading.active_count()

    def once() -> None:
        two.coordinator().run()
        with pytest.raises(Exception, match="a source begins in"):
            two.coordinator().run()
        for host in two.hosts.values():
            host.server.engine.reset()
        two.hosts["d0"].device.mangle = lambda _piece: []
        two.fail()
        two.hosts["d0"].device.mangle = None
        for host in two.hosts.values():
            host.server.engine.reset()

    once()
    before = there()
    for _ in range(10):
        once()
    assert there() == before
