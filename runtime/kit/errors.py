"""What passes between a server and a device besides calls: a refused command, bytes, counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vfio_migration.runtime.engine.errors import errno_name

if TYPE_CHECKING:
    from vfio_migration.model.wire import Occasion

Part: TypeAlias = bytes | bytearray | memoryview
"""Bytes that are passed on as they are. A memoryview may show memory of the device itself."""


class PrecopyInfo(NamedTuple):
    """How much is left to read of a session that can still grow; both are zero if nothing is.

    Attributes:
        initial: Bytes of what has not been read even once. Only falls while the session lasts.
        dirty: Bytes of what was read and has changed since.
    """

    initial: int
    dirty: int


class AnnouncedInfo(NamedTuple):
    """As `PrecopyInfo`, for a client that asked to be notified of new initial data.

    Attributes:
        initial: Bytes of what has not been read even once, and of what was announced as new initial
            data. Rises only with an announcement.
        dirty: Bytes of what was read and has changed since.
        reinit: New initial data was announced, and this states it for the first time.
    """

    initial: int
    dirty: int
    reinit: bool


class CommandError(Exception):
    """A device does not do what a client asked for, and nothing has changed.

    Attributes:
        occasion: Which row of the wire table ([[answers]]) this is a case of, or None.
        errno: The name of the error the client is answered, if no row states it.
    """

    def __init__(
        self, message: str, *, occasion: Occasion | None = None, errno: str | int | None = None
    ) -> None:
        super().__init__(message)
        self.occasion = occasion
        self.errno = None if errno is None else errno_name(errno)
