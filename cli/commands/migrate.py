"""`vfio-migration migrate`: move devices from one set of servers to another."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import files
from vfio_migration.cli import journal_option as journals
from vfio_migration.model.advice import command, operand
from vfio_migration.model.errors import why

if TYPE_CHECKING:
    from vfio_migration.cli.event_printer import Printer
    from vfio_migration.model import Spec
    from vfio_migration.runtime.client.core import Watch
    from vfio_migration.runtime.client.recording import Recording
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
  1    it does not: refused beforehand, or failed; the message says who runs
  2    wrong input: nothing was begun
  3    it cannot be told who runs: a server does not answer and may run
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
        type=_time,
        default=0.3,
        help="for how long the devices may stand still: 300ms (the default), 1.5s",
    )
    parser.add_argument(
        "--max-passes",
        metavar="N",
        type=_count,
        default=30,
        help="stop them after N passes of each, even if it takes longer than that (30); the last "
        "pass, while they stand still, is none of these",
    )
    parser.add_argument(
        "--if-slow",
        choices=("stop", "cancel"),
        default="stop",
        help="what to do if they change faster than they can be transferred (stop)",
    )
    bounds(parser)
    parser.add_argument(
        "--bandwidth",
        metavar="RATE",
        type=_rate,
        help="transfer no more bytes a second than this: 500M, 1.5G, 200000 (M is 2 to the 20th)",
    )
    parser.add_argument(
        "--compress",
        metavar="CODEC",
        choices=("none", "zlib", "zstd"),
        default="none",
        help="compress the stream on its way: none (the default), zlib, zstd",
    )
    parser.add_argument(
        "--no-pre-copy",
        action="store_true",
        help="stop the devices first and transfer all of their state then",
    )
    asserting(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="look at the devices, print the plan, do nothing"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="with --dry-run: draw the plan, as .svg, .png, .pdf, .dot or .mmd",
    )
    common(parser)
    parser.set_defaults(run=run)


def bounds(parser: argparse.ArgumentParser, *, streams: bool = True) -> None:
    """Add the options that bound what a device can make of a transfer, whatever it says.

    Args:
        parser: The parser.
        streams: Streams are read from devices, and not from a file.
    """
    what = (
        "hold the devices still for no longer than this; then it is given up, and they run (600s)"
        if streams
        else "how long it may take, until the devices run (600s)"
    )
    parser.add_argument("--max-downtime", metavar="TIME", type=_time, default=600.0, help=what)
    if not streams:
        return
    parser.add_argument(
        "--max-pre-copy",
        metavar="TIME",
        type=_time,
        default=3600.0,
        help="stop the devices after so long, even if more passes would bring something (3600s)",
    )
    parser.add_argument(
        "--max-bytes",
        metavar="SIZE",
        type=_size,
        help="transfer no more than this of any device, all passes together: 64G, 1.5T (1T)",
    )


def asserting(parser: argparse.ArgumentParser) -> None:
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


def common(parser: argparse.ArgumentParser, *, journal: bool = True) -> None:
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
        type=_time,
        default=30.0,
        help="how long a server may take to answer (30s)",
    )
    options.spec_option(parser)
    parser.set_defaults(events=True)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the outcome")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each event"
    )


_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kKMG]?)(?:i?B)?(?:/s)?", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKMGT]?)(?:i?B)?", re.ASCII)
_UNITS = {"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _time(text: str) -> float:
    found = _TIME.fullmatch(text)
    value = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time; 300ms and 1.5s are")
    return value


def _rate(text: str) -> int:
    found = _RATE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= value < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text} is no rate; 500M and 200000 are")
    return int(value)


def _size(text: str) -> int:
    found = _SIZE.fullmatch(text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1 <= value < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text} is no size; 64G and 200000 are")
    return int(value)


def _count(text: str) -> int:
    if not (re.fullmatch("[0-9]{1,7}", text) and 0 < int(text) < 1 << 20):
        raise argparse.ArgumentTypeError(f"{text} is no number of passes; 30 is")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Migrate; 0 if the destinations run."""
    from vfio_migration.runtime.coordinator import Coordinator

    spec = options.read_spec(arguments.spec)
    sockets = arguments.sockets
    if len(sockets) % 2:
        return wrong(arguments, f"{sockets[-1]}: has no DST: give SRC DST [SRC DST ...]")
    if arguments.output is not None and (problem := _cannot_draw(arguments)):
        return wrong(arguments, f"-o {arguments.output}: {problem}")
    pairs = list(zip(sockets[::2], sockets[1::2], strict=True))
    journal = journals.to_write(arguments)
    files.keep_apart(
        {"--journal": journal, "--record": arguments.record, "--output": arguments.output},
        {"--spec": arguments.spec},
    )
    settings = _settings(arguments)

    def work(watches: list[Watch], printer: Printer) -> None:
        from vfio_migration.cli import event_printer as telling

        coordinator = Coordinator(
            pairs,
            spec=spec,
            settings=settings,
            report=telling.teller(printer, arguments),
            watches=watches,
            journal=journal,
        )
        with obeying(coordinator.cancel):
            coordinator.run()

    def dry(watches: list[Watch], _printer: Printer) -> None:
        _dry_run(arguments, spec, pairs, settings, watches)

    def again() -> list[str]:
        if not journals.stands(arguments):
            return []
        elsewhere = [] if arguments.journal is None else ["--journal", operand(journal)]
        return [f"run: {command('recover', *map(operand, sockets), *elsewhere)}"]

    return attempt(arguments, spec, dry if arguments.dry_run else work, again, pairs=pairs)


