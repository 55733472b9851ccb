"""Replies that are longer than their fields state, as some servers send, and unasked ones.

The server library nutanix/libvfio-user answers MIG_DATA_READ with as many bytes as were asked for;
`size` states how much of them is data. In every reply of variable length what it states of itself
is at most as long as the message, and the message at most as long as was asked for.
"""

from __future__ import annotations

import errno
import pickle
import struct

import pytest
from client_support import (
    ERROR,
    FEATURE,
    GET_INFO,
    IO_FDS,
    MIG_READ,
    REGION_INFO,
    REGION_READ,
    REPLY,
    VERSION,
    no_leak,
)

from vfio_migration.runtime.client import RefusedError, calls
from vfio_migration.runtime.protocol import FeatureDeviceState

INFO = struct.pack("=IIII", 16, 3, 9, 5)
PAD = b"\xa5" * 64


def reply(client_of, number: int, payload: bytes, call, **options):
    """What a call comes to that is answered so; the connection goes on afterwards."""

    def script(peer) -> None:
        peer.handshake({})
        ident, _ = peer.expect(number)
        peer.send(ident, number, payload, **options)
        peer.state(2)

    client = client_of(script)
    try:
        return client.do(call)
    finally:
        assert client.state() == "RUNNING"


@pytest.mark.parametrize("size", [0, 1, 7, 63, 64])
def test_migration_data_is_as_long_as_size_states_and_the_rest_is_padding(foreign, size) -> None:
    got: list[bytes] = []
    payload = struct.pack("=II", 8 + size, size) + b"d" * size + PAD[size:]
    call = calls.data_read(64, lambda data: got.append(bytes(data)))
    assert reply(foreign, MIG_READ, payload, call) == size
    assert got == [b"d" * size]


@pytest.mark.parametrize("count", [0, 3, 64])
def test_a_region_is_read_as_far_as_count_states(foreign, count) -> None:
    payload = struct.pack("=QII", 0, 0, count) + b"r" * count + PAD[count:]
    assert reply(foreign, REGION_READ, payload, calls.region_read(0, 0, 64)) == b"r" * count


def test_region_info_is_read_as_far_as_argsz_states(foreign) -> None:
    areas = struct.pack("=HHIIIQQ", 1, 1, 0, 1, 0, 4096, 8192)
    payload = struct.pack("=IIIIQQ", 64, 15, 0, 32, 1 << 20, 0) + areas + PAD
    with reply(foreign, REGION_INFO, payload, calls.region_info(0)) as info:
        assert [(one.offset, one.size) for one in info.areas] == [(4096, 8192)]
        assert info.more == 0


def test_region_info_without_capabilities_may_be_padded(foreign) -> None:
    payload = struct.pack("=IIIIQQ", 32, 3, 1, 0, 4096, 0) + PAD
    assert reply(foreign, REGION_INFO, payload, calls.region_info(1)).size == 4096


def test_io_descriptors_are_read_as_far_as_argsz_states(foreign) -> None:
    entry = struct.pack("=QQIIIIQ", 0, 4, 0, 0, 0, 0, 9)
    payload = struct.pack("=IIII", 56, 0, 0, 1) + entry + PAD
    with reply(foreign, IO_FDS, payload, calls.region_io_fds(0)) as found:
        assert [one.value for one in found.parts] == [9]


def test_a_feature_is_read_as_far_as_its_structure_goes(foreign) -> None:
    """Whatever argsz states: the text has the length of the data "added" to it."""
    for argsz in (0, 8, 16, 24):
        payload = struct.pack("=IIIi", argsz, 0x10002, 3, -1)
        assert reply(foreign, FEATURE, payload, calls.get_state()) == 3
    asked = calls._feature("MIG_DEVICE_STATE", calls._state, get=True, room=64)
    payload = struct.pack("=IIIi", 16, 0x10002, 3, -1) + PAD[:56]
    assert reply(foreign, FEATURE, payload, asked) == 3


def test_a_bitmap_is_as_long_as_its_pages_need(foreign) -> None:
    call = calls.logging_report(0, 64 * 4096, 4096)
    payload = struct.pack("=IIQQQQ", 40, 0x10008, 0, 64 * 4096, 4096, 5)
    assert reply(foreign, FEATURE, payload, call) == (5).to_bytes(8, "little")


def test_what_follows_the_nul_of_version_data_is_padding(foreign) -> None:
    def script(peer) -> None:
        peer.handshake(data=b'{"capabilities":{"max_msg_fds":3}}\0' + PAD)
        peer.state(2)

    client = foreign(script)
    assert client.max_fds == 3
    assert client.state() == "RUNNING"


