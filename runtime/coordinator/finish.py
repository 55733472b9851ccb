"""Brings what a migration left behind to exactly one running side, by the rows of [[handovers]].

It is asked of the journal who holds the state, and of the servers whether they are the processes
they were. What follows from that is in the rows; here it is carried out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from vfio_migration.model import Spec
from vfio_migration.model.plan import Handover, Holder, Plans, deciding
from vfio_migration.runtime.client import (
    ClientError,
    PeerDisconnectedError,
    PeerProtocolError,
    RefusedError,
    TimedOutError,
)
from vfio_migration.runtime.client.blocking import CancelDeadline
from vfio_migration.runtime.coordinator.endpoint import SIDES, Endpoint, Side
from vfio_migration.runtime.coordinator.errors import (
    CannotMigrateError,
    Outcome,
    StepFailedError,
    is_denied,
)
from vfio_migration.runtime.coordinator.events import Event, Report
from vfio_migration.runtime.coordinator.group import Group, names
from vfio_migration.runtime.coordinator.journal import Entry, Journal
from vfio_migration.runtime.coordinator.preflight import is_put_away
from vfio_migration.runtime.transport.peer_process import Process

_ANEW: Final = "it has to be set up anew, or a save restored into it (vfio-migration restore)"
_BLANK: Final = "its server was started after the migration began, so its device is blank"
KEEP: Final = "--keep source or --keep destination"

ENDING_S: Final = 1.0
"""For how many seconds in all to wait for the end of processes whose connections have ended.

