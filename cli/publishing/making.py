"""A figure made: its command is run in this process, and whatever it writes is caught."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

from vfio_migration.cli.arguments import Output
from vfio_migration.cli.output import NO, YES
from vfio_migration.cli.publishing.manifest import Figure, outside
from vfio_migration.model.errors import Mistake, SpecError

COMMANDS: Final = ("diagram", "tables", "table", "route", "generate")
"""What may make a figure: what writes nothing but its outputs, and starts nothing."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a command made.

    Attributes:
        files: What it wrote, by the path from the folder of the manifest.
        printed: What it printed.
        read: The arguments that could name a file it read.
    """

    files: Mapping[str, bytes]
    printed: bytes
    read: tuple[str, ...]


def make(
    figure: Figure, place: str, table: str | None, scratch: Path, parser: argparse.ArgumentParser
) -> Made:
    """Make a figure in the current folder, which is that of its manifest.

    Args:
        figure: The figure.
        place: Where it is in the manifest, for messages.
        table: What stands in for the table if the command names none.
        scratch: An empty folder that takes what is written.
        parser: The parser of the whole command line.

    Raises:
        SpecError: The command is wrong, or ends with an error.
    """
    arguments = _parsed(figure, place, parser)
    if table is not None and getattr(arguments, "spec", table) is None:
        arguments.spec = table
    outputs = {key: value for key, value in vars(arguments).items() if isinstance(value, Output)}
    _check(figure, place, outputs)
    for key, value in outputs.items():
        (scratch / value).parent.mkdir(parents=True, exist_ok=True)
        setattr(arguments, key, Output(scratch / value))
    printed = _run(arguments, figure, place, scratch)
    files = {
        path.relative_to(scratch).as_posix(): path.read_bytes()
        for path in sorted(scratch.rglob("*"))
        if path.is_file()
    }
    read = tuple(
        value
        for value in vars(arguments).values()
        if isinstance(value, str) and not isinstance(value, Output)
    )
    return Made(files, printed, read)


def _parsed(figure: Figure, place: str, parser: argparse.ArgumentParser) -> argparse.Namespace:
    try:
        words = shlex.split(figure.make)
    except ValueError as error:
        _refuse(place, figure, f"is not a command line: {error}", "close what was opened")
    if words[:1] == ["vfio-migration"]:
        hint = "leave that word out"
        _refuse(place, figure, "begins with the name of the program, which is understood", hint)
    if not words or words[0] not in COMMANDS:
        hint = f"begin it with one of {', '.join(COMMANDS)}"
        _refuse(place, figure, "is not the command of a figure", hint)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            arguments, strange = parser.parse_known_args(words)
    except SystemExit as ended:
        if not ended.code:
            _refuse(place, figure, "prints how a command is used, and makes nothing", None)
        last = complaint.getvalue().strip().split("\n")[-1]
        _refuse(place, figure, re.sub(r"^vfio-migration.*?: error: ", "", last), None)
    if strange:
        _refuse(place, figure, f"unrecognized arguments: {' '.join(strange)}", None)
    return arguments


def _check(figure: Figure, place: str, outputs: Mapping[str, str]) -> None:
    mistakes = [one for value in outputs.values() for one in outside(f"{place}.make", value)]
    if mistakes:
        raise SpecError(mistakes)
    if figure.into is None and not outputs:
        _refuse(place, figure, "is put nowhere", "add -o FILE to it, or a key into = its file")
    if figure.into is not None and "output" in outputs:
        _refuse(place, figure, "is written with -o and put into a file", "leave out one of them")


def _run(arguments: argparse.Namespace, figure: Figure, place: str, scratch: Path) -> bytes:
    """Run a command; return what it prints."""

    def words(mistake: Mistake) -> str:
        return str(replace(mistake, hint=None)).replace(f"{scratch}/", "")

    run: Callable[[argparse.Namespace], int] = arguments.run
    page = io.BytesIO()
    # What a command prints must not depend on where this process prints to.
    text = io.TextIOWrapper(page, encoding="utf-8", newline="\n", write_through=True)
    try:
        with contextlib.redirect_stdout(text):
            status = run(arguments)
            text.flush()
    except SpecError as error:
        raise SpecError(
            [Mistake(f"{place}.make", figure.make, words(one), one.hint) for one in error.mistakes]
        ) from error
    # A request that is refused is a figure as well as one that is not.
    if status != YES and not (status == NO and arguments.command == "route"):
        _refuse(place, figure, f"ends with the exit status {status}", "run it by itself")
    return page.getvalue()


def _refuse(place: str, figure: Figure, problem: str, hint: str | None) -> NoReturn:
    raise SpecError([Mistake(f"{place}.make", figure.make, problem, hint)])
