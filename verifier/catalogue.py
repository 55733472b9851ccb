"""Every obligation there is. The list in the documentation is generated from this one."""

from __future__ import annotations

from vfio_migration.verifier.device_promises import DEVICE
from vfio_migration.verifier.group_promises import GROUP
from vfio_migration.verifier.obligation import Obligation
from vfio_migration.verifier.stream_promises import STREAM
from vfio_migration.verifier.table import TABLE
from vfio_migration.verifier.wire_promises import WIRE

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
