"""Interrupts of a device, as descriptors that can be waited for.

    with Interrupts(client, MSIX, 4) as interrupts:
        for vector, count in interrupts.wait(1.0).items():
            ...

Programs that run asyncio take `vfio_migration.runtime.client.async_interrupts`.

Each vector has an eventfd, which counts. A message carries no more descriptors than the server
takes, so many vectors take many messages; the last ones are set first, because a server may set up
as many vectors as the first message reaches and no more (VFIO_IRQ_INFO_NORESIZE).

INTx is masked by the device each time it is raised, until it is unmasked.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import threading
from typing import Final

from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.blocking import Client
from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.client.errors import ClientError
from vfio_migration.runtime.protocol.layout import IrqSetFlags
from vfio_migration.runtime.transport.closing import Closing

INTX: Final = 0
MSI: Final = 1
MSIX: Final = 2
ERR: Final = 3
REQ: Final = 4

_GIVE: Final = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
_NOW: Final = IrqSetFlags.DATA_NONE


class Vectors:
    """An eventfd for each of some vectors of one type, and the calls about them; nothing waits.

    Args:
        index: Which type of interrupt.
        count: How many vectors.
        start: The first of them.

    Attributes:
        index: As given.
        start: As given.
        fds: The descriptors, in order. They belong to this object.
    """

    def __init__(self, index: int, count: int = 1, start: int = 0) -> None:
        self.index, self.start = index, start
        self.fds: list[int] = []
        # One thread may wait while another closes.
        self._lock = threading.Lock()
        try:
            for _ in range(count):
                self.fds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except BaseException:
            Vectors.close(self)
            raise

    # --- calls ---

    def giving(self, most: int) -> list[Call[None]]:
        """Return what gives the server the descriptors, `most` with a message."""
        if not self.fds:
            return []
        if most < 1:
            raise ValueError("the server takes no descriptors, so it can raise no interrupts")
        return [
            calls.set_irqs(int(_GIVE), self.index, self.start + at, len(fds), fds=fds)
            for at in reversed(range(0, len(self.fds), most))
            for fds in [self.fds[at : at + most]]
        ]

    def taking_back(self) -> Call[None]:
        """Return what takes them back, and with them those of all vectors of the type.

        There is no way to take back some that all servers know.
        """
        return calls.set_irqs(int(_NOW | IrqSetFlags.ACTION_TRIGGER), self.index, 0, 0)

    def masking(self, masked: bool) -> Call[None]:
        """Return what masks or unmasks all of them."""
        action = IrqSetFlags.ACTION_MASK if masked else IrqSetFlags.ACTION_UNMASK
        return calls.set_irqs(int(_NOW | action), self.index, self.start, len(self.fds))

    def raising(self, vector: int) -> Call[None]:
        """Return what has the server raise a vector as if the device had, to try it out."""
        return calls.set_irqs(int(_NOW | IrqSetFlags.ACTION_TRIGGER), self.index, vector, 1)

    # --- what was raised ---

    def taken(self) -> dict[int, int]:
        """Return how often each vector was raised since this was last asked, if it was."""
        found: dict[int, int] = {}
        with self._lock:
            for vector, fd in enumerate(self.fds, self.start):
                with contextlib.suppress(BlockingIOError):
                    found[vector] = os.eventfd_read(fd)
        return found

    def close(self) -> None:
        """Close the descriptors. Those that the server has are its own."""
        with self._lock:
            fds, self.fds = self.fds, []
            for fd in fds:
                with contextlib.suppress(BlockingIOError):  # it is full, so it can be read
                    os.eventfd_write(fd, 1)  # a thread that waits for it goes on
                os.close(fd)


class Interrupts(Vectors, Closing):
    """The interrupts of one type; the server has the descriptors until `close`.

    Args:
        client: Whose device it is.
        index: Which type of interrupt.
        count: How many vectors.
        start: The first of them.

    Raises:
        RefusedError: The device has no such vectors.
        ClientError: The connection is over.
    """

    def __init__(self, client: Client, index: int, count: int = 1, start: int = 0) -> None:
        super().__init__(index, count, start)
        self._client = client
        try:
            for call in self.giving(client.max_fds):
                client.do(call)
        except BaseException:
            self.close()
            raise

    def wait(self, seconds: float | None = None) -> dict[int, int]:
        """Wait for any of them; return how often each was raised.

        Empty: none was in time, or they are closed.
        """
        if not (fds := self.fds):
            return {}
        waits = select.poll()
        for fd in fds:
            waits.register(fd, select.POLLIN)
        waits.poll(None if seconds is None else max(0, math.ceil(seconds * 1000)))
        return self.taken()

    def mask(self) -> None:
        """Have the device raise none of them. Raises as `Client.do`."""
        self._client.do(self.masking(True))

    def unmask(self) -> None:
        """Have the device raise them again. Raises as `Client.do`."""
        self._client.do(self.masking(False))

    def trigger(self, vector: int) -> None:
        """Have the server raise one as if the device had. Raises as `Client.do`."""
        self._client.do(self.raising(vector))

    def close(self) -> None:
        """Take them back, as far as anybody is there, and close them."""
        try:
            if self.fds and self._client.over is None:
                with contextlib.suppress(ClientError):
                    self._client.do(self.taking_back())
        finally:
            super().close()
