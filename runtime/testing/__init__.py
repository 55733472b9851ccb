"""The test suite for devices: each obligation of the table is tried on a device of the kit."""

from vfio_migration.runtime.testing.suite import (
    GUEST_AT,
    GUEST_SIZE,
    PEER_AT,
    PEER_SIZE,
    Clock,
    Drive,
    Guest,
    ObligationViolatedError,
    Problem,
    Setup,
    Trial,
    device_test_suite,
    find_problems,
    fuzz,
    run_random_walks,
)

__all__ = [
    "GUEST_AT",
    "GUEST_SIZE",
    "PEER_AT",
    "PEER_SIZE",
    "Clock",
    "Drive",
    "Guest",
    "ObligationViolatedError",
    "Problem",
    "Setup",
    "Trial",
    "device_test_suite",
    "find_problems",
    "fuzz",
    "run_random_walks",
]
