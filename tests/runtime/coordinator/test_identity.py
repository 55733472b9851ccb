"""Which process serves a device, and what is done where nobody knows."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import forked_servers
from support.migration_harness import MARK, SPEC, Harness
from support.samples import sample, sample_where, sampled
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import MigrationFailedError
from vfio_migration.runtime.coordinator import journal as journals
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Saver
from vfio_migration.runtime.transport.peer_process import NOBODY, Process

# --- servers that did not make their sockets ---


class Manager:
    """Listens, as a service manager does, and hands its sockets to servers that it starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets: dict[str, socket.socket] = {}
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("s0", "d0"):
            self.sockets[name] = sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(folder / name))
            sock.listen(8)
            self.start(name)
        with self.client("s0") as client:
            client.region_write(2, 64, MARK)

    def start(self, name: str) -> None:
        fd = self.sockets[name].fileno()
        words = ["serve", "--fd", str(fd), "--device", "memory,size=64K"]
        self.servers[name] = subprocess.Popen(
            [sys.executable, "-m", "vfio_migration.cli.main", *words],
            pass_fds=[fd],
            stderr=subprocess.DEVNULL,
        )

    def kill(self, name: str) -> None:
        self.servers[name].kill()
        self.servers[name].wait()

    def client(self, name: str) -> Client:
        return Client(self.folder / name)

    @property
    def pair(self) -> tuple[str, str]:
        return str(self.folder / "s0"), str(self.folder / "d0")

    def states(self) -> dict[str, str]:
        found = {}
        for name in self.sockets:
            with self.client(name) as client:
                found[name] = client.state()
        return found

    def whole(self, name: str) -> bool:
        with self.client(name) as client:
            return client.region_read(2, 64, len(MARK)) == MARK

    def close(self) -> None:
        for name, server in self.servers.items():
            server.kill()
            server.wait()
            self.sockets[name].close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path)
    yield one
    one.close()


MIGRATE = """
import os, sys
from pathlib import Path
from vfio_migration.runtime.coordinator import Coordinator, Settings
from vfio_migration.runtime.transport import peer_process as process

if "no-pidfs" in sys.argv:
    process._number = lambda _pidfd: 0

def report(event):
    if [event.name, *map(str, event.fields.values())][: len(sys.argv[3].split())] == (
        sys.argv[3].split()
    ):
        os._exit(9)

Coordinator(
    [tuple(sys.argv[1:3])],
    settings=Settings(migration="offline", timeout_s=5.0),
    journal=Path(sys.argv[1] + ".migration"),
    report=report,
).run()
"""
LOADED, WAKES = "phase destination resume judge", "phase destination resume run"


def left_behind(pair: tuple[str, str], at: str, *more: str) -> None:
    """Migrate, and be gone at an event."""
    done = subprocess.run(
        [*more, sys.executable, "-c", MIGRATE, *pair, at], check=False, timeout=60
    )
    assert done.returncode == 9
    assert Path(f"{pair[0]}.migration").exists()


@sampled(2)
@pytest.mark.parametrize(
    ("at", "winner"),
    sample([("stopped", "s0"), (LOADED, "d0"), (WAKES, "d0")], apart=2, spread=True),
)
def test_a_server_behind_a_socket_of_its_manager(manager: Manager, at: str, winner: str):
    """It is the one that answers that has the device: it is still there, and that is known."""
    left_behind(manager.pair, at)
    finished = recover([manager.pair])
    assert finished.outcome == ("source" if winner == "s0" else "destination")
    assert finished.problems == []
    loser = "d0" if winner == "s0" else "s0"
    assert manager.states() == {winner: "RUNNING", loser: "STOP"}
    assert manager.whole(winner)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("at", "killed", "outcome"),
    sample_where(
        [
            ("stopped", "s0", "lost"),
            ("stopped", "d0", "source"),
            (LOADED, "s0", "destination"),
            (LOADED, "d0", "source"),
            (WAKES, "s0", "destination"),
            (WAKES, "d0", "source"),
        ],
        lambda row: row[:2] in [("stopped", "s0"), (LOADED, "d0"), (WAKES, "s0")],
        spread=True,
    ),
)
def test_a_server_that_its_manager_started_anew(
    manager: Manager, at: str, killed: str, outcome: str
):
    """The socket is the same and who listens is; the device is a blank one."""
    left_behind(manager.pair, at)
    manager.kill(killed)
    manager.start(killed)
    finished = recover([manager.pair])
    assert finished.outcome == outcome
    winner = "d0" if outcome == "destination" else "s0"
    assert {name for name, state in manager.states().items() if state == "RUNNING"} == {winner}
    assert manager.whole(winner) == (outcome != "lost")


