"""`vfio-migration recover`: back to exactly one running side, whatever a migration left behind."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from vfio_migration.cli import migrate, options

_HELP = """\
Bring the devices of a migration that was killed, or could not be brought to its end, back to
exactly one running side. Who that is follows from the journal of the migration, which stands beside
the first source, and from what the servers say. Devices go back along named arcs; a reset is the
last resort. It can be run as often as one likes.

examples:
  vfio-migration recover /run/a.sock /run/b.sock
  vfio-migration recover a0.sock b0.sock a1.sock b1.sock --journal /var/tmp/run.migration
  vfio-migration recover /run/a.sock --keep source      # the destination is gone for good

exit status:
  0  one side runs with the whole state
  1  nobody holds the whole state any more; what is left was brought to a known state
  2  wrong input, or it cannot be told who is to run: nothing was done
  3  a server does not answer and may run: nothing was decided
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
        help="this side is to run, whatever the journal says; the other is given up",
    )
    migrate.common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Recover; 0 if one side runs with the whole state."""
    from vfio_migration.cli import telling
    from vfio_migration.cli.main import NO, UNKNOWN, YES
    from vfio_migration.runtime.coordinator import CannotMigrate
    from vfio_migration.runtime.coordinator.recover import recover

    spec = options.read_spec(arguments.spec)
    sockets = arguments.sockets
    if len(sockets) > 1 and len(sockets) % 2:
        return migrate.wrong(arguments, f"{sockets[-1]}: has no DST: give SRC DST [SRC DST ...]")
    pairs = (
        [(sockets[0], None)]
        if len(sockets) == 1
        else list(zip(sockets[::2], sockets[1::2], strict=True))
    )
    with contextlib.ExitStack() as stack:
        recording = migrate.recording_of(arguments, spec, stack)
        try:
            printer = stack.enter_context(telling.printer(arguments))
            settled = recover(
                pairs,
                journal=migrate.path_of(arguments.journal),
                keep=arguments.keep,
                spec=spec,
                report=telling.teller(printer, arguments),
                watches=[] if recording is None else [recording],
                patience=arguments.patience,
            )
        except CannotMigrate as error:
            stack.close()
            return migrate.refused(arguments, error)
        finally:
            migrate.complain(recording)
        if not arguments.json:
            for problem in settled.problems:
                printer.line(f"  {problem}")
    return {"source": YES, "destination": YES, "undecided": UNKNOWN}.get(settled.outcome, NO)
