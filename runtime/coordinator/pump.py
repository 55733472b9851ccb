"""The stream of one device on its way: read from the source, written to the destination.

Several reads and several writes are under way at a time, so that the source makes the next piece
while the destination takes the one before. A piece is passed on as it lies in the buffer it was
received in.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from vfio_migration.runtime.client import Call, Client, ClientError, Pending, calls
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.endpoint import Endpoint
from vfio_migration.runtime.coordinator.errors import StepFailedError
from vfio_migration.runtime.coordinator.settings import MAX_BYTES
from vfio_migration.runtime.files.compression import Codec
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
    def label(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def client(self) -> Target:
        """What is written to."""
        ...


class InOrder:
    """Passes data on in the order it was asked for, and holds it to the rule of the stream.

    Replies may come in any order. What comes too early is copied and kept: no more of it than reads
    are under way behind the one that is waited for.

    A read that brings less than was asked for states that there is no more. Where that is final
    (see [[stream_ends]]) data behind it proves that it was no end; and a short read is believed
    only once the read behind it has brought nothing. A source that reports pauses has data as long
    as a read brings any, where the end is not final; where it is, it can report none.

    Args:
        take: Is given the data.
        size: How many bytes each read asks for.
        final: Whether the end of the stream is final.
        label: Whose stream it is.
        reports_pauses: A temporary end is an answer of its own.

    Attributes:
        ended: A read was short.
        confirmed: A read brought nothing, so that the end is known.
    """

    def __init__(
        self,
        take: Callable[[Data], None],
        size: int,
        *,
        final: bool,
        label: str,
        reports_pauses: bool = False,
    ) -> None:
        self._take = take
        self._least = 1 if reports_pauses and not final else size
        self._size = size
        self._final = final
        self._label = label
        self._asked = self._next = 0
        self._early: dict[int, bytes | None] = {}
        self._short = 0
        self.ended = self.confirmed = False

    def place(self) -> tuple[Callable[[Data], None], Callable[[], None]]:
        """Return where the next read puts its data, and what it calls instead at a temporary end.

        Both raise `StepFailedError`.
        """
        number, self._asked = self._asked, self._asked + 1

        def put(data: Data | None) -> None:
            if number != self._next:
                self._early[number] = None if data is None else bytes(data)
                return
            self._pass_on(data)
            while self._next in self._early:
                self._pass_on(self._early.pop(self._next))

        return put, lambda: put(None)

    def _pass_on(self, data: Data | None) -> None:
        if data is None:
            if self._final:
                raise StepFailedError(
                    f"{self._label}: its stream has a temporary end where nothing more can come: "
                    "MIG_DATA_READ is answered that there is no data now",
                    [self._label],
                    [
                        "its server has to end the stream of a stopped device with a reply that is "
                        "shorter than asked for (docs/precopy-info.md)"
                    ],
                )
            data = b""
        got = len(data)
        if got and self.ended and self._final:
            raise StepFailedError(
                f"{self._label}: its stream goes on behind its end: MIG_DATA_READ brought "
                f"{self._short} of {self._size} bytes, which means that there is no more, and the "
                f"next one {got}",
                [self._label],
                [
                    "its server has to bring as much as is asked for, as long as it has data "
                    "(docs/interop/vfio-user.rst: VFIO_USER_MIG_DATA_READ)"
                ],
            )
        if got < self._least and not self.ended:
            self.ended, self._short = True, got
        self.confirmed |= not got
        self._take(data)
        self._next += 1


class Stream:
    """The stream of one device.

    Args:
        source: Where it is read.
        destination: Where it is written.
        chunk: How many bytes are read at a time, at most.
        bandwidth: What limits it.
        codec: Compresses it on its way.
        max_bytes: How many bytes it has at most.

    Attributes:
        source: As given.
        destination: As given.
        bytes: How many bytes were read in all.
        sent: How many went over, compressed or not.
        pass_bytes: How many were read in the present pass, or in the last.
        passes: In how many passes there was something to read.
        whole: It was read to its final end, that end is confirmed, and every write of it was
            acknowledged.
    """

    def __init__(
        self,
        source: Endpoint,
        destination: End,
        *,
        chunk: int,
        bandwidth: Bandwidth,
        codec: Codec | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.source = source
        self.destination = destination
        self.bytes = self.sent = self.pass_bytes = self.passes = 0
        self.whole = False
        self._chunk = chunk
        self._bandwidth = bandwidth
        self._codec = codec
        self._max_bytes = max_bytes
        self._writes: deque[Pending[None]] = deque()
        self._paid_until = 0.0

    def run(
        self,
        most: int | None,
        stop: threading.Event,
        *,
        seconds: float | None = None,
        goes_on: bool = False,
    ) -> bool:
        """Read until there is nothing more for now, or for good.

        What the bandwidth makes of the bytes that went over is waited for as well, also at the end,
        unless `stop` is set; then the next run waits.

        Args:
            most: Read no more than about so many bytes.
            stop: Set by somebody else: read no more.
            seconds: Read for no longer than about so many seconds.
            goes_on: It is the same pass as before.

        Returns:
            Whether there is nothing more; if not, `most`, `stop` or `seconds` came first.

        Raises:
            ClientError: Of the one or the other end.
            StepFailedError: One of them takes no data at all, there is data behind the final end,
            or the
                stream is longer than a stream may be.
        """
        source, destination = self.source.client, self.destination.client
        for end, takes in (
            (self.source, source.transfer),
            (self.destination, destination.transfer),
        ):
            if takes < 1:
                raise StepFailedError(
                    f"{end.label}: no migration data can be transferred: its max_data_xfer_size "
                    f"is {takes}",
                    [end.label],
                )
        size = min(self._chunk, source.transfer, destination.transfer)
        if not goes_on:
            self.pass_bytes = 0
        until = None if seconds is None else time.monotonic() + seconds
        reads: deque[Pending[int]] = deque()
        final = self.source.end_is_final()
        order = InOrder(
            lambda data: self._pass_on(data, destination),
            size,
            final=final,
            label=self.source.label,
            reports_pauses=self.source.reports_pauses(),
        )
        asked = 0

        def read_on() -> bool:
            """Return whether there is more to be asked for."""
            if stop.is_set():
                return False
            if order.ended:
                # A short read is believed once the next one, sent already or not, brings nothing.
                return final and not order.confirmed and not reads
            return (most is None or asked < most) and (until is None or time.monotonic() < until)

        try:
            while True:
                while len(reads) < READS and read_on():
                    if self._pay(stop):
                        reads.append(source.begin(calls.data_read(size, *order.place())))
                        asked += size
                if not reads:
                    break
                try:
                    source.finish(reads.popleft())
                except ClientError as error:
                    # Behind the end there is nothing: a source that is gone by now is not missed.
                    known = order.confirmed if final else order.ended
                    if not known or error.peer != source.name:
                        raise
            while self._writes:
                destination.finish(self._writes.popleft())
            self.whole = final and order.confirmed
            self._pay(stop)
        except Exception as error:
            for also in self._abandon(source, reads, destination):
                if str(also) != str(error):
                    error.add_note(f"and then: {also}")
            raise
        return order.ended

    def _pay(self, stop: threading.Event) -> bool:
        """Wait until more may go over, or `stop` is set; return whether it may."""
        return not stop.wait(max(0.0, self._paid_until - time.monotonic()))

    def _pass_on(self, data: Data, destination: Target) -> None:
        size = len(data)
        if not size:
            return
        if self.bytes + size > self._max_bytes:
            raise StepFailedError(
                f"{self.source.label}: its stream is longer than {self._max_bytes} bytes, which is "
                "the most that is transferred of a device",
                [self.source.label],
                ["if the device has as much state, allow more: --max-bytes"],
            )
        sent = size
        if self._codec is not None:
            packed = self._codec.compress(data)
            sent = len(packed)
            data = self._codec.decompress(packed, size)
        while len(self._writes) >= WRITES:
            destination.finish(self._writes.popleft())
        self._writes.append(destination.begin(calls.data_write(data)))
        self.passes += not self.pass_bytes
        self.bytes += size
        self.pass_bytes += size
        self.sent += sent
        self._paid_until = time.monotonic() + self._bandwidth.spend(sent)

    def _abandon(
        self, source: Client, reads: deque[Pending[int]], destination: Target
    ) -> list[Exception]:
        """Wait for what is under way, so that the connections can still be used; it is lost.

        Returns:
            What else went wrong: whatever it was, all of them have to be waited for.
        """
        met: list[Exception] = []
        waits: list[tuple[Client | Target, Pending[Any]]] = [(source, one) for one in reads]
        waits += [(destination, one) for one in self._writes]
        self._writes.clear()
        for end, pending in waits:
            try:
                end.finish(pending)
            except Exception as error:  # noqa: BLE001 - it is handed on
                met.append(error)
        return met


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
