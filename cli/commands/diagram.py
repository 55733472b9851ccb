"""`vfio-migration diagram`: pictures made from the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files
from vfio_migration.cli.files import refuse

if TYPE_CHECKING:
    from vfio_migration.diagrams import Format, Graph, PlanView
    from vfio_migration.model import Machine, Spec, Trace

_HELP = """\
Draw the machine on its grid, one route through it, a trace, what a change adds to it and removes,
or the time line of a migration.
The format follows the name of the file; without -o the DOT text goes to standard output. No
Graphviz needs to be installed.

examples:
  vfio-migration diagram -o machine.svg
  vfio-migration diagram -o small.png --flags STOP_COPY,P2P
  vfio-migration diagram -o route.svg --route PRE_COPY STOP_COPY
  vfio-migration diagram my_table.toml -o mine.pdf
  vfio-migration diagram -o run.svg --trace run.json
  vfio-migration diagram my_table.toml --against builtin -o change.svg
  vfio-migration diagram . --against git:HEAD -o patch.png   # sources, as `import` reads them
  vfio-migration diagram -o live.svg --migration live
  vfio-migration diagram -o live.svg --migration live --devices STOP_COPY,P2P:STOP_COPY
  vfio-migration diagram --format mmd              # Mermaid text to standard output
  vfio-migration diagram --format text             # boxes and arrows, in 78 columns
  vfio-migration diagram --format ascii --comment c --flags STOP_COPY
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diagram", help="draw the machine, a route, a run or a migration", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to write; .svg .png .pdf .dot .mmd .json .txt"
    )
    parser.add_argument(
        "--format",
        choices=options.PICTURE_FORMATS,
        help="the format, where the ending of the name gives none; it may not contradict it",
    )
    parser.add_argument(
        "--theme",
        choices=("auto", "light", "dark"),
        default="auto",
        help="the colours; auto is light, but an SVG follows its reader",
    )
    parser.add_argument(
        "--comment",
        choices=("c", "rst", "md"),
        help="wrap text or ascii for a comment in C, a literal block in reStructuredText, or a "
        "fenced block in Markdown",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--route", nargs=2, metavar=("FROM", "TO"), help="highlight the path of a request"
    )
    what.add_argument("--trace", metavar="FILE", help="draw a counterexample, or another trace")
    what.add_argument(
        "--against",
        metavar="OLD",
        help="draw what was added and removed since this table: a file, a source, or a name",
    )
    what.add_argument(
        "--migration", metavar="NAME", help="draw what each device of a group does in a migration"
    )
    options.plans_option(parser)
    options.flags_option(parser)
    parser.add_argument(
        "--devices",
        metavar="FLAGS:FLAGS",
        help="the group that --migration moves: the capabilities of each device, as --flags takes "
        "them; by default two devices with --flags",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the picture; 0 if it is written."""
    files.keep_apart(
        {"--output": arguments.output},
        {
            "SPEC": arguments.spec,
            "--trace": arguments.trace,
            "--against": arguments.against,
            "--plans": arguments.plans,
        },
    )
    spec = options.read_spec(arguments.spec)
    chosen = options.picture_format(arguments.output, arguments.format)
    if arguments.comment is not None and chosen not in ("text", "ascii"):
        problem = f"wraps text, and not {chosen}"
        refuse("--comment", arguments.comment, problem, "add --format text, or --format ascii")
    flags = options.read_flags(arguments.flags)
    for option in ("devices", "plans"):
        given = getattr(arguments, option)
        if given is not None and arguments.migration is None:
            problem = "has no meaning without a migration"
            refuse(f"--{option}", given, problem, "add --migration live")
    if arguments.migration is not None:
        return _draw(_migration(spec, arguments, flags), chosen, arguments)
    trace: Trace | None = None
    if arguments.trace is not None:
        trace = _read_trace(spec, arguments.trace)
        flags = ",".join(trace.capabilities[0]) if flags is None else flags
    machine = spec.machine(flags)
    route = None
    if arguments.route is not None:
        from_, to = (options.read_state(text) for text in arguments.route)
        route = machine.route(options.present_state(machine, from_), to)
    from vfio_migration.diagrams import change_graph, machine_graph

    if arguments.against is not None:
        return _draw(change_graph(machine, _old(arguments, machine)), chosen, arguments)
    try:
        picture = machine_graph(machine, route=route, trace=trace)
    except ValueError as error:
        hint = "a run is drawn on one machine: all its devices need the same capabilities"
        refuse("--trace", arguments.trace, str(error), hint)
    return _draw(picture, chosen, arguments)


def _old(arguments: argparse.Namespace, new: Machine) -> Machine:
    """Return the machine of OLD: with all it knows, or with what it knows of --flags."""
    spec = options.read_spec(arguments.against)
    if arguments.flags is None:
        return spec.machine()
    known = sum(row.value for row in spec.capabilities)
    return spec.machine(known & int(new.capabilities.value))


def _migration(spec: Spec, arguments: argparse.Namespace, flags: str | int | None) -> PlanView:
    from vfio_migration.diagrams import PlanError, migration_view
    from vfio_migration.diagrams.plan.extract import unnamed

    group = [flags, flags]
    if arguments.devices is not None:
        if flags is not None:
            hint = "give each device its capabilities there"
            refuse("--flags", arguments.flags, "is given by --devices already", hint)
        group = [options.read_flags(part) for part in arguments.devices.split(":")]
    try:
        plans = options.read_plans(spec, arguments.plans)
        return migration_view(spec, unnamed(group), arguments.migration, plans)
    except PlanError as error:
        place, value = ("--devices", arguments.devices) if arguments.devices else ("--flags", flags)
        refuse(place, value, str(error))


def _draw(picture: Graph | PlanView, chosen: Format, arguments: argparse.Namespace) -> int:
    from vfio_migration.cli.output import YES, printable
    from vfio_migration.diagrams import render

    data = render(picture, chosen, theme=arguments.theme, comment=arguments.comment)
    if arguments.output is None:
        if chosen in ("png", "pdf") and sys.stdout.isatty():
            refuse(
                "--format",
                chosen,
                "is not for a terminal",
                f"write it to a file with -o x.{chosen}",
            )
        sys.stdout.buffer.write(data)
        return YES
    files.write_whole("--output", Path(arguments.output), data)
    print(printable(f"{arguments.output}: {picture.title}".replace("\n", ", ")))
    return YES


def _read_trace(spec: Spec, path: str) -> Trace:
    trace = files.read_trace("--trace", path)
    if not trace.start:
        refuse("--trace", path, "is a run of no device")
    for name in (*trace.start, *(step.state for step in trace.steps)):
        spec.state(name)
    return trace
