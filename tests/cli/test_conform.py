"""`vfio-migration conform`: its verdicts, its exit status, and what it writes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from support.wrong_servers import (
    AcceptsError,
    AcceptsEveryStream,
    DiesOfHalfAMessage,
    RefusesThePresentState,
    Right,
    serving,
)
from vfio_migration.cli.main import main
from vfio_migration.runtime.conform.checking import TIMEOUT_S, TOTAL_TIMEOUT_S

YES = ("--device-may-be-reset", "--hidden-states", "0")


def conform(tmp_path: Path, peer: Right, *more: str) -> int:
    with serving(tmp_path / "s", peer):
        return main(["conform", str(tmp_path / "s"), *YES, *more])


def test_a_server_that_is_right_exits_with_0(tmp_path: Path, capsys) -> None:
    assert conform(tmp_path, Right(), "--strict") == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.endswith("s: STOP_COPY, P2P, PRE_COPY")
    assert "99 sequences of 417 inputs (hidden states: 0)" in second
    assert last == "0 violations, 0 suspicious, 0 house rules not kept"


def test_a_violation_exits_with_1_and_is_shown_with_its_sequence_and_bytes(
    tmp_path: Path, capsys
) -> None:
    assert conform(tmp_path, AcceptsError()) == 1
    shown = capsys.readouterr().out
    assert "violation: SET_STATE ERROR is answered with success" in shown
    assert "  shortest: set ERROR\n" in shown
    assert "  request: " in shown
    assert "  source: " in shown


@pytest.mark.parametrize(("strict", "status"), [([], 0), (["--strict"], 1)])
def test_a_rule_of_the_house_counts_only_if_that_is_asked_for(
    tmp_path: Path, capsys, strict: list[str], status: int
) -> None:
    assert conform(tmp_path, RefusesThePresentState(), *strict) == status
    shown = capsys.readouterr().out
    assert ("house rule: " in shown) == bool(strict)
    assert ("(--strict shows them)" in shown) == (not strict)


def test_what_is_suspicious_is_shown_and_is_no_failure(tmp_path: Path, capsys) -> None:
    assert conform(tmp_path, AcceptsEveryStream()) == 0
    assert "suspicious: a stream that is cut in half, and RESUMING left" in capsys.readouterr().out


def test_json_and_junit_have_every_finding(tmp_path: Path, capsys) -> None:
    junit = tmp_path / "junit.xml"
    assert conform(tmp_path, AcceptsError(), "--json", "--junit", str(junit)) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["conforms"] is False
    assert found["capabilities"] == ["STOP_COPY", "P2P", "PRE_COPY"]
    (violation,) = (one for one in found["findings"] if one["grade"] == "violation")
    assert violation["sequence"] == ["set ERROR"]
    suite = ET.parse(junit).getroot()
    assert suite.get("failures") == "1"
    assert suite.get("tests") == str(len(found["findings"]) + 1)


def test_a_server_that_dies_is_a_violation_and_not_the_end_of_the_command(
    tmp_path: Path, capsys
) -> None:
    assert conform(tmp_path, DiesOfHalfAMessage()) == 1
    shown = capsys.readouterr().out
    assert "violation: a client that hangs up in the middle of a message" in shown
    assert "the test ended early: the server is not there" in shown


def test_without_leave_to_reset_the_device_nothing_is_touched(tmp_path: Path, capsys) -> None:
    peer = Right()
    with serving(tmp_path / "s", peer):
        assert main(["conform", str(tmp_path / "s")]) == 2
    assert "--device-may-be-reset: is not given" in capsys.readouterr().err
    assert peer.connections == 0


def test_a_suite_that_nobody_can_run_is_refused_before_anything_is_touched(
    tmp_path: Path, capsys
) -> None:
    peer = Right()
    with serving(tmp_path / "s", peer):
        arguments = ["conform", str(tmp_path / "s"), "--device-may-be-reset"]
        assert main([*arguments, "--hidden-states", "4"]) == 2
    assert "hidden states: 4: is out of range; it is 0 to 3" in capsys.readouterr().err
    assert peer.connections == 0


def test_where_nobody_serves_nothing_is_known(tmp_path: Path, capsys) -> None:
    assert main(["conform", str(tmp_path / "none"), *YES]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "the server is not there" in captured.err


def test_a_command_without_its_last_quote_is_refused(tmp_path: Path, capsys) -> None:
    assert main(["conform", str(tmp_path / "s"), *YES, "--restart", "run 'it"]) == 2
    assert (
        '--restart: "run \'it": is not a command: No closing quotation' in capsys.readouterr().err
    )


def test_a_command_that_cannot_be_run_is_named(tmp_path: Path, capsys) -> None:
    arguments = ["conform", str(tmp_path / "none"), *YES, "--restart", "/no/such/program"]
    assert main(arguments) == 3
    assert "/no/such/program cannot be started" in capsys.readouterr().err


def test_help_states_the_timeouts_that_are_taken(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["conform", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"may take for a reply (default {TIMEOUT_S:g})" in shown
    assert f"may take (default {TOTAL_TIMEOUT_S:g})" in shown
