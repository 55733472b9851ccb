"""A vfio-user client for programs that run asyncio: the calls are those of `Client`.

    async with AsyncClient("/run/edu.sock") as client:
        await client.set_state("STOP_COPY")
        while await client.read_data(1 << 20, file.write) == 1 << 20:
            pass

Any number of tasks may use a client at once; their calls go out in the order in which they are
made, without waiting for one another. The server's DMA by messages is answered at all times, by the
loop. What a client calls (a sink, a watch, its memory) is called by the loop too, and keeps it from
everything else meanwhile.

*Cancelling.* A task that is cancelled while it waits has lost its call and nothing else: whether
the server has done it nobody knows, the answer is disposed of when it comes, and the connection can
be used as before. So `asyncio.timeout` may be put around anything; the client's own timeout, in
contrast, ends the connection, for a server that does not answer is of no use to anybody.

A client belongs to the loop in which it was opened.
"""

from __future__ import annotations

import asyncio
import copy
import select
import socket
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.calls import Call, RegionInfo
from vfio_migration.runtime.client.common import (
    RETRY_S,
    BaseClient,
    ClientSocket,
    connect_now,
    described,
    no_version,
    too_many_wait,
)
from vfio_migration.runtime.client.core import Pending
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerDisconnectedError,
    RefusedError,
    TimedOutError,
)
from vfio_migration.runtime.protocol.connection import Outgoing

P = ParamSpec("P")
T = TypeVar("T")


class Begun(Generic[T]):
    """A call that was begun: await it, once, or let go of it.

    If it is let go of, what comes of it is given back.

    Attributes:
        pending: What has become of it.
    """

    def __init__(self, client: AsyncClient, pending: Pending[T], timeout_s: float) -> None:
        self.pending = pending
        self._client = client
        self._timeout_s = timeout_s
        self._awaited = False

    def __await__(self) -> Generator[Any, None, T]:
        if self._awaited:
            raise RuntimeError("a call that was begun is awaited once")
        self._awaited = True
        # A generator, for it holds on to this while it waits.
        return (yield from self._client._finish(self.pending, self._timeout_s).__await__())

    def __del__(self) -> None:
        # A task that was cancelled before it began does not even know of it.
        self.pending.abandon()


