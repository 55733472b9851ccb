"""A server in a process of its own, under watch: what it holds, what it logs, whom it serves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import pytest
from honest_prober import Prober, children_of, ends_within

from support import raw_client as raw
from support.edu_client import FLAGS_ON, eventfd, signalled
from support.raw_client import Client
from support.waiting import wait_for
from vfio_migration.model import load
from vfio_migration.model.conformance.log import LogConformance
from vfio_migration.runtime.transport.descriptor_receiver import MAX_LEFT

HERE: Final = Path(__file__).parent
MIB: Final = 1 << 20
PAGE: Final = os.sysconf("SC_PAGESIZE")
PROGRAMS: Final = {
    "edu": ["-m", "vfio_migration.cli.main", "serve", "--log-format", "json"],
    "memory": [
        "-m",
        "vfio_migration.cli.main",
        "serve",
        "--log-format",
        "json",
        "--device",
        "memory",
    ],
    "async": [str(HERE / "async_server.py")],
}
Stderr = Literal["log", "full pipe", "no reader", "full disk", "closed"]
MAX_END_S: Final = 5.0
"""How long a server may take to end after SIGTERM (issue 11)."""
OWN: Final = {"edu": MIB + 4096, "memory": (64 << 20) + 4096, "async": MIB + 4096}
"""The memory that is the device's own, which a client may fill."""


def bound() -> dict[str, int]:
    """What a client can make the server hold, in bytes, by what it is.

    docs/serving.md, "What a client can make the server hold", says the same in words.
    """
    wire = tomllib.loads((HERE.parents[1] / "model" / "wire.toml").read_text("utf-8"))
    limit = {row["name"]: row["value"] for row in wire["limits"]}
    largest = 16 + 16 + limit["max_data_xfer_size"]
    read_ahead = limit["max_read_ahead"]
    return {
        # As it is read, and the data of it while that is taken in.
        "the message": 2 * largest,
        # A header is 16 bytes long; what is made of it and its answer, less than 1 KiB.
        "messages read ahead": read_ahead + read_ahead // 16 * 1024,
        # Those that wait, and the one being made, in pieces and in one.
        "replies": (limit["max_replies"] + 2) * largest,
        # Data of a stream that a client before did not read.
        "unsent": (limit["max_replies"] + 2) * largest,
        "maps": limit["max_dma_maps"] * 1024,
        "interrupts": limit["max_interrupts"] * 128,
        "the log": limit["max_log_chunks"] * (4096 + 256),
        # Put off until memory of the guest is there, and the one there is no room for.
        "commands put off": (limit["max_put_off_commands"] + 1) * 1024
        + limit["max_put_off_data"]
        + 2 * largest,
        # See MAX_SECTION of stream.py; as it grows and once more when it is whole.
        "state taken in": 16 * MIB * 9 // 8 + 16 * MIB,
        # See MAX_WAITING_BYTES of background_writer.py, and 1 KiB for each of MAX_LINES.
        "lines of the log that nobody reads": 3 * MIB,
        # What Python and the allocator keep back of all that came and went.
        "left over": 16 * MIB,
    }


@dataclass
class Figures:
    """What is held at a time.

    Attributes:
        descriptors: How many are open.
        resident: Bytes of memory.
        peak: The most there ever were.
    """

    descriptors: int
    resident: int
    peak: int


