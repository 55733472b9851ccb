"""A file is there whole or not at all, whatever happens to the one who writes it."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from container_support import (
    DYING,
    THERE,
    TWO,
    left,
    refused,
    restored,
    save,
    without_nameless_files,
)

from support.open_descriptors import opened, opened_at_rest
from vfio_migration.runtime.files.container import (
    MAX_BLOCK,
    CannotWriteError,
    ContainerReader,
    ContainerWriter,
    Header,
)

BOTH = [False, True]


DISK = "name a file on a disk, or one to be"


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with refused(path, *THERE), ContainerWriter(path, TWO):
        pytest.fail("it must be refused at once")
    assert (left(tmp_path), path.read_bytes()) == (["x"], b"old")


@pytest.mark.parametrize("nameless", BOTH)
def test_so_is_one_made_at_the_last_moment(
    nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not nameless:
        without_nameless_files(monkeypatch)
    path = tmp_path / "x"
    with refused(path, *THERE), ContainerWriter(path, TWO) as writer:
        writer.write(0, b"abc")
        path.write_bytes(b"another")
    assert (left(tmp_path), path.read_bytes()) == (["x"], b"another")


@pytest.mark.parametrize("nameless", BOTH)
@pytest.mark.parametrize("old", BOTH)
def test_it_is_replaced_if_asked_for(
    old: bool, nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not nameless:
        without_nameless_files(monkeypatch)
    path = tmp_path / "x"
    if old:
        path.write_bytes(b"old")
        path.chmod(0o644)
    umask = os.umask(0o777)
    try:
        save(path, TWO, (0, b"abc"), replace=True)
    finally:
        os.umask(umask)
    assert restored(path) == [b"abc", b""]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert left(tmp_path) == ["x"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT: no nameless files, and no second name for a file."""

    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    without_nameless_files(monkeypatch)
    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "x"
    save(path, TWO, (0, b"abc"))
    with refused(path, *THERE):
        save(path, TWO, (0, b"def"))
    with refused(tmp_path / "y", *THERE), ContainerWriter(tmp_path / "y", TWO):
        (tmp_path / "y").write_bytes(b"another")
    save(path, TWO, (0, b"ghi"), replace=True)
    assert restored(path) == [b"ghi", b""]
    assert left(tmp_path) == ["x", "y"]


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("none")
    (tmp_path / "to-pipe").symlink_to("pipe")
    kinds = {
        tmp_path / "pipe": ("is a pipe", DISK),
        tmp_path / "to-pipe": ("is a pipe", DISK),
        tmp_path / "folder": ("is a folder", DISK),
        tmp_path: ("is a folder", DISK),
        Path(): ("is a folder", DISK),
        Path("/"): ("is a folder", DISK),
        Path("/dev/full"): ("is a device", DISK),
        tmp_path / "link": ("is a symbolic link", "name the file itself"),
        tmp_path / "nowhere": ("is a symbolic link", "name the file itself"),
    }
    before = left(tmp_path)
    for (path, words), replace in itertools.product(kinds.items(), BOTH):
        with refused(path, *words), ContainerWriter(path, TWO, replace=replace):
            pytest.fail("it must be refused at once")
    assert left(tmp_path) == before


def test_the_standard_output_is_refused(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(DYING.parent)!r})
import dying_writer
from pathlib import Path
try:
    dying_writer.write(Path("/dev/stdout"), b"n", replace=True)
except dying_writer.CannotWriteError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert result.stdout == f"/dev/stdout: is a pipe; {DISK}\n"
    assert result.stderr == ""


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for path, reported, hint, name in (
        (
            tmp_path / "no" / "x",
            "No such file or directory (ENOENT)",
            "make its folder first",
            "ENOENT",
        ),
        (
            tmp_path / "file" / "x",
            "Not a directory (ENOTDIR)",
            "what should be its folder is a file; take another path",
            "ENOTDIR",
        ),
        (
            tmp_path / ("x" * 256),
            "File name too long (ENAMETOOLONG)",
            "take a shorter name",
            "ENAMETOOLONG",
        ),
        (
            tmp_path / "loop" / "x",
            "Too many levels of symbolic links (ELOOP)",
            "the links on the way to it lead nowhere; take another path",
            "ELOOP",
        ),
        (tmp_path / "a\0b", "embedded null byte", "take another path", None),
    ):
        words = (f"cannot be written: {reported}", hint, name)
        with refused(path, *words), ContainerWriter(path, TWO):
            pytest.fail("it must be refused at once")
    save(tmp_path / ("x" * 255), TWO)  # the longest name there is


