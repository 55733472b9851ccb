"""Somebody cancels while a server hangs: that works at once, and the rows specify who runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import forked_servers
from support.migration_harness import Harness
from support.samples import sampled
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.client.blocking import GRACE_S
from vfio_migration.runtime.coordinator import (
    Coordinator,
    CoordinatorError,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver

# What is given up ends after some `GRACE_S`, and long before a server has had its time to answer.
LONG_TIMEOUT = Settings(timeout_s=120.0)
SOON = LONG_TIMEOUT.timeout_s / 2


def given_up(
    act: Callable[[], object], cancel: Callable[[], object], when: threading.Event
) -> tuple[CoordinatorError, float]:
    """Do something, and give it up a moment after an event.

    Returns:
        What was raised, and how many seconds after that.
    """
    at: list[float] = []

    def give_up() -> None:
        assert when.wait(60)
        time.sleep(0.2)
        at.append(time.monotonic())
        cancel()

    thread = threading.Thread(target=give_up)
    thread.start()
    try:
        with pytest.raises(CoordinatorError) as failure:
            act()
        return failure.value, time.monotonic() - at[0]
    finally:
        thread.join()


class Gate(threading.Event):
    """Is waited at by a device; states that somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


@sampled(4)
@pytest.mark.parametrize(
    ("who", "arc", "outcome"),
    [
        ("d0", ("STOP", "RESUMING"), "source"),
        ("s0", ("RUNNING", "PRE_COPY"), "undecided"),
        ("s0", ("PRE_COPY_P2P", "STOP_COPY"), "undecided"),
        ("d0", ("RESUMING", "STOP"), "source"),
    ],
)
def test_a_device_that_hangs(harness: Harness, who: str, arc, outcome: str):
    """As `test_hangs` has it, and as the rows specify; only sooner."""
    gate = Gate()
    for name in ("s0", "d0"):
        harness.serve(name, gate={arc: gate} if name == who else None)
    coordinator = harness.coordinator(timeout_s=LONG_TIMEOUT.timeout_s)
    failure, seconds = given_up(coordinator.run, coordinator.cancel, gate.reached)
    assert isinstance(failure, MigrationFailedError)
    assert (failure.outcome, failure.cancelled) == (outcome, True)
    assert failure.why.startswith("cancelled; plan ")
    assert f"{who}: DEVICE_FEATURE SET MIG_DEVICE_STATE {arc[1]} is not answered" in failure.why
    assert seconds < SOON
    assert "vfio-migration recover s0 d0" in failure.hints[-1]
    assert not harness.hosts["d0"].runs
    gate.set()
    assert harness.recover().outcome == "source"
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_when_it_is_too_late_everybody_has_time(harness: Harness):
    """It was cancelled when the destination may run already: there is no hurry any more."""
    gate = Gate()
    harness.serve("s0")
    harness.serve("d0", gate={("STOP", "RUNNING_P2P"): gate})
    coordinator = harness.coordinator(timeout_s=LONG_TIMEOUT.timeout_s)

    def late() -> None:
        assert gate.reached.wait(60)
        coordinator.cancel()
        time.sleep(GRACE_S + 0.5)
        gate.set()

    thread = threading.Thread(target=late)
    thread.start()
    coordinator.run()
    thread.join()
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}


def test_who_answers_may_take_long_on_the_way_back(harness: Harness):
    gate = threading.Timer(GRACE_S + 0.7, lambda: slow.set())
    slow = threading.Event()
    harness.serve("s0", gate={("PRE_COPY", "RUNNING"): slow, ("RUNNING_P2P", "RUNNING"): slow})
    harness.serve("d0")

    def report(event) -> None:
        if event.name == "progress" and not gate.ident:
            gate.start()
            coordinator.cancel()

    coordinator = harness.coordinator(timeout_s=LONG_TIMEOUT.timeout_s)
    coordinator._report = report
    with pytest.raises(MigrationFailedError) as failure:
        coordinator.run()
    assert (failure.value.outcome, failure.value.why) == ("source", "cancelled")
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    gate.join()


@sampled(2)
@pytest.mark.parametrize("owned", [False, True], ids=["ours", "somebody else's"])
def test_a_server_that_serves_another_client(harness: Harness, owned: bool):
    """Nothing was begun then, and nothing is left to do."""
    for name in ("s0", "d0"):
        harness.serve(name)
    at = threading.Event()
    with contextlib.ExitStack() as stack:
        clients = {}
        if owned:
            clients = {"s0": stack.enter_context(Client(Path("s0")))}
        stack.enter_context(Client(Path("d0")))
        coordinator = Coordinator(
            harness.pairs, journal=Path("s0.migration"), settings=LONG_TIMEOUT, clients=clients
        )
        at.set()
        failure, seconds = given_up(coordinator.run, coordinator.cancel, at)
        assert isinstance(failure, MigrationFailedError)
        assert (failure.outcome, failure.cancelled) == ("source", True)
        assert failure.why.startswith("cancelled; d0: VERSION is not answered")
        assert failure.hints == ("nothing was begun",)
        assert seconds < SOON
        for client in clients.values():
            assert client.deadline_of is None
    assert harness.running == {"s0", "d0"}
    assert not Path("s0.migration").exists()


