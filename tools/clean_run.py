"""Runs commands of this project as a user would: without what `make` or pytest has set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]


def clean_environment() -> dict[str, str]:
    """Return the environment without what a calling `make` or pytest put there."""
    unwanted = ("MAKE", "MFLAGS", "PYTEST", "COLUMNS", "PYTHONPATH", "VIRTUAL_ENV", "VENV")
    return {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said, both streams in one text."""
    ended: subprocess.CompletedProcess[str] = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        **{"cwd": ROOT, "env": clean_environment(), **options},
    )
    return ended


def script(name: str) -> Path:
    """Return the path of a command installed beside the running Python."""
    return Path(sys.executable).with_name(name)
