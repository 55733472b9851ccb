"""The text of sources: of a file, a folder, or a commit of the git repository around us."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from vfio_migration.model import bounds
from vfio_migration.model.errors import Mistake, SpecError
from vfio_migration.model.load import read_bytes

IN_A_TREE: Final = (
    "drivers/vfio/vfio_main.c",
    "drivers/vfio/vfio.c",
    "include/uapi/linux/vfio.h",
    "lib/migration.c",
    "docs/interop/vfio-user.rst",
)
"""What is read of a tree: of Linux (vfio.c before 6.0), of libvfio-user, of QEMU."""

SOURCE: Final = "source of the migration states"
"""What a file is taken for."""

GIT: Final = "git:"
"""What a name begins with that stands for a commit: git:REV, or git:REV:PATH."""


def is_source(path: str) -> bool:
    """Return whether a path stands for a source and not for a table."""
    suffixes = Path(path).suffixes  # vfio_main.c.orig is one, too
    named = bool({".c", ".h", ".rst"} & {*suffixes}) and suffixes[-1] != ".toml"
    return named or path.startswith(GIT) or Path(path).is_dir()


def texts(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the text of each file.

    Args:
        paths: Files, folders that hold a tree, or commits.

    Raises:
        SpecError: One cannot be read, or is a tree without any file that is read.
    """
    for path in paths:
        if not path.isprintable():
            # Each row of the table that is made names it, and a table is text.
            problem = "has a character that cannot be printed"
            raise SpecError([Mistake("SOURCE", path, problem, "give the file another name")])
        if path.startswith(GIT):
            yield from _of_commit(path)
        elif Path(path).is_dir():
            found = [place for name in IN_A_TREE if (place := Path(path, name)).is_file()]
            yield from _some(path, [(str(place), _read(place)) for place in found])
        else:
            yield path, _read(Path(path))


def _read(path: Path) -> bytes:
    # What the shell makes of <(COMMAND) has a writer; a pipe with a name of its own may get none.
    if path.is_fifo() and path.parts[:2] not in (("/", "dev"), ("/", "proc")):
        problem = "is a named pipe, which may never be written to"
        raise SpecError([Mistake("SOURCE", str(path), problem, "give a file")])
    return read_bytes(path, SOURCE)


def _some(path: str, found: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    if not found:
        listed = ", ".join(IN_A_TREE)
        problem = "is a folder without any file that is read"
        raise SpecError([Mistake("SOURCE", path, problem, f"these are: {listed}")])
    return found


def _of_commit(name: str) -> list[tuple[str, bytes]]:
    revision, path = _split(name.removeprefix(GIT))
    if not revision or revision.startswith("-"):
        problem = "names no commit"
        raise SpecError([Mistake("SOURCE", name, problem, "write git:REV, as in git:HEAD~1")])
    commit = _git(name, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if commit is None:
        hint = "run the command inside the repository, and write git:REV, as in git:HEAD~1"
        raise SpecError([Mistake("SOURCE", name, "is not a commit of a repository here", hint)])
    at = commit.decode("ascii").strip()
    if path:
        text = _blob(name, f"{at}:{path}")
        if text is None:
            problem = "is not a file of that commit"
            raise SpecError([Mistake("SOURCE", name, problem, "name it from the top of the tree")])
        return [(name, text)]
    found = []
    for place in IN_A_TREE:
        text = _blob(name, f"{at}:{place}")
        if text is not None:
            found.append((f"{GIT}{revision}:{place}", text))
    return _some(name, found)


def _split(name: str) -> tuple[str, str]:
    """Return the revision and the path of REV:PATH; a colon inside braces is the revision's."""
    depth = 0
    for at, character in enumerate(name):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == ":" and depth == 0:
            return name[:at], name[at + 1 :]
    return name, ""


def _blob(name: str, blob: str) -> bytes | None:
    """Return a file of a commit, or None if there is none."""
    size = _git(name, "cat-file", "-s", blob)
    if size is not None and int(size) > bounds.MAX_TABLE_BYTES:
        problem = f"{blob} has more than {bounds.MAX_TABLE_BYTES} bytes, so this is not a {SOURCE}"
        raise SpecError([Mistake("SOURCE", name, problem, None)])
    return _git(name, "cat-file", "blob", blob)


def _git(name: str, *words: str) -> bytes | None:
    """Ask git; None if it states no."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, check=False)
    except OSError as error:
        problem = f"needs git, which cannot be run: {error.strerror}"
        raise SpecError([Mistake("SOURCE", name, problem, None)]) from None
    return done.stdout if done.returncode == 0 else None


__all__ = ["GIT", "IN_A_TREE", "is_source", "texts"]
