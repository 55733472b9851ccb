"""Version data: what real peers send is taken, and what a hostile one sends does no harm."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import CAPABILITIES, U64

from vfio_migration.runtime.protocol import Capabilities, Limits, MalformedError, TwinSocket

CAPS = Capabilities(max_msg_fds=8)


def caps(**reported: object) -> bytes:
    return json.dumps({"capabilities": reported}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b'{"capabilities":{"max_msg_fds":8}}\0',
        b'{"capabilities":{"max_msg_fds":8}}',
        b'{"capabilities":{"max_msg_fds":8}}\0\0\0',
        b' { "capabilities" : { "max_msg_fds" : 8 } }\n\0',
        b'{"capabilities":{"max_msg_fds":8,"migration":{"pgsize":4096}},"more":[1,{"a":null}]}\0',
        '{"capabilities":{"max_msg_fds":8,"n\u00e4me":"\u2603"}}\0'.encode(),
        b'{"capabilities":{"max_msg_fds":8,"x":1e400,"y":"\\ud800"}}\0',
        b'{"capabilities":{"max_msg_fds":8,"x":' + b"9" * 4000 + b"}}",
    ],
)
def test_what_peers_send(data: bytes) -> None:
    assert Capabilities.parse(data) == CAPS
    assert Capabilities.parse(memoryview(data)) == CAPS


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0"])
def test_nothing(data: bytes) -> None:
    assert Capabilities.parse(data) is None


@pytest.mark.parametrize("data", [b"{}", b'{"capabilities":{}}\0', b'{"other":1}'])
def test_no_capabilities(data: bytes) -> None:
    assert Capabilities.parse(data) == Capabilities()


BOMBS = {
    "deep lists": b"[" * 4000,
    "deep lists, closed": b"[" * 2000 + b"]" * 2000,
    "deep objects": b'{"a":' * 680 + b"1" + b"}" * 680,
    "deep, behind a string of closing brackets": b'{"a":"' + b"]" * 1900 + b'","b":' + b"[" * 1900,
    "deep inside an unknown capability": b'{"capabilities":{"x":'
    + b"[" * 1900
    + b"]" * 1900
    + b"}}",
    "a long number": b'{"capabilities":{"max_msg_fds":' + b"9" * 4000 + b"}}",
    "a name twice": b'{"capabilities":{"max_msg_fds":1,"max_msg_fds":2}}',
    "a name twice, at the top": b'{"capabilities":{},"capabilities":{"max_msg_fds":2}}',
    "many names, one twice": b"{" + b",".join(b'"%d":1' % (n % 400) for n in range(401)) + b"}",
    "no UTF-8": b'{"capabilities":{"\xff":1}}',
    "UTF-16": '{"capabilities":{}}'.encode("utf-16-le"),
    "UTF-8 with a mark": b"\xef\xbb\xbf{}",
    "surrogates": b'{"\xed\xa0\x80":1}',
    "half": b'{"capabilities":{"max_msg_fds":8}',
    "two": b"{}{}",
    "hidden behind the NUL": b'{}\0{"capabilities":{}}',
    "NaN": caps(max_msg_fds=float("nan")),
    "NaN, unknown": caps(x=float("nan")),
    "Infinity": caps(max_data_xfer_size=float("inf")),
    "a fraction": caps(max_msg_fds=8.5),
    "a float": caps(max_msg_fds=8.0),
    "a boolean for a number": caps(max_msg_fds=True),
    "a number for a boolean": caps(write_multiple=1),
    "a text for a boolean": caps(precopy_info="true"),
    "a string for a number": caps(pgsizes="4096"),
    "null": caps(max_dma_maps=None),
    "negative": caps(max_msg_fds=-1),
    "more than 64 bits": caps(pgsizes=2**64),
    "twin_socket is true": caps(twin_socket=True),
    "supported is a number": caps(twin_socket={"supported": 1}),
    "fd_index is negative": caps(twin_socket={"supported": True, "fd_index": -1}),
    "fd_index is null": caps(twin_socket={"supported": True, "fd_index": None}),
    "capabilities is a list": b'{"capabilities":[]}',
    "capabilities is null": b'{"capabilities":null}',
    "a list": b"[]",
    "a number": b"1",
    "blank": b" ",
    "bytes": bytes(range(1, 256)),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_refused(name: str) -> None:
    assert len(BOMBS[name]) <= 4096
    start = time.perf_counter()
    with pytest.raises(MalformedError) as caught:
        Capabilities.parse(BOMBS[name])
    assert time.perf_counter() - start < 30
    assert (caught.value.occasion, caught.value.errno) == ("version_incompatible", "EINVAL")


def test_too_long_is_refused_unread() -> None:
    with pytest.raises(MalformedError) as caught:
        Capabilities.parse(b'{"a":"' + b"x" * (1 << 20) + b'"}')
    assert (caught.value.occasion, caught.value.errno) == ("over_bound", "E2BIG")
    assert Capabilities.parse(b"{}".ljust(4096)) == Capabilities()
    with pytest.raises(MalformedError):
        Capabilities.parse(b"{}".ljust(4097))


def test_no_depth_is_too_much_for_a_small_stack_even_if_recursion_is_not_limited() -> None:
    """The interpreter's own limit is not what this rests on."""
    errors: list[BaseException | None] = []

    def run() -> None:
        for data in (b"[" * 4000, b'{"a":' * 680, b"[" * 256 + b"]" * 256):
            try:
                Capabilities.parse(data)
            except MalformedError as error:
                errors.append(error)

    limit, stack = sys.getrecursionlimit(), threading.stack_size(256 * 1024)
    sys.setrecursionlimit(1_000_000)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack)
    assert len(errors) == 3


