"""Work that a device does later, as far as its state permits.

A timer counts down only while what it needs is permitted; otherwise it is frozen with the time it
had left. So work that was under way when a device was stopped is neither done nor lost: it goes on
when the device does, or when the device does that took over its state (`waiting` and `restore`).

What is asked for a permission may raise, as the work may. It is asked at every arc and by anybody
who wants to know the next deadline, none of whom has anything to do with the work: the error is
    kept
until the work is done, which is at once, and ends it as if the work itself had raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

Permission = Callable[[], bool]


Mark = TypeVar("Mark")
"""What anybody who puts work off knows it by."""


@dataclass(slots=True, eq=False)
class Timer(Generic[Mark]):
    """One piece of work.

    Attributes:
        left: Seconds left when it was last looked at.
        since: When that was, or None while it is frozen.
        needs: Says whether it may count down, and be done, now.
        work: What is done.
        mark: What it is known by.
        fault: What `needs` has raised.
    """

    left: float
    since: float | None
    needs: Permission
    work: Callable[[], object]
    mark: Mark
    fault: Exception | None = None


class Timers(Generic[Mark]):
    """All work of a device that is to be done later.

    Args:
        clock: Returns the time in seconds.
        weigh: Says how much a piece of work counts for in `weight`.

    Attributes:
        weight: What all of them count for together.
    """

    def __init__(self, clock: Callable[[], float], weigh: Callable[[Mark], int]) -> None:
        self.weight = 0
        self._clock = clock
        self._weigh = weigh
        self._timers: list[Timer[Mark]] = []

    def __len__(self) -> int:
        return len(self._timers)

    def __iter__(self) -> Iterator[Timer[Mark]]:
        return iter(self._timers)

    def add(
        self, delay: float, work: Callable[[], object], needs: Permission, mark: Mark
    ) -> Timer[Mark]:
        """Do `work` once `delay` seconds have passed during which `needs` was true."""
        timer = Timer(delay, self._clock() if needs() else None, needs, work, mark)
        self._append(timer)
        return timer

    def restore(
        self, left: float, work: Callable[[], object], needs: Permission, mark: Mark
    ) -> None:
        """Add one that was `waiting` elsewhere; `needs` is not asked before the next `update`."""
        self._append(Timer(left, None, needs, work, mark))

    def waiting(self) -> list[tuple[float, Mark]]:
        """Return what is left of each, in the order in which they were put off."""
        self.update()
        now = self._clock()
        return [(_left(timer, now), timer.mark) for timer in self._timers]

    def cancel(self, timer: Timer[Mark]) -> None:
        """Forget one; nothing happens if it is done or cancelled."""
        if timer in self._timers:
            self._remove(timer)

    def cancel_all(self) -> None:
        """Forget all."""
        self._timers.clear()
        self.weight = 0

    def _append(self, timer: Timer[Mark]) -> None:
        self._timers.append(timer)
        self.weight += self._weigh(timer.mark)

    def _remove(self, timer: Timer[Mark]) -> None:
        self._timers.remove(timer)
        self.weight -= self._weigh(timer.mark)

    def update(self) -> None:
        """Freeze and thaw: what is permitted may have changed."""
        if not self._timers:
            return
        now = self._clock()
        for timer in self._timers:
            permitted = _permits(timer)
            if timer.since is not None and not permitted:
                timer.left = _left(timer, now)
                timer.since = None
            elif timer.since is None and permitted:
                timer.since = now

    def deadline(self) -> float | None:
        """Return when the next is due, or None."""
        if not self._timers:
            return None  # as most of the time, and this is asked for each command
        self.update()
        due = [timer.since + timer.left for timer in self._timers if timer.since is not None]
        return min(due, default=None)

    def run(self) -> None:
        """Do what is due, in order; what this puts off to no later is done at the next call.

        Whatever the work raises, or what it needs has raised, ends it and goes on to the caller.
        """
        self.update()
        now = self._clock()
        due = [
            (timer.since + timer.left, timer)
            for timer in self._timers
            if timer.since is not None and timer.since + timer.left <= now
        ]
        for _, timer in sorted(due, key=lambda item: item[0]):
            # What was done before it may have cancelled it, or have changed what is permitted.
            if timer in self._timers and _permits(timer):
                self._remove(timer)
                if timer.fault is not None:
                    raise timer.fault
                timer.work()


def _left(timer: Timer[Mark], now: float) -> float:
    return timer.left if timer.since is None else max(0.0, timer.left - (now - timer.since))


def _permits(timer: Timer[Mark]) -> bool:
    """Return whether a timer may count down; one for which that is not known is due at once."""
    if timer.fault is None:
        try:
            return timer.needs()
        except Exception as fault:  # noqa: BLE001 - `run` raises it
            timer.fault = fault
    timer.left = 0.0
    return True