@pytest.mark.exhaustive
def test_a_save_and_a_restore(harness: Harness):
    gate, loads = Gate(), Gate()
    harness.serve("s0", gate={("RUNNING", "PRE_COPY"): gate})
    saver = Saver(["s0"], settings=LONG_TIMEOUT)
    failure, seconds = given_up(lambda: saver.run("file"), saver.cancel, gate.reached)
    assert failure.why.startswith("cancelled; ")
    assert failure.outcome == "undecided"
    assert seconds < SOON
    gate.set()
    assert recover([("s0", None)]).outcome == "source"
    Saver(["s0"]).run("file")
    harness.serve("d0", gate={("STOP", "RESUMING"): loads})
    restorer = Restorer(["d0"], settings=LONG_TIMEOUT)
    failure, seconds = given_up(lambda: restorer.run("file"), restorer.cancel, loads.reached)
    assert (failure.outcome, failure.cancelled) == ("source", True)
    assert seconds < SOON
    loads.set()
    with Client(Path("s0")) as client:
        assert client.state() == "STOP"


# --- whole processes, stopped in the middle of the streams ---

MIGRATE = """
import os, signal, sys
from pathlib import Path
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings, endpoint

if "a second of grace" not in sys.argv:
    endpoint.GRACE = 600.0

one = Coordinator(
    [tuple(sys.argv[1:3])],
    settings=Settings(timeout_s=600.0, bandwidth=1 << 20),
    journal=Path(sys.argv[1] + ".migration"),
    report=lambda event: print(event.name, flush=True),
)

def on(*_):
    one.cancel()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(1, b"cancelled\\n")

if "plain" not in sys.argv:
    signal.signal(signal.SIGINT, on)
try:
    one.run()
except MigrationFailedError as failure:
    print("FAILED", failure.outcome, failure.cancelled, flush=True)
except KeyboardInterrupt:
    print("INTERRUPTED", flush=True)
"""


def read_until(process: subprocess.Popen[str], word: str) -> None:
    """Read what a process prints, up to a line with a word."""
    assert process.stdout is not None
    for line in iter(process.stdout.readline, ""):
        if word in line:
            return
    pytest.fail(f"it ended and never printed {word}")


@contextlib.contextmanager
def streaming(
    folder: Path, hangs: int, *more: str
) -> Iterator[tuple[list[str], subprocess.Popen[str]]]:
    """A migration whose streams flow, and one of whose servers has just been stopped."""
    paths = [folder / "s0", folder / "d0"]
    servers = [forked_servers.serve(path, "memory,size=64M", "7") for path in paths]
    for path in paths:
        forked_servers.wait_for(path)
    names = [str(path) for path in paths]
    process = subprocess.Popen(
        [sys.executable, "-c", MIGRATE, *names, *more], stdout=subprocess.PIPE, text=True
    )
    try:
        read_until(process, "progress")
        os.kill(servers[hangs].pid, signal.SIGSTOP)
        time.sleep(0.3)
        yield names, process
        os.kill(servers[hangs].pid, signal.SIGCONT)
        finished = recover([(names[0], names[1])])
        assert finished.outcome == "source"
        for name, state in zip(names, ("RUNNING", "STOP"), strict=True):
            with Client(Path(name)) as client:
                assert client.state() == state
        assert not Path(f"{names[0]}.migration").exists()
    finally:
        process.kill()
        process.communicate()
        for server in servers:
            server.kill()
            server.join(60)


@sampled(2)
@pytest.mark.parametrize(("hangs", "outcome"), [(0, "undecided"), (1, "source")], ids=["s0", "d0"])
def test_control_c_while_a_server_hangs(tmp_path: Path, hangs: int, outcome: str):
    with streaming(tmp_path, hangs, "a second of grace") as (names, process):
        process.send_signal(signal.SIGINT)
        reported, _ = process.communicate(timeout=60)
        assert reported.splitlines()[-1] == f"FAILED {outcome} True"
        assert Path(f"{names[0]}.migration").exists()


@sampled(2)
@pytest.mark.parametrize("hangs", [0, 1], ids=["s0", "d0"])
def test_a_second_control_c_does_not_wait(tmp_path: Path, hangs: int):
    with streaming(tmp_path, hangs) as (names, process):
        process.send_signal(signal.SIGINT)
        read_until(process, "cancelled")
        process.send_signal(signal.SIGINT)
        reported, _ = process.communicate(timeout=60)
        assert reported.splitlines()[-1] == "INTERRUPTED"
        assert Path(f"{names[0]}.migration").exists()


@sampled(2)
@pytest.mark.parametrize("hangs", [0, 1], ids=["s0", "d0"])
def test_an_interrupt_does_not_wait_for_threads(tmp_path: Path, hangs: int):
    """Of a program that takes control-C as Python does."""
    with streaming(tmp_path, hangs, "plain") as (names, process):
        process.send_signal(signal.SIGINT)
        reported, _ = process.communicate(timeout=60)
        assert reported.splitlines()[-1] == "INTERRUPTED"
        assert Path(f"{names[0]}.migration").exists()
