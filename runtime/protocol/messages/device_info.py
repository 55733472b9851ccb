"""The commands about the device and its interrupts.

Source: docs/interop/vfio-user.rst, the section named after the command.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.flags import FlagRule
from vfio_migration.runtime.protocol.layout import Data, IrqSetFlags
from vfio_migration.runtime.protocol.messages.shapes import Empty, Fixed, Message, Sized, wrong_size


@dataclass(frozen=True, slots=True)
class DeviceGetInfo(Sized):
    """What is the device?"""

    name = "DEVICE_GET_INFO"
    layout = struct.Struct("=IIII")

    argsz: int = 16
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0


@dataclass(frozen=True, slots=True)
class DeviceGetInfoReply(Fixed):
    """What the device is; `flags` are `DeviceFlags`."""

    name = "DEVICE_GET_INFO"
    is_reply = True
    layout = struct.Struct("=IIII")

    argsz: int = 16
    flags: int = 0
    num_regions: int = 0
    num_irqs: int = 0


@dataclass(frozen=True, slots=True)
class DeviceGetIrqInfo(Sized):
    """What is this type of interrupt?"""

    name = "DEVICE_GET_IRQ_INFO"
    layout = struct.Struct("=IIII")

    argsz: int = 16
    flags: int = 0
    index: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class DeviceGetIrqInfoReply(Fixed):
    """What this type of interrupt is; `flags` are `IrqInfoFlags`."""

    name = "DEVICE_GET_IRQ_INFO"
    is_reply = True
    layout = struct.Struct("=IIII")

    argsz: int = 16
    flags: int = 0
    index: int = 0
    count: int = 0


_RULE: Final = FlagRule("irq_set")
_BOOL: Final = int(IrqSetFlags.DATA_BOOL)
_EVENTFD: Final = int(IrqSetFlags.DATA_EVENTFD)


@dataclass(frozen=True, slots=True)
class DeviceSetIrqs(Message):
    """What is to happen when an interrupt is raised, masked or unmasked.

    `flags` are `IrqSetFlags`. With DATA_BOOL, `data` has a byte for each of `count` interrupts.
    With DATA_EVENTFD, as many descriptors come along, or none, which takes them back. Descriptors
    beyond that are nothing to it.
    """

    name = "DEVICE_SET_IRQS"
    layout = struct.Struct("=IIIII")

    flags: int
    index: int
    start: int
    count: int
    data: Data = b""

    @property
    def argsz(self) -> int:
        """The size of the payload, data included."""
        return 20 + len(self.data)

    @classmethod
    def parse(cls, payload: Data, fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) < 20:
            raise wrong_size(cls, payload)
        argsz, flags, index, start, count = cls.layout.unpack_from(payload)
        _RULE.check(flags)
        if flags & _EVENTFD and 0 < len(fds) < count:
            why = f"DeviceSetIrqs: {len(fds)} descriptors for {count} interrupts"
            raise MalformedError("argument_invalid", why)
        expected = 20 + (count if flags & _BOOL else 0)
        # Only booleans are data; what follows where there are none is passed over.
        if argsz < expected or (flags & _BOOL and len(payload) != expected):
            raise wrong_size(cls, payload, expected)
        return cls(flags, index, start, count, payload[20:expected])

    def takes_fds(self, count: int) -> int:
        """Return how many of the descriptors that came with it are for its interrupts."""
        return min(count, self.count) if self.flags & _EVENTFD else 0

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        fixed = self.layout.pack(self.argsz, self.flags, self.index, self.start, self.count)
        return (fixed, self.data)


@dataclass(frozen=True, slots=True)
class DeviceSetIrqsReply(Empty):
    """So it is."""

    name = "DEVICE_SET_IRQS"
    is_reply = True


@dataclass(frozen=True, slots=True)
class DeviceReset(Empty):
    """Reset the device."""

    name = "DEVICE_RESET"


@dataclass(frozen=True, slots=True)
class DeviceResetReply(Empty):
    """It is reset."""

    name = "DEVICE_RESET"
    is_reply = True
