"""Whole commands from a cold start: interpreter, imports and solver included.

The figures are wall time of a process and, beside them, how many bare interpreter starts that is:
the ratio is what compares between machines. Nothing is asserted about either.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

COMMANDS = {
    "route": ["route", "PRE_COPY", "STOP_COPY"],
    "verify-T": ["verify", "--only", "T"],
}


def start(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", COMMANDS)
def test_cold_start(benchmark, name):
    bare = []
    for _ in range(5):
        begun = time.perf_counter()
        start("-c", "pass")
        bare.append(time.perf_counter() - begun)
    benchmark.pedantic(
        start, args=("-m", "vfio_migration.cli.main", *COMMANDS[name]), rounds=5, warmup_rounds=1
    )
    ratio = benchmark.stats["median"] / sorted(bare)[2]
    benchmark.extra_info["bare_interpreter_starts"] = round(ratio, 1)
    print(
        f"\n{name}: {benchmark.stats['median'] * 1000:.0f} ms, {ratio:.1f} bare interpreter starts"
    )
