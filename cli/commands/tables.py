"""`vfio-migration tables`: the table as tables for a manual."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files

if TYPE_CHECKING:
    from vfio_migration.diagrams.markup import Section
    from vfio_migration.model import Spec

KINDS: Final = (
    *("states", "operations", "sessions", "stream-ends", "arcs", "effects", "requests"),
    *("refusals", "routing", "events", "capabilities", "profiles"),
    *("arcs-of-a-set", "next-steps", "obligations"),
)
"""What `--only` takes: the tables there are."""

_ENDINGS: Final = {
    "md": "md",
    "rst": "rst",
    "html": "html",
    "csv": "csv",
    "json": "json",
    "c-comment": "h",
    "c-array": "c",
}
_IN_C: Final = ("c-comment", "c-array")
_LEVELS: Final = range(6)

_HELP = """\
Print states, arcs, refusals, rules and the next-step table of every capability set, for a manual:
all of them as one document, or some of them to be put into another one.

Each table has a label that the text around it can refer to: the name of the table of the machine
and the kind, as vfio-v2-states. Two shapes are those of the Linux sources and take the next steps
of one capability set: c-comment is the list of arcs and of the ways through several states, c-array
the definition of vfio_from_fsm_table.

examples:
  vfio-migration tables --format rst > migration-tables.rst
  vfio-migration tables my_table.toml --format md
  vfio-migration tables --only states arcs --level 3 -o part.rst
  vfio-migration tables --only next-steps --flags STOP_COPY,P2P --format csv
  vfio-migration tables --only next-steps --flags 7 --format c-comment
  vfio-migration tables --only obligations --format html
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "tables", help="the table as tables for a manual, all or some", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "--only",
        metavar="KIND",
        nargs="+",
        action="extend",
        choices=KINDS,
        help=f"these tables, without a title above them: {', '.join(KINDS)}",
    )
    parser.add_argument(
        "--format",
        choices=tuple(_ENDINGS),
        help="the format, where the ending of the name gives none (default: md)",
    )
    parser.add_argument(
        "--level",
        metavar="N",
        type=int,
        choices=_LEVELS,
        default=2,
        help="the level of the headings, 1 to 5; 0 for none. In reStructuredText it chooses what "
        "underlines them: = - ~ ^ and a double quote (default: 2)",
    )
    options.flags_option(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=options.Output, help="where to write"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the tables; 0 if they are written."""
    from vfio_migration.cli.output import YES

    files.keep_apart({"--output": arguments.output}, {"SPEC": arguments.spec})
    spec = options.read_spec(arguments.spec)
    text = _text(arguments, spec)
    if arguments.output is None:
        print(text, end="")
    else:
        files.write_whole("--output", Path(arguments.output), text.encode())
    return YES


def _text(arguments: argparse.Namespace, spec: Spec) -> str:
    chosen = options.file_format(arguments.output, arguments.format, _ENDINGS, "md")
    flags = options.read_flags(arguments.flags)
    if chosen in _IN_C:
        from vfio_migration.generators import next_steps_array, next_steps_comment

        if arguments.only != ["next-steps"]:
            hint = "add --only next-steps, and nothing else"
            files.refuse("--format", chosen, "is a shape of the next steps alone", hint)
        write = next_steps_comment if chosen == "c-comment" else next_steps_array
        return write(spec.machine(flags))
    from vfio_migration.diagrams import tables

    if chosen == "csv":
        count = len(spec.capability_sets()) if flags is None else 1
        kinds = arguments.only or KINDS
        if len(kinds) > 1 or (kinds[0] in ("arcs-of-a-set", "next-steps") and count > 1):
            hint = "choose one with --only KIND, and of the next steps one set with --flags"
            files.refuse("--format", chosen, "is one table a file, and these are several", hint)
    more = [_obligations(spec)] if "obligations" in (arguments.only or ()) else []
    return tables(spec, chosen, only=arguments.only, flags=flags, level=arguments.level, more=more)


def _obligations(spec: Spec) -> Section:
    from vfio_migration.diagrams.markup import Section
    from vfio_migration.diagrams.tables import label
    from vfio_migration.verifier.obligations.catalogue import OBLIGATIONS

    return Section(
        key="obligations",
        label=label(spec.name, "obligations"),
        title="Obligations",
        text="What has to hold of the table, and is decided by `vfio-migration verify`.",
        header=("Obligation", "Title", "Statement", "Ranges over", "Method"),
        rows=tuple(
            (row.id, row.title, row.statement, row.ranges_over, row.method) for row in OBLIGATIONS
        ),
    )
