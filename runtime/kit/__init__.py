"""To write a device: subclass `PciDevice`, say its bars, and give it callbacks.

The devices that are served by name are in `devices`.
"""

from vfio_migration.runtime.kit import pci_device
from vfio_migration.runtime.kit.pci_device import *  # noqa: F403 - the list of names is there, once

__all__: list[str] = []
__all__ += pci_device.__all__
