"""One device of a migration, at one of its two ends."""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from vfio_migration.model import Spec
from vfio_migration.model.machine import Machine
from vfio_migration.runtime.client import Client, ClientError, PrecopyLeft, RefusedError
from vfio_migration.runtime.client.blocking import GRACE_S, CancelDeadline, connected
from vfio_migration.runtime.client.core import ExchangeObserver
from vfio_migration.runtime.coordinator.errors import CannotMigrateError
from vfio_migration.runtime.protocol.messages.version import Limits
from vfio_migration.runtime.transport.peer_process import NOBODY, Process, has_ended

Side: TypeAlias = Literal["source", "destination"]
SIDES: Final[tuple[Side, Side]] = ("source", "destination")

_LIMITS: Final = Limits(twin_socket=False)
"""No memory is given to the device here, so there is nothing for a second socket to carry, and no
process to receive its descriptor."""

_CONFIG: Final = 7
"""The index of PCI configuration space (VFIO_PCI_CONFIG_REGION_INDEX)."""
_IDS: Final = struct.Struct("<HH")
"""Vendor and device, with which configuration space begins."""
MAX_PARTS: Final = 64
"""No PCI device has as many regions or types of interrupts: who states it is not asked further."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a device its guest sees and must find again at the destination.

    Attributes:
        ids: Vendor and device, or None if it has no configuration space.
        regions: The size of each region.
        irqs: How many interrupts of each type.
    """

    ids: tuple[int, int] | None
    regions: tuple[int, ...]
    irqs: tuple[int, ...]

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        ids = None if self.ids is None else list(self.ids)
        return {"ids": ids, "regions": list(self.regions), "irqs": list(self.irqs)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read plain data; raise `ValueError` if it is none of a shape."""
        match data:
            case {"ids": None | [int(), int()], "regions": [*regions], "irqs": [*irqs]} if all(
                isinstance(one, int) for one in (*regions, *irqs)
            ):
                ids = data["ids"]
                return cls(None if ids is None else (ids[0], ids[1]), tuple(regions), tuple(irqs))
        raise ValueError("this is not the shape of a device")

    def differences(self, other: Shape) -> list[str]:
        """Return what is not the same, in words: mine, then the other's."""
        found = []
        if self.ids != other.ids:
            found.append(f"PCI device {_ids(self.ids)} and {_ids(other.ids)}")
        for name, mine, theirs in (
            ("region {} of {} and {} bytes", self.regions, other.regions),
            ("interrupts of type {}: {} and {}", self.irqs, other.irqs),
        ):
            for index in range(max(len(mine), len(theirs))):
                one = mine[index] if index < len(mine) else 0
                two = theirs[index] if index < len(theirs) else 0
                if one != two:
                    found.append(name.format(index, one, two))
        return found


def _ids(ids: tuple[int, int] | None) -> str:
    return "unknown" if ids is None else f"{ids[0]:04x}:{ids[1]:04x}"


class Endpoint:
    """A device at one end.

    Args:
        where: The path of its socket.
        side: At which end.
        spec: The table.
        client: A connection that somebody else made, and closes.
        timeout_s: How many seconds its server may take to answer.
        observers: Called with every message.
        deadline_of: By when it has to have answered, however long the timeout is; see `Client`.

    Attributes:
        where: As given.
        side: As given.
        state: The state it was last known to be in; None if that is not known.
        reached: Whether somebody listened there when it was last tried.
    """

    def __init__(
        self,
        where: str | Path,
        side: Side,
        spec: Spec,
        *,
        client: Client | None = None,
        timeout_s: float,
        observers: Iterable[ExchangeObserver] = (),
        deadline_of: CancelDeadline | None = None,
    ) -> None:
        self.where = str(where)
        self.side: Side = side
        self.state: str | None = None
        self.reached = client is not None
        self._spec = spec
        self._sock: socket.socket | None = None
        self._client = client
        self._ours = client is None
        self._timeout_s = timeout_s
        self._observers = tuple(observers)
        self._cancel_deadline = deadline_of
        self._listener = NOBODY if client is None else Process.of(client.pid)
        # Who serves on this very connection, by what was found out of it.
        self._known: list[Process] = []
        self._watched: tuple[Process, int] | None = None
        self._machine: Machine | None = None
        self._sizes: bool | None = None
        self._wants_announcements = False
        self.renewals = 0

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.where

    @property
    def is_ours(self) -> bool:
        """Whether the connection was made here: nobody else has mapped anything over it."""
        return self._ours

    # --- the connection ---

    def connect(self) -> Process:
        """Connect, anew if the connection is over; return who listens there. Nothing is sent yet.

        Once connected a version is negotiated, at the latest before this side hangs up: some
        servers end if a client hangs up before.

        What the owner of a connection had mapped is gone with it. To see where the device is,
        and to move it, needs none of it.

        Raises:
            ClientError: That cannot be done.
        """
        if self._client is not None:
            if self._client.over is None:
                return self._listener
            self._client.close()
            self._client, self._ours = None, True
            self._machine = self._sizes = None
            self._wants_announcements = False
        if self._sock is None:
            self._known.clear()
            self.reached = False
            self._sock = connected(self.where, self.where, self._timeout_s, self._cancel_deadline)
            self._listener = Process.listening(self._sock)
            self.reached = True
        return self._listener

    def connect_again(self) -> Process | None:
        """End the connection, if it is ours, and make another: the maps of the device go with it.

        Returns:
            Who served on the old one; None if it is somebody else's, and stays.

        Raises:
            ClientError: No other can be made.
        """
        if not self._ours or self._client is None:
            return None
        sender = self._client.sender
        self._client.close()
        self.connect()
        return sender or self._listener

    def note(self) -> Process:
        """Connect and return who listens there, as who serves on this connection. As `connect`."""
        self._known.append(self.connect())
        if self._sock is not None and self._watched is None:
            self._watched = self._listener, Process.watch(self._sock)
        return self._listener

    def has_ended(self, process: Process) -> bool | None:
        """Return whether a process that was noted is gone since; None if it is not known."""
        if self._watched is None or self._watched[1] < 0 or self._watched[0] != process:
            return None
        return has_ended(self._watched[1])

    def identify(self) -> Process:
        """Return who serves there, as it can be found again; `NOBODY` if it is not known.

        If it is not who listens, it is seen whether it is the same for the next client: behind a
        relay somebody else answers each time.

        Raises:
            ClientError: It does not answer.
        """
        sender = self._sender
        if sender is None:
            sender = self._listener  # the connection is somebody else's
        elif sender.is_same(self._listener) is not True:
            assert self._client is not None
            self._client.close()
            self.connect()
            again = self._sender
            sender = again if again is not None and sender.is_same(again) else NOBODY
        self._known.append(sender)
        return sender

    def is_served_by(self, process: Process | None) -> bool | None:
        """Return whether that is who serves there now; None if it is not known.

        Args:
            process: As `note` or `identify` returned it; None for any process.

        Raises:
            ClientError: It does not answer.
        """
        sender = self._sender
        if process is None or process in self._known:
            return True
        same = None if sender is None else process.is_same(sender)
        # One who listened may have had another answer all the time.
        return None if same is False and process.is_same(self._listener) is not False else same

    @property
    def _sender(self) -> Process | None:
        """Who answered on this connection; None if nobody listened to that. Raises as `client`."""
        return self.client.sender

    @property
    def client(self) -> Client:
        """The connection. One that is over is not made anew: another device may be served there.

        Raises:
            ClientError: There is none.
        """
        if self._client is None:
            self.connect()
            self._client = self._negotiated(self._timeout_s)
        if not self._ours and self._client.deadline_of is None:
            self._client.deadline_of = self._cancel_deadline
        if self._client.over is not None:
            raise copy.copy(self._client.over)
        return self._client

    def _negotiated(self, timeout_s: float) -> Client:
        """Agree on a version over the socket that is connected. Raises as `client`."""
        assert self._sock is not None
        sock, self._sock = self._sock, None
        return Client(
            sock,
            name=self.where,
            spec=self._spec,
            timeout_s=timeout_s,
            limits=_LIMITS,
            observers=self._observers,
            deadline_of=self._cancel_deadline,
            identify=True,
        )

    def close(self) -> None:
        """Hang up, if the connection is ours."""
        if self._watched is not None and self._watched[1] >= 0:
            os.close(self._watched[1])
        self._watched = None
        if self._sock is not None:
            with contextlib.suppress(ClientError):
                self._negotiated(min(self._timeout_s, GRACE_S)).close()
        if self._client is not None and self._ours:
            self._client.close()
            self._client = None
        elif self._client is not None and self._client.deadline_of is self._cancel_deadline:
            self._client.deadline_of = None

    # --- what it is ---

    @property
    def machine(self) -> Machine:
        """The table as its capabilities contract it.

        Raises:
            CannotMigrateError: By its own answer it cannot be migrated.
            ClientError: It does not answer.
        """
        if self._machine is None:
            try:
                flags = self.client.capabilities()
            except RefusedError as refusal:
                raise CannotMigrateError(
                    f"{self.label}: the device cannot be migrated: {refusal.why}", refused=True
                ) from refusal
            known = 0
            for row in self._spec.capabilities:
                known |= row.value
                if row.mandatory and not flags & row.value:
                    raise CannotMigrateError(
                        f"{self.label}: the device cannot be migrated: its flags are {flags:#x}, "
                        f"without {row.name}",
                        refused=True,
                    )
            # A capability that the table does not know brings states that nobody will ask for.
            self._machine = self._spec.machine(flags & known)
        return self._machine

    def shape(self) -> Shape:
        """Ask what its guest sees of it.

        Raises:
            CannotMigrateError: It brings no more of its configuration space.
            ClientError: As `client`.
        """
        client = self.client
        about = client.info()
        regions = []
        for index in range(min(about.num_regions, MAX_PARTS)):
            info = client.region_info(index)
            info.close()
            regions.append(info.size)
        irqs = [client.irq_info(index).count for index in range(min(about.num_irqs, MAX_PARTS))]
        ids = None
        if len(regions) > _CONFIG and regions[_CONFIG] >= _IDS.size:
            ids = _IDS.unpack(self._config_space(_IDS.size))
        return Shape(ids, tuple(regions), tuple(irqs))

    def _config_space(self, size: int) -> bytes:
        """Read the beginning of PCI configuration space. Raises as `shape`.

        A server may take no more than a byte at a time (max_data_xfer_size), and may bring less
        than it was asked for; what it brings beyond that is not looked at.
        """
        client = self.client
        found = b""
        while (left := size - len(found)) > 0:
            got = client.region_read(_CONFIG, len(found), min(left, client.transfer))[:left]
            if not got:
                raise CannotMigrateError(
                    f"{self.label}: what kind of device it is cannot be determined: REGION_READ "
                    "brought "
                    f"{len(found)} of the {size} bytes at the beginning of its configuration space",
                    ["have its server answer reads of configuration space with what is asked for"],
                    refused=True,
                )
            found += got
        return found

    def look(self) -> str:
        """Ask for its state, and remember it. Raises as `client`."""
        self.state = None
        self.state = self.client.state()
        return self.state

    def left(self) -> int | None:
        """Ask how much is left to read once it is stopped; None if it does not know.

        One that reports only what is left to read while it runs is taken to have no more than that.
        """
        client = self.client
        if self._sizes is None:
            self._sizes = client.supports("MIG_DATA_SIZE", get=True)
        if not self._sizes:
            info = self.precopy_left()
            return None if info is None else info.initial + info.dirty
        try:
            return client.data_size()
        except RefusedError:
            return None

    def precopy_left(self) -> PrecopyLeft | None:
        """Ask how much is left to read in the present state; None if it does not know.

        What is new in it is counted in `renewals`.
        """
        client = self.client
        end = None if self.state is None else self._spec.stream_end(self.state)
        if end is None or not end.precopy_info or not self.reports_pauses():
            return None
        if not self._wants_announcements:
            self._wants_announcements = True
            if client.supports("MIG_PRECOPY_INFOv2", set_=True):
                with contextlib.suppress(RefusedError):
                    client.want_announcements()
        try:
            info = client.precopy_info()
        except RefusedError:
            return None
        self.renewals += info.renewed
        return info

    def reports_pauses(self) -> bool:
        """Return whether a temporary end of its stream is an answer of its own."""
        return self.client.agreed.precopy_info

    def may(self, activity: str) -> bool:
        """Return whether the table permits an activity in the state it was last known to be in."""
        return self.state is not None and self._spec.permits(self.state, activity)

    def may_change(self) -> bool:
        """Return whether the device may change its own state where it was last known to be."""
        return self.state is not None and self._spec.permits_role(self.state, "state_change")

    def end_is_final(self) -> bool:
        """Return whether its stream, in that state, ends for good; see [[stream_ends]]."""
        end = None if self.state is None else self._spec.stream_end(self.state)
        return end is not None and end.kind == "final"

    def transfers(self) -> str:
        """Return what can be done with migration data in that state: "none", "read", "write"."""
        if self.state is None:
            return "none"
        return self._spec.session(self._spec.state(self.state).session).transfer
