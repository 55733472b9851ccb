"""Every obligation there is. The list in the documentation is generated from this one."""

from __future__ import annotations

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
