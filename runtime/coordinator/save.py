"""Saves devices to a file, and restores them from one.

A save is the source's half of a row of [[migrations]], a restore the destination's: the same plans,
with a file in the place of the other side. The file is whole or it is not there, and is looked at
from end to end before a destination is asked anything.
"""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from vfio_migration.model import Spec, load
from vfio_migration.model.plan import Migration, Plans, default_plans
from vfio_migration.runtime.client import (
    ClientError,
    PeerDisconnectedError,
    Pending,
    RefusedError,
    TimedOutError,
    calls,
)
from vfio_migration.runtime.client.blocking import CancelDeadline
from vfio_migration.runtime.client.calls import Call
from vfio_migration.runtime.client.core import ExchangeObserver
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator import preflight
from vfio_migration.runtime.coordinator.bandwidth import Bandwidth
from vfio_migration.runtime.coordinator.endpoint import Endpoint, Shape, Side
from vfio_migration.runtime.coordinator.errors import (
    CancelledError,
    CannotMigrateError,
    CoordinatorError,
    MigrationFailedError,
    Outcome,
    StepFailedError,
)
from vfio_migration.runtime.coordinator.events import Event, Report, ignore, report_asserted
from vfio_migration.runtime.coordinator.group import Group, check_table
from vfio_migration.runtime.coordinator.journal import unfinished
from vfio_migration.runtime.coordinator.pump import WRITES
from vfio_migration.runtime.coordinator.settings import Settings
from vfio_migration.runtime.coordinator.transfer import Transfer, check_downtime
from vfio_migration.runtime.files.atomic_file import CannotWriteError
from vfio_migration.runtime.files.container import CannotReadError, ContainerReader, ContainerWriter
from vfio_migration.runtime.files.container_header import BadHeaderError, DeviceHeader, Header
from vfio_migration.runtime.protocol.messages.catalogue import MigDataWrite
from vfio_migration.runtime.transport.peer_process import Process

_BLOCK: Final = 1 << 20
_REPORT_EVERY_S: Final = 0.1
_KEPT_FREE: Final = 16
"""Which part of the room that a file system has is left free by a save, by default."""
_SMALL_FILE: Final = 64 << 20
"""A file of so many bytes may fill its file system all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a save or a restore took.

    Attributes:
        devices: How many devices.
        seconds: How long it took.
        downtime: For how long the devices were stopped; None if they still do.
        bytes: How many bytes of state.
        stored: How many bytes the file has.
        fell_back: Why the devices were stopped before any of their state was saved, though they
            were to run meanwhile; None if all went as it was to.
    """

    devices: int
    seconds: float
    downtime: float | None
    bytes: int
    stored: int
    fell_back: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "devices": self.devices,
            "seconds": round(self.seconds, 6),
            "downtime": None if self.downtime is None else round(self.downtime, 6),
            "bytes": self.bytes,
            "stored": self.stored,
            "fell_back": self.fell_back,
        }


