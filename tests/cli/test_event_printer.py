"""What is printed while a migration goes on: to terminals, pipes and files, read or not.

And how it ends if it is interrupted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import BIG, SLOW, Gate, masked, until

from support.migration_harness import ALWAYS, FaultyMemory, Harness
from support.samples import sampled
from vfio_migration.cli.event_printer import Printer, seconds, size
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.coordinator import Event

JUDGED = ("RESUMING", "STOP")
CONTINUED = ("PRE_COPY", "RUNNING")
SOURCE = "The source holds the whole state: the destination never ran on it, or was given up."
CANCELLED = f"vfio-migration: error: cancelled (the source runs)\n  {SOURCE}\n"
PRE_COPY = {"s0": "PRE_COPY", "d0": "RESUMING"}


@pytest.fixture
def big(harness: Harness) -> Harness:
    """A device whose pre-copy takes longer than any test, with `SLOW`."""
    harness.serve("s0", FaultyMemory, size=BIG)
    harness.serve("d0", FaultyMemory, size=BIG)
    return harness


@pytest.fixture
def waiting(harness: Harness) -> Iterator[tuple[Harness, threading.Event]]:
    """A migration that fails, and does not come to its end before that is wished."""
    gate = threading.Event()
    harness.serve("s0")
    harness.serve("d0", faults={JUDGED: (ALWAYS, False)}, gate={JUDGED: gate})
    yield harness, gate
    gate.set()


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_given_up(big: Harness, start, number):
    program = start("migrate", "s0", "d0", *SLOW)
    until(lambda: big.states == PRE_COPY)
    assert Path("s0.migration").exists()
    program.signal(number)
    ran = program.ends()
    assert (ran.status, ran.err) == (130, CANCELLED)
    recorded = [line[13:] for line in masked(ran.out).splitlines()]
    assert recorded[recorded.index(f"recovering: {SOURCE}") + 1 :] == [
        "destination stop         Stop every device that is not stopped yet.",
        "d0: refuses what it was given, so it is reset",
        "destination reset        d0: RESUMING -> RUNNING",
        "destination stop         Stop every device that is not stopped yet.",
        "source      hold         Quiesce every device that may still start peer-to-peer DMA.",
        "source      run          Allow peer-to-peer DMA again.",
        "the source runs",
    ]
    assert big.states == {"s0": "RUNNING", "d0": "STOP"}
    assert big.hosts["s0"].whole
    assert not Path("s0.migration").exists()


def test_it_is_given_up_as_json(big: Harness, start):
    program = start("migrate", "s0", "d0", "--json", *SLOW)
    until(lambda: big.states == PRE_COPY)
    program.signal(signal.SIGINT)
    ran = program.ends()
    assert (ran.status, ran.err) == (130, "")
    last = ran.events[-1]
    assert (last["event"], last["message"], last["outcome"]) == ("error", "cancelled", "source")
    assert [one["outcome"] for one in ran.of("won")] == ["source"]


def test_it_can_be_done_again(big: Harness, start, cli):
    """Nothing of the one that was given up is in the way of the next."""
    program = start("migrate", "s0", "d0", *SLOW)
    until(lambda: big.states == PRE_COPY)
    program.signal(signal.SIGTERM)
    assert program.ends().status == 130
    assert cli("migrate", "s0", "d0", "-q").status == 0
    assert big.running == {"d0"}
    assert big.hosts["d0"].whole


@sampled(3)
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("json", [False, True])
def test_a_second_time_does_not_wait(harness: Harness, start, cli, elsewhere, json):
    gate = Gate()
    gates = dict.fromkeys((CONTINUED, ("PRE_COPY", "PRE_COPY_P2P")), gate)
    harness.serve("s0", FaultyMemory, size=BIG, gate=gates)
    harness.serve("d0", FaultyMemory, size=BIG)
    journal = ["--journal", "elsewhere"] if elsewhere else []
    program = start("migrate", "s0", "d0", *SLOW, *journal, *(["--json"] if json else []))
    until(lambda: harness.states == PRE_COPY)
    program.signal(signal.SIGINT)
    until(gate.hangs.is_set)  # it is committed, and the source does not answer
    assert harness.states["d0"] == "STOP"
    program.signal(signal.SIGINT)
    ran = program.ends()
    assert ran.status == 130
    hint = f"run: vfio-migration recover s0 d0{' --journal elsewhere' if elsewhere else ''}"
    why = "interrupted: it may not have come to its end"
    if json:
        last = ran.events[-1]
        assert (last["message"], last["hints"], last["outcome"]) == (why, [hint], None)
    else:
        assert ran.err == f"vfio-migration: error: {why}\n  {hint}\n"
    assert Path("elsewhere" if elsewhere else "s0.migration").exists()
    gate.set()
    assert cli(*hint.partition("vfio-migration ")[2].split()).status == 0
    assert harness.states == {"s0": "RUNNING", "d0": "STOP"}
    assert harness.hosts["s0"].whole


@sampled(3)
@pytest.mark.parametrize("arc", [JUDGED, ("STOP", "RUNNING_P2P"), ("RUNNING_P2P", "RUNNING")])
def test_when_it_is_too_late_the_destination_runs(harness: Harness, start, arc):
    """And the answer is yes: all of the state is there."""
    gate = Gate()
    harness.serve("s0", FaultyMemory)
    harness.serve("d0", FaultyMemory, gate={arc: gate})
    program = start("migrate", "s0", "d0")
    until(gate.hangs.is_set)
    program.signal(signal.SIGINT)
    assert not program.over_within(0.2)
    gate.set()
    assert program.ends().status == 0
    assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
    assert harness.hosts["d0"].whole
    assert not Path("s0.migration").exists()


def test_when_it_is_too_late_a_second_time_does_not_wait_either(harness: Harness, start, cli):
    gate = Gate()
    harness.serve("s0", FaultyMemory)
    harness.serve("d0", FaultyMemory, gate={("RUNNING_P2P", "RUNNING"): gate})
    program = start("migrate", "s0", "d0")
    until(gate.hangs.is_set)
    program.signal(signal.SIGINT)
    assert not program.over_within(0.5)  # the destination holds the state: there is no way back
    program.signal(signal.SIGINT)
    ran = program.ends()
    assert ran.status == 130
    assert ran.err == (
        "vfio-migration: error: interrupted: it may not have come to its end\n"
        "  run: vfio-migration recover s0 d0\n"
    )
    gate.set()
    assert cli("recover", "s0", "d0").status == 0
    assert harness.running == {"d0"}
    assert harness.hosts["d0"].whole


# --- pipes and disks ---


def full(pipe: Path) -> int:
    """Make a pipe that takes nothing more; return the end at which nobody reads."""
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.close(writer)
    return reader


@sampled(2)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_pipe_that_nobody_reads(harness: Harness, start, tmp_path, form):
    harness.serve("s0")
    harness.serve("d0")
    reader = full(tmp_path / "pipe")
    try:
        ran = start("migrate", "s0", "d0", *form, out=tmp_path / "pipe", timeout_s=0.2).ends()
        assert (ran.status, ran.err) == (0, "")
        assert harness.states == {"s0": "STOP", "d0": "RUNNING"}
        # Nor does a complaint wait (s0 does not run any more), and its status is the same.
        place = tmp_path / "pipe"
        ran = start("migrate", "s0", "d0", *form, out=place, err=place, timeout_s=0.2).ends()
        assert ran.status == 1
    finally:
        os.close(reader)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_that_has_seen_enough(waiting, start, tmp_path, form):
    """`vfio-migration migrate s0 d0 2>&1 | head -1`"""
    harness, gate = waiting
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    program = start("migrate", "s0", "d0", *form, out=pipe, err=pipe)
    with open(reader, "rb", buffering=0) as lines:  # noqa: PTH123 - a descriptor
        os.set_blocking(reader, True)  # on a busy machine the line comes after the state
        until(lambda: harness.states == {"s0": "STOP_COPY", "d0": "RESUMING"})
        assert lines.readline()
    gate.set()
    assert program.ends().status == 1
    assert harness.running == {"s0"}
    assert not Path("s0.migration").exists()


@sampled(2)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk(waiting, start, form):
    harness, gate = waiting
    gate.set()
    ran = start("migrate", "s0", "d0", *form, out="/dev/full", err="/dev/full").ends()
    assert ran.status == 1
    harness.hosts["d0"].device.faults.clear()
    harness.hosts["d0"].server.engine.reset()
    ran = start("migrate", "s0", "d0", *form, out="/dev/full").ends()
    assert (ran.status, ran.err) == (0, "")
    assert harness.running == {"d0"}


# --- terminals ---


class Screen:
    """A terminal, and what stands on it in the end."""

    def __init__(self, columns: int) -> None:
        self.main, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        self.name = os.ttyname(self._slave)
        self.written = ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        found = bytearray()
        while True:
            try:
                data = os.read(self.main, 65536)
            except OSError:  # the last writer is gone (EIO)
                break
            found += data
        self.written = found.decode()

    def close(self) -> None:
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1
            self._thread.join(60)
            assert not self._thread.is_alive()
            os.close(self.main)

    @property
    def lines(self) -> list[str]:
        """What is to be seen: of all that can be asked of a terminal, only what we ask of it."""
        lines, at = [""], 0
        for part in re.split(r"(\x1b\[\d*[A-Z]|\r\n)", self.written):
            if part == "\r\n":
                at += 1
                lines += [""] * (at + 1 - len(lines))
            elif part.endswith("A") and part.startswith("\x1b"):
                at -= int(part[2:-1])
                assert at >= 0
            elif part == "\x1b[J":
                lines[at:] = [""]
            else:
                assert "\x1b" not in part
                assert lines[at] == "" or not part
                lines[at] += part
        assert lines[-1] == ""
        return lines[:-1]


@pytest.fixture
def terminal() -> Iterator[Screen]:
    screen = Screen(60)
    yield screen
    screen.close()


MOVING = re.compile(r"^ *[\w/]*(   )?pass +\d+   ", re.MULTILINE)


def at_a_rate(harness: Harness, count: int) -> list[str]:
    """Devices whose migration takes a few times as long as it is between two progress lines."""
    for number in range(count):
        harness.serve(f"s{number}", FaultyMemory, size=1 << 18)
        harness.serve(f"d{number}", FaultyMemory, size=1 << 18)
    return [name for pair in harness.pairs for name in pair] + ["--bandwidth", f"{count * 600}K"]


@sampled(2)
@pytest.mark.parametrize("count", [1, 2])
def test_progress_is_in_one_place_and_is_removed_in_the_end(
    harness: Harness, start, terminal, count
):
    arguments = at_a_rate(harness, count)
    ran = start("migrate", *arguments, out=terminal.name).ends()
    terminal.close()
    assert (ran.status, ran.err) == (0, "")
    shown = [part for part in re.split(r"\x1b\[\d*[A-Z]|\r\n", terminal.written) if part]
    progress = [line for line in shown if re.search(r"pass +\d+   ", line)]
    assert len(progress) >= 2 * count
    assert max(map(len, progress)) <= 60
    if count == 2:
        assert {"s0", "s1"} <= {line.split()[0] for line in progress}
    assert terminal.written.count("\x1b[J") >= 2
    lines = terminal.lines
    assert not [line for line in lines if re.search(r"pass +\d+   ", line)]
    recorded = [line for line in lines if line]
    assert masked(recorded[0]) == f"{count} device{'s' * (count > 1)}, live migration"
    assert masked(recorded[-1]) == "  last pass    # B"
    assert len(recorded) == count + 1 + 12 + 6
    assert lines[count + 1] == ""  # between the devices and what becomes of them


@sampled(4)
@pytest.mark.parametrize(
    "how", [["TERM=dumb"], ["-q"], ["--json"], ["file"]], ids=lambda how: how[0]
)
def test_where_nothing_can_be_erased_nothing_is(harness: Harness, start, terminal, how):
    arguments = at_a_rate(harness, 1)
    (word,) = how
    ran = start(
        "migrate",
        *arguments,
        *(how if word.startswith("-") else ()),
        out=None if word == "file" else terminal.name,
        environment={"TERM": "dumb"} if word == "TERM=dumb" else {"TERM": "xterm"},
    ).ends()
    terminal.close()
    assert (ran.status, ran.err) == (0, "")
    text = ran.out if word == "file" else terminal.written
    assert "\x1b" not in text
    assert ("last pass" in text) != (word == "--json")


def test_what_goes_wrong_is_not_written_into_the_progress(big: Harness, start, terminal):
    program = start("migrate", "s0", "d0", *SLOW, out=terminal.name, err=terminal.name)
    until(lambda: big.states == PRE_COPY)
    program.signal(signal.SIGINT)
    assert program.ends().status == 130
    terminal.close()
    assert terminal.lines[-2:] == CANCELLED.splitlines()
    assert not [line for line in terminal.lines if "   pass " in line]


# --- the printer itself ---


def read(fd: int) -> bytes:
    """Read a pipe to its end."""
    with open(fd, "rb") as file:
        return file.read()


def printed(*, live: bool, work) -> str:
    reader, writer = os.pipe()
    with Printer(writer, live=live) as printer:
        work(printer)
    os.close(writer)
    return read(reader).decode()


def test_a_status_is_no_line(capfd):
    def work(printer: Printer) -> None:
        printer.status(["one", "two"])
        printer.line("")
        printer.status([])
        printer.line("end")

    assert printed(live=False, work=work) == "\nend\n"
    assert printed(live=True, work=work) == "one\ntwo\n\x1b[2A\x1b[J\nend\n"


def test_a_pipe_that_does_not_block_is_waited_for():
    """Anybody who shares a terminal may have set O_NONBLOCK on it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    found = []
    thread = threading.Thread(target=lambda: found.append(read(reader)))
    with Printer(writer, live=False) as printer:
        for number in range(500):
            printer.line(f"{number:0100}")
        thread.start()
    os.close(writer)
    thread.join(60)
    lines = found[0].splitlines()
    assert len(lines) == 500
    assert int(lines[-1]) == 499


