"""MIG_PRECOPY_INFO, a temporary end that is an answer of its own, and new initial data (REINIT)."""

from __future__ import annotations

import errno
import struct
from typing import Final

import pytest

from support import raw_client as raw
from support.precopy_devices import RenewedDevice
from support.raw_client import GET, PROBE, SET, Client, RefusedError
from vfio_migration.model import load
from vfio_migration.runtime.kit.devices import MemoryDevice

SPEC: Final = load()
STATES: Final = {row.name: row.value for row in SPEC.states}
PRE_COPY, STOP_COPY, RUNNING = (STATES[name] for name in ("PRE_COPY", "STOP_COPY", "RUNNING"))
REINIT: Final = 1
OPT_IN: Final = 12
SIZE: Final = 1 << 16
RENEWED: Final = 1 << 14
INFO: Final = struct.Struct("=IIQQ")


def info(client: Client, argsz: int = INFO.size, *, quiet: bool = False) -> tuple[int, int, int]:
    """Return the flags, initial_bytes and dirty_bytes."""
    ask = struct.pack("=II", argsz, 0)
    if quiet:
        client.send(raw.PRECOPY_INFO, ask, flags=0x10)
        return 0, 0, 0
    size, flags, initial, dirty = INFO.unpack(client.ask(raw.PRECOPY_INFO, ask))
    assert size == INFO.size
    return flags, initial, dirty


def opt_in(client: Client) -> None:
    client.feature(PROBE | SET | OPT_IN)
    client.feature(SET | OPT_IN)


def refused(act, *arguments) -> int:
    with pytest.raises(RefusedError) as failed:
        act(*arguments)
    return failed.value.errno


def read_to_the_pause(client: Client, size: int = 1000) -> int:
    """Read until there is nothing for now; return how many bytes there were."""
    read = 0
    while True:
        try:
            got = client.mig_read(size)
        except RefusedError as refusal:
            if refusal.errno != errno.ENOMSG:
                raise
            return read
        assert got
        read += len(got)


@pytest.fixture
def memory(serve):
    return serve(MemoryDevice(size=SIZE))


@pytest.fixture
def renewed(serve):
    return serve(RenewedDevice(size=SIZE, renewed=RENEWED))


def test_what_is_left_falls_to_nothing_and_then_the_end_is_temporary(memory) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        assert client.agreed["precopy_info"] is True
        client.set_state(PRE_COPY)
        _flags, left, dirty = info(client)
        assert left > SIZE
        assert dirty == 0
        while left:
            got = len(client.mig_read(9000))
            assert info(client) == (0, left - got, 0)
            left -= got
        assert refused(client.mig_read, 9000) == errno.ENOMSG
        memory.device.change(2)
        flags, initial, dirty = info(client)
        assert (flags, initial) == (0, 0)
        assert read_to_the_pause(client) == dirty > 0


def test_the_end_of_the_stream_of_a_stopped_device_is_a_short_reply_as_ever(memory) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        client.set_state(PRE_COPY)
        read_to_the_pause(client)
        client.set_state(STOP_COPY)
        assert 0 < len(client.mig_read(SIZE)) < SIZE
        assert client.mig_read(SIZE) == b""


def test_a_read_of_no_bytes_is_no_end(memory) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        client.set_state(PRE_COPY)
        read_to_the_pause(client)
        assert client.mig_read(0) == b""


def test_a_client_that_did_not_agree_to_it_is_answered_as_before(memory) -> None:
    with memory.client() as client:
        assert "precopy_info" not in client.agreed
        client.set_state(PRE_COPY)
        assert refused(info, client) == errno.EINVAL
        while len(client.mig_read(9000)) == 9000:
            pass
        assert client.mig_read(9000) == b""


@pytest.mark.parametrize("offered", [False, None], ids=["false", "nothing"])
def test_it_is_agreed_on_only_if_the_client_can_do_it(memory, offered: bool | None) -> None:
    capabilities = {**raw.CAPABILITIES} | ({} if offered is None else {"precopy_info": offered})
    with memory.client(capabilities=capabilities) as client:
        assert not client.agreed.get("precopy_info", False)
        assert refused(info, client) == errno.EINVAL


