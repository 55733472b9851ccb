"""The entry point: arguments in, exit status out.

Exit status: 0 yes, 1 no (refused, violated), 2 wrong input, 3 unknown or timed out. With `--json`
every answer, a complaint about wrong input included, is one object on standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from vfio_migration.cli.output import (
    FULL,
    INTERRUPTED,
    WRONG_INPUT,
    YES,
    print_error,
    print_json,
    with_advice,
)

_EPILOG = """\
exit status:
  0    yes: routed, proved, written, migrated
  1    no: refused, violated, not migrated
  2    wrong input: the message names the place, the value and the way out
  3    unknown: the solver gave up, or a server does not answer and may run
  130  given up by Ctrl-C

`vfio-migration COMMAND --help` explains a command and shows examples.
"""


class Parser(argparse.ArgumentParser):
    """argparse, but each command's help keeps its examples as they are written."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        # An abbreviation that works today breaks the day a second option begins like it.
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Report what is wrong with the arguments and exit with 2."""
        self.refuse(message, events=bool(self.get_default("events")))

    def refuse(self, message: str, *, events: bool) -> NoReturn:
        """Do the same, for a command that prints events or one that does not."""
        if "--json" in sys.argv[1:]:
            _print_error_object(message, [], events=events)
        else:
            self.print_usage(sys.stderr)
            print_error(message, self.prog)
        raise SystemExit(WRONG_INPUT)

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            print(message, end="")  # argparse would hide that it fails
        else:
            super()._print_message(message, file)


def parser() -> Parser:
    """Build the parser of the whole command line."""
    from vfio_migration.cli.commands import (
        check_trace,
        completion,
        conform,
        diagram,
        diff,
        generate,
        import_,
        migrate,
        mutate,
        publish,
        recover,
        replay,
        report,
        route,
        save,
        serve,
        status,
        table,
        tables,
        verify,
        watch,
    )

    top = Parser(
        prog="vfio-migration",
        description="The VFIO v2 device-migration state machine: one table, proved, drawn and run.",
        epilog=_EPILOG,
    )
    top.add_argument("--version", action="version", version=f"vfio-migration {_version()}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (
        route,
        verify,
        watch,
        diff,
        import_,
        mutate,
        replay,
        check_trace,
        conform,
        diagram,
        table,
        tables,
        report,
        serve,
        status,
        migrate,
        recover,
        save,
        generate,
    ):
        module.add(commands)
    publish.add(commands, parser)
    completion.add(commands, parser)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    _fill_in()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.encoding.lower() == "utf-8":
        # In UTF-8 this touches the bytes of file names that are not text, and nothing else.
        with contextlib.suppress(OSError):  # a descriptor that was exchanged cannot seek, say
            sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _answer(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Point stdout away so that the interpreter's own
        # flush at exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return YES
    except OSError as error:
        if error.errno in FULL:  # of what is imported before the arguments are known
            print_error(error.strerror or str(error))
            return WRONG_INPUT
        # Only the standard output is written without a check of its own: its disk is full.
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename:
            raise
        print_error(f"the output cannot be written: {error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG_INPUT
    except KeyboardInterrupt:
        from vfio_migration.cli import event_printer

        # The reader of the output may have stalled: what is left of it is not waited for.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        event_printer.print_last(sys.stderr, ["vfio-migration: interrupted"])
        return INTERRUPTED
    return status


def _fill_in() -> None:
    """Put /dev/null where a standard stream was closed when this process was started.

    Its number would go to the next file that is opened, a journal, say, and what a library writes
    to "standard error" would end there.
    """
    if sys.stdin is None:  # it stays None: a command that reads it reports that it is closed
        _null(os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(_null(os.O_WRONLY), "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(_null(os.O_WRONLY), "w", encoding="utf-8")  # noqa: SIM115


def _null(mode: int) -> int:
    fd = os.open(os.devnull, mode)
    os.set_inheritable(fd, fd <= 2)  # as the one would be that is missing
    return fd


def _answer(arguments: Sequence[str] | None) -> int:
    """Run the command; report what is wrong with its input."""
    from vfio_migration.model import SpecError
    from vfio_migration.model.extras import explanation

    try:
        top = parser()
        chosen, strange = top.parse_known_args(arguments)
        if strange:  # the whole parser complains of these, which knows nothing of the command
            top.refuse(f"unrecognized arguments: {' '.join(strange)}", events="events" in chosen)
    except SystemExit:
        sys.stdout.flush()  # here, where somebody sees that it fails
        raise
    run: Callable[[argparse.Namespace], int] = chosen.run
    try:
        return run(chosen)
    except SpecError as error:
        message, mistakes = str(error), [_data(mistake) for mistake in error.mistakes]
    except ImportError as error:
        # Only what an extra brings may be absent; anything else is a fault of ours and shows.
        problem = explanation(error)
        if problem is None:
            raise
        message, mistakes = problem, []
    except OSError as error:
        if error.errno not in FULL:
            raise
        message, mistakes = error.strerror or str(error), []
    if getattr(chosen, "json", False):
        try:
            _print_error_object(message, mistakes, events="events" in chosen)
            sys.stdout.flush()
        except BrokenPipeError:
            # A reader that has closed its end does not make the input right.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    else:
        print_error(message)
    return WRONG_INPUT


def _print_error_object(message: str, mistakes: list[dict[str, object]], *, events: bool) -> None:
    """Print a complaint as the command prints everything else.

    Args:
        message: The complaint.
        mistakes: The same, one by one.
        events: The command prints one object a line for each event.
    """
    message = with_advice(message)
    if events:
        error = {"event": "error", "time": 0.0, "message": message, "hints": [], "outcome": None}
        print(json.dumps(error | {"mistakes": mistakes}))
    else:
        print_json({"error": {"message": message, "mistakes": mistakes}})


def _data(mistake: Any) -> dict[str, object]:
    value = mistake.value
    return {
        "place": mistake.place,
        "value": value if isinstance(value, str | int | float | bool | None) else str(value),
        "problem": mistake.problem,
        "hint": mistake.hint,
    }


def _version() -> str:
    from importlib.metadata import version

    return version("vfio-migration")


if __name__ == "__main__":
    raise SystemExit(main())
