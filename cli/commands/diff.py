"""`vfio-migration diff`: what a change of a table does, and who can still work with whom."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options

if TYPE_CHECKING:
    from vfio_migration.model import Spec

_HELP = """\
Compare the behaviour of two tables: rows that differ, requests whose path moved, arcs that drivers
have to take, and compatibility: whether a client or a driver that knows only OLD can work with a
device that follows NEW. Each "fails" comes with a shortest sequence that shows it, which has been
run on live engines of both tables. The definitions (1) to (6) are in docs/compatibility.md.

OLD and NEW are table files, sources that `import` reads, or names: builtin, linux-6.2, linux-6.1,
linux-5.18-without-p2p, vfio-user.

examples:
  vfio-migration diff builtin my_table.toml
  vfio-migration diff linux-6.1 builtin              # what Linux 6.2 changed
  vfio-migration diff builtin ~/linux                # a source, as `import` reads it
  vfio-migration diff my_table.toml builtin          # new clients, old devices
  vfio-migration diff builtin my_table.toml --require 1 6
  vfio-migration diff builtin my_table.toml --format mail
  vfio-migration diff builtin my_table.toml --json | jq .compatible
"""

_FORMATS = ("text", "mail", "md", "json")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diff", help="what a change of a table does, and to whom", description=_HELP
    )
    parser.add_argument("old", metavar="OLD", help="a table: a file, or a name")
    parser.add_argument("new", metavar="NEW", help="the table that it is compared with")
    parser.add_argument(
        "--require",
        metavar="ID",
        nargs="+",
        action="extend",
        help="the definitions that decide the exit status (default: 3 5)",
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="text",
        help="text (the default), mail (72 columns, the summary first), md, or json",
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare; 0 if NEW is compatible, 1 if not, 3 if live engines contradict the search."""
    from vfio_migration.cli.output import NO, UNKNOWN, YES, print_json, printable

    # An answer in JSON is one object, and so is a complaint.
    arguments.json = arguments.json or arguments.format == "json"
    old, new = _read(arguments.old), _read(arguments.new)
    from vfio_migration.verifier.comparison.definitions import definition
    from vfio_migration.verifier.comparison.report import FORMATS, compare, to_data

    require = [definition(name).id for name in arguments.require or ()]
    comparison = compare(old, new, (arguments.old, arguments.new), require)
    if arguments.json:
        print_json(to_data(comparison))
    else:
        print(printable("\n".join(FORMATS[arguments.format](comparison))))
    return {True: YES, False: NO, None: UNKNOWN}[comparison.compatible]


def _read(name: str) -> Spec:
    """Load a table, or make one of a source."""
    from vfio_migration.model import load
    from vfio_migration.model.sources.read import is_source, read

    return read([name], load()).spec if is_source(name) else options.read_spec(name)