@pytest.mark.exhaustive
def test_a_save_of_a_server_that_its_manager_started_anew(manager: Manager):
    def watch(exchange) -> None:
        if exchange.what == "reply" and exchange.command.name == "MIG_DATA_READ" and not seen:
            seen.append(1)
            manager.kill("s0")
            manager.start("s0")

    seen: list[int] = []
    with pytest.raises(MigrationFailedError) as failed:
        Saver([manager.pair[0]], observers=[watch]).run(manager.folder / "file")
    assert failed.value.outcome == "lost"
    assert "was served anew" in failed.value.hints[-1]


# --- relays ---


class Relay:
    """Listens, and hands every connection to a process of its own that passes all on."""

    def __init__(self, path: Path, behind: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", RELAY, str(path), str(behind)], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


RELAY = """
import os, select, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("ready", flush=True)
    while True:
        here, _ = listener.accept()
        if os.fork():
            here.close()
            continue
        there = socket.socket(socket.AF_UNIX)
        there.connect(sys.argv[2])
        other = {here: there, there: here}
        while True:
            for one in select.select([here, there], [], [])[0]:
                data, fds, _, _ = socket.recv_fds(one, 1 << 16, 16)
                if not data:
                    os._exit(0)
                socket.send_fds(other[one], [data], fds)
                for fd in fds:
                    os.close(fd)
"""


@pytest.fixture
def relayed(harness: Harness) -> Iterator[tuple[Harness, tuple[str, str]]]:
    harness.serve("s0")
    harness.serve("d0")
    relays = [Relay(Path(f"{name}-relay"), Path(name)) for name in ("s0", "d0")]
    yield harness, ("s0-relay", "d0-relay")
    for relay in relays:
        relay.close()


UNIDENTIFIED = "it is not known whether the server that answers is the one that was there"


@sampled(3)
@pytest.mark.parametrize("at", ["stopped", LOADED, WAKES])
def test_who_is_behind_a_relay_is_not_known(relayed, at: str):
    """So the caller has to state which side is to run; until then nobody is moved."""
    harness, pair = relayed
    left_behind(pair, at)
    found = journals.read(Path("s0-relay.migration"))
    assert found is not None
    assert found.entries[0].source_process == NOBODY
    before = harness.states
    harness.arcs.clear()
    finished = recover([pair])
    assert finished.outcome == "undecided"
    assert UNIDENTIFIED in finished.why
    assert finished.problems[-1] == (
        "choose which side is to run: --keep source or --keep destination"
    )
    assert (harness.states, harness.arcs) == (before, [])
    finished = recover([pair], keep="source")
    assert finished.outcome == "source"
    assert harness.running == {"s0"}
    assert harness.hosts["s0"].whole
    assert not Path("s0-relay.migration").exists()


def test_a_migration_through_relays(relayed):
    """Nobody has to be found again while the connections last."""
    harness, pair = relayed
    from vfio_migration.runtime.coordinator import Coordinator

    Coordinator([pair], spec=SPEC, journal=Path("journal")).run()
    assert harness.running == {"d0"}
    assert harness.hosts["d0"].whole
    assert not Path("journal").exists()
    harness.hosts["d0"].device.mangle = lambda _piece: []
    for host in harness.hosts.values():
        host.server.engine.reset()
    with pytest.raises(MigrationFailedError) as failed:
        Coordinator([pair], spec=SPEC, journal=Path("journal")).run()
    assert failed.value.outcome == "source"
    assert harness.running == {"s0"}


def cut(name: str) -> list[int]:
    """Kill the processes that pass on what goes through a relay, and say which."""
    killed: list[int] = []
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    for child in map(int, children.split()):
        if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
            below = Path(f"/proc/{child}/task/{child}/children").read_text()
            killed.extend(map(int, below.split()))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    return killed


def test_a_save_through_a_relay_that_breaks(relayed):
    """The device runs on, as far as can be seen; whether it is the one that was is not known."""
    harness, (source, _) = relayed

    def watch(exchange) -> None:
        if exchange.what == "reply" and exchange.command.name == "MIG_DATA_READ" and not killed:
            killed.extend(cut(source))

    killed: list[int] = []
    with pytest.raises(MigrationFailedError) as failed:
        Saver([source], spec=SPEC, observers=[watch]).run("file")
    assert failed.value.outcome == "undecided"
    assert "it is not known whether its server is the one" in failed.value.hints[-1]
    assert harness.hosts["s0"].runs
    assert harness.hosts["s0"].whole
    assert not Path("file").exists()


def test_a_relay_that_breaks_in_the_middle(relayed):
    """What is behind it may be as it was, or not: it is asked, and how is stated."""
    from vfio_migration.runtime.coordinator import Coordinator

    harness, pair = relayed

    def report(event) -> None:
        if event.name == "stopped" and not killed:
            killed.extend(cut("s0-relay"))

    killed: list[int] = []
    coordinator = Coordinator([pair], spec=SPEC, journal=Path("journal"), report=report)
    with pytest.raises(MigrationFailedError) as failed:
        coordinator.run()
    assert killed
    assert failed.value.outcome == "undecided"
    assert UNIDENTIFIED in failed.value.hints[0]
    assert failed.value.hints[-1] == (
        "run: vfio-migration recover s0-relay d0-relay --journal journal --keep source or "
        "--keep destination"
    )
    assert recover([pair], journal=Path("journal"), keep="source").outcome == "source"
    assert harness.running == {"s0"}
    assert harness.hosts["s0"].whole


# --- other namespaces ---

RECOVER = """
import sys
from vfio_migration.runtime.transport import peer_process as process
from vfio_migration.runtime.coordinator.recover import recover

if "no-pidfs" in sys.argv:
    process._number = lambda _pidfd: 0
settled = recover([tuple(sys.argv[1:3])], timeout_s=5.0)
print(settled.outcome, settled.why, settled.problems)
"""
INSIDE = ["unshare", "-Urpf", "--mount-proc"]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, object]]:
    if not shutil.which("unshare") or subprocess.run([*INSIDE, "true"], check=False).returncode:
        pytest.skip("no namespace can be made here")
    paths = {name: tmp_path / name for name in ("s0", "d0")}
    found = {
        name: forked_servers.serve(path, "memory,size=64K", "7") for name, path in paths.items()
    }
    for path in paths.values():
        forked_servers.wait_for(path)
    yield found
    for server in found.values():
        server.kill()
        server.join(60)


