"""The whole of `mutate` from a cold start: every mutant against every obligation.

The target is less than 60 seconds on two idle cores; nothing is asserted about it.
"""

from __future__ import annotations

import json
import subprocess
import sys


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
