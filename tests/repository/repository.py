"""What the tests of this folder know about the repository: its root, its files, its settings."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"build", "dist", "out", "__pycache__"}


@functools.cache
def pyproject() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def rooms() -> dict[str, Path]:
    """Return every package and its folder, `{"vfio_migration.model": ROOT / "model", ...}`."""
    packages = pyproject()["tool"]["setuptools"]["package-dir"]
    return {name: ROOT / folder for name, folder in packages.items() if name.count(".") == 1}


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Yield the files a commit would hold: nothing hidden by .gitignore, no cache, no environment.

    Git is not asked: the tests run in an unpacked archive too.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in NOT_OURS
            and not name.endswith(".egg-info")
            and (not name.startswith(".") or name == ".ci")
        )
        yield from (Path(place) / name for name in sorted(names))


def clean_environment() -> dict[str, str]:
    """Return the environment without what a calling `make` or pytest put there."""
    unwanted = ("MAKE", "MFLAGS", "PYTEST", "COLUMNS", "PYTHONPATH", "VIRTUAL_ENV", "VENV")
    return {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said, both streams in one text."""
    options = {"cwd": ROOT, "env": clean_environment()} | options
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def script(name: str) -> Path:
    """Return the path of a command installed beside the running Python."""
    return Path(sys.executable).with_name(name)