def attempt(
    arguments: argparse.Namespace,
    spec: Spec,
    work: Callable[[list[Watch], Printer], None],
    again: Callable[[], list[str]],
    outcomes: Mapping[str, str] | None = None,
    pairs: Iterable[tuple[str, str]] = (),
) -> int:
    """Do something with a coordinator; say last of all what went wrong; return the exit status.

    Args:
        arguments: Say how to tell of it, and whether it is recorded.
        spec: The table.
        work: What is done. It is given who watches and where to print.
        again: Says what to do after it was interrupted and settled nothing.
        outcomes: What an outcome means to the user.
        pairs: Which destination is given the state of which source, for the recording.
    """
    from vfio_migration.cli import event_printer as telling
    from vfio_migration.cli.main import FULL, NO, UNKNOWN, WRONG_INPUT, YES
    from vfio_migration.runtime.coordinator import CannotMigrateError, MigrationFailedError

    status, begun = YES, time.monotonic()
    with contextlib.ExitStack() as stack:
        recording = recording_of(arguments, spec, stack)
        if recording is not None:
            for source, destination in pairs:
                recording.pair(source, destination)
        try:
            with telling.printer(arguments) as printer:
                work([] if recording is None else [recording], printer)
        except CannotMigrateError as error:
            _say(arguments, error.why, error.hints, begun=begun)
            status = NO if error.refused else WRONG_INPUT
        except MigrationFailedError as error:
            outcome = error.outcome
            meant = {**_OUTCOMES, **(outcomes or {})}[outcome]
            _say(arguments, error.why, error.hints, outcome, meant, begun=begun)
            status = {"destination": YES, "undecided": UNKNOWN}.get(outcome, NO)
            if error.cancelled and outcome == "source":
                status = _INTERRUPTED
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever is impatient reads this, too
            _say(
                arguments,
                "interrupted: it may not have come to its end",
                again(),
                begun=begun,
            )
            status = _INTERRUPTED
        except OSError as error:
            if error.errno not in FULL:
                raise
            hints = again()
            _say(arguments, error.strerror or str(error), hints, begun=begun)
            status = UNKNOWN if hints else WRONG_INPUT
    if recording is not None and recording.error is not None:
        why = f"vfio-migration: the recording is not complete: {recording.error}"
        telling.say(sys.stderr, [why])
    return status


