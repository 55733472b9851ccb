"""Every migration decision over the socket is the engine's."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct

import pytest

from support.raw_client import GET, PROBE, SET, RefusedError
from support.samples import sampled
from vfio_migration.model import load
from vfio_migration.runtime import Engine, RequestFailedError, RequestRefusedError
from vfio_migration.runtime.kit.devices import Edu

SPEC = load()
SETS = [1, 3, 5, 7]
VALUES = {row.name: row.value for row in SPEC.states}
NAMES = {row.value: row.name for row in SPEC.states}
OTHERS = [*range(len(VALUES), 256), 256, 0xABCD, 1 << 31, 0xFFFFFFFE, 0xFFFFFFFF]


def number_of(name: str) -> int:
    return getattr(errno, name)


def bring(client, engine, state: str) -> None:
    """Bring the device to a state, by requests; to ERROR by a mistake of the device."""
    client.reset()
    if state == "ERROR":
        engine.device.broken = True
        with pytest.raises(RefusedError):
            client.set_state(VALUES["STOP"])
        engine.device.broken = False
    else:
        client.set_state(VALUES[state])
    assert client.state == VALUES[state]


class Fragile(Edu):
    """An edu that can be made to fail for good, and takes any stream."""

    broken = False

    def stop(self) -> None:
        if self.broken:
            raise RuntimeError("made to fail")


@pytest.fixture
def quiet(caplog):
    """Tracebacks of devices that are made to fail are expected in the log."""
    caplog.set_level("CRITICAL")


@sampled(4)
@pytest.mark.parametrize("flags", SETS)
def test_each_transition_answers_as_engine_and_linux(serve, linux_paths, flags, quiet) -> None:
    """All 8 x 8, and every other value, for one capability set."""
    served = serve(Fragile(capabilities=flags))
    machine = SPEC.machine(flags)
    recorded = linux_paths[str(flags)]
    with served.client() as client:
        assert struct.unpack("=Q", client.feature(GET | 1)) == (flags,)
        for start in (row.name for row in machine.states):
            for target in VALUES:
                bring(client, served.engine, start)
                route = machine.route(start, VALUES[target])
                linux = recorded[start][target]
                where = f"{flags}: {start} -> {target}: linux {linux}"
                assert (None if route.refused else list(route.path)) == linux, where
                if route.refused is not None:
                    with pytest.raises(RefusedError) as refused:
                        client.set_state(VALUES[target])
                    assert refused.value.errno == number_of(route.refused.errno), where
                    assert client.state == VALUES[start], where
                elif start == "RESUMING" and route.path:
                    # Nothing was written: the stream is judged, and the device stays.
                    with pytest.raises(RefusedError) as refused:
                        client.set_state(VALUES[target])
                    assert refused.value.errno == errno.EINVAL, where
                    assert client.state == VALUES[start], where
                else:
                    client.set_state(VALUES[target])
                    assert client.state == VALUES[target], where
                assert served.engine.state == NAMES[client.state]
            bring(client, served.engine, start)
            for value in OTHERS:
                with pytest.raises(RefusedError) as refused:
                    client.set_state(value)
                assert refused.value.errno == errno.EINVAL, (start, value)
                assert client.state == VALUES[start]


@sampled(2)
@pytest.mark.parametrize("flags", SETS)
def test_the_socket_and_a_bare_engine_state_the_same(serve, flags, quiet) -> None:
    """A long walk of requests and resets, step for step against an engine of its own."""
    served = serve(Edu(capabilities=flags))
    beside = Engine(SPEC, flags, twin := Edu(capabilities=flags))
    with served.client() as client:
        for value in itertools.islice(_numbers(), 600):
            if value == 9:
                client.reset()
                beside.reset()
            else:
                expected = answer = 0
                try:
                    beside.set_state(value)
                except (RequestRefusedError, RequestFailedError) as error:
                    expected = error.number
                try:
                    client.set_state(value)
                except RefusedError as error:
                    answer = error.errno
                assert answer == expected
            assert client.state == VALUES[beside.state]
    twin.close()


def _numbers():
    """Numbers from 0 to 9 in no order."""
    seed = 12345
    while True:
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield (seed >> 16) % 10


TABLE = {
    # feature: (PROBE, PROBE+GET, PROBE+SET, GET, SET), 0 or the errno
    1: (0, 0, "EINVAL", 0, "EINVAL"),
    2: (0, 0, 0, 0, 0),
    6: (0, "EINVAL", 0, "EINVAL", 0),
    7: (0, "EINVAL", 0, "EINVAL", 0),
    8: (0, 0, "EINVAL", 0, "EINVAL"),
    9: (0, 0, "EINVAL", 0, "EINVAL"),
    12: (0, "EINVAL", 0, "EINVAL", 0),
}
METHODS = (PROBE, PROBE | GET, PROBE | SET, GET, SET)
DATA = {
    (2, SET): struct.pack("=Ii", 2, -1),
    (6, SET): struct.pack("=QII", 4096, 0, 0),
    (8, GET): struct.pack("=QQQ", 0, 1 << 20, 4096),
}


@pytest.mark.parametrize("feature", TABLE)
def test_features_answer_as_linux_does(serve, feature) -> None:
    served = serve()
    with served.client() as client:
        for method, expected in zip(METHODS, TABLE[feature], strict=True):
            if (feature, method) == (8, GET):
                client.feature(SET | 6, DATA[6, SET])
            data = DATA.get((feature, method), b"")
            got = 0
            try:
                client.feature(method | feature, data)
            except RefusedError as error:
                got = error.errno
            assert errno.errorcode.get(got, 0) == expected, hex(method)
        # Both methods at once are legal with PROBE alone.
        for flags in (GET | SET | feature, (1 << 19) | GET | feature, feature):
            with pytest.raises(RefusedError) as refused:
                client.feature(flags, data)
            assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("hint", "chosen"),
    [(1, 4096), (512, 4096), (4096, 4096), (1 << 16, 1 << 16), (1 << 63, 1 << 30)],
)
@pytest.mark.parametrize("ranges", [(), (0, 1 << 20), (0, 1 << 20, 1 << 30, 4096)])
def test_a_client_gets_the_page_size_that_is_logged_by(serve, hint, chosen, ranges) -> None:
    """It is a hint: "on output the device will return the page size it selected"."""
    count = len(ranges) // 2
    with serve().client() as client:

        def start(page_size: int) -> bytes:
            # What is reserved comes back as it went.
            return struct.pack(f"=QII{len(ranges)}Q", page_size, count, 5, *ranges)

        assert client.feature(SET | 6, start(hint)) == start(chosen)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("feature", [2, 6])
def test_a_reply_is_no_longer_than_its_client_allows(serve, feature, known) -> None:
    """The reply to SET repeats the command: without room for that, nothing is done."""
    served, data = serve(), struct.pack("=Ii", 1, -1) if feature == 2 else DATA[6, SET]
    with served.client() as client:
        if known:
            client.feature(SET | feature, data, room=len(data))
            client.reset()
            client.feature(SET | 7)
        for room in range(len(data)):
            with pytest.raises(RefusedError) as refused:
                client.feature(SET | feature, data, room=room)
            assert refused.value.errno == errno.EINVAL
        assert client.state == 2
        assert not served.device.memory.log.on
        client.feature(SET | feature, data, room=len(data))


def test_both_methods_are_probed_where_both_exist(serve) -> None:
    with serve().client() as client:
        client.feature(PROBE | GET | SET | 2, room=0)
        with pytest.raises(RefusedError):
            client.feature(PROBE | GET | SET | 1)


@pytest.mark.parametrize("feature", [0, 3, 4, 5, 10, 11, 13, 0xFFFF])
def test_other_features_do_not_exist(serve, feature) -> None:
    with serve().client() as client:
        for method in METHODS:
            with pytest.raises(RefusedError) as refused:
                client.feature(method | feature)
            assert refused.value.errno == errno.ENOTTY


@sampled(2)
@pytest.mark.parametrize("flags", SETS)
@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
def test_a_device_migrates_and_is_the_same_afterwards(serve, flags, step) -> None:
    """Registers, buffer and configuration space, by pre-copy where there is one."""
    source, target = serve(Edu(capabilities=flags)), serve(Edu(capabilities=flags))
    with source.client() as a, target.client() as b:
        a.write(0, 0x04, struct.pack("<I", 0x12345678))
        a.write(0, 0x80, struct.pack("<Q", 0x1234))
        a.write(0, 0x40000, os.urandom(4096))
        stream = b""
        if flags & 4:
            a.set_state(VALUES["PRE_COPY"])
            stream += read_all(a, max(step, 64))
            a.write(0, 0x40010, b"late")
        a.set_state(VALUES["STOP_COPY"])
        stream += read_all(a, max(step, 64))
        assert a.mig_read(100) == b""
        b.set_state(VALUES["RESUMING"])
        for at in range(0, len(stream), max(step, 64)):
            b.mig_write(stream[at : at + max(step, 64)])
        b.set_state(VALUES["RUNNING"])
        a.set_state(VALUES["STOP"])
        for offset in (0x00, 0x04, 0x08, 0x24, 0x80, 0x88):
            assert b.read(0, offset, 4) == a.read(0, offset, 4), hex(offset)
        assert b.read(0, 0x40000, 4096) == a.read(0, 0x40000, 4096)
        assert b.read(0, 0x40010, 4) == (b"late" if flags & 4 else a.read(0, 0x40010, 4))
        assert b.read(7, 0, 256) == a.read(7, 0, 256)
        a.set_state(VALUES["RUNNING"])


def read_all(client, size: int) -> bytes:
    data = b""
    while more := client.mig_read(size):
        data += more
        if len(more) < size:
            break
    return data


def test_a_stream_that_is_wrong_is_refused_and_can_be_mended(serve, quiet) -> None:
    served = serve()
    with served.client() as client:
        client.set_state(VALUES["STOP_COPY"])
        stream = read_all(client, 65536)
        client.set_state(VALUES["RESUMING"])
        client.mig_write(stream[:-1])
        with pytest.raises(RefusedError) as refused:
            client.set_state(VALUES["STOP"])
        assert refused.value.errno == errno.EINVAL
        assert client.state == VALUES["RESUMING"]
        client.mig_write(stream[-1:])
        client.set_state(VALUES["RUNNING"])


@pytest.mark.parametrize("flags", SETS)
def test_migration_data_flows_only_where_the_table_states_it(serve, flags, quiet) -> None:
    served = serve(Fragile(capabilities=flags))
    machine = SPEC.machine(flags)
    with served.client() as client:
        for row in machine.states:
            bring(client, served.engine, row.name)
            transfer = SPEC.session(row.session).transfer
            for way, act in (
                ("read", lambda: client.mig_read(4096)),
                ("write", lambda: client.mig_write(b"")),
            ):
                if way == transfer:
                    act()
                else:
                    with pytest.raises(RefusedError) as refused:
                        act()
                    assert refused.value.errno == errno.EINVAL, (row.name, way)


@pytest.mark.parametrize("flags", SETS)
def test_the_next_client_finds_the_state_and_gets_full_service(serve, flags, quiet) -> None:
    served = serve(Fragile(capabilities=flags))
    for row in SPEC.machine(flags).states:
        with served.client() as client:
            bring(client, served.engine, row.name)
            client.dma_map(0, 4096)
        with served.client() as client:
            assert client.state == row.value, row.name
            assert not served.device.memory.maps
            client.dma_map(0, 4096)
            with contextlib.suppress(RefusedError):
                client.set_state(VALUES["RUNNING"])
            client.reset()
            assert client.state == VALUES["RUNNING"]
            client.set_state(VALUES["STOP"])


def test_a_session_outlives_its_client(serve) -> None:
    """What one client has read of a stream the next one goes on reading."""
    served = serve()
    with served.client() as client:
        client.set_state(VALUES["STOP_COPY"])
        whole = read_all(client, 65536)
        client.set_state(VALUES["STOP"])
        client.set_state(VALUES["STOP_COPY"])
        first = client.mig_read(100)
    with served.client() as client:
        rest = read_all(client, 65536)
        assert len(first + rest) == len(whole)
        client.set_state(VALUES["RESUMING"])
        client.mig_write((first + rest)[:50])
    with served.client() as client:
        client.mig_write((first + rest)[50:])
        client.set_state(VALUES["RUNNING"])


def test_counters_and_the_data_size(serve) -> None:
    served = serve()
    with served.client() as client:
        (size,) = struct.unpack("=Q", client.feature(GET | 9))
        client.set_state(VALUES["STOP_COPY"])
        stream = read_all(client, 4096)
        assert size // 2 <= len(stream) <= 2 * size
        with pytest.raises(RefusedError):
            client.set_state(VALUES["PRE_COPY"])
        counts = served.server.counters.snapshot()
        assert counts["transitions"]["RUNNING -> RUNNING_P2P"] == {"completed": 1}
        assert counts["requests"]["STOP_COPY -> PRE_COPY"] == {"refused": 1}
        assert counts["state"] == "STOP_COPY"
        assert counts["commands"]["DEVICE_FEATURE"]["count"] == 3
        assert counts["errors"] == {"EINVAL": 1}
