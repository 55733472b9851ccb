"""Writes a file again and again, dies at another place each time, and prints what was left.

Run as a program, so that it may fork: `dying_writer.py FOLDER KIND OLD NAMELESS`. KIND is "kill"
(SIGKILL before the n-th system call that counts, and in the middle of each write) or "limit" (the
file may have n bytes). OLD and NAMELESS are 0 or 1: whether there is a file to be replaced, and
whether the file system has nameless files. Each line is a JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vfio_migration.runtime.files.container import (
    CannotWriteError,
    ContainerReader,
    ContainerWriter,
    DeviceHeader,
    Header,
)

CALLS = ("open", "fchmod", "write", "fsync", "link", "rename", "unlink", "close")
HEADER = Header((DeviceHeader("a"), DeviceHeader("b")))


SIZES = {"kill": 1 << 20, "limit": 50}


def write(path: Path, byte: bytes, *, replace: bool, size: int = SIZES["kill"]) -> None:
    with ContainerWriter(path, HEADER, replace=replace) as writer:
        writer.write(0, byte * size)
        writer.write(1, byte * 10)


def no_nameless_files() -> None:
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *more, **named)

    os.open = refusing  # type: ignore[assignment]


def die_at(turn: int, notify: int) -> None:
    """Let the process die before its call of this number; a write counts twice."""
    count = 0
    put = os.write

    def dying(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            for half in range(2 if name == "write" else 1):
                if count == turn:
                    if half:
                        put(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    put(notify, name.encode())
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return real(*arguments, **named)

        return call

    for name in CALLS:
        setattr(os, name, dying(name, getattr(os, name)))


def content(path: Path) -> str | None:
    """The byte that a whole file at this place is about."""
    try:
        with ContainerReader(path) as reader:
            blocks = b"".join(map(bytes, reader.blocks(0))), b"".join(map(bytes, reader.blocks(1)))
    except FileNotFoundError:
        return None
    assert set(blocks[0]) == set(blocks[1])
    assert [len(block) for block in blocks] in ([size, 10] for size in SIZES.values())
    return chr(blocks[0][0])


def one(folder: Path, kind: str, old: bytes | None, turn: int) -> dict[str, Any]:
    """One life of a writer."""
    path = folder / "x"
    if old is not None:
        path.write_bytes(old)
    listen, notify = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if kind == "kill":
                die_at(turn, notify)
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (turn, resource.RLIM_INFINITY))
            write(path, b"n", replace=old is not None, size=SIZES[kind])
        except CannotWriteError as error:
            os.write(notify, str(error).encode())
            os._exit(1)
        except BaseException as error:  # noqa: BLE001 - the parent reports what it was
            os.write(notify, repr(error).encode())
            os._exit(2)
        os._exit(0)
    os.close(notify)
    with os.fdopen(listen) as answers:
        reported = answers.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    names = sorted(place.name for place in folder.iterdir())
    left = [name for name in names if name != "x"]
    answer = {
        "status": status,
        "reported": reported,
        "content": content(path) if "x" in names else None,
        "left": [[name, (folder / name).stat().st_size] for name in left],
    }
    for name in names:
        (folder / name).unlink()
    return answer


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    old, nameless = sys.argv[3] == "1", sys.argv[4] == "1"
    if not nameless:
        no_nameless_files()
    write(folder / "x", b"o", replace=False, size=SIZES[kind])
    before = (folder / "x").read_bytes()
    (folder / "x").unlink()
    size = len(before)
    for turn in range(size + 1 if kind == "limit" else 1000):
        answer = one(folder, kind, before if old else None, turn)
        print(json.dumps({"turn": turn, "size": size} | answer))
        if kind == "kill" and answer["status"] == 0:
            return


if __name__ == "__main__":
    main()
