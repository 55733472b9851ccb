"""Moves devices from one set of servers to another: the coordinator of live migrations."""

from vfio_migration.runtime.coordinator.errors import (
    CancelledError,
    CannotMigrateError,
    CoordinatorError,
    MigrationFailedError,
    StepFailedError,
)
from vfio_migration.runtime.coordinator.events import Event
from vfio_migration.runtime.coordinator.migration import Coordinator, Summary
from vfio_migration.runtime.coordinator.settings import Hooks, Settings

__all__ = [
    "CancelledError",
    "CannotMigrateError",
    "Coordinator",
    "CoordinatorError",
    "Event",
    "Hooks",
    "MigrationFailedError",
    "Settings",
    "StepFailedError",
    "Summary",
]
