"""Migrations with and without `precopy_info`: new clients, old clients, new servers, old servers.

An old client is one that does not propose the option; an old server is one of another author, in a
process of its own, that does not know of it.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pytest

from support.migration_harness import Harness
from support.peer_habits import servers as habits
from support.peer_habits.base import PRE_COPY, RUNNING, STOP, STOP_COPY, Peer
from support.peer_habits.running import SIZE, pair, running
from support.precopy_devices import CountingDevice, PiecesDevice, RenewedDevice
from support.raw_client import MIG_READ
from support.server_process import ServerProcess
from support.table_edits import ROOT, apply, to_toml
from vfio_migration.model.wire_load import load_wire
from vfio_migration.runtime.client import Client, Exchange
from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.coordinator import Coordinator, MigrationFailedError, Settings, endpoint
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.coordinator.save import Saver
from vfio_migration.runtime.protocol.faults import CannotSendError
from vfio_migration.runtime.protocol.messages.version import Limits

MEMORY: Final = 1 << 17
RENEWED: Final = 1 << 14
ASKED: Final = habits.PRECOPY_INFO


@dataclass
class Seen:
    """What a client sent and was answered."""

    asked: int = 0
    pauses: int = 0

    def __call__(self, exchange: Exchange) -> None:
        """Take note of an exchange."""
        if exchange.what != "reply" or exchange.command is None:
            return
        self.asked += exchange.command.name == "MIG_PRECOPY_INFO"
        self.pauses += exchange.errno == "ENOMSG"


@pytest.fixture
def old_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the coordinator not propose the option."""
    monkeypatch.setattr(endpoint, "_LIMITS", replace(endpoint._LIMITS, precopy_info=False))


def migrated(
    harness: Harness, kind: type[CountingDevice], **options
) -> tuple[CountingDevice, Seen]:
    """Migrate a device; return its source and what was seen."""
    settings = options.pop("settings", {})
    harness.serve("s0", kind, size=MEMORY, **options)
    harness.serve("d0", kind, size=MEMORY, **options)
    seen = Seen()
    harness.coordinator(observers=(seen,), **settings).run()
    assert harness.running == {"d0"}
    assert harness.hosts["d0"].whole
    return harness.hosts["s0"].device, seen


# --- a device that has its data ready in pieces ---------------------------------------------------


def test_a_short_read_that_is_temporary_is_not_taken_for_the_end(harness: Harness) -> None:
    device, seen = migrated(harness, PiecesDevice)
    assert device.running > MEMORY
    assert device.stopped < MEMORY // 8
    assert seen.asked
    assert seen.pauses


@pytest.mark.usefixtures("old_client")
def test_an_old_client_stops_the_device_with_nearly_all_of_it_left(harness: Harness) -> None:
    """What happens without: each piece is the end of a pass, and a pass of a piece looks small."""
    device, seen = migrated(harness, PiecesDevice)
    assert device.running < MEMORY // 2 < device.stopped
    assert (seen.asked, seen.pauses) == (0, 0)


# --- new initial data -----------------------------------------------------------------------------


def test_new_initial_data_is_read_while_the_device_runs(harness: Harness) -> None:
    device, seen = migrated(harness, RenewedDevice, renewed=RENEWED)
    assert device.running > MEMORY + RENEWED
    assert device.stopped < RENEWED
    assert seen.asked


@pytest.mark.usefixtures("old_client")
def test_without_an_announcement_new_initial_data_is_read_once_the_device_is_stopped(
    harness: Harness,
) -> None:
    device, seen = migrated(harness, RenewedDevice, renewed=RENEWED)
    assert device.running < MEMORY + RENEWED
    assert device.stopped > RENEWED
    assert not seen.asked


def test_a_device_that_announces_without_end_is_stopped_all_the_same(harness: Harness) -> None:
    device, seen = migrated(
        harness, RenewedDevice, renewed=RENEWED, times=1 << 30, settings={"max_passes": 3}
    )
    assert device.stopped > RENEWED
    assert seen.asked


# --- servers of others ----------------------------------------------------------------------------

SERVERS: Final[tuple[tuple[type[Peer], ...], ...]] = (
    (),
    (habits.CLibrary,),
    (habits.ReadsShortWhileItRuns,),
)


@pytest.mark.parametrize("these", SERVERS, ids=lambda these: "-".join(t.__name__ for t in these))
def test_a_server_of_old_is_not_asked_for_what_it_does_not_know(
    tmp_path: Path, these: tuple[type[Peer], ...]
) -> None:
    with pair(tmp_path, these, these) as (a, b, held):
        Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert (a.state, b.state, b.held) == (STOP, RUNNING, held)
        assert ASKED not in {command for command, _state in a.seen + b.seen}


