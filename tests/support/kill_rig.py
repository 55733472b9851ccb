"""Migrations in which somebody is killed at a message boundary, each in processes of its own.

A rig is a process with one thread that has imported everything; servers, coordinators and
recoveries are forks of it, so that a point takes a tenth of a second. It is reported on its
standard input what to try, one order a line as JSON, and answers each with what it found.

An order:
    kinds: What the devices are: "edu", "memory", or "blob", which judges nothing it is given and
        whose server is not ours.
    migration: The row of [[migrations]].
    victims: Who is killed: "coordinator", or servers by name ("s0" is the first source).
    at: At which message boundary, from 0: before a command is sent, or when its reply is in.
    recovery_kills: For each recovery: at which boundary of its own somebody is killed, and who. If
        none of these comes to its end, one that is left alone follows.
    restart: Whether servers that were killed are begun anew, with blank devices, before a recovery.
    journal: Whether a journal is kept.
    hang: The servers are not killed but stopped (SIGSTOP), until one recovery has been tried.
    timeout_s: How many seconds a server may take to answer, while one hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from support.peer_habits import base as emulated
from support.peer_habits.servers import JudgesNothing
from vfio_migration.model import load
from vfio_migration.model.plan import default_plans
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.client.core import Exchange
from vfio_migration.runtime.coordinator import (
    CannotMigrateError,
    Coordinator,
    MigrationFailedError,
    Settings,
)
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.kit.devices import Edu, MemoryDevice
from vfio_migration.runtime.kit.devices.memory import contents
from vfio_migration.runtime.protocol.messages.features import DeviceFeature
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.transport.listening import listening

SIZE = 1 << 16
SPEC = load()
PLANS = default_plans(SPEC)
MARK = 0x1234567
TIMEOUT_S = 20.0
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become this process's children
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG: nobody outlives the rig
FEATURES = {1: "MIGRATION", 2: "STATE", 9: "DATA_SIZE"}


BLOB = b"whole" * 2000


def blob(source: bool) -> emulated.Peer:
    """Make a server whose device takes over whatever it was given."""
    return JudgesNothing(BLOB if source else bytes(len(BLOB)))


def device(kind: str, source: bool):
    """Make a device; that of a source holds something."""
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


def is_whole(client: Client, kind: str) -> bool:
    """Return whether a device that is stopped holds all that a source was given."""
    if kind == "blob":
        pieces = range(0, len(BLOB), 1000)
        return b"".join(client.region_read(0, at, 1000) for at in pieces) == BLOB
    if kind == "edu":
        return client.region_read(0, 0x04, 4) == MARK.to_bytes(4, "little") and (
            client.region_read(0, 0x40000, 500) == b"whole" * 100
        )
    changes = int.from_bytes(client.region_read(0, 0x10, 8), "little")
    seed = int.from_bytes(client.region_read(0, 0x20, 8), "little")
    if seed != 7 or changes < 40:
        return False
    return client.region_read(2, 0, SIZE) == contents(7, SIZE, changes)[:]


# --- processes ---

prctl = ctypes.CDLL(None).prctl


def fork(work: Callable[[], object], log: Path) -> int:
    """Do something in a process of its own; what it states goes into a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        prctl(DEATH_SIGNAL, signal.SIGKILL)
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(fd, 2)
        os.close(fd)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - the rig goes on
        traceback.print_exc()
    finally:
        os._exit(status)


def in_state(pid: int, states: str = "ZX") -> bool:
    """Return whether a process is in one of these states (proc_pid_stat(5)), or has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", "replace")
    except OSError:
        return True
    return text.rpartition(")")[2][1] in states


dead = in_state


def kill(pid: int, *, only_stop: bool = False) -> None:
    assert pid > 1  # 0 and less are groups of processes
    os.kill(pid, signal.SIGSTOP if only_stop else signal.SIGKILL)
    while not in_state(pid, "T" if only_stop else "ZX"):
        time.sleep(0.0005)


def children() -> set[int]:
    """Return all processes that come from this one, orphans among them (it is a subreaper)."""
    pid = os.getpid()
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def left_over(known: set[int]) -> set[int]:
    """Return the processes that come from this one, the known ones left out, and do not end.

    What a killed process had started (the receiver of descriptors) ends by itself, a little later.
    """
    deadline = time.monotonic() + 20
    while left := children() - known:
        for pid in left:
            os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            break
        time.sleep(0.005)
    return left


def descriptors(pid: int) -> int:
    """Count what a server has open. It must be answering: then it is done with earlier clients."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


