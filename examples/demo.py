"""`make demo`: the main job on the embedded table, with progress and a summary.

It proves the table, shows one finding, draws every capability set, the route of the finding and a
migration, and then does that migration, live, with two devices that write into each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import live_migration

from vfio_migration.cli.main import main as command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 if every step succeeds."""
    parser = argparse.ArgumentParser(prog="python examples/demo.py", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"), help="where the pictures go")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    from vfio_migration.model import load

    spec = load()
    print("== prove ==\n")
    status = command(["verify", "--brief"])
    print("\n== route ==\n")
    status |= command(["route", "PRE_COPY", "STOP_COPY"])
    print("\n== draw ==\n")
    for flags in spec.capability_sets():
        names = spec.names(flags)
        stem = "-".join(names).lower()
        for ending in ("svg", "png"):
            target = out / f"{stem}.{ending}"
            status |= command(["diagram", "-o", str(target), "--flags", ",".join(names)])
    status |= command(
        ["diagram", "-o", str(out / "finding.svg"), "--route", "PRE_COPY", "STOP_COPY"]
    )
    status |= command(["diagram", "-o", str(out / "migration.svg"), "--migration", "live"])
    print(
        f"\nopen {out / 'finding.svg'} to see the one route that the routing rule, read literally, "
        f"forbids,\nand {out / 'migration.svg'} to see what is done now"
    )
    print("\n== migrate ==\n", flush=True)
    record = out / "migration.jsonl"
    status |= live_migration.migrate(record)
    status |= command(["check-trace", str(record)])
    return status


if __name__ == "__main__":
    raise SystemExit(main())
