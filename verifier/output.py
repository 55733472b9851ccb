"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NoReturn

from vfio_migration.model import SpecError
from vfio_migration.model.errors import Mistake


def refuse(option: str, path: Path, problem: str, hint: str | None = None) -> NoReturn:
    """Say of an option that its file or folder will not do."""
    raise SpecError([Mistake(option, str(path), problem, hint)])


def check_file(option: str, path: Path) -> None:
    """Refuse early what could not be written late.

    Raises:
        SpecError: If there is no such folder, or a folder in the file's place.
    """
    if not path.parent.is_dir():
        refuse(option, path, f"cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        refuse(option, path, "cannot be written: it is a folder")


def write_file(option: str, path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, and never half.

    Raises:
        SpecError: If it cannot be written.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a named pipe
            path.write_text(text, "utf-8")
            return
        path = path.resolve()
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            # mkstemp makes files private; this one gets what any new file gets.
            Path(temporary).chmod(new_folder_mode() & 0o666)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        refuse(option, path, f"cannot be written: {error.strerror}")


def new_folder_mode() -> int:
    """The permissions a new folder gets from the user's umask."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o777 & ~umask
