"""The devices that come with the package, by the name `serve --device` knows them by.

`edu` is QEMU's educational device, register for register; `memory` is a large region that changes
at a set rate, for benchmarks and demonstrations.
"""

from vfio_migration.runtime.kit.devices.edu import Edu
from vfio_migration.runtime.kit.devices.memory import MemoryDevice

DEVICES = {Edu.name: Edu, MemoryDevice.name: MemoryDevice}
"""The devices, by name."""

__all__ = ["DEVICES", "Edu", "MemoryDevice"]
