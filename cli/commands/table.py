"""`vfio-migration table`: the built-in tables themselves, to be copied and changed."""

from __future__ import annotations

import argparse
import sys
from importlib import resources
from typing import Any, Final

_HELP = """\
Print a built-in table byte for byte: what is proved, drawn, run and migrated. A copy that was
changed is given to the other commands, as SPEC or --spec, --plans and --wire.

examples:
  vfio-migration table > mine.toml
  vfio-migration table --plans > my_plans.toml
  vfio-migration table --schema > table.schema.json    # for an editor: #:schema ./table.schema.json
"""

TABLES: Final = {
    "machine": ("vfio_v2.toml", "the states, arcs, refusals and rules of one device (the default)"),
    "plans": ("group_plan.toml", "the plans for groups of devices, migrations and handovers"),
    "wire": ("wire.toml", "what the vfio-user connection guarantees: commands, features, answers"),
    "conformance": ("conformance.toml", "what check-trace holds a recorded run against"),
    "history": ("history.toml", "earlier and smaller forms of the machine, for diff"),
    "field-logs": ("field_logs.toml", "how the logs of other programs are read by check-trace"),
}
"""Each built-in table by its option: the file in `model`, and what stands in it."""
_SCHEMA: Final = "schema"


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("table", help="print a built-in table", description=_HELP)
    which = parser.add_mutually_exclusive_group()
    for name, (_, what) in TABLES.items():
        which.add_argument(f"--{name}", dest="table", action="store_const", const=name, help=what)
    which.add_argument(
        "--schema",
        dest="table",
        action="store_const",
        const=_SCHEMA,
        help="the format of a table of one device, as JSON Schema",
    )
    parser.set_defaults(run=run, table="machine")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from vfio_migration.cli.output import YES

    if arguments.table == _SCHEMA:
        from vfio_migration.cli.output import print_json
        from vfio_migration.model.schema import table_schema

        print_json(table_schema())
        return YES
    file, _ = TABLES[arguments.table]
    sys.stdout.flush()
    sys.stdout.buffer.write((resources.files("vfio_migration.model") / file).read_bytes())
    return YES
