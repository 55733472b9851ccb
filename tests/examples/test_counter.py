"""The device of the examples: it is short, it is served, and its tests pass."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from support.raw_client import Client
from support.samples import sample
from support.waiting import wait_for

SOURCE = ROOT / "examples" / "counter.py"


@pytest.fixture
def counter(tmp_path):
    """A copy, so that nothing is written beside the original."""
    return Path(shutil.copy(SOURCE, tmp_path))


def test_it_is_short(counter):
    lines = [line for line in counter.read_text("utf-8").splitlines() if line.strip()]
    assert len(lines) <= 45


@pytest.mark.parametrize(
    "some", sample(["two_lives_with_stop_copy_p2p_pre_copy", ""], 2), ids=["two lives", "all"]
)
def test_its_tests_pass(counter, some: str):
    """One of the widest capability set, and all."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some]
    done = subprocess.run(
        [*command, str(counter)],
        capture_output=True,
        text=True,
        check=False,
        cwd=counter.parent,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


def test_it_is_served(counter):
    server = subprocess.Popen([sys.executable, str(counter), "counter.sock"], cwd=counter.parent)
    try:
        wait_for("counter.sock", server)
        # It listens before it obeys; once it has answered it does.
        with Client(counter.parent / "counter.sock") as client:
            assert client.state == 2
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait(timeout=60)
