"""`vfio-migration recover`: back to exactly one running side, whatever a migration left behind."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import coordinating, files
from vfio_migration.cli import journal_option as journals

if TYPE_CHECKING:
    from vfio_migration.cli.event_printer import Printer
    from vfio_migration.runtime.client.core import ExchangeObserver
    from vfio_migration.runtime.coordinator import Event
    from vfio_migration.runtime.coordinator.finish import Finished

_HELP = """\
Bring the devices of a migration that was killed, or could not be brought to its end, back to
exactly one running side. Who that is follows from the journal of the migration, which is beside
the first source, and from what the servers report. Devices go back along named arcs; a reset is the
last resort. It can be run as often as one likes.

examples:
  vfio-migration recover /run/a.sock /run/b.sock
  vfio-migration recover a0.sock b0.sock a1.sock b1.sock --journal /var/tmp/run.migration
  vfio-migration recover /run/a.sock --keep source      # the destination is lost for good

exit status:
  0  one side runs with the whole state, or as --keep asked
  1  nobody holds the whole state any more; what is left was brought to a known state
  2  wrong input, it is not known who is to run, or this user may not connect to a server:
     nothing was done
  3  a server does not answer (it may be busy) and may run, it is not known whether one is the
     one that was there, or the journal cannot be written: nothing was decided
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "recover", help="bring back what a migration left behind", description=_HELP
    )
    parser.add_argument(
        "sockets",
        metavar="SRC [DST]",
        nargs="+",
        help="one SRC, or SRC DST for each device of the migration",
    )
    parser.add_argument(
        "--keep",
        choices=("source", "destination"),
        help="this side is to run, whatever the journal records; the other is given up",
    )
    coordinating.common_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Recover; 0 if one side runs with the whole state."""
    from vfio_migration.runtime.coordinator.journal import beside
    from vfio_migration.runtime.coordinator.recover import recover

    spec = options.read_spec(arguments.spec)
    plans = options.read_plans(spec, arguments.plans)
    sockets = arguments.sockets
    if len(sockets) > 1 and len(sockets) % 2:
        return coordinating.wrong(
            arguments, f"{sockets[-1]}: has no DST: give SRC DST [SRC DST ...]"
        )
    twice = next((one for one in sockets if sockets.count(one) > 1), None)
    if twice is not None:
        return coordinating.wrong(arguments, coordinating.TWICE.format(twice))
    if arguments.keep == "destination" and len(sockets) == 1 and not journals.exists(arguments):
        return coordinating.wrong(
            arguments, "--keep destination: which one is not known: give SRC DST"
        )
    journal = journals.to_read(arguments)
    files.keep_apart(
        {"--record": arguments.record},
        {
            "--spec": arguments.spec,
            "--plans": arguments.plans,
            "--journal": journal or beside(sockets[0]),
        },
    )
    pairs = (
        [(sockets[0], None)]
        if len(sockets) == 1
        else list(zip(sockets[::2], sockets[1::2], strict=True))
    )

    def work(observers: list[ExchangeObserver], printer: Printer) -> None:
        from vfio_migration.cli import event_printer
        from vfio_migration.cli.output import FULL
        from vfio_migration.runtime.coordinator import MigrationFailedError
        from vfio_migration.runtime.coordinator.journal import NotWrittenError

        report_event, reported = event_printer.reporter(printer, arguments), False

        def report(event: Event) -> None:
            nonlocal reported
            reported = reported or event.name == "won"
            report_event(event)

        try:
            finished = recover(
                pairs,
                journal=journal,
                keep=arguments.keep,
                spec=spec,
                plans=plans,
                report=report,
                observers=observers,
                timeout_s=arguments.timeout_s,
            )
        except OSError as error:
            if error.errno in FULL and not isinstance(error, NotWrittenError):
                raise
            why = f"the journal cannot be written: {error}"
            raise MigrationFailedError(why, "undecided", [_AGAIN]) from error
        if finished.outcome in ("lost", "undecided"):
            more = [_AGAIN] if finished.outcome == "undecided" else finished.advice
            raise MigrationFailedError(finished.why, finished.outcome, [*finished.problems, *more])
        _report_outcome(finished, report_event, reported=reported)
        if not arguments.json:
            for problem in finished.problems:
                printer.line(f"  {problem}")

    return coordinating.attempt(arguments, spec, work, lambda: [_AGAIN])


_AGAIN = "run it again; nothing is lost by that"


def _report_outcome(finished: Finished, report_event: Any, *, reported: bool) -> None:
    """Report who runs, if nothing had to be done about it."""
    from vfio_migration.runtime.coordinator import Event

    if not reported:
        fields = {"outcome": finished.outcome, "why": finished.why, "problems": finished.problems}
        report_event(Event("won", fields))
