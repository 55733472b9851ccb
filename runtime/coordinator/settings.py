"""What whoever migrates can choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vfio_migration.runtime.client import PATIENCE


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to migrate.

    Attributes:
        migration: The row of [[migrations]] to follow.
        downtime: For how many seconds the devices may stand still. Pre-copy ends once that is
            expected to do.
        max_passes: After how many passes of each device pre-copy ends all the same. What is left
            then is transferred while they stand still, and is no pass of these.
        if_slow: What happens then: "stop" stops the devices and takes longer than `downtime`,
            "cancel" gives the migration up.
        bandwidth: How many bytes a second may go over to the destinations, all devices together;
            None for as many as can.
        codec: How the stream is compressed on its way; see `vfio_migration.runtime.compression`.
        chunk: How many bytes are read at a time, at most.
        patience: How many seconds a server may take to answer.
        asserted: What the operator answers for: names of rows of [[assertions]].
    """

    migration: str = "live"
    downtime: float = 0.3
    max_passes: int = 30
    if_slow: Literal["stop", "cancel"] = "stop"
    bandwidth: int | None = None
    codec: str = "none"
    chunk: int = 1 << 20
    patience: float = PATIENCE
    asserted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a program that also owns the guest does meanwhile.

    Attributes:
        pause: The devices are about to be quiesced and stopped: hold the guest's processors.
        resume: The side named runs: let them go on, with its devices.
    """

    pause: Callable[[], object] = _nothing
    resume: Callable[[Literal["source", "destination"]], object] = lambda _side: None
