"""Every obligation there is. The list in the documentation is generated from this one."""

from __future__ import annotations

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


def obligations() -> tuple[Obligation, ...]:
    """Return every obligation, in the order in which they are documented."""
    return (*TABLE, *DEVICE, *STREAM, *GROUP, *WIRE)