def _settings(arguments: argparse.Namespace) -> Settings:
    from vfio_migration.runtime.coordinator import Settings
    from vfio_migration.runtime.files.compression import codec

    codec(arguments.compress)  # an absent library is said now, not in the middle
    return Settings(
        migration="offline" if arguments.no_pre_copy else "live",
        downtime=arguments.downtime,
        max_passes=arguments.max_passes,
        if_slow=arguments.if_slow,
        bandwidth=arguments.bandwidth,
        codec=arguments.compress,
        timeout_s=arguments.timeout_s,
        max_downtime=arguments.max_downtime,
        max_pre_copy=arguments.max_pre_copy,
        max_bytes=arguments.max_bytes,
        asserted=tuple(dict.fromkeys(arguments.asserted)),
    )


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
def obeying(cancel: Callable[[], object]) -> Iterator[None]:
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
    from vfio_migration.cli.main import WRONG_INPUT

    _say(arguments, message, ())
    return WRONG_INPUT


TWICE = "{}: is named twice; each socket is one end of one device"
_INTERRUPTED = 130
_OUTCOMES = {
    "source": "the source runs",
    "destination": "the destination runs with the whole state all the same",
    "lost": "the state is lost",
    "undecided": "it cannot be told who runs",
}


def _say(
    arguments: argparse.Namespace,
    why: str,
    hints: Sequence[str],
    outcome: str | None = None,
    meant: str | None = None,
    *,
    begun: float | None = None,
) -> None:
    from vfio_migration.cli import event_printer as telling
    from vfio_migration.cli.main import advised

    why = advised(why)
    if arguments.json:
        import json

        now = 0.0 if begun is None else round(time.monotonic() - begun, 6)
        said = {"event": "error", "time": now, "message": why, "hints": list(hints)}
        telling.say(sys.stdout, [json.dumps({**said, "outcome": outcome})])
        return
    what = "" if meant is None else f" ({meant})"
    telling.say(
        sys.stderr,
        [
            f"vfio-migration: error: {telling.shortened(why)}{what}",
            *(f"  {hint}" for hint in hints),
        ],
    )


def _dry_run(
    arguments: argparse.Namespace,
    spec: Spec,
    pairs: list[tuple[str, str]],
    settings: Settings,
    watches: list[Watch],
) -> None:
    """Say what would be done with these devices, and draw it if that is asked for."""
    from pathlib import Path

    from vfio_migration.cli.commands import diagram
    from vfio_migration.cli.main import printable
    from vfio_migration.diagrams import Pair, PlanError, migration_view, render, to_text
    from vfio_migration.runtime.client import PeerDisconnectedError
    from vfio_migration.runtime.coordinator import CannotMigrateError, Coordinator

    coordinator = Coordinator(pairs, spec=spec, settings=settings, watches=watches)
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
        view = migration_view(spec, group, settings.migration, asserted=settings.asserted)
    except PlanError as error:
        raise CannotMigrateError(str(error), refused=True) from error
    if arguments.output is not None:
        form = diagram.format_of(arguments.output, None)
        files.write_whole("--output", Path(arguments.output), render(view, form))
    if arguments.json:
        print(render(view, "json").decode(), end="")
    else:
        print(printable(to_text(view, shutil.get_terminal_size().columns)), end="")
        if arguments.output is not None:
            print(printable(f"\n{arguments.output}: the same as a picture"))


def _cannot_draw(arguments: argparse.Namespace) -> str | None:
    """Say why there will be no picture of that name."""
    from vfio_migration.cli.commands import diagram
    from vfio_migration.model import SpecError

    if not arguments.dry_run:
        return "goes with --dry-run"
    try:
        diagram.format_of(arguments.output, None)
    except SpecError:
        return "its ending says no format; end it in .svg, .png, .pdf, .dot or .mmd"
    return None
