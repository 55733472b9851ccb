"""What the commands that move devices share: options, signals, the recording, the last message.

`migrate`, `recover`, `save` and `restore` each run a coordinator, and mean the same by the same
option and by the same exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from vfio_migration.cli import arguments as options
from vfio_migration.cli.output import (
    FULL,
    INTERRUPTED,
    NO,
    UNKNOWN,
    WRONG_INPUT,
    YES,
    with_advice,
)
from vfio_migration.model.errors import why

if TYPE_CHECKING:
    from vfio_migration.cli.event_printer import Printer
    from vfio_migration.model import Spec
    from vfio_migration.runtime.client.core import ExchangeObserver
    from vfio_migration.runtime.client.recording import Recording
    from vfio_migration.runtime.coordinator import Settings

TWICE = "{}: is named twice; each socket is one end of one device"
_OUTCOMES = {
    "source": "the source runs",
    "destination": "the destination runs with the whole state all the same",
    "lost": "the state is lost",
    "undecided": "it is not known who runs",
}


def bound_options(parser: argparse.ArgumentParser, *, streams: bool = True) -> None:
    """Add the options that bound what a device can make of a transfer, whatever it states.

    Args:
        parser: The parser.
        streams: Streams are read from devices, and not from a file.
    """
    what = (
        "hold the devices still for no longer than this; then it is given up, and they run (600s)"
        if streams
        else "how long it may take, until the devices run (600s)"
    )
    parser.add_argument(
        "--max-downtime", metavar="TIME", type=options.duration, default=600.0, help=what
    )
    if not streams:
        return
    parser.add_argument(
        "--max-pre-copy",
        metavar="TIME",
        type=options.duration,
        default=3600.0,
        help="stop the devices after so long, even if more passes would bring something (3600s)",
    )
    parser.add_argument(
        "--max-bytes",
        metavar="SIZE",
        type=options.byte_size,
        help="transfer no more than this of any device, all passes together: 64G, 1.5T (1T)",
    )


def compress_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--compress CODEC`."""
    parser.add_argument(
        "--compress",
        dest="codec",
        metavar="CODEC",
        choices=("none", "zlib", "zstd"),
        default="none",
        help=f"compress {what}: none (the default), zlib, zstd",
    )


