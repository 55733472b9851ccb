"""A vfio-user client for programs that wait.

    with Client("/run/edu.sock") as client:
        client.set_state("STOP_COPY")
        while client.read_data(1 << 20, file.write) == 1 << 20:
            pass

Any number of threads may use a client; their calls take turns. `begin` sends a call without
waiting and `finish` waits for it, so that several can be under way. The server's DMA by messages is
answered while some thread waits, and at any time under `attended`.

States are known by the names and numbers of the table and in no other way.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from vfio_migration.model import Spec, load
from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.calls import Call, IoFds, RegionInfo, Sink
from vfio_migration.runtime.client.core import Core, Pending, Reachable, Watch, gone
from vfio_migration.runtime.client.errors import ClientError, PeerBroke, PeerGone, Refused, TimedOut
from vfio_migration.runtime.counters import Counters
from vfio_migration.runtime.link import Channel, Gone, peer_of
from vfio_migration.runtime.protocol.events import Outgoing
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.messages import DeviceGetInfoReply, DeviceGetIrqInfoReply
from vfio_migration.runtime.protocol.version import Limits

T = TypeVar("T")

PATIENCE: Final = 30.0
"""How many seconds a server may take to answer."""


class Client:
    """A connection to a server.

    Args:
        where: The path of its socket, or a socket that is connected, which the client closes.
        spec: The table that gives states and capabilities their names; that of the package if none
            is given.
        name: What the server is called in messages; its path, if nothing is said.
        patience: How many seconds the server may take to answer.
        limits: What this side takes and can do.
        memory: Answers the server's DMA by messages.
        watches: Who is told of every message; see `Exchange`.

    Attributes:
        spec: The table.
        name: As given.
        patience: As given.
        counters: Its `bytes_in` and `bytes_out` count what went over the sockets.
        pid: The process that listens, or 0 if the system does not say.

    Raises:
        PeerGone: Nobody listens there.
        PeerBroke: No version could be agreed on.
        TimedOut: The server does not answer; it may be serving another client.
    """

    def __init__(
        self,
        where: str | Path | socket.socket,
        *,
        spec: Spec | None = None,
        name: str | None = None,
        patience: float = PATIENCE,
        limits: Limits | None = None,
        memory: Reachable | None = None,
        watches: Iterable[Watch] = (),
    ) -> None:
        self.spec = load() if spec is None else spec
        self.name = name if name is not None else str(where) if not _is_socket(where) else "server"
        self.patience = patience
        self.counters = Counters()
        self._core = Core(self.name, limits, memory=memory, watches=watches)
        self._lock = threading.RLock()
        self._numbers = {state.name: state.value for state in self.spec.states}
        self._names = {state.value: state.name for state in self.spec.states}
        sock = where if isinstance(where, socket.socket) else _connected(where, self.name, patience)
        self.pid = peer_of(sock)
        self._main = Channel(sock, self._core.connection, self.counters)
        self._twin: Channel | None = None
        try:
            self._agree()
        except BaseException:
            self.close()
            raise

    def _agree(self) -> None:
        outgoing, pending = self._core.hello()
        self._send(outgoing)
        try:
            twin = self.finish(pending)
        except Refused as refusal:
            raise PeerBroke(self.name, f"no version is agreed on: {refusal.why}") from refusal
        except TimedOut as late:
            raise TimedOut(self.name, f"{late.why}; does it serve another client?") from late
        if twin is not None:
            assert self._core.twin is not None
            sock = socket.socket(fileno=twin)
            self._twin = Channel(sock, self._core.twin, self.counters)

    # --- the connection ---

    @property
    def agreed(self) -> Limits:
        """What both sides can do."""
        limits = self._core.connection.agreed
        assert limits is not None
        return limits

    @property
    def transfer(self) -> int:
        """How many bytes of data one message may carry, either way."""
        connection = self._core.connection
        return min(connection.peer.max_data_xfer_size, connection.own.max_data_xfer_size)

    @property
    def over(self) -> ClientError | None:
        """Why the connection is over, or None."""
        return self._core.over

    @property
    def memory(self) -> Reachable:
        """What answers the server's DMA by messages; may be set at any time."""
        return self._core.memory

    @memory.setter
    def memory(self, memory: Reachable) -> None:
        self._core.memory = memory

    def close(self) -> None:
        """Hang up. The server keeps the state of the device and drops maps and interrupts."""
        with self._lock:
            self._core.end(PeerGone(self.name, "this side has hung up"))
            self._main.close()
            if self._twin is not None:
                self._twin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- calls ---

    def do(self, call: Call[T], patience: float | None = None) -> T:
        """Carry a call out and return what came of it.

        Raises:
            Refused: The server refused it.
            ClientError: The connection is over, and nobody knows whether it was done.
            CannotSend: The server does not take this; nothing was sent.
        """
        with self._lock:
            return self.finish(self.begin(call), patience)

    def begin(self, call: Call[T]) -> Pending[T]:
        """Send a call and do not wait. Raises as `do`, but for `Refused`."""
        with self._lock:
            outgoing, pending = self._core.begin(call)
            self._send(outgoing)
            return pending

    def finish(self, pending: Pending[T], patience: float | None = None) -> T:
        """Wait for a call that was begun. Raises as `do`."""
        with self._lock:
            if not pending.done:
                until = time.monotonic() + (self.patience if patience is None else patience)
                while not pending.done:
                    if not self._turn(until):
                        late = f"{pending.call.message.name} is not answered"
                        self._end(TimedOut(self.name, late))
            return pending.result()

    def _send(self, outgoing: Outgoing) -> None:
        try:
            self._main.send(outgoing)
        except Gone as error:
            self._end(gone(self.name, error))

    def _end(self, why: ClientError) -> None:
        """The connection is of no use any more."""
        self._core.end(why)
        self._main.close()
        if self._twin is not None:
            self._twin.close()

    def _turn(self, until: float) -> bool:
        """Wait until something comes, and take it in; say whether it is not yet `until`."""
        channels = [self._main] if self._twin is None else [self._main, self._twin]
        waits = select.poll()
        for channel in channels:
            mask = select.POLLIN | (select.POLLOUT if channel.waiting else 0)
            waits.register(channel.sock.fileno(), mask)
        ready = dict(waits.poll(max(0, math.ceil((until - time.monotonic()) * 1000))))
        for channel in channels:
            self._take(channel, ready.get(channel.sock.fileno(), 0))
        return bool(ready) or time.monotonic() < until

    def _take(self, channel: Channel, what: int) -> None:
        if not what or self.over is not None:
            return
        try:
            if what & select.POLLOUT:
                channel.flush()
            if what & ~select.POLLOUT:
                for answer in self._core.take(channel.read()):
                    channel.send(answer)
        except Gone as error:
            self._end(gone(self.name, error))
        if (over := self._core.over) is not None:
            self._end(over)

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Answer the server's DMA also while no thread waits for a call."""
        wake, waker = os.pipe2(os.O_CLOEXEC)
        thread = threading.Thread(target=self._attend, args=(wake,), name=f"attends {self.name}")
        thread.start()
        try:
            yield
        finally:
            os.close(waker)
            thread.join()
            os.close(wake)

    def _attend(self, wake: int) -> None:
        channels = [self._main] if self._twin is None else [self._main, self._twin]
        waits = select.poll()
        waits.register(wake, select.POLLIN)
        for channel in channels:
            waits.register(channel.sock.fileno(), select.POLLIN)
        while self.over is None:
            if any(fd == wake for fd, _ in waits.poll()):
                return
            with self._lock:  # whoever had it may have read what came
                if self.over is None:
                    self._turn(time.monotonic())

    # --- migration, in the words of the table ---

    def capabilities(self) -> int:
        """Get what of migration the device supports, as a number. Raises as `do`."""
        return self.do(calls.capabilities())

    def state(self) -> str:
        """Get the state the device is in.

        Raises:
            PeerBroke: No state of the table has this number.
        """
        value = self.do(calls.get_state())
        name = self._names.get(value)
        if name is None:
            raise PeerBroke(self.name, f"is in state {value}, which the table does not know")
        return name

    def set_state(self, state: str) -> None:
        """Ask for a state. Raises as `do`."""
        self.do(calls.set_state(self._numbers[state]))

    def moving(self, state: str) -> Pending[None]:
        """Ask for a state, without waiting. Raises as `begin`."""
        return self.begin(calls.set_state(self._numbers[state]))

    def supports(self, feature: str, *, get: bool = False, set_: bool = False) -> bool:
        """Say whether the device has a feature with these methods. Raises as `do`."""
        try:
            self.do(calls.probe(feature, get=get, set_=set_))
        except Refused:
            return False
        return True

    def data_size(self) -> int:
        """Get how many bytes are expected to be left once it is stopped. Raises as `do`."""
        return self.do(calls.data_size())

    def read_data(self, size: int, sink: Sink) -> int:
        """Read migration data into `sink`; see `calls.data_read`. Raises as `do`."""
        return self.do(calls.data_read(size, sink))

    def write_data(self, data: Data) -> None:
        """Write migration data. Raises as `do`."""
        self.do(calls.data_write(data))

    def reset(self) -> None:
        """Reset the device. Raises as `do`."""
        self.do(calls.reset())

    # --- the device ---

    def info(self) -> DeviceGetInfoReply:
        """Ask what the device is. Raises as `do`."""
        return self.do(calls.info())

    def region_info(self, index: int) -> RegionInfo:
        """Ask about a region; its descriptor is then the caller's. Raises as `do`."""
        found = self.do(calls.region_info(index))
        if found.more:
            found.close()
            found = self.do(calls.region_info(index, room=32 + found.more))
        return found

    def region_io_fds(self, index: int) -> IoFds:
        """Ask for descriptors of a region; they are then the caller's. Raises as `do`."""
        return self.do(calls.region_io_fds(index))

    def irq_info(self, index: int) -> DeviceGetIrqInfoReply:
        """Ask about a type of interrupt. Raises as `do`."""
        return self.do(calls.irq_info(index))

    def set_irqs(
        self, flags: int, index: int, start: int, count: int, *, fds: Sequence[int] = ()
    ) -> None:
        """Say what happens when an interrupt is raised; see `calls.set_irqs`. Raises as `do`."""
        self.do(calls.set_irqs(flags, index, start, count, fds=fds))

    def region_read(self, region: int, offset: int, count: int) -> bytes:
        """Read some of a region. Raises as `do`."""
        return self.do(calls.region_read(region, offset, count))

    def region_write(self, region: int, offset: int, data: Data, *, no_reply: bool = False) -> None:
        """Write to a region. Raises as `do`."""
        self.do(calls.region_write(region, offset, data, no_reply=no_reply))

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int | None = None,
        offset: int = 0,
        readable: bool = True,
        writable: bool = True,
    ) -> None:
        """Let the device reach memory; see `calls.dma_map`. Raises as `do`."""
        self.do(
            calls.dma_map(address, size, fd=fd, offset=offset, readable=readable, writable=writable)
        )

    def dma_unmap(self, address: int, size: int) -> None:
        """Take memory back. Raises as `do`."""
        self.do(calls.dma_unmap(address, size))

    def logging_start(self, page_size: int, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """Log what the device writes by DMA. Raises as `do`."""
        self.do(calls.logging_start(page_size, ranges))

    def logging_report(self, iova: int, length: int, page_size: int) -> bytes:
        """Get the bitmap of what was written; see `calls.logging_report`. Raises as `do`."""
        return self.do(calls.logging_report(iova, length, page_size))

    def logging_stop(self) -> None:
        """Log no more. Raises as `do`."""
        self.do(calls.logging_stop())


def _is_socket(where: object) -> bool:
    return isinstance(where, socket.socket)


def _connected(path: str | Path, name: str, patience: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(patience)
        sock.connect(str(path))
    except TimeoutError as error:
        sock.close()
        raise TimedOut(name, "too many clients wait there") from error
    except (OSError, ValueError) as error:
        sock.close()
        why = getattr(error, "strerror", None) or str(error)
        raise PeerGone(name, f"nobody serves there: {why}") from error
    return sock
