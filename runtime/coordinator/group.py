"""Follows the plans of `model/group_plan.toml` with the live devices of one side.

What a phase asks of a device is asked of the rows (`applying`), and so is where it leads. Nothing
about a state is known here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from vfio_migration.model import Spec
from vfio_migration.model.plan import MigrationStep, Move, Phase, Plans, applying
from vfio_migration.runtime.client import ClientError, RefusedError, calls
from vfio_migration.runtime.client.core import Pending
from vfio_migration.runtime.coordinator.endpoint import Endpoint, Side
from vfio_migration.runtime.coordinator.errors import CannotMigrateError, StepFailedError
from vfio_migration.runtime.coordinator.events import Event, Report

MAX_TRIES: Final = 3
"""How often a way back is tried: an arc that failed once may be taken the next time."""
RETRY_AFTER_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class _Way:
    """How devices are led.

    Attributes:
        tries: How often a move is tried.
        back: It is a way back: one that is being loaded may refuse to go it, and must if it was not
            loaded whole. That is an answer, and no failure.
        resets: Who refuses is reset.
    """

    tries: int
    back: bool
    resets: bool = False


_ON: Final = _Way(1, back=False)
_BACK: Final = _Way(MAX_TRIES, back=True)
_AWAY: Final = _Way(1, back=True, resets=True)


def check_table(spec: Spec) -> None:
    """See that a table has what every coordinator goes by; raise `CannotMigrateError` if not."""
    if spec.activity("state_change") is None:
        raise CannotMigrateError(
            f'{spec.name}: has no activity with role = "state_change", without which nobody knows '
            "in which states a device is stopped; give it to a row of [[activities]]"
        )


def names(endpoints: Sequence[Endpoint]) -> str:
    """Return labels for a message."""
    return ", ".join(one.label for one in endpoints)


class Group:
    """The devices of one side.

    Args:
        side: Which one.
        endpoints: The devices.
        spec: The table.
        plans: The plans.
        report: Called with each event.
        before_phase: Called with a phase, and who moves where in it, before they do.
    """

    def __init__(
        self,
        side: Side,
        endpoints: Sequence[Endpoint],
        spec: Spec,
        plans: Plans,
        report: Report,
        before_phase: Callable[[Side, Sequence[tuple[Endpoint, Move]]], object] = lambda *_: None,
    ) -> None:
        self.side: Side = side
        self.endpoints = tuple(endpoints)
        self._spec = spec
        self._plans = plans
        self._report = report
        self._before_phase = before_phase

    def take(self, step: MigrationStep, *, among: Sequence[Endpoint] | None = None) -> None:
        """Lead all devices through the phases of a step.

        Args:
            step: The step; it is one of a plan.
            among: Only these devices are there; all by default.

        Raises:
            StepFailedError: A device did not follow. Those that move in the same phase were moved.
        """
        devices = self.endpoints if among is None else among
        for phase in self._plans.phases(step):
            self._phase(step, phase, devices, _ON)

    def bring(self, step: MigrationStep, among: Sequence[Endpoint]) -> None:
        """Do as `take`, on the way back: what fails is tried again. Raises as `take`."""
        for phase in self._plans.phases(step):
            self._phase(step, phase, among, _BACK)

    def put_away(self, step: MigrationStep, among: Sequence[Endpoint]) -> list[Endpoint]:
        """Lead the devices that are not to run through the phases of a step.

        Those that are gone are passed over. One that refuses has its maps taken away, is reset, and
        is asked again: a device without maps reaches nobody. One whose maps cannot be taken away is
        not reset, nor is one that is stopped and may still have to go on with what it holds.

        Returns:
            Those that could not be brought to be stopped.
        """
        left = list(among)
        for phase in self._plans.phases(step):
            try:
                self._phase(step, phase, left, _AWAY)
            except StepFailedError:
                for device in self._moving(phase, left):
                    if device.may_change() or device.transfers() != "read":
                        self._reset_alone(device)
                left = [device for device in left if device.state is not None]
                with contextlib.suppress(StepFailedError):
                    self._phase(step, phase, left, _BACK)
                left = [device for device in left if device.state is not None]
        for device in left:
            with contextlib.suppress(ClientError):  # then its state is not known
                device.look()
        return [device for device in among if device.state is None or device.may_change()]

    def verify(self, among: Sequence[Endpoint]) -> None:
        """See that devices are where they were led: none has ended its session by itself.

        Raises:
            StepFailedError: One of them does not, or does not state where it is.
        """
        for device in among:
            led = device.state
            try:
                state = device.look()
            except ClientError as error:
                raise StepFailedError(str(error), [device.label]) from error
            if state != led:
                raise StepFailedError(
                    f"{device.label}: was led to {led} and is in {state}", [device.label]
                )

    def _reset_alone(self, device: Endpoint) -> None:
        """Reset a device that has no maps any more; one that keeps them is left as it is."""
        before = device.state
        try:
            if self._has_no_maps(device):
                device.client.reset()
                self._report_moved(device, "reset", before, device.look())
        except ClientError as error:
            with contextlib.suppress(ClientError):  # then its state is not known
                device.look()
            fields = {"device": device.label, "from": before, "why": str(error)}
            self._report(Event("failed", {**fields, "now": device.state}))

    def _has_no_maps(self, device: Endpoint) -> bool:
        """Take away all maps of a device; return whether it was done. Raises as `Endpoint.client`.

        Not every server can take all maps at once. They go with the connection, too, if it may be
        ended: then the device may be served by another process, which is led on without a reset.
        """
        try:
            device.client.do(calls.dma_unmap_all())
        except RefusedError as refusal:
            process = device.connect_again()
            if process is None:
                why = f"{refusal}: it keeps its maps, so it is not reset"
                fields = {"device": device.label, "from": device.state, "why": why}
                self._report(Event("failed", {**fields, "now": device.state}))
                return False
            device.look()
            return device.is_served_by(process) is not False
        return True

    # --- inside ---

    def _moving(self, phase: Phase, devices: Sequence[Endpoint]) -> list[Endpoint]:
        return [one for one in devices if one.state and applying(phase, one.machine, one.state)]

    def _phase(
        self, step: MigrationStep, phase: Phase, devices: Sequence[Endpoint], way: _Way
    ) -> None:
        """Move until no move of the phase applies to any device."""
        where = f"plan {step.plan}, phase {phase.name}"
        begun = False
        while True:
            moves: list[tuple[Endpoint, Move]] = []
            for device in devices:
                assert device.state is not None
                move = applying(phase, device.machine, device.state)
                if move is not None:
                    moves.append((device, move))
            if not moves:
                return
            if not begun:
                begun = True
                self._before_phase(self.side, moves)
                fields = {"side": self.side, "plan": step.plan, "phase": phase.name}
                self._report(Event("phase", {**fields, "summary": phase.summary}))
            self._round(where, moves, way)

    def _round(self, where: str, moves: Sequence[tuple[Endpoint, Move]], way: _Way) -> None:
        """Make one move with each device, all at a time."""
        failures: list[tuple[Endpoint, str]] = []
        under_way: list[tuple[Endpoint, Move, Pending[None]]] = []
        for device, move in moves:
            try:
                under_way.append((device, move, self._begin(device, move)))
            except ClientError as error:
                self._failed(device, move, error, failures, way)
        for device, move, pending in under_way:
            try:
                device.client.finish(pending)
            except ClientError as error:
                self._failed(device, move, error, failures, way)
            else:
                before, device.state = device.state, self._leads(move)
                self._report_moved(
                    device, "SET_STATE" if move.to else "reset", before, device.state
                )
        if not failures:
            return
        if way.tries > 1 and all(device.state is not None for device, _ in failures):
            time.sleep(RETRY_AFTER_S)
            again = {id(device) for device, _ in failures}
            left = [row for row in moves if id(row[0]) in again]
            self._round(where, left, replace(way, tries=way.tries - 1))
            return
        raise StepFailedError(
            f"{where}: " + "; ".join(why for _, why in failures),
            [device.label for device, _ in failures],
        )

    def _leads(self, move: Move) -> str | None:
        return self._spec.event("reset").to if move.to is None else move.to

    def _begin(self, device: Endpoint, move: Move) -> Pending[None]:
        if move.to is None:
            return device.client.begin(calls.reset())
        return device.client.moving(move.to)

    def _failed(
        self,
        device: Endpoint,
        move: Move,
        error: ClientError,
        failures: list[tuple[Endpoint, str]],
        way: _Way,
    ) -> None:
        """Take note of what a device did not do, and see where it is now."""
        before, why = device.state, str(error)
        device.state = None
        if isinstance(error, RefusedError):
            what = error.command if move.to is None else f"SET_STATE {move.to}"
            why = f"{device.label}: {what} is refused ({error.reason})"
            with contextlib.suppress(ClientError):
                why = f"{why}; it is in {device.look()} now"
        fields = {"device": device.label, "from": before, "why": why, "now": device.state}
        if way.back and device.transfers() == "write":
            self._report(Event("refuses", {**fields, "reset": way.resets}))
        else:
            self._report(Event("failed", fields))
        failures.append((device, why))

    def _report_moved(
        self, device: Endpoint, how: str, before: str | None, after: str | None
    ) -> None:
        fields = {"device": device.label, "side": self.side, "how": how}
        self._report(Event("moved", {**fields, "from": before, "to": after}))
