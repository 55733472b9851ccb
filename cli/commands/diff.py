"""`vfio-migration diff`: what a change of a table does, and who can still work with whom."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli.files import refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfio_migration.model import Spec
    from vfio_migration.model.sources.read import Reading
    from vfio_migration.model.wire import Wire
    from vfio_migration.verifier.report.letter import Letter

_HELP = """\
Compare the behaviour of two tables: rows that differ, requests whose path moved, arcs that drivers
have to take, and compatibility: whether a client or a driver that knows only OLD can work with a
device that follows NEW. Each "fails" comes with a shortest sequence that shows it, which has been
run on live engines of both tables. The definitions (1) to (6) are in docs/compatibility.md. Both
tables are verified, and what is newly violated, still violated and newly proved is listed.

OLD and NEW are table files, sources that `import` reads (a file, a tree, git:REV), or names:
builtin, linux-7.3, linux-6.2, linux-6.1, linux-5.19, linux-5.18-without-p2p, linux-v1, vfio-user,
libvfio-user, and those of docs/proposals.md.

Two tables of the connection (files, wire, or wire-without-OPTION) are compared as that: whether
each side of the one works with each side of the other, as far as VERSION has them agree.

examples:
  vfio-migration diff builtin my_table.toml
  vfio-migration diff linux-6.1 builtin              # what Linux 6.2 changed
  vfio-migration diff builtin ~/linux                # a source, as `import` reads it
  vfio-migration diff git:HEAD~1 git:HEAD --format mail
  vfio-migration diff my_table.toml builtin          # new clients, old devices
  vfio-migration diff builtin my_table.toml --require 1 6
  vfio-migration diff builtin my_table.toml --format mail
  vfio-migration diff builtin my_table.toml --json | jq .compatible
  vfio-migration diff wire-without-precopy_info wire
"""

_FORMATS = ("text", "mail", "md", "json", "sarif")


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diff", help="what a change of a table does, and to whom", description=_HELP
    )
    parser.add_argument("old", metavar="OLD", help="a table: a file, or a name")
    parser.add_argument("new", metavar="NEW", help="the table that it is compared with")
    parser.add_argument(
        "--require",
        metavar="DEFINITION",
        nargs="+",
        action="extend",
        help="the definitions that decide the exit status (default: 3 5)",
    )
    options.format_option(parser, _FORMATS)
    parser.add_argument(
        "--only",
        metavar="ID",
        nargs="+",
        action="extend",
        help="the obligations (T4) or families (T) that are decided for both",
    )
    parser.add_argument(
        "--no-obligations",
        action="store_true",
        help="decide no obligation: only what a client and a driver see is compared",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare; 0 if NEW is compatible, 1 if not, 3 if live engines contradict the search."""
    from vfio_migration.cli.output import NO, UNKNOWN, YES, print_json, printable

    options.choose_format(arguments)
    wires = [options.read_wire(name) for name in (arguments.old, arguments.new)]
    if any(wires):
        return _wires(arguments, wires)
    (old, _), (new, reading) = options.read_table(arguments.old), options.read_table(arguments.new)
    from vfio_migration.verifier.comparison.definitions import definition
    from vfio_migration.verifier.comparison.report import FORMATS, compare, to_data

    require = [definition(name).id for name in arguments.require or ()]
    names = (arguments.old, arguments.new)
    letter = None if arguments.no_obligations else _verified(arguments, old, new, reading)
    comparison = compare(old, new, names, require, letter)
    if arguments.format == "sarif":
        from vfio_migration.cli.verdicts import sarif_of

        if letter is None:
            refuse("--format", "sarif", "reports obligations", "leave out --no-obligations")
        print(sarif_of(letter, arguments.new, reading), end="")
    elif arguments.json:
        print_json(to_data(comparison))
    else:
        print(printable("\n".join(FORMATS[arguments.format](comparison))))
    return {True: YES, False: NO, None: UNKNOWN}[comparison.compatible]


def _wires(arguments: argparse.Namespace, wires: Sequence[Wire | None]) -> int:
    """Compare two tables of the connection."""
    from vfio_migration.cli.output import NO, UNKNOWN, YES, print_json, printable
    from vfio_migration.model import load
    from vfio_migration.verifier.comparison.wires import compare_wires, lines, to_data

    names = (arguments.old, arguments.new)
    for name, wire, place in zip(names, wires, ("OLD", "NEW"), strict=True):
        if wire is None:
            problem = "is not a table of the connection, and the other one is"
            refuse(place, name, problem, "compare it with another of its kind")
    if arguments.format not in ("text", "json"):
        problem = "is not a format of a comparison of two connections"
        refuse("--format", arguments.format, problem, "leave it out, or take json")
    old, new = (wire for wire in wires if wire is not None)
    comparison = compare_wires(old, new, load(), names)
    if arguments.json:
        print_json(to_data(comparison))
    else:
        print(printable("\n".join(lines(comparison))))
    return {True: YES, False: NO, None: UNKNOWN}[comparison.compatible]


def _verified(
    arguments: argparse.Namespace, old: Spec, new: Spec, reading: Reading | None
) -> Letter:
    """Decide the obligations for both tables."""
    from vfio_migration.cli.verdicts import letter_of
    from vfio_migration.verifier import select, verify
    from vfio_migration.verifier.solver.workers import processors

    reports = [verify(spec, only=arguments.only, jobs=processors()) for spec in (old, new)]
    return letter_of(
        arguments.new,
        reports[1],
        select(arguments.only),
        against=(arguments.old, reports[0]),
        reading=reading,
    )
