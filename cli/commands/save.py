"""`vfio-migration save` and `restore`: devices to a file and back."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import arguments as options
from vfio_migration.cli import coordinating, files
from vfio_migration.model.advice import command, operand

if TYPE_CHECKING:
    from vfio_migration.cli.event_printer import Printer
    from vfio_migration.runtime.client.core import ExchangeObserver
    from vfio_migration.runtime.coordinator.save import Saved

_SAVE = """\
Save the state of the device behind each SRC to FILE, which is made as a whole or not at all, with
checksums over everything in it (docs/save-format.md). The devices are stopped afterwards, so that a
restored one is the only one that runs; with --then run they go on.

examples:
  vfio-migration save /run/a.sock a.save
  vfio-migration save a0.sock a1.sock group.save --compress zstd --then run

exit status:
  0    the file is there
  1    it is not: refused beforehand, or failed; the message states whether the devices run
  2    wrong input: nothing was begun
  3    it is not known who runs: a server does not answer and may run
  130  given up by Ctrl-C: the devices run
"""
_RESTORE = """\
Restore the devices that were saved to FILE into the one behind each DST, in the order in which they
were saved, and let them run. The file is looked at from end to end before a device is touched.

examples:
  vfio-migration restore a.save /run/b.sock
  vfio-migration restore group.save b0.sock b1.sock

exit status:
  0    the devices run with the state that was saved
  1    they do not: refused beforehand, or failed
  2    wrong input: the file is damaged or is none, or nobody serves there; nothing was begun
  3    it is not known who runs: a server does not answer and may run
  130  given up by Ctrl-C
"""


def add(commands: Any) -> None:
    """Add both commands to the parser."""
    parser = commands.add_parser("save", help="save devices to a file", description=_SAVE)
    parser.add_argument(
        "paths", metavar="SRC FILE", nargs="+", help="the socket of each device, then the file"
    )
    coordinating.compress_option(parser, "the file")
    parser.add_argument(
        "--then",
        choices=("stop", "run"),
        default="stop",
        help="what becomes of the devices: they are stopped (the default), or run on",
    )
    parser.add_argument("--replace", action="store_true", help="replace a file that is there")
    coordinating.pre_copy_option(parser, "save them")
    coordinating.bound_options(parser)
    coordinating.assertion_options(parser)
    coordinating.common_options(parser, journal=False)
    parser.set_defaults(run=save)
    parser = commands.add_parser(
        "restore", help="restore devices from a file", description=_RESTORE
    )
    parser.add_argument("file", metavar="FILE", help="the file")
    parser.add_argument("sockets", metavar="DST", nargs="+", help="the socket of each device")
    coordinating.bound_options(parser, streams=False)
    coordinating.assertion_options(parser)
    coordinating.common_options(parser, journal=False)
    parser.set_defaults(run=restore)


def save(arguments: argparse.Namespace) -> int:
    """Save; 0 if the file is there."""
    from vfio_migration.runtime.coordinator.save import Saver

    *sources, path = arguments.paths
    if not sources:
        return coordinating.wrong(arguments, f"{path}: give SRC [SRC ...] FILE")
    files.keep_apart(
        {"FILE": path, "--record": arguments.record},
        {"--spec": arguments.spec, "--plans": arguments.plans},
    )

    def work(common: dict[str, Any]) -> Saved:
        settings = coordinating.settings_of(arguments)
        saver = Saver(sources, settings=settings, **common)
        with coordinating.cancelled_by_signals(saver.cancel):
            return saver.run(path, then=arguments.then, replace=arguments.replace)

    hints = [f"run: {_recover(one)}" for one in sources]
    on = [] if arguments.then == "run" else _how_to_go_on(sources, path)
    return _run(arguments, work, f"saved to {path}", hints, _SAVED, on)


def _how_to_go_on(sources: list[str], path: str) -> list[str]:
    """Report that the devices are stopped, and what lets them go on."""
    who, them = ("the device is", "it") if len(sources) == 1 else ("the devices are", "them")
    places = ["DST"] * len(sources)
    return [
        f"{who} stopped, and nothing runs with what was saved",
        *(f"to let {operand(one)} run on: {_recover(one)}" for one in sources),
        f"to restore {them}, here or elsewhere: {command('restore', operand(path), *places)}",
    ]


def _recover(source: str) -> str:
    return command("recover", operand(source), "--keep", "source")


def restore(arguments: argparse.Namespace) -> int:
    """Restore; 0 if the devices run."""
    from vfio_migration.runtime.coordinator.save import Restorer

    files.keep_apart(
        {"--record": arguments.record},
        {"FILE": arguments.file, "--spec": arguments.spec, "--plans": arguments.plans},
    )

    def work(common: dict[str, Any]) -> Saved:
        settings = coordinating.settings_of(arguments)
        restorer = Restorer(arguments.sockets, settings=settings, **common)
        with coordinating.cancelled_by_signals(restorer.cancel):
            return restorer.run(arguments.file)

    hints = ["the file is as it was; restore into the devices again before they are used"]
    return _run(arguments, work, f"restored from {arguments.file}", hints, _RESTORED)


_SAVED = {"source": "the devices run", "lost": "not all of the devices run with their state"}
_RESTORED = {"source": "the devices do not run; the file is as it was"}


def _run(
    arguments: argparse.Namespace,
    work: Callable[[dict[str, Any]], Saved],
    done: str,
    again: list[str],
    outcomes: Mapping[str, str],
    on: Sequence[str] = (),
) -> int:
    spec = options.read_spec(arguments.spec)
    plans = options.read_plans(spec, arguments.plans)

    def saving(observers: list[ExchangeObserver], printer: Printer) -> None:
        from vfio_migration.cli import event_printer
        from vfio_migration.runtime.coordinator import Event

        report_event = event_printer.reporter(printer, arguments, done)
        result = work(
            {"spec": spec, "plans": plans, "report": report_event, "observers": observers}
        )
        report_event(Event("saved", {**result.to_data(), "hints": list(on)}))

    return coordinating.attempt(arguments, spec, saving, lambda: again, outcomes)
