"""A vfio-user client for programs that wait.

    with Client("/run/edu.sock") as client:
        client.set_state("STOP_COPY")
        while client.read_data(1 << 20, file.write) == 1 << 20:
            pass

`begin` sends a call without waiting and `finish` waits for it, so that several can be under way.
The server's DMA by messages is answered while some thread waits, and at any time under
`answering_dma`.

*Threads.* Any number of them may use a client at once; each gets the answers to its own calls, and
`close` ends the waiting of all. What a client calls (a sink, a watch, its memory) is called by
whichever thread waits, one at a time; it may `begin` calls of that client but not wait for them.

*Interrupts.* A thread that is interrupted (control-C) while it waits has lost its call and nothing
else. If it was in the middle of a message, the connection is over, because it is not known where
the next one begins.

*Forks.* The connection belongs to the process that made it. In a child no call can be made; `close`
there closes the child's copies, of which the server notices nothing.

States are known by the names and numbers of the table and in no other way.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

from vfio_migration.model import Spec
from vfio_migration.runtime.client import calls
from vfio_migration.runtime.client.calls import Call, RegionInfo
from vfio_migration.runtime.client.common import (
    RETRY_S,
    TIMEOUT_S,
    BaseClient,
    connect_now,
    described,
    no_version,
    too_many_wait,
)
from vfio_migration.runtime.client.core import ExchangeObserver, Pending, Reachable
from vfio_migration.runtime.client.errors import (
    ClientError,
    PeerDisconnectedError,
    RefusedError,
    TimedOutError,
)
from vfio_migration.runtime.protocol.messages.version import Limits
from vfio_migration.runtime.transport.closing import Closing

P = ParamSpec("P")
T = TypeVar("T")

_MAX_WAIT_MS: Final = 3_600_000
"""How many milliseconds are waited at a time."""

_LOOK_UP: Final = 0.1
"""After how many seconds `deadline_of` is asked again."""

DeadlineOf: TypeAlias = Callable[[float], float]

GRACE_S: Final = 1.0
"""How many seconds a server has to answer once somebody wished that all be given up."""

_ONE: Final = (1).to_bytes(8, "little")
"""What makes an eventfd readable; any number but zero does."""


class _Follower(NamedTuple):
    """A thread that waits for another one to read the reply it needs."""

    pending: Pending[Any] | None
    turn: threading.Condition


def _does(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Return a method that carries out the call that `make` makes."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.do(make(*args, **kwargs))

    return described(method, make)


class CancelDeadline:
    """Until when servers are waited for, given as `deadline_of` to one client or to many.

    A server that hangs would have everybody wait for as long as a busy one may take.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._deadline = math.inf

    def expire_at(self, deadline: float) -> None:
        """Wait for nobody beyond `GRACE_S` after this time of `time.monotonic`; infinity is none.

        A server that answers each request just in time would otherwise take as long as there are
        requests.
        """
        self._deadline = deadline

    def begin(self) -> None:
        """From now on. May be called from a signal handler."""
        self._since = time.monotonic()

    def end(self) -> None:
        """Wait as long as before, and without a deadline."""
        self._since = None
        self._deadline = math.inf

    def __call__(self, begun: float) -> float:
        """Return by when a wait that began then has to end."""
        since = self._since
        wished = math.inf if since is None else max(begun, since)
        return min(wished, self._deadline) + GRACE_S


