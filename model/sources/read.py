"""Sources in, a table out: which file is what, and where each fact came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import from_data
from vfio_migration.model.sources import libvfio_user, linux
from vfio_migration.model.sources.c_source import CFile
from vfio_migration.model.sources.derive import derive, failed_state, to_toml
from vfio_migration.model.spec import Spec

IN_A_TREE: Final = (
    "drivers/vfio/vfio_main.c",
    "drivers/vfio/vfio.c",
    "include/uapi/linux/vfio.h",
    "lib/migration.c",
)
"""The files that are read of a folder: a tree of Linux (vfio.c before 6.0), or of libvfio-user."""


def is_source(path: str) -> bool:
    """Say whether a path stands for a source and not for a table."""
    return path.endswith((".c", ".h")) or Path(path).is_dir()


def read(paths: Iterable[str], base: Spec) -> dict[str, Any]:
    """Read sources into the data of a table.

    Args:
        paths: Files, or folders with the tree of Linux or libvfio-user.
        base: The table that everything is from that does not stand in the sources.

    Raises:
        SpecError: A source cannot be read, or says what no table can say; with file and line.
        ImportError: The extra `import` is not installed.
    """
    steps, numbers = None, None
    failed = failed_state(base)
    named: list[str] = []
    for file in _files(paths):
        reads_linux = file.has_array(linux.TABLE)
        if reads_linux or file.has_array(libvfio_user.TABLE):
            if steps is not None:
                problem = "holds a next-step table, and so does another source"
                raise SpecError([Mistake(file.path, None, problem, "give one")])
            reader = linux.next_steps if reads_linux else libvfio_user.next_steps
            steps = reader(file, failed)
        elif linux.ENUM.encode() in file.text:
            numbers = linux.header(file)
        else:
            problem = f"holds no table {linux.TABLE} or {libvfio_user.TABLE}, and no {linux.ENUM}"
            raise SpecError([Mistake(file.path, None, problem, "if it was renamed, name it so")])
        named.append(file.path)
    if steps is None:
        problem = "hold no next-step table, from which the arcs follow"
        raise SpecError([Mistake("SOURCE", None, problem, "give vfio_main.c or migration.c too")])
    return derive(steps, numbers, base, f"from-{Path(named[0]).stem}")


def read_spec(path: str, base: Spec) -> Spec:
    """Read one source as a table."""
    return from_data(read([path], base), path)


def table_text(data: dict[str, Any], base: Spec) -> str:
    """Return the text of a table, with a head that says what is from where."""
    return f"""\
# Made by `vfio-migration import`. States, arcs, refusals and capabilities are from the source that
# each row names, with its line. From the base table {base.name}: what stands in no source, which
# is the place of a state on the grid, the summaries, the errnos, and all other sections.

{to_toml(data)}"""


def _files(paths: Iterable[str]) -> Iterator[CFile]:
    for path in paths:
        if not Path(path).is_dir():
            yield CFile(path)
            continue
        found = [place for name in IN_A_TREE if (place := Path(path, name)).is_file()]
        if not found:
            listed = ", ".join(IN_A_TREE)
            problem = "is a folder without any file that is read"
            raise SpecError([Mistake("SOURCE", path, problem, f"these are: {listed}")])
        yield from map(CFile, found)


__all__ = ["is_source", "read", "read_spec", "table_text"]
