"""Writes the plans on record as text anew: `python tests/support/plan_goldens.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/diagrams")]


def main() -> None:
    from test_plan_text import GOLDEN, GOLDENS, text

    GOLDEN.mkdir(exist_ok=True)
    for name, arguments in GOLDENS.items():
        (GOLDEN / name).write_text(text(*arguments), "utf-8")
        print(f"wrote {GOLDEN / name}")


if __name__ == "__main__":
    main()
