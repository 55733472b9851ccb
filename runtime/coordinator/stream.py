"""The stream of one device on its way: read from the source, written to the destination.

Several reads and several writes are under way at a time, so that the source makes the next piece
while the destination takes the one before. A piece is passed on as it lies in the buffer it was
received in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from vfio_migration.runtime.client import Call, Client, ClientError, Pending, calls
from vfio_migration.runtime.compression import Codec
from vfio_migration.runtime.coordinator.endpoint import Endpoint
from vfio_migration.runtime.coordinator.limit import Bandwidth
from vfio_migration.runtime.protocol.layout import Data

READS: Final = 2
"""How many reads are under way at a time."""
WRITES: Final = 4
"""How many writes."""


class Target(Protocol):
    """What a stream is written to: a `Client`, or a file that takes its place."""

    @property
    def transfer(self) -> int:
        """How many bytes are taken at a time."""
        ...

    def begin(self, call: Call[None], /) -> Pending[None]:
        """Begin to write; see `calls.data_write`."""
        ...

    def finish(self, pending: Pending[None], /) -> None:
        """Wait until it is written."""
        ...


class End(Protocol):
    """Where a stream ends: an `Endpoint`, or a file that takes its place."""

    @property
    def client(self) -> Target:
        """What is written to."""
        ...


class Stream:
    """The stream of one device.

    Args:
        source: Where it is read.
        destination: Where it is written.
        chunk: How many bytes are read at a time, at most.
        bandwidth: What limits it.
        codec: Compresses it on its way.

    Attributes:
        source: As given.
        destination: As given.
        bytes: How many bytes were read in all.
        sent: How many went over, compressed or not.
        pass_bytes: How many were read in the present pass, or in the last.
        passes: How many passes were begun, the last one included.
    """

    def __init__(
        self,
        source: Endpoint,
        destination: End,
        *,
        chunk: int,
        bandwidth: Bandwidth,
        codec: Codec | None = None,
    ) -> None:
        self.source = source
        self.destination = destination
        self.bytes = self.sent = self.pass_bytes = self.passes = 0
        self._chunk = chunk
        self._bandwidth = bandwidth
        self._codec = codec
        self._writes: deque[Pending[None]] = deque()
        self._pause = 0.0

    def run(self, most: int | None, stop: threading.Event) -> bool:
        """Read until there is nothing more for now, or for good.

        Args:
            most: Read no more than about so many bytes.
            stop: Set by somebody else: read no more.

        Returns:
            Whether there is nothing more; if not, `most` or `stop` came first.

        Raises:
            ClientError: Of the one or the other end.
        """
        source, destination = self.source.client, self.destination.client
        size = min(self._chunk, source.transfer, destination.transfer)
        self.passes += 1
        self.pass_bytes = 0
        reads: deque[Pending[int]] = deque()
        asked, ended = 0, False
        try:
            while True:
                while (
                    len(reads) < READS
                    and not (ended or stop.is_set())
                    and (most is None or asked < most)
                ):
                    if self._pause:
                        stop.wait(self._pause)
                        self._pause = 0.0
                    reads.append(source.begin(calls.data_read(size, self._sink(destination))))
                    asked += size
                if not reads:
                    break
                try:
                    ended |= source.finish(reads.popleft()) < size
                except ClientError as error:
                    # Behind the end there is nothing: a source that is gone by now is not missed.
                    if not ended or error.peer != source.name:
                        raise
            while self._writes:
                destination.finish(self._writes.popleft())
        except BaseException:
            self._abandon(source, reads, destination)
            raise
        return ended

    def _sink(self, destination: Target) -> Callable[[Data], None]:
        def sink(data: Data) -> None:
            size = len(data)
            if not size:
                return
            sent = size
            if self._codec is not None:
                packed = self._codec.compress(data)
                sent = len(packed)
                data = self._codec.decompress(packed, size)
            while len(self._writes) >= WRITES:
                destination.finish(self._writes.popleft())
            self._writes.append(destination.begin(calls.data_write(data)))
            self.bytes += size
            self.pass_bytes += size
            self.sent += sent
            self._pause = self._bandwidth.spend(sent)

        return sink

    def _abandon(self, source: Client, reads: deque[Pending[int]], destination: Target) -> None:
        """Wait for what is under way, so that the connections can still be used; it is lost."""
        for pending in reads:
            with contextlib.suppress(ClientError):  # what went wrong first is being told
                source.finish(pending)
        while self._writes:
            with contextlib.suppress(ClientError):
                destination.finish(self._writes.popleft())


class Meter:
    """How fast a number grows.

    Args:
        window: Over how many seconds.
    """

    def __init__(self, window: float = 2.0) -> None:
        self._window = window
        self._points: deque[tuple[float, int]] = deque()

    def add(self, value: int, now: float | None = None) -> None:
        """Take note of the number as it is now."""
        now = time.monotonic() if now is None else now
        self._points.append((now, value))
        while len(self._points) > 2 and now - self._points[1][0] > self._window:
            self._points.popleft()

    @property
    def rate(self) -> float:
        """How much it grows a second; 0 if that is not known yet."""
        if len(self._points) < 2:
            return 0.0
        (begin, low), (end, high) = self._points[0], self._points[-1]
        return (high - low) / (end - begin) if end > begin else 0.0