# --- boundaries ---


class Killer:
    """Notes every message boundary, and kills at the n-th: servers first, then this process."""

    def __init__(
        self,
        log: Path,
        at: int | None,
        victims: Sequence[int],
        *,
        suicide: bool,
        only_stop: bool = False,
    ) -> None:
        self._at, self._victims = at, victims
        self._suicide, self._only_stop = suicide, only_stop
        self._seen = 0
        self._lock = threading.Lock()  # each device has a thread of its own
        self._fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, exchange: Exchange) -> None:
        if exchange.what not in ("command", "reply"):
            return
        with self._lock:
            line = (exchange.what, Path(exchange.peer).name, label(exchange), exchange.errno)
            os.write(self._fd, json.dumps(line).encode() + b"\n")
            if self._seen == self._at:
                for pid in self._victims:
                    kill(pid, only_stop=self._only_stop)
                if self._suicide:
                    kill(os.getpid())
            self._seen += 1


def label(exchange: Exchange) -> str:
    """Return what a message is about."""
    message = exchange.command
    assert message is not None
    if isinstance(message, DeviceFeature):
        name = FEATURES.get(message.index, str(message.index))
        if message.set and not message.probe:
            value = int.from_bytes(bytes(message.data[:4]), "little")
            return f"SET {name} {next(row.name for row in SPEC.states if row.value == value)}"
        return f"{'PROBE' if message.probe else 'GET'} {name}"
    if message.name == "MIG_DATA_READ":
        if exchange.reply is None:
            return f"READ {message.size}"
        return f"READ {len(exchange.reply.data)}/{message.size}"
    if message.name == "MIG_DATA_WRITE":
        return "WRITE"
    return message.name


