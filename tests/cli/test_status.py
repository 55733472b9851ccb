"""`vfio-migration status`: the status of servers, of which nothing is changed."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from cli_support import until

from vfio_migration.cli.main import main
from vfio_migration.runtime.client import Client, PeerDisconnectedError
from vfio_migration.runtime.kit.devices import Edu
from vfio_migration.runtime.server.server import Server
from vfio_migration.runtime.server.status import StatusSocket, beside
from vfio_migration.runtime.transport.listening import listening


class StatusServer:
    """A server with a status socket, in a thread."""

    def __init__(self, path: Path, *, with_status: bool = True) -> None:
        self.path, self.device = path, Edu()
        self.server = Server(self.device)
        ready = threading.Event()

        def run() -> None:
            with listening(path) as sock:
                if with_status:
                    with StatusSocket(self.server, path, "edu"):
                        ready.set()
                        self.server.serve(sock)
                else:
                    ready.set()
                    self.server.serve(sock)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert ready.wait(60)

    def close(self) -> None:
        self.server.stop()
        self.thread.join(60)
        self.server.close()
        self.device.close()


@pytest.fixture
def start_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    begun: list[StatusServer] = []

    def start_served(name: str = "edu.sock", **options) -> StatusServer:
        begun.append(StatusServer(Path(name), **options))
        return begun[-1]

    yield start_served
    for one in begun:
        one.close()


def counted(served: StatusServer) -> dict:
    """What has happened to a device; bytes are counted only after they were sent."""
    keys = ("state", "connections", "transitions", "requests", "resets", "disconnects")
    found = served.server.counters.snapshot()
    return {key: found[key] for key in keys}


def servers(ran) -> list[dict]:
    return json.loads(ran.out)["servers"]


def test_it_shows_state_and_capabilities_and_that_nobody_is_connected(cli, start_served) -> None:
    start_served()
    ran = cli("status", "edu.sock")
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[:4] == [
        "edu.sock: RUNNING",
        "  capabilities STOP_COPY,P2P,PRE_COPY",
        "  client       none now; connections so far: 0",
        "  device       edu",
    ]
    assert lines[4].startswith(f"  server       pid {os.getpid()}, serving for ")


class Denied(socket.socket):
    """A socket of a user who may connect to nothing."""

    def connect(self, address: object, /) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_socket_that_the_user_may_not_connect_to_is_not_reported_to_lack_a_server(
    cli, start_served, monkeypatch
) -> None:
    start_served()
    monkeypatch.setattr(socket, "socket", Denied)
    ran = cli("status", "edu.sock")
    assert (ran.status, ran.err) == (3, "")
    assert ran.out.startswith("edu.sock: this user may not connect to its status socket")
    with pytest.raises(
        PeerDisconnectedError, match=r"edu\.sock: cannot be connected to: Permission denied"
    ):
        Client("edu.sock")


def test_it_shows_who_is_connected_and_for_how_long_and_takes_no_seat(cli, start_served) -> None:
    served = start_served()
    with Client(served.path) as client:
        client.set_state("STOP_COPY")
        before = counted(served)
        [found] = servers(cli("status", "edu.sock", "--json"))
        assert counted(served) == before, "it changes nothing"
        assert (found["outcome"], found["state"]) == ("serving", "STOP_COPY")
        assert found["session"] is not None
        assert found["capabilities"] == ["STOP_COPY", "P2P", "PRE_COPY"]
        assert found["client"]["pid"] == os.getpid()
        assert found["client"]["number"] == found["connections"] == 1
        assert found["client"]["connected_seconds"] >= 0
        assert found["client"]["program"]
        assert "connected for" in cli("status", "edu.sock").out
        assert client.state() == "STOP_COPY"
    until(lambda: served.server.client is None)
    [found] = servers(cli("status", "edu.sock", "--json"))
    assert (found["state"], found["client"], found["connections"]) == ("STOP_COPY", None, 1)


def test_it_answers_while_the_device_hangs(cli, start_served) -> None:
    served = start_served()
    hangs, go_on = threading.Event(), threading.Event()

    def stop() -> None:
        hangs.set()
        assert go_on.wait(60)

    served.device.stop = stop
    with Client(served.path) as client:
        call = threading.Thread(target=lambda: client.set_state("STOP"))
        call.start()
        assert hangs.wait(60)
        [found] = servers(cli("status", "edu.sock", "--json"))
        go_on.set()
        call.join(60)
    assert (found["outcome"], found["state"]) == ("serving", "RUNNING_P2P")


def test_its_socket_is_for_its_owner_and_is_removed_at_the_end(start_served) -> None:
    served = start_served()
    where = beside(served.path)
    assert stat.S_IMODE(where.stat().st_mode) == 0o600
    served.close()
    assert not where.exists()


def test_who_asks_and_never_reads_holds_nobody(cli, start_served) -> None:
    start_served()
    asking = []
    for _ in range(50):
        asking.append(socket.socket(socket.AF_UNIX))
        asking[-1].connect("edu.sock.status")
    assert cli("status", "edu.sock").status == 0
    for sock in asking:
        sock.close()


def test_a_server_whose_status_socket_cannot_be_made_serves_all_the_same(cli, start_served) -> None:
    Path("edu.sock.status").write_text("precious")
    served = start_served()
    assert Path("edu.sock.status").read_text() == "precious"
    with Client(served.path) as client:
        assert client.state() == "RUNNING"


NO_CHANNEL = (
    "no server of this package, or one without a status socket; --connect asks it as a client, "
    "upon whose leaving some servers reset their device or end"
)


def test_another_server_is_not_connected_to_unless_that_is_asked_for(cli, start_served) -> None:
    served = start_served(with_status=False)
    ran = cli("status", "edu.sock")
    assert (ran.status, ran.out) == (3, f"edu.sock: {NO_CHANNEL}\n")
    assert served.server.counters.connections == 0
    ran = cli("status", "--connect", "edu.sock")
    assert (ran.status, ran.out) == (
        0,
        "edu.sock: RUNNING\n  capabilities STOP_COPY,P2P,PRE_COPY\n  client       is not known\n",
    )


def test_a_server_that_serves_another_client_is_given_up_after_the_timeout(
    cli, start_served
) -> None:
    served = start_served(with_status=False)
    with Client(served.path) as client:
        ran = cli("status", "--connect", "--timeout", "0.2", "edu.sock")
        assert ran.status == 3
        assert ran.out == (
            "edu.sock: does not answer a client within 0.2 s; it may be serving another one\n"
        )
        assert client.state() == "RUNNING"


def test_a_status_socket_that_never_answers_is_given_up_after_the_timeout(
    cli, start_served
) -> None:
    start_served(with_status=False)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("edu.sock.status")
        silent.listen()
        ran = cli("status", "--timeout", "0.2", "edu.sock")
    assert ran.status == 3
    assert ran.out == "edu.sock: edu.sock.status: does not answer within 0.2 s\n"


@pytest.mark.parametrize(
    "reported", [b"", b"{}", b"[", b"[" * 60000, b'{"status": 1}', b"x" * 70000, b"\xff"]
)
def test_what_is_no_status_is_not_believed(cli, start_served, reported) -> None:
    start_served(with_status=False)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind("edu.sock.status")
        stranger.listen()

        def answer() -> None:
            sock, _ = stranger.accept()
            with sock:
                sock.sendall(reported)

        thread = threading.Thread(target=answer)
        thread.start()
        ran = cli("status", "edu.sock")
        thread.join(60)
    assert (ran.status, ran.out) == (3, f"edu.sock: {NO_CHANNEL}\n")


def test_the_status_of_a_server_that_was_replaced_is_not_taken_for_the_new_one(
    cli, start_served
) -> None:
    start_served()
    Path("edu.sock").unlink()
    with listening("edu.sock"):
        ran = cli("status", "edu.sock")
    assert (ran.status, ran.out) == (3, f"edu.sock: {NO_CHANNEL}\n")


def test_nobody_and_what_is_no_socket_and_all_in_one(cli, start_served) -> None:
    start_served()
    Path("file").touch()
    for name in ("dead.sock", "dead.sock.status"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(name)
    dead = cli("status", "dead.sock")
    assert (dead.status, dead.out) == (
        1,
        "dead.sock: nobody serves there any more: its server has ended\n",
    )
    assert cli("status", "none.sock").status == 1
    ran = cli("status", "--json", "edu.sock", "dead.sock", "file", "none.sock")
    assert ran.status == 2
    outcomes = [one["outcome"] for one in servers(ran)]
    assert outcomes == ["serving", "absent", "wrong", "absent"]


def test_serve_has_a_status_socket(cli, serve, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    serve("mem.sock", "memory,size=64K")
    [found] = servers(cli("status", "mem.sock", "--json"))
    assert found["device"] == "memory,size=64K"
    assert found["pid"] != os.getpid()


def test_no_socket_is_wrong_input() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status"])
    assert ended.value.code == 2
