"""What proving costs: the whole from a cold start, by processes, by solver, with all files.

Nothing is asserted about the figures. The one target, everything within two seconds on two
processors, is for the reader of the table that pytest-benchmark prints.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from vfio_migration.model import load
from vfio_migration.verifier import OBLIGATIONS, Encoding, Solving, decide
from vfio_migration.verifier.obligations.catalogue import FAMILIES
from vfio_migration.verifier.solver.cvc5 import SecondSolver
from vfio_migration.verifier.solver.smtlib import text


def start(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "vfio_migration.cli.main", "verify", *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_whole_from_a_cold_start(benchmark, jobs):
    benchmark.pedantic(start, args=("--jobs", str(jobs)), rounds=5, warmup_rounds=1)


def test_with_every_query_written(benchmark, tmp_path):
    benchmark.pedantic(
        start, args=("--smtlib", str(tmp_path / "queries")), rounds=3, warmup_rounds=1
    )


def test_decided_by_both_solvers(benchmark):
    benchmark.pedantic(start, args=("--solver", "both"), rounds=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_z3_on_a_family(benchmark, family):
    chosen = [obligation for obligation in OBLIGATIONS if obligation.id.startswith(family)]

    def family_alone() -> None:
        encoding, solving = Encoding(load()), Solving()
        for obligation in chosen:
            assert decide(obligation, encoding, solving).outcome == "proved"

    benchmark.pedantic(family_alone, rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_cvc5_on_a_family(benchmark, family):
    chosen = [obligation for obligation in OBLIGATIONS if obligation.id.startswith(family)]
    encoding = Encoding(load())
    texts = {
        text(query.formulas): query.expect
        for obligation in chosen
        for query in obligation.queries(encoding)
    }
    second = SecondSolver()

    def family_alone() -> None:
        for one, expected in texts.items():
            assert second.decide(one).answer == expected

    benchmark.pedantic(family_alone, rounds=1)
    benchmark.extra_info["queries"] = len(texts)
