"""A live server held against the tables: right ones pass, and each fault is found and named."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import environment, wrong_servers
from support.samples import sampled
from support.wrong_servers import FAULTS, Right, WithoutP2p, serving
from vfio_migration.model import Spec
from vfio_migration.model.suite import in_words
from vfio_migration.runtime.conform.checking import Choices, conform
from vfio_migration.runtime.conform.report import Report

MAX_TRANSFER = 1 << 20
NEEDS_A_HIDDEN_STATE = {wrong_servers.HiddenState, wrong_servers.AnotherAfterItsSecondReset}


def held(tmp_path: Path, spec: Spec, peer: Right, hidden_states: int) -> Report:
    path = tmp_path / "s"
    with serving(path, peer):
        return conform(path, spec, Choices(hidden_states, 20.0))


@contextlib.contextmanager
def patched_environment() -> Iterator[None]:
    """Let what is started import the support code."""
    before = dict(os.environ)
    os.environ.update(environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@sampled(2)
@pytest.mark.parametrize("peer", [Right, WithoutP2p])
def test_a_server_that_is_right_breaks_nothing(
    tmp_path: Path, spec: Spec, peer: type[Right]
) -> None:
    report = held(tmp_path, spec, peer(), 1)
    assert [(one.grade, one.step, one.reason) for one in report.deviations] == []
    assert report.conforms
    assert report.capabilities == spec.names(spec.capability_set(peer.offers))


@pytest.mark.exhaustive
def test_a_stream_longer_than_a_message_is_written_in_pieces(tmp_path: Path, spec: Spec) -> None:
    peer = wrong_servers.WithMuchState(wrong_servers.WithMuchState.state_bytes)
    report = held(tmp_path, spec, peer, 0)
    assert [(one.grade, one.step, one.reason) for one in report.deviations] == []
    assert len(peer.state_bytes) > MAX_TRANSFER > peer.longest


def test_of_a_device_that_cannot_resume_nothing_is_stated_about_damaged_streams(
    tmp_path: Path, spec: Spec
) -> None:
    report = held(tmp_path, spec, wrong_servers.NeverResumes(), 0)
    assert "stream_accepted" not in {one.check for one in report.deviations}
    assert "damaged streams: the device does not come to RESUMING" in report.left_out


@sampled(33)
@pytest.mark.parametrize("peer", FAULTS, ids=lambda peer: peer.__name__)
def test_a_fault_is_found(tmp_path: Path, spec: Spec, peer: type[Right]) -> None:
    report = held(tmp_path, spec, peer(), 1 if peer in NEEDS_A_HIDDEN_STATE else 0)
    found = {one.check: one for one in report.deviations}
    assert peer.finds in found, sorted(found)
    assert found[peer.finds].grade == peer.grade
    assert report.conforms == (peer.grade != "violation" and not report.died)


def test_a_violation_comes_with_its_bytes_its_sentence_and_the_shortest_way_to_it(
    tmp_path: Path, spec: Spec
) -> None:
    report = held(tmp_path, spec, wrong_servers.AcceptsStopCopyToPreCopy(), 0)
    (found,) = (one for one in report.deviations if one.check == "refusal_succeeds")
    assert "docs/interop/vfio-user.rst: Direct State Transitions" in found.source
    assert [in_words(spec, one) for one in found.sequence] == ["set STOP_COPY", "set PRE_COPY"]
    assert found.request.endswith(struct.pack("=Ii", spec.state("PRE_COPY").value, -1))
    assert found.reply[:4] == found.request[:4], "the same message ID and command"


def test_a_server_that_died_is_started_again_and_the_test_goes_on(
    tmp_path: Path, spec: Spec
) -> None:
    """It dies of the last of the cases about messages; what comes after them is tested too."""
    path = tmp_path / "s"
    code = (
        "import sys; from pathlib import Path; from support import wrong_servers as w\n"
        "path = Path(sys.argv[1]); path.unlink(missing_ok=True)\n"
        "import threading\n"
        "with w.serving(path, w.DiesOfHalfAMessage()) as thread: thread.join()"
    )
    restart = (sys.executable, "-c", code, str(path))
    with patched_environment():
        report = conform(path, spec, Choices(0, 20.0, restart=restart))
    assert report.starts == 2
    assert not report.ends_with_client
    assert report.sequences > 98
    found = {one.check for one in report.deviations if one.grade == "violation"}
    # Whether the next connection was taken before it had ended is a question of time.
    assert "server_ended" in found <= {"server_ended", "hang_up"}
    assert not report.conforms


def test_a_server_that_answers_each_request_just_in_time_is_not_waited_for_without_end(
    tmp_path: Path, spec: Spec
) -> None:
    path = tmp_path / "s"
    with serving(path, Right()):
        report = conform(path, spec, Choices(3, 20.0, total_timeout_s=1.0))
    assert report.left_out == ["all that takes longer than 1 s"]
    assert report.sequences < 19208


def test_there_are_enough_faults_to_count() -> None:
    assert len(FAULTS) >= 25