def _does(
    make: Callable[P, Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return a method that carries out the call that `make` makes."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.do(make(*args, **kwargs))

    return described(method, make)


class AsyncClient(BaseClient):
    """A connection to a server. `open`, or entering it as a context, makes it.

    The arguments are those of `BaseClient`.
    """

    _loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Self:
        """Connect.

        Raises:
            PeerDisconnectedError: Nobody listens there, or this was closed before.
            PeerProtocolError: No version could be agreed on.
            TimedOutError: The server does not answer; it may be serving another client.
        """
        if self.over is not None:
            raise copy.copy(self.over)
        assert self._loop is None, "a client is opened once"
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, int] = {}
        where = self._where
        sock = where if isinstance(where, socket.socket) else await self._connected(where)
        try:
            outgoing, pending = self._start(sock)
        except BaseException:
            sock.close()
            raise
        try:
            self._send(outgoing)
            self._add_twin(await self._finish(pending, self.timeout_s))
        except (RefusedError, TimedOutError) as error:
            self.close()
            raise no_version(error) from error
        except BaseException:
            self.close()
            raise
        self._watch()
        return self

    async def _connected(self, path: str | Path) -> socket.socket:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.timeout_s
        while (sock := connect_now(path, self.name)) is None:
            if loop.time() >= until:
                raise too_many_wait(self.name)
            await asyncio.sleep(RETRY_S)
        return sock

    # --- the connection ---

    def close(self) -> None:
        """Hang up. The server keeps the state of the device and drops maps and interrupts."""
        if self._is_forked_copy():
            # What the loop waits with is shared with the parent, and stays as it is.
            for sock in self._sockets:
                sock.close()
            return
        if self._loop is None and isinstance(self._where, socket.socket):
            self._where.close()  # it was never opened
        self._end(PeerDisconnectedError(self.name, "this side has hung up"))

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- calls ---

    async def do(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry a call out and return what came of it.

        Raises:
            RefusedError: The server refused it.
            ClientError: The connection is over, and nobody knows whether it was done.
            CannotSendError: The server does not take this; nothing was sent.
        """
        return await self._finish(
            self._begin(call), self.timeout_s if timeout_s is None else timeout_s
        )

    def begin(self, call: Call[T], timeout_s: float | None = None) -> Begun[T]:
        """Send a call; what it returns is to be awaited. Raises as `do`, but for `RefusedError`."""
        pending = self._begin(call)
        return Begun(self, pending, self.timeout_s if timeout_s is None else timeout_s)

    async def _finish(self, pending: Pending[T], timeout_s: float) -> T:
        try:
            if not pending.done:
                await self._done(pending, timeout_s)
            return pending.result()
        except BaseException:
            pending.abandon()
            raise

    async def _done(self, pending: Pending[Any], timeout_s: float) -> None:
        assert self._loop is not None
        waiter = self._loop.create_future()
        pending.then(lambda: None if waiter.done() else waiter.set_result(None))
        timer = self._loop.call_later(timeout_s, lambda: self._end(self._timed_out(pending)))
        try:
            await waiter
        finally:
            timer.cancel()

    # --- the loop ---

    def _begin(self, call: Call[T]) -> Pending[T]:
        assert self._loop is not None, "the client is not open"
        return super()._begin(call)

    def _send(self, outgoing: Outgoing) -> None:
        # In one piece: with several, a channel waits a little for the server.
        if len(outgoing.parts) > 1:
            outgoing = Outgoing((bytes(outgoing),), outgoing.fds, outgoing.id)
        super()._send(outgoing)
        self._watch()

    def _watch(self) -> None:
        """Have the loop look at what the sockets are to be looked at for."""
        if self._core.over is not None:
            return
        for sock in self._sockets:
            self._watch_for(sock, sock.wants)

    def _watch_for(self, sock: ClientSocket, wants: int) -> None:
        had = self._watched.get(sock.fd, 0)
        if wants == had:
            return
        assert self._loop is not None
        self._watched[sock.fd] = wants
        if (wants ^ had) & select.POLLIN:
            if wants & select.POLLIN:
                self._loop.add_reader(sock.fd, self._ready, sock, select.POLLIN)
            else:
                self._loop.remove_reader(sock.fd)
        if (wants ^ had) & select.POLLOUT:
            if wants & select.POLLOUT:
                self._loop.add_writer(sock.fd, self._ready, sock, select.POLLOUT)
            else:
                self._loop.remove_writer(sock.fd)

    def _ready(self, sock: ClientSocket, what: int) -> None:
        self._step(sock, what)
        self._watch()

    def _end(self, why: ClientError) -> None:
        if self._loop is not None:
            for sock in self._sockets:
                self._watch_for(sock, 0)
        super()._end(why)

    # --- migration, in the words of the table ---

    async def state(self) -> str:
        """Get the state the device is in.

        Raises:
            PeerProtocolError: No state of the table has this number.
        """
        return await self.do(self._state())

    async def set_state(self, state: str | int) -> None:
        """Ask for a state, by its name in the table or by its number, whatever that is.

        Raises:
            UnknownNameError: The table has none of this name; nothing was sent. Else as `do`.
        """
        await self.do(self._set_state(state))

    def moving(self, state: str | int) -> Begun[None]:
        """Ask for a state, without waiting. Raises as `begin`, and `UnknownNameError`."""
        return self.begin(self._set_state(state))

    async def supports(self, feature: str, *, get: bool = False, set_: bool = False) -> bool:
        """Return whether the device has a feature with these methods.

        Raises:
            UnknownNameError: The wire has none of this name; nothing was sent. Else as `do`.
        """
        try:
            await self.do(calls.probe(feature, get=get, set_=set_))
        except RefusedError:
            return False
        return True

    async def region_info(self, index: int) -> RegionInfo:
        """Ask about a region; its descriptor is then the caller's. Raises as `do`."""
        found = await self.do(calls.region_info(index))
        if found.more:
            found.close()
            found = await self.do(calls.region_info(index, room=32 + found.more))
        return found

    # --- the rest: each carries out the call it names, and raises as `do` ---

    capabilities = _does(calls.capabilities)
    data_size = _does(calls.data_size)
    precopy_info = _does(calls.precopy_info)
    want_announcements = _does(calls.want_announcements)
    read_data = _does(calls.data_read)
    write_data = _does(calls.data_write)
    reset = _does(calls.reset)

    info = _does(calls.info)
    irq_info = _does(calls.irq_info)
    set_irqs = _does(calls.set_irqs)
    region_io_fds = _does(calls.region_io_fds)
    region_read = _does(calls.region_read)
    region_write = _does(calls.region_write)
    region_write_multi = _does(calls.region_write_multi)

    dma_map = _does(calls.dma_map)
    dma_unmap = _does(calls.dma_unmap)
    dma_unmap_all = _does(calls.dma_unmap_all)
    logging_start = _does(calls.logging_start)
    logging_report = _does(calls.logging_report)
    logging_stop = _does(calls.logging_stop)
