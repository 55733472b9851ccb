"""Groups of devices, and a second walk through a migration: the raw rows, on live engines."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vfio_migration.diagrams import Pair
from vfio_migration.model import load
from vfio_migration.runtime import Engine
from vfio_migration.runtime.engine.callbacks import NullDevice
from vfio_migration.runtime.engine.recorder import Recorder

ROOT = Path(__file__).resolve().parents[2]
DATA: dict[str, Any] = tomllib.loads((ROOT / "model/group_plan.toml").read_text("utf-8"))
NAMES = [row["name"] for row in DATA["migrations"]]

WORDS = (1, 3, 5, 7)
P2P = 2
CAPABILITIES = {1: "STOP_COPY", 2: "P2P", 4: "PRE_COPY"}


def mixtures(count: int) -> list[tuple[int, ...]]:
    """Every mixture of so many devices that the plans are for, as flags words, in some order."""
    found = itertools.combinations_with_replacement(WORDS, count)
    return [group for group in found if count == 1 or sum(not word & P2P for word in group) <= 1]


def pairs(group: tuple[int, ...], folder: str = "/run/vfio") -> list[Pair]:
    return [
        Pair(f"{folder}/source/device-{number}.sock", f"{folder}/target/device-{number}.sock", word)
        for number, word in enumerate(group, 1)
    ]


@dataclass
class Walked:
    """What live engines did, phase by phase."""

    phases: list[tuple[str, dict[tuple[str, int], list[tuple[str, str]]]]] = field(
        default_factory=list
    )
    """Its name, and for each device that moved the arcs it took."""
    states_after: list[dict[tuple[str, int], str]] = field(default_factory=list)
    """Where each device is after it."""
    sessions: list[dict[tuple[str, int], bool]] = field(default_factory=list)
    """Whether it has a session open then."""


def walk(name: str, group: tuple[int, ...]) -> Walked:
    """Take the engines of a group through a migration, as its rows specify."""
    spec = load()
    recorders = {
        (side, n): Recorder() for side in ("source", "destination") for n in range(len(group))
    }
    engines = {
        key: Engine(spec, group[key[1]], NullDevice(), observers=[recorder])
        for key, recorder in recorders.items()
    }
    done = Walked()
    for row in next(row for row in DATA["migrations"] if row["name"] == name)["steps"]:
        if "transfer" in row:
            _note(done, row["transfer"], {}, engines)
            continue
        plan = next(plan for plan in DATA["plans"] if plan["name"] == row["plan"])
        for phase in plan["phases"]:
            if phase["name"] not in row.get("phases", [phase["name"]]):
                continue
            before = {key: len(recorder.trace().steps) for key, recorder in recorders.items()}
            for (side, number), engine in engines.items():
                if side == row["side"]:
                    _move(engine, phase["moves"], group[number])
            arcs = {
                key: [
                    (str(step.from_), str(step.to))
                    for step in recorder.trace().steps[before[key] :]
                    if step.kind == "arc"
                ]
                for key, recorder in recorders.items()
            }
            _note(
                done, phase["name"], {key: taken for key, taken in arcs.items() if taken}, engines
            )
    return done


def _move(engine: Engine, moves: list[dict[str, Any]], word: int) -> None:
    """Ask a device for what the first move that means it has, until none has anything for it."""
    has = {name for bit, name in CAPABILITIES.items() if word & bit}
    for _ in range(20):
        operation = engine.machine.spec.state(engine.state).operation
        may = engine.machine.spec.operation(operation).may
        for move in moves:
            meant = has >= set(move.get("needs", [])) and has.isdisjoint(move.get("lacks", []))
            if meant and not move.get("failed") and ("may" not in move or move["may"] in may):
                break
        else:
            return
        if move["to"] == engine.state:
            return
        engine.set_state(move["to"])
    raise AssertionError("a phase without an end")


def _note(done: Walked, name: str, arcs: Any, engines: dict[tuple[str, int], Engine]) -> None:
    done.phases.append((name, arcs))
    done.states_after.append({key: engine.state for key, engine in engines.items()})
    done.sessions.append({key: engine.session is not None for key, engine in engines.items()})
