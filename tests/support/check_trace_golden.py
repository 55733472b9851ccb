"""What check-trace prints of a run in which there is something of every grade, on record.

    PYTHONPATH=tests python -m support.check_trace_golden

Then read `git diff tests/cli/golden`: it is what a user will see.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from support.scripted_run import Line, Script
from support.transfer_runs import Migration
from vfio_migration.cli.main import main

GOLDEN = Path(__file__).resolve().parents[1] / "cli/golden"
HEAD: Line = {"format": 1, "kind": "recording", "spec": "vfio-v2", "program": "x", "began": "now"}


def every_grade() -> list[Line]:
    """A run in which there is something of every grade."""
    run = Script("src").flags(["STOP_COPY", "PRE_COPY"]).get("RUNNING")
    run.set("PRE_COPY_P2P", "EIO").get("RUNNING")
    run.feature("MIG_DATA_SIZE", "PROBE GET", "EINVAL").feature("MIG_DATA_SIZE", "GET", "EINVAL")
    run.set("STOP_COPY").read(100, "EIO").read(100, 40).reset("EINVAL").get("STOP_COPY")
    run.read(100, 40).read(100, 30).get("STOP_COPY")
    run.add("gone", by="client").add("connected").get("RUNNING")
    run.do("DEVICE_GET_INFO", {}, {"malformed": "5 bytes instead of 16"})
    return run.add("command", id=99, command="DMA_MAP").add("gone", by="server").lines


def suspicious_only() -> list[Line]:
    """A run in which nothing is forbidden."""
    return Script("src").get("STOP").reset("EINVAL").reset("EINVAL").get("STOP").lines


def migration() -> list[Line]:
    """A migration of which a part is lost on the way."""
    return Migration().reads(b"a" * 700, b"b" * 300).writes(b"a" * 700).closes().lines


RUNS: dict[str, tuple[Callable[[], list[Line]], tuple[str, ...], int]] = {
    "check-trace": (every_grade, (), 1),
    "check-trace-strict": (every_grade, ("--strict",), 1),
    "check-trace-suspicious": (suspicious_only, (), 0),
    "check-trace-migration": (migration, (), 1),
}


def printed(name: str) -> tuple[str, int]:
    """Return what is printed of a run, and the exit status."""
    made, options, _ = RUNS[name]
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        lines = "".join(json.dumps(line) + "\n" for line in (HEAD, *made()))
        Path("run.jsonl").write_text(lines, "utf-8")
        with contextlib.redirect_stdout(out):
            status = main(["check-trace", "run.jsonl", *options])
    return out.getvalue(), status


if __name__ == "__main__":
    for one in RUNS:
        (GOLDEN / f"{one}.txt").write_text(printed(one)[0], "utf-8")
