"""`vfio-migration migrate`: move devices from one set of servers to another."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from vfio_migration.model import Spec
    from vfio_migration.runtime.coordinator import Settings
    from vfio_migration.runtime.recording import Recording

_HELP = """\
Migrate the device behind each SRC to the one behind the DST after it. The devices run while most of
their state is transferred; several are moved together, by the plan that is proved for groups that
do peer-to-peer DMA (docs/groups.md). Whatever fails, either the destination runs with the whole
state or the source does. Ctrl-C gives the migration up, and the source runs on.

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
  130  given up by Ctrl-C: the source runs
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
        help="stop them after N passes, even if it takes longer than that (30)",
    )
    parser.add_argument(
        "--if-slow",
        choices=("stop", "cancel"),
        default="stop",
        help="what to do if they change faster than they can be transferred (stop)",
    )
    parser.add_argument(
        "--bandwidth",
        metavar="RATE",
        type=_rate,
        help="transfer no more bytes a second than this: 500M, 1.5G, 200000",
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
        "--patience",
        metavar="TIME",
        type=_time,
        default=30.0,
        help="how long a server may take to answer (30s)",
    )
    options.spec_option(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the outcome")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line for each event"
    )


_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)([kKMG]?)(?:i?B)?(?:/s)?")
_UNITS = {"": 1, "k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _time(text: str) -> float:
    found = _TIME.fullmatch(text)
    value = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is no time; 300ms and 1.5s are")
    return value


def _rate(text: str) -> int:
    found = _RATE.fullmatch(text)
    value = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 0 < value < 1 << 60:
        raise argparse.ArgumentTypeError(f"{text} is no rate; 500M and 200000 are")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 20):
        raise argparse.ArgumentTypeError(f"{text} is no number of passes")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Migrate; 0 if the destinations run."""
    from vfio_migration.cli import telling
    from vfio_migration.cli.main import YES
    from vfio_migration.runtime.coordinator import CannotMigrate, Coordinator, MigrationFailed
    from vfio_migration.runtime.coordinator.ledger import beside

    spec = options.read_spec(arguments.spec)
    sockets = arguments.sockets
    if len(sockets) % 2:
        return wrong(arguments, f"{sockets[-1]}: has no DST: give SRC DST [SRC DST ...]")
    if arguments.output and not arguments.dry_run:
        return wrong(arguments, f"-o {arguments.output}: goes with --dry-run")
    pairs = list(zip(sockets[::2], sockets[1::2], strict=True))
    with contextlib.ExitStack() as stack:
        recording = None
        try:
            settings = _settings(arguments)
            recording = recording_of(arguments, spec, stack)
            if arguments.dry_run:
                return _dry_run(arguments, spec, pairs, settings)
            printer = stack.enter_context(telling.printer(arguments))
            coordinator = Coordinator(
                pairs,
                spec=spec,
                settings=settings,
                report=telling.teller(printer, arguments),
                watches=[] if recording is None else [recording],
                journal=path_of(arguments.journal) or beside(pairs[0][0]),
            )
            with obeying(coordinator.cancel):
                coordinator.run()
        except CannotMigrate as error:
            stack.close()
            return refused(arguments, error)
        except MigrationFailed as error:
            stack.close()
            return failed(arguments, error)
        finally:
            complain(recording)
    return YES


def path_of(text: str | None) -> Path | None:
    """Return a path, if one was given."""
    from pathlib import Path

    return None if text is None else Path(text)


def _settings(arguments: argparse.Namespace) -> Settings:
    from vfio_migration.runtime.compression import codec
    from vfio_migration.runtime.coordinator import Settings

    codec(arguments.compress)  # an absent library is said now, not in the middle
    return Settings(
        migration="offline" if arguments.no_pre_copy else "live",
        downtime=arguments.downtime,
        max_passes=arguments.max_passes,
        if_slow=arguments.if_slow,
        bandwidth=arguments.bandwidth,
        codec=arguments.compress,
        patience=arguments.patience,
    )


def recording_of(
    arguments: argparse.Namespace, spec: Spec, stack: contextlib.ExitStack
) -> Recording | None:
    """Begin the recording that was asked for, if one was."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.errors import Mistake
    from vfio_migration.runtime.recording import Recording

    if arguments.record is None:
        return None
    try:
        return stack.enter_context(Recording(arguments.record, spec))
    except (OSError, ValueError) as error:
        problem = f"cannot be written: {getattr(error, 'strerror', None) or error}"
        raise SpecError([Mistake("--record", arguments.record, problem, None)]) from None