@pytest.mark.parametrize("state", [row.name for row in SPEC.states if row.settable])
def test_it_is_answered_where_the_table_has_a_temporary_end(memory, state: str) -> None:
    end = SPEC.stream_end(state)
    with memory.client(capabilities=raw.PROPOSED) as client:
        client.set_state(STATES[state])
        if end is not None and end.precopy_info:
            assert info(client)[1] > SIZE
        else:
            assert refused(info, client) == errno.EINVAL


@pytest.mark.parametrize("argsz", [0, 8, INFO.size - 1])
def test_a_client_without_room_for_the_reply_is_refused(memory, argsz: int) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        client.set_state(PRE_COPY)
        assert refused(info, client, argsz) == errno.EINVAL


def test_new_initial_data_is_announced_once_to_a_client_that_opted_in(renewed) -> None:
    with renewed.client(capabilities=raw.PROPOSED) as client:
        opt_in(client)
        client.set_state(PRE_COPY)
        assert info(client)[0] == 0
        read_to_the_pause(client)
        flags, initial, dirty = info(client)
        assert (flags, dirty) == (REINIT, 0)
        assert initial > RENEWED
        renewed.device.change(1)  # it is behind the new initial data
        assert info(client)[:2] == (0, initial)
        got = len(client.mig_read(100))
        assert info(client)[:2] == (0, initial - got)
        flags, initial, dirty = info(client)
        assert read_to_the_pause(client) == initial + dirty
        assert info(client) == (0, 0, 0)


def test_to_a_client_that_did_not_opt_in_initial_bytes_only_fall(renewed) -> None:
    with renewed.client(capabilities=raw.PROPOSED) as client:
        client.set_state(PRE_COPY)
        read_to_the_pause(client)
        flags, initial, dirty = info(client)
        assert (flags, initial) == (0, 0)
        assert dirty > RENEWED
        assert read_to_the_pause(client) == dirty


def test_an_announcement_that_did_not_leave_is_made_again(renewed) -> None:
    with renewed.client(capabilities=raw.PROPOSED) as client:
        opt_in(client)
        client.set_state(PRE_COPY)
        read_to_the_pause(client)
        info(client, quiet=True)
        assert info(client)[0] == REINIT
        assert info(client)[0] == 0


def test_an_announcement_that_did_not_leave_is_none_of_the_next_session(renewed) -> None:
    with renewed.client(capabilities=raw.PROPOSED) as client:
        opt_in(client)
        client.set_state(PRE_COPY)
        read_to_the_pause(client)
        info(client, quiet=True)
        client.set_state(RUNNING)
        client.set_state(PRE_COPY)
        assert info(client)[0] == 0


@pytest.mark.parametrize("state", [RUNNING, STOP_COPY])
def test_what_is_announced_outside_of_pre_copy_is_memory_that_has_changed(
    memory, state: int
) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        opt_in(client)
        client.set_state(state)
        memory.device.announce_initial(memory.device.block("bar2"))
        client.set_state(RUNNING)
        client.set_state(PRE_COPY)
        assert info(client)[0] == 0


def test_the_next_client_has_to_opt_in_anew(renewed) -> None:
    with renewed.client(capabilities=raw.PROPOSED) as client:
        opt_in(client)
        client.set_state(PRE_COPY)
    with renewed.client(capabilities=raw.PROPOSED) as client:
        read_to_the_pause(client)
        assert info(client)[0] == 0
        opt_in(client)
        assert info(client)[0] == REINIT


def test_what_did_not_leave_is_left_to_read(memory) -> None:
    with memory.client(capabilities=raw.PROPOSED) as client:
        client.set_state(PRE_COPY)
        whole = info(client)[1]
        client.send(raw.MIG_READ, struct.pack("=II", 8 + SIZE // 2, SIZE // 2), flags=0x10)
        _flags, initial, dirty = info(client)
        assert initial + dirty == whole
        assert initial < whole
        assert read_to_the_pause(client) == whole


def test_opting_in_without_the_option_has_no_effect(renewed) -> None:
    """As ever: the size that a client of old knows is all that it is answered."""
    with renewed.client() as client:
        opt_in(client)
        client.set_state(PRE_COPY)
        while client.mig_read(SIZE):
            pass
        assert struct.unpack("=Q", client.feature(GET | 9, room=8))[0] > RENEWED
