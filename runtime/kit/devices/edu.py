"""`edu`: QEMU's educational device, register for register (qemu/qemu `docs/specs/edu.rst`).

It inverts a number, computes a factorial, raises interrupts, and copies between the memory of the
guest and a buffer of its own. Where the description is silent the registers do what QEMU's do; the
differences are:

- The buffer, at 0x40000 of BAR 0, is memory that a client can read, write and map, which is how
  another device does peer-to-peer DMA to it. In QEMU only DMA reaches it.
- It does DMA whether or not the guest has made it a bus master; QEMU's then reaches nothing.
- A transfer that does not fit the buffer copies nothing; one to memory that is not there copies
  nothing and sets "received master abort" in the status register. Both are finished as any other.
- A factorial takes `factorial_seconds` and a transfer `dma_seconds` whatever their size. What is
  under way when the device is stopped goes on when it, or the device that took over its state,
  runs again; a transfer to a peer also waits while the device may start none.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from vfio_migration.runtime.kit.config_space import STATUS_MASTER_ABORT
from vfio_migration.runtime.kit.guest_memory import DmaFaultError
from vfio_migration.runtime.kit.pci_device import Area, Bar, Identity, PciDevice

IDENTIFICATION: Final = 0x010000ED

REG_IDENTIFICATION: Final = 0x00
REG_LIVENESS: Final = 0x04
REG_FACTORIAL: Final = 0x08
REG_STATUS: Final = 0x20
REG_IRQ_STATUS: Final = 0x24
REG_IRQ_RAISE: Final = 0x60
REG_IRQ_ACK: Final = 0x64
REG_DMA_SOURCE: Final = 0x80
REG_DMA_DESTINATION: Final = 0x88
REG_DMA_COUNT: Final = 0x90
REG_DMA_COMMAND: Final = 0x98

STATUS_COMPUTING: Final = 0x01
STATUS_IRQ: Final = 0x80

DMA_RUN: Final = 0x1
DMA_FROM_DEVICE: Final = 0x2
DMA_IRQ: Final = 0x4

IRQ_FACTORIAL: Final = 0x001
IRQ_DMA: Final = 0x100

BUFFER: Final = 0x40000
BUFFER_SIZE: Final = 4096

_WIDE: Final = 0x80
"""From here on registers can be accessed 8 bytes at a time."""

_STATE: Final = struct.Struct("<IIIIQQQQ")


class Edu(PciDevice):
    """QEMU's educational device.

    Args:
        dma_mask: Which bits of an address of the guest the device can put out; 28 by default.
        factorial_seconds: How long a factorial takes.
        dma_seconds: How long a transfer takes.
        options: Those of `PciDevice`.
    """

    name = "edu"
    identity = Identity(
        vendor=0x1234,
        device=0x11E8,
        revision=0x10,
        class_code=0x00FF00,
        subsystem_vendor=0x1AF4,
        subsystem=0x1100,
    )
    bars = {0: Bar(1 << 20, areas=(Area(BUFFER, BUFFER_SIZE),))}  # noqa: RUF012 - never changed
    msi = 1
    deferrable = ("_compute", "_transfer", "_may_transfer")

    def __init__(
        self,
        *,
        dma_mask: int = (1 << 28) - 1,
        factorial_seconds: float = 0.001,
        dma_seconds: float = 0.001,
        **options: Any,
    ) -> None:
        self.dma_mask = dma_mask
        self.factorial_seconds = factorial_seconds
        self.dma_seconds = dma_seconds
        super().__init__(**options)

    def reset_device(self) -> None:
        """Come up with all registers zero."""
        self.liveness = self.factorial = self.status = self.irq_status = 0
        self.dma_source = self.dma_destination = self.dma_count = self.dma_command = 0

    # --- registers ---

    def bar_read(self, bar: int, offset: int, size: int) -> int:  # noqa: ARG002 - there is one BAR
        """Read a register; all ones where there is none."""
        if not _fits(offset, size):
            return -1
        return {
            REG_IDENTIFICATION: IDENTIFICATION,
            REG_LIVENESS: self.liveness,
            REG_FACTORIAL: self.factorial,
            REG_STATUS: self.status,
            REG_IRQ_STATUS: self.irq_status,
            REG_DMA_SOURCE: self.dma_source,
            REG_DMA_DESTINATION: self.dma_destination,
            REG_DMA_COUNT: self.dma_count,
            REG_DMA_COMMAND: self.dma_command,
        }.get(offset, -1)

    def bar_write(self, bar: int, offset: int, value: int, size: int) -> None:  # noqa: ARG002
        """Write a register; nothing happens where there is none."""
        if not _fits(offset, size):
            return
        transferring = self.dma_command & DMA_RUN
        match offset:
            case 0x04:
                self.liveness = ~value & 0xFFFFFFFF
            case 0x08 if not self.status & STATUS_COMPUTING:
                self.factorial = value
                self.status |= STATUS_COMPUTING
                self.later(self.factorial_seconds, self._compute)
            case 0x20:
                self.status = self.status & ~STATUS_IRQ | value & STATUS_IRQ
            case 0x60:
                self._raise(value)
            case 0x64:
                self._acknowledge(value)
            case 0x80 if not transferring:
                self.dma_source = value
            case 0x88 if not transferring:
                self.dma_destination = value
            case 0x90 if not transferring:
                self.dma_count = value
            case 0x98 if not transferring and value & DMA_RUN:
                self.dma_command = value
                self.later(self.dma_seconds, self._transfer, needs=self._may_transfer)

    # --- interrupts ---

    def _raise(self, bits: int) -> None:
        self.irq_status |= bits
        if self.irq_status:
            self.interrupt()

    def _acknowledge(self, bits: int) -> None:
        self.irq_status &= ~bits
        if not self.irq_status:
            self.interrupts.lower_line()

    # --- the factorial ---

    def _compute(self) -> None:
        number, result = self.factorial, 1
        # From 34 on the product is a multiple of 2**32: there is no need to multiply on.
        while number > 1 and result:
            result = result * number & 0xFFFFFFFF
            number -= 1
        self.factorial = result
        self.status &= ~STATUS_COMPUTING
        if self.status & STATUS_IRQ:
            self._raise(IRQ_FACTORIAL)

    # --- DMA ---

    def _guest_address(self) -> int:
        from_device = self.dma_command & DMA_FROM_DEVICE
        return (self.dma_destination if from_device else self.dma_source) & self.dma_mask

    def _may_transfer(self) -> bool:
        return self.dma.permitted(self._guest_address(), min(self.dma_count, BUFFER_SIZE))

    def _transfer(self) -> None:
        address, count = self._guest_address(), self.dma_count
        from_device = self.dma_command & DMA_FROM_DEVICE
        begin = (self.dma_source if from_device else self.dma_destination) - BUFFER
        if begin >= 0 and begin + count <= BUFFER_SIZE:
            buffer = self.block("bar0.0")
            try:
                if from_device:
                    self.dma.write(address, buffer.view[begin : begin + count])
                else:
                    buffer.write(begin, self.dma.read(address, count))
            except DmaFaultError:
                self.config.set_status(STATUS_MASTER_ABORT)
        self.dma_command &= ~DMA_RUN
        if self.dma_command & DMA_IRQ:
            self._raise(IRQ_DMA)

    # --- migration ---

    def save(self) -> bytes:
        """Give the registers out; what is under way follows from them."""
        return _STATE.pack(
            self.liveness,
            self.factorial,
            self.status,
            self.irq_status,
            self.dma_source,
            self.dma_destination,
            self.dma_count,
            self.dma_command,
        )

    def load(self, state: bytes, version: int) -> None:  # noqa: ARG002 - there is one version
        """Take registers over.

        What was under way comes with the stream; one of an earlier version does not state what is
        left of it, and then it begins anew.
        """
        (
            self.liveness,
            self.factorial,
            self.status,
            self.irq_status,
            self.dma_source,
            self.dma_destination,
            self.dma_count,
            self.dma_command,
        ) = _STATE.unpack(state)
        if self.status & STATUS_COMPUTING:
            self.later(self.factorial_seconds, self._compute)
        if self.dma_command & DMA_RUN:
            self.later(self.dma_seconds, self._transfer, needs=self._may_transfer)


def _fits(offset: int, size: int) -> bool:
    """Return whether a register at `offset` can be accessed `size` bytes at a time."""
    return size == 4 or (size == 8 and offset >= _WIDE)
