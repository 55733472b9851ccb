"""The commands that read and write regions.

Source: docs/interop/vfio-user.rst, the section named after the command.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from vfio_migration.runtime.protocol.faults import MalformedError
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.messages.shapes import Counted, Fixed, Message, wrong_size

_ACCESS: Final = struct.Struct("=QII")
_MULTI: Final = struct.Struct("=Q")
_ONE: Final = struct.Struct("=QII8s")


@dataclass(frozen=True, slots=True)
class RegionRead(Fixed):
    """Read from a region."""

    name = "REGION_READ"
    layout = _ACCESS
    asks = "count"

    offset: int
    region: int
    count: int


@dataclass(frozen=True, slots=True)
class RegionReadReply(Counted):
    """What was read."""

    name = "REGION_READ"
    is_reply = True
    layout = _ACCESS
    padded = True

    offset: int
    region: int
    data: Data


@dataclass(frozen=True, slots=True)
class RegionWrite(Counted):
    """Write to a region."""

    name = "REGION_WRITE"
    layout = _ACCESS

    offset: int
    region: int
    data: Data


@dataclass(frozen=True, slots=True)
class RegionWriteReply(Fixed):
    """How much was written."""

    name = "REGION_WRITE"
    is_reply = True
    layout = _ACCESS

    offset: int
    region: int
    count: int


@dataclass(frozen=True, slots=True)
class SingleWrite:
    """One of several writes: at most 8 bytes."""

    offset: int
    region: int
    data: bytes


@dataclass(frozen=True, slots=True)
class RegionWriteMulti(Message):
    """Several short writes, to be done in this order.

    They stay packed, as `items`, until someone goes through them.
    """

    name = "REGION_WRITE_MULTI"
    layout = _MULTI

    items: Data

    @property
    def wr_cnt(self) -> int:
        """How many writes there are."""
        return len(self.items) // _ONE.size

    def __iter__(self) -> Iterator[SingleWrite]:
        """Go through the writes."""
        for offset, region, size, data in _ONE.iter_unpack(self.items):
            yield SingleWrite(offset, region, data[:size])

    @classmethod
    def of(cls, *writes: SingleWrite) -> Self:
        """Make the command; raise `ValueError` if a write is longer than 8 bytes."""
        for one in writes:
            if len(one.data) > 8:
                raise ValueError(f"RegionWriteMulti: a write of {len(one.data)} bytes")
        return cls(
            b"".join(_ONE.pack(one.offset, one.region, len(one.data), one.data) for one in writes)
        )

    @classmethod
    def parse(cls, payload: Data, _fds: Sequence[int] = (), /) -> Self:
        """Read a payload; see `Message.parse`."""
        if len(payload) < 8:
            raise wrong_size(cls, payload)
        (count,) = _MULTI.unpack_from(payload)
        if 8 + _ONE.size * count != len(payload):
            raise wrong_size(cls, payload, 8 + _ONE.size * count)
        items = payload[8:]
        for _offset, _region, size, _data in _ONE.iter_unpack(items):
            if size > 8:
                raise MalformedError(
                    "argument_invalid", f"RegionWriteMulti: a write of {size} bytes"
                )
        return cls(items)

    def parts(self) -> tuple[Data, ...]:
        """Return the payload in pieces."""
        return (_MULTI.pack(self.wr_cnt), self.items)


@dataclass(frozen=True, slots=True)
class RegionWriteMultiReply(Fixed):
    """How many of the writes were done."""

    name = "REGION_WRITE_MULTI"
    is_reply = True
    layout = _MULTI

    wr_cnt: int
