"""What the kit itself saves of a device: configuration space, interrupts raised and not sent.

Work that is put off has a section of its own, made by `pending_work`.

And what a stream states of who saved it: a device takes over the state only of one like itself.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from vfio_migration.runtime.kit.config_space import ConfigSpace, Identity
from vfio_migration.runtime.kit.interrupts import INDEXES, Interrupts
from vfio_migration.runtime.kit.state_stream import StreamRefusedError
from vfio_migration.runtime.kit.tracked_memory import TrackedMemory

KIT: Final = 0
DEVICE: Final = 1
WORK: Final = 2
SECTIONS: Final = (KIT, DEVICE)
"""The sections every stream has: what the kit saves, and what the device does."""
LATER_SECTIONS: Final = (WORK,)
"""Those that streams of earlier versions do not have: what the device has put off."""

_HEAD: Final = struct.Struct("<HI?HI")
_PENDING: Final = struct.Struct("<BH")
_LAYOUT: Final = 1


class Saved(Protocol):
    """What is asked of a device to save it, and to load it; see `PciDevice`."""

    name: str
    identity: Identity
    version: int
    loads: Collection[int]
    memories: Sequence[TrackedMemory]
    config: ConfigSpace
    interrupts: Interrupts


def header(device: Saved) -> dict[str, Any]:
    """Return which device is saved, for the first frame of a stream."""
    return {
        "device": device.name or type(device).__name__,
        "version": device.version,
        "id": [device.identity.vendor, device.identity.device],
        "memories": [[memory.name, memory.size] for memory in device.memories],
    }


def check(device: Saved, found: object) -> None:
    """Hold what a stream states of who saved it against who is to load it.

    Raises:
        StreamRefusedError: It is another kind of device, or a version that this one does not load.
    """
    mine = header(device)
    if not isinstance(found, Mapping):
        raise StreamRefusedError("the first frame does not name the device that was saved")
    for key in ("device", "id", "memories"):
        if found.get(key) != mine[key]:
            raise StreamRefusedError(f"{key}: {found.get(key)!r}; this device has {mine[key]!r}")
    check_version(device, found.get("version"))


def check_version(device: Saved, found: object) -> None:
    """Raise `StreamRefusedError` for a version of the state that a device does not load."""
    known = sorted({device.version, *device.loads})
    if type(found) is not int or found not in known:
        listed = ", ".join(map(str, known))
        raise StreamRefusedError(f"version {found!r} of the state; this device loads {listed}")


def pack(device: Saved) -> bytes:
    """Return the state that the kit saves."""
    irq = device.interrupts
    pending = [(index, vector) for index in range(INDEXES) for vector in irq.pending(index)]
    head = _HEAD.pack(_LAYOUT, device.version, irq.line, len(pending), device.config.size)
    return b"".join([head, *(_PENDING.pack(*row) for row in pending), device.config.data])


def version(state: bytes) -> int:
    """Return which version of the state of the device comes with this."""
    return int(_HEAD.unpack_from(state)[1])


def unpack(device: Saved, state: bytes) -> None:
    """Take over what `pack` returned.

    Raises:
        ValueError: It makes no sense, or not for this device.
        struct.error: It is too short.
    """
    layout, _version, line, count, size = _HEAD.unpack_from(state)
    if layout != _LAYOUT:
        raise ValueError(f"layout {layout} of what the kit saves; this is read: {_LAYOUT}")
    config = _HEAD.size + count * _PENDING.size
    if len(state) != config + size:
        raise ValueError(f"{len(state)} bytes of what the kit saves; {config + size} are due")
    pending = list(_PENDING.iter_unpack(state[_HEAD.size : config]))
    device.config.load(state[config:])
    device.interrupts.restore(line, pending)


def msix_pending(vectors: int) -> int:
    """Return where in its BAR the pending bits of MSI-X are: after the table."""
    return (16 * vectors + 7) & ~7


def msix_pending_size(vectors: int) -> int:
    """Return how many bytes of pending bits there are."""
    return 8 * -(-vectors // 64)


def msix_bar_size(vectors: int) -> int:
    """Return the size of a BAR for the table and the pending bits of MSI-X."""
    needed = msix_pending(vectors) + msix_pending_size(vectors)
    return max(4096, 1 << (needed - 1).bit_length())