class _StartOverError(Exception):
    """A device refused to be saved while it runs, and runs: it is to be saved once it is stopped.

    Attributes:
        why: What it refused.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _FileEnd:
    """The other end of a stream that goes into a file."""

    transfer = _BLOCK

    def __init__(
        self, writer: ContainerWriter, device: int, met: list[CannotWriteError], room: int | None
    ) -> None:
        self._writer, self._device, self._met, self._room = writer, device, met, room
        self.label = "the file"

    @property
    def client(self) -> _FileEnd:
        """What is written to."""
        return self

    def begin(self, call: Call[None]) -> Pending[None]:
        """Write at once."""
        assert isinstance(call.message, MigDataWrite)
        try:
            self._writer.write(self._device, call.message.data)
        except CannotWriteError as error:
            self._met.append(error)
            raise
        if self._room is not None and self._writer.written > self._room:
            raise StepFailedError(
                f"the file has {self._writer.written} bytes and goes on, and no more than "
                f"{self._room} of its file system are filled with it",
                hints=["take a file system with more room, or allow a smaller save: --max-bytes"],
            )
        pending = Pending(call)
        pending.succeed(None)
        return pending

    def finish(self, pending: Pending[None]) -> None:
        """Report that it is written."""
        pending.result()


def _room_for(path: Path) -> int:
    """Return how many bytes a file may have there: others need the same file system."""
    there = os.statvfs(path.parent)
    free = there.f_bavail * there.f_frsize
    return max(_SMALL_FILE, free - free // _KEPT_FREE)


class Half:
    """What a save and a restore share: devices of one side and the plans they follow.

    Args:
        sockets: Their sockets.
        spec: The table; that of the package if none is given.
        plans: The plans; those of the package if none are given.
        settings: How to do it, as for a migration.
        report: Called with each event.
        observers: Called with every message.
    """

    side: Side

    def __init__(
        self,
        sockets: Sequence[str],
        *,
        spec: Spec | None = None,
        plans: Plans | None = None,
        settings: Settings | None = None,
        report: Report = ignore,
        observers: Iterable[ExchangeObserver] = (),
    ) -> None:
        claims.check_names(sockets, "each socket is one device")
        self.spec = load() if spec is None else spec
        check_table(self.spec)
        self.plans = default_plans(self.spec) if plans is None else plans
        self.settings = settings or Settings()
        self.report = report
        self.cancelled = threading.Event()
        self.cancel_deadline = CancelDeadline()
        self.unidentified = (
            False  # whether somebody cannot be distinguished from one with a blank device
        )
        self._late = False
        # Devices that have not reported yet whether they are of the kind that was saved.
        self._unseen: list[tuple[str, Shape, Endpoint]] = []
        observers = tuple(observers)
        self.endpoints = [
            Endpoint(
                one,
                self.side,
                self.spec,
                timeout_s=self.settings.timeout_s,
                observers=observers,
                deadline_of=self.cancel_deadline,
            )
            for one in sockets
        ]
        self.group = Group(self.side, self.endpoints, self.spec, self.plans, report)
        self._processes: list[Process] = []

    def cancel(self) -> None:
        """Give it up, if it is not too late. May be called from a signal handler.

        A server that is just asked for something has `GRACE_S` seconds more to answer.
        """
        self.cancelled.set()
        if not self._late:
            self.cancel_deadline.begin()

    def too_late(self) -> None:
        """From now on it cannot be given up any more."""
        self._late = True
        self.cancel_deadline.end()

    @property
    def migration(self) -> Migration:
        """The row that is followed."""
        return self.plans.choose(self.settings.migration, pre_copy=self.settings.pre_copy)

    def look(self) -> None:
        """See that these devices can take this half; raise `CannotMigrateError` if not."""
        for device in self.endpoints:
            if (journal := claims.claimed(device.where)) is not None:
                raise unfinished(device.label, journal)
        try:
            for device in self.endpoints:
                device.connect()
            for device in self.endpoints:
                device.look()
                _ = device.machine
                preflight.check_transfer(device)
            asserted = self.settings.asserted
            preflight.check_limits(
                {self.side: self.endpoints}, self.migration, self.plans, asserted
            )
            report_asserted(asserted, self.plans, self.report)
            for device in self.endpoints:
                preflight.check_state(device, self.migration, self.spec, self.plans)
            self._processes = [device.identify() for device in self.endpoints]
        except ClientError as error:
            if self.cancelled.is_set():
                why, hints = f"cancelled; {error}", ["nothing was begun"]
                raise MigrationFailedError(why, "source", hints, cancelled=True) from error
            raise CannotMigrateError(str(error)) from error

    def lead(self, winner: Side) -> list[str]:
        """Bring the devices to run or to be stopped, as a handover to a side does.

        Args:
            winner: The side that is to run: if it is not this one, they are to be stopped.

        Returns:
            What went wrong: they are led as far as they follow.
        """
        steps, away = self.plans.leads(self.side, winner), winner != self.side
        problems: list[str] = []
        for device, process in zip(self.endpoints, self._processes, strict=True):
            try:
                device.connect()
                device.look()
                _ = device.machine
                same = device.is_served_by(process)
            except (PeerDisconnectedError, TimedOutError):
                device.state = None
                problems.append(f"{device.label}: cannot be reached")
            except (ClientError, CannotMigrateError) as error:
                device.state = None
                why = error.why if isinstance(error, CannotMigrateError) else str(error)
                problems.append(f"{why}: the state of the device is not known")
            else:
                if same is None:
                    self.unidentified = True
                    problems.append(
                        f"{device.label}: it is not known whether its server is the one that was "
                        "there, or one with a blank device"
                    )
                elif not same:
                    problems.append(f"{device.label}: was served anew, and what it held is lost")
                elif device.state == self.spec.event("arc_failed_for_good").to and not away:
                    problems.append(f"{device.label}: has failed, and what it held is lost")
        self.cancel_deadline.end()  # who answers is waited for on the way back
        there = [device for device in self.endpoints if device.state is not None]
        try:
            for step in steps:
                if away:
                    not_stopped = self.group.put_away(step, there)
                    problems += [f"{one.label}: is not known to be stopped" for one in not_stopped]
                else:
                    self.group.bring(step, there)
        except StepFailedError as failure:
            problems.append(failure.why)
        return problems

    def _gave_up(self, error: Exception) -> bool:
        """Return whether the user cancelled it: then nobody was waited for any longer."""
        return isinstance(error, CancelledError) or (self.cancelled.is_set() and not self._late)

    def _why(self, error: Exception) -> str:
        why = error.why if isinstance(error, CoordinatorError) else str(error)
        plain = isinstance(error, CancelledError) or not self._gave_up(error)
        return why if plain else f"cancelled; {why}"

    def hung(self) -> list[Endpoint]:
        """Return the devices that do not answer although their processes are there."""
        return [
            device
            for device, process in zip(self.endpoints, self._processes, strict=True)
            if device.state is None and process.is_there() is not False
        ]

    def hang_up(self) -> None:
        """Close the connections."""
        for device in self.endpoints:
            device.close()


class Saver(Half):
    """Saves devices to a file."""

    side = "source"

    def run(
        self,
        path: str | Path,
        *,
        then: Literal["stop", "run"] = "stop",
        replace: bool = False,
    ) -> Saved:
        """Save.

        Args:
            path: The file.
            then: Whether the devices are stopped afterwards, so that a restored one is the only one
                that runs, or run on.
            replace: A file that is there may be replaced.

        Raises:
            CannotMigrateError: Nothing was begun.
            MigrationFailedError: There is no file; it states whether the devices run. Or all is in
            it, and
                the devices did not do then what was asked for; it states it.
            ImportError: The library of the codec is not installed. Nothing was begun.
        """
        try:
            with claims.locked(device.where for device in self.endpoints):
                self.look()
                writer = ContainerWriter(path, self._header(), replace=replace)
                try:
                    return self._save(writer, Path(path), then, self.migration)
                except _StartOverError as error:
                    fallback = self.plans.migration(str(self.migration.fallback))
                    fields = {"migration": fallback.name, "why": error.why}
                    self.report(Event("falls_back", fields))
                    writer = ContainerWriter(path, self._header(), replace=replace)
                    saved = self._save(writer, Path(path), then, fallback)
                    return dataclasses.replace(saved, fell_back=error.why)
        except BadHeaderError as error:
            raise CannotMigrateError(str(error)) from error
        finally:
            self.hang_up()

    def _save(
        self,
        writer: ContainerWriter,
        path: Path,
        then: Literal["stop", "run"],
        migration: Migration,
    ) -> Saved:
        begun = time.monotonic()
        # Pre-copy ends by itself before that; each answer by then.
        self.cancel_deadline.expire_at(begun + self.settings.max_pre_copy + self.settings.timeout_s)
        stopped: float | None = None
        deadline = math.inf
        transfer: Transfer | None = None
        met: list[CannotWriteError] = []
        try:
            with writer:
                room = None if self.settings.max_bytes is not None else _room_for(path)
                ends = [
                    _FileEnd(writer, number, met, room) for number in range(len(self.endpoints))
                ]
                pairs = list(zip(self.endpoints, ends, strict=True))
                # It is the file that is compressed.
                settings = dataclasses.replace(self.settings, codec="none")
                transfer = Transfer(pairs, settings, self.report, self.cancelled)
                for step in migration.steps:
                    if self.cancelled.is_set():
                        raise CancelledError("cancelled")
                    if step.transfer == "rest":
                        transfer.rest(deadline)
                        break  # what follows is the destination's, and what becomes of the source
                    try:
                        if step.transfer == "passes":
                            transfer.passes()
                        elif step.side == self.side:
                            self.group.take(step)
                    except (StepFailedError, RefusedError) as error:
                        self._start_over(migration, error)
                        raise
                    still = not any(one.may_change() for one in self.endpoints)
                    if still and step.side == self.side:
                        stopped = stopped or time.monotonic()
                        deadline = stopped + self.settings.max_downtime
                        self.cancel_deadline.expire_at(deadline)
                if not transfer.delivered:
                    raise StepFailedError(
                        f"migration {migration.name}: has no step that transfers the rest"
                    )
        except CannotWriteError as error:
            if transfer is None:
                raise CannotMigrateError(str(error)) from error
            # What the system said is worth more than that nothing can be written after it.
            raise self._back(next((one for one in met if one.errno), error)) from error
        except (CoordinatorError, ClientError, OSError) as error:
            raise self._back(error) from error
        self.too_late()
        problems = self.lead("destination" if then == "stop" else "source")
        for problem in problems:
            self.report(Event("failed", {"device": None, "why": problem}))
        if problems and (then == "run" or self._may_run()):
            raise self._not_as_asked(path, then, problems)
        ran = time.monotonic()
        return Saved(
            devices=len(self.endpoints),
            seconds=ran - begun,
            downtime=ran - (stopped or ran) if then == "run" else None,
            bytes=sum(one.bytes for one in transfer.streams),
            stored=writer.written,
        )

    def _start_over(self, migration: Migration, error: StepFailedError | RefusedError) -> None:
        """Let the devices run and raise `_StartOverError`, if there is a way to go on."""
        failed = self.spec.event("arc_failed_for_good").to
        # What a file refused has no peers, nor has a device that changes too fast.
        refused = isinstance(error, RefusedError) or bool(error.peers)
        if migration.fallback is None or self.cancelled.is_set() or not refused:
            return
        try:
            if any(device.look() == failed for device in self.endpoints):
                return
            for step in self.plans.leads(self.side, winner=self.side):
                self.group.bring(step, self.endpoints)
        except (ClientError, StepFailedError):
            return
        raise _StartOverError(error.why) from error

    def _may_run(self) -> bool:
        return bool(self.hung()) or any(one.may_change() for one in self.endpoints)

    def _not_as_asked(
        self, path: Path, then: Literal["stop", "run"], problems: Sequence[str]
    ) -> MigrationFailedError:
        """Return what is to be raised if all is in the file, but the devices did not follow."""
        outcome: Outcome = "lost"
        if then == "stop" or self.hung() or self.unidentified:
            outcome = "undecided"
        does = "run on" if then == "run" else "are stopped"
        return MigrationFailedError(
            f"{path}: is written and whole, but not all of the devices {does}: {problems[0]}",
            outcome,
            [*problems[1:], "nothing is lost: all that the devices held is in the file"],
        )

    def _back(self, error: Exception) -> MigrationFailedError:
        """Let the devices run again; return what is to be raised."""
        if not self.cancelled.is_set():
            self.cancel_deadline.expire_at(math.inf)  # each has all its time again
        problems = self.lead("source")
        outcome: Outcome = "lost" if problems else "source"
        if self.hung() or self.unidentified:
            outcome = "undecided"
        hints = ["no file was written", *problems]
        return MigrationFailedError(
            self._why(error), outcome, hints, cancelled=self._gave_up(error)
        )

    def _header(self) -> Header:
        devices = []
        for device in self.endpoints:
            try:
                shape = device.shape()
            except ClientError as error:
                raise CannotMigrateError(str(error)) from error
            identity = {**shape.to_data(), "capabilities": list(device.machine.names)}
            devices.append(DeviceHeader(device.where, identity))
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Header(tuple(devices), self.settings.codec, now, {"spec": self.spec.name})


class Restorer(Half):
    """Restores devices from a file, in the order in which they were saved, and lets them run."""

    side = "destination"

    def run(self, path: str | Path) -> Saved:
        """Restore.

        Raises:
            CannotMigrateError: Nothing was begun: the file is damaged, or does not fit the devices.
            MigrationFailedError: The devices do not run; the file is as it was, and their source.
            ImportError: The library of the codec is not installed. Nothing was begun.
        """
        try:
            with (
                claims.locked(device.where for device in self.endpoints),
                ContainerReader(path) as reader,
            ):
                totals = reader.check()
                self._check(reader.header)
                return self._restore(reader, sum(one.size for one in totals))
        except CannotReadError as error:
            raise CannotMigrateError(str(error)) from error
        finally:
            self.hang_up()

    def _check(self, header: Header) -> None:
        saved, there = len(header.devices), len(self.endpoints)
        if saved != there:
            found = ", ".join(one.name for one in header.devices)
            raise CannotMigrateError(
                f"the file holds {saved} device{'' if saved == 1 else 's'} ({found}), and {there} "
                f"{'is' if there == 1 else 'are'} given; give one DST for each, in this order"
            )
        self.look()
        for device, entry in zip(self.endpoints, header.devices, strict=True):
            try:
                wanted = Shape.from_data(entry.identity)
            except ValueError:
                continue  # saved by somebody else: the device itself will judge
            label = f"{entry.name}, as it was saved,"
            try:
                preflight.compare(label, wanted, device)
            except preflight.NotSeenError:
                self._unseen.append((label, wanted, device))
            except ClientError as error:
                raise CannotMigrateError(str(error)) from error

    def _restore(self, reader: ContainerReader, size: int) -> Saved:
        begun = time.monotonic()
        deadline = begun + self.settings.max_downtime
        self.cancel_deadline.expire_at(deadline)
        try:
            for step in self.migration.steps:
                if step.transfer == "rest":
                    self._load(reader, size, deadline)
                    # One that has ended its session meanwhile could still be led on, and run blank.
                    self.group.verify(self.endpoints)
                elif step.side == self.side:
                    if self.cancelled.is_set():
                        raise CancelledError("cancelled")
                    if not self._late:
                        check_downtime(deadline, self.settings)
                    if step.holder == self.side:
                        self.too_late()
                    self.group.take(step)
                    unseen, self._unseen = self._unseen, []
                    for label, wanted, device in unseen:
                        preflight.compare(label, wanted, device)
        except (CoordinatorError, ClientError, CannotReadError) as error:
            if not self.cancelled.is_set():
                self.cancel_deadline.expire_at(math.inf)  # each has all its time again
            problems = self.lead("source")
            still = [one for one in self.endpoints if one.state and not one.may_change()]
            hints = [
                f"{one.label}: is stopped; restore into it again before it is used" for one in still
            ]
            hints += problems
            # One that was asked to run may do so once it answers again.
            outcome: Outcome = "undecided" if self._late and self.hung() else "source"
            why, cancelled = self._why(error), self._gave_up(error)
            raise MigrationFailedError(why, outcome, hints, cancelled=cancelled) from error
        return Saved(
            devices=len(self.endpoints),
            seconds=time.monotonic() - begun,
            downtime=None,
            bytes=size,
            stored=reader.size,
        )

    def _load(self, reader: ContainerReader, size: int, deadline: float) -> None:
        """Write every stream to its device."""
        bandwidth = Bandwidth(self.settings.bandwidth)
        done, reported = 0, 0.0
        for number, device in enumerate(self.endpoints):
            client = device.client
            writes: deque[Pending[None]] = deque()
            for block in reader.blocks(number):
                view = memoryview(block)
                for at in range(0, len(view), client.transfer):
                    piece = view[at : at + client.transfer]
                    while len(writes) >= WRITES:
                        client.finish(writes.popleft())
                    writes.append(client.begin(calls.data_write(piece)))
                    done += len(piece)
                    self.cancelled.wait(bandwidth.spend(len(piece)))
                    if self.cancelled.is_set():
                        raise CancelledError("cancelled")
                    check_downtime(deadline, self.settings)
                if time.monotonic() - reported > _REPORT_EVERY_S:
                    reported = time.monotonic()
                    fields = {"device": device.label, "bytes": done, "of": size}
                    self.report(Event("restoring", fields))
            for pending in writes:
                client.finish(pending)
