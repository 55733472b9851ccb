"""The test suite for devices: each obligation of the table is tried on a device of the kit."""

from vfio_migration.runtime.testing import suite
from vfio_migration.runtime.testing.suite import *  # noqa: F403 - the list of names is there, once

__all__: list[str] = []
__all__ += suite.__all__
