"""A message holds what was put into it; what it may not hold is refused with its errno."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import DATA, MESSAGE, U64, plain

import vfio_migration.runtime.protocol as vp
from support.samples import sampled
from vfio_migration.runtime.protocol import MalformedError, Message

KINDS = sorted(MESSAGE, key=lambda kind: kind.__name__)


def test_there_is_a_strategy_for_every_message() -> None:
    assert set(MESSAGE) == {kind for both in vp.MESSAGES for kind in both}


@sampled(3)
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_there_and_back(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(MESSAGE[kind])
    payload = message.pack()
    assert b"".join(message.parts()) == payload
    for again in (kind.parse(payload), kind.parse(memoryview(payload))):
        assert plain([again]) == plain([message])
        assert again == message
        assert again.pack() == payload


@pytest.mark.parametrize("kind", KINDS)
@given(payload=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind: type[Message], payload: bytes) -> None:
    try:
        message = kind.parse(payload)
    except MalformedError as caught:
        fault = caught
    else:
        kind.parse(message.pack())
        return
    assert fault.errno in ("EINVAL", "E2BIG")
    assert fault.number > 0
    assert fault.why in str(fault)


@pytest.mark.parametrize(
    "kind", [vp.RegionWrite, vp.RegionReadReply, vp.DmaWrite, vp.DmaReadReply, vp.MigDataWrite]
)
@given(data=DATA.filter(bool))
def test_data_is_a_view_and_no_copy(kind: type[Message], data: bytes) -> None:
    payload = bytearray(b"\0" * kind.layout.size + data)
    fixed = {16: struct.Struct("=QII"), 8: struct.Struct("=II")}[kind.layout.size]
    if kind in (vp.DmaWrite, vp.DmaReadReply):
        fixed = struct.Struct("=QQ")
    values = (0, 0, len(data)) if fixed.format == "=QII" else (0, len(data))
    fixed.pack_into(payload, 0, *values)
    message = kind.parse(memoryview(payload))
    payload[-1] ^= 0xFF
    assert message.data[-1] == data[-1] ^ 0xFF  # type: ignore[attr-defined]
    own = kind(*[getattr(message, name) for name in message.__dataclass_fields__])  # type: ignore[attr-defined]
    assert own.parts()[-1] is own.data  # type: ignore[attr-defined]


SIZED = (
    (vp.DmaMap, 32),
    (vp.DmaUnmap, 24),
    (vp.DeviceGetInfo, 16),
    (vp.DeviceGetRegionInfo, 32),
    (vp.DeviceGetRegionIoFds, 16),
    (vp.DeviceGetIrqInfo, 16),
    (vp.DeviceFeature, 8),
)


@pytest.mark.parametrize(("kind", "least"), SIZED)
def test_argsz_has_room_for_the_fixed_part(kind: type[Message], least: int) -> None:
    rest = b"\0" * (kind.layout.size - 4)
    kind.parse(struct.pack("=I", least) + rest)
    with pytest.raises(MalformedError, match=f"argsz {least - 1} is below {least}") as caught:
        kind.parse(struct.pack("=I", least - 1) + rest)
    assert (caught.value.occasion, caught.value.errno) == ("argument_invalid", "EINVAL")


def test_migration_data_needs_room_for_all_that_is_asked_for() -> None:
    assert vp.MigDataRead.parse(struct.pack("=II", 108, 100)).size == 100
    with pytest.raises(MalformedError, match="argsz 107 is below 108"):
        vp.MigDataRead.parse(struct.pack("=II", 107, 100))


# --- SET_IRQS -------------------------------------------------------------------------------------


def irqs(flags: int, count: int, data: bytes = b"", *, argsz: int | None = None) -> bytes:
    size = 20 + len(data) if argsz is None else argsz
    return struct.pack("=IIIII", size, flags, 2, 0, count) + data


@pytest.mark.parametrize("action", [8, 16, 32])
def test_every_form_of_set_irqs(action: int) -> None:
    vp.DeviceSetIrqs.parse(irqs(1 | action, 3))
    vp.DeviceSetIrqs.parse(irqs(1 | action, 0))
    assert vp.DeviceSetIrqs.parse(irqs(2 | action, 3, b"\1\0\1")).data == b"\1\0\1"
    vp.DeviceSetIrqs.parse(irqs(2 | action, 0))
    vp.DeviceSetIrqs.parse(irqs(4 | action, 3), (7, 8, 9))
    vp.DeviceSetIrqs.parse(irqs(4 | action, 3))


@pytest.mark.parametrize("flags", [f for f in range(128) if f not in
    {data | action for data in (1, 2, 4) for action in (8, 16, 32)}] + [0x80000021])  # fmt: skip
def test_one_data_and_one_action(flags: int) -> None:
    with pytest.raises(
        MalformedError, match=r"1 of data_|1 of action_|no flag has the value"
    ) as caught:
        vp.DeviceSetIrqs.parse(irqs(flags, 0))
    assert caught.value.occasion == "flags_unknown"


def test_fewer_descriptors_than_interrupts_are_refused() -> None:
    with pytest.raises(MalformedError, match="2 descriptors for 3 interrupts") as caught:
        vp.DeviceSetIrqs.parse(irqs(0x24, 3), (3, 4))
    assert caught.value.occasion == "argument_invalid"


@pytest.mark.parametrize(
    ("flags", "count", "fds", "takes"),
    [(0x24, 3, 4, 3), (0x24, 3, 3, 3), (0x24, 0, 1, 0), (0x21, 1, 1, 0), (0x22, 0, 1, 0)],
)
def test_interrupts_take_as_many_descriptors_as_there_are_of_them(
    flags: int, count: int, fds: int, takes: int
) -> None:
    message = vp.DeviceSetIrqs.parse(irqs(flags, count), tuple(range(fds)))
    assert message.takes_fds(fds) == takes


def test_set_irqs_without_booleans_may_be_padded() -> None:
    """VFIO's ioctl has descriptors as data, with an argsz that counts them."""
    plain, numbers = irqs(0x21, 3, b"\1\0\1"), irqs(0x24, 3, struct.pack("=iii", 1, 2, 3))
    assert vp.DeviceSetIrqs.parse(plain) == vp.DeviceSetIrqs.parse(irqs(0x21, 3))
    assert vp.DeviceSetIrqs.parse(numbers, (7, 8, 9)) == vp.DeviceSetIrqs.parse(irqs(0x24, 3))
    assert vp.DeviceSetIrqs.parse(irqs(0x24, 3, argsz=32)) == vp.DeviceSetIrqs.parse(numbers)


