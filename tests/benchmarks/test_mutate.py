"""The whole of `mutate` from a cold start: every mutant against every obligation.

The issue asks for less than 60 seconds on two cores; that is what is held here.
"""

from __future__ import annotations

import json
import subprocess
import sys

LIMIT = 60.0


def test_mutate(benchmark):
    found = {}

    def survey() -> None:
        command = [sys.executable, "-m", "vfio_migration.cli.main", "mutate", "--json"]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        found.update(json.loads(run.stdout))

    benchmark.pedantic(survey, rounds=1)
    seconds = benchmark.stats["median"]
    benchmark.extra_info["mutants"] = found["mutants"]
    print(f"\nmutate: {found['mutants']} mutants, {seconds:.1f} s")
    assert seconds < LIMIT
