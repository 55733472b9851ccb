"""One side of a vfio-user connection, without a socket: bytes in, events out.

The owner of the socket reads into `get_buffer()` and reports with `buffer_updated()`, or hands over
what it has read with `receive()`; both return events. What the `send_` methods return is to be sent
as it is, in that order. Nothing here blocks, and nothing the peer sends raises.

Three things its owner has to know:

- Views in messages. Data of a message is not copied. After `receive(bytes)` it stays as it is;
  after `buffer_updated` it is part of the buffer, and good until the next `get_buffer`, or for ever
  if `keep_messages` is called before that.
- Descriptors. An event owns those in its `fds`. The connection closes those that no event got: of
  messages it refuses, and in `close()` of messages that never came to an end.
- What the peer can make it hold: one message no longer than `largest`, what was read beyond it (no
  more than `READ_AHEAD`), `max_msg_fds` descriptors, and the commands not yet answered, which are
  those in the events its owner has been given.

A connection belongs to one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from vfio_migration.runtime.protocol.events import Event
from vfio_migration.runtime.protocol.inbound import Inbound, takes_descriptors
from vfio_migration.runtime.protocol.layout import HEADER, HEADER_SIZE, WIRE, Data
from vfio_migration.runtime.protocol.messages.version import Limits
from vfio_migration.runtime.protocol.outbound import Outbound

READ_AHEAD: Final = WIRE.bound("read_ahead")
"""How much is read at a time, unless one message needs more."""

Role: TypeAlias = Literal["server", "client"]


class Connection(Outbound):
    """One side of a connection. See the module for what its owner has to know.

    Attributes:
        role: Which side this is.
        own: What the peer has to keep to.
        peer: The limits that the peer has sent; the defaults until VERSION.
        agreed: What both sides can do; None until VERSION.
        closed: The peer made it impossible to go on, or `close` was called.
        largest: The longest message the peer may send, header included.
    """

    def __init__(
        self,
        role: Role,
        limits: Limits | None = None,
        *,
        close_fd: Callable[[int], object] = os.close,
    ) -> None:
        """Make a connection on which nothing was sent yet.

        Args:
            role: Which side this is.
            limits: What this side takes and can do; without, all that `model/wire.toml` allows.
            close_fd: How to close a descriptor.
        """
        super().__init__(role, Limits() if limits is None else limits, close_fd)
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._fresh = self._view
        self._start = self._end = 0
        self._is_shown = False  # a message that was handed out may be part of the buffer
        self._partial = bytearray()

    def twin(self) -> Connection:
        """Return this side of the twin socket, once VERSION has agreed on there being one.

        On it go the commands of the server and nothing else; on this connection they go no more.
        """
        other = Connection(self.role, self.own, close_fd=self._close_fd)
        other._share(self)
        return other

    @property
    def fd_room(self) -> int:
        """For how many descriptors one read should have room.

        One more than allowed: so it is seen that there were too many. What the kernel cannot
        deliver it closes; only MSG_CTRUNC shows it.
        """
        return self.own.max_msg_fds + 1

    @property
    def missing(self) -> int:
        """How many bytes are missing of a message that has begun and takes no descriptors.

        A read of no more than these needs no room for descriptors. Zero between two messages,
        and as long as it is not known which message this is.
        """
        partial = self._partial or self._view[self._start : self._end]
        if len(partial) < HEADER_SIZE or self.closed:
            return 0
        _, number, size, flags, _ = HEADER.unpack_from(partial)
        return 0 if takes_descriptors(number, flags) else max(0, size - len(partial))

    def receive(self, data: Data, fds: Sequence[int] = ()) -> list[Event]:
        """Take in what one read brought. From here on the connection has the descriptors.

        Args:
            data: The bytes, any number of them.
            fds: The descriptors that came with them.
        """
        if self._end > self._start:
            self._partial = bytearray(self._view[self._start : self._end])
            self._start = self._end = 0
        partial = self._partial
        if partial:
            partial += data
            view = memoryview(partial)
        else:
            view = memoryview(data)
        events, at = self._take(view, 0, len(view), fds)
        if self.closed or at == len(view):
            self._partial = bytearray()
        elif at or not partial:
            self._partial = bytearray(view[at:])
        else:
            view.release()  # or the next piece could not be appended
        return events

    def get_buffer(self, _sizehint: int = -1, /) -> memoryview:
        """Return where the next bytes are to be read to. It is never empty.

        What the messages of earlier events show of the buffer may change from here on.

        Args:
            _sizehint: Of no use here; `asyncio.BufferedProtocol` gives one.
        """
        if self._partial:
            self._make_room(len(self._partial))
            self._view[: len(self._partial)] = self._partial
            self._start, self._end = 0, len(self._partial)
            self._partial = bytearray()
        have = self._end - self._start
        if not have:
            self._start = self._end = 0
            if not self._buffer:
                self._make_room(READ_AHEAD)
            return self._fresh
        size = HEADER_SIZE
        if have >= HEADER_SIZE:
            size = HEADER.unpack_from(self._view, self._start)[2]
        if self._start + size > len(self._buffer):
            # Each message is moved once at most: at the front of the buffer it fits.
            old = self._view[self._start : self._end]
            if size > len(self._buffer):
                self._make_room(size)
            self._view[:have] = old
            self._start, self._end = 0, have
        stop = max(self._start + size, min(self._start + READ_AHEAD, len(self._buffer)))
        return self._view[self._end : stop]

    def buffer_updated(self, nbytes: int, fds: Sequence[int] = ()) -> list[Event]:
        """Take in `nbytes` that were read into what `get_buffer` returned.

        Args:
            nbytes: How many.
            fds: The descriptors that came with them. From here on the connection has them.
        """
        end = self._end + nbytes
        events, self._start = self._take(self._view, self._start, end, fds)
        self._end = end
        self._is_shown = self._is_shown or bool(events)
        return events

    def keep_messages(self) -> None:
        """Have the messages of all events so far stay as they are: read on into another buffer."""
        if self._is_shown:
            self._partial = bytearray(self._view[self._start : self._end])
            self._start = self._end = 0
            self._buffer = bytearray()

    def _make_room(self, size: int) -> None:
        """Get a buffer for a message of `size`; a second one, if need be, is for any message."""
        self._buffer = bytearray(READ_AHEAD if size <= READ_AHEAD else self.largest)
        self._view = memoryview(self._buffer)
        self._fresh = self._view[:READ_AHEAD]
        self._is_shown = False

    def close(self) -> None:
        """End the connection: close the descriptors it has. Of events it has given it has none."""
        Inbound.close(self)
        self._start = self._end = 0
        self._partial = bytearray()
