"""What the engine calls: the callbacks a device supplies.

The engine calls a device from the thread that made the request, one callback at a time, never two
at once. A callback may read the engine (`state`, `session`, `situation`, `options()`); if it asks
the same engine to act it gets `ReenteredError`. It must not wait for another thread that does so
either: that thread waits for the callback to return.
"""

from __future__ import annotations

from typing import Protocol

from vfio_migration.model import Arc
from vfio_migration.model.spec import Effect
from vfio_migration.runtime.engine.program import Situation


class Device(Protocol):
    """A device that can be migrated. One that also has `disconnect` is a `DisconnectingDevice`."""

    def take(self, arc: Arc, session: int | None, effect: Effect, /) -> None:
        """Take one arc: come to `arc.to`, having been in `arc.from_`.

        What the state at the end lets a device do is in the table: `Spec.permits`. While this runs,
        readers of the engine see the situation in which the arc began.

        Args:
            arc: The arc. In a smaller capability set it may pass over states that set lacks
                (`arc.via`); the device does all of it at once.
            session: The number of the data session concerned: the one to open, to keep or to close.
                None if there is none.
            effect: What the arc does to that session ([[session_effects]] of the table). An arc
                that closes a session closes it last, after everything that can fail; one that opens
                a session and fails has opened nothing, and its number may be offered again.

        Raises:
            ArcError: The arc failed. With `for_good=False` the device answers for being back in
                `arc.from_`, its session as it was; with `for_good=True` that it is in no legal
                state.
            BaseException: Anything else means that nobody knows what the device did: as
                `for_good=True`. If it is an `Exception` the caller gets a `RequestFailedError` with
                it as `__cause__`; if not (`KeyboardInterrupt`, `SystemExit`) it goes on to the
                caller as it is.
        """
        ...

    def reset(self, to: Situation, /) -> None:
        """Come to `to` from whatever state, forgetting any session that `to` does not name.

        Called in every state, also after a failure for good, when the device may be in the middle
        of anything. Whatever this raises, the device is then treated as failed for good; an
        `ArcError` may name the errno. It can be reset again.
        """
        ...


class DisconnectingDevice(Device, Protocol):
    """A device that is notified when its client disconnects."""

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        """The client disconnected; come to `to`, where the device is already by the table.

        Whatever this raises, the device is then treated as failed for good.

        Args:
            to: Where the device is to be.
            drops: What of the client's is forgotten ([[events]] of the table): "dma_maps",
                "interrupts". Anybody who holds these drops them, whether or not this fails.
        """
        ...


class NullDevice:
    """A device that does nothing and never fails: for trying tables out, and for measuring."""

    __slots__ = ()

    def take(self, arc: Arc, session: int | None, effect: Effect, /) -> None:
        """Succeed."""

    def reset(self, to: Situation, /) -> None:
        """Succeed."""

    def disconnect(self, to: Situation, drops: tuple[str, ...], /) -> None:
        """Succeed."""
