"""What is stated of messages, tried on a server: each case names the row that decides it.

A case sends something and reads what comes back. What has to come of it is the row of
`model/wire.toml` for its occasion, or success; by whom that can be demanded follows from the
document that the row is taken from, as for a recorded run (`model/conformance.toml`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vfio_migration.model.conformance.grades import VFIO_USER, Grade, load_grades
from vfio_migration.model.wire import Occasion
from vfio_migration.runtime.conform.report import Deviation, Report
from vfio_migration.runtime.conform.tested_server import (
    STATE_FEATURE,
    Reply,
    ServerEndedError,
    TestedServer,
)
from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import (
    FEATURE_GET,
    FEATURE_MASK,
    FEATURE_PROBE,
    FEATURE_SET,
    HEADER_SIZE,
    NO_REPLY,
    WIRE,
)

_GET_STATE: Final = struct.pack("=II", 16, FEATURE_GET | STATE_FEATURE)
_UNKNOWN_COMMAND: Final = 4000
_UNKNOWN_FLAG: Final = 1 << 31
_FEATURE: Final = "docs/interop/vfio-user.rst: VFIO_USER_DEVICE_FEATURE"
_SIZES: Final = "docs/interop/vfio-user.rst: Message sizes"
_INFO: Final = "docs/interop/vfio-user.rst: VFIO_USER_DEVICE_GET_INFO"
_HEADER: Final = "docs/interop/vfio-user.rst: Header"
_DISCONNECTION: Final = "docs/interop/vfio-user.rst: Client Disconnection"


class WrongAnswer(Exception):  # noqa: N818 - it ends a case, and is no error of ours
    """What the server answered, where something else was expected."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is tried.

    Attributes:
        name: What it is called.
        step: What is asked, in words.
        occasion: The row of [[answers]] that decides it; None if it has to succeed.
        source: The document, where no row has it.
        send: Sends it to a server that is connected; returns the reply, or None if none is wanted.
            It raises `WrongAnswer` if what came is wrong beyond success and failure.
        negotiated: A version is agreed on before.
    """

    name: str
    step: str
    occasion: Occasion | None
    source: str
    send: Callable[[TestedServer], Reply | None]
    negotiated: bool = True


def cases() -> tuple[Case, ...]:
    """Return all cases, in the order in which they are tried."""
    device_info = struct.pack("=IIII", 16, 0, 0, 0)
    state = struct.pack("=Ii", 2, -1)

    def feature(methods: int, size: int = 16, data: bytes = b"") -> bytes:
        return struct.pack("=II", size, methods | STATE_FEATURE) + data

    def refused(
        name: str, step: str, occasion: Occasion, send: Callable[[TestedServer], Reply | None],
        *, negotiated: bool = True,
    ) -> Case:  # fmt: skip
        return Case(name, step, occasion, "", send, negotiated)

    return (
        refused(
            "command_before_version", "DEVICE_GET_INFO before VERSION", "version_first",
            lambda server: server.ask("DEVICE_GET_INFO", device_info), negotiated=False,
        ),
        refused(
            "version_incompatible", "VERSION 77.0 of a first message", "version_incompatible",
            lambda server: server.negotiate(77), negotiated=False,
        ),
        refused(
            "version_again", "a second VERSION", "version_again",
            lambda server: server.negotiate(),
        ),
        refused(
            "command_unknown", f"command {_UNKNOWN_COMMAND}", "command_unknown",
            lambda server: server.ask(_UNKNOWN_COMMAND),
        ),
        refused(
            "wrong_direction", "DMA_READ, which is the server's to send", "wrong_direction",
            lambda server: server.ask("DMA_READ", struct.pack("=QQ", 0, 4)),
        ),
        Case(
            "device_info", "DEVICE_GET_INFO", None, _INFO,
            lambda server: server.ask("DEVICE_GET_INFO", device_info),
        ),
        refused(
            "short_command", "DEVICE_GET_INFO of 4 bytes", "size_wrong",
            lambda server: server.ask("DEVICE_GET_INFO", device_info[:4]),
        ),
        refused(
            "size_below_header", "a header whose size is 15", "size_below_header", _short_header,
        ),
        refused(
            "feature_unknown", "PROBE and GET of feature 65000", "feature_unknown",
            lambda server: server.feature(65000 & FEATURE_MASK, FEATURE_GET | FEATURE_PROBE),
        ),
        refused(
            "feature_flags_clash", "GET and SET together, without PROBE", "feature_flags_clash",
            lambda server: server.ask(
                "DEVICE_FEATURE", feature(FEATURE_GET | FEATURE_SET, data=state)
            ),
        ),
        refused(
            "method_missing", "a feature with neither GET, SET nor PROBE", "method_missing",
            lambda server: server.ask("DEVICE_FEATURE", feature(0)),
        ),
        refused(
            "flags_unknown", "GET of the state with bit 31 of the flags set", "flags_unknown",
            lambda server: _unobserved(
                server, "DEVICE_FEATURE", feature(FEATURE_GET | _UNKNOWN_FLAG)
            ),
        ),
        Case(
            "probe", "PROBE of GET and SET of MIG_DEVICE_STATE", None, _FEATURE,
            lambda server: server.ask(
                "DEVICE_FEATURE", feature(FEATURE_PROBE | FEATURE_GET | FEATURE_SET, 8)
            ),
        ),
        Case(
            "probe_changes_nothing", "PROBE of SET, and the state read back", None, _FEATURE,
            _probe_of_set,
        ),
        Case(
            "argsz_larger", "GET of the state with room for 4096 bytes", None, _FEATURE,
            lambda server: server.ask("DEVICE_FEATURE", feature(FEATURE_GET, 4096)),
        ),
        Case(
            "argsz_small", "GET of the state with room for none of it", None, _SIZES,
            lambda server: _too_small(server, feature(FEATURE_GET, 8)),
        ),
        Case(
            "longer_payload", "SET of the present state with eight bytes more", None, "decision",
            lambda server: server.ask(
                "DEVICE_FEATURE", feature(FEATURE_SET, 24, state + bytes(8))
            ),
        ),
        Case(
            "several_at_once", "eight GETs of the state, sent before any reply is read", None,
            _HEADER, _several_at_once,
        ),
        Case(
            "no_reply", "GET of the state with No_reply, and another one without", None, _HEADER,
            _no_reply,
        ),
        Case(
            "in_pieces", "a message that comes byte by byte", None, _HEADER, _in_pieces,
        ),
        refused(
            "read_out_of_session", "MIG_DATA_READ in RUNNING", "out_of_session",
            lambda server: server.read_data(),
        ),
        refused(
            "write_out_of_session", "MIG_DATA_WRITE in RUNNING", "out_of_session",
            lambda server: server.write_data(b"data"),
        ),
        Case(
            "hang_up", "a client that hangs up in the middle of a message, and one after it", None,
            _DISCONNECTION, _hang_up,
        ),
    )  # fmt: skip


def try_case(case: Case, server: TestedServer, report: Report) -> None:
    """Try a case on a connection of its own, and report what is wrong.

    Raises:
        ServerEndedError: The server is not there any more.
    """
    server.close()
    server.connect(negotiate=case.negotiated)
    if case.negotiated:
        server.reset()
    report.cases += 1
    row = None if case.occasion is None else WIRE.answer(case.occasion)
    source = case.source if row is None else row.source
    wrong, reply = "", None
    try:
        reply = case.send(server)
    except WrongAnswer as answer:
        wrong = str(answer)
    except MalformedError as error:
        wrong = f"the reply cannot be read: {error.why}"
    except ServerEndedError as ended:
        allowed = row is not None and (row.outcome == "closes" or row.source == "decision")
        if ended.how != "closed the connection" or not allowed:
            wrong = f"the server {ended.how}"
    else:
        if reply is not None:
            wrong = _compared(reply, refused=row is not None)
    server.close()
    server.connect()  # it is still there, or that is the end
    if wrong:
        report.add(
            Deviation(
                grade=_grade(source),
                check=case.name,
                step=case.step,
                reason=wrong,
                source="" if source == "decision" else source,
                request=b"" if reply is None else reply.request,
                reply=b"" if reply is None else reply.message,
            )
        )


def _compared(reply: Reply, *, refused: bool) -> str:
    if refused and reply.errno is None:
        return "it succeeds, and is to be refused"
    if not refused and reply.errno is not None:
        return f"it is refused ({reply.errno}), and is to succeed"
    return ""


def _grade(source: str) -> Grade:
    """Return how bad it is to differ from what a document states."""
    bound = load_grades().peer(VFIO_USER).bound_by
    binds = any(place.startswith(bound) for place in source.split("; "))
    return "violation" if binds else "house rule"


# --- what takes more than one message ---


def _unobserved(server: TestedServer, command: str, payload: bytes) -> Reply:
    """Ask something that a recording has no words for."""
    server.observed = False
    return server.ask(command, payload)


def _too_small(server: TestedServer, payload: bytes) -> None:
    """A reply that does not fit is refused, or states the size that it needs and has no more."""
    reply = server.ask("DEVICE_FEATURE", payload)
    if reply.errno is None and int.from_bytes(reply.payload[:4], "little") <= len(payload):
        raise WrongAnswer("it succeeds without the state, and does not state which size it needs")


def _short_header(server: TestedServer) -> Reply:
    server.observed = False
    server.send_bytes(struct.pack("=HHIII", 1, 4, HEADER_SIZE - 1, 0, 0))
    return server.receive()


def _probe_of_set(server: TestedServer) -> Reply:
    before = server.state()
    reply = server.feature(
        "MIG_DEVICE_STATE", FEATURE_PROBE | FEATURE_SET, struct.pack("=Ii", 1, -1)
    )
    after = server.state()
    if before != after:
        raise WrongAnswer(f"the state was {before} and is {after}")
    return reply


def _several_at_once(server: TestedServer) -> None:
    sent = [server.send("DEVICE_FEATURE", _GET_STATE)[:2] for _ in range(8)]
    answered = [server.receive().message[:2] for _ in sent]
    if sorted(sent) != sorted(answered):
        raise WrongAnswer("the replies do not have the message IDs of the commands")


def _no_reply(server: TestedServer) -> None:
    server.send("DEVICE_FEATURE", _GET_STATE, flags=NO_REPLY)
    wanted = server.send("DEVICE_FEATURE", _GET_STATE)
    if server.receive().message[:2] != wanted[:2]:
        raise WrongAnswer("the first reply is to the command that wanted none")


def _in_pieces(server: TestedServer) -> Reply:
    server.observed = False
    message = struct.pack("=HHIIIIIII", 7, 4, 32, 0, 0, 16, 0, 0, 0)
    for at in range(len(message)):
        server.send_bytes(message[at : at + 1])
    return server.receive()


def _hang_up(server: TestedServer) -> Reply:
    server.send_bytes(struct.pack("=HHIII", 9, 4, 32, 0, 0)[:11])
    server.reconnect()
    return server.ask("DEVICE_GET_INFO", struct.pack("=IIII", 16, 0, 0, 0))
