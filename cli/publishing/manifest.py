"""The list of figures of a tree: `vfio-figures.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from vfio_migration.cli.publishing.marked import NAME as MARKER
from vfio_migration.model.errors import Mistake
from vfio_migration.model.load import parse, read_bytes, typed
from vfio_migration.model.spec import Row

NAME: Final = "vfio-figures.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure(Row):
    """One figure, or several that one command makes.

    Attributes:
        make: The words of the command, as they are typed after `vfio-migration`.
        into: A file that takes what the command prints.
        marker: The name of the two lines between which it is put there; without it, it is the whole
            file.
    """

    make: str
    into: str | None = None
    marker: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Row):
    """All figures of a tree. Paths begin in the folder of the manifest.

    Attributes:
        figures: The figures.
        table: The table they are made of where a command names none.
        folders: Folders in which there is nothing but figures.
    """

    figures: tuple[Figure, ...]
    table: str | None = None
    folders: tuple[str, ...] = ()


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        SpecError: It cannot be read, or is not one.
    """
    data = parse(read_bytes(path, "list of figures"), str(path))
    return typed(Manifest, _mistakes, data, str(path))


def _mistakes(data: Mapping[str, object]) -> list[Mistake]:
    found = []
    figures = data.get("figures")
    for index, row in enumerate(figures if isinstance(figures, list) else []):
        if not isinstance(row, dict):
            continue
        if "marker" in row and "into" not in row:
            hint = "add into = the file with the two lines"
            found.append(Mistake(f"figures[{index}].marker", row["marker"], "is in no file", hint))
        marker = row.get("marker")
        if isinstance(marker, str) and not MARKER.fullmatch(marker):
            hint = "take letters, digits, and . _ - between them"
            problem = "cannot be the name of a marker"
            found.append(Mistake(f"figures[{index}].marker", marker, problem, hint))
        if isinstance(row.get("into"), str):
            found += outside(f"figures[{index}].into", row["into"])
    folders = data.get("folders")
    for index, folder in enumerate(folders if isinstance(folders, list) else []):
        if isinstance(folder, str):
            found += outside(f"folders[{index}]", folder)
    return found


def outside(place: str, path: str) -> list[Mistake]:
    """Return what is wrong with a path that does not stay in the folder of the manifest."""
    parts = PurePosixPath(path)
    if not path or "\0" in path:
        return [Mistake(place, path, "is not a path", "write one, as docs/machine.svg")]
    if parts.is_absolute() or ".." in parts.parts:
        hint = "write a path that begins there and stays there"
        return [Mistake(place, path, "leads out of the folder of the manifest", hint)]
    return []
