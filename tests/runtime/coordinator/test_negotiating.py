"""Anybody who connects negotiates a version: some servers end if a client hangs up before.

The samples of the server library nutanix/libvfio-user do (`habits.ExitsBeforeVersion`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import RUNNING, Peer
from support.peer_habits.running import Running, running
from support.raw_client import VERSION
from vfio_migration.runtime.client import Client
from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator, MigrationFailedError
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.recover import recover
from vfio_migration.runtime.coordinator.save import Restorer, Saver
from vfio_migration.runtime.transport.listening import CannotListenError, listening

SIZE = 10_000


@contextlib.contextmanager
def delicate(folder: Path, name: str, *more: type[Peer], size: int = SIZE) -> Iterator[Running]:
    """A server that ends if a client hangs up before VERSION; it must not."""
    held = os.urandom(size)
    with running(folder, name, habits.ExitsBeforeVersion, *more, held=held) as server:
        yield server
        negotiated = [command for command, _ in server.seen if command == VERSION]
        assert len(negotiated) == server.connections
        # It has seen the last client hang up, and serves the next one.
        with Client(server.path) as client:
            client.state()
        assert not server.ended


def coordinator(a: str | Path, b: str | Path) -> Coordinator:
    return Coordinator([(a, b)], journal=beside(str(a)))


def test_a_dry_run_negotiates(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        [(one, two)] = coordinator(a.path, b.path).survey()
        assert (one.state, two.state) == ("RUNNING", "RUNNING")
        assert a.connections == b.connections == 1


def test_a_refused_preflight_negotiates_with_everybody(tmp_path: Path) -> None:
    """The source is refused for itself, and the destination is not even asked."""
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        with Client(a.path) as client:
            client.set_state("STOP")
        with pytest.raises(CannotMigrateError, match="is in STOP, and a source begins in RUNNING"):
            coordinator(a.path, b.path).run()


def test_a_destination_of_another_kind_is_refused_politely(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b", size=SIZE + 1) as b:
        for ask in (coordinator(a.path, b.path).run, coordinator(a.path, b.path).survey):
            with pytest.raises(CannotMigrateError, match="not the same kind of device"):
                ask()


def test_nobody_serves_at_the_other_end(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a:
        for ask in ("run", "survey"):
            with pytest.raises(CannotMigrateError, match="nobody serves there"):
                getattr(coordinator(a.path, tmp_path / "b"), ask)()


def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        journal = tmp_path / "nowhere" / "journal"
        with pytest.raises(CannotMigrateError, match="the journal cannot be written"):
            Coordinator([(a.path, b.path)], journal=journal).run()


def test_a_device_that_belongs_to_another_migration_is_not_even_connected_to(
    tmp_path: Path,
) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        beside(a.path).write_text("precious")
        with pytest.raises(CannotMigrateError, match="an earlier migration of this device"):
            coordinator(a.path, b.path).run()
        assert a.connections == b.connections == 0
        beside(a.path).unlink()


def test_recover_negotiates(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        with pytest.raises(CannotMigrateError, match="it is not known who is to run"):
            recover([(a.path, b.path)])
        assert recover([(a.path, b.path)], keep="source").outcome == "source"
        assert a.state == RUNNING


def test_a_save_and_a_restore_that_are_refused_negotiate(tmp_path: Path) -> None:
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        Saver([a.path]).run(tmp_path / "file")
        with pytest.raises(CannotMigrateError, match="a source begins in RUNNING"):
            Saver([a.path]).run(tmp_path / "another")
        with pytest.raises(CannotMigrateError, match="lack P2P"):
            Saver([b.path, a.path]).run(tmp_path / "another")
        with pytest.raises(CannotMigrateError, match="the file holds 1 device "):
            Restorer([a.path, b.path]).run(tmp_path / "file")
        Restorer([b.path]).run(tmp_path / "file")


def test_who_is_asked_twice_for_its_process_negotiates_twice(tmp_path: Path) -> None:
    """A server whose socket somebody else listens at is asked again, to see if it is the same."""
    with delicate(tmp_path, "a") as a, delicate(tmp_path, "b") as b:
        migration = coordinator(a.path, b.path)
        for side in ("source", "destination"):
            [device] = migration._endpoints[side]  # type: ignore[index]
            device.note()
            device._listener = type(device._listener)(1, 1, 1)
            device.identify()
            device.close()
        assert a.connections == b.connections == 2


def test_a_server_that_starts_does_not_bother_the_one_that_listens(tmp_path: Path) -> None:
    """It used to connect, to see whether somebody listens, and to hang up without a word."""
    with delicate(tmp_path, "a") as a:
        with (
            pytest.raises(CannotListenError, match="somebody listens there already"),
            listening(Path(a.path)),
        ):
            pass
        assert a.connections == 0
    assert Path(a.path).is_socket()  # nobody listens there any more, and it is replaced
    with listening(Path(a.path)) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_a_migration_that_fails_negotiates_on_its_way_back(tmp_path: Path) -> None:
    with (
        delicate(tmp_path, "a") as a,
        delicate(tmp_path, "b", habits.RefusesEveryStream) as b,
    ):
        with pytest.raises(MigrationFailedError) as failed:
            coordinator(a.path, b.path).run()
        assert failed.value.outcome == "source"
        assert a.state == RUNNING
