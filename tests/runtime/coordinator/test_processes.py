"""Processes, known by more than their numbers, and whose messages are read on a connection."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.transport import peer_process as process
from vfio_migration.runtime.transport.peer_process import NOBODY, Process


@pytest.fixture(params=[True, False], ids=["pidfs", "no pidfs"])
def pidfs(request, monkeypatch) -> bool:
    """With what Linux 6.9 has, and without."""
    if not request.param:
        monkeypatch.setattr(process, "_number", lambda _pidfd: 0)
    elif not Process.of(os.getpid()).unique:
        pytest.skip("pidfds have no numbers here")
    return request.param


def test_a_process_that_is_there(pidfs: bool):
    me = Process.of(os.getpid())
    assert (me.unique > 0) == pidfs
    assert me.is_there() is True
    assert me.is_same(Process.of(os.getpid())) is True
    assert me.is_same(Process.of(os.getppid())) is False
    assert Process.from_data(me.to_data()) == me


def test_a_process_that_has_ended(pidfs: bool):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    one = Process.of(child.pid)
    assert one.is_there() is True
    child.communicate()
    assert one.is_there() is False


def test_a_zombie_has_ended(pidfs: bool):
    child = subprocess.Popen(["sleep", "60"])
    one = Process.of(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert one.is_there() is False
    child.wait()


def test_a_number_used_again_is_another_process(pidfs: bool):
    me = Process.of(os.getpid())
    before = dataclasses.replace(me, started=me.started - 1, unique=me.unique and me.unique - 1)
    assert before.is_there() is False
    assert before.is_same(me) is False


def test_a_process_of_another_start_of_the_machine():
    me = Process.of(os.getpid())
    before = dataclasses.replace(me, boot="another")
    assert before.is_there() is False
    assert before.is_same(me) is False


def test_a_number_in_another_namespace(pidfs: bool):
    """It states nothing here; what the kernel counts itself does."""
    me = Process.of(os.getpid())
    there = dataclasses.replace(me, space=me.space + 1)
    assert there.is_there() is None
    assert there.is_same(me) is (True if pidfs else None)


@pytest.mark.parametrize("one", [NOBODY, Process(0, 0, 0, "", 7), Process(7, 0)])
def test_who_cannot_be_distinguished_from_others(one: Process):
    assert one.is_there() is None
    assert one.is_same(one) is None
    assert one.is_same(Process.of(os.getpid())) is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("pid"), inner),
        max_leaves=5,
    )
)
def test_what_is_no_process(data):
    try:
        found = Process.from_data(data)
    except ValueError as error:
        assert str(error) == f"{data!r} is not a process"  # noqa: PT017 - either is right
    else:
        assert (data["pid"], data["started"]) == (found.pid, found.started)


# --- whose messages are read ---


def test_who_answers_is_noted_once(pidfs: bool):
    """With the descriptors of its message, which are not lost, and none is left open."""
    here, there = socket.socketpair()
    before = opened_at_rest()
    with here, there:
        receiver = process.SenderDetector(here)
        assert receiver.detect() is None
        socket.send_fds(there, [b"first"], [0, 1])
        assert receiver.detect() == Process.of(os.getpid())
        assert opened() == before
        there.send(b"second")
        data, fds, _, _ = socket.recv_fds(here, 100, 16)
        assert (data[:5], len(fds)) == (b"first", 2)
        for fd in fds:
            os.close(fd)
        assert here.recvmsg(100, 1000)[1] == []


def test_who_has_ended_already_is_noticed():
    """The kernel then gives a number that is not a descriptor."""

    class Socket:
        def setsockopt(self, *_words) -> None:
            raise OSError("not known here")

        def recvmsg(self, *_words):
            return b"x", [(1, 2, bytes(12)), (1, 4, b"\xff" * 4)], 0, None

    found = process.SenderDetector(Socket()).detect()
    assert found is not None
    assert (found.pid, found.unique) == (0, 0)
