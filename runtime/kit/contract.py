"""What a server asks of a device: the one protocol between the two.

`DeviceContract` is all that a server knows of a device;
`vfio_migration.runtime.kit.pci_device.PciDevice` satisfies it. The migration part (`take`, `reset`,
`disconnect`) is called by the engine and by nobody else; the rest is called by the server.

*Threads.* A device is used by one thread at a time. A server with several holds a lock of its own
around every call, those that the engine makes included.

*Time.* A device has no threads of its own: it states in `deadline` when it wants to be called next,
and does what is due in `tick`. A server waits for messages no longer than until then.

*Descriptors.* Anybody who hands a descriptor to a device keeps it and closes it: what the device
wants to hold on to, it duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vfio_migration.runtime.engine.callbacks import DisconnectingDevice
from vfio_migration.runtime.kit.errors import AnnouncedInfo, Part, PrecopyInfo

if TYPE_CHECKING:
    from vfio_migration.model import Spec
    from vfio_migration.runtime.kit.guest_memory import GuestMemory
    from vfio_migration.runtime.kit.interrupts import Interrupts
    from vfio_migration.runtime.kit.region import Region


class DeviceContract(DisconnectingDevice, Protocol):
    """A device that a server can serve.

    `disconnect` drops what it is asked to (the maps of `memory`, the descriptors of `interrupts`)
    whether or not it then fails.
    """

    @property
    def spec(self) -> Spec:
        """The table that the device runs by."""
        ...

    @property
    def capabilities(self) -> str:
        """The names of the capabilities it offers, joined by commas."""
        ...

    @property
    def regions(self) -> Sequence[Region]:
        """Its regions by their VFIO index: BARs 0 to 5, ROM, configuration space, VGA.

        One that the device does not have is there and has size 0.
        """
        ...

    @property
    def interrupts(self) -> Interrupts:
        """Its interrupts."""
        ...

    @property
    def memory(self) -> GuestMemory:
        """The memory of the guest as the device reaches it."""
        ...

    def stream_read(self, size: int, /) -> list[Part]:
        """Return the next `size` bytes of the open saving session, in parts.

        Fewer than `size` mean that there is no more: for now or for good, as the table specifies
            for the
        state (`Spec.stream_end`). Parts that show memory of the device stay right only until the
        device is called again, so they are to be sent, or copied, before that.

        Raises:
            CommandError: Nothing is read in the present state.
        """
        ...

    def stream_write(self, data: Part, /) -> None:
        """Take the next bytes of the open resuming session; `data` is not kept.

        Raises:
            CommandError: Nothing is written in the present state, or what was written is no stream
                this device can take. The latter is judged again, and refused again, when the
                session closes: a writer that does not look at this error gains nothing.
        """
        ...

    def precopy_info(self) -> PrecopyInfo:
        """Return how much is left to read.

        Raises:
            CommandError: The present state has no stream, or one that cannot grow any more.
        """
        ...

    def announced_info(self) -> AnnouncedInfo:
        """Return the same for a client that asked to be notified of new initial data.

        That there is new initial data is returned once. Raises as `precopy_info`.
        """
        ...

    def stop_copy_length(self) -> int:
        """Estimate how many bytes will be left to read once the device is stopped."""
        ...

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called, as `time.monotonic` counts; None: no matter when."""
        ...

    def tick(self) -> None:
        """Do what is due; nothing, if called early."""
        ...

    def close(self) -> None:
        """Give back memory and descriptors; the device is not used any more."""
        ...