def test_descriptors_that_nobody_asked_for_are_closed_and_the_reply_is_taken(foreign) -> None:
    with no_leak():

        def script(peer) -> None:
            ident, _ = peer.expect(VERSION)
            peer.send(ident, VERSION, bytes(4), fds=[0])
            ident, _ = peer.expect(GET_INFO)
            peer.send(ident, GET_INFO, INFO, fds=[0, 0])
            ident, _ = peer.expect(GET_INFO)
            peer.send(ident, GET_INFO, flags=REPLY | ERROR, errno=errno.EPERM, fds=[0])
            peer.state(2)

        client = foreign(script)
        assert client.info().num_irqs == 5
        with pytest.raises(RefusedError, match="EPERM"):
            client.info()
        assert client.state() == "RUNNING"
        client.close()


# --- errors ---


def test_an_error_without_an_errno_is_a_failure_without_errno(foreign) -> None:
    """As the server of rust-vmm sends it, and as the text allows: the errno may be zero."""
    with pytest.raises(RefusedError) as caught:
        reply(foreign, GET_INFO, b"", calls.info(), flags=REPLY | ERROR, errno=0)
    assert (caught.value.errno, caught.value.code) == (None, 0)
    assert str(caught.value) == "server: DEVICE_GET_INFO is refused (without an errno)"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.errno, again.code) == (str(caught.value), None, 0)


@pytest.mark.parametrize("number", [0, errno.EINVAL])
def test_an_error_reply_with_the_type_of_a_command_is_a_reply(foreign, number) -> None:
    """As the server of rust-vmm sent it up to 0.1.3: only a reply has an error."""
    with pytest.raises(RefusedError) as caught:
        reply(foreign, GET_INFO, b"", calls.info(), flags=ERROR, errno=number)
    assert caught.value.code == number


def test_an_error_of_the_peer_that_is_called_ebadmsg_is_its_answer(foreign) -> None:
    options = {"flags": REPLY | ERROR, "errno": errno.EBADMSG}
    with pytest.raises(RefusedError, match=r"\(EBADMSG\)"):
        reply(foreign, GET_INFO, b"payload", calls.info(), **options)


@pytest.mark.parametrize("state", ["STOP_COPY", 3])
def test_a_refused_state_is_named_with_its_feature_and_errno(foreign, state) -> None:
    def script(peer) -> None:
        peer.handshake({})
        ident, payload = peer.expect(FEATURE)
        assert FeatureDeviceState.parse(payload[8:]).device_state == 3
        peer.send(ident, FEATURE, flags=REPLY | ERROR, errno=errno.EINVAL)

    with pytest.raises(RefusedError) as caught:
        foreign(script).set_state(state)
    assert caught.value.command == "DEVICE_FEATURE"
    assert caught.value.about == "SET MIG_DEVICE_STATE STOP_COPY"
    assert str(caught.value) == (
        "server: DEVICE_FEATURE SET MIG_DEVICE_STATE STOP_COPY is refused (EINVAL)"
    )


def test_a_state_is_asked_for_by_any_number(foreign) -> None:
    """One that the table does not know, too: it is for the server to refuse it."""
    asked = []

    def script(peer) -> None:
        peer.handshake({})
        for _ in range(2):
            ident, payload = peer.expect(FEATURE)
            asked.append(FeatureDeviceState.parse(payload[8:]).device_state)
            peer.send(ident, FEATURE, flags=REPLY | ERROR, errno=errno.EINVAL)

    client = foreign(script)
    for value in (99, 2**32 - 1):
        with pytest.raises(RefusedError, match=f"MIG_DEVICE_STATE {value} is refused"):
            client.set_state(value)
    assert asked == [99, 2**32 - 1]


def test_a_feature_that_is_refused_is_named(foreign) -> None:
    def script(peer) -> None:
        peer.handshake({})
        for _ in range(2):
            ident, _ = peer.expect(FEATURE)
            peer.send(ident, FEATURE, flags=REPLY | ERROR, errno=errno.ENOTTY)

    client = foreign(script)
    with pytest.raises(
        RefusedError, match=r"DEVICE_FEATURE GET MIG_DATA_SIZE is refused \(ENOTTY\)"
    ):
        client.data_size()
    with pytest.raises(RefusedError, match=r"DEVICE_FEATURE PROBE SET MIGRATION is refused"):
        client.do(calls.probe("MIGRATION", set_=True))
