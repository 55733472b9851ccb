"""Streams that no device may accept, or run on: cut short, empty, doubled, with a byte changed.

A device judges a stream when the session that writes it is left. The vfio-user text does not
state that it has to find damage; a device that accepts some may run on half a state, so this is
suspicious and not a violation. What counts is the empty stream and the one that is cut in half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vfio_migration.model.machine import Machine
from vfio_migration.model.suite import Input, behaviour
from vfio_migration.runtime.conform.report import Deviation, Report
from vfio_migration.runtime.conform.tested_server import DATA_BYTES, TestedServer


def damaged(pieces: Sequence[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield streams with what is wrong with them, in words."""
    whole = b"".join(pieces)
    half = len(whole) // 2
    yield "an empty stream", []
    yield "a stream that is cut in half", [whole[:half]]
    yield "a stream without its last byte", [whole[:-1]]
    yield "a stream that comes twice", [whole, whole]
    yield (
        "a stream with one byte changed",
        [whole[:half] + bytes([whole[half] ^ 0xFF]) + whole[half + 1 :]],
    )


def try_streams(
    server: TestedServer, machine: Machine, report: Report, pieces: Sequence[bytes]
) -> None:
    """Write each damaged stream, leave the session, and report what is accepted.

    Raises:
        ServerEndedError: The server did not go on.
    """
    spec = machine.spec
    tested = behaviour(machine)
    judged = next((one for one in tested.states if _is_judged(machine, one)), None)
    if judged is None or not any(pieces):
        return
    way = tested.way_to(judged)
    leave = next(
        one
        for one in tested.inputs
        if one.kind == "set" and "closes" in tested.moves[judged, one].session
    )
    for about, stream in damaged(pieces):
        server.reset()
        for one in way:
            server.set_state(one.value)
        if server.state() != spec.state(judged).value:
            report.left_out.append(f"damaged streams: the device does not come to {judged}")
            break
        written = [
            server.write_data(piece[at : at + DATA_BYTES]).errno
            for piece in stream
            for at in range(0, len(piece), DATA_BYTES)
        ]
        left = server.set_state(leave.value)
        report.cases += 1
        if all(errno is None for errno in written) and left.errno is None:
            report.add(
                Deviation(
                    grade="suspicious",
                    check="stream_accepted",
                    step=f"{about}, and {judged} left",
                    reason=f"the device accepts it and is in {_name(machine, leave)}",
                    source=spec.session(spec.state(judged).session).source,
                    text="the device judges the stream; a damaged one is not to be run on",
                    request=left.request,
                    reply=left.message,
                )
            )
    server.reset()


def _is_judged(machine: Machine, state: str) -> bool:
    spec = machine.spec
    return spec.session(spec.state(state).session).judged


def _name(machine: Machine, leave: Input) -> str:
    return next(row.name for row in machine.states if row.value == leave.value)