@pytest.mark.parametrize(
    "payload",
    [
        irqs(0x22, 3, b"\1\0"),
        irqs(0x22, 3, b"\1\0\1\1"),
        irqs(0x22, 2**32 - 1, b"\1"),
        irqs(0x21, 3, argsz=19),
        irqs(0x22, 1, b"\1", argsz=20),
    ],
)
def test_data_of_set_irqs_as_long_as_it_has_to_be(payload: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        vp.DeviceSetIrqs.parse(payload)
    assert caught.value.occasion == "size_wrong"


# --- Data with a count ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 5, 2**32 - 1])
def test_counts_are_those_of_the_data(count: int) -> None:
    access = struct.pack("=QII", 0, 0, count) + b"1234"
    memory = struct.pack("=QQ", 0, count) + b"1234"
    migration = struct.pack("=II", 0, count) + b"1234"
    padded: list[tuple[type[vp.Message], bytes]] = [
        (vp.RegionReadReply, access),
        (vp.DmaReadReply, memory),
        (vp.MigDataReadReply, migration),
        (vp.MigDataWrite, migration),
    ]
    if count < 4:  # what follows is padding
        for kind, payload in padded:
            assert bytes(kind.parse(payload).data) == b"1234"[:count]  # type: ignore[attr-defined]
        padded = []
    for kind, payload in (
        *padded,
        (vp.RegionWrite, access),
        (vp.DmaWrite, memory),
    ):
        with pytest.raises(MalformedError) as caught:
            kind.parse(payload)
        assert caught.value.occasion == "size_wrong"


def test_a_count_of_64_bits_is_not_cut_off() -> None:
    payload = struct.pack("=QQ", 0, 2**32 + 4) + b"1234"
    with pytest.raises(MalformedError):
        vp.DmaWrite.parse(payload)
    assert vp.DmaRead.parse(struct.pack("=QQ", 0, 2**63)).count == 2**63


def test_single_writes() -> None:
    writes = [vp.SingleWrite(n, 0, bytes(n)) for n in range(9)]
    message = vp.RegionWriteMulti.of(*writes)
    assert list(message) == writes
    assert message.wr_cnt == 9
    with pytest.raises(ValueError, match="9 bytes"):
        vp.RegionWriteMulti.of(vp.SingleWrite(0, 0, bytes(9)))
    nine = struct.pack("=QQII8s", 1, 0, 0, 9, b"")
    with pytest.raises(MalformedError, match="9 bytes") as caught:
        vp.RegionWriteMulti.parse(nine)
    assert caught.value.occasion == "argument_invalid"
    for count in (0, 2, 2**64 - 1):
        with pytest.raises(MalformedError):
            vp.RegionWriteMulti.parse(struct.pack("=QQII8s", count, 0, 0, 8, b""))


# --- Regions --------------------------------------------------------------------------------------


def region(chain: bytes, *, first: int = 32, flags: int = 8, argsz: int | None = None) -> bytes:
    size = 32 + len(chain) if argsz is None else argsz
    return struct.pack("=IIIIQQ", size, flags, 0, first, 0, 0) + chain


@pytest.mark.parametrize(
    "payload",
    [
        region(struct.pack("=HHI", 2, 1, 32) + bytes(8)),  # to itself
        region(struct.pack("=HHI", 9, 1, 40) + struct.pack("=HHI", 9, 1, 32)),  # a circle
        region(struct.pack("=HHI", 2, 1, 1)),  # into the fixed part
        region(struct.pack("=HHI", 9, 1, 2**32 - 1)),  # far away
        region(b"", first=31),
        region(bytes(7)),
        region(struct.pack("=HHI", 2, 1, 0)),  # no room for a type
        region(struct.pack("=HHIII", 1, 1, 0, 1, 0)),  # an area, and no room for it
        region(struct.pack("=HHIII", 1, 1, 0, 2**32 - 1, 0) + bytes(64)),
        region(bytes(8), argsz=39),
    ],
)
def test_chains_that_lead_astray(payload: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        vp.DeviceGetRegionInfoReply.parse(payload)
    assert caught.value.errno == "EINVAL"


def test_a_capability_of_a_later_version_is_kept_as_it_is() -> None:
    reply = vp.DeviceGetRegionInfoReply.parse(region(struct.pack("=HHI", 1, 2, 0) + bytes(8)))
    assert reply.capabilities == (vp.OtherCapability(1, 2, bytes(8)),)
    assert vp.DeviceGetRegionInfoReply.parse(region(b"", first=0)).capabilities == ()


@pytest.mark.parametrize("size", range(9))
def test_capabilities_are_aligned(size: int) -> None:
    first = vp.OtherCapability(7, 1, bytes(size))
    payload = vp.DeviceGetRegionInfoReply(0, 0, 0, 0, (first, vp.RegionType(1, 2))).pack()
    follows = struct.unpack_from("=I", payload, 36)[0]
    assert follows % 8 == 0
    assert follows >= 40 + size
    assert struct.unpack_from("=HH", payload, follows) == (2, 1)


def test_longer_entries_of_io_fds_are_taken() -> None:
    entry = struct.pack("=QQIIIIQ", 1, 2, 3, 0, 5, 0, 7) + bytes(8)
    payload = struct.pack("=IIII", 16 + 96, 0, 4, 2) + entry * 2
    reply = vp.DeviceGetRegionIoFdsReply.parse(payload)
    assert reply.sub_regions == (vp.SubRegion(1, 2, 3, 0, 5, 7),) * 2
    for count in (0, 1000, 2**32 - 1):
        bad = struct.pack("=IIII", 16 + 96, 0, 4, count) + entry * 2
        with pytest.raises(MalformedError):
            vp.DeviceGetRegionIoFdsReply.parse(bad)


# --- Features -------------------------------------------------------------------------------------


@given(U64, U64, st.lists(st.tuples(U64, U64), max_size=5))
def test_data_of_features_there_and_back(
    first: int, second: int, pairs: list[tuple[int, int]]
) -> None:
    ranges = tuple(vp.DmaLoggingRange(*pair) for pair in pairs)
    for data in (
        vp.FeatureMigration(first),
        vp.FeatureDeviceState(first % 2**32, second % 2**31),
        vp.DmaLoggingControl(first, ranges),
        vp.DmaLoggingReport(first, second, 4096),
        vp.DmaLoggingReport(first, second, 4096, bytes(8 * len(pairs))),
        vp.MigDataSize(first),
    ):
        assert type(data).parse(data.pack()) == data
        for bad in (data.pack()[:-1], data.pack() + b"\0", b""):
            with pytest.raises(MalformedError) as caught:
                type(data).parse(bad)
            assert caught.value.occasion == "size_wrong"


def test_ranges_as_many_as_are_there() -> None:
    for count in (0, 2, 2**32 - 1):
        with pytest.raises(MalformedError):
            vp.DmaLoggingControl.parse(struct.pack("=QIIQQ", 4096, count, 0, 0, 0))


def test_the_flags_word_of_a_feature() -> None:
    message = vp.DeviceFeature(8, vp.feature_flags(0xABCD, get=True, probe=True))
    assert (message.index, message.get, message.set, message.probe) == (0xABCD, True, False, True)
    assert message.flags == 0x5ABCD
    assert vp.DeviceFeatureReply.echo(message) == vp.DeviceFeatureReply(8, 0x5ABCD)
    set_ = vp.DeviceFeature.asking(6, set_=True, data=b"12345678")
    assert vp.DeviceFeatureReply.echo(set_).pack() == set_.pack()
    assert vp.DeviceFeatureReply.got(message, b"12345678").argsz == 16
