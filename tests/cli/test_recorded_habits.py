"""Recordings of servers that we did not write: no legal habit is called a violation.

Who has which habit is in `support.peer_habits.servers`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import Peer
from support.peer_habits.running import running
from support.recorded_runs import lines_of
from support.samples import sample, sampled
from support.scripted_run import grades
from vfio_migration.cli.main import main
from vfio_migration.runtime.client import Client, ClientError
from vfio_migration.runtime.client.recording import Recording
from vfio_migration.runtime.coordinator import Coordinator, Settings
from vfio_migration.runtime.coordinator.journal import beside
from vfio_migration.runtime.protocol.faults import CannotSendError

WRONG: dict[type[Peer], set[str]] = {
    habits.ReadsShort: {"after_the_end"},
    habits.RefusesWrites: {"write_refused"},
}
"""Habits that the text forbids, and the checks that find them."""

SUSPICIOUS: dict[type[Peer], set[str]] = {
    habits.RefusesNearlyAllWhileStopped: {"reset_refused"},
    habits.RunsOnceItsClientHangsUp: {"state_kept"},
    habits.PreCopyReadsFail: {"read_refused"},
    habits.PreCopyFailsPartWay: {"read_refused"},
    habits.PreCopyArcFails: {"path_refused_again"},
    habits.DiesUponRead: {"ended_upon_command"},
    habits.DiesUponSecondRead: {"ended_upon_command"},
    habits.CLibrary: {"reset_refused"},
    habits.PausesWhileStopped: {"read_refused"},
}
"""Habits that are allowed and the sign of a defect, and at least these checks find them."""

EVERY = [
    kind
    for kind in vars(habits).values()
    if isinstance(kind, type) and issubclass(kind, Peer) and kind is not Peer
    # Those that kill their client would kill this process.
    if not kind.__name__.startswith("KillsClient")
]


def act(*acts: Callable[[], object]) -> None:
    """Do one thing after the other, whatever the server makes of it."""
    for one in acts:
        with contextlib.suppress(ClientError, CannotSendError):
            one()


def tour(path: str, recording: Recording) -> None:
    """Ask a server for everything that has to do with migration, twice over two connections."""
    for _ in range(2):
        with (
            contextlib.suppress(ClientError),
            Client(path, name="src", observers=[recording], timeout_s=20) as client,
        ):
            stream: list[bytes] = []

            def keep(data: object, stream: list[bytes] = stream) -> None:
                stream.append(bytes(data))  # type: ignore[call-overload]

            features = ("MIGRATION", "MIG_DEVICE_STATE", "MIG_DATA_SIZE", "DMA_LOGGING_START")
            act(client.capabilities, client.state, lambda: client.set_state(client.state()))
            for feature in features:
                act(lambda feature=feature: client.supports(feature, get=True))
                act(lambda feature=feature: client.supports(feature, set_=True))
            for _ in range(2):
                act(lambda: client.logging_start(4096), client.data_size)
            act(lambda: client.logging_report(0, 4096, 4096), client.logging_stop)
            for _ in range(3):
                act(lambda: client.set_state("PRE_COPY"), client.state)
                act(lambda: client.read_data(3000, keep))
            act(lambda: client.set_state("STOP_COPY"), client.state, client.info)
            for _ in range(6):
                act(lambda: client.read_data(3000, keep))
            act(client.reset, client.state)
            act(lambda: client.set_state("PRE_COPY_P2P"), lambda: client.set_state("ERROR"))
            act(lambda: client.set_state("RESUMING"), client.state, client.info)
            for data in stream:
                act(lambda data=data: client.write_data(data))
            act(lambda: client.set_state("STOP"), client.state, client.reset, client.state)
            act(lambda: client.read_data(100, keep), lambda: client.write_data(b"x"))
            act(lambda: client.set_state("STOP"), client.state)


@sampled(3)
@pytest.mark.parametrize("habit", sample(EVERY, 4), ids=lambda one: one.__name__)
def test_no_legal_habit_of_a_server_is_called_a_violation(
    tmp_path: Path, habit: type[Peer]
) -> None:
    with (
        running(tmp_path, "a", habit, held=os.urandom(10_000)) as server,
        Recording(tmp_path / "run.jsonl") as recording,
    ):
        tour(server.path, recording)
    assert recording.error is None
    found = set(grades(lines_of(tmp_path / "run.jsonl")[1:]))
    assert {check for grade, check in found if grade == "violation"} == WRONG.get(habit, set())
    assert {check for grade, check in found if grade == "suspicious"} >= SUSPICIOUS.get(
        habit, set()
    )
    assert main(["check-trace", str(tmp_path / "run.jsonl")]) == (1 if habit in WRONG else 0)


@pytest.mark.parametrize("these", [(), (habits.CLibrary,)], ids=["none", "CLibrary"])
def test_a_recorded_migration_holds_and_its_streams_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], these: tuple[type[Peer], ...]
) -> None:
    path = tmp_path / "run.jsonl"
    with (
        running(tmp_path, "a", *these, held=os.urandom(10_000)) as a,
        running(tmp_path, "b", *these) as b,
        Recording(path) as recording,
    ):
        recording.pair(a.path, b.path)
        settings = Settings(migration="offline")
        Coordinator(
            [(a.path, b.path)], journal=beside(a.path), settings=settings, observers=[recording]
        ).run()
    assert main(["check-trace", str(path)]) == 0, capsys.readouterr().out
    assert "streams compared 1" in capsys.readouterr().out
