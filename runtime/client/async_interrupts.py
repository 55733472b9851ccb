"""Interrupts of a device for programs that run asyncio; the rest is as in `interrupts`.

async with AsyncInterrupts(client, INTX) as interrupts:
await interrupts.wait()
await interrupts.unmask()
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from vfio_migration.runtime.client.asynchronous import AsyncClient
from vfio_migration.runtime.client.errors import ClientError
from vfio_migration.runtime.client.interrupts import Vectors


class AsyncInterrupts(Vectors):
    """The interrupts of one type; the server has the descriptors while this is entered.

    Args:
        client: Whose device it is.
        index: Which type of interrupt.
        count: How many vectors.
        start: The first of them.
    """

    def __init__(self, client: AsyncClient, index: int, count: int = 1, start: int = 0) -> None:
        super().__init__(index, count, start)
        self._client = client
        self._raised: asyncio.Future[None] | None = None

    async def wait(self) -> dict[int, int]:
        """Wait for any of them; return how often each was raised. One task waits at a time.

        Empty: they are closed.
        """
        loop = asyncio.get_running_loop()
        while not (found := self.taken()) and self.fds:
            self._raised = raised = loop.create_future()
            for fd in self.fds:
                loop.add_reader(fd, _set_result, raised)
            try:
                await raised
            finally:
                self._wake()
        return found

    def _wake(self) -> None:
        """End the waiting; the loop looks at the descriptors no more."""
        raised, self._raised = self._raised, None
        if raised is not None:
            for fd in self.fds:
                raised.get_loop().remove_reader(fd)
            _set_result(raised)

    def close(self) -> None:
        """Close the descriptors; a task that waits for them waits no more."""
        self._wake()
        super().close()

    async def mask(self) -> None:
        """Have the device raise none of them. Raises as `AsyncClient.do`."""
        await self._client.do(self.masking(True))

    async def unmask(self) -> None:
        """Have the device raise them again. Raises as `AsyncClient.do`."""
        await self._client.do(self.masking(False))

    async def trigger(self, vector: int) -> None:
        """Have the server raise one as if the device had. Raises as `AsyncClient.do`."""
        await self._client.do(self.raising(vector))

    async def __aenter__(self) -> Self:
        try:
            for call in self.giving(self._client.max_fds):
                await self._client.do(call)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.fds and self._client.over is None:
                with contextlib.suppress(ClientError):
                    await self._client.do(self.taking_back())
        finally:
            self.close()


def _set_result(raised: asyncio.Future[None]) -> None:
    if not raised.done():
        raised.set_result(None)