def pre_copy_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--no-pre-copy`."""
    parser.add_argument(
        "--no-pre-copy",
        dest="pre_copy",
        action="store_false",
        help=f"stop the devices first and {what} then",
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings for which a command has options, which have their names."""
    from vfio_migration.runtime.coordinator import Settings

    given = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(Settings)
        if field.name in arguments
    }
    return Settings(**{**given, "asserted": tuple(dict.fromkeys(arguments.asserted))})


def assertion_options(parser: argparse.ArgumentParser) -> None:
    """Add the options by which the operator answers for what nothing on the wire shows."""
    parser.add_argument(
        "--no-peer-dma",
        dest="asserted",
        action="append_const",
        const="no_peer_dma",
        default=[],
        help="you answer for it that none of these devices does DMA to another of them: then more "
        "than one may lack P2P",
    )


def common_options(parser: argparse.ArgumentParser, *, journal: bool = True) -> None:
    """Add the options that all commands with a coordinator share."""
    if journal:
        parser.add_argument(
            "--journal",
            metavar="FILE",
            help="where what `recover` has to know is kept; by default beside the first SRC",
        )
    parser.add_argument(
        "--record", metavar="FILE", help="write every request and reply down, for check-trace"
    )
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        metavar="TIME",
        type=options.duration,
        default=30.0,
        help="how long a server may take to answer (30s)",
    )
    options.spec_option(parser)
    options.plans_option(parser)
    parser.set_defaults(events=True)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the outcome")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each event"
    )


def attempt(
    arguments: argparse.Namespace,
    spec: Spec,
    work: Callable[[list[ExchangeObserver], Printer], None],
    again: Callable[[], list[str]],
    outcomes: Mapping[str, str] | None = None,
    pairs: Iterable[tuple[str, str]] = (),
) -> int:
    """Run a coordinator; print last of all what went wrong; return the exit status.

    Args:
        arguments: How events are printed, and whether they are recorded.
        spec: The table.
        work: What is done. It is given the observers of messages and where to print.
        again: Returns what to do after it was interrupted, with no outcome.
        outcomes: What an outcome means to the user.
        pairs: Which destination is given the state of which source, for the recording.
    """
    from vfio_migration.cli import event_printer
    from vfio_migration.runtime.coordinator import CannotMigrateError, MigrationFailedError

    status, begun = YES, time.monotonic()
    with contextlib.ExitStack() as stack:
        recording = recording_of(arguments, spec, stack)
        if recording is not None:
            for source, destination in pairs:
                recording.pair(source, destination)
        try:
            with event_printer.printer(arguments) as printer:
                work([] if recording is None else [recording], printer)
        except CannotMigrateError as error:
            _print_error(arguments, error.why, error.hints, begun=begun)
            status = NO if error.refused else WRONG_INPUT
        except MigrationFailedError as error:
            outcome = error.outcome
            meant = {**_OUTCOMES, **(outcomes or {})}[outcome]
            _print_error(arguments, error.why, error.hints, outcome, meant, begun=begun)
            status = {"destination": YES, "undecided": UNKNOWN}.get(outcome, NO)
            if error.cancelled and outcome == "source":
                status = INTERRUPTED
        except KeyboardInterrupt:
            # A further Ctrl-C does not cut the message off.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _print_error(
                arguments,
                "interrupted: it may not have come to its end",
                again(),
                begun=begun,
            )
            status = INTERRUPTED
        except OSError as error:
            if error.errno not in FULL:
                raise
            hints = again()
            _print_error(arguments, error.strerror or str(error), hints, begun=begun)
            status = UNKNOWN if hints else WRONG_INPUT
    if recording is not None and recording.error is not None:
        why = f"vfio-migration: the recording is not complete: {recording.error}"
        event_printer.print_last(sys.stderr, [why])
    return status


def recording_of(
    arguments: argparse.Namespace, spec: Spec, stack: contextlib.ExitStack
) -> Recording | None:
    """Begin the recording that was asked for, if one was."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake
    from vfio_migration.runtime.client.recording import Recording

    if arguments.record is None:
        return None
    try:
        return stack.enter_context(Recording(arguments.record, spec))
    except (OSError, ValueError) as error:
        problem = f"cannot be written: {why(error)}"
        raise SpecError([Mistake("--record", arguments.record, problem, None)]) from None


@contextlib.contextmanager
def cancelled_by_signals(cancel: Callable[[], object]) -> Iterator[None]:
    """Give up on SIGINT and SIGTERM, if it is not too late; a further SIGINT does not wait.

    SIGINT stays ignored if it was: the shell has put this process into the background.
    """
    numbers = [signal.SIGTERM]
    if not options.ignores(signal.SIGINT):
        numbers.append(signal.SIGINT)

    def on(_number: int, _frame: object) -> None:
        cancel()
        if signal.SIGINT in numbers:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wrong(arguments: argparse.Namespace, message: str) -> int:
    """Complain about what was asked for; return the exit status."""
    _print_error(arguments, message, ())
    return WRONG_INPUT


def _print_error(
    arguments: argparse.Namespace,
    why: str,
    hints: Sequence[str],
    outcome: str | None = None,
    meant: str | None = None,
    *,
    begun: float | None = None,
) -> None:
    from vfio_migration.cli import event_printer

    why = with_advice(why)
    if arguments.json:
        import json

        now = 0.0 if begun is None else round(time.monotonic() - begun, 6)
        record = {"event": "error", "time": now, "message": why, "hints": list(hints)}
        event_printer.print_last(sys.stdout, [json.dumps({**record, "outcome": outcome})])
        return
    what = "" if meant is None else f" ({meant})"
    event_printer.print_last(
        sys.stderr,
        [
            f"vfio-migration: error: {event_printer.shortened(why)}{what}",
            *(f"  {hint}" for hint in hints),
        ],
    )