class Watched:
    """A server and what is known of it."""

    def __init__(
        self, kind: str, folder: Path, *, stderr: Stderr = "log", name: str = "", **options: Any
    ) -> None:
        self.kind = kind
        self.stderr = stderr
        self.path = folder / f"{name or kind}.sock"
        self.log = folder / f"{name or kind}.log"
        self._read = 0
        self._nobody_reads: list[int] = []
        self.most_processes = self.most_process_memory = 0
        self._conformance = LogConformance(load())
        command = [sys.executable, *PROGRAMS[kind], str(self.path)]
        if stderr == "closed":
            command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file if stderr in ("log", "closed") else self._unusual_stderr(),
                **options,
            )
        try:
            self._begin()
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            for fd in self._nobody_reads:
                os.close(fd)

    def _unusual_stderr(self) -> int:
        """Return a standard error of which nothing arrives anywhere."""
        if self.stderr == "full disk":
            writer = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, writer = os.pipe()
            self._nobody_reads.append(reader)
            if self.stderr == "no reader":
                os.close(self._nobody_reads.pop())
            else:
                os.set_blocking(writer, False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(writer, b"\n" * 4096)
                os.set_blocking(writer, True)
        self._nobody_reads.append(writer)
        return writer

    def _begin(self) -> None:
        wait_for(self.path, self.process, self.log)
        self.stream = self.serves_an_honest_client()
        self.serves_an_honest_client()
        time.sleep(0.3)  # the server takes leave of that client
        self.start = self.figures()
        self.prober = Prober(self.path, self.process.pid)

    def figures(self) -> Figures:
        """Look at the process."""
        proc = Path(f"/proc/{self.process.pid}")
        lines = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        kib = {name: int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")}
        held = len(list((proc / "fd").iterdir()))
        return Figures(held, kib["VmRSS"] << 10, kib["VmHWM"] << 10)

    def processes(self) -> int:
        """Count the processes that the server has started and that have not ended."""
        count = memory = 0
        for pid in children_of(self.process.pid):
            with contextlib.suppress(OSError):
                proc = Path(f"/proc/{pid}")
                count += (
                    proc.joinpath("stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
                )
                memory += int(proc.joinpath("statm").read_text("ascii").split()[1]) * PAGE
        self.most_processes = max(self.most_processes, count)
        self.most_process_memory = max(self.most_process_memory, memory)
        return count

    def calm(self) -> Figures:
        """Wait until the server has done all there is to do; look at it then."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + 60
        then: list[str] = []
        while (now := stat.read_text("ascii").split()[13:15]) != then:
            assert time.monotonic() < deadline
            then = now
            time.sleep(0.1)
        return self.figures()

    def forget_the_peak(self) -> None:
        """Have `peak` mean the most since now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    @property
    def bound(self) -> int:
        """How much memory the process may have at most."""
        return self.start.resident + OWN[self.kind] + sum(bound().values())

    def check(self) -> Figures:
        """The server is alive and well, holds nothing of who is gone, and serves the next."""
        assert self.process.poll() is None, (
            f"the server ended: {self.log.read_text('utf-8')[-3000:]}"
        )
        self.serves_an_honest_client()
        deadline = time.monotonic() + 60
        while (now := self.figures()).descriptors != self.start.descriptors:
            assert time.monotonic() < deadline, (
                f"{now.descriptors} descriptors: {self.open_files()}"
            )
            time.sleep(0.005)
        assert now.peak < self.bound
        assert self.most_processes <= MAX_LEFT + 2  # the one in use, and one that holds a socket
        while self.processes() > 1:
            assert time.monotonic() < deadline + 60, "processes of the server are left"
            time.sleep(0.005)
        self.complaints()
        return now

    def open_files(self) -> list[str]:
        """What the server has open."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        return sorted(os.readlink(one) for one in folder.iterdir())  # noqa: PTH115

    def complaints(self) -> None:
        """Fail if the server has logged an error: nothing a client reports may be one.

        A stream that is refused is reported with the traceback of what `load` raised, at level
        info.
        """
        with self.log.open("rb") as file:
            file.seek(self._read)
            lines = file.readlines()
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._read += sum(map(len, lines))
        # The program of the async server logs neither what it serves nor how it ended.
        for line in [] if self.kind == "async" else lines:
            violation = self._conformance.observe(json.loads(line))
            assert violation is None, violation
        for line in lines:
            if b'"level": "error"' in line or b'"level": "critical"' in line:
                pytest.fail(json.dumps(json.loads(line), indent=1).replace("\\n", "\n"))
            assert b"a mistake in the server" not in line
            if b"Traceback" in line:
                assert json.loads(line)["message"] == "a stream is refused"

    def ended_in(self) -> str:
        """Return the state that the server reports it has left the device in."""
        last = json.loads(self.log.read_text("utf-8").splitlines()[-1])
        assert last["event"] == "stopped"
        return str(last["state"])

    def counted(self) -> int:
        """How many messages the server has taken, by its own count."""
        before = self.log.stat().st_size
        deadline = time.monotonic() + 60
        for turn in itertools.count():
            if turn % 100 == 0:  # again, as the line may be left out: there are too many
                self.process.send_signal(signal.SIGUSR1)
            with self.log.open("rb") as file:
                file.seek(before)
                for line in file:
                    if b'"event": "counters"' in line and line.endswith(b"\n"):
                        found = json.loads(line)
                        commands = sum(row["count"] for row in found["commands"].values())
                        return int(commands + sum(found["faults"].values()))
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise AssertionError

    def stop(self) -> None:
        """End it, which it has to do well."""
        if self.process.poll() is None:
            self.process.terminate()
        status, self.end_s = ends_within(self.process.pid, self.process.poll, MAX_END_S)
        assert status == 0, self.log.read_text("utf-8")[-3000:]
        self.complaints()

    # --- the honest client ---

    def serves_an_honest_client(self) -> bytes:
        """Have a client served in full: all it can ask for, and a migration. Return the stream."""
        with Client(self.path) as client:
            client.reset()
            assert client.state == 2
            self._asks(client)
            client.write(7, 0x3C, b"\x5a")
            client.set_state(3)
            stream = bytearray()
            while len(piece := client.mig_read(MIB)) == MIB:
                stream += piece
            stream += piece
            client.set_state(1)
            client.set_state(2)
            client.write(7, 0x3C, b"\0")
            client.set_state(4)
            for at in range(0, len(stream), MIB):
                client.mig_write(bytes(stream[at : at + MIB]))
            client.set_state(1)
            client.set_state(2)
            assert client.read(7, 0x3C, 1) == b"\x5a"
            assert client.state == 2
            client.reset()
        return bytes(stream)

    def _asks(self, client: Client) -> None:
        memory = os.memfd_create("honest")
        os.ftruncate(memory, 8192)
        event = eventfd()
        assert client.ask(raw.GET_INFO, b"\x10".ljust(16, b"\0"))[:4] == b"\x10\0\0\0"
        client.dma_map(0, 8192, fd=memory)
        client.set_irqs(FLAGS_ON, 0, 0, 1, fds=[event])
        client.set_irqs(0x21, 0, 0, 1)
        assert signalled(event) == 1
        identification = client.read(0, 0, 4)
        if self.kind == "memory":
            assert identification == b"\xee\x00\x00\x01"
        else:
            assert identification == b"\xed\x00\x00\x01"
            client.write(0, 0x04, b"\1\0\0\0")
            assert client.read(0, 0x04, 4) == b"\xfe\xff\xff\xff"
        client.dma_unmap(0, 8192)
        os.close(memory)
        os.close(event)
