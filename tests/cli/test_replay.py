"""`vfio-migration replay` as a user runs it: what it prints, what status it exits with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from support.table_edits import BROKEN, broken, spec_of, to_toml
from vfio_migration.cli.main import main
from vfio_migration.model import Spec, Step, Trace
from vfio_migration.runtime import Engine, NullDevice, Recorder
from vfio_migration.verifier import verify


@pytest.fixture
def run(spec: Spec, tmp_path: Path) -> Path:
    recorder = Recorder()
    engine = Engine(spec, "STOP_COPY,P2P", NullDevice(), observers=[recorder])
    engine.set_state("STOP")
    engine.reset()
    path = tmp_path / "run.json"
    path.write_text(recorder.trace("stopped and reset").to_json(), "utf-8")
    return path


def changed(path: Path, index: int, **about: object) -> None:
    data = json.loads(path.read_text("utf-8"))
    data["steps"][index] |= about
    path.write_text(json.dumps(data), "utf-8")


def test_a_run_the_engine_does_again(run: Path, capsys):
    assert main(["replay", str(run)]) == 0
    assert capsys.readouterr().out == (
        "stopped and reset\n"
        "  0. ok       RUNNING (STOP_COPY,P2P)\n"
        "  1. ok       SET_STATE STOP   [RUNNING]\n"
        "  2. ok       arc RUNNING -> RUNNING_P2P   [RUNNING_P2P]\n"
        "  3. ok       arc RUNNING_P2P -> STOP   [STOP]\n"
        "  4. ok       reset   [RUNNING]\n"
        "\n"
        "the live engine does the same (4 steps)\n"
    )


def test_a_run_it_does_not(run: Path, capsys):
    changed(run, 2, state="RUNNING")
    assert main(["replay", str(run)]) == 1
    out = capsys.readouterr().out
    assert "  2. ok       arc RUNNING -> RUNNING_P2P" in out
    assert (
        "  3. differs  arc RUNNING_P2P -> STOP   [RUNNING]\n"
        "              the engine: arc RUNNING_P2P -> STOP, in STOP with no session\n"
        "  4.          reset   [RUNNING]\n"
    ) in out
    assert out.endswith(
        "\nthe live engine differs at step 3: arc RUNNING_P2P -> STOP, in STOP with no session\n"
    )


def test_a_run_that_begins_where_no_device_can_be(run: Path, capsys):
    data = json.loads(run.read_text("utf-8"))
    data["start"], data["steps"] = ["PRE_COPY"], []
    run.write_text(json.dumps(data), "utf-8")
    assert main(["replay", str(run)]) == 1
    out = capsys.readouterr().out
    assert "  0. differs  PRE_COPY (STOP_COPY,P2P)" in out
    assert "differs at step 0: nothing leads from RUNNING to PRE_COPY" in out


def test_as_json(run: Path, capsys):
    assert main(["replay", str(run), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["agrees"], answer["compared"], answer["skipped"]) == (True, 4, 0)
    assert answer["difference"] is None
    assert answer["steps"][1] == {
        "number": 2,
        "device": 0,
        "step": "arc RUNNING -> RUNNING_P2P",
        "comparison": "same",
    }
    changed(run, 3, state="STOP")
    assert main(["replay", str(run), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["agrees"] is False
    assert answer["difference"] == {
        "step": 4,
        "trace": "reset, in STOP with no session",
        "engine": "reset, in RUNNING with no session",
    }


@pytest.mark.parametrize("names", [(), ("source", "destination")])
def test_of_several_devices_each_is_called_by_its_name(tmp_path: Path, capsys, names):
    trace = Trace(
        spec="vfio-v2",
        capabilities=(("STOP_COPY", "P2P"),) * 2,
        start=("RUNNING", "STOP"),
        steps=(
            Step(kind="arc", device=1, from_="STOP", to="RESUMING", state="RESUMING", session=1),
            Step(kind="note", device=0, state="RUNNING", note="the coordinator is killed"),
            Step(kind="reset", device=0, state="RUNNING"),
        ),
        names=names,
    )
    path = tmp_path / "run.json"
    path.write_text(trace.to_json(), "utf-8")
    first, second = names or ("device 0", "device 1")
    about = "" if names else "device 0: "  # with names, a note states itself whom it is about
    assert main(["replay", str(path)]) == 0
    assert capsys.readouterr().out == (
        f"  0. ok       {first}: RUNNING (STOP_COPY,P2P)\n"
        f"  0. ok       {second}: STOP (STOP_COPY,P2P)\n"
        f"  1. ok       {second}: arc STOP -> RESUMING   [RESUMING session 1]\n"
        f"  2. -        {about}the coordinator is killed   [RUNNING]\n"
        f"  3. ok       {first}: reset   [RUNNING]\n"
        "\n"
        "the live engine does the same (2 steps, 1 it takes no part in)\n"
    )
    assert main(["replay", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["devices"] == [first, second]
    assert [step["device"] for step in answer["steps"]] == [1, 0, 0]


def test_from_standard_input(run: Path, capsys, monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(run.read_bytes()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["replay", "-"]) == 0
    assert "does the same (4 steps)" in capsys.readouterr().out


def test_a_counterexample_is_replayed_on_its_own_table(tmp_path: Path, capsys):
    edit, data = broken(BROKEN / "d11-failing-ends-the-session.toml")
    (verdict,) = verify(spec_of(data), only=[edit["breaks"]]).verdicts
    assert verdict.example is not None
    assert verdict.example.trace is not None
    (tmp_path / "run.json").write_text(verdict.example.trace.to_json(), "utf-8")
    (tmp_path / "table.toml").write_text(to_toml(data), "utf-8")
    arguments = ["replay", str(tmp_path / "run.json")]
    assert main([*arguments, "--spec", str(tmp_path / "table.toml")]) == 0
    assert main(arguments) == 1
    assert "the engine: arc PRE_COPY -> " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: is not valid JSON"),
        ("[]", "trace: []: is not an object"),
        (Trace(spec="mine", capabilities=((),), start=("X",), steps=()).to_json(), "another table"),
        (
            Trace(
                spec="vfio-v2", capabilities=(("STOP_COPY",),), start=("STOPP",), steps=()
            ).to_json(),
            'start[0]: "STOPP": there is no such state in this table; did you mean "STOP"?',
        ),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_input(tmp_path: Path, capsys, text: str, message: str, as_json: bool):
    path = tmp_path / "run.json"
    path.write_text(text, "utf-8")
    assert main(["replay", str(path), *(["--json"] if as_json else [])]) == 2
    reported = capsys.readouterr()
    if as_json:
        assert message in json.loads(reported.out)["error"]["message"]
    else:
        assert reported.out == ""
        assert message in reported.err


@pytest.mark.parametrize("name", ["missing.json", ".", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path: Path, capsys, name: str):
    assert main(["replay", str(tmp_path / name) if name != "a\0b" else name]) == 2
    assert "cannot be read: " in capsys.readouterr().err
