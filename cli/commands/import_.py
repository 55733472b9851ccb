"""`vfio-migration import`: a table from the sources of Linux, libvfio-user or QEMU."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

_HELP = """\
Read the next-step table of drivers/vfio/vfio_main.c (and include/uapi/linux/vfio.h for the values
of states and capabilities), the tables of libvfio-user's lib/migration.c, or the text of vfio-user
(docs/interop/vfio-user.rst of QEMU), and print a table that does the same. Each state, arc, refusal
and capability names the file and line it is from; what is in no source is from the base table.
A comment that contradicts the table is a finding, on standard error. What cannot be read is an
error with file and line. See docs/import.md.

examples:
  vfio-migration import ~/linux -o patched.toml
  vfio-migration import vfio_main.c vfio.h > patched.toml
  vfio-migration import git:HEAD                      # a commit of the repository around you
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
        help="a file, a folder with the tree of Linux, libvfio-user or QEMU, or git:REV",
    )
    parser.add_argument(
        "--base",
        metavar="FILE",
        help="the table that everything else is from (default: the one of this package)",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write the table there, if there is one"
    )
    options.json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table; 2 if a source cannot be read, or contradicts itself."""
    from vfio_migration.cli.output import YES, print_json, printable

    if arguments.json and arguments.output is not None:
        files.refuse("--output", arguments.output, "is for a table in TOML", "leave out --json")
    sources = {f"SOURCE {number}": path for number, path in enumerate(arguments.sources, 1)}
    files.keep_apart({"--output": arguments.output}, sources | {"--base": arguments.base})
    base = options.read_spec(arguments.base)
    from vfio_migration.model.sources.read import read, table_text

    reading = read(arguments.sources, base)
    if arguments.json:
        print_json(reading.data)
    elif arguments.output is not None:
        files.write_whole("--output", arguments.output, table_text(reading, base).encode())
    else:
        print(printable(table_text(reading, base)), end="")
    for found in reading.findings:
        print(printable(f"finding: {found}"), file=sys.stderr)
    return YES
