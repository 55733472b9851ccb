"""Hold a live server against the tables: messages, then the finite suite, then damaged streams.

The server loses the state of its device. One that ends is started again, if it is known how, and
that it ended is a violation: no client may end a server.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.conformance.findings import Finding
from vfio_migration.model.machine import Machine
from vfio_migration.runtime.conform.report import Deviation, Report
from vfio_migration.runtime.conform.stream_cases import try_streams
from vfio_migration.runtime.conform.suite_run import SuiteRun
from vfio_migration.runtime.conform.tested_server import ServerEndedError, TestedServer
from vfio_migration.runtime.conform.wire_cases import cases, try_case

TIMEOUT_S: Final = 5.0
"""How many seconds a server has for a reply."""
START_TIMEOUT_S: Final = 20.0
"""How many seconds a server has to listen after it was started."""
MAX_RESTARTS: Final = 100
"""How often a server is started again."""
_RETRY_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Choices:
    """What whoever tests has chosen.

    Attributes:
        hidden_states: The bound of the suite; see `model.suite`.
        timeout_s: How many seconds the server has for each reply.
        restart: The words of the command that starts the server; none if it is not known. What was
            started is ended when the test is over.
        progress: Called with what is being done, how much of it is done, and of how much.
    """

    hidden_states: int = 1
    timeout_s: float = TIMEOUT_S
    restart: tuple[str, ...] = ()
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None


def conform(path: str | Path, spec: Spec, choices: Choices | None = None) -> Report:
    """Hold a server against the tables. Its device is reset again and again.

    Args:
        path: The socket of the server.
        spec: The migration table.
        choices: How.

    Raises:
        ServerEndedError: Nobody serves there to begin with.
        SpecError: `hidden_states` is out of range.
    """
    choices = choices or Choices()
    report = Report(str(path), hidden_states=choices.hidden_states)
    began = time.monotonic()

    def found(finding: Finding, request: bytes, reply: bytes) -> None:
        report.add(
            Deviation(
                grade=finding.grade,
                check=finding.check,
                step=finding.step,
                reason=finding.reason,
                source="" if finding.source == "decision" else finding.source,
                text=finding.text,
                request=request,
                reply=reply,
            )
        )

    with (
        TestedServer(str(path), spec, found, choices.timeout_s) as server,
        contextlib.closing(_Process(choices.restart, server, report)) as process,
    ):
        process.connect(first=True)
        try:
            _check(server, spec, choices, report, process)
        except ServerEndedError as ended:
            report.died = str(ended)
        report.messages = server.messages
    report.seconds = time.monotonic() - began
    return report


def _check(
    server: TestedServer, spec: Spec, choices: Choices, report: Report, process: _Process
) -> None:
    machine = _machine(server, spec, report)
    every = cases()
    for done, case in enumerate(every, 1):
        process.survives(case.step, partial(try_case, case, server, report))
        choices.progress("messages", done, len(every))
    if machine is None:
        return
    report.capabilities = machine.names
    run = SuiteRun(
        server, machine, report, lambda done, of: choices.progress("sequences", done, of)
    )
    process.survives("a sequence of the suite", lambda: run.run(choices.hidden_states))
    process.survives("a damaged stream", lambda: try_streams(server, machine, report, run.stream))


def _machine(server: TestedServer, spec: Spec, report: Report) -> Machine | None:
    """Return the table under what the device offers; None if it does not migrate."""
    flags = server.capabilities()
    if not flags:
        report.left_out.append("migration: the device does not offer it")
        return None
    try:
        return spec.machine(flags)
    except SpecError as error:
        report.left_out.append(f"migration: the flags of the device are {flags:#x}: {error}")
        return None


class _Process:
    """The server as a process, if it is known how to start one.

    Args:
        words: The words of the command that starts it; none if it is not known.
        server: The connection to it.
        report: Where it is reported that it ended.
    """

    def __init__(self, words: tuple[str, ...], server: TestedServer, report: Report) -> None:
        self._words = words
        self._server, self._report = server, report
        self._running: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.terminate()
            try:
                self._running.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._running.kill()
                self._running.wait()
            self._running = None

    def connect(self, *, first: bool = False) -> None:
        """Connect; start the server if nobody listens and it is known how."""
        try:
            self._server.connect()
        except ServerEndedError:
            if not self._words:
                raise
            if not first:
                self._report.restarts += 1
            if self._report.restarts > MAX_RESTARTS:
                raise
            self._start()

    def survives(self, what: str, act: Callable[[], None]) -> None:
        """Do something that a server has to survive; if it does not, that is reported.

        Raises:
            ServerEndedError: It did not, and cannot be started again.
        """
        try:
            act()
        except ServerEndedError as ended:
            self._report.add(
                Deviation(
                    grade="violation",
                    check="server_ended",
                    step=what,
                    reason=str(ended),
                    source="docs/interop/vfio-user.rst: Client Disconnection",
                    text="the server keeps the device for the client that comes next",
                )
            )
            self._server.close()
            self.connect()

    def _start(self) -> None:
        self.close()
        try:
            self._running = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ServerEndedError(
                "is not there", f"{self._words[0]} cannot be started: {error.strerror}"
            ) from None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._server.connect()
            except ServerEndedError:
                if self._running.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return
