"""`vfio-migration watch`: the verdict on a table or source, each time it is saved."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vfio_migration.cli import arguments as options
from vfio_migration.cli.files import refuse
from vfio_migration.cli.output import INTERRUPTED, NO, UNKNOWN, WRONG_INPUT, YES, printable

if TYPE_CHECKING:
    from vfio_migration.model import Spec
    from vfio_migration.verifier import Report, Verdict

_HELP = """\
Verify a table or a source now, and again each time it is saved, until Ctrl-C. What is violated is
listed as it is found; then follow the shortest counterexample and the grid. A table that is wrong
gets its error, and is waited for; so is a file that vanishes. A change of prose, or back to what
was verified before, is answered without a solver. With --against, OLD is read again, too.

The exit status is that of the last verdict: 0 proved, 1 violated (newly, with --against), 2 wrong
input, 3 unknown; 130 if there was none.

examples:
  vfio-migration watch my_table.toml
  vfio-migration watch my_table.toml --against builtin    # only what is otherwise
  vfio-migration watch drivers/vfio/vfio_main.c --against git:HEAD
  vfio-migration watch my_table.toml --only T D
"""

POLL_S: Final = 0.1
"""How long nothing happens between two looks at the file; and how long it must have kept still."""
KEPT: Final = 32
"""How many verdicts are kept."""

_Signature = tuple[object, ...]


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "watch", help="verify a table or a source each time it is saved", description=_HELP
    )
    parser.add_argument("spec", metavar="SPEC", help="a table, a source, or a folder with a tree")
    parser.add_argument(
        "--against",
        metavar="OLD",
        help="show only what is otherwise than for this table: a file, a source, or a name",
    )
    options.names_option(parser, "--only", "ID", "obligations (T4) or families (T)")
    options.solving_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Verify until interrupted; return the status of the last verdict."""
    from vfio_migration.verifier import select

    if next(_signatures(arguments.spec), None) is None:
        refuse("SPEC", arguments.spec, "is not a file", "name the file that you are going to edit")
    select(arguments.only)  # a name that is wrong is wrong for every table
    watch = _Watch(arguments)
    try:
        watch.run()
    except KeyboardInterrupt:
        print(flush=True)  # after the ^C of the terminal
    return watch.status


class _SavedAgainError(Exception):
    """The file was saved while it was being verified."""


class _Watch:
    """What is watched, and what was found so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.status = INTERRUPTED
        self._reports: list[Report] = []

    def run(self) -> None:
        """Verify, and wait for the next change; never returns."""
        seen = self._signature()
        while True:
            if seen[0] is None:
                _print(f"{self.arguments.spec}: is not there; waiting for it")
            else:
                try:
                    self._answer(seen)
                except _SavedAgainError:
                    _print("saved again")
            before = seen
            while seen == before:
                time.sleep(POLL_S)
                seen = self._signature()
            seen = self._quiet(seen)

    def _quiet(self, seen: _Signature) -> _Signature:
        """Wait until what is being written is written."""
        while True:
            time.sleep(POLL_S)
            now = self._signature()
            if now == seen:
                return seen
            seen = now

    def _signature(self) -> _Signature:
        """Return what changes if SPEC, which comes first, or OLD is saved."""
        return tuple(
            found
            for name in (self.arguments.spec, self.arguments.against)
            if name is not None
            for found in _signatures(name)
        )

    def _answer(self, seen: _Signature) -> None:
        """Verify what is there, and print what comes of it."""
        from vfio_migration.cli.verdicts import letter_of
        from vfio_migration.model import SpecError
        from vfio_migration.verifier import select
        from vfio_migration.verifier.report import letter as letters

        begun = time.perf_counter()
        try:
            spec, reading = options.read_table(self.arguments.spec)
            against = self.arguments.against
            old = None if against is None else options.read_spec(against)
            before = None if old is None else self._report(old, seen, None)
            known = () if before is None else before.verdicts
            violated = {verdict.id for verdict in known if verdict.outcome == "violated"}
            report = self._report(spec, seen, violated)
        except SpecError as error:
            self.status = WRONG_INPUT
            _print(f"{time.strftime('%H:%M:%S')} error: {error}")
            return
        letter = letter_of(
            self.arguments.spec,
            report,
            select(self.arguments.only),
            against=None if before is None else (against, before),
            reading=reading,
        )
        self.status = {"proved": YES, "violated": NO, "unknown": UNKNOWN}[letter.outcome]
        _print("\n".join(letters.text(letter, 100)))
        took = f"{time.perf_counter() - begun:.2f} s"
        _print(f"{time.strftime('%H:%M:%S')} {letter.outcome} in {took}; Ctrl-C ends")

    def _report(self, spec: Spec, seen: _Signature, known: Container[str] | None) -> Report:
        """Return the verdicts on a table: those that are known, or new ones.

        Args:
            spec: The table.
            seen: The signature of the files it is of; if another one is there, this gives up.
            known: What is violated already and so is not listed; None to list nothing.

        Raises:
            _SavedAgainError: It was saved meanwhile.
        """
        from vfio_migration.cli.progress import Progress
        from vfio_migration.verifier import select, verify
        from vfio_migration.verifier.comparison.changes import rows
        from vfio_migration.verifier.solver.workers import processors

        for report in self._reports:
            is_proved = report.outcome == "proved"
            if report.spec == spec or (is_proved and not any(rows(report.spec, spec))):
                return report
        chosen = select(self.arguments.only)
        with Progress([obligation.id for obligation in chosen], shown=True) as progress:

            def found(verdict: Verdict) -> None:
                if self._signature() != seen:
                    raise _SavedAgainError
                is_new = known is not None and verdict.id not in known
                if is_new and verdict.outcome == "violated":
                    progress.clear()
                    _print(f"violated: {verdict.id} {verdict.title}")
                progress.advance()

            report = verify(
                spec,
                only=self.arguments.only,
                timeout=self.arguments.timeout,
                jobs=self.arguments.jobs or processors(),
                progress=found,
            )
        self._reports = [report, *self._reports[: KEPT - 1]]
        return report


def _signatures(name: str) -> Iterator[object]:
    """Yield what changes if a table or source is saved: nothing, of what is no file."""
    from vfio_migration.model.history import named
    from vfio_migration.model.sources.files import GIT, IN_A_TREE

    is_file = os.sep in name or not (name.startswith(GIT) or named(name))
    if is_file:
        path = Path(name)
        places = [path / place for place in IN_A_TREE] if path.is_dir() else []
        yield from map(_signature, (path, *places))


def _signature(path: Path) -> object:
    """Return what changes if a file is written or replaced; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _print(text: str) -> None:
    print(printable(text), flush=True)