def test_who_calls_from_deep_down_is_safe_too() -> None:
    """Where Python counts the nesting as recursion, there may be too little left of it."""

    def descend(levels: int) -> Capabilities | None:
        if levels:
            return descend(levels - 1)
        return Capabilities.parse(b'{"x":' + b"[" * 200 + b"]" * 200 + b"}")

    depth = len(inspect.stack(0))
    with contextlib.suppress(MalformedError):
        assert descend(sys.getrecursionlimit() - depth - 60) == Capabilities()


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(MalformedError):
        Capabilities.parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(list(Capabilities.__dataclass_fields__)) | st.text()


@given(st.dictionaries(NAMES, JSON | st.fixed_dictionaries({"supported": JSON, "fd_index": JSON})))
def test_any_json(reported: dict[str, object]) -> None:
    data = json.dumps({"capabilities": reported}).encode()
    try:
        found = Capabilities.parse(data)
    except MalformedError:
        return
    assert found is not None
    for name in Capabilities.__dataclass_fields__:
        value = getattr(found, name)
        if isinstance(value, TwinSocket):
            value = reported["twin_socket"] and value
        assert (value is None) == (name not in reported)


@given(CAPABILITIES)
def test_there_and_back(capabilities: Capabilities) -> None:
    data = capabilities.pack()
    assert data[-1] == 0
    assert data.count(b"\0") == 1
    assert b" " not in data
    assert Capabilities.parse(data) == capabilities


# --- What is agreed on ----------------------------------------------------------------------------


def test_a_peer_that_sends_no_limits_has_the_defaults() -> None:
    assert Limits.of_peer(None) == Limits(
        max_msg_fds=1,
        max_data_xfer_size=1048576,
        max_dma_maps=65535,
        pgsizes=4096,
        twin_socket=False,
        write_multiple=False,
        precopy_info=False,
    )
    assert Limits.of_peer(Capabilities()) == Limits.of_peer(None)


def test_our_own_limits_are_those_of_the_table() -> None:
    assert Limits() == Limits(
        max_msg_fds=16,
        max_data_xfer_size=1048576,
        max_dma_maps=65535,
        pgsizes=4096,
        twin_socket=True,
        write_multiple=True,
        precopy_info=True,
    )


@given(CAPABILITIES, st.booleans())
def test_a_reply_is_a_subset_of_the_proposal(proposed: Capabilities, twin: bool) -> None:
    own = Limits()
    agreed = own.agreed(Limits.of_peer(proposed))
    reply = agreed.reply(proposed, 0 if twin else None)
    assert reply is not None
    for name in Capabilities.__dataclass_fields__:
        assert (getattr(reply, name) is None) == (getattr(proposed, name) is None)
    assert agreed.max_dma_maps <= own.max_dma_maps
    assert reply.pgsizes != 0
    if reply.write_multiple is not None:
        assert reply.write_multiple == proposed.write_multiple
    if reply.precopy_info is not None:
        assert reply.precopy_info == proposed.precopy_info
    assert agreed.reply(None, None) is None


@given(U64, U64)
def test_a_client_has_no_more_maps_than_either_allows(own: int, reported: int) -> None:
    agreed = Limits(max_dma_maps=own).agreed(Limits.of_peer(Capabilities(max_dma_maps=reported)))
    assert agreed.max_dma_maps == min(own, reported)