def test_our_own_server_of_the_table_before_is_migrated_as_before(
    tmp_path: Path, harness: Harness
) -> None:
    """`serve --wire` with the table that has no row of the proposal; the destination is new."""
    edit = {
        "remove": {
            "words": ["precopy_info"],
            "flags": ["reinit"],
            "options": ["precopy_info"],
            "commands": ["MIG_PRECOPY_INFO"],
            "answers": ["nothing_now"],
        }
    }
    old = tmp_path / "old.toml"
    wire = apply(edit, tomllib.loads((ROOT / "model/wire.toml").read_text("utf-8")))
    old.write_text(to_toml(wire), "utf-8")
    assert load_wire(old) == load_wire().without("precopy_info")
    new = harness.serve("d0")
    with ServerProcess(tmp_path, "--device", "edu", "--wire", old) as server:
        with Client(server.path) as client:
            assert not client.agreed.precopy_info
            client.set_state("PRE_COPY")
            while client.read_data(1 << 20, len):
                pass
            client.set_state("RUNNING")
        path = str(server.path)
        Coordinator([(path, "d0")], journal=beside(path)).run()
        assert new.runs


def test_a_server_of_another_author_is_asked_where_it_can_answer(tmp_path: Path) -> None:
    these = (habits.ReportsPrecopy,)
    with pair(tmp_path, these, these) as (a, b, held):
        Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert (a.state, b.state, b.held) == (STOP, RUNNING, held)
        assert {state for command, state in a.seen if command == ASKED} == {PRE_COPY}


@pytest.mark.parametrize("short", [(), (habits.ReadsShortWhileItRuns,)], ids=["whole", "short"])
def test_how_much_is_left_is_known_of_a_server_that_has_no_data_size(tmp_path: Path, short) -> None:
    """So the first half of its stream, which it has while it runs, is read before it is stopped."""
    these = (*short, habits.ReportsPrecopy)
    with pair(tmp_path, these, ()) as (a, b, held):
        Coordinator([(a.path, b.path)], journal=beside(a.path)).run()
        assert b.held == held
        read = [state for command, state in a.seen if command == MIG_READ]
        assert read.count(PRE_COPY) > (SIZE // 2 // (300 if short else 3000))
        assert read.count(STOP_COPY) < 6


def test_a_server_that_announces_for_ever_is_bounded_by_the_passes(tmp_path: Path) -> None:
    these = (habits.AnnouncesForever,)
    with pair(tmp_path, these, these) as (a, b, held):
        settings = Settings(max_passes=3)
        Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert (a.state, b.state, b.held) == (STOP, RUNNING, held)
        assert sum(command == ASKED for command, _state in a.seen) < 30


def test_it_is_given_up_if_that_was_asked_for(tmp_path: Path) -> None:
    these = (habits.AnnouncesForever,)
    with pair(tmp_path, these, these) as (a, b, held):
        settings = Settings(migration="live", max_passes=3, if_slow="cancel")
        with pytest.raises(MigrationFailedError, match="initial data") as failed:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert failed.value.outcome == "source"
        assert (a.state, a.held) == (RUNNING, held)


@pytest.mark.parametrize("migration", ["live", "offline"])
def test_a_pause_in_the_stream_of_a_stopped_device_is_no_end(
    tmp_path: Path, migration: str
) -> None:
    with pair(tmp_path, (habits.PausesWhileStopped,), ()) as (a, b, held):
        settings = Settings(migration=migration, max_passes=2)
        with pytest.raises(MigrationFailedError, match="a temporary end where nothing more") as no:
            Coordinator([(a.path, b.path)], settings=settings, journal=beside(a.path)).run()
        assert no.value.outcome == "source"
        assert (a.state, a.held, b.state) == (RUNNING, held, STOP)


def test_a_device_is_saved_with_it(tmp_path: Path) -> None:
    held = os.urandom(SIZE)
    with running(tmp_path, "a", habits.ReportsPrecopy, held=held) as a:
        Saver([a.path]).run(tmp_path / "file")
        assert a.state == STOP
        assert ASKED in {command for command, _state in a.seen}


# --- the client by itself -------------------------------------------------------------------------


def test_to_a_caller_a_pause_is_a_read_of_nothing(harness: Harness) -> None:
    harness.serve("s0", CountingDevice, size=MEMORY)
    pauses: list[None] = []
    with Client("s0") as client:
        client.want_announcements()
        client.set_state("PRE_COPY")
        assert client.precopy_info().initial > MEMORY
        while client.read_data(4096, len, lambda: pauses.append(None)):
            assert not pauses
        assert len(pauses) == 1
        assert client.precopy_info().initial == 0


async def read_in_a_loop(path: str) -> tuple[int, int]:
    async with AsyncClient(path) as client:
        await client.set_state("PRE_COPY")
        before = await client.precopy_info()
        while await client.read_data(4096, len):
            pass
        return before.initial, (await client.precopy_info()).initial


def test_in_an_event_loop_too(harness: Harness) -> None:
    harness.serve("s0", CountingDevice, size=MEMORY)
    before, after = asyncio.run(read_in_a_loop("s0"))
    assert before > MEMORY
    assert after == 0


def test_a_client_that_does_not_propose_it_cannot_ask(harness: Harness) -> None:
    harness.serve("s0", CountingDevice, size=MEMORY)
    with Client("s0", limits=Limits(precopy_info=False)) as client:
        client.set_state("PRE_COPY")
        with pytest.raises(CannotSendError, match="was not agreed on"):
            client.precopy_info()
        assert client.read_data(4096, len)
