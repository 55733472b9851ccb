"""Our client takes what servers with habits send; `peer_habits.servers` has which have which."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.peer_habits import servers as habits
from support.peer_habits.base import Peer
from support.peer_habits.running import running
from vfio_migration.runtime.client import Client, RefusedError, calls

HELD = bytes(range(256)) * 8
STREAM = len(HELD).to_bytes(8, "big") + HELD


def read_all(client: Client, size: int) -> bytes:
    """Read a stream until a read brings nothing."""
    found = bytearray()
    while client.do(calls.data_read(size, found.extend)):
        pass
    return bytes(found)


@pytest.mark.parametrize("size", [1, 100, 1500, 2999])
def test_the_padding_of_a_read_is_no_data(tmp_path: Path, size: int) -> None:
    with running(tmp_path, "a", habits.PadsReads, held=HELD) as a, Client(a.path) as client:
        client.set_state("STOP_COPY")
        assert read_all(client, size) == STREAM


def test_an_error_without_an_errno_is_a_failure_without_an_errno(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.GivesNoErrno) as a, Client(a.path) as client:
        with pytest.raises(RefusedError, match="without an errno") as refused:
            client.do(calls.data_read(10, len))
        assert refused.value.errno is None
        assert client.state() == "RUNNING"


def test_an_error_reply_of_the_type_of_a_command_is_an_error(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.RepliesAsCommand) as a, Client(a.path) as client:
        with pytest.raises(RefusedError) as refused:
            client.do(calls.data_read(10, len))
        assert refused.value.errno == "EINVAL"
        assert client.state() == "RUNNING"


def test_an_error_with_a_payload_is_an_error(tmp_path: Path) -> None:
    these = (habits.SendsPayloadWithErrors, habits.RefusesEveryStream)
    with running(tmp_path, "a", *these) as a, Client(a.path) as client:
        client.set_state("RESUMING")
        with pytest.raises(RefusedError) as refused:
            client.set_state("STOP")
        assert refused.value.errno == "EBADMSG"
        assert client.state() == "RESUMING"


def test_a_data_fd_without_a_descriptor_is_no_descriptor(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.LeavesDataFdZero) as a, Client(a.path) as client:
        assert client.state() == "RUNNING"
        client.set_state("STOP")
        assert client.state() == "STOP"


@pytest.mark.parametrize("habit", [Peer, habits.CallsUnknownFeatureInvalid, habits.GivesNoErrno])
def test_a_feature_that_is_refused_is_not_supported(tmp_path: Path, habit: type[Peer]) -> None:
    with running(tmp_path, "a", habit) as a, Client(a.path) as client:
        assert not client.supports("MIG_DATA_SIZE", get=True)
        assert client.supports("MIGRATION", get=True)


def test_logging_that_is_started_twice_is_started(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.StartsLoggingTwice) as a, Client(a.path) as client:
        for _ in range(2):
            client.do(calls.logging_start(4096))
        assert not any(client.do(calls.logging_report(0, 4096, 4096)))


def test_a_version_ends_with_a_nul(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.WantsNul) as a, Client(a.path) as client:
        assert client.state() == "RUNNING"


def test_a_reset_that_keeps_the_state_is_taken_as_it_is(tmp_path: Path) -> None:
    with running(tmp_path, "a", habits.ResetKeepsState) as a, Client(a.path) as client:
        client.set_state("RESUMING")
        client.reset()
        assert client.state() == "RESUMING"
