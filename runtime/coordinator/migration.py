"""Migrates a group of devices: follows a row of [[migrations]], and handles what goes wrong.

    coordinator = Coordinator([("a.sock", "b.sock")], report=print)
    summary = coordinator.run()

The steps are those of the table, and each device is asked for nothing but what a row specifies.
What is
here is what no table can hold: sockets, time, how long to pre-copy, and whom to notify.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfio_migration.model import Spec, load
from vfio_migration.model.advice import command, operand
from vfio_migration.model.plan import (
    FIRST_HOLDER,
    Holder,
    Migration,
    MigrationStep,
    Move,
    Plans,
    default_plans,
)
from vfio_migration.runtime.client import Client, ClientError, PeerDisconnectedError, RefusedError
from vfio_migration.runtime.client.blocking import CancelDeadline
from vfio_migration.runtime.client.core import ExchangeObserver
from vfio_migration.runtime.coordinator import ownership as claims
from vfio_migration.runtime.coordinator import preflight
from vfio_migration.runtime.coordinator.endpoint import Endpoint, Side
from vfio_migration.runtime.coordinator.errors import (
    CancelledError,
    CannotMigrateError,
    CoordinatorError,
    MigrationFailedError,
    StepFailedError,
)
from vfio_migration.runtime.coordinator.events import Event, Report, ignore, report_asserted
from vfio_migration.runtime.coordinator.finish import KEEP, Finished, Finisher
from vfio_migration.runtime.coordinator.group import Group, check_table, names
from vfio_migration.runtime.coordinator.journal import Entry, Journal, NotWrittenError, unfinished
from vfio_migration.runtime.coordinator.settings import Hooks, Settings
from vfio_migration.runtime.coordinator.transfer import Transfer, check_downtime

_logger = logging.getLogger(__name__)

_NOT_DELIVERED = (
    "migration {}: its next step has it written down that the destination holds the state, but not "
    "all of it was transferred"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a migration took.

    Attributes:
        devices: How many devices.
        seconds: From the first request to the last reply.
        downtime: For how many seconds some device of the group was stopped.
        bytes: How many bytes of state were transferred.
        sent: How many of them went over, compressed or not.
        passes: In how many passes the device that streamed most did so, the last one, while it
            was stopped, included.
        last_pass: How many bytes were transferred while the devices were stopped.
        expected_downtime: What was expected before they were stopped; None if nobody could know.
        not_stopped: The sources that are not known to be stopped, and why, if any.
        asserted: What the operator answered for: names of rows of [[assertions]].
        fell_back: Why the devices were stopped before anything was transferred, though they were to
            run meanwhile; None if all went as it was to.
    """

    devices: int
    seconds: float
    downtime: float
    bytes: int
    sent: int
    passes: int
    last_pass: int
    expected_downtime: float | None
    not_stopped: tuple[str, ...] = ()
    asserted: tuple[str, ...] = ()
    fell_back: str | None = None

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "devices": self.devices,
            "seconds": round(self.seconds, 6),
            "downtime": round(self.downtime, 6),
            "bytes": self.bytes,
            "sent": self.sent,
            "passes": self.passes,
            "last_pass": self.last_pass,
            "expected_downtime": self.expected_downtime,
            "not_stopped": list(self.not_stopped),
            "asserted": list(self.asserted),
            "fell_back": self.fell_back,
        }


