"""The core without a socket: interleavings, and that both clients do the same with them."""

from __future__ import annotations

import copy
import gc
import inspect
import os
import pickle
import struct
import weakref
from functools import partial

import pytest
from client_support import HEADER, Client, Looped, Scene, no_leak
from hypothesis import given
from hypothesis import strategies as st

from support.examples import examples
from vfio_migration.runtime.client import (
    ClientError,
    Core,
    Exchange,
    PeerDisconnectedError,
    PeerProtocolError,
    RefusedError,
    TimedOutError,
    calls,
)
from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.client.memory import AddressSpace, SharedMemory, Window
from vfio_migration.runtime.protocol import CannotSendError

INFO = struct.pack("=IIII", 16, 3, 9, 5)


def reply(ident: int, command: int, payload: bytes = b"", flags: int = 1, code: int = 0) -> bytes:
    return HEADER.pack(ident, command, 16 + len(payload), flags, code) + payload


def agreed(**options) -> Core:
    core = Core("peer", **options)
    outgoing, pending = core.negotiate()
    core.take(core.connection.receive(reply(outgoing.id, 1, bytes(4))))
    assert pending.result() is None
    return core


# Each step: what is asked, how it is answered (the order is drawn), what comes of it.
STEPS = {
    "info": (calls.info(), reply(0, 4, INFO), lambda: 5),
    "refused": (calls.reset(), reply(0, 13, b"", 0x21, 16), lambda: RefusedError),
    "nonsense": (calls.info(), reply(0, 4, b"?"), lambda: PeerProtocolError),
    "read": (calls.region_read(0, 0, 4), reply(0, 9, struct.pack("=QII", 0, 0, 2) + b"ab"), bytes),
}


@examples(150)
@given(
    steps=st.lists(st.sampled_from(["info", "refused", "read"]), min_size=1, max_size=8),
    data=st.data(),
)
def test_answers_find_their_calls_in_any_order_and_any_pieces(steps, data) -> None:
    seen: list[Exchange] = []
    core = agreed(observers=[seen.append])
    begun = [core.begin(STEPS[step][0]) for step in steps]
    abandoned = data.draw(st.sets(st.sampled_from(range(len(steps)))))
    for at in abandoned:
        begun[at][1].abandon()
    order = data.draw(st.permutations(range(len(steps))))
    dma = reply(99, 11, struct.pack("=QQ", 0, 4), flags=0)
    stream = bytearray()
    for at in order:
        message = bytearray(STEPS[steps[at]][1])
        struct.pack_into("=H", message, 0, begun[at][0].id)
        stream += message
        if data.draw(st.booleans()):
            stream += dma
    answers = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        answers += core.take(core.connection.receive(bytes(stream[:size])))
        del stream[:size]
    for at, step in enumerate(steps):
        pending = begun[at][1]
        assert pending.done
        if step == "refused":
            with pytest.raises(RefusedError):
                pending.result()
        elif at in abandoned:
            with pytest.raises(PeerDisconnectedError):
                pending.result()
        elif step == "info":
            assert pending.result().num_irqs == 5
        else:
            assert pending.result() == b"ab"
    assert core.waiting == 0
    assert core.over is None
    recorded = [one.what for one in seen]
    assert recorded.count("reply") == len(steps) + 1
    assert recorded.count("served") == len(answers)
    assert all(bytes(one)[12:16] == struct.pack("=I", 14) for one in answers)


def outcome(act) -> object:
    try:
        result = act()
    except (ClientError, ValueError) as error:
        return type(error).__name__, str(error)
    return result


REPORTED = [None, {}, {"max_data_xfer_size": 3}, {"max_msg_fds": 2}]


def test_both_clients_do_the_same() -> None:
    with no_leak():
        both_clients_do_the_same()


