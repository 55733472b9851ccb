"""Hold a live server against the tables: messages, then the finite suite, then damaged streams.

The server loses the state of its device. One that ends is started again, if it is known how, and
that it ended is a violation: no client may end a server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfio_migration.model import Spec, SpecError
from vfio_migration.model.conformance.findings import Finding
from vfio_migration.model.machine import Machine
from vfio_migration.model.suite import check_hidden_states
from vfio_migration.runtime.conform.logging_cases import logging_cases
from vfio_migration.runtime.conform.report import Deviation, Report
from vfio_migration.runtime.conform.server_process import ServerProcess
from vfio_migration.runtime.conform.stream_cases import try_streams
from vfio_migration.runtime.conform.suite_run import SuiteRun
from vfio_migration.runtime.conform.tested_server import (
    Ended,
    OutOfTimeError,
    ServerEndedError,
    TestedServer,
)
from vfio_migration.runtime.conform.wire_cases import cases, try_case

TIMEOUT_S: Final = 5.0
"""How many seconds a server has for a reply."""
TOTAL_TIMEOUT_S: Final = 3600.0
"""How many seconds the whole test may take: a server may answer each request just in time."""


_THE_NEXT_CLIENT: Final = (
    "Client Disconnection",
    "the server keeps the device for the client that comes next",
)
_NO_CLIENT_MAY: Final[Mapping[Ended, tuple[str, str]]] = {
    "does not answer": ("Header", "a command that does not set No_reply is replied to"),
    "sends nonsense": ("Header", "a message begins with a header, and has the size it states"),
}
"""Which sentence a server breaks that is there and does not go on; else it is the other one."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What whoever tests has chosen.

    Attributes:
        hidden_states: The bound of the suite; see `model.suite`.
        timeout_s: How many seconds the server has for each reply.
        total_timeout_s: How many seconds the whole test may take.
        restart: The words of the command that starts the server; none if it is not known. What was
            started is ended when the test is over.
        progress: Called with what is being done, how much of it is done, and of how much.
    """

    hidden_states: int = 1
    timeout_s: float = TIMEOUT_S
    total_timeout_s: float = TOTAL_TIMEOUT_S
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
        SpecError: `hidden_states` is out of range; nothing was touched.
    """
    choices = choices or Choices()
    check_hidden_states(choices.hidden_states)
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

    def ended(doing: str, how: Ended) -> None:
        source, text = _NO_CLIENT_MAY.get(how, _THE_NEXT_CLIENT)
        report.add(
            Deviation(
                grade="violation",
                check="server_ended",
                step=doing,
                reason=f"the server {how}",
                source=f"docs/interop/vfio-user.rst: {source}",
                text=text,
            )
        )

    process = ServerProcess(choices.restart, report)
    server = TestedServer(
        str(path), spec, found, choices.timeout_s, choices.total_timeout_s, process, ended
    )
    try:
        server.meet()
        try:
            _check(server, spec, choices, report)
        except ServerEndedError as stopped:
            report.died = str(stopped)
        except OutOfTimeError:
            report.left_out.append(f"all that takes longer than {choices.total_timeout_s:g} s")
    finally:
        server.close()
        process.end()
    report.messages, report.ends_with_client = server.messages, process.ends_with_client
    report.seconds = time.monotonic() - began
    return report


def _check(server: TestedServer, spec: Spec, choices: Choices, report: Report) -> None:
    machine = _machine(server, spec, report)
    every = (*logging_cases(), *cases())
    for done, case in enumerate(every, 1):
        server.doing = case.step
        try:
            try_case(case, server, report)
        except ServerEndedError as ended:
            server.recover(ended)
        choices.progress("messages", done, len(every))
    if machine is None:
        return
    report.capabilities = machine.names
    run = SuiteRun(
        server, machine, report, lambda done, of: choices.progress("sequences", done, of)
    )
    run.run(choices.hidden_states)
    server.doing = "a damaged stream"
    try:
        try_streams(server, machine, report, run.stream)
    except ServerEndedError as ended:
        server.recover(ended)


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
