"""`vfio-migration serve` as users and service managers start it."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.raw_client import GET, Client, RefusedError
from support.samples import sampled

PROGRAM = [sys.executable, "-m", "vfio_migration.cli.main", "serve"]


class Running:
    """A server in a process of its own."""

    def __init__(self, arguments, path: Path | None, *, reported: Path, command=PROGRAM, **options):
        self.path, self._log = path, reported
        with reported.open("w") as file:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)], stdin=subprocess.DEVNULL, stderr=file, **options
            )
        self.until(lambda: "serving" in self.reported)

    @property
    def reported(self) -> str:
        return self._log.read_text("utf-8")

    def until(self, condition) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, self.reported
            assert self.process.poll() is None, self.reported
            time.sleep(0.01)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    started: list[Running] = []

    def start(*arguments, at: Path | None = None, **options) -> Running:
        path = at if at is not None else tmp_path / "edu.sock"
        where = () if "--fd" in arguments or options.pop("nowhere", False) else (path,)
        made = Running(
            [*where, *arguments], path, reported=tmp_path / f"{len(started)}.log", **options
        )
        started.append(made)
        return made

    yield start
    for made in started:
        made.process.kill()
        made.process.wait()


def fails(*arguments, **options) -> str:
    """What a server that does not start says; it must state it with status 2."""
    ran = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
        **options,
    )
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stderr


@sampled(4)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("connected", [True, False])
def test_it_ends_well_and_takes_its_socket_with_it(start, number, connected) -> None:
    served = start()
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    client = Client(served.path) if connected else None
    assert served.stop(number) == 0
    assert not served.path.exists()
    assert "Traceback" not in served.reported
    if client is not None:
        assert client.sock.recv(1) == b""
        client.close()


def test_a_sigint_that_was_ignored_at_the_start_stays_ignored(start) -> None:
    """As `nohup` and the `&` of a script have it."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    served = start(command=[sys.executable, "-c", program, *PROGRAM])
    served.process.send_signal(signal.SIGINT)
    with Client(served.path) as client:
        assert client.state == 2
    assert served.stop() == 0


def test_a_stale_socket_is_replaced(start, tmp_path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    served = start(at=path)
    with Client(path) as client:
        assert client.state == 2
    assert served.stop() == 0


@pytest.mark.exhaustive
def test_a_live_socket_and_any_other_file_are_left_alone(start, tmp_path) -> None:
    served = start()
    assert "somebody listens there already" in fails(served.path)
    with Client(served.path) as client:
        assert client.state == 2
    file = tmp_path / "file"
    file.write_text("precious")
    assert "is not a socket" in fails(file)
    assert file.read_text() == "precious"
    link = tmp_path / "link"
    link.symlink_to(served.path)
    assert "is not a socket" in fails(link)
    assert "No such file" in fails(tmp_path / "nowhere" / "edu.sock")
    assert "AF_UNIX path too long" in fails(tmp_path / ("x" * 200))


def test_a_socket_that_another_server_put_there_is_left_to_it(start) -> None:
    served = start()
    served.path.unlink()
    served.path.write_text("another's")
    assert served.stop() == 0
    assert served.path.read_text() == "another's"


def test_mistakes_are_named() -> None:
    assert "did you mean edu?" in fails("/tmp/x", "--device", "edo")
    assert "P2" in fails("/tmp/x", "--flags", "STOP_COPY,P2")
    assert "SOCKET, --fd FDNUM" in fails()
    assert "descriptor 99" in fails("--fd", "99")
    assert "not a UNIX stream socket" in fails("--fd", "0")


def test_socket_activation(start, tmp_path) -> None:
    """As systemd does it: descriptor 3, and LISTEN_PID names the process that is started."""
    path = tmp_path / "given.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        fd = listener.fileno()
        program = (
            f"import os, sys; os.dup2({fd}, 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", program, *PROGRAM]
        served = start(at=path, nowhere=True, command=command, pass_fds=[fd])
        with Client(path) as client:
            assert client.state == 2
        assert served.stop() == 0
        assert path.exists(), "the socket is the service manager's"


def test_a_descriptor_of_a_connected_client(start) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        served = start("--fd", theirs.fileno(), pass_fds=[theirs.fileno()])
    with Client(sock=ours) as client:
        client.set_state(1)
    assert served.process.wait(60) == 0


@sampled(3)
@pytest.mark.parametrize("flags", ["STOP_COPY", "7", "STOP_COPY,PRE_COPY"])
def test_each_line_of_the_log_is_an_object(start, flags) -> None:
    served = start("--log-format", "json", "--flags", flags)
    with Client(served.path) as client:
        client.feature(GET | 1)
        client.set_state(3)
        with pytest.raises(RefusedError):
            client.set_state(99)
        client.reset()
    served.until(lambda: "disconnected" in served.reported)
    served.process.send_signal(signal.SIGUSR1)
    served.until(lambda: '"counters"' in served.reported)
    assert served.stop() == 0
    lines = [json.loads(line) for line in served.reported.splitlines()]
    events = [line["event"] for line in lines]
    for event in ("serving", "connected", "transition", "request", "reset", "disconnected"):
        assert event in events
    assert events[-1] == "stopped"
    arcs = [line["what"] for line in lines if line["event"] == "transition"]
    assert arcs[-1].endswith("-> STOP_COPY")
    [refused] = [line for line in lines if line.get("outcome") == "refused"]
    assert (refused["target"], refused["errno"]) == (99, "EINVAL")
    counters = next(line for line in lines if line["event"] == "counters")
    assert counters["connections"] == 1
    assert counters["transitions"][arcs[-1]] == {"completed": 1}
    assert all(line["time"] and line["level"] for line in lines)


def test_the_log_for_people_is_one_line_an_event(start) -> None:
    served = start()
    with Client(served.path) as client:
        client.set_state(1)
    served.until(lambda: "disconnected" in served.reported)
    assert served.stop() == 0
    assert 'transition what="RUNNING_P2P -> STOP" outcome=completed state=STOP' in served.reported


def test_a_device_by_name(start) -> None:
    served = start("--device", "memory")
    with Client(served.path) as client:
        assert client.read(0, 0, 4) == b"\xee\x00\x00\x01"
    assert served.stop() == 0