def complain(recording: Recording | None) -> None:
    """Say if a recording is not complete."""
    if recording is not None and recording.error is not None:
        print(f"vfio-migration: the recording is not complete: {recording.error}", file=sys.stderr)


@contextlib.contextmanager
def obeying(cancel: Callable[[], object]) -> Iterator[None]:
    """Give up on SIGINT and SIGTERM; the second SIGINT does not wait for that."""

    def on(_number: int, _frame: object) -> None:
        cancel()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wrong(arguments: argparse.Namespace, message: str) -> int:
    """Complain about what was asked for; return the exit status."""
    from vfio_migration.cli.main import WRONG_INPUT

    _say(arguments, message, (), None)
    return WRONG_INPUT


def refused(arguments: argparse.Namespace, error: Any) -> int:
    """Say why nothing was begun; return the exit status."""
    from vfio_migration.cli.main import NO, WRONG_INPUT

    _say(arguments, error.why, error.hints, None)
    return NO if error.refused else WRONG_INPUT


def failed(arguments: argparse.Namespace, error: Any) -> int:
    """Say what became of it; return the exit status."""
    from vfio_migration.cli.main import NO, UNKNOWN, YES

    _say(arguments, error.why, error.hints, error.outcome)
    if error.cancelled and error.outcome == "source":
        return 130
    return {"destination": YES, "undecided": UNKNOWN}.get(error.outcome, NO)


_OUTCOMES = {
    "source": "the source runs",
    "destination": "the destination runs with the whole state all the same",
    "lost": "the state is lost",
    "undecided": "it cannot be told who runs",
}


def _say(
    arguments: argparse.Namespace, why: str, hints: tuple[str, ...], outcome: str | None
) -> None:
    if arguments.json:
        import json

        said = {"event": "error", "message": why, "hints": list(hints), "outcome": outcome}
        print(json.dumps(said), flush=True)
        return
    what = "" if outcome is None else f" ({_OUTCOMES[outcome]})"
    print(f"vfio-migration: error: {why}{what}", file=sys.stderr)
    for hint in hints:
        print(f"  {hint}", file=sys.stderr)


def _dry_run(
    arguments: argparse.Namespace, spec: Spec, pairs: list[tuple[str, str]], settings: Settings
) -> int:
    """Say what would be done with these devices, and draw it if that is asked for."""
    from pathlib import Path

    from vfio_migration.cli import diagram
    from vfio_migration.cli.main import YES
    from vfio_migration.diagrams import Pair, PlanError, migration_view, render, to_text
    from vfio_migration.runtime.coordinator import CannotMigrate, Coordinator

    coordinator = Coordinator(pairs, spec=spec, settings=settings)
    group = [
        Pair(
            one.where,
            two.where,
            ",".join(one.machine.names),
            ",".join(two.machine.names),
            one.state,
            two.state,
        )
        for one, two in coordinator.survey()
    ]
    try:
        view = migration_view(spec, group, settings.migration)
    except PlanError as error:
        raise CannotMigrate(str(error), refused=True) from error
    if arguments.output is not None:
        form = diagram.format_of(arguments.output, None)
        diagram.write_whole(Path(arguments.output), render(view, form))
    if arguments.json:
        print(render(view, "json").decode(), end="")
    else:
        print(to_text(view, shutil.get_terminal_size().columns), end="")
        if arguments.output is not None:
            print(f"\n{arguments.output}: the same as a picture")
    return YES
