"""Whether a handover that nobody disturbs brings every device to where it is to be."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from vfio_migration.model import Machine
from vfio_migration.model.plan import Side
from vfio_migration.verifier.systems.handover import SIDES, Device, Journey, Spot


@dataclass(frozen=True, slots=True)
class Stranded:
    """A device that a handover does not bring to where it is to be.

    Attributes:
        text: The device, and where it does not get on.
        begun: Where the handover begins.
        side: The side of the device.
        word: Its capability set.
        device: What it is then.
    """

    text: str
    begun: Spot
    side: Side
    word: int
    device: Device


def stranded(journey: Journey, index: int) -> Stranded | None:
    """Return which device a handover does not bring to where it is to be; None if there is none.

    Devices move by themselves, so each is followed alone, from wherever it may be found. A winner
    that holds no state may refuse, unless the row is for those: then the next row is tried.
    """
    row = journey.plans.handovers[index]
    for begun in [spot for spot in journey.reachable if spot.place == journey.decided[index]]:
        for side, (word, machine) in itertools.product(SIDES, journey.encoding.machines.items()):
            for device in sorted(journey.reachable[begun][side][word], key=str):
                if side == row.winner and not device[1] and not row.failed:
                    continue
                spot, end = _led(journey, begun, side, machine, device)
                place = journey.places[spot.place or 0]
                if place.kind != "end" or not journey.right(spot, side, word, end):
                    who = f"a device of the {side} found in {device[0]}"
                    names = ",".join(machine.names)
                    text = f"{place}: {who} does not get on from {end[0]} (with {names})"
                    return Stranded(text, begun, side, word, device)
    return None


def _led(
    journey: Journey, spot: Spot, side: Side, machine: Machine, device: Device
) -> tuple[Spot, Device]:
    """How far a program goes on with a device that does what it is asked, and where that ends."""
    seen = set()
    while (spot, device) not in seen:
        seen.add((spot, device))
        steps = journey.transitions(spot, side, machine, device)
        done = [then for what, then in steps if what not in ("fails", "refuses")]
        if done:
            device = done[0]
        elif journey.passes(spot, side, machine, device):
            spot = journey.after(spot) or spot
    return spot, device
