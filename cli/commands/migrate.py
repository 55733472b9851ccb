"""`vfio-migration migrate`: move devices from one set of servers to another."""

from __future__ import annotations

import argparse
import re
import shutil
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import coordinating, files
from vfio_migration.cli import journal_option as journals
from vfio_migration.model.advice import command, operand

if TYPE_CHECKING:
    from vfio_migration.cli.event_printer import Printer
    from vfio_migration.model import Spec
    from vfio_migration.model.plan import Plans
    from vfio_migration.runtime.client.core import ExchangeObserver
    from vfio_migration.runtime.coordinator import Settings

_HELP = """\
Migrate the device behind each SRC to the one behind the DST after it. The devices run while most of
their state is transferred; several are moved together, by the plan that is proved for groups that
do peer-to-peer DMA (docs/groups.md). Whatever fails, either the destination runs with the whole
state or the source does. Ctrl-C gives the migration up, and the source runs on. What a DST held
before is overwritten.

examples:
  vfio-migration migrate /run/a.sock /run/b.sock
  vfio-migration migrate a0.sock b0.sock a1.sock b1.sock --downtime 50ms --bandwidth 500M
  vfio-migration migrate a.sock b.sock --dry-run -o plan.svg
  vfio-migration migrate a.sock b.sock --record run.jsonl; vfio-migration check-trace run.jsonl

exit status:
  0    the destination runs with the whole state
  1    it does not: refused beforehand, or failed; the message states who runs
  2    wrong input: nothing was begun
  3    it is not known who runs: a server does not answer and may run
  130  given up by Ctrl-C: the source runs; or a second Ctrl-C did not wait: run recover
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "migrate", help="move devices from one set of servers to another", description=_HELP
    )
    parser.add_argument(
        "sockets", metavar="SRC DST", nargs="+", help="the sockets of each device: from, to"
    )
    parser.add_argument(
        "--downtime",
        metavar="TIME",
        type=options.duration,
        default=0.3,
        help="for how long the devices may be stopped: 300ms (the default), 1.5s",
    )
    parser.add_argument(
        "--max-passes",
        metavar="N",
        type=_count,
        default=30,
        help="stop them after N passes of each, even if it takes longer than that (30); the last "
        "pass, while they are stopped, is none of these",
    )
    parser.add_argument(
        "--if-slow",
        choices=("stop", "cancel"),
        default="stop",
        help="what to do if they change faster than they can be transferred (stop)",
    )
    coordinating.bound_options(parser)
    parser.add_argument(
        "--bandwidth",
        metavar="RATE",
        type=options.byte_rate,
        help="transfer no more bytes a second than this: 500M, 1.5G, 200000 (M is 2 to the 20th)",
    )
    coordinating.compress_option(parser, "the stream on its way")
    coordinating.pre_copy_option(parser, "transfer all of their state")
    coordinating.assertion_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="look at the devices, print the plan, do nothing"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="with --dry-run: draw the plan, as .svg, .png, .pdf, .dot or .mmd",
    )
    coordinating.common_options(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,7}", text) and 0 < int(text) < 1 << 20):
        raise argparse.ArgumentTypeError(f"{text} is not a number of passes; 30 is")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Migrate; 0 if the destinations run."""
    from vfio_migration.runtime.coordinator import Coordinator
    from vfio_migration.runtime.files.compression import codec

    spec = options.read_spec(arguments.spec)
    plans = options.read_plans(spec, arguments.plans)
    sockets = arguments.sockets
    if len(sockets) % 2:
        return coordinating.wrong(
            arguments, f"{sockets[-1]}: has no DST: give SRC DST [SRC DST ...]"
        )
    if arguments.output is not None and (problem := _cannot_draw(arguments)):
        return coordinating.wrong(arguments, f"-o {arguments.output}: {problem}")
    pairs = list(zip(sockets[::2], sockets[1::2], strict=True))
    journal = journals.to_write(arguments)
    files.keep_apart(
        {"--journal": journal, "--record": arguments.record, "--output": arguments.output},
        {"--spec": arguments.spec, "--plans": arguments.plans},
    )
    codec(arguments.codec)  # an absent library is said now, not in the middle
    settings = coordinating.settings_of(arguments)

    def work(observers: list[ExchangeObserver], printer: Printer) -> None:
        from vfio_migration.cli import event_printer

        coordinator = Coordinator(
            pairs,
            spec=spec,
            plans=plans,
            settings=settings,
            report=event_printer.reporter(printer, arguments),
            observers=observers,
            journal=journal,
        )
        with coordinating.cancelled_by_signals(coordinator.cancel):
            coordinator.run()

    def dry(observers: list[ExchangeObserver], _printer: Printer) -> None:
        _dry_run(arguments, spec, plans, pairs, settings, observers)

    def again() -> list[str]:
        if not journals.exists(arguments):
            return []
        elsewhere = [] if arguments.journal is None else ["--journal", operand(journal)]
        return [f"run: {command('recover', *map(operand, sockets), *elsewhere)}"]

    return coordinating.attempt(
        arguments, spec, dry if arguments.dry_run else work, again, pairs=pairs
    )


def _dry_run(
    arguments: argparse.Namespace,
    spec: Spec,
    plans: Plans | None,
    pairs: list[tuple[str, str]],
    settings: Settings,
    observers: list[ExchangeObserver],
) -> None:
    """Return what would be done with these devices, and draw it if that is asked for."""
    from pathlib import Path

    from vfio_migration.cli.output import printable
    from vfio_migration.diagrams import Pair, PlanError, migration_view, render, to_text
    from vfio_migration.runtime.client import PeerDisconnectedError
    from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator

    coordinator = Coordinator(pairs, spec=spec, plans=plans, settings=settings, observers=observers)
    try:
        found = coordinator.survey()
    except PeerDisconnectedError as error:
        raise CannotMigrateError(str(error)) from error
    group = [
        Pair(
            one.where,
            two.where,
            ",".join(one.machine.names),
            ",".join(two.machine.names),
            one.state,
            two.state,
        )
        for one, two in found
    ]
    try:
        view = migration_view(spec, group, coordinator.migration, plans, asserted=settings.asserted)
    except PlanError as error:
        raise CannotMigrateError(str(error), refused=True) from error
    if arguments.output is not None:
        form = options.picture_format(arguments.output, None)
        files.write_whole("--output", Path(arguments.output), render(view, form))
    if arguments.json:
        print(render(view, "json").decode(), end="")
    else:
        print(printable(to_text(view, shutil.get_terminal_size().columns)), end="")
        if arguments.output is not None:
            print(printable(f"\n{arguments.output}: the same as a picture"))


def _cannot_draw(arguments: argparse.Namespace) -> str | None:
    """Return why there will be no picture of that name."""
    from vfio_migration.model import SpecError

    if not arguments.dry_run:
        return "goes with --dry-run"
    try:
        options.picture_format(arguments.output, None)
    except SpecError:
        return "its ending names no format; end it in .svg, .png, .pdf, .dot or .mmd"
    return None
