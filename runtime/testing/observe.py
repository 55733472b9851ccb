"""What is seen of a device from outside, and in which place two sights of it differ."""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple, TypeAlias

from vfio_migration.runtime.kit.contract import DeviceContract
from vfio_migration.runtime.kit.region import CONFIG_INDEX, ROM_INDEX, Region

FAR: Final = 1 << 12
"""How many bytes of each region are looked at where it is looked thoroughly."""
LOOK: Final = 1 << 10
"""How many otherwise; and how many are written to by a driver that knows nothing of the device."""
WORDS: Final = 1 << 8
"""How many of them also word by word; where it is looked thoroughly, byte by byte."""
SIZES: Final = (1, 2, 4, 8)
"""How many bytes an access to a register can have."""
_WORD: Final = 4


class Sight(NamedTuple):
    """What is looked at.

    Attributes:
        what: Its name, in words.
        size: It is seen in pieces of so many bytes, one after the other; 0: as a whole.
        memory: It is plain memory.
        register: It is a register that the device itself answers for.
        stopped: A client may write it while the device is stopped.
    """

    what: str
    size: int = 0
    memory: bool = False
    register: bool = False
    stopped: bool = False


Seen: TypeAlias = dict[Sight, Any]


def region_name(index: int) -> str:
    """Return what a region is called, by its VFIO index."""
    if index < ROM_INDEX:
        return f"BAR {index}"
    return {ROM_INDEX: "ROM", CONFIG_INDEX: "configuration space"}.get(index, "VGA")


def accesses(region: Region, size: int, reach: int = LOOK) -> range:
    """Return the offsets of all accesses of a size, in the first `reach` bytes, or fewer."""
    end = min(region.size, reach if size >= _WORD else WORDS)
    return range(0, end - size + 1, size)


def look(device: DeviceContract, *, thorough: bool = False) -> Seen:
    """Return all that can be seen of a device but its stream; `thorough`: in all sizes of access.

    Otherwise by words for a part of each region, and all that is looked at of it at one go.
    """
    seen: Seen = {}
    for index, region in enumerate(device.regions):
        if not region.size or not region.readable:
            continue
        name, stopped = region_name(index), region.writable_stopped
        register = index < ROM_INDEX and not stopped
        # In words too: some registers can be read only so.
        for size in (_WORD, 2, 1) if thorough else (_WORD,):
            starts = accesses(region, size, FAR if thorough else WORDS)
            pieces = [bytes(region.read(at, size)) for at in starts]
            seen[Sight(name, size, register=register, stopped=stopped)] = pieces
        content = bytes(region.read(0, min(region.size, FAR if thorough else LOOK)))
        pieces = [content[at : at + 8] for at in range(0, len(content), 8)]
        seen[Sight(name, 8, register=register, stopped=stopped)] = pieces
        for area in region.areas:
            content = hashlib.blake2b(region.read(area.offset, area.size)).digest()
            seen[Sight(f"the memory of {name} at {area.offset:#x}", memory=True)] = content
    seen[Sight("the interrupt line")] = device.interrupts.line
    return seen


def differing(one: Seen, other: Seen) -> list[Sight]:
    """Return in what two sights differ."""
    return [sight for sight in one if one[sight] != other.get(sight)]


def unlike(one: Seen, other: Seen, who: str, whose: str) -> str:
    """Return where two observations differ first, in each thing observed, and both contents.

    Args:
        one: The one.
        other: The other.
        who: What the one is called.
        whose: What the other is called.

    Returns:
        "BAR 0 at 0x8: source 0x7, destination 0x1", for instance; nothing if they are alike.
    """
    described: dict[str, str] = {}
    for sight in differing(one, other):
        if sight.what not in described:
            described[sight.what] = _place(sight, one[sight], other.get(sight), who, whose)
    return "; ".join(described.values())


def not_arrived(one: Seen, other: Seen) -> str:
    """Return what of a source was not seen at the destination, and who may have forgotten it."""
    words = unlike(one, other, "source", "destination")
    if any(sight.register for sight in differing(one, other)):
        words += " (does `save` leave it out, or `load` not put it back?)"
    return words


def _place(sight: Sight, here: Any, there: Any, who: str, whose: str) -> str:
    if not sight.size:
        if isinstance(here, bytes):
            return f"{sight.what}: not the same in {who} and {whose}"
        return f"{sight.what}: {who} {here}, {whose} {there}"
    there = there or []
    places = [at for at, piece in enumerate(here) if at >= len(there) or piece != there[at]]
    if not places:
        return f"{sight.what}: longer in {whose} than in {who}"
    values = [
        f"{int.from_bytes(pieces[places[0]], 'little'):#x}" if places[0] < len(pieces) else "none"
        for pieces in (here, there)
    ]
    width = "" if sight.size == _WORD else f" ({sight.size} byte{'s' if sight.size > 1 else ''})"
    more = f", and {len(places) - 1} more" if len(places) > 1 else ""
    at = places[0] * sight.size
    return f"{sight.what} at {at:#x}{width}: {who} {values[0]}, {whose} {values[1]}{more}"
