"""Configuration space, as the PCI specification has it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfio_migration.runtime.kit.config_space import CAP_MSI, CAP_MSIX, CAP_PCIE, CAP_PM, ConfigSpace
from vfio_migration.runtime.kit.pci_device import Area, Bar, Identity, PciDevice

WHO = Identity(
    vendor=0x1234, device=0x5678, revision=9, class_code=0x020304, subsystem_vendor=1, subsystem=2
)


def get(space: ConfigSpace, layout: str, at: int) -> int:
    (value,) = struct.unpack(layout, space.read(at, struct.calcsize(layout)))
    return int(value)


def capabilities(space: ConfigSpace) -> dict[int, int]:
    found = {}
    at = space.data[0x34]
    while at:
        assert at % 4 == 0
        assert at not in found.values()
        found[space.data[at]] = at
        at = space.data[at + 1]
    return found


def full() -> ConfigSpace:
    space = ConfigSpace(WHO, express=True)
    space.add_bar(0, 1 << 20)
    space.add_bar(2, 1 << 32, is64=True, prefetchable=True)
    space.add_pm()
    space.add_msi(4)
    space.add_express()
    space.add_msix(3, 4, 0, 0x800)
    space.set_interrupt_pin(1)
    return space


def test_the_header() -> None:
    space = full()
    assert space.size == 4096
    assert (get(space, "<H", 0), get(space, "<H", 2)) == (0x1234, 0x5678)
    assert get(space, "<I", 8) == 0x02030409
    assert (get(space, "<H", 0x2C), get(space, "<H", 0x2E)) == (1, 2)
    assert get(space, "<B", 0x3D) == 1
    assert get(space, "<B", 0x0E) == 0
    assert ConfigSpace(WHO).size == 256


def test_bars_show_their_size() -> None:
    space = full()
    for at, size in ((0x10, 1 << 20), (0x14, 0)):
        space.write(at, b"\xff" * 4)
        assert ~(get(space, "<I", at) & ~0xF) + 1 & 0xFFFFFFFF == size
    space.write(0x18, b"\xff" * 8)
    value = get(space, "<Q", 0x18)
    assert (~(value & ~0xF) + 1) & ((1 << 64) - 1) == 1 << 32
    assert value & 0xF == 0b1100
    space.write(0x10, struct.pack("<I", 0xFEB12345))
    assert get(space, "<I", 0x10) == 0xFEB00000


def test_capabilities_are_chained() -> None:
    space = full()
    assert get(space, "<H", 6) & 0x10
    assert set(capabilities(space)) == {CAP_PM, CAP_MSI, CAP_PCIE, CAP_MSIX}
    for number, at in capabilities(space).items():
        assert space.capability(number) == at
    at = capabilities(space)[CAP_MSIX]
    assert get(space, "<H", at + 2) & 0x7FF == 2
    assert get(space, "<I", at + 4) == 4
    assert get(space, "<I", at + 8) == 0x804
    assert not get(ConfigSpace(WHO), "<H", 6) & 0x10


def test_what_the_guest_turns_on_is_seen() -> None:
    space = full()
    assert (space.msi_enabled, space.msix_enabled) == (False, False)
    space.write(space.capability(CAP_MSI) + 2, b"\xff\xff")
    assert get(space, "<H", space.capability(CAP_MSI) + 2) == 0x71 | 0x84
    space.write(space.capability(CAP_MSIX) + 2, b"\xff\xff")
    assert (space.msi_enabled, space.msix_enabled) == (True, True)
    space.write(4, b"\xff\xff")
    assert space.command == 0x547
    space.reset()
    assert (space.msi_enabled, space.command) == (False, 0)


def test_status_bits_are_cleared_by_writing_them() -> None:
    space = full()
    space.set_status(0x2000)
    space.write(6, b"\0\0")
    assert get(space, "<H", 6) == 0x2010
    space.write(6, b"\0\x20")
    assert get(space, "<H", 6) == 0x0010


@given(st.integers(0, 4095), st.binary(max_size=64))
def test_what_is_fixed_stays(at: int, data: bytes) -> None:
    space = full()
    before = bytes(space.data)
    space.write(at, data[: 4096 - at])
    for place in range(4096):
        fixed = ~(space.mask[place] | space.clear[place]) & 0xFF
        assert space.data[place] & fixed == before[place] & fixed
    fresh = full()
    fresh.load(bytes(space.data))
    assert fresh.data == space.data


def test_another_kind_of_device_is_refused() -> None:
    space = full()
    other = bytearray(space.data)
    other[2] ^= 1
    with pytest.raises(ValueError, match="differs at 0x2"):
        space.load(bytes(other))
    with pytest.raises(ValueError, match="256 bytes"):
        space.load(bytes(256))


@pytest.mark.parametrize(
    "build",
    [
        lambda space: space.add_bar(0, 24),
        lambda space: space.add_bar(0, 8),
        lambda space: space.add_bar(6, 4096),
        lambda space: space.add_bar(5, 4096, is64=True),
        lambda space: space.add_bar(0, 1 << 32),
        lambda space: space.add_msi(3),
        lambda space: space.add_msix(2049, 4, 0, 0),
        lambda space: [space.add_express() for _ in range(4)],
    ],
)
def test_what_cannot_be_is_refused(build: object) -> None:
    with pytest.raises(ValueError, match=r"power of two|not fit|vectors|no room"):
        build(ConfigSpace(WHO))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("bar", "why"),
    [
        (Bar(8192, areas=(Area(4096, 8192),)), "BAR 0: area 0x1000.0x2000 is not within"),
        (Bar(8192, areas=(Area(-4096, 4096),)), "is not within"),
        (Bar(8192, areas=(Area(4096, 0),)), "is not within"),
        (Bar(16384, areas=(Area(8192, 4096), Area(4096, 8192))), "overlaps"),
        (Bar(8192, areas=(Area(256, 4096),)), "whole pages"),
        (Bar(8192, areas=(Area(4096, 64),)), "whole pages"),
        (Bar(8192, memory=True, areas=(Area(4096, 4096),)), "plain memory"),
    ],
)
def test_areas_that_no_client_could_map_are_refused(bar: Bar, why: str) -> None:
    class Odd(PciDevice):
        bars = {0: bar}  # noqa: RUF012

    with pytest.raises(ValueError, match=why):
        Odd()


def test_areas_that_nobody_maps_can_be_anywhere() -> None:
    class Odd(PciDevice):
        bars = {0: Bar(8192, areas=(Area(16, 8), Area(256, 64)), mappable=False)}  # noqa: RUF012

    device = Odd()
    device.regions[0].write(16, b"12345678")
    assert bytes(device.block("bar0.0").view) == b"12345678"
    device.close()


def test_power_states_it_does_not_have_are_not_entered() -> None:
    space = full()
    control = space.capability(CAP_PM)
    assert control
    for wanted, there in ((3, 3), (1, 3), (2, 3), (0, 0), (2, 0)):
        space.write(control + 4, struct.pack("<H", wanted))
        assert get(space, "<H", control + 4) == 8 | there, wanted
    space.write(control, bytes(8))
    assert space.data[control] == CAP_PM


def test_two_things_in_one_bar_are_refused() -> None:
    class Twice(PciDevice):
        bars = {4: Bar(4096)}  # noqa: RUF012
        msix = 1

    with pytest.raises(ValueError, match="BAR 4"):
        Twice()

    class Overlaps(PciDevice):
        bars = {0: Bar(4096, is64=True), 1: Bar(4096)}  # noqa: RUF012

    with pytest.raises(ValueError, match="BAR 1"):
        Overlaps()
