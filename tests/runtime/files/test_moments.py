"""What others do at the very moment at which a file begins or ends."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from container_support import THERE, TWO, left, refused, restored, save, without_nameless_files

from vfio_migration.runtime.files.container import MAX_BLOCK, CannotWriteError, ContainerWriter


@pytest.mark.parametrize("nameless", [False, True])
def test_a_file_in_the_folder_that_was_meant_is_left_alone(
    nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means what it meant when the file was begun."""
    if not nameless:
        without_nameless_files(monkeypatch)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with refused(Path("x"), *THERE), ContainerWriter("x", TWO):
        Path("x").write_bytes(b"another")
        monkeypatch.chdir("other")
    assert (tmp_path / "x").read_bytes() == b"another"
    assert left(tmp_path) == ["other", "x"]
    assert left(tmp_path / "other") == []


def test_one_that_comes_and_goes_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there when the file gets its name, and not when it is looked for."""
    real, path = os.link, tmp_path / "x"

    def there(*arguments: Any, **named: Any) -> None:
        if arguments[1] == "x":
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        real(*arguments, **named)

    monkeypatch.setattr(os, "link", there)
    words = ("cannot be written: File exists (EEXIST), after 329 bytes", "take another path")
    with refused(path, *words, "EEXIST"):
        save(path, TWO)
    assert left(tmp_path) == []


def test_no_descriptor_is_closed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be somebody else's by then."""
    closed: list[int] = []
    real_close, real_open = os.close, os.open

    def close(fd: int) -> None:
        closed.append(fd)
        real_close(fd)

    def named_refused(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, *more, **named)

    monkeypatch.setattr(Path, "exists", lambda *_: False)  # as if there was no /proc
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(os, "open", named_refused)
    with pytest.raises(CannotWriteError, match="ENOSPC"), ContainerWriter(tmp_path / "x", TWO):
        pytest.fail("it cannot be begun")
    assert sorted(closed) == sorted(set(closed))


def test_a_thread_that_writes_while_the_file_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes would stand behind the end of the file, or nowhere."""
    reported: list[str] = []
    late: list[threading.Thread] = []
    real = os.fsync

    def write(size: int) -> None:
        try:
            writer.write(0, bytes(size))
        except ValueError as error:
            reported.append(str(error))

    def flushed(fd: int) -> None:
        if not late:
            late.extend(
                threading.Thread(target=write, args=(size,), daemon=True) for size in (1, MAX_BLOCK)
            )
            for thread in late:
                thread.start()
            for thread in late:
                thread.join(0.1)
        real(fd)

    monkeypatch.setattr(os, "fsync", flushed)
    with ContainerWriter(tmp_path / "x", TWO) as writer:
        writer.write(0, b"abc")
    for thread in late:
        thread.join(60)
    assert reported == ["write: only within the with statement of this writer"] * 2
    assert restored(tmp_path / "x") == [b"abc", b""]
