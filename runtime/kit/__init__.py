"""To write a device: subclass `PciDevice`, say its bars, and give it callbacks.

The devices that are served by name are in `devices`.
"""

from vfio_migration.runtime.kit.pci_device import (
    ArcError,
    Area,
    Bar,
    CommandError,
    DeviceDefinitionError,
    DmaFaultError,
    Identity,
    NotPermittedError,
    PciDevice,
    UnsavableWorkError,
)

__all__ = [
    "ArcError",
    "Area",
    "Bar",
    "CommandError",
    "DeviceDefinitionError",
    "DmaFaultError",
    "Identity",
    "NotPermittedError",
    "PciDevice",
    "UnsavableWorkError",
]
