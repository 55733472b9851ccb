"""The compilers of this machine, for what is generated; one that is missing is stated.

`zig cc` is clang with all that it needs, from the package `ziglang`; it is used where it is there.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

TIMEOUT_S = 120
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
C_COMPILERS = ("gcc", "clang", "zig")


def c_compiler(name: str) -> list[str]:
    """Return how a C compiler is called; skip the test, with the reason, if it is not here."""
    if name == "zig" and importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    found = shutil.which(name)
    if found is None or name == "zig":
        way = "pip install ziglang" if name == "zig" else f"apt-get install {name}"
        pytest.skip(f"there is no {name} here, so nothing is shown of it; {way}")
    return [found]


def tool(name: str, package: str) -> str:
    """Return a program; skip the test, with the reason, if it is not here."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here, so nothing is shown; {package}")
    return found


def rustc() -> str:
    return tool("rustc", "apt-get install rustc, or https://rustup.rs")


def run(words: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a compiler or what it made; fail with what it states if it fails."""
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}{done.stderr}"
    return done


def written(folder: Path, files: dict[str, str]) -> Path:
    """Write files into a folder and return it."""
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return folder
