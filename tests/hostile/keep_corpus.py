"""Keeps of the inputs that `make fuzz` found those that lead where no other one of them leads.

    python tests/hostile/keep_corpus.py FOUND TARGET...

Of FOUND/TARGET goes into tests/data/fuzz/TARGET, short ones first, what reaches a line after
another line that nothing kept so far has reached. Each is named by its digest.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import fuzz_targets

KEPT = Path(__file__).parents[1] / "data" / "fuzz"


def reached(target: str, data: bytes) -> set[tuple[str, int, int]]:
    """Run a target; return the file, the line before and the line, of each step in our code."""
    steps: set[tuple[str, int, int]] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if "vfio_migration" not in frame.f_code.co_filename:
            return None
        if event == "line":
            steps.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        elif event == "return":
            last.pop(frame, None)
        return trace

    sys.settrace(trace)
    try:
        fuzz_targets.TARGETS[target](data)
    finally:
        sys.settrace(None)
    return steps


def keep(found: Path, target: str) -> int:
    """Keep what is worth it; return how many that are."""
    kept = KEPT / target
    kept.mkdir(parents=True, exist_ok=True)
    files = {path.read_bytes() for folder in (kept, found / target) for path in folder.glob("*")}
    seen: set[tuple[str, int, int]] = set()
    for path in kept.glob("*"):
        path.unlink()
    for data in sorted(files, key=lambda data: (len(data), data)):
        steps = reached(target, data)
        if not steps <= seen:
            seen |= steps
            (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return len(list(kept.glob("*")))


if __name__ == "__main__":
    logging.disable()
    for name in sys.argv[2:]:
        print(name, keep(Path(sys.argv[1]), name))
