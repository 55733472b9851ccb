"""`vfio-migration tables`: the table as tables for a manual."""

from __future__ import annotations

import argparse
from typing import Any

from vfio_migration.cli import arguments as options

_HELP = """\
Print states, arcs, refusals, rules and the next-step table of every capability set, for a manual.

examples:
  vfio-migration tables --format rst > migration-tables.rst
  vfio-migration tables my_table.toml --format md
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("tables", help="the table as Markdown or RST", description=_HELP)
    options.spec_argument(parser)
    parser.add_argument(
        "--format", choices=("md", "rst"), default="md", help="Markdown or reStructuredText"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the tables."""
    from vfio_migration.cli.output import YES

    spec = options.read_spec(arguments.spec)
    from vfio_migration.diagrams import tables

    print(tables(spec, format=arguments.format), end="")
    return YES
