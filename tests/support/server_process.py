"""`vfio-migration serve` in a process of its own, with the standard error a test gives it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support.raw_client import Client
from vfio_migration.runtime.server import status

PROGRAM = [sys.executable, "-m", "vfio_migration.cli.main", "serve"]


def until(condition: Callable[[], object], what: str = "it does not happen") -> None:
    """Wait for something that is sure to come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class ServerProcess:
    """A server; a context, at the end of which nothing of it is left.

    Args:
        folder: Where its socket is, which is the current folder of the process too.
        arguments: The arguments after SOCKET.
        stderr: A descriptor, or None for a file, which `log` returns.
        environ: What is added to its environment.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        stderr: int | None = None,
        environ: dict[str, str] | None = None,
    ) -> None:
        self.path = folder / "s"
        self._log = folder / "log"
        with self._log.open("w") as file:
            self.process = subprocess.Popen(
                [*PROGRAM, str(self.path), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stderr=file if stderr is None else stderr,
                cwd=folder,
                env={**os.environ, **(environ or {})},
            )

    def __enter__(self) -> ServerProcess:
        # The last thing it does before it serves.
        try:
            until(lambda: status.beside(self.path).exists() or self.process.poll() is not None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text("utf-8")

    def client(self, **options: object) -> Client:
        """Connect."""
        return Client(self.path, **options)

    def status(self) -> dict:
        """Ask how it stands."""
        return status.read(self.path, 20)

    def ends(self) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(30)


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """Make a pipe that takes nothing more, and that nobody reads; yield the end to write to."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)
