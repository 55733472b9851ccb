"""Where `vfio-migration` begins: all else is imported where Ctrl-C is already waited for."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one command; return its exit status, 130 if Ctrl-C comes before there is a command."""
    try:
        from vfio_migration.cli.main import main as command

        return command()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("vfio-migration: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
