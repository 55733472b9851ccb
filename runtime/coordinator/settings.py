"""What can be chosen for a migration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from vfio_migration.runtime.client import TIMEOUT_S

MAX_DOWNTIME_S: Final = 600.0
"""For how long devices are held still at most, unless somebody allows more: ten minutes."""
MAX_PRE_COPY_S: Final = 3600.0
"""For how long pre-copy goes on at most, unless somebody allows more: an hour."""
MAX_BYTES: Final = 1 << 40
"""How long the stream of a device is at most, unless somebody allows more: 1 TiB."""


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to migrate.

    Attributes:
        migration: The name of the row of [[migrations]] to follow; None for the first that will do.
        pre_copy: Whether state may be transferred while the sources run, where no row is named.
        downtime: For how many seconds the devices may be stopped. Pre-copy ends once that is
            expected to do.
        max_passes: After how many passes of each device pre-copy ends all the same. What is left
            then is transferred while they are stopped, and is no pass of these.
        if_slow: What happens then: "stop" stops the devices and takes longer than `downtime`,
            "cancel" gives the migration up.
        bandwidth: How many bytes a second may go over to the destinations, all devices together;
            None for as many as can.
        codec: How the stream is compressed on its way; a name of
            `vfio_migration.runtime.files.compression`.
        chunk: How many bytes are read at a time, at most.
        timeout_s: How many seconds a server may take to answer.
        max_downtime: For how many seconds the devices are held still at most, whatever is left by
            then: the migration is given up and the source runs, unless the destination may run
            already. A restore takes no longer.
        max_pre_copy: After how many seconds pre-copy ends as after `max_passes`.
        max_bytes: How many bytes the stream of a device has at most, all passes together; None for
            `MAX_BYTES` and, in a save, what the file system has room for. Pre-copy ends as after
            `max_passes` once half of them were read.
        asserted: What the operator answers for: names of rows of [[assertions]].
    """

    migration: str | None = None
    pre_copy: bool = True
    downtime: float = 0.3
    max_passes: int = 30
    if_slow: Literal["stop", "cancel"] = "stop"
    bandwidth: int | None = None
    codec: str = "none"
    chunk: int = 1 << 20
    timeout_s: float = TIMEOUT_S
    max_downtime: float = MAX_DOWNTIME_S
    max_pre_copy: float = MAX_PRE_COPY_S
    max_bytes: int | None = None
    asserted: tuple[str, ...] = ()

    @property
    def byte_bound(self) -> int:
        """How many bytes the stream of a device has at most."""
        return MAX_BYTES if self.max_bytes is None else self.max_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a program that also owns the guest does meanwhile.

    Attributes:
        pause: The devices are about to be quiesced and stopped: hold the guest's processors.
        resume: The side named runs: let them go on, with its devices.
    """

    pause: Callable[[], object] = _nothing
    resume: Callable[[Literal["source", "destination"]], object] = lambda _side: None