@examples(40)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=6),
    reported=st.sampled_from(REPORTED),
    ends=st.sampled_from(["stays", "goes", "garbage"]),
    cut=st.integers(1, 40),
    data=st.data(),
)
def both_clients_do_the_same(steps, reported, ends, cut, data) -> None:
    """The same calls, begun and finished in the same order, against the same bytes."""
    steps = [*steps, "info"]  # which is sent in any case: the server answers after it
    little = reported is not None and "max_data_xfer_size" in reported
    sent = [at for at, step in enumerate(steps) if not (little and step == "read")]
    order = data.draw(st.permutations(sent))
    results = []
    for kind in (Client, Looped):
        got: list[bytes] = []

        def script(peer, got=got) -> None:
            peer.handshake(reported)
            idents = {}
            for at in sent:
                ident, command, flags, payload = peer.read()
                idents[at] = ident
                got.append(struct.pack("=HHI", ident, command, flags) + payload)
            stream = bytearray()
            for at in order:
                stream += STEPS[steps[at]][1]
                struct.pack_into("=H", stream, len(stream) - len(STEPS[steps[at]][1]), idents[at])
            if ends == "garbage":
                stream += b"\xff" * 64
            for at in range(0, len(stream), cut):
                peer.raw(stream[at : at + cut])
            if ends == "goes":
                peer.close()

        scene = Scene(script)
        client = kind(scene.sock, name="peer", timeout_s=10.0)
        begun = [outcome(partial(client.begin, STEPS[step][0])) for step in steps]
        found = [
            one if isinstance(one, tuple) else outcome(partial(client.finish, one)) for one in begun
        ]
        client.close()
        scene.close()
        results.append((found, got))
    assert results[0] == results[1]


def test_all_ids_are_taken() -> None:
    core = agreed()
    for _ in range(0x10000):
        core.begin(calls.reset())
    with pytest.raises(CannotSendError, match="too many"):
        core.begin(calls.info())
    core.take(core.connection.receive(reply(77, 13)))
    assert core.begin(calls.info())[0].id == 77


def test_both_clients_have_the_same_calls() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    waits, loops = methods(Client), methods(AsyncClient)
    only_one = {"finish", "answering_dma", "abandon", "open"}
    assert waits.keys() - only_one == loops.keys() - only_one
    for name in waits.keys() & loops.keys() - {"begin"}:
        assert waits[name] == loops[name], name
    assert inspect.signature(Client.dma_map).parameters["size"].annotation in ("int", int)
    assert Client.read_data.__doc__ == calls.data_read.__doc__


def test_errors_can_be_copied_and_pickled() -> None:
    for error in (
        PeerDisconnectedError("p", "w"),
        PeerProtocolError("p", "w"),
        TimedOutError("p", "w"),
        RefusedError("p", "C", "E"),
    ):
        for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
            assert type(other) is type(error)
            assert str(other) == str(error)
            assert vars(other) == vars(error)


def test_what_comes_after_the_end_is_disposed_of() -> None:
    core = agreed()
    outgoing, pending = core.begin(calls.region_info(0))
    core.end(PeerDisconnectedError("peer", "enough"))
    with no_leak():
        fd = os.memfd_create("late")
        core.connection.closed = False  # as if it had been read before
        events = core.connection.receive(
            reply(outgoing.id, 5, struct.pack("=IIIIQQ", 32, 7, 0, 0, 0, 0)), [fd]
        )
        assert core.take(events) == []
    with pytest.raises(PeerDisconnectedError):
        pending.result()
    core.end(PeerProtocolError("peer", "again"))
    assert isinstance(core.over, PeerDisconnectedError)


def test_the_end_is_raised_anew_each_time() -> None:
    core = agreed()
    core.end(PeerDisconnectedError("peer", "enough"))
    raised = []
    for _ in range(2):
        with pytest.raises(PeerDisconnectedError) as error:
            core.begin(calls.info())
        raised.append(error.value)
    assert raised[0] is not raised[1]
    assert core.over.__traceback__ is None


def test_a_watch_may_end_the_connection() -> None:
    """The call that it was notified of has then come to something: nobody waits for it for ever."""
    core = agreed(
        observers=[lambda one: one.id == 1 and core.end(PeerDisconnectedError("peer", "enough"))]
    )
    _, pending = core.begin(calls.info())
    with pytest.raises(PeerDisconnectedError, match="enough"):
        pending.result()
    assert core.waiting == 0


