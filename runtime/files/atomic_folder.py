"""A folder of files that is put in place whole, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vfio_migration.runtime.files.atomic_file import new_mode


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Make a folder of text files, in place of the one that is there.

    Args:
        folder: The folder; the one it is in is there.
        files: Texts by their path in the folder, which names one folder in it at most.

    Raises:
        OSError: It cannot be written; what was there before is there still.
    """
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}."))
    try:
        for name, text in files.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text, "utf-8")
        new.chmod(new_mode(0o777))
        _exchange(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; what was there before goes, or stays if that fails."""
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:40]}."))
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)
