"""What was read of a stream and did not leave: it is read again, before anything else is.

A device hands out the bytes of its stream once. If the reply that carries them is not sent as a
whole (its client hung up, or wanted no reply), they would be missing in the middle of the stream of
the client that reads on. So they are kept here, by the session they belong to.

They are never more than the replies of one client that wait to be sent.
"""

from __future__ import annotations

from collections import deque

from vfio_migration.runtime.engine.engine import Engine
from vfio_migration.runtime.protocol.layout import Data
from vfio_migration.runtime.protocol.messages.features import MigDataReadReply


class Unsent:
    """The bytes of one device's stream that were given back.

    Args:
        engine: What moves the device; it numbers the sessions.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: int | None = None
        self._parts: deque[Data] = deque()

    def __len__(self) -> int:
        """How many bytes of the open session there are."""
        self.drop_ended()
        return sum(map(len, self._parts))

    def drop_ended(self) -> None:
        """Drop what belongs to a session that has ended."""
        if self._session != self._engine.session:
            self._session = self._engine.session
            self._parts.clear()

    def give_back(self, session: int | None, payload: Data) -> None:
        """Take the payload of a reply to MIG_DATA_READ that was not sent.

        Of several replies the last one comes first.

        Args:
            session: The session that its data was read in.
            payload: The payload; it is kept.
        """
        self.drop_ended()
        data = payload[MigDataReadReply.layout.size :]
        if len(data) and session == self._session:
            self._parts.appendleft(data)

    def take(self, size: int) -> list[Data]:
        """Return up to `size` bytes; they are not kept any more."""
        self.drop_ended()
        taken: list[Data] = []
        while size > 0 and self._parts:
            part = self._parts.popleft()
            if len(part) > size:
                self._parts.appendleft(part[size:])
                part = part[:size]
            size -= len(part)
            taken.append(part)
        return taken

    def untake(self, taken: list[Data]) -> None:
        """Keep what `take` returned after all."""
        self._parts.extendleft(reversed(taken))
