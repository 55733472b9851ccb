"""The commands about memory of the client: what the device may access, and access by message.

Source: docs/interop/vfio-user.rst, the section named after the command.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.messages.shapes import (
    Counted,
    Empty,
    Fixed,
    Message,
    Sized,
    too_much,
    wrong_size,
)


@dataclass(frozen=True, slots=True)
class DmaMap(Sized):
    """Memory the device may access, with a descriptor if it can be mapped."""

    name = "DMA_MAP"
    layout = struct.Struct("=IIQQQ")

    argsz: int
    flags: int
    offset: int
    address: int
    size: int

    @classmethod
    def asking(cls, address: int, size: int, *, flags: int, offset: int = 0) -> Self:
        """Make the command with its argsz."""
        return cls(32, flags, offset, address, size)


@dataclass(frozen=True, slots=True)
class DmaMapReply(Empty):
    """The memory is known."""

    name = "DMA_MAP"
    is_reply = True


@dataclass(frozen=True, slots=True)
class DmaUnmap(Sized):
    """Memory the device may access no longer.

    The flag of VFIO that asks for a dirty bitmap is not in the text any more, and is refused.
    """

    name = "DMA_UNMAP"
    layout = struct.Struct("=IIQQ")

    argsz: int
    flags: int
    address: int
    size: int

    @classmethod
    def asking(cls, address: int, size: int, *, flags: int = 0) -> Self:
        """Make the command with its argsz."""
        return cls(24, flags, address, size)


@dataclass(frozen=True, slots=True)
class DmaUnmapReply(Fixed):
    """The entry as the command gave it; nothing refers to it any more."""

    name = "DMA_UNMAP"
    is_reply = True
    layout = struct.Struct("=IIQQ")

    argsz: int
    flags: int
    address: int
    size: int

    @classmethod
    def of(cls, command: DmaUnmap) -> Self:
        """Repeat the command, with the argsz of the reply."""
        return cls(24, command.flags, command.address, command.size)


_DMA: Final = struct.Struct("=QQ")
_DMA_DONE: Final = struct.Struct("=QI")


@dataclass(frozen=True, slots=True)
class DmaRead(Fixed):
    """Server to client: read memory."""

    name = "DMA_READ"
    layout = _DMA
    asks = "count"

    address: int
    count: int


@dataclass(frozen=True, slots=True)
class DmaReadReply(Counted):
    """What was read."""

    name = "DMA_READ"
    is_reply = True
    layout = _DMA
    padded = True

    address: int
    data: Data


@dataclass(frozen=True, slots=True)
class DmaWrite(Counted):
    """Server to client: write memory."""

    name = "DMA_WRITE"
    layout = _DMA

    address: int
    data: Data


@dataclass(frozen=True, slots=True)
class DmaWriteReply(Fixed):
    """How much was written.

    The text gives count 4 bytes here and 8 everywhere else; 16 bytes are sent, as libvfio-user
    does, and 12 are taken too. QEMU's client replies with no payload at all, which means that all
    was written.
    """

    name = "DMA_WRITE"
    is_reply = True
    layout = _DMA

    address: int
    count: int

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) == 16:
            return cls(*_DMA.unpack(payload))
        if len(payload) == 12:
            return cls(*_DMA_DONE.unpack(payload))
        raise wrong_size(cls, payload)

    @classmethod
    def answering(cls, command: Message, payload: Data, /) -> Self:
        """Read the payload of a reply; see `Message.answering`."""
        if isinstance(command, DmaWrite):
            if not payload:
                return cls(command.address, command.count)
            message = cls.parse(payload)
            if message.count > command.count:
                raise too_much(cls, message.count, command.count)
            return message
        return cls.parse(payload)
