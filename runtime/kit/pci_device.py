"""The device kit: what people subclass who write a device.

A device reports what it is (class attributes), answers register accesses (`bar_read`, `bar_write`)
and gives its state out and takes it in (`save`, `load`, `reset_device`). The rest is here:
configuration space, interrupts, memory of the guest, work to be done later, streams, and when what
is permitted.

    >>> import struct
    >>> class Counter(PciDevice):
    ...     name = "counter"
    ...     identity = Identity(vendor=0x1234, device=0xC0DE)
    ...     bars = {0: Bar(4096)}
    ...     msi = 1
    ...
    ...     def reset_device(self):
    ...         self.count = 0
    ...
    ...     def bar_read(self, bar, offset, size):
    ...         return self.count
    ...
    ...     def bar_write(self, bar, offset, value, size):
    ...         self.count = value
    ...         self.interrupt()
    ...
    ...     def save(self):
    ...         return struct.pack("<Q", self.count)
    ...
    ...     def load(self, state, version):
    ...         (self.count,) = struct.unpack("<Q", state)
    >>> Counter().capabilities
    'STOP_COPY,P2P,PRE_COPY'

What a device may do in a state is asked of the table, here and only here; no state is known by its
name. `docs/devices.md` describes all of it.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from vfio_migration.model import Spec, load
from vfio_migration.runtime.engine.errors import ArcError
from vfio_migration.runtime.kit import build as kit_build
from vfio_migration.runtime.kit import definition as kit_definition
from vfio_migration.runtime.kit import own_state as kit_state
from vfio_migration.runtime.kit import pending_work
from vfio_migration.runtime.kit.build import Bar
from vfio_migration.runtime.kit.config_space import Identity
from vfio_migration.runtime.kit.definition import DeviceDefinitionError
from vfio_migration.runtime.kit.errors import CommandError, Part
from vfio_migration.runtime.kit.guest_memory import (
    MAX_MAPS,
    DmaFaultError,
    GuestMemory,
    NotPermittedError,
)
from vfio_migration.runtime.kit.interrupts import INTX, MSI, MSIX, Interrupts
from vfio_migration.runtime.kit.lifecycle import MigratableDevice
from vfio_migration.runtime.kit.pending_work import Plain, UnsavableWorkError, Work
from vfio_migration.runtime.kit.region import Area, Region
from vfio_migration.runtime.kit.timers import Timer
from vfio_migration.runtime.kit.tracked_memory import TrackedMemory

__all__ = [
    "ArcError",
    "Area",
    "Bar",
    "CommandError",
    "DeviceDefinitionError",
    "DmaFaultError",
    "Identity",
    "NotPermittedError",
    "PciDevice",
    "UnsavableWorkError",
]

_LOOK: Final = 0.001
"""How often it is looked whether the client has unmasked INTx without a message."""


class PciDevice(MigratableDevice):
    """A PCI device that can be migrated: a `DeviceContract`. Subclass it.

    What is declared here can also be set on the object, as options are: before `super().__init__`,
    which builds the device and calls `reset_device`.

    Args:
        spec: The table to run by; the one of the package if none is given.
        capabilities: What of the table's capabilities to offer; all by default.
        clock: Returns the time in seconds.
        max_maps: How many maps of guest memory a client may have.

    Attributes:
        spec: The table.
        capabilities: The names of the capabilities offered, joined by commas.
        clock: Returns the time in seconds.
        memories: The parts of the state that the kit streams by pages.
        regions: By VFIO index.
        interrupts: All interrupts; `interrupt` is what a device mostly wants.
        memory: The memory of the guest; a device may also call it `dma`.
        config: Configuration space.
    """

    name: str = ""
    """What the device is called. A stream is loaded only by a device of the same name; the name of
    its class stands in for one that is left out."""
    identity: Identity = Identity(vendor=0x1234, device=0x0001)
    """Who it is on the bus."""
    bars: Mapping[int, Bar] = MappingProxyType({})
    """Its BARs, by number."""
    private: Mapping[str, int] = MappingProxyType({})
    """Memory that no BAR shows, by name, with its size: streamed by pages. See `block`."""
    intx: bool = True
    """Whether it has an interrupt line."""
    msi: int = 0
    """How many MSI vectors it has."""
    msix: int = 0
    """How many MSI-X vectors it has."""
    msix_bar: int = 4
    """Which BAR holds the MSI-X table; the kit makes it."""
    express: bool = False
    """Whether it is a PCI Express device."""
    version: int = 1
    """Which version of its state `save` gives out."""
    loads: Collection[int] = ()
    """Which versions `load` takes, besides `version`."""
    deferrable: Collection[str] | None = None
    """Which methods can be put off with `later`, and so be named by a stream; all of its own if
    nothing is stated."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Look at a device when its class is defined; see `kit_definition`.

        Raises:
            DeviceDefinitionError: It is written in a way that cannot work.
        """
        super().__init_subclass__(**options)
        kit_definition.check_declared(
            cls, {name: value for name, value in vars(cls).items() if not hasattr(value, "__get__")}
        )
        kit_definition.check_callbacks(cls, PciDevice)

    def __init__(
        self,
        spec: Spec | None = None,
        capabilities: Any = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_maps: int = MAX_MAPS,
    ) -> None:
        super().__init__(
            load() if spec is None else spec,
            (kit_state.SECTIONS, kit_state.LATER_SECTIONS),
            clock,
        )
        self._kit_check_definition()
        self.capabilities = ",".join(self.spec.machine(capabilities).names)
        self.clock = clock
        self.memory = self.dma = GuestMemory(max_maps=max_maps, gate=self.permits)
        self.interrupts = Interrupts(
            intx=self.intx,
            msi=self.msi,
            msix=self.msix,
            err=True,
            req=True,
            gate=lambda: self.permits("interrupt"),
        )
        try:
            built = kit_build.build(self)
        except ValueError as error:
            raise DeviceDefinitionError(f"{type(self).__name__}: {error}") from error
        self.config = built.config
        self.regions: Sequence[Region] = built.regions
        self.memories: Sequence[TrackedMemory] = built.memories
        self._kit_owned = built.owned
        self._kit_looks: float | None = None
        self.reset_device()
        self._kit_switch(self._kit_state)  # what it may do to begin with

    # --- what a device supplies ---

    def bar_read(self, bar: int, offset: int, size: int) -> int:  # noqa: ARG002
        """Return the register of `size` bytes (1, 2, 4 or 8) at `offset`; all ones if none is."""
        return -1

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:
        """Take a write to a register; called only while the device may change its state."""

    def save(self) -> Part:
        """Return the state of the device, without what the kit saves; it changes nothing."""
        return b""

    def load(self, state: bytes, version: int) -> None:  # noqa: ARG002
        """Take over what `save` of another device of this kind gave out, or raise.

        Work that was put off comes with the state and replaces what is put off here; a stream of
        an earlier version of the kit does not have it, and then what is put off here is kept.
        Whatever this raises, the stream is refused, and the device does not run before a `load`
        has succeeded or it was reset.
        """
        if len(state):
            raise ValueError(
                f"{len(state)} bytes of state, and {type(self).__name__} has no `load`"
            )

    def reset_device(self) -> None:
        """Come to the state of a device that was just turned on. Called once when it is made."""

    def config_written(self, offset: int, size: int) -> None:
        """Some of configuration space has been written."""

    # --- what the kit offers to a device ---

    def may(self, activity: str) -> bool:
        """Return whether the table permits an activity in the present state.

        Raises:
            DeviceDefinitionError: The table has no such activity.
        """
        if activity not in self._kit_activities:
            raise kit_definition.unknown_activity(type(self).__name__, activity, self.spec)
        return activity in self._kit_may[self._kit_state]

    def later(
        self,
        delay: float,
        work: Callable[..., object],
        *arguments: Plain,
        needs: Callable[..., bool] | None = None,
    ) -> Timer[Work]:
        """Do `work` after `delay` seconds in which the device could change its state.

        The kit saves it with the state, with what is left of its delay, and the device that loads
        the state goes on with it. So it is a method of this device, which is found by its name
        again on the other host, and plain data to call it with:

            self.later(0.5, self.finish, job, needs=self.can_finish)

        Args:
            delay: How many seconds; what is less than none is none.
            work: A method of this device.
            arguments: What it is called with: None, numbers, str, bytes, and tuples of these.
            needs: Another method of this device, called with the same arguments: it must state True
                as well, all the time. While it does not, the time is stopped. For work that is
                DMA it returns `self.dma.permitted(...)`.

        Raises:
            UnsavableWorkError: No stream could carry this: a lambda, a function, a method of
                another object, an argument that is not plain data, or too much. Nothing has been
                put off.
            ValueError: The delay is not a number.
        """
        try:
            left = math.fsum((delay,))  # which takes numbers only
        except (TypeError, OverflowError):
            left = math.nan
        if not math.isfinite(left):
            raise ValueError(
                f"{type(self).__name__}.later: the delay is {delay!r}; it is a number of seconds"
            )
        row = pending_work.describe(self, PciDevice, work, arguments, needs)
        waiting = self._kit_timers.weight + row.size
        if waiting > pending_work.MAX_WORK_BYTES:
            raise UnsavableWorkError(
                f"{type(self).__name__}.later: with {row.method} the work that is put off would "
                f"take {waiting} bytes in a stream, and {pending_work.MAX_WORK_BYTES} can be "
                "saved; is it put off again and again?"
            )
        return self._kit_timers.add(max(0.0, left), *self._kit_bound(row), row)

    def cancel(self, work: Timer[Work] | Callable[..., object]) -> None:
        """Forget work that was put off: what `later` returned, or all of one method.

        After a migration only the method is still known: `self.cancel(self.finish)`.
        """
        if isinstance(work, Timer):
            self._kit_timers.cancel(work)
            return
        for timer in list(self._kit_timers):
            if getattr(self, timer.mark.method) == work:
                self._kit_timers.cancel(timer)

    def interrupt(self, vector: int = 0) -> None:
        """Raise an interrupt the way the guest wants it: MSI-X, MSI, or the line.

        The line stays up until `interrupts.lower_line`. A guest that has allocated fewer MSI
        vectors than there are is reported by one of those: `vector` modulo how many there are then.
        """
        irq, config = self.interrupts, self.config
        if vector < self.msix and (irq.armed(MSIX) or config.msix_enabled):
            irq.trigger(MSIX, vector)
        elif vector < self.msi and (irq.armed(MSI) or config.msi_enabled):
            irq.trigger(MSI, vector % config.msi_vectors if config.msi_enabled else vector)
        elif irq.count(INTX):
            irq.raise_line()
        else:
            irq.trigger(MSIX if self.msix else MSI, vector)

    def block(self, name: str) -> TrackedMemory:
        """Return plain memory of the device: "bar0", "bar0.1" (an area of it), or from `private`.

        Raises:
            KeyError: There is none of this name.
        """
        for memory in self.memories:
            if memory.name == name:
                return memory
        raise KeyError(name)

    # --- what the server calls: `DeviceContract` ---

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called; see `DeviceContract`."""
        due = self._kit_timers.deadline()
        if not self.interrupts.awaits_unmask:
            self._kit_looks = None
            return due
        if self._kit_looks is None:
            self._kit_looks = self.clock() + _LOOK
        return self._kit_looks if due is None else min(due, self._kit_looks)

    def tick(self) -> None:
        """Do what is due; see `DeviceContract`."""
        if self._kit_looks is not None and self._kit_looks <= self.clock():
            self._kit_looks = None
            self.interrupts.read_unmask_event()
        self._kit_timers.run()

    def close(self) -> None:
        """Give back memory and descriptors."""
        self._kit_close()
        self._kit_timers.cancel_all()
        self.memory.drop()
        self.interrupts.drop()
        for memory in self.memories:
            memory.view.release()
        for region in self.regions:
            region.close()
        for owned in self._kit_owned:
            owned.close()

    def _kit_check_definition(self) -> None:
        """Look at what only an object, and a table, can observe of what a class declares."""
        kind = type(self)
        kit_definition.check_declared(kind, vars(self))
        kit_definition.check_activities(kind, PciDevice, self.spec)
        self._kit_activities = frozenset(row.name for row in self.spec.activities)
        for name in self.deferrable or ():
            why = pending_work.unfit(kind, PciDevice, name)
            if why is not None:
                raise DeviceDefinitionError(f"{kind.__name__}.deferrable: {name!r:.80}: {why}")

    # --- what `MigratableDevice` asks for ---

    def kit_power_on(self) -> None:
        """Be as just turned on."""
        self.interrupts.forget()
        self.config.reset()
        for memory in self._kit_owned:
            memory.clear()
        self.reset_device()

    def kit_header(self) -> Mapping[str, Any]:
        """Return who saves."""
        return kit_state.header(self)

    def kit_check(self, record: object, /) -> None:
        """Raise `StreamRefusedError` if who saved is another kind of device."""
        kit_state.check(self, record)

    def kit_sections(self) -> Sequence[tuple[int, Part]]:
        """Return the state that is not in `memories`, by number."""
        return [
            (kit_state.KIT, kit_state.pack(self)),
            (kit_state.DEVICE, self.save()),
            (kit_state.WORK, pending_work.pack(self._kit_timers.waiting())),
        ]

    def kit_load(self, sections: Mapping[int, bytes], /) -> None:
        """Take over what `kit_sections` of another device returned."""
        saved = sections.get(kit_state.WORK)
        waiting = None if saved is None else pending_work.unpack(self, PciDevice, saved)
        kit_state.unpack(self, sections[kit_state.KIT])
        version = kit_state.version(sections[kit_state.KIT])
        kit_state.check_version(self, version)
        self.load(sections[kit_state.DEVICE], version)
        if waiting is not None:
            # What `load` has put off is for streams that do not state what was waiting.
            self._kit_timers.cancel_all()
            for left, row in waiting:
                self._kit_timers.restore(left, *self._kit_bound(row), row)

    def _kit_bound(self, row: Work) -> tuple[Callable[[], object], Callable[[], bool]]:
        """Return what is done, and what states whether it may be done now."""
        work = functools.partial(getattr(self, row.method), *row.arguments)
        if row.needs is None:
            return work, lambda: self.permits("state_change")
        needs = functools.partial(getattr(self, row.needs), *row.arguments)
        return work, lambda: self.permits("state_change") and needs()
