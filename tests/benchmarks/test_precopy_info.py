"""What precopy_info is worth: passes, bytes and downtime of a migration with it and without."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from support.migration_harness import Harness
from support.precopy_devices import PiecesDevice, RenewedDevice
from vfio_migration.runtime.coordinator import endpoint

MIB: Final = 1 << 20
SIZE: Final = 64 * MIB
BANDWIDTH: Final = 100 * MIB
DOWNTIME_S: Final = 0.3
ROUNDS: Final = 5
CASES: Final = {
    "64 MiB, ready in pieces of 64 KiB": (PiecesDevice, {"piece": 1 << 16}),
    "64 MiB, then 24 MiB of new initial data": (RenewedDevice, {"renewed": 24 * MIB}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    kind, options = CASES[case]
    print(f"\n{case}, at {BANDWIDTH // MIB} MiB/s, {DOWNTIME_S} s of downtime allowed:")
    for agreed in (False, True):
        limits = replace(endpoint._LIMITS, precopy_info=agreed)
        found: list[tuple[float, int, int, int]] = []
        for _ in range(ROUNDS):
            harness = Harness()
            with monkeypatch.context() as patch:
                patch.setattr(endpoint, "_LIMITS", limits)
                for name in ("s0", "d0"):
                    harness.serve(name, kind, size=SIZE, **options)
                done = harness.coordinator(downtime=DOWNTIME_S, bandwidth=BANDWIDTH).run()
            device = harness.hosts["s0"].device
            found.append((done.downtime, done.passes, device.running, device.stopped))
            harness.close()
        downtime, passes, running, stopped = (
            statistics.median(one) for one in zip(*found, strict=True)
        )
        print(
            f"  {'with' if agreed else 'without':8}{passes:4.0f} passes "
            f"{running / MIB:6.1f} MiB while it ran {stopped / MIB:6.1f} MiB while it was stopped "
            f"{downtime * 1000:6.0f} ms of downtime"
        )
