"""Migrations in which one of the three is killed at a message boundary, each in processes of its own.

A rig is a process with one thread that has imported everything; servers, coordinators and
recoveries are forks of it, so that a point takes a tenth of a second. It is told on its standard
input what to try, one JSON object a line, and answers with what it found.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from vfio_migration.model import load
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import (
    CannotMigrate,
    Coordinator,
    MigrationFailed,
    Settings,
)
from vfio_migration.runtime.coordinator.ledger import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.devices import Edu, MemoryDevice
from vfio_migration.runtime.devices.memory import contents
from vfio_migration.runtime.listening import listening
from vfio_migration.runtime.server import Server

SIZE = 1 << 16
SPEC = load()
MARK = 0x1234567


def device(kind: str, source: bool):
    if kind == "edu":
        made = Edu(factorial_seconds=0.0001)
        if source:
            made.bar_write(0, 0x04, ~MARK & 0xFFFFFFFF, 4)
            made.block("bar0.0").write(0, b"whole" * 100)
        return made
    made = MemoryDevice(size=SIZE, rate=SIZE if source else 0, seed=7 if source else 1)
    if source:
        made.change(40)
    return made


def fork(work, *, quiet: Path | None = None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        if quiet is not None:
            fd = os.open(quiet, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(fd, 2)
            os.close(fd)
        status = work() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def serve(path: Path, kind: str, source: bool) -> int:
    def work() -> None:
        made = device(kind, source)
        with listening(path) as sock, Server(made) as server:
            server.serve(sock)

    pid = fork(work, quiet=path.with_suffix(".log"))
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(Exception), Client(path, spec=SPEC) as client:
            client.state()
            return pid
        assert time.monotonic() < deadline, "the server does not come up"
        time.sleep(0.002)


def dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2][1] in "ZX"
    except OSError:
        return True


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while not dead(pid):
        time.sleep(0.0005)


class Killer:
    """Kills at the n-th message boundary: before a command is sent, or when its reply is in."""

    def __init__(self, at: int, victim: int | None) -> None:
        self.at, self.victim, self.seen = at, victim, 0

    def __call__(self, exchange) -> None:
        if exchange.what in ("command", "reply"):
            if self.seen == self.at:
                kill(os.getpid() if self.victim is None else self.victim)
            self.seen += 1


def settled(pid: int, expected: int = 0) -> int:
    """How many descriptors a server has once it has seen its client go."""
    least = 1 << 30
    for _ in range(100):
        least = min(least, len(list(Path(f"/proc/{pid}/fd").iterdir())))
        if least == expected:
            break
        time.sleep(0.001 if expected else 0.0002)
    return least


class Rig:
    """One point: servers, a coordinator that is watched by a killer, and what is left of it."""

    def __init__(self, order: dict) -> None:
        self.order = order
        self.kinds: list[str] = order["kinds"]
        self.folder = Path(tempfile.mkdtemp(prefix="kill-"))
        self.pairs = [
            (str(self.folder / f"s{i}"), str(self.folder / f"d{i}"))
            for i in range(len(self.kinds))
        ]
        self.journal = beside(self.pairs[0][0])
        self.pids: dict[str, int] = {}

    def run(self) -> dict:
        try:
            return self._run()
        finally:
            for pid in self.pids.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in self.pids.values():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            shutil.rmtree(self.folder)

    def _serve(self, path: str) -> None:
        side = 0 if Path(path).name.startswith("s") else 1
        kind = self.kinds[int(Path(path).name[1:])]
        fresh = path in self.pids  # a server begun anew has a blank device
        self.pids[path] = serve(Path(path), kind, side == 0 and not fresh)

    def _run(self) -> dict:
        for pair in self.pairs:
            for path in pair:
                self._serve(path)
        before = {path: settled(pid) for path, pid in self.pids.items()}
        result = self.folder / "result"
        victim = self.order["victim"]
        pid = None if victim == "coordinator" else self.pids[str(self.folder / victim)]
        coordinator = fork(lambda: self._migrate(result, pid), quiet=self.folder / "coordinator.log")
        status = self._wait(coordinator)
        said = json.loads(result.read_text()) if result.exists() else {}
        restarted = [path for path, pid in self.pids.items() if dead(pid)]
        for path in restarted:
            os.waitpid(self.pids[path], 0)
            self._serve(path)
        found = {"status": status, "restarted": [Path(p).name for p in restarted], **said}
        found["boundaries"] = said.get("boundaries")
        recovery = self.folder / "recovery"
        kills = self.order.get("recovery_kills", [])
        for at in [*kills, None]:
            child = fork(lambda at=at: self._recover(recovery, at), quiet=self.folder / "recover.log")
            self._wait(child)
        found["recovery"] = json.loads(recovery.read_text()) if recovery.exists() else None
        found["states"], found["whole"] = self._look()
        left = sorted(
            one.name
            for one in self.folder.iterdir()
            if not one.name.endswith(".log")
            and one.name not in ("result", "recovery")
            and str(one) not in self.pids
        )
        found["left"] = left
        found["descriptors"] = {
            Path(path).name: [before[path], settled(self.pids[path], before[path])]
            for path in before
        }
        logs = {one.name: one.read_text()[-3000:] for one in self.folder.glob("*.log")}
        found["logs"] = {name: text for name, text in logs.items() if text}
        return found

    def _wait(self, pid: int) -> int:
        deadline = time.monotonic() + 60
        while True:
            got, status = os.waitpid(pid, os.WNOHANG)
            if got:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 99
            time.sleep(0.001)

    def _migrate(self, result: Path, victim: int | None) -> int:
        killer = Killer(self.order["at"], victim)
        settings = Settings(
            migration=self.order["migration"], chunk=self.order.get("chunk", 1 << 15), patience=5.0
        )
        coordinator = Coordinator(
            self.pairs, spec=SPEC, settings=settings, watches=[killer], journal=self.journal
        )
        said: dict = {}
        try:
            coordinator.run()
            said["outcome"] = "destination"
        except MigrationFailed as failure:
            said["outcome"], said["why"] = failure.outcome, str(failure)
        except CannotMigrate as refusal:
            said["outcome"], said["why"] = "refused", str(refusal)
        said["boundaries"] = killer.seen
        result.write_text(json.dumps(said))
        return 0

    def _recover(self, result: Path, at: int | None) -> int:
        watches = [] if at is None else [Killer(at, None)]
        try:
            settled = recover(self.pairs, spec=SPEC, watches=watches, patience=5.0)
            said = {"outcome": settled.outcome, "why": settled.why, "problems": settled.problems}
        except CannotMigrate as refusal:
            said = {"outcome": "refused", "why": str(refusal)}
        result.write_text(json.dumps(said))
        return 0

    def _look(self) -> tuple[dict, dict]:
        states, whole = {}, {}
        for pair in self.pairs:
            for path in pair:
                name = Path(path).name
                with Client(path, spec=SPEC) as client:
                    state = states[name] = client.state()
                    if not SPEC.permits(state, "change_state"):
                        continue
                    client.set_state("STOP")
                    whole[name] = self._is_whole(client, self.kinds[int(name[1:])])
        return states, whole

    def _is_whole(self, client: Client, kind: str) -> bool:
        if kind == "edu":
            return client.region_read(0, 0x04, 4) == MARK.to_bytes(4, "little") and (
                client.region_read(0, 0x40000, 500) == b"whole" * 100
            )
        changes = int.from_bytes(client.region_read(0, 0x10, 8), "little")
        seed = int.from_bytes(client.region_read(0, 0x20, 8), "little")
        got = client.region_read(2, 0, SIZE)
        wanted = contents(7, SIZE, changes)
        return seed == 7 and changes >= 40 and got == wanted[:]


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        print(json.dumps(Rig(json.loads(line)).run()), flush=True)


if __name__ == "__main__":
    main()