One that is killed closes its sockets a moment before it has ended, and in that moment it seems to
be there and not to answer.
"""

_LOOK_AGAIN_AFTER_S: Final = 0.005


@dataclass(slots=True)
class Finished:
    """What came of it.

    Attributes:
        outcome: Who runs.
        why: Why, in the words of the row that decided.
        problems: What did not go as the row specifies.
        not_stopped: The devices of the other side that are not known to be stopped.
        unidentified: The devices of which it is not known whether they are served by the same
            process as before; nothing was done then.
        advice: What to do, if some of the state is lost: where the devices are, and what of it
            can be used again.
    """

    outcome: Outcome
    why: str
    problems: list[str] = field(default_factory=list)
    not_stopped: list[Endpoint] = field(default_factory=list)
    unidentified: list[Endpoint] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


class Finisher:
    """Finishes one migration.

    Args:
        endpoints: The devices of each side, in the order of the journal.
        journal: The journal.
        spec: The table.
        plans: The plans and handovers.
        report: Called with each event.
        given_up: Sides that the caller gives up for good.
        asked: Why a side is to run, where no journal records who holds the state. Then what the
            rows specify of it is not known.
        before: Who served each device when the migration began, as far as a journal records that
            goes by somebody's word instead.
        final: Nobody will ask again: nothing more is done for a device whose process has ended.
        cancel_deadline: Ends once it is known who answers: these are waited for on their way back.
    """

    def __init__(
        self,
        endpoints: dict[Side, Sequence[Endpoint]],
        journal: Journal,
        spec: Spec,
        plans: Plans,
        report: Report,
        given_up: Sequence[Side] = (),
        *,
        asked: str | None = None,
        before: Sequence[Entry] = (),
        final: bool = False,
        cancel_deadline: CancelDeadline | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._journal = journal
        self._spec = spec
        self._plans = plans
        self._report_to = report
        self._given_up = tuple(given_up)
        self._asked = asked
        self._before = tuple(before)
        self._final = final
        self._cancel_deadline = cancel_deadline
        self._skipped: set[int] = set()
        self._cleared: set[str] = set()  # by their labels
        self._groups = {
            side: Group(side, endpoints[side], spec, plans, self._report) for side in endpoints
        }
        self._unreachable: dict[str, ClientError | CannotMigrateError] = {}
        # Those that answer, and do not state where their device is.
        self._silent: set[Endpoint] = set()
        # Those whose device was being loaded when it was first looked at.
        self._loaded: set[Endpoint] = set()
        # Whether each is served by who served it when the migration began; None: it is not known.
        self._served: dict[Endpoint, bool | None] = {}

    def finish(self) -> Finished:
        """Do it. The journal is removed once nothing more can be owed to it.

        Raises:
            OSError: The journal cannot be written.
        """
        problems: list[str] = []
        self._look()
        if self._cancel_deadline is not None:
            self._cancel_deadline.end()
        while True:
            row = next(self._rows(), None)
            if unidentified := self._matters(row):
                return self._unidentified(unidentified, problems)
            if row is None:
                if hung := self._missed():
                    return self._undecided(hung, "it may still hold the state", problems)
                return self._lost(problems)
            if row.rolls_back and (hung := self._may_run_unseen(row)):
                return self._undecided(hung, "it may run", problems)
            why = row.summary if self._asked is None else self._asked
            self._report(Event("recovering", {"winner": row.winner, "why": why}))
            failed = self._failed(row.winner)
            blank = self._begun_anew(row.winner)
            outcome: Outcome = "lost" if failed or blank else row.winner
            try:
                not_stopped = self._carry_out(row)
            except StepFailedError as failure:
                problems.append(failure.why)
                self._skipped.add(id(row))
                self._look()
                continue
            advice = [f"{names(failed)}: cleared by a reset; {_ANEW}"] if failed else []
            if blank:
                advice.append(f"{names(blank)}: {_BLANK}; {_ANEW}")
            return self._done(Finished(outcome, why, problems, not_stopped, advice=advice))

    # --- inside ---

    def _report(self, event: Event) -> None:
        if event.name == "moved" and event.fields["how"] == "reset":
            self._cleared.add(event.fields["device"])
        self._report_to(event)

    def _look(self) -> None:
        """See who is there, whether it is who it was, and where each device is."""
        self._unreachable.clear()
        self._silent.clear()
        self._served.clear()
        ending = []
        for side, entries in self._endpoints.items():
            for index, device in enumerate(entries):
                process = self._process(side, index)
                self._look_at(device, process)
                disconnected = isinstance(
                    self._unreachable.get(device.label), PeerDisconnectedError
                )
                if disconnected and process is not None and process.is_there():
                    ending.append((device, process))
        deadline = time.monotonic() + ENDING_S
        for device, process in ending:
            while process.is_there() and time.monotonic() < deadline:
                time.sleep(_LOOK_AGAIN_AFTER_S)
            self._look_at(device, process)

    def _look_at(self, device: Endpoint, process: Process | None) -> None:
        self._unreachable.pop(device.label, None)
        self._served[device] = False
        try:
            device.connect()
            device.look()
            _ = device.machine
            self._served[device] = device.is_served_by(process)
        except (ClientError, CannotMigrateError) as error:
            device.state = None
            self._unreachable[device.label] = error
            if _answered(error) and self._may_be(device, process):
                self._silent.add(device)
        if device.transfers() == "write":
            self._loaded.add(device)

    def _may_be(self, device: Endpoint, process: Process | None) -> bool:
        """Return whether a device may be served by this process, as far as is known."""
        try:
            return device.is_served_by(process) is not False
        except ClientError:
            return True

    def _begun_anew(self, side: Side) -> list[Endpoint]:
        """Return the devices whose server is known to be another than when the migration began."""
        found = []
        for entry, device in zip(self._before, self._endpoints.get(side, ()), strict=False):
            process = entry.source_process if side == "source" else entry.destination_process
            if process is not None and not self._may_be(device, process):
                found.append(device)
        return found

    def _is_alive(self, side: Side) -> bool | None:
        """Return whether a side holds what it held; None if it is not known."""
        if side not in self._endpoints or side in self._given_up:
            return False
        served = {self._served[device] for device in self._endpoints[side]}
        return False if False in served else None if None in served else True

    def _rows(self, also: Sequence[Side] = ()) -> Iterator[Handover]:
        """Yield the rows that hold, or would if the sides `also` could be reached."""
        # Another process has a blank device: where that is means nothing.
        states: dict[Side, list[str]] = {
            side: [
                (one.state or "") if self._served[one] is not False else ""
                for one in self._endpoints.get(side, ())
            ]
            for side in SIDES
        }
        alive = {side: self._is_alive(side) is True or side in also for side in SIDES}
        for row in deciding(self._plans, self._spec, self._journal.holder, states, alive):
            if id(row) not in self._skipped:
                yield row

    def _carry_out(self, row: Handover) -> list[Endpoint]:
        """Take the steps of a row; raise `StepFailedError` if the winner does not follow."""
        not_stopped: list[Endpoint] = []
        for step in row.steps:
            assert step.side is not None
            if step.holder is not None:
                self._journal.hold(step.holder)
            if step.side not in self._endpoints:
                continue
            group, there = self._groups[step.side], self._there(step.side)
            if step.side == row.winner:
                group.bring(step, there)
                group.verify(there)
            else:
                group.put_away(step, there)
                not_stopped = [
                    device
                    for device in group.endpoints
                    if device.state is None or device.may_change()
                ]
                if running := [device for device in not_stopped if device.may_change()]:
                    raise StepFailedError(
                        f"{names(running)}: runs and cannot be stopped",
                        [device.label for device in running],
                    )
        return not_stopped

    def _failed(self, side: Side) -> list[Endpoint]:
        """Return the devices of a side that failed for good: what they held is lost."""
        failed = self._spec.event("arc_failed_for_good").to
        return [device for device in self._endpoints[side] if device.state == failed]

    def _there(self, side: Side) -> list[Endpoint]:
        return [device for device in self._endpoints[side] if device.state is not None]

    def _matters(self, row: Handover | None) -> list[Endpoint]:
        """Return the devices of which it would have to be known who serves them.

        Args:
            row: The one that holds if none of them is served by who served it.
        """
        sides = [side for side in self._endpoints if self._is_alive(side) is None]
        for count in range(1, len(sides) + 1):
            for same in itertools.combinations(sides, count):
                if next(self._rows(also=same), None) is not row:
                    return [one for side in sides for one in self._endpoints[side]]
        return []

    def _may_run_unseen(self, row: Handover) -> list[Endpoint]:
        """Return the devices of the loser that may run although nobody answers for them."""
        loser: Side = "destination" if row.winner == "source" else "source"
        if loser in self._given_up:
            return []
        return [
            device
            for index, device in enumerate(self._endpoints.get(loser, ()))
            if device.state is None and self._is_there(loser, index) is not False
        ]

    def _missed(self) -> list[Endpoint]:
        """Return the devices of a side that would win if they answered, and may do so yet."""
        for side in self._endpoints:
            hung = self._hung(side)
            others = set(self._endpoints[side]).difference(hung)
            served = all(self._served[device] is not False for device in others)
            if hung and served and any(self._rows(also=[side])):
                return hung
        return []

    def _hung(self, side: Side) -> list[Endpoint]:
        """Return the devices whose processes are there, and which do not state where they are."""
        hung = []
        for index, device in enumerate(self._endpoints.get(side, ())):
            if device.state is not None or side in self._given_up:
                continue
            there = self._is_there(side, index)
            error = self._unreachable.get(device.label)
            late = isinstance(error, TimedOutError) or is_denied(error)
            if there or device in self._silent or (late and there is None):
                hung.append(device)
        return hung

    def _is_there(self, side: Side, index: int) -> bool | None:
        """Return whether the process that served a device still exists; None if it is not known."""
        process = self._process(side, index)
        if process is None:
            return None
        there = process.is_there()
        if there is None and (ended := self._endpoints[side][index].has_ended(process)) is not None:
            return not ended
        return there

    def _unidentified(self, devices: Sequence[Endpoint], problems: list[str]) -> Finished:
        """Ask: whether a device holds what it held nobody can see from outside."""
        asked = [device for device in devices if self._served[device] is None]
        return Finished(
            "undecided",
            f"{names(asked)}: it is not known whether the server that answers is the one that "
            "was there, or one with a blank device",
            [
                *problems,
                *map(str, self._unreachable.values()),
                f"choose which side is to run: {KEEP}",
            ],
            unidentified=asked,
        )

    def _undecided(self, hung: Sequence[Endpoint], what: str, problems: list[str]) -> Finished:
        silent = [device for device in hung if device in self._silent]
        mute = [device for device in hung if device not in self._silent]
        seen = all(
            self._is_there(side, index)
            for side, group in self._endpoints.items()
            for index, device in enumerate(group)
            if device in mute
        )
        there = "its process is there" if seen else "it is not known whether its process is there"
        parts = [
            f"{names(devices)}: {words}"
            for devices, words in (
                (mute, f"does not answer, and {there}: {what}"),
                (
                    silent,
                    f"its server answers, and does not return the state of its device: {what}",
                ),
            )
            if devices
        ]
        return Finished(
            "undecided",
            "; ".join(parts),
            [*problems, *map(str, self._unreachable.values())],
            list(hung),
        )

    def _lost(self, problems: list[str]) -> Finished:
        """Nobody holds the whole state: take the steps of [loss]."""
        problems += [str(error) for error in self._unreachable.values()]
        was = self._journal.holder
        why = self._why_lost(was)
        loss = self._plans.loss
        if loss is None:
            return self._done(Finished("lost", why, problems, advice=self._advice()))
        self._report(Event("recovering", {"winner": None, "why": why}))
        not_stopped: list[Endpoint] = []
        for step in loss.steps:
            assert step.side is not None
            if step.holder is not None:
                self._journal.hold(step.holder)
            if step.side not in self._endpoints:
                continue
            group = self._groups[step.side]
            if step.side != loss.winner:
                group.put_away(step, self._there(step.side))
                not_stopped = [
                    one for one in group.endpoints if one.state is None or one.may_change()
                ]
            elif step.side not in self._given_up:  # else the caller does not want it to run
                try:
                    group.bring(step, self._there(step.side))
                except StepFailedError as failure:
                    problems.append(failure.why)
        # It could not be led all the way back, and may run all the same.
        winners = self._endpoints.get(loss.winner, ())
        runs = self._is_alive(loss.winner) is True and all(one.may_change() for one in winners)
        held = any(
            row.winner == loss.winner and was in row.holders and not (row.rolls_back or row.failed)
            for row in self._plans.handovers
        )
        if runs and held:
            states = ", ".join(str(one.state) for one in winners)
            why = f"the {loss.winner} runs, and is left in {states}"
            return self._done(Finished(loss.winner, why, problems, not_stopped))
        return self._done(Finished("lost", why, problems, not_stopped, advice=self._advice()))

    def _why_lost(self, holder: Holder) -> str:
        """Return who of those that held the state does so no more."""
        rows = [row for row in self._plans.handovers if holder in row.holders]
        held = [
            device
            for side in SIDES
            if side not in self._given_up and any(row.winner == side for row in rows)
            for device in self._endpoints.get(side, ())
            if self._served[device] is False
        ]
        unreachable = [device for device in held if device.state is None]
        anew = [device for device in held if device.state is not None]
        held_it = "held the state" if self._asked is None else "is to run"
        parts = [
            f"{names(devices)}: {held_it}, and {what}"
            for devices, what in (
                (unreachable, "cannot be reached any more"),
                (anew, "the server that answers has a blank device"),
            )
            if devices
        ]
        return "; ".join(parts) or "no way back could be followed to its end"

    def _advice(self) -> list[str]:
        """Return where the devices are left once the state is lost, and what to do with them."""
        advice = []
        for device in self._endpoints.get("destination", ()):
            if device.state is None or device.may_change():
                continue
            where = f"is stopped in {device.state}"
            if not is_put_away(device, self._spec):
                # Some servers keep the state through a reset, and refuse every way out of it.
                what = "if it holds nothing that is needed: start its server anew"
                advice.append(f"{device.label}: {where}, and cannot be migrated to there; {what}")
            else:
                if device.label in self._cleared:
                    where += " and is blank"
                elif device in self._loaded:
                    # It may be all there is left of the state: nobody saw the end of it.
                    keep = "recover with --keep destination lets it run all the same"
                    where += f" with what it was given, which need not be all of it: {keep}"
                advice.append(f"{device.label}: {where}; it can be migrated to again")
        if "source" in self._given_up:
            return [*advice, "if the source still holds the state: recover with --keep source"]
        for device in self._endpoints["source"]:
            if device.state is None and device.reached:
                # It has ended the connection: it may be there, and hold the state.
                seen = "see whether its server is still there before another is started"
                advice.append(f"{device.label}: {seen}, for that one has a blank device; {_ANEW}")
            elif device.state is None:
                advice.append(f"start the server of {device.label} anew: it is blank; {_ANEW}")
            elif device.may_change():
                blank = device.label in self._cleared or not self._served[device]
                what = f"and is blank; {_ANEW}" if blank else "with what it held, without the rest"
                advice.append(f"{device.label}: runs {what}")
        return advice

    def _process(self, side: Side, index: int) -> Process | None:
        entry = self._journal.entries[index]
        return entry.source_process if side == "source" else entry.destination_process

    def _owed(self, side: Side, index: int, device: Endpoint) -> bool:
        """Return whether a device may still have to be brought to where it belongs."""
        if device.state is not None:
            return False
        given_up = side in self._given_up or self._is_there(side, index) is False
        return not (self._final and given_up)

    def _done(self, finished: Finished) -> Finished:
        finished.problems = list(dict.fromkeys(finished.problems))  # each row tried may have met it
        owed = [
            device
            for side, group in self._endpoints.items()
            for index, device in enumerate(group)
            if self._owed(side, index, device)
        ]
        if self._final:
            finished.problems += [
                f"{device.label}: not known to be stopped; once it can be reached, recover again"
                for device in owed
            ]
        running = any(device.may_change() for device in finished.not_stopped)
        if not owed and not running and (problem := self._journal.end()):
            finished.problems.append(problem)
        fields = {"outcome": finished.outcome, "why": finished.why, "problems": finished.problems}
        self._report(Event("won", fields))
        return finished


def _answered(error: ClientError | CannotMigrateError) -> bool:
    """Return whether somebody answered, and it was no answer to what was asked."""
    return isinstance(error, RefusedError | PeerProtocolError | CannotMigrateError)
