"""Runs the model checker spin on a model, within bounds.

Spin exits 0 whatever it finds: what it found is read from what it prints, and what cannot be read
is no verdict.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 120
MEGABYTES = 2048
DEPTH = 1_000_000

COLLAPSE = "-DCOLLAPSE"
"""Keeps each part of a situation once: less memory, more time."""


@dataclass(frozen=True)
class Found:
    """What spin found.

    Attributes:
        errors: How many runs it showed: 0 is a proof for groups of this size.
        error: What the first one breaks, in spin's words.
        states: How many situations it stored.
        compiling, running: Seconds.
        gave_up: Why it did not finish, or None.
    """

    errors: int | None
    error: str | None
    states: int | None
    compiling: float
    running: float
    gave_up: str | None = None


def missing() -> str | None:
    """Return what is not there and how to get it, or None if all is."""
    for program, package in (("spin", "spin"), ("gcc", "gcc")):
        if shutil.which(program) is None:
            return f"{program} is not installed; on Debian: apt-get install {package}"
    return None


def check(model: str, folder: Path, *options: str) -> Found:
    """Have spin visit every situation of a model.

    Raises:
        RuntimeError: If a program is missing, or rejects the model.
    """
    if (lacking := missing()) is not None:
        raise RuntimeError(lacking)
    (folder / "model.pml").write_text(model, "utf-8")
    begun = time.perf_counter()
    _run(["spin", "-a", "model.pml"], folder)
    bounds = ["-DSAFETY", f"-DMEMLIM={MEGABYTES}"]
    _run(["gcc", "-O2", "-w", *bounds, *options, "-o", "pan", "pan.c"], folder)
    compiled = time.perf_counter()
    try:
        command = ["./pan", f"-m{DEPTH}"]
        output = _run(command, folder, SECONDS)
    except subprocess.TimeoutExpired:
        return Found(None, None, None, compiled - begun, SECONDS, f"after {SECONDS} s")
    done = time.perf_counter()
    return _read(output, compiled - begun, done - compiled)


def _read(output: str, compiling: float, running: float) -> Found:
    errors = re.search(r"errors: (\d+)", output)
    states = re.search(r"^ *(\S+) states, stored", output, re.MULTILINE)
    error = re.search(r"^pan:\d+: (.*?)(?: \(at depth \d+\))?$", output, re.MULTILINE)
    gave_up = None
    if "memory" in output and re.search(r"out of memory|MEMLIM|memory bound", output):
        gave_up = f"at {MEGABYTES} MB"
    elif "max search depth too small" in output:
        gave_up = f"at a depth of {DEPTH}"
    if errors is None and gave_up is None:
        raise RuntimeError(f"spin said nothing that is understood:\n{output}")
    return Found(
        errors=int(errors[1]) if errors and gave_up is None else None,
        error=error[1] if error else None,
        states=int(float(states[1])) if states else None,
        compiling=compiling,
        running=running,
        gave_up=gave_up,
    )


def _run(command: list[str], folder: Path, timeout: float = 60) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=timeout
    )
    output = done.stdout + done.stderr
    if command[0] != "./pan" and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    return output
