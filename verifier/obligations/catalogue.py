"""Every obligation there is. The list in the documentation is generated from this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vfio_migration.verifier.obligations.device import DEVICE
from vfio_migration.verifier.obligations.group import GROUP
from vfio_migration.verifier.obligations.stream import STREAM
from vfio_migration.verifier.obligations.table import TABLE
from vfio_migration.verifier.obligations.wire import WIRE
from vfio_migration.verifier.solver.obligation import Obligation

FAMILIES = {
    "T": "the table",
    "D": "one device",
    "S": "the stream",
    "G": "groups of devices",
    "W": "the wire",
}
"""The families by letter, in the order in which they are proved and documented."""

OBLIGATIONS: Final[tuple[Obligation, ...]] = (*TABLE, *DEVICE, *STREAM, *GROUP, *WIRE)
"""Every obligation, in the order in which they are documented."""

WEIGHTS: Final[Mapping[str, int]] = {
    "T4": 4,
    "T5": 4,
    "T9": 11,
    "D1": 4,
    "D2": 4,
    "D6": 3,
    "D8": 4,
    "D12": 4,
    "S1": 12,
    "S6": 8,
    "G1": 12,
    "G4": 20,
    "G5": 18,
    "G7": 60,
    "W1": 4,
    "W3": 8,
    "W6": 5,
}
"""How long obligations take, in hundredths of a second of 2026, for who spreads them over
processes; any other takes about `WEIGHT`."""

WEIGHT: Final = 2
