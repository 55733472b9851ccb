"""Writes the Promela models on record anew: `python tests/support/promela_goldens.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/verifier")]


def main() -> None:
    from test_promela import GOLDEN, GOLDENS, text

    GOLDEN.mkdir(exist_ok=True)
    for name, arguments in GOLDENS.items():
        (GOLDEN / name).write_text(text(*arguments), "utf-8")
        print(f"wrote {GOLDEN / name}")


if __name__ == "__main__":
    main()
