"""Moves devices from one set of servers to another: the coordinator of live migrations."""

from vfio_migration.runtime.coordinator.errors import (
    Cancelled,
    CannotMigrate,
    CoordinatorError,
    MigrationFailed,
    StepFailed,
)
from vfio_migration.runtime.coordinator.events import Event
from vfio_migration.runtime.coordinator.migration import Coordinator, Summary
from vfio_migration.runtime.coordinator.settings import Hooks, Settings

__all__ = [
    "Cancelled",
    "CannotMigrate",
    "Coordinator",
    "CoordinatorError",
    "Event",
    "Hooks",
    "MigrationFailed",
    "Settings",
    "StepFailed",
    "Summary",
]
