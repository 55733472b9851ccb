"""Files that commands read and write: none is read without an end, or written over by mistake."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, TypeGuard

from vfio_migration.model import advice
from vfio_migration.model.errors import why

if TYPE_CHECKING:
    from vfio_migration.model import Trace

MAX_TRACE_BYTES: Final = 1 << 24
"""How many bytes a trace may have, which is read as a whole."""


def keep_apart(written: Mapping[str, object], read: Mapping[str, object]) -> None:
    """Refuse to write over what is read, or two things into one file, whatever it is called.

    Args:
        written: What is written, by its option; None for what is not asked for.
        read: What is read, by its option.

    Raises:
        SpecError: Two are the same file.
    """
    seen = {option: os.fspath(path) for option, path in read.items() if _is_path(path)}
    for option, path in written.items():
        if not _is_path(path):
            continue
        place = os.fspath(path)
        for other, there in seen.items():
            if _same(place, there):
                what = "would be overwritten" if other in read else "would be written twice"
                refuse(option, place, f"is the same file as {other}: it {what}", "name another")
        seen[option] = place


def _is_path(value: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(value, str | os.PathLike)


def _same(one: str, two: str) -> bool:
    try:
        first, second = os.stat(one), os.stat(two)  # noqa: PTH116 - as bytes allow
    except FileNotFoundError:
        return os.path.realpath(one) == os.path.realpath(two)
    except (OSError, ValueError):
        return False  # an error that is reported when it is opened
    # A terminal, a pipe and /dev/null are read and written at once without harm.
    return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def writable(option: str, path: str | None, *, folder: bool = False) -> None:
    """Refuse, before the work is done, a place at which its outcome could not be written.

    Args:
        option: What names the place.
        path: The place; None if nothing is to be written.
        folder: A folder is made there, or is there; otherwise a file.

    Raises:
        SpecError: No file can be called that, or none can be made there.
    """
    from vfio_migration.runtime.files import trusted_path

    if path is None:
        return
    try:
        found = trusted_path.open_folder(path)
    except FileNotFoundError:
        above = os.path.dirname(path) or "."  # noqa: PTH120 - as bytes allow
        refuse(option, path, f"cannot be written: there is no folder {above}")
    except ValueError as error:
        refuse(option, path, f"cannot be written: {why(error)}")
    except OSError as error:
        refuse(option, path, f"cannot be written: {why(error)}", "name another")
    try:
        there = found.stat()
        is_folder = there is not None and stat.S_ISDIR(there.st_mode)
        if is_folder and not folder:
            refuse(option, path, "cannot be written: it is a folder")
        if there is not None and folder and not is_folder:
            refuse(option, path, "is not a folder")
        # A file is replaced, for which its folder is written to; a pipe or a device is written to.
        replaced = there is None or stat.S_ISREG(there.st_mode)
        name = "." if replaced and not found.is_magic else found.name
        effective = os.access in os.supports_effective_ids
        if not os.access(name, os.W_OK, dir_fd=found.folder, effective_ids=effective):
            reason = os.strerror(errno.EACCES)
            hint = "take a folder that you may write to"
            refuse(option, path, f"cannot be written: {reason}", hint)
    finally:
        os.close(found.folder)


def read_trace(option: str, path: str) -> Trace:
    """Read a trace; `-` is the standard input.

    Raises:
        SpecError: It cannot be read, or is none.
    """
    from vfio_migration.model import SpecError, Trace

    text = _read(option, path)
    try:
        return Trace.from_json(text)
    except SpecError:
        if (kind := _other_kind(text)) is not None:
            hint = f"run: {advice.command('check-trace', advice.operand(path))}"
            refuse(option, path, f"is {kind}, and no trace", hint)
        raise


def _read(option: str, path: str) -> bytes:
    if path == "-" and sys.stdin is None:  # closed when this process was started
        refuse(option, path, "cannot be read: standard input is closed")
    try:
        if path == "-":
            text = sys.stdin.buffer.read(MAX_TRACE_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                text = file.read(MAX_TRACE_BYTES + 1)
    except (OSError, ValueError) as error:
        # A ValueError is what a path with a NUL in it gives.
        refuse(option, path, f"cannot be read: {why(error)}")
    if len(text) > MAX_TRACE_BYTES:
        refuse(option, path, f"is longer than {MAX_TRACE_BYTES} bytes, the most a trace may have")
    return text


def _other_kind(text: bytes) -> str | None:
    """Return what a file is that check-trace reads and is no trace."""
    from vfio_migration.model import json_text

    try:
        head = json_text.parse(text.partition(b"\n")[0])
    except json_text.JsonError:
        return None
    if not isinstance(head, dict):
        return None
    if head.get("kind") == "recording":
        return "a recording"
    return "a server's log" if "event" in head and "level" in head else None


def write_whole(option: str, path: str | Path, data: bytes) -> None:
    """Write all or nothing: a reader never sees half a file.

    Raises:
        SpecError: It cannot be written.
    """
    from vfio_migration.runtime.files.atomic_file import CannotWriteError, write_output

    try:
        write_output(path, data)
    except CannotWriteError as error:
        refuse(option, str(path), error.problem, error.hint)


def refuse(option: str, value: object, problem: str, hint: str | None = None) -> NoReturn:
    """Return what is wrong with what an option names."""
    from vfio_migration.model import Mistake, SpecError

    raise SpecError([Mistake(option, value, problem, hint)])
