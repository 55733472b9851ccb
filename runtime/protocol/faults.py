"""What goes wrong on a connection, by whose fault it is.

`MalformedError` is the peer's: a message holds something it may not. A `Connection` never lets it
out, it becomes a `ProtocolFault` event; only who calls `Message.parse` directly meets it.
`CannotSendError` is the caller's: it asked for something that may not be sent, and nothing has been
sent.
"""

from __future__ import annotations

from vfio_migration.model.wire import Occasion
from vfio_migration.runtime.engine.errors import errno_number
from vfio_migration.runtime.protocol.layout import WIRE


def errno_for(occasion: Occasion) -> str:
    """Return the name of the errno that `model/wire.toml` answers an occasion with.

    EINVAL is used where the table gives none.
    """
    row = WIRE.answer(occasion)
    return "EINVAL" if row is None or row.errno is None else row.errno


class MalformedError(Exception):
    """A message that cannot be served as it is.

    Attributes:
        occasion: Which row of [[answers]] speaks about it.
        why: What is wrong with it, with the figures.
    """

    def __init__(self, occasion: Occasion, why: str) -> None:
        super().__init__(occasion, why)
        self.occasion: Occasion = occasion
        self.why = why

    @property
    def errno(self) -> str:
        """The name of the errno the peer is answered."""
        return errno_for(self.occasion)

    @property
    def number(self) -> int:
        """The number of `errno` on this system."""
        return errno_number(self.errno)

    def __str__(self) -> str:
        return f"{self.why} ({self.errno})"


class CannotSendError(ValueError):
    """What was to be sent breaks the protocol, or a limit of the peer. Nothing has been sent."""
