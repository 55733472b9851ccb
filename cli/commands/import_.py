"""`vfio-migration import`: a table from the sources of Linux or libvfio-user."""

from __future__ import annotations

import argparse
from typing import Any

from vfio_migration.cli import arguments as options

_HELP = """\
Read the next-step table of drivers/vfio/vfio_main.c (and include/uapi/linux/vfio.h for the values
of states and capabilities), or the tables of libvfio-user's lib/migration.c, and print a table that
does the same. Each state, arc, refusal and capability names the file and line it is from; what
stands in no source is from the base table. What cannot be read, and what no table can express, is
an error with file and line. See docs/import.md.

examples:
  vfio-migration import ~/linux > patched.toml
  vfio-migration import vfio_main.c vfio.h > patched.toml
  vfio-migration import vfio_main.c --base with_my_new_state.toml
  vfio-migration import libvfio-user/lib/migration.c
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "import", help="a table from the sources of Linux or libvfio-user", description=_HELP
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="a file of C, or a folder with the tree of Linux or libvfio-user",
    )
    parser.add_argument(
        "--base",
        metavar="FILE",
        help="the table that everything else is from (default: the one of this package)",
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 2 if a source cannot be read, or says what no table can say."""
    from vfio_migration.cli.output import YES, print_json, printable

    base = options.read_spec(arguments.base)
    from vfio_migration.model.sources.read import read, table_text

    data = read(arguments.sources, base)
    if arguments.json:
        print_json(data)
    else:
        print(printable(table_text(data, base)), end="")
    return YES
