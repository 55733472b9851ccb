"""`vfio-migration diagram`: pictures made from the table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

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
  vfio-migration diagram -o column.pdf --width 455pt --no-title --no-legend --caption column.txt
  vfio-migration diagram -o machine.dot --plain    # small, for a manual that runs Graphviz itself
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "diagram", help="draw the machine, a route, a run or a migration", description=_HELP
    )
    options.spec_argument(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=options.Output,
        help="where to write; .svg .png .pdf .dot .mmd .json .txt",
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
        help="the colours; auto is light, but an SVG follows the setting of its reader's system",
    )
    parser.add_argument(
        "--comment",
        choices=("c", "rst", "md"),
        help="wrap text or ascii for a comment in C, a literal block in reStructuredText, or a "
        "fenced block in Markdown",
    )
    _page_options(parser)
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


def _page_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--width",
        metavar="WIDTH",
        type=options.page_width,
        help="lay the picture out for a page this wide (455pt, 736px, 160mm), with type of at "
        "least 7 points",
    )
    for part, what in (
        ("title", "the title and the sentence below it"),
        ("legend", "what explains the lines and colours"),
        ("steps", "the list of the steps of a route, a run or a migration"),
    ):
        parser.add_argument(f"--no-{part}", action="store_true", help=f"leave out {what}")
    parser.add_argument(
        "--plain",
        action="store_true",
        help="with the format dot: a small text that any Graphviz lays out and draws, in its own "
        "font and without a colour",
    )
    parser.add_argument(
        "--caption",
        metavar="FILE",
        type=options.Output,
        help="write a caption: the title, and the legend in words if it is left out",
    )
    parser.add_argument(
        "--alt",
        metavar="FILE",
        type=options.Output,
        help="write the text for who does not see the picture",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the picture; 0 if it is written."""
    written = {f"--{name}": getattr(arguments, name) for name in ("output", "caption", "alt")}
    files.keep_apart(
        written,
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
    _check_page(arguments, chosen)
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
        if len(trace.start) > 1:
            return _draw(_run_of_group(spec, arguments, trace), chosen, arguments)
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
        refuse("--trace", arguments.trace, str(error))
    return _draw(picture, chosen, arguments)


def _check_page(arguments: argparse.Namespace, chosen: Format) -> None:
    """Refuse what has no meaning for a format."""
    if arguments.plain and chosen != "dot":
        hint = "end the name of the file in .dot, or give --format dot"
        refuse("--plain", None, f"has no meaning for {chosen}", hint)
    if arguments.plain and arguments.migration is not None:
        _refuse_plain()
    is_text = chosen in ("text", "ascii") and arguments.migration is None
    given = [
        name
        for name in ("width", "no_title", "no_legend", "no_steps")
        if getattr(arguments, name)
        and (arguments.plain or chosen not in _DRAWN)
        and not (is_text and name != "width")
    ]
    if given:
        what = "--plain" if arguments.plain else chosen
        option = f"--{given[0].replace('_', '-')}"
        hint = "whatever draws it decides that"
        refuse(option, None, f"has no meaning for {what}", hint)


_DRAWN = ("svg", "png", "pdf", "dot")
"""The formats in which everything has its place."""


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


def _run_of_group(spec: Spec, arguments: argparse.Namespace, trace: Trace) -> PlanView:
    """Return the time line of a run of several devices."""
    from vfio_migration.diagrams import run_view

    if arguments.flags is not None:
        hint = "leave it out: the run states what each of its devices has"
        refuse("--flags", arguments.flags, "has no meaning for a run of several devices", hint)
    if arguments.plain:
        _refuse_plain()
    try:
        return run_view(spec, trace)
    except ValueError as error:
        refuse("--trace", arguments.trace, str(error))


def _refuse_plain() -> NoReturn:
    hint = "leave out --plain, or draw it as text: --format mmd"
    refuse("--plain", None, "draws a machine and not a time line", hint)


def _draw(picture: Graph | PlanView, chosen: Format, arguments: argparse.Namespace) -> int:
    from vfio_migration.cli.output import YES, printable
    from vfio_migration.diagrams import Page, TooNarrowError, alternative, caption, render
    from vfio_migration.diagrams.drawing.page import SMALLEST

    page = Page(
        width=arguments.width,
        title=not arguments.no_title,
        legend=not arguments.no_legend,
        steps=not arguments.no_steps,
    )
    try:
        data = render(
            picture, chosen, arguments.theme, page, plain=arguments.plain, comment=arguments.comment
        )
    except TooNarrowError as error:
        hint = f"it needs {error.needed}pt, for type of {SMALLEST:g} points"
        refuse("--width", f"{arguments.width:g}pt", "is too narrow for this picture", hint)
    words = {
        "--caption": caption(picture, page, plain=arguments.plain),
        "--alt": alternative(picture),
    }
    for option, text in words.items():
        path = getattr(arguments, option.removeprefix("--"))
        if path is not None:
            files.write_whole(option, Path(path), text.encode())
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
