"""`vfio-migration publish`: the figures of a tree, written anew or compared."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfio_migration.cli import files

if TYPE_CHECKING:
    from vfio_migration.cli.publishing.making import Made
    from vfio_migration.cli.publishing.manifest import Figure, Manifest
    from vfio_migration.cli.publishing.places import Place
    from vfio_migration.model import Mistake

_HELP = """\
Write the pictures, tables and pieces of code that a tree embeds: those that its vfio-figures.toml
lists. With --check, compare them with what is there, print the difference, and write nothing.

  [[figures]]
  make = "diagram --flags STOP_COPY,P2P -o docs/machine.svg"

  [[figures]]
  make = "tables --only next-steps --format rst --level 3"
  into = "docs/migration.rst"
  marker = "next-steps"

A figure is a command as it is typed: diagram, tables, table, route or generate. It writes its own
files, or what it prints is put into a file: between the lines with `vfio-figure: begin next-steps`
and `vfio-figure: end next-steps`, which a comment is made of, or as the whole file. Paths begin in
the folder of the manifest and stay there. Either everything is written or nothing.

examples:
  vfio-migration publish
  vfio-migration publish --check                 # 1 if anything differs, is missing or stray
  vfio-migration publish Documentation/vfio-figures.toml
"""


def add(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command to the parser.

    Args:
        commands: The subparsers of the whole.
        whole: Makes the parser of the whole command line, which reads the commands of figures.
    """
    parser = commands.add_parser(
        "publish", help="write or check the figures that a tree embeds", description=_HELP
    )
    parser.add_argument(
        "manifest",
        metavar="MANIFEST",
        nargs="?",
        default="vfio-figures.toml",
        help="the list of figures (default: vfio-figures.toml)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 if what is there is not up to date"
    )
    parser.set_defaults(run=run, whole=whole)


def run(arguments: argparse.Namespace) -> int:
    """Write the figures, or compare them; 0 if they are what they should be."""
    from vfio_migration.cli.output import NO, YES, printable
    from vfio_migration.cli.publishing import places as published
    from vfio_migration.cli.publishing.manifest import read_manifest
    from vfio_migration.model import Mistake, SpecError
    from vfio_migration.runtime.files.atomic_file import CannotWriteError

    path = Path(arguments.manifest)
    if not path.exists():
        hint = "write one, as `vfio-migration publish --help` shows it, or name its place"
        files.refuse("MANIFEST", arguments.manifest, "does not exist", hint)
    manifest = read_manifest(path)
    with contextlib.chdir(path.parent):
        places = _places(manifest, path, arguments.whole())
        for place in places.values():
            place.look()
        stray = list(published.strays(manifest.folders, places))
        differing = [place for place in places.values() if place.differs]
        if arguments.check:
            for place in differing:
                print(printable(place.difference()))
            for name in stray:
                print(printable(f"{name}: is not a figure, and in a folder of figures"))
            count = len(differing) + len(stray)
            if count:
                again = " ".join(["vfio-migration publish", *_named(arguments.manifest)])
                what = "file differs" if count == 1 else "files differ"
                in_the_way = stray or any(place.mistakes for place in differing)
                print(f"{count} {what}" + ("" if in_the_way else f"; write with: {again}"))
            return NO if count else YES
        mistakes = [one for place in differing for one in place.mistakes]
        hint = "remove it, or list what makes it"
        mistakes += [Mistake(name, None, "is not a figure", hint) for name in stray]
        if mistakes:
            raise SpecError(mistakes, str(path) if len(mistakes) > 1 else None)
        try:
            published.write(differing)
        except CannotWriteError as error:
            problem = f"{os.path.relpath(error.path)} {error.problem}"
            files.refuse("MANIFEST", arguments.manifest, problem, error.hint)
    for place in differing:
        print(printable(f"{place.path}: written"))
    print(f"{len(differing)} of {len(places)} files with figures written")
    return YES


def _places(manifest: Manifest, path: Path, parser: argparse.ArgumentParser) -> dict[str, Place]:
    """Make every figure; return the files they go to, by their paths.

    Raises:
        SpecError: Figures cannot be made, or are in each other's way.
    """
    from vfio_migration.cli.publishing.making import make
    from vfio_migration.model import Mistake, SpecError

    places: dict[str, Place] = {}
    mistakes: list[Mistake] = []
    read: dict[str, str] = {os.path.realpath(path.name): "the manifest"}
    for index, figure in enumerate(manifest.figures):
        where = f"figures[{index}]"
        try:
            with tempfile.TemporaryDirectory() as scratch:
                made = make(figure, where, manifest.table, Path(scratch).resolve(), parser)
            read |= {os.path.realpath(name): f"read by {where}" for name in made.read if name}
            mistakes += _add(places, figure, where, made)
        except SpecError as error:
            mistakes += error.mistakes
    for place in places.values():
        if (what := read.get(os.path.realpath(place.path))) is not None:
            hint = "name another file"
            mistakes.append(Mistake(place.path, None, f"is written, and is {what}", hint))
    if mistakes:
        raise SpecError(mistakes, str(path))
    return places


def _add(places: dict[str, Place], figure: Figure, where: str, made: Made) -> list[Mistake]:
    """Put what was made to its places; return what is wrong with that."""
    from vfio_migration.cli.publishing.places import Place
    from vfio_migration.model import Mistake

    found = dict(made.files)
    if figure.into is not None:
        into = os.path.normpath(figure.into)
        if figure.marker is None:
            found[into] = made.printed
        else:
            place = places.setdefault(into, Place(into))
            try:
                text = made.printed.decode()
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                hint = "give it a file of its own, with -o"
                return [Mistake(f"{where}.make", figure.make, "is not text", hint)]
            if place.whole is not None or figure.marker in place.parts:
                return [_twice(where, f"{into}: {figure.marker}")]
            place.parts[figure.marker] = text
    for name, content in found.items():
        if name in places:
            return [_twice(where, name)]
        places[name] = Place(name, whole=content)
    return []


def _twice(where: str, place: str) -> Mistake:
    from vfio_migration.model import Mistake

    hint = "remove one of the two, or name another file"
    return Mistake(where, place, "is written by a figure before it too", hint)


def _named(manifest: str) -> list[str]:
    return [] if manifest == "vfio-figures.toml" else [manifest]
