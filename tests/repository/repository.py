"""What the tests of this folder know about the repository: its root, its files, its settings."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clean_run import ROOT, clean_environment, run, script

__all__ = ["FACE", "ROOT", "clean_environment", "files", "pyproject", "rooms", "run", "script"]
FACE = ROOT / "src" / "vfio_migration"
"""What `import vfio_migration` is, beside the rooms."""
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
