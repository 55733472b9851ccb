"""A capability with a column of its own in the middle of the grid, as files and with no code.

`hold_capability.toml` has a capability HOLD, two states and the arcs to them between the quiesced
and the stopped column; `hold_plans.toml` has the plans that lead through them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.raw_client import Client
from vfio_migration.cli.main import main
from vfio_migration.model import Spec, load
from vfio_migration.model.plan import default_plans, load_plans

DATA = Path(__file__).parents[1] / "data"
SPEC = str(DATA / "hold_capability.toml")
PLANS = str(DATA / "hold_plans.toml")
WIRE = Path(__file__).parents[2] / "model/wire.toml"
HELD = {"RUNNING_HOLD", "PRE_COPY_HOLD"}
FLAGS = "STOP_COPY,P2P,PRE_COPY,HOLD"
START_S = 60

Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `vfio-migration serve` in a process of its own, and return its socket."""
    servers: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> Path:
        path = tmp_path / f"{name}.sock"
        command = [sys.executable, "-m", "vfio_migration.cli.main", "serve", str(path), *arguments]
        with (tmp_path / f"{name}.log").open("wb") as log:
            servers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log))
        deadline = time.monotonic() + START_S
        while not path.exists():
            assert servers[-1].poll() is None, (tmp_path / f"{name}.log").read_text("utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return path

    yield start
    for server in servers:
        server.kill()
        server.wait()


def state(path: Path) -> str:
    """Return the state of the device behind a socket."""
    with Client(path) as client:
        return next(row.name for row in load(SPEC).states if row.value == client.state)


def added(spec: Spec) -> set[str]:
    return {row.name for row in spec.states} - {row.name for row in load().states}


def test_the_files_are_those_of_the_package_and_what_was_added() -> None:
    spec, before = load(SPEC), load()
    assert added(spec) == HELD
    assert [row for row in spec.states if row.name not in HELD] == list(before.states)
    columns = [row.name for row in spec.operations]
    assert columns == ["running", "p2p_quiesced", "held", "stopped", "failed"]
    for section in ("activities", "sessions", "session_effects", "stream_ends", "requests"):
        assert getattr(spec, section) == getattr(before, section)
    for word in (1, 3, 5, 7):
        new = {(arc.from_, arc.to) for arc in spec.machine(word).arcs}
        assert new == {(arc.from_, arc.to) for arc in before.machine(word).arcs}
    plans, default = load_plans(spec, PLANS), default_plans(before)
    assert [row.name for row in plans.plans] == [row.name for row in default.plans]
    held = {"hold-interrupts", "wake-held"}
    for new, old in zip(plans.plans, default.plans, strict=True):
        assert [row for row in new.phases if row.name not in held] == list(old.phases)


@pytest.mark.parametrize(
    "only",
    [
        pytest.param(["--only", "T", "G1", "G3"], id="some"),
        pytest.param([], id="all", marks=pytest.mark.exhaustive),
    ],
)
def test_it_is_proved(only: list[str]) -> None:
    assert main(["verify", SPEC, "--plans", PLANS, "--wire", str(WIRE), "-q", *only]) == 0


@pytest.mark.exhaustive
def test_its_plans_are_what_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plans that start every device before any is quiesced are refuted by the same command."""
    wrong = tmp_path / "plans.toml"
    text = Path(PLANS).read_text("utf-8")
    wake = 'moves = [{ needs = ["P2P", "HOLD"], to = "RUNNING_HOLD" }]'
    assert text.count(wake) == 1
    wrong.write_text(text.replace(wake, 'moves = [{ to = "RUNNING" }]'), "utf-8")
    assert main(["verify", SPEC, "--plans", str(wrong), "--only", "G1", "--json"]) == 1
    trace = json.loads(capsys.readouterr().out)["verdicts"][0]["trace"]
    assert "RUNNING" in {step["state"] for step in trace["steps"]}


def test_a_table_of_the_connection_is_what_is_proved(tmp_path: Path) -> None:
    wrong = tmp_path / "wire.toml"
    text = WIRE.read_text("utf-8")
    read = 'transfer = "read"\nforgets = "when_sent"'
    assert text.count(read) == 1
    wrong.write_text(text.replace(read, read.replace("sent", "served")), "utf-8")
    assert main(["verify", "--wire", str(wrong), "--only", "S2", "-q"]) == 1
    assert main(["verify", "--only", "S2", "-q"]) == 0


def test_it_is_routed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["route", "PRE_COPY", "STOP_COPY", "--spec", SPEC, "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["path"]
    assert path == ["PRE_COPY_P2P", "PRE_COPY_HOLD", "STOP_COPY"]
    for name, more in (("machine", []), ("plan", ["--migration", "live", "--plans", PLANS])):
        picture = tmp_path / f"{name}.svg"
        assert main(["diagram", SPEC, "-o", str(picture), *more]) == 0
        text = picture.read_text("utf-8")
        assert all(name in text for name in HELD)
    capsys.readouterr()
    assert main(["tables", SPEC]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in HELD)


def test_it_is_served_and_migrates(start: Start, tmp_path: Path) -> None:
    source, target = (start(name, "--spec", SPEC, "--flags", FLAGS) for name in ("a", "b"))
    run = tmp_path / "run.jsonl"
    options = ["--spec", SPEC, "--plans", PLANS]
    assert main(["migrate", str(source), str(target), *options, "--record", str(run)]) == 0
    assert (state(source), state(target)) == ("STOP", "RUNNING")
    assert main(["check-trace", str(run), "--spec", SPEC]) == 0


def test_it_is_led_through_its_states(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    source, target = (start(name, "--spec", SPEC, "--flags", FLAGS) for name in ("a", "b"))
    words = ["migrate", str(source), str(target), "--spec", SPEC, "--plans", PLANS]
    assert main([*words, "--dry-run"]) == 0
    planned = capfd.readouterr().out
    assert all(name in planned for name in HELD)
    assert main([*words, "--json"]) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert {"hold-interrupts", "wake-held"} <= {event.get("phase") for event in events}
    assert {event.get("to") for event in events} >= HELD


@pytest.mark.exhaustive
def test_it_is_saved_and_restored(start: Start, tmp_path: Path) -> None:
    source, target = (start(name, "--spec", SPEC, "--flags", FLAGS) for name in ("a", "b"))
    options = ["--spec", SPEC, "--plans", PLANS]
    assert main(["save", str(source), str(tmp_path / "a.save"), *options]) == 0
    assert main(["restore", str(tmp_path / "a.save"), str(target), *options]) == 0
    assert (state(source), state(target)) == ("STOP", "RUNNING")


@pytest.mark.exhaustive
def test_it_is_recovered(start: Start) -> None:
    source, target = (start(name, "--spec", SPEC, "--flags", FLAGS) for name in ("a", "b"))
    with Client(source) as client:
        client.set_state(next(row.value for row in load(SPEC).states if row.name in HELD))
    options = ["--spec", SPEC, "--plans", PLANS]
    assert main(["recover", str(source), str(target), "--keep", "source", *options]) == 0
    assert (state(source), state(target)) == ("RUNNING", "STOP")


def test_a_table_of_the_connection_is_served(start: Start, tmp_path: Path) -> None:
    fewer = tmp_path / "wire.toml"
    text = WIRE.read_text("utf-8")
    assert text.count("value = 65535\n") == 1
    fewer.write_text(text.replace("value = 65535\n", "value = 65534\n"), "utf-8")
    with Client(start("ours")) as client:
        assert client.agreed["max_dma_maps"] == 65535
    with Client(start("theirs", "--wire", str(fewer))) as client:
        assert client.agreed["max_dma_maps"] == 65534
