"""A page that is made: written anew, or compared with the one that is there."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path


def differences(text: str, path: Path) -> Iterator[str]:
    """Yield what is wrong with the page that is there, line by line."""
    old = path.read_text("utf-8") if path.exists() else ""
    yield from difflib.unified_diff(
        old.splitlines(keepends=True),
        text.splitlines(keepends=True),
        str(path),
        "as it would be made",
    )


def write_or_compare(text: str, path: Path, *, check: bool) -> int:
    """Write the page; or print in what it differs. Return the exit status: 1 if it differs."""
    if not check:
        path.write_text(text, "utf-8")
        return 0
    found = list(differences(text, path))
    sys.stdout.writelines(found)
    return 1 if found else 0