class Client(BaseClient, Closing):
    """A connection to a server.

    Args:
        where: The path of its socket, or a socket that is connected, which the client closes.
        spec: The table that gives states and capabilities their names; that of the package if none
            is given.
        name: What the server is called in messages; its path by default.
        timeout_s: How many seconds the server may take to answer.
        limits: What this side takes and can do.
        memory: Answers the server's DMA by messages.
        observers: Called with every message; see `Exchange`.
        deadline_of: Called some times a second while a call is waited for, with the time at which
            that began (as `time.monotonic` counts); returns the time at which the call is given
            up, whatever `timeout_s` is.
        devices: Take memory of real devices (VFIO, dma-buf) for the descriptor of a region, too.
        identify: Find out who sends the first message, for `sender`.

    Attributes:
        deadline_of: As given; may be set at any time.

    Raises:
        PeerDisconnectedError: Nobody listens there.
        PeerProtocolError: No version could be agreed on.
        TimedOutError: The server does not answer; it may be serving another client.
    """

    def __init__(
        self,
        where: str | Path | socket.socket,
        *,
        spec: Spec | None = None,
        name: str | None = None,
        timeout_s: float = TIMEOUT_S,
        limits: Limits | None = None,
        memory: Reachable | None = None,
        observers: Iterable[ExchangeObserver] = (),
        deadline_of: DeadlineOf | None = None,
        devices: bool = False,
        identify: bool = False,
    ) -> None:
        self.deadline_of = deadline_of
        super().__init__(
            where,
            spec=spec,
            name=name,
            timeout_s=timeout_s,
            limits=limits,
            memory=memory,
            observers=observers,
            devices=devices,
            identify=identify,
        )
        self._lock = threading.RLock()
        self._leader = 0  # the thread that waits for the sockets, for all
        self._taker = 0  # the same, while it takes in what has come
        self._followers: list[_Follower] = []
        self._poll = select.poll()
        sock = where if isinstance(where, socket.socket) else connected(where, self.name, timeout_s)
        try:
            # A file: it closes itself if nobody does.
            self._wake = io.FileIO(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK), "r+")
            self._poll.register(self._wake, select.POLLIN)
            outgoing, pending = self._start(sock)
        except BaseException:
            sock.close()
            raise
        try:
            self._send(outgoing)
            self._add_twin(self.finish(pending))
        except (RefusedError, TimedOutError) as error:
            self.close()
            raise no_version(error) from error
        except BaseException:
            self.close()
            raise

    # --- the connection ---

    def close(self) -> None:
        """Hang up. The server keeps the state of the device and drops maps and interrupts."""
        if self._is_forked_copy():
            # The lock may be held by a thread that the fork left behind.
            for sock in self._sockets:
                sock.close()
            self._wake.close()
            return
        self._end(PeerDisconnectedError(self.name, "this side has hung up"))

    # --- calls ---

    def do(self, call: Call[T], timeout_s: float | None = None) -> T:
        """Carry a call out and return what came of it.

        Raises:
            RefusedError: The server refused it.
            ClientError: The connection is over, and nobody knows whether it was done.
            CannotSendError: The server does not take this; nothing was sent.
        """
        self._check_waits()
        pending = self.begin(call)
        try:
            return self.finish(pending, timeout_s)
        except BaseException:
            self.abandon(pending)
            raise

    def begin(self, call: Call[T]) -> Pending[T]:
        """Send a call and do not wait. Raises as `do`, but for `RefusedError`.

        What comes of it is to be finished or abandoned: it may hold descriptors.
        """
        with self._lock:
            pending = self._begin(call)
            if self._leader and any(sock.wants & select.POLLOUT for sock in self._sockets):
                self._wake_up()  # the thread in `poll` has to wait for more than before
            return pending

    def finish(self, pending: Pending[T], timeout_s: float | None = None) -> T:
        """Wait for a call that was begun. Raises as `do`."""
        begun = time.monotonic()
        until = begun + (self.timeout_s if timeout_s is None else timeout_s)
        while not pending.done:
            look_up = until
            if self.deadline_of is not None:
                until = min(until, self.deadline_of(begun))
                look_up = min(until, time.monotonic() + _LOOK_UP)
            if self._turn(look_up, pending) and time.monotonic() >= until:
                with self._lock:
                    if not pending.done:
                        self._end(self._timed_out(pending))
        return pending.result()

    def abandon(self, pending: Pending[T]) -> None:
        """Do not wait for a call that was begun: what comes of it is given back."""
        with self._lock:
            pending.abandon()

    # --- waiting ---
    #
    # One thread, the leader, waits for the sockets and takes in what comes, for whomever. The
    # others, its followers, wait until they have what they want or are to lead. Who waits for the
    # sockets lets go of the lock, so that others can send; nothing is read without it.

    def _turn(self, until: float | None, pending: Pending[Any] | None = None) -> bool:
        """Wait until something comes, or `pending` is done, or it is `until`.

        Returns:
            Whether the sockets were looked at, so that what has not come is late.
        """
        self._check_waits()
        me = threading.get_ident()
        try:
            with self._lock:
                if pending is not None and pending.done:
                    return False
                if self._leader not in (0, me):  # me: it was interrupted before it could resign
                    return self._follow(until, pending)
                if self._core.over is not None:
                    return True
                self._leader = me
                for sock in self._sockets:
                    self._poll.register(sock.fd, sock.wants)
                wake = self._wake.fileno()
            # Interrupted here, nothing is lost.
            ready = dict(self._poll.poll(_milliseconds(until)))
            with self._lock:
                if wake in ready and not self._wake.closed:
                    self._wake.read(8)
                self._taker = me
                for sock in self._sockets:
                    if ready.get(sock.fd):
                        self._step(sock, ready[sock.fd])
            return True
        finally:
            if self._leader == me:
                with self._lock:
                    self._leader = self._taker = 0
                    if self._core.over is not None:
                        # Not earlier: somebody else's may have had its number by the time this
                        # thread waited for it.
                        self._wake.close()
                    # One that still wants something leads again at once, unless it is interrupted.
                    self._hand_over(sys.exc_info()[0] or pending is None or pending.done)

    def _check_waits(self) -> None:
        if self._taker == threading.get_ident():
            raise RuntimeError(f"{self.name}: what a client calls may not wait for it")

    def _follow(self, until: float | None, pending: Pending[Any] | None) -> bool:
        """Wait for the leader. Returns as `_turn`."""
        left = (
            _MAX_WAIT_MS / 1000
            if until is None
            else min(until - time.monotonic(), _MAX_WAIT_MS / 1000)
        )
        if left <= 0:
            return True  # it waits, and nothing has come
        follower = _Follower(pending, threading.Condition(self._lock))
        self._followers.append(follower)
        try:
            follower.turn.wait(left)
        except BaseException:
            if not self._leader:  # it may have been this one's turn
                self._hand_over()
            raise
        finally:
            self._followers.remove(follower)
        return False

    def _hand_over(self, lead: object = True) -> None:
        """Wake those that have what they want and, if somebody is to lead, one that has not."""
        for follower in self._followers:
            if follower.pending is not None and follower.pending.done:
                follower.turn.notify()
            elif lead:
                follower.turn.notify()
                lead = False

    def _wake_up(self) -> None:
        if not self._wake.closed:
            self._wake.write(_ONE)

    def _end(self, why: ClientError) -> None:
        with self._lock:
            try:
                super()._end(why)
            finally:
                self._wake_up()
                if not self._leader:
                    self._wake.close()
                self._hand_over()

    @contextlib.contextmanager
    def answering_dma(self) -> Iterator[None]:
        """Answer the server's DMA also while no thread waits for a call."""
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set() and self.over is None:
                self._turn(None)

        thread = threading.Thread(target=answer, name=f"answers DMA of {self.name}")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            with self._lock:
                self._wake_up()
                for follower in self._followers:
                    follower.turn.notify()
            thread.join()

    # --- migration, in the words of the table ---

    def state(self) -> str:
        """Get the state the device is in.

        Raises:
            PeerProtocolError: No state of the table has this number.
        """
        return self.do(self._state())

    def set_state(self, state: str | int) -> None:
        """Ask for a state, by its name in the table or by its number, whatever that is.

        Raises:
            UnknownNameError: The table has none of this name; nothing was sent. Else as `do`.
        """
        self.do(self._set_state(state))

    def moving(self, state: str | int) -> Pending[None]:
        """Ask for a state, without waiting. Raises as `begin`, and `UnknownNameError`."""
        return self.begin(self._set_state(state))

    def supports(self, feature: str, *, get: bool = False, set_: bool = False) -> bool:
        """Return whether the device has a feature with these methods.

        Raises:
            UnknownNameError: The wire has none of this name; nothing was sent. Else as `do`.
        """
        try:
            self.do(calls.probe(feature, get=get, set_=set_))
        except RefusedError:
            return False
        return True

    def region_info(self, index: int) -> RegionInfo:
        """Ask about a region; its descriptor is then the caller's. Raises as `do`."""
        found = self.do(calls.region_info(index))
        if found.more:
            found.close()
            found = self.do(calls.region_info(index, room=32 + found.more))
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


def connected(
    path: str | Path, name: str, timeout_s: float, deadline_of: DeadlineOf | None = None
) -> socket.socket:
    """Connect to a server, and send nothing yet.

    Args:
        path: Its socket.
        name: What it is called in messages.
        timeout_s: How many seconds to wait for a place in its queue.
        deadline_of: As for a `Client`.

    Raises:
        PeerDisconnectedError: Nobody serves there.
        TimedOutError: Too many wait there.
    """
    begun = time.monotonic()
    while (sock := connect_now(path, name)) is None:
        until = (
            begun + timeout_s if deadline_of is None else min(begun + timeout_s, deadline_of(begun))
        )
        if time.monotonic() >= until:
            raise too_many_wait(name)
        time.sleep(RETRY_S)
    return sock


def _milliseconds(until: float | None) -> int:
    left = math.inf if until is None else (until - time.monotonic()) * 1000
    return _MAX_WAIT_MS if left > _MAX_WAIT_MS else max(0, math.ceil(left))
