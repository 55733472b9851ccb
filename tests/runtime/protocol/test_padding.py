"""Padding, for any reply of variable length: what it states of itself, then whatever there is."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_migration.runtime import protocol as vp
from vfio_migration.runtime.protocol.faults import MalformedError

Case = tuple[vp.Message, vp.Message, int]
"""A command, a reply to it, and how long a payload the command allows."""

data = st.binary(max_size=64)
areas = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=4)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any reply of variable length, to a command that allows at least as much."""
    held, more = draw(data), draw(st.integers(0, 64))
    room = len(held) + more
    parts = tuple(vp.SubRegion(at, size, 0, 0) for at, size in draw(areas))
    mapped = tuple(vp.MmapArea(at, size) for at, size in draw(areas))
    info = vp.DeviceGetRegionInfoReply(1, 3, 4096, 0, (vp.SparseMmap(mapped),) if mapped else ())
    fds = vp.DeviceGetRegionIoFdsReply(1, parts)
    choices: list[Case] = [
        (vp.MigDataRead.asking(room), vp.MigDataReadReply(held), 8 + room),
        (vp.RegionRead(0, 0, room), vp.RegionReadReply(0, 0, held), 16 + room),
        (vp.DmaRead(0, room), vp.DmaReadReply(0, held), 16 + room),
        (vp.DeviceGetRegionInfo.asking(1, argsz=info.argsz + more), info, info.argsz + more),
        (vp.DeviceGetRegionIoFds(fds.argsz + more, 0, 1, 0), fds, fds.argsz + more),
    ]
    return draw(st.sampled_from(choices))


def inner(payload: bytes, reply: vp.Message) -> int:
    """How long a payload states that it is, read by hand."""
    if isinstance(reply, vp.MigDataReadReply):
        return 8 + struct.unpack_from("=I", payload, 4)[0]
    if isinstance(reply, vp.RegionReadReply):
        return 16 + struct.unpack_from("=I", payload, 12)[0]
    if isinstance(reply, vp.DmaReadReply):
        return 16 + struct.unpack_from("=Q", payload, 8)[0]
    return struct.unpack_from("=I", payload)[0]


@given(cases(), st.binary(max_size=80))
def test_padding_up_to_what_was_asked_for_is_not_looked_at(case: Case, padding: bytes) -> None:
    command, reply, room = case
    payload = reply.pack()
    assert inner(payload, reply) == len(payload)
    kind: Any = type(reply)
    whole = payload + padding
    if len(whole) > room:
        with pytest.raises(MalformedError):
            kind.answering(command, whole)
        return
    assert kind.answering(command, whole) == kind.answering(command, payload) == reply


@given(cases(), st.integers(1, 64))
def test_a_reply_that_states_more_of_itself_than_there_is_makes_no_sense(
    case: Case, cut: int
) -> None:
    command, reply, _ = case
    payload = reply.pack()
    kind: Any = type(reply)
    short = payload[: max(0, len(payload) - cut)]
    if isinstance(reply, vp.DeviceGetRegionInfoReply | vp.DeviceGetRegionIoFdsReply):
        return  # argsz states then how much room to ask with
    with pytest.raises(MalformedError):
        kind.answering(command, short)
