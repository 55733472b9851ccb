"""Builds what a device declares: configuration space, regions, memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from vfio_migration.model.spec import Role
from vfio_migration.runtime.kit import own_state as kit_state
from vfio_migration.runtime.kit.config_space import ConfigRegion, ConfigSpace, Identity, MsixRegion
from vfio_migration.runtime.kit.interrupts import MSIX, Interrupts
from vfio_migration.runtime.kit.region import (
    CONFIG_INDEX,
    PEER_NAME,
    REGION_COUNT,
    Area,
    CallbackRegion,
    Memory,
    MemoryRegion,
    Region,
)
from vfio_migration.runtime.kit.tracked_memory import TrackedMemory


@dataclass(frozen=True, slots=True)
class Bar:
    """A BAR of memory space.

    Attributes:
        size: Its length: a power of two.
        memory: It is plain memory and not registers. It is saved and loaded by the kit.
        areas: For registers: the parts that are plain memory, whole pages each if a client may
            map them.
        mappable: A client may map plain memory of it. What is written through such a map nobody is
            reported, so it is streamed only when the device is stopped.
        is64: It has a 64-bit address, and takes the next number too.
        prefetchable: Reading it changes nothing.
    """

    size: int
    memory: bool = False
    areas: tuple[Area, ...] = ()
    mappable: bool = True
    is64: bool = False
    prefetchable: bool = False


class Declaring(Protocol):
    """What is asked of a device to build it, and what its regions call; see `PciDevice`."""

    identity: Identity
    bars: Mapping[int, Bar]
    private: Mapping[str, int]
    intx: bool
    msi: int
    msix: int
    msix_bar: int
    express: bool
    interrupts: Interrupts

    def permits(self, role: Role, /) -> bool:
        """Return whether the table permits an activity of this role now."""
        ...

    def config_written(self, offset: int, size: int, /) -> None:
        """Take note that configuration space was written."""
        ...

    def bar_read(self, bar: int, offset: int, size: int, /) -> int:
        """Read a register."""
        ...

    def bar_write(self, bar: int, offset: int, value: int, size: int, /) -> None:
        """Write a register."""
        ...


@dataclass(slots=True)
class Built:
    """What a device is made of.

    Attributes:
        config: Configuration space.
        regions: By VFIO index.
        memories: What is streamed by pages.
        owned: All memory that was made.
    """

    config: ConfigSpace
    regions: list[Region] = field(default_factory=lambda: [Region() for _ in range(REGION_COUNT)])
    memories: list[TrackedMemory] = field(default_factory=list)
    owned: list[Memory] = field(default_factory=list)

    def make(self, size: int, name: str) -> Memory:
        """Make memory."""
        made = Memory(size, name)
        self.owned.append(made)
        return made

    def track(
        self, name: str, memory: Memory, *, tracked: bool, area: Area | None = None
    ) -> TrackedMemory:
        """Have memory, or an area of it, streamed."""
        if area is None:
            made = TrackedMemory(
                name,
                memory.view,
                tracked=tracked,
                prefault=memory.prefault,
                fill=memory.fill,
            )
        else:
            view = memory.view[area.offset : area.offset + area.size]
            made = TrackedMemory(name, view, tracked=tracked)
        self.memories.append(made)
        return made


def build(device: Declaring) -> Built:
    """Build what a device declares.

    Raises:
        ValueError: It declares what cannot be.
    """
    built = Built(_config(device))
    for number, bar in device.bars.items():
        built.regions[number] = _bar(device, built, number, bar)
    if device.msix:
        # No page of the table is known to be clean: a client may write it in any state.
        table = built.make(kit_state.msix_bar_size(device.msix), "msix")
        built.track("msix", table, tracked=False)
        built.regions[device.msix_bar] = MsixRegion(
            table,
            kit_state.msix_pending(device.msix),
            kit_state.msix_pending_size(device.msix),
            lambda: device.interrupts.pending(MSIX),
        )
    built.regions[CONFIG_INDEX] = ConfigRegion(
        built.config,
        lambda offset, size: device.config_written(offset, size),
        lambda: device.interrupts.line,
    )
    for name, size in device.private.items():
        built.track(name, built.make(size, name), tracked=True)
    return built


def _config(device: Declaring) -> ConfigSpace:
    config = ConfigSpace(device.identity, express=device.express)
    config.set_interrupt_pin(int(device.intx))
    for number, bar in device.bars.items():
        config.add_bar(number, bar.size, is64=bar.is64, prefetchable=bar.prefetchable)
    config.add_pm()
    if device.msi:
        config.add_msi(device.msi)
    if device.express:
        config.add_express()
    if device.msix:
        config.add_bar(device.msix_bar, kit_state.msix_bar_size(device.msix))
        pending = kit_state.msix_pending(device.msix)
        config.add_msix(device.msix, device.msix_bar, 0, pending)
    return config


def _bar(device: Declaring, built: Built, number: int, bar: Bar) -> Region:
    def changeable() -> bool:
        return device.permits("state_change")

    name = f"bar{number}"
    if bar.memory and bar.areas:
        raise ValueError(f"BAR {number}: is plain memory, and has areas of it among registers")
    if bar.memory:
        memory = built.make(bar.size, f"{PEER_NAME}{number}")
        block = built.track(name, memory, tracked=not bar.mappable)
        return MemoryRegion(memory, mappable=bar.mappable, gate=changeable, wrote=block.mark)
    plain: Memory | None = None
    if bar.areas:
        _check_areas(number, bar)
        plain = built.make(bar.size, f"{PEER_NAME}{number}")
        for index, area in enumerate(bar.areas):
            built.track(f"{name}.{index}", plain, tracked=False, area=area)
    return CallbackRegion(
        bar.size,
        lambda offset, size: device.bar_read(number, offset, size),
        lambda offset, value, size: device.bar_write(number, offset, value, size),
        memory=plain,
        areas=bar.areas,
        gate=changeable,
        mappable=bar.mappable,
    )


def _check_areas(number: int, bar: Bar) -> None:
    """Raise `ValueError` unless the areas lie in their BAR, and side by side, and can be mapped."""
    unit, free = (mmap.PAGESIZE if bar.mappable else 1), 0
    for area in sorted(bar.areas, key=lambda area: area.offset):
        what = f"BAR {number}: area {area.offset:#x}+{area.size:#x}"
        if area.offset < 0 or area.size <= 0 or area.offset + area.size > bar.size:
            raise ValueError(f"{what} is not within its {bar.size:#x} bytes")
        if area.offset < free:
            raise ValueError(f"{what} overlaps another")
        if area.offset % unit or area.size % unit:
            raise ValueError(f"{what} cannot be mapped, as it is not of whole pages")
        free = area.offset + area.size
