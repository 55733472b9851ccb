"""What the service manager receives, at a socket as systemd makes it."""

from __future__ import annotations

import os
import socket

import pytest

from vfio_migration.runtime.transport.service_notify import READY, WATCHDOG, notify, watchdog


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """The socket of a service manager, and the environment it gives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            sock.bind(str(tmp_path / "notify"))
            name = str(tmp_path / "notify")
        else:
            sock.bind("")  # the kernel finds a name that is free
            name = "@" + sock.getsockname()[1:].decode()
        sock.setblocking(False)
        yield sock, {"NOTIFY_SOCKET": name}


def test_a_message_arrives(manager) -> None:
    sock, environ = manager
    assert notify(READY, "STATUS=serving edu", environ=environ)
    assert sock.recv(1000) == b"READY=1\nSTATUS=serving edu"


def test_a_manager_that_does_not_read_is_not_waited_for(manager) -> None:
    _sock, environ = manager
    sent = 0
    while notify(READY, environ=environ):
        sent += 1
        assert sent < 100_000
    assert sent > 0


@pytest.mark.parametrize(
    "name", ["", "@", "/", "/nowhere/at/all", "vsock:2:1", "x", "/" + "x" * 200, "@" + "x" * 200]
)
def test_without_a_manager_nothing_happens(name) -> None:
    assert not notify(READY, environ={"NOTIFY_SOCKET": name})
    assert not notify(READY, environ={})


def test_the_watchdog_is_fed_twice_within_its_time(manager) -> None:
    sock, environ = manager
    found = watchdog({**environ, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())})
    assert found is not None
    now = 100.0
    found._clock = lambda: now
    assert found.feed() == 101.5
    assert sock.recv(100) == WATCHDOG.encode()
    now = 101.4
    assert found.feed() == 101.5
    with pytest.raises(BlockingIOError):
        sock.recv(100)
    now = 101.5
    assert found.feed() == 103.0
    assert sock.recv(100) == WATCHDOG.encode()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_there_is_no_watchdog_for_who_is_not_asked(environ) -> None:
    assert watchdog(environ) is None
