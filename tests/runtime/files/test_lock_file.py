"""A lock that no stranger can take, and that states who holds it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator.errors import CannotMigrateError
from vfio_migration.runtime.files import lock_file
from vfio_migration.runtime.files.lock_file import LockedError, locked
from vfio_migration.runtime.transport.listening import CannotListenError, listening

NOBODY = 65534


@pytest.fixture
def place(tmp_path) -> Path:
    return tmp_path / "x.lock"


def give_away(path: Path, monkeypatch) -> None:
    """Let a file belong to another user."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
    else:
        monkeypatch.setattr(lock_file, "trusted", lambda _owner: False)


def test_one_at_a_time_holds_it_and_is_named(place):
    with locked(place):
        reported = f"process {os.getpid()} .* holds this lock"
        with pytest.raises(LockedError, match=reported) as held, locked(place):
            pass
        assert held.value.holder == os.getpid()
    assert not place.exists()
    with locked(place):
        pass


def test_only_its_owner_can_lock_its_file(place):
    with locked(place):
        assert place.stat().st_mode & 0o777 == 0o600


def test_a_lock_of_a_process_that_was_killed_is_free(place):
    ready, done = os.pipe()
    pid = os.fork()
    if not pid:
        with locked(place):
            os.write(done, b"x")
            signal.pause()
        os._exit(1)
    os.read(ready, 1)
    with pytest.raises(LockedError, match=f"process {pid}"), locked(place):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert place.exists()
    with locked(place):
        pass
    os.close(ready)
    os.close(done)


def test_it_is_waited_for_as_long_as_stated(place):
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(place):
            taken.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    threading.Timer(0.1, release.set).start()
    with locked(place, timeout_s=60):
        pass
    thread.join()


def test_many_threads_never_hold_it_together(place):
    inside, together = [], []

    def work() -> None:
        for _ in range(20):
            with locked(place, timeout_s=60):
                inside.append(1)
                together.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}


def test_a_file_of_another_user_is_no_lock(place, monkeypatch):
    place.write_text("", "utf-8")
    give_away(place, monkeypatch)
    with pytest.raises(LockedError, match="belongs to another user"), locked(place):
        pass
    assert place.exists()


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
def test_what_is_no_file_is_no_lock(place, what):
    if what == "link":
        place.symlink_to("/etc/passwd")
    elif what == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    with pytest.raises(LockedError, match="remove it"), locked(place):
        pass


def test_a_flock_on_the_folder_does_not_keep_a_server_from_starting(tmp_path):
    """Anybody who may read a folder can take such a lock, and keep it."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with listening(tmp_path / "edu.sock"):
            pass
    finally:
        os.close(fd)


def test_a_server_that_cannot_start_states_who_is_in_its_way(tmp_path, monkeypatch):
    monkeypatch.setattr("vfio_migration.runtime.transport.listening.START_TIMEOUT_S", 0.0)
    with (
        locked(tmp_path / "edu.sock.start"),
        pytest.raises(CannotListenError, match=f"process {os.getpid()} .* holds this lock"),
        listening(tmp_path / "edu.sock"),
    ):
        pass


def test_a_coordinator_that_is_kept_out_states_by_whom(tmp_path):
    path = str(tmp_path / "edu.sock")
    with (
        claims.locked([path]),
        pytest.raises(CannotMigrateError, match=f"process {os.getpid()} .* holds this lock"),
        claims.locked([path]),
    ):
        pass


def test_anybody_who_takes_the_abstract_names_keeps_no_coordinator_out(tmp_path):
    """The names used to be the lock; anybody could bind them first."""
    path = tmp_path / "edu.sock"
    path.touch()
    there = path.stat()
    with contextlib.ExitStack() as stack:
        for key in (f"path {path.resolve()}", f"file {there.st_dev}:{there.st_ino}"):
            digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
            stranger = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            stranger.bind(f"\0vfio-migration/{digest}")
        with claims.locked([str(path)]):
            pass


def test_a_socket_with_two_names_is_moved_by_one_at_a_time(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    os.link(one, two)
    with (
        claims.locked([str(one)]),
        pytest.raises(CannotMigrateError, match=f"process {os.getpid()} of user {os.getuid()}"),
        claims.locked([str(two)]),
    ):
        pass