def test_a_folder_that_one_may_not_write_to(tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(DYING.parent)!r})
import dying_writer
from pathlib import Path
if os.geteuid() == 0:
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
for replace in (False, True):
    try:
        dying_writer.write(Path("folder/x"), b"n", replace=replace)
    except dying_writer.CannotWriteError as error:
        print(error)
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    # Other users may not come here otherwise.
    shared = tmp_path.parent.parent
    modes = {
        place: stat.S_IMODE(place.stat().st_mode) for place in (tmp_path, tmp_path.parent, shared)
    }
    try:
        if os.geteuid() == 0:
            for place, mode in modes.items():
                place.chmod(mode | 0o755)
        result = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for place, mode in modes.items():
            place.chmod(mode)
        folder.chmod(0o755)
    line = (
        "folder/x: cannot be written: Permission denied (EACCES); "
        "take a folder that you may write to\n"
    )
    assert result.stderr == ""
    assert result.stdout == 2 * line
    assert left(folder) == []


ROOM = "make room, or take a place on another file system"


@pytest.mark.parametrize(
    ("call", "turn", "number", "hint", "nameless"),
    [
        ("open", 1, errno.EROFS, "its file system is read-only; take a place on another", True),
        ("open", 1, errno.EROFS, "its file system is read-only; take a place on another", False),
        ("write", 3, errno.EDQUOT, ROOM, True),
        ("write", 3, errno.EDQUOT, ROOM, False),
        ("fsync", 0, errno.EIO, "the disk may be failing; take a place on another", True),
        ("fsync", 0, errno.ENOSPC, ROOM, False),
        ("rename", 0, errno.EBUSY, "take another path", True),
        ("rename", 0, errno.EBUSY, "take another path", False),
        ("link", 1, errno.EMLINK, "take another path", True),
    ],
)
def test_the_system_refuses(
    call: str,
    turn: int,
    number: int,
    hint: str,
    nameless: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What cannot be had here is stated by a stand-in for the system, at one of its calls."""
    path = tmp_path / "x"
    path.write_bytes(b"old")
    real, count = getattr(os, call), itertools.count()

    def failing(*arguments: Any, **named: Any) -> Any:
        if next(count) == turn:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, call, failing)
    if not nameless:
        without_nameless_files(monkeypatch)
    with (
        pytest.raises(CannotWriteError) as caught,
        ContainerWriter(path, TWO, replace=True) as writer,
    ):
        writer.write(0, bytes(MAX_BLOCK))
    monkeypatch.undo()
    error = caught.value
    assert error.errno == errno.errorcode[number]
    assert error.problem.startswith(f"cannot be written: {os.strerror(number)} ({error.errno})")
    assert error.hint == hint
    assert (left(tmp_path), path.read_bytes()) == (["x"], b"old")


def test_a_folder_that_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there then, and it is stated that it is."""
    real, answers = os.fsync, [None, errno.EIO, None, errno.EINVAL]

    def failing(fd: int) -> None:
        if number := answers.pop(0):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", failing)
    problem = "is complete, but its folder cannot be flushed: Input/output error (EIO)"
    hint = "it may be lost if the power fails now; write it again to be sure"
    with refused(tmp_path / "x", problem, hint, "EIO"):
        save(tmp_path / "x", TWO, (0, b"abc"))
    assert restored(tmp_path / "x") == [b"abc", b""]
    save(tmp_path / "y", TWO)  # some file systems cannot at all


def test_after_a_failure_there_is_no_file_even_if_it_was_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    real = os.write

    def short(fd: int, data: memoryview) -> int:
        if len(data) == MAX_BLOCK - 1000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:1000])

    def persists() -> None:
        with ContainerWriter(path, TWO) as writer:
            at = writer.written
            with monkeypatch.context() as broken:
                broken.setattr(os, "write", short)
                with pytest.raises(CannotWriteError, match=f"after {at + 24 + 1000} bytes"):
                    writer.write(0, bytes(MAX_BLOCK))
            with pytest.raises(CannotWriteError):
                writer.write(0, bytes(MAX_BLOCK))

    size = 24 + len(TWO.to_json()) + 24 + 1000
    problem = f"was given up after {size} bytes, when a write did not end"
    with refused(path, problem, "write it again from its beginning"):
        persists()
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_that_is_caught_is_no_success(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(block: object) -> bytes:
        raise error

    def persists() -> None:
        with ContainerWriter(tmp_path / "x", Header(TWO.devices, "zlib")) as writer:
            with monkeypatch.context() as broken:
                broken.setattr(writer._codec, "compress", interrupted)
                with pytest.raises(error):
                    writer.write(0, bytes(MAX_BLOCK))
            writer.write(0, b"more")

    with pytest.raises(CannotWriteError, match="was given up"):
        persists()
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("size", [0, 1, 2 * MAX_BLOCK])
def test_an_exception_leaves_nothing_and_comes_through(
    error: type[BaseException], size: int, tmp_path: Path
) -> None:
    def fails() -> None:
        with ContainerWriter(tmp_path / "x", TWO) as writer:
            writer.write(0, bytes(size))
            raise error

    with pytest.raises(error):
        fails()
    assert left(tmp_path) == []


def test_a_writer_writes_one_file(tmp_path: Path) -> None:
    """A second would go on with the sums of the first, and be damaged."""
    writer = ContainerWriter(tmp_path / "x", TWO)
    with writer:
        writer.write(0, b"first")
        with pytest.raises(ValueError, match="has written its file"), writer:
            pass
    before = (tmp_path / "x").read_bytes()
    (tmp_path / "x").unlink()
    with pytest.raises(ValueError, match="has written its file"), writer:
        pass
    assert left(tmp_path) == []
    (tmp_path / "x").write_bytes(before)
    assert restored(tmp_path / "x") == [b"first", b""]


def test_it_is_written_to_within_its_with_statement_only(tmp_path: Path) -> None:
    writer = ContainerWriter(tmp_path / "x", TWO)
    assert left(tmp_path) == []
    with pytest.raises(ValueError, match="only within the with statement"):
        writer.write(0, b"a")
    with writer:
        writer.write(0, b"a")
    with pytest.raises(ValueError, match="only within the with statement"):
        writer.write(0, b"a")
    assert restored(tmp_path / "x") == [b"a", b""]


@pytest.mark.parametrize("nameless", BOTH)
@pytest.mark.parametrize("replace", BOTH)
def test_of_many_writers_each_file_is_whole(
    replace: bool, nameless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not nameless:
        without_nameless_files(monkeypatch)
    path, count = tmp_path / "x", 8
    together = threading.Barrier(count)
    won: list[int] = []
    lost: list[str] = []

    def work(number: int) -> None:
        try:
            with ContainerWriter(path, TWO, replace=replace) as writer:
                writer.write(0, bytes([number]) * MAX_BLOCK)
                together.wait()
            won.append(number)
        except CannotWriteError as error:
            lost.append(error.problem)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == (count if replace else 1)
    assert lost == ["is there already"] * (count - len(won))
    first, _ = restored(path)
    assert len(first) == MAX_BLOCK
    assert first[0] in won
    assert set(first) == {first[0]}
    assert left(tmp_path) == ["x"]


def test_a_reader_keeps_the_file_it_opened(tmp_path: Path) -> None:
    save(tmp_path / "x", TWO, (0, b"old"))
    with ContainerReader(tmp_path / "x") as reader:
        save(tmp_path / "x", TWO, (0, b"new"), replace=True)
        assert list(reader.blocks(0)) == [b"old"]
    assert restored(tmp_path / "x") == [b"new", b""]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = opened_at_rest()
    save(tmp_path / "x", TWO)
    with pytest.raises(CannotWriteError):
        save(tmp_path / "x", TWO)
    with pytest.raises(CannotWriteError):
        save(tmp_path / "none" / "x", TWO)
    assert opened() == before