def noted(log: Path) -> list[list]:
    """Return what a `Killer` has noted: [what, whom, about, errno] of each boundary."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


# --- one point ---


class Rig:
    """One point: servers, a coordinator that is watched by a killer, and what is left of it."""

    def __init__(self, order: dict) -> None:
        self.order = order
        self.kinds: list[str] = order["kinds"]
        self.folder = Path(tempfile.mkdtemp(prefix="kill-"))
        (self.folder / "logs").mkdir()
        self.pairs = [
            (str(self.folder / f"s{i}"), str(self.folder / f"d{i}")) for i in range(len(self.kinds))
        ]
        self.journal = beside(self.pairs[0][0])
        self.pids: dict[str, int] = {}
        self.before: dict[str, int] = {}
        self.restarted: list[str] = []
        self._hang = order.get("hang", False)
        self._timeout_s = order.get("timeout_s", TIMEOUT_S)

    def run(self) -> dict:
        """Try it."""
        try:
            return self._run()
        finally:
            for pid in self.pids.values():
                os.kill(pid, signal.SIGKILL)  # a child that was not waited for keeps its number
                os.waitpid(pid, 0)
            shutil.rmtree(self.folder)

    def _run(self) -> dict:
        for pair in self.pairs:
            for path in pair:
                self._begin(Path(path).name)
        for name in list(self.pids):
            self._serve(name)
        victims = self.order.get("victims", ())
        found: dict = {"migration": self._one("migrate", self.order.get("at"), victims)}
        found["recoveries"] = []
        if self._hang:
            found["recoveries"].append(self._one("recover", None, ()))
            for pid in self.pids.values():
                os.kill(pid, signal.SIGCONT)
            self._timeout_s = TIMEOUT_S
        for at, whom in (*self.order.get("recovery_kills", ()), (None, ())):
            self._restart()
            found["recoveries"].append(run := self._one("recover", at, whom))
            if run["status"] == 0 and not run["journal"]:
                break  # it came to its end, and left nothing to do for another
        found |= self._look()
        found["restarted"] = self.restarted
        found["files"] = sorted(
            one.name
            for one in self.folder.iterdir()
            if one.name != "logs" and one.suffix != ".seen" and one.name not in self.before
        )
        found["processes"] = sorted(left_over(set(self.pids.values())))
        logs = {one.name: one.read_text()[-3000:] for one in (self.folder / "logs").glob("*.log")}
        found["logs"] = {name: text for name, text in logs.items() if text}
        return found

    # --- servers ---

    def _begin(self, name: str, *, blank: bool = False) -> None:
        kind, source = self.kinds[int(name[1:])], name[0] == "s" and not blank

        def work() -> None:
            if kind == "blob":
                (self.folder / name).unlink(missing_ok=True)
                emulated.serve(self.folder / name, blob(source))
            made = device(kind, source)
            with listening(self.folder / name) as sock, Server(made) as server:
                server.serve(sock)

        self.pids[name] = fork(work, self.folder / "logs" / f"{name}.log")

    def _serve(self, name: str) -> None:
        """Wait until a server answers, and see what it has open then."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            with contextlib.suppress(Exception), self._client(name) as client:
                client.state()
                self.before[name] = descriptors(self.pids[name])
                return
            assert time.monotonic() < deadline, f"{name} does not come up"
            time.sleep(0.001)

    def _client(self, name: str) -> Client:
        return Client(self.folder / name, spec=SPEC, timeout_s=TIMEOUT_S)

    def _restart(self) -> None:
        """Begin servers anew that were killed; their devices are blank."""
        for name in [name for name, pid in self.pids.items() if dead(pid)]:
            os.waitpid(self.pids.pop(name), 0)
            if self.order.get("restart", True):
                self.restarted.append(name)
                self._begin(name, blank=True)
                self._serve(name)

    # --- coordinators ---

    def _one(self, what: str, at: int | None, victims: Sequence[str]) -> dict:
        """Migrate or recover in a process of its own; return what was stated and what was seen."""
        number = len(list((self.folder / "logs").glob("*.seen")))
        seen = self.folder / "logs" / f"{number}.seen"
        result = self.folder / "logs" / f"{number}.result"
        pids = [self.pids[name] for name in victims if name in self.pids]

        def work() -> None:
            killer = Killer(seen, at, pids, suicide="coordinator" in victims, only_stop=self._hang)
            reported = self._migrate(killer) if what == "migrate" else self._recover(killer)
            result.write_text(json.dumps(reported))

        pid = fork(work, self.folder / "logs" / f"{number}.log")
        status = self._wait(pid)
        reported = json.loads(result.read_text()) if result.exists() else None
        return {
            "status": status,
            "reported": reported,
            "seen": noted(seen),
            "journal": self.journal.exists(),
            "killed": [name for name, one in self.pids.items() if dead(one)],
        }

    def _wait(self, pid: int) -> int:
        deadline = time.monotonic() + 3 * TIMEOUT_S
        while True:
            got, status = os.waitpid(pid, os.WNOHANG)
            if got:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 99
            time.sleep(0.001)

    def _migrate(self, killer: Killer) -> dict:
        settings = Settings(
            migration=self.order["migration"],
            chunk=self.order.get("chunk", 1 << 13),
            timeout_s=self._timeout_s,
        )
        journal = self.journal if self.order.get("journal", True) else None
        coordinator = Coordinator(
            self.pairs,
            spec=SPEC,
            plans=PLANS,
            settings=settings,
            observers=[killer],
            journal=journal,
        )
        try:
            summary = coordinator.run()
        except MigrationFailedError as failure:
            return {"outcome": failure.outcome, "why": failure.why, "hints": failure.hints}
        except CannotMigrateError as refusal:
            return {"outcome": "refused", "why": refusal.why, "hints": refusal.hints}
        return {"outcome": "done", "not_stopped": summary.not_stopped}

    def _recover(self, killer: Killer) -> dict:
        try:
            finished = recover(
                self.pairs, spec=SPEC, plans=PLANS, observers=[killer], timeout_s=self._timeout_s
            )
        except CannotMigrateError as refusal:
            return {"outcome": "refused", "why": refusal.why, "hints": refusal.hints}
        return {"outcome": finished.outcome, "why": finished.why, "hints": finished.problems}

    # --- what is left ---

    def _look(self) -> dict:
        """See where each device is, what those that run hold, and what each server has open."""
        states: dict[str, str | None] = dict.fromkeys(self.before)
        whole, counts = {}, {}
        for name, pid in self.pids.items():
            if dead(pid):
                continue
            with self._client(name) as client:
                state = states[name] = client.state()
                counts[name] = [self.before[name], descriptors(pid)]
                if SPEC.permits(state, "change_state"):
                    client.set_state("STOP")
                    whole[name] = is_whole(client, self.kinds[int(name[1:])])
        return {"states": states, "whole": whole, "descriptors": counts}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl(SUBREAPER, 1)
    gc.freeze()  # a collection in a fork would copy every page of this process
    for line in sys.stdin:
        print(json.dumps(Rig(json.loads(line)).run()), flush=True)


if __name__ == "__main__":
    main()
