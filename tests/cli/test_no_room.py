"""Commands that may open hardly any file (ulimit -n), as users run them."""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from support.migration_harness import Harness
from support.samples import sample, sampled

COMMANDS = {
    "serve": ("serve", "new"),
    "memory": ("serve", "new", "--device", "memory"),
    "migrate": ("migrate", "s0", "d0"),
    "recover": ("recover", "s0", "d0"),
    "save": ("save", "s0", "file", "--then", "run"),
    "restore": ("restore", "saved", "d0"),
}


def limited(limit: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may have so many descriptors."""
    return subprocess.run(
        [sys.executable, "-m", "vfio_migration.cli.main", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )


@sampled(5)
@pytest.mark.parametrize(
    ("name", "limit"), sample(itertools.product(COMMANDS, [5, 6, 7]), apart=4, spread=True)
)
def test_too_many_open_files(pair: Harness, cli, name, limit):
    if name == "restore":
        assert cli("save", "s0", "saved").status == 0
    before = dict(pair.states)
    ran = limited(limit, *COMMANDS[name])
    assert ran.returncode in (2, 3), ran.stderr
    errors = [line for line in ran.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, ran.stderr
    assert "oo many open files" in errors[0]
    assert errors[0].endswith("raise the limit (ulimit -n)") or errors[0].endswith(
        f"raise the limit (ulimit -n), which is {limit}"
    )
    assert "Traceback" not in ran.stderr
    assert pair.states == before
    assert not Path("file").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("limits", sample([(7, 10, 32), (*range(7, 14), 32)], 2), ids=len)
def test_the_server_is_not_blamed(pair: Harness, limits):
    """A descriptor that finds no room is dropped by the kernel: the twin socket came to nobody."""
    reported = [limited(limit, "migrate", "s0", "d0", "--dry-run").stderr for limit in limits]
    assert not any("without a descriptor" in one for one in reported)
    assert reported[0]
    assert not reported[-1]


@pytest.mark.exhaustive
def test_another_place_is_no_way_out_for_a_journal(pair: Harness):
    reported = [limited(limit, "migrate", "s0", "d0").stderr for limit in range(8, 14)]
    assert all("Too many open files" in one for one in reported)
    assert not any("--journal" in one for one in reported)