def test_lines_that_nobody_takes_are_lost_and_hold_up_nobody():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    printer = Printer(writer, live=False)
    with printer:
        for number in range(5000):
            printer.line(f"{number:0100}")
        # Only now somebody reads.
        thread = threading.Thread(target=read, args=[reader])
        thread.start()
    os.close(writer)
    thread.join(60)
    assert not thread.is_alive()


def test_figures_are_for_people():
    assert [size(value) for value in (0, 1023, 1024, 1 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "3072.0 GiB",
    ]
    assert [seconds(value) for value in (0.0004, 0.25, 1, 75.5)] == [
        "0.4 ms",
        "250.0 ms",
        "1.00 s",
        "75.50 s",
    ]


def test_an_event_that_is_not_known_is_passed_over():
    from vfio_migration.cli.event_printer import TextReporter

    assert printed(live=False, work=lambda one: TextReporter(one)(Event("new", {"a": 1}))) == ""


def test_who_runs_is_stated_once():
    from vfio_migration.cli.event_printer import TextReporter

    why = "the source runs, and is left in RUNNING"
    won = Event("won", {"outcome": "source", "why": why, "problems": []})
    assert printed(live=False, work=lambda one: TextReporter(one)(won)).endswith(f" s  {why}\n")


def test_the_sentence_of_the_row_is_the_one_that_is_reported(spec):
    assert SOURCE in [row.summary for row in default_plans(spec).handovers]