class Coordinator:
    """One migration.

    Args:
        pairs: The sockets of each device: source and destination.
        spec: The table; that of the package if none is given.
        plans: The plans; those of the package if none are given.
        settings: How to migrate.
        hooks: What a program that owns the guest does meanwhile.
        report: Called with each event.
        observers: Called with every message.
        journal: Where the journal is while it goes on; None keeps none, and then nobody can
            bring back what a killed coordinator leaves behind.
        clients: Connections that somebody else made and closes, by the path of their socket.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str | Path, str | Path]],
        *,
        spec: Spec | None = None,
        plans: Plans | None = None,
        settings: Settings | None = None,
        hooks: Hooks | None = None,
        report: Report = ignore,
        observers: Iterable[ExchangeObserver] = (),
        journal: Path | None = None,
        clients: dict[str, Client] | None = None,
    ) -> None:
        self._spec = load() if spec is None else spec
        check_table(self._spec)
        self._plans = default_plans(self._spec) if plans is None else plans
        self._settings = settings or Settings()
        for name in self._settings.asserted:
            self._plans.assertion(name)
        self._hooks = hooks or Hooks()
        self._migration = self._plans.choose(
            self._settings.migration, pre_copy=self._settings.pre_copy
        )
        self._report = report
        self._journal_path = journal
        self._cancelled = threading.Event()
        self._cancel_deadline = CancelDeadline()
        self._finishing = False

        def end(where: str | Path, side: Side) -> Endpoint:
            return Endpoint(
                where,
                side,
                self._spec,
                client=(clients or {}).get(str(where)),
                timeout_s=self._settings.timeout_s,
                observers=observers,
                deadline_of=self._cancel_deadline,
            )

        observers = tuple(observers)
        self._endpoints = _endpoints(pairs, end)
        self._groups = {
            side: Group(
                side, group, self._spec, self._plans, self._report_event, self._before_phase
            )
            for side, group in self._endpoints.items()
        }
        self._transfer = self._new_transfer()
        self._fell_back: str | None = None
        self._journal: Journal | None = None
        self._stopped_at: float | None = None
        self._ran_at: float | None = None
        self._won = False  # every destination runs: no way back, and none is needed
        self._expected: float | None = None
        self._paused = False
        # Pairs whose destination has not reported yet what it is.
        self._unseen: list[tuple[Endpoint, Endpoint]] = []
        self._took: list[float] = []  # by the phases of a step, each

    def cancel(self) -> None:
        """Give the migration up, if it is not too late. May be called from a signal handler.

        A server that is just asked for something has `GRACE_S` seconds more to answer.
        """
        self._cancelled.set()
        if self._finishing or not self.is_late:
            self._cancel_deadline.begin()

    def check(self) -> None:
        """See whether these devices can be migrated, and together.

        Raises:
            CannotMigrateError: They cannot.
            PeerDisconnectedError: A server that was there is not any more.
        """
        self._unseen = preflight.check(
            self._endpoints, self._migration, self._spec, self._plans, self._settings.asserted
        )

    @property
    def migration(self) -> Migration:
        """The row of [[migrations]] that is followed."""
        return self._migration

    def survey(self) -> list[tuple[Endpoint, Endpoint]]:
        """Look at all devices, change nothing, hang up; return both ends of each. As `check`."""
        try:
            self._entries()
            self.check()
        finally:
            self._hang_up()
        return list(zip(self._endpoints["source"], self._endpoints["destination"], strict=True))

    def run(self) -> Summary:
        """Migrate.

        Raises:
            CannotMigrateError: Nothing was begun.
            MigrationFailedError: It failed or was cancelled; it states who runs.
        """
        sockets = [one.where for side in self._endpoints.values() for one in side]
        claims.check_names(sockets)  # they may not have been there before
        with claims.locked(sockets):
            if self._journal_path is not None:
                # No server is bothered for a device that is not touched.
                for one in Journal.named(sockets):
                    if (journal := claims.claimed(one)) is not None:
                        raise unfinished(one, journal)
            try:
                return self._migrate()
            finally:
                self._hang_up()

    @property
    def is_late(self) -> bool:
        """Whether it is too late to cancel: the destination runs, or may."""
        return self._journal is not None and self._journal.holder == "destination"

    # --- inside ---

    def _new_transfer(self) -> Transfer:
        return Transfer(
            list(zip(self._endpoints["source"], self._endpoints["destination"], strict=True)),
            self._settings,
            self._report_event,
            self._cancelled,
        )

    def _hang_up(self) -> None:
        # The destinations first: a thread that waits for one has its source's connection locked.
        for side in ("destination", "source"):
            for device in self._endpoints[side]:
                device.close()

    def _migrate(self) -> Summary:
        migration = self._migration
        begun = time.monotonic()
        self._expire_before_stop(begun)
        # Before the first command is sent, so that a kill at any moment leaves no question open.
        try:
            self._journal = journal = Journal(
                self._journal_path,
                migration.name,
                self._entries(),
                asserted=self._settings.asserted,
            )
            journal.begin()
            try:
                self.check()
                self._identify(journal)
            except PeerDisconnectedError as error:
                raise self._give_up(error) from error
            except BaseException:
                journal.end()
                raise
        except CannotMigrateError as error:
            if not self._cancelled.is_set():
                raise
            hints = ["nothing was begun"]
            why = f"cancelled; {error.why}"
            raise MigrationFailedError(why, "source", hints, cancelled=True) from error
        self._report_event(Event("plan", self._planned(migration.name)))
        report_asserted(self._settings.asserted, self._plans, self._report_event)
        try:
            not_stopped = self._follow(migration, journal)
            # The sources are stopped, and hold the state until it is known that it has arrived.
            self._verify("destination")
        except Exception as error:
            # Whatever it was, a mistake of ours or of a hook: no device is left half-way.
            raise self._give_up(error) from error
        if not not_stopped and (problem := journal.end()):
            self._report_event(Event("failed", {"device": None, "why": problem}))
        streams = self._transfer.streams
        self._resume("destination")
        summary = Summary(
            devices=len(streams),
            seconds=time.monotonic() - begun,
            downtime=(self._ran_at or 0.0) - (self._stopped_at or 0.0),
            bytes=sum(one.bytes for one in streams),
            sent=sum(one.sent for one in streams),
            passes=max(streams, key=lambda one: one.bytes).passes,
            last_pass=sum(one.pass_bytes for one in streams),
            expected_downtime=self._expected,
            not_stopped=tuple(one.label for one in not_stopped),
            asserted=self._settings.asserted,
            fell_back=self._fell_back,
        )
        self._report_event(Event("summary", summary.to_data()))
        return summary

    def _follow(
        self, migration: Migration, journal: Journal, *, prepared: bool = False
    ) -> list[Endpoint]:
        """Take the steps of a migration; return the sources not known to be stopped.

        Args:
            migration: The row.
            journal: The journal.
            prepared: The destinations are ready to be loaded.
        """
        not_stopped: list[Endpoint] = []
        for step in migration.steps:
            self._check_cancelled(journal)
            prepared = prepared and step.side == "destination"
            if prepared:
                continue
            if step.holder is not None:
                self._check_delivered(migration, step.holder)
                journal.hold(step.holder)
                if self.is_late:
                    self._cancel_deadline.end()
                else:
                    # One that has ended its session meanwhile could be led on, and would run blank.
                    self._verify("destination")
            if self._won:
                not_stopped = self._retire(step)
                continue
            try:
                self._take(step)
            except (StepFailedError, RefusedError) as error:
                if not self._may_start_over(migration, step, error):
                    raise
                assert migration.fallback is not None
                fallback = self._plans.migration(migration.fallback)
                prepared = self._start_over(fallback, journal, error)
                return self._follow(fallback, journal, prepared=prepared)
        return not_stopped

    def _may_start_over(
        self, migration: Migration, step: MigrationStep, error: StepFailedError | RefusedError
    ) -> bool:
        """Return whether all goes on without what a source refused: it runs, or can be led back."""
        if migration.fallback is None or self._cancelled.is_set():
            return False
        if step.transfer == "rest" or step.side == "destination":
            return False
        peers = error.peers if isinstance(error, StepFailedError) else (error.peer,)
        sources = {device.label for device in self._endpoints["source"]}
        if not peers or not sources.issuperset(peers):
            return False
        if self._has_transferred and not all(one.is_ours for one in self._endpoints["destination"]):
            # They would have to be reset without their maps, which somebody else has made.
            return False
        failed = self._spec.event("arc_failed_for_good").to
        try:
            return all(device.look() != failed for device in self._endpoints["source"])
        except ClientError:
            return False

    @property
    def _has_transferred(self) -> bool:
        return any(one.bytes for one in self._transfer.streams)

    def _start_over(
        self, fallback: Migration, journal: Journal, error: StepFailedError | RefusedError
    ) -> bool:
        """Bring all back to where they were, to follow the fallback.

        Returns:
            Whether the destinations are ready to be loaded: nothing was written to them.

        Raises:
            StepFailedError: That cannot be done.
        """
        prepared = not self._has_transferred
        self._stopped_at = self._ran_at = None  # it will be another downtime
        self._cancel_deadline.expire_at(math.inf)
        self._fell_back = _why(error)
        self._report_event(
            Event("falls_back", {"migration": fallback.name, "why": self._fell_back})
        )
        for step in self._plans.takes_back(journal.holder):
            assert step.side is not None
            group = self._groups[step.side]
            if step.side == "source":
                group.bring(step, group.endpoints)
            elif not prepared and (not_stopped := group.put_away(step, group.endpoints)):
                raise StepFailedError(
                    f"{self._fell_back}; and then {names(not_stopped)}: not known to be stopped",
                    [device.label for device in not_stopped],
                )
        self._resume("source")
        self._transfer = self._new_transfer()
        return prepared

    def _check_delivered(self, migration: Migration, holder: Holder) -> None:
        """See that the destination was given the whole state before this is written down."""
        if holder != FIRST_HOLDER and not self._transfer.delivered:
            raise StepFailedError(_NOT_DELIVERED.format(migration.name))

    def _check_cancelled(self, journal: Journal) -> None:
        # Too late is it once the journal records that the destination may run.
        if journal.holder == "destination":
            return
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
        check_downtime(self._deadline, self._settings)

    def _expire_before_stop(self, begun: float) -> None:
        """Have what begins now, while the devices run, come to its end, each answer included.

        Pre-copy ends by itself before that.
        """
        self._cancel_deadline.expire_at(
            begun + self._settings.max_pre_copy + self._settings.timeout_s
        )

    @property
    def _deadline(self) -> float:
        """Until when the devices may be held still."""
        stopped = self._stopped_at
        return math.inf if stopped is None else stopped + self._settings.max_downtime

    def _take(self, step: MigrationStep) -> None:
        if step.transfer == "passes":
            self._expire_before_stop(time.monotonic())
            self._expected = self._transfer.passes(self._overhead(step))
            self._cancel_deadline.expire_at(math.inf)
        elif step.transfer == "rest":
            self._transfer.rest(self._deadline)
        elif step.side is not None:
            began = time.monotonic()
            self._groups[step.side].take(step)
            self._verify(step.side)
            self._took.append((time.monotonic() - began) / len(self._plans.phases(step)))
            if step.side == "destination":
                self._look_again()
        destinations = self._endpoints["destination"]
        if self._stopped_at is not None and all(one.may_change() for one in destinations):
            self._moves_again()
            self._won = True
            self._resume("destination")

    def _look_again(self) -> None:
        """See what the destinations are that did not state it while they were stopped."""
        unseen, self._unseen = self._unseen, []
        for source, destination in unseen:
            preflight.compare(source.label, source.shape(), destination)

    def _moves_again(self) -> None:
        """Take the time when every destination may change again: the downtime ends."""
        destinations = self._endpoints["destination"]
        if self._stopped_at is None or self._ran_at is not None:
            return
        if all(one.may_change() for one in destinations):
            self._ran_at = time.monotonic()
            downtime = self._ran_at - self._stopped_at
            self._report_event(
                Event("running", {"side": "destination", "downtime": round(downtime, 6)})
            )

    def _overhead(self, step: MigrationStep) -> float:
        """Return how long the requests to stopped devices will take: as long as those before."""
        steps = self._migration.steps
        coming = sum(len(self._plans.phases(one)) for one in steps[steps.index(step) :])
        return coming * sum(self._took) / len(self._took) if self._took else 0.0

    def _verify(self, side: Side) -> None:
        """See that every device is where the plan has led it."""
        self._groups[side].verify(self._endpoints[side])

    def _retire(self, step: MigrationStep) -> list[Endpoint]:
        assert step.side is not None
        group = self._groups[step.side]
        not_stopped = group.put_away(step, group.endpoints)
        self._report_event(
            Event("retired", {"not_stopped": [device.label for device in not_stopped]})
        )
        return not_stopped

    def _before_phase(self, side: Side, moves: Sequence[tuple[Endpoint, Move]]) -> None:
        """Hold the guest before a source gives anything up; begin to count the downtime."""
        if side != "source" or self._won:
            self._moves_again()
            return
        losing = [
            device
            for device, move in moves
            if any(
                device.may(one.name) and not self._spec.permits(move.to, one.name)
                for one in self._spec.activities
                if move.to is not None
            )
        ]
        if losing and not self._paused:
            self._paused = True
            self._hooks.pause()
        stopping = [
            device
            for device, move in moves
            if move.to is not None and not self._spec.permits_role(move.to, "state_change")
        ]
        if stopping and self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._cancel_deadline.expire_at(self._deadline)
            self._report_event(Event("stopped", {"side": "source", "expected": self._expected}))

    def _resume(self, side: Side) -> None:
        if self._paused:
            self._paused = False
            self._hooks.resume(side)

    def _give_up(self, error: Exception) -> MigrationFailedError:
        """Finish what was begun; return what is to be raised."""
        assert self._journal is not None
        self._finishing = True
        gave_up = isinstance(error, CancelledError)
        cancelled = gave_up or (self._cancelled.is_set() and not self.is_late)
        why = _why(error)
        if cancelled and not gave_up:
            why = f"cancelled; {why}"
        if not cancelled:
            # Who runs is not decided by who is slow to answer: each has all its time again.
            self._cancel_deadline.expire_at(math.inf)
            self._report_event(Event("failed", {"device": None, "why": why}))
        try:
            finished = Finisher(
                self._endpoints,
                self._journal,
                self._spec,
                self._plans,
                self._report_event,
                cancel_deadline=self._cancel_deadline,
            ).finish()
        except OSError as worse:
            finished = Finished("undecided", _why(worse))
        if finished.outcome in ("source", "destination"):
            self._resume("source" if finished.outcome == "source" else "destination")
        ways_out = error.hints if isinstance(error, CoordinatorError) else ()
        hints = [finished.why, *(one for one in finished.problems if one != why), *ways_out]
        hints += finished.advice
        if finished.unidentified:
            hints.append(f"run: {self._recovery()} {KEEP}")
        elif finished.outcome == "undecided" or finished.not_stopped or self._journal.exists:
            late = (
                f"{names(finished.not_stopped)}: not known to be stopped; "
                if finished.not_stopped
                else ""
            )
            hints.append(f"{late}once it can be reached run: {self._recovery()}")
        return MigrationFailedError(why, finished.outcome, hints, cancelled=cancelled)

    def _recovery(self) -> str:
        """Return the command that recovers this migration."""
        assert self._journal is not None
        names = [name for one in self._journal.entries for name in (one.source, one.destination)]
        words = [operand(name) for name in names]
        if self._journal_path is not None and self._journal_path != claims.beside(names[0]):
            words += ["--journal", operand(self._journal_path)]
        return command("recover", *words)

    def _entries(self) -> tuple[Entry, ...]:
        try:
            return tuple(
                Entry(one.where, two.where, one.note(), two.note())
                for one, two in zip(
                    self._endpoints["source"], self._endpoints["destination"], strict=True
                )
            )
        except ClientError as error:
            raise CannotMigrateError(str(error)) from error

    def _identify(self, journal: Journal) -> None:
        """Write down who serves the devices, where that is not who listens."""
        try:
            journal.amend(
                tuple(
                    replace(
                        entry, source_process=one.identify(), destination_process=two.identify()
                    )
                    for entry, one, two in zip(
                        journal.entries,
                        self._endpoints["source"],
                        self._endpoints["destination"],
                        strict=True,
                    )
                )
            )
        except PeerDisconnectedError:
            raise
        except ClientError as error:
            raise CannotMigrateError(str(error)) from error
        except NotWrittenError as error:
            raise CannotMigrateError(error.why) from error

    def _planned(self, name: str) -> dict[str, Any]:
        return {
            "migration": name,
            "devices": [
                {
                    "source": one.where,
                    "destination": two.where,
                    "source_capabilities": list(one.machine.names),
                    "destination_capabilities": list(two.machine.names),
                }
                for one, two in zip(
                    self._endpoints["source"], self._endpoints["destination"], strict=True
                )
            ],
        }

    def _report_event(self, event: Event) -> None:
        try:
            self._report(event)
        except Exception:
            _logger.exception("the report of a migration failed at %s", event.name)


def _why(error: Exception) -> str:
    if isinstance(error, CoordinatorError | NotWrittenError):
        why = error.why
    elif isinstance(error, ClientError | OSError):
        why = str(error)
    else:
        _logger.error("a migration met what it should not have", exc_info=error)
        why = f"{type(error).__name__}: {error}"
    return "; ".join([why, *dict.fromkeys(getattr(error, "__notes__", ()))])


def _endpoints(
    pairs: Sequence[tuple[str | Path, str | Path]],
    end: Callable[[str | Path, Side], Endpoint],
) -> dict[Side, Sequence[Endpoint]]:
    if not pairs:
        raise CannotMigrateError("there is no device to migrate")
    claims.check_names([str(where) for pair in pairs for where in pair])
    return {
        "source": [end(source, "source") for source, _ in pairs],
        "destination": [end(destination, "destination") for _, destination in pairs],
    }
