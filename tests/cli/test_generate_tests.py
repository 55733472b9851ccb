"""`vfio-migration generate tests`: a suite that a program of anybody's can run."""

from __future__ import annotations

import json

import pytest

from support.table_edits import ROOT
from vfio_migration.cli.main import main


def made(capsys, *arguments: str) -> str:
    assert main(["generate", "tests", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_text_has_a_line_for_each_sequence_and_states_how_many(capsys) -> None:
    head, *lines = made(capsys, "--hidden-states", "0").splitlines()
    assert head == "# VFIO v2 device migration: STOP_COPY, P2P, PRE_COPY; 0 hidden states"
    sequences = [line for line in lines if not line.startswith("#")]
    assert lines[0].startswith(f"# {len(sequences)} sequences, ")
    assert "set STOP: STOP; set RUNNING_P2P: RUNNING_P2P" in sequences
    assert "set PRE_COPY: PRE_COPY, opens; set 255: PRE_COPY, refused EINVAL" in sequences


def test_a_program_that_knows_nothing_else_can_run_the_json(capsys) -> None:
    """What each input does in each state is in it, so a sequence can be followed."""
    suite = json.loads(made(capsys, "--flags", "STOP_COPY", "--format", "json"))
    assert suite["capabilities"] == ["STOP_COPY"]
    assert suite["hidden_states"] == 1
    assert len(suite["sequences"]) == 1 + 784
    reached = set()
    for sequence in suite["sequences"]:
        state = suite["initial"]
        for index in sequence:
            state = suite["answers"][state][index]["state"]
            reached.add(state)
    assert reached == {"RUNNING", "STOP", "STOP_COPY", "RESUMING"}


def test_a_device_that_fails_when_it_is_asked_to_is_led_into_error(capsys) -> None:
    assert "fail: ERROR, refused EIO" in made(capsys, "--failing", "--hidden-states", "0")


def test_a_ninth_state_is_in_the_suite_without_a_change_of_code(capsys) -> None:
    suite = made(
        capsys, "--spec", str(ROOT / "tests/data/ninth_state.toml"), "--hidden-states", "0"
    )
    assert "set STOP_P2P: STOP_P2P" in suite


def test_a_suite_goes_into_a_file(capsys, tmp_path) -> None:
    file = tmp_path / "tests.json"
    assert made(capsys, "--format", "json", "-o", str(file)) == ""
    assert json.loads(file.read_text("utf-8"))["table"] == "vfio-v2"


@pytest.mark.parametrize("number", ["-1", "4"])
def test_a_number_of_hidden_states_that_nobody_can_run_is_refused(capsys, number: str) -> None:
    assert main(["generate", "tests", "--hidden-states", number]) == 2
    assert capsys.readouterr().err == (
        f"vfio-migration: error: hidden states: {number}: is out of range; it is 0 to 3\n"
    )
