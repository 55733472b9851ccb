"""The process of a server under test, where it is known how to start one."""

from __future__ import annotations

import subprocess
import time
from typing import Final

from vfio_migration.runtime.conform.report import Report

START_TIMEOUT_S: Final = 20.0
"""How many seconds a server has to listen after it was started, and to end when it is asked to."""
END_TIMEOUT_S: Final = 0.3
"""How many seconds a server that ends with its client is given to do so, the first time."""
MAX_STARTS: Final = 5000
"""How often a server is started: one that ends with its client is, for each connection."""
RETRY_S: Final = 0.01
"""After how many seconds it is looked again."""


class CannotStartError(Exception):
    """The server cannot be started; the message has why."""


class ServerProcess:
    """Starts a server, and knows whether it ends when its client leaves.

    Args:
        words: The words of the command that starts it; none if it is not known.
        report: Where it is counted.

    Attributes:
        ends_with_client: It has ended when a client left, so it is started for each connection.
    """

    def __init__(self, words: tuple[str, ...], report: Report) -> None:
        self._words = words
        self._report = report
        self._running: subprocess.Popen[bytes] | None = None
        self.ends_with_client = False

    @property
    def is_known(self) -> bool:
        """Whether it is known how to start one."""
        return bool(self._words)

    def start(self) -> None:
        """Start it, after the one before has ended.

        Raises:
            CannotStartError: There is no such program, or it was started too often.
        """
        self.end()
        if self._report.starts >= MAX_STARTS:
            raise CannotStartError(f"it was started {MAX_STARTS} times")
        self._report.starts += 1
        try:
            self._running = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise CannotStartError(
                f"{self._words[0]} cannot be started: {error.strerror}"
            ) from None

    @property
    def has_ended(self) -> bool:
        """Whether one that was started is there no more."""
        return self._running is not None and self._running.poll() is not None

    def wait(self) -> None:
        """Wait until one that ends with its client has ended."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._running is not None and not self.has_ended and time.monotonic() < deadline:
            time.sleep(RETRY_S)

    def end(self) -> None:
        """End it, if it was started here."""
        if self._running is None:
            return
        self._running.terminate()
        try:
            self._running.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        self._running = None