def again(servers, tmp_path: Path, name: str) -> None:
    servers[name].kill()
    servers[name].join(60)
    servers[name] = forked_servers.serve(tmp_path / name, "memory,size=64K", "7")
    forked_servers.wait_for(tmp_path / name)


@sampled(2)
@pytest.mark.parametrize(
    ("anew", "more"),
    sample_where(
        itertools.product([None, "s0", "d0"], [(), ("no-pidfs",)]),
        lambda row: row in [("d0", ()), (None, ("no-pidfs",))],
        spread=True,
    ),
    ids=lambda value: {(): "pidfs", ("no-pidfs",): "no pidfs"}.get(value),
)
def test_servers_in_another_namespace(servers, tmp_path: Path, anew: str | None, more):
    """Their pids say nothing there. Where the kernel counts them they are known all the same."""
    if not more and not Process.of(os.getpid()).unique:
        pytest.skip("pidfds have no numbers here")
    pair = str(tmp_path / "s0"), str(tmp_path / "d0")
    words = [*INSIDE, sys.executable, "-c", MIGRATE, *pair, LOADED, *more]
    assert subprocess.run(words, check=False, timeout=60).returncode == 9
    found = journals.read(Path(f"{pair[0]}.migration"))
    assert found is not None
    assert found.entries[0].source_process.pid == 0
    if anew:
        again(servers, tmp_path, anew)
    done = subprocess.run(
        [*INSIDE, sys.executable, "-c", RECOVER, *pair, *more],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    outcome, *_ = done.stdout.split()
    states = {}
    for name in servers:
        with Client(tmp_path / name) as client:
            states[name] = client.state()
    if more:
        assert outcome == "undecided"
        assert UNIDENTIFIED in done.stdout
        return
    assert outcome == ("source" if anew == "d0" else "destination"), done.stdout
    winner, loser = ("s0", "d0") if anew == "d0" else ("d0", "s0")
    assert states == {winner: "RUNNING", loser: "STOP"}


WAITS = """
import sys
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings

def report(event):
    if event.name == "running":
        print("running", flush=True)
        input()

try:
    Coordinator([tuple(sys.argv[1:3])], settings=Settings(timeout_s=5.0), report=report).run()
except MigrationFailedError as failure:
    print(failure.outcome, flush=True)
"""


def test_the_end_of_a_server_in_another_namespace(servers, tmp_path: Path):
    """Anybody who has spoken with it sees that it is gone, and that it does not run unseen."""
    if not Process.of(os.getpid()).unique:
        pytest.skip("pidfds have no numbers here")
    pair = str(tmp_path / "s0"), str(tmp_path / "d0")
    with subprocess.Popen(
        [*INSIDE, sys.executable, "-c", WAITS, *pair],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as coordinator:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == "running\n"
        servers["d0"].kill()
        servers["d0"].join(60)
        reported, _ = coordinator.communicate("\n", timeout=60)
    assert reported == "source\n"
    with Client(tmp_path / "s0") as client:
        assert client.state() == "RUNNING"


def test_a_recovery_in_another_namespace_than_the_migration(servers, tmp_path: Path):
    if not Process.of(os.getpid()).unique:
        pytest.skip("pidfds have no numbers here")
    pair = str(tmp_path / "s0"), str(tmp_path / "d0")
    left_behind(pair, LOADED, *INSIDE)
    again(servers, tmp_path, "d0")
    assert recover([pair]).outcome == "source"