def test_a_refused_call_is_forgotten_at_once() -> None:
    """What it raises and what was kept of it hold each other in no circle."""
    core = agreed()

    def refused() -> weakref.ref[RefusedError]:
        outgoing, pending = core.begin(calls.reset())
        core.take(core.connection.receive(reply(outgoing.id, 13, b"", 0x21, 16)))
        try:
            pending.result()
        except RefusedError as error:  # `pytest.raises` makes a circle of its own
            return weakref.ref(error)
        pytest.fail("it is refused")

    gc.collect()
    gc.disable()
    try:
        assert refused()() is None
    finally:
        gc.enable()


def test_a_reply_too_long_to_be_read_is_not_asked_for() -> None:
    core = agreed()
    with pytest.raises(CannotSendError, match="a reply of"):
        core.begin(calls.logging_report(0, 1 << 40, 4096))
    core.begin(calls.logging_report(0, 1 << 34, 4096))


# --- memory ---


def test_windows_may_touch_and_not_overlap() -> None:
    with SharedMemory(8192) as memory, SharedMemory(100) as small:
        space = AddressSpace()
        space.add(Window(0x2000, 4096, memory))
        space.add(Window(0x1000, 4096, memory, offset=4096, writable=False))
        space.add(Window(0x3000, 100, small, readable=False))
        assert [one.address for one in space.windows] == [0x1000, 0x2000, 0x3000]
        for address, size in ((0x1FFF, 1), (0xFFF, 2), (0x2FFF, 2), (0x3063, 9), (0, 1 << 20)):
            with pytest.raises(ValueError, match=r"something is mapped there|too short"):
                space.add(Window(address, size, memory))
        for bad in (
            Window(0, 0, memory),
            Window(-1, 4, memory),
            Window((1 << 64) - 1, 2, memory),
            Window(0x9000, 101, small),
            Window(0x9000, 1, small, offset=-1),
        ):
            with pytest.raises(ValueError, match=r"no range|too short"):
                space.add(bad)
        memory.view[:4] = b"tail"
        memory.view[-4:] = b"head"
        assert space.read(0x1FFC, 8) == b"headtail"
        assert space.read(0x2000, 0) == b""
        for address, count in ((0xFFF, 2), (0x2FFF, 2), (0x5000, 1), (1 << 63, 1)):
            with pytest.raises(OSError, match=r"mapped|readable"):
                space.read(address, count)
        space.write(0x2FFE, b"both")
        assert bytes(memory.view[0xFFE:0x1000]) + bytes(small.view[:2]) == b"both"
        with pytest.raises(OSError, match="writable"):
            space.write(0x1FFF, b"no")
        assert bytes(memory.view[:4]) == b"tail"
        with pytest.raises(OSError, match="mapped"):
            space.write(0x3060, b"too long")
        assert bytes(small.view[0x60:]) == bytes(4)


@examples(100)
@given(
    windows=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=6),
    reads=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 40)), max_size=20),
)
def test_an_address_space_is_what_is_in_it(windows, reads) -> None:
    with SharedMemory(256) as memory:
        memory.view[:] = bytes(range(256))
        space = AddressSpace()
        model: dict[int, int] = {}
        for at, size in windows:
            offset = (at * 7) % 200
            if any(one in model for one in range(at, at + size)):
                with pytest.raises(ValueError, match="something is mapped there"):
                    space.add(Window(at, size, memory, offset=offset))
                continue
            space.add(Window(at, size, memory, offset=offset))
            model |= {at + one: offset + one for one in range(size)}
        for at, size in reads:
            if all(one in model for one in range(at, at + max(size, 1))):
                assert space.read(at, size) == bytes(model[one] for one in range(at, at + size))
            else:
                with pytest.raises(OSError, match="not mapped"):
                    space.read(at, size)


def test_shared_memory_cannot_be_made_useless_by_a_server() -> None:
    import fcntl

    with no_leak(), SharedMemory(4096) as memory:
        for seal in (fcntl.F_SEAL_WRITE, 0x10):  # F_SEAL_FUTURE_WRITE
            with pytest.raises(OSError, match="not permitted"):
                fcntl.fcntl(memory.fd, fcntl.F_ADD_SEALS, seal)
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(memory.fd, 0)
        part = memory.view[:4]
        memory.close()
        assert bytes(part) == bytes(4)
        del part
    with no_leak(), pytest.raises(ValueError, match="empty"):
        SharedMemory(0)
